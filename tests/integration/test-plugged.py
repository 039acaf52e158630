#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is plugged into enrolled guests that no libvirt knows, and forbids engine remap: they leave, with the
reason in their status, and come back when it is gone."""
import os
import shutil
import subprocess

import harness
import remapping


def pair(host):
    guests = remapping.boot(host, ["test-%d" % i for i in range(2)])
    daemon = remapping.start(host)
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    remapping.merged(host, daemon)
    return daemon, guests


def leaves(host, daemon, guest, because):
    """It gets everything back, and its status says why."""
    def is_out():
        g = daemon.guest(guest)
        return g["state"] == "ready" and because in g["reason"] and g
    g = host.wait(is_out, 120, "guest %s leaves: %s" % (guest.name, because))
    assert any(because in r for r in g["refusals"]), g
    assert not remapping.ours(guest), remapping.ours(guest)[:3]
    guest.check()


def comes_back(host, daemon, guest):
    host.wait(lambda: daemon.guest(guest)["state"] == "enrolled", 120, "guest %s comes back" % guest.name)
    guest.check()


def plug_file(guest, name, path, direct):
    guest.qmp.call("blockdev-add", **{"driver": "file", "filename": path, "node-name": name,
                                      "cache": {"direct": direct}})


def fuse_export(host):
    """A file on a file system that is no local one, whose server ends with the test; its path."""
    if not os.path.exists("/dev/fuse") or not shutil.which("qemu-storage-daemon"):
        raise harness.Skip("no FUSE here, or no qemu-storage-daemon")
    image, path = (os.path.join(host.directory, n) for n in ("disk.img", "disk"))
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    with open(path, "wb"):
        pass
    server = subprocess.Popen(  # pylint: disable=consider-using-with
        ["qemu-storage-daemon", "--blockdev", "driver=file,filename=%s,node-name=f" % image, "--export",
         "type=fuse,id=e,node-name=f,mountpoint=%s,writable=on,allow-other=on" % path],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def end():
        subprocess.run(["umount", path], check=False, stderr=subprocess.DEVNULL)
        server.kill()
        server.wait()
    host.callback(end)

    def is_there():
        if server.poll() is not None:
            raise harness.Skip("no export by FUSE: " + server.stderr.read().strip())
        return os.path.ismount(path)
    host.wait(is_there, 30, "the file is exported")
    os.chmod(path, 0o666)
    return path


@harness.test("a disk with cache=none on a network file system is plugged in and out")
def disk(host):
    path = fuse_export(host)
    daemon, (one, two) = pair(host)
    plug_file(one, "cached", path, direct=False)
    plug_file(two, "direct", path, direct=True)
    leaves(host, daemon, two, "network file system")
    # Through the page cache it does no harm.
    assert daemon.guest(one)["state"] == "enrolled"
    two.qmp.call("blockdev-del", **{"node-name": "direct"})
    comes_back(host, daemon, two)
    remapping.merged(host, daemon)
    one.qmp.call("blockdev-del", **{"node-name": "cached"})
    remapping.leave(daemon, [one, two])


@harness.test("so is what is called like a vhost device")
def vhost(host):
    # There is hardly a host on which one could be had: a file called so must do.
    path = os.path.join(host.directory, "dev", "vhost-scsi")
    os.mkdir(os.path.dirname(path), 0o755)
    with open(path, "wb") as file:
        file.truncate(1 << 20)
        os.chmod(path, 0o666)
    daemon, (one, two) = pair(host)
    plug_file(two, "vhost", path, direct=False)
    leaves(host, daemon, two, "vhost-scsi")
    assert daemon.guest(one)["state"] == "enrolled"
    two.qmp.call("blockdev-del", **{"node-name": "vhost"})
    comes_back(host, daemon, two)


@harness.test("a balloon that reports free pages, and virtio-mem, are plugged in: monitors say so")
def monitors(host):
    where, guests = os.path.join(host.directory, "monitors"), []
    os.mkdir(where, 0o755)
    os.chown(where, remapping.NOBODY, remapping.NOBODY)
    for name, options in (("test-0", {"balloon": False}), ("test-1", {"balloon": False}),
                          ("test-2", {"slots": ",slots=1,maxmem=1G", "memory_mib": 176})):
        arguments = ["-qmp", "unix:%s/%s,server=on,wait=off" % (where, name)]
        guests += remapping.boot(host, [name], arguments=arguments, **options)
    zero, one, two = guests
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, guests)
    remapping.merged(host, daemon)
    zero.qmp.call("device_add", driver="virtio-balloon-pci", id="quiet")
    one.qmp.call("device_add", **{"driver": "virtio-balloon-pci", "free-page-reporting": True})
    two.qmp.call("object-add", **{"qom-type": "memory-backend-ram", "id": "more", "size": 64 << 20})
    two.qmp.call("device_add", driver="virtio-mem-pci", id="plugged", memdev="more")
    leaves(host, daemon, two, "virtio-mem")
    leaves(host, daemon, one, "free page reporting")
    assert daemon.guest(zero)["state"] == "enrolled", daemon.guest(zero)


if __name__ == "__main__":
    harness.main()
