#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""memsharectl and hostile clients against the control server, with guests made up."""
import contextlib
import fcntl
import json
import os
import pty
import resource
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import termios
import time

import tap

BUILD = os.environ.get("MEMSHARED_BUILDDIR", ".")
CLIENT = os.path.join(BUILD, "memsharectl")


class Server(contextlib.ExitStack):
    """A control server with a socket of its own."""

    def __enter__(self):
        super().__enter__()
        if os.geteuid():
            raise tap.Skip("needs root, as whom alone most methods may be called")
        self.directory = tempfile.mkdtemp(prefix="memshared-control-")
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        os.chmod(self.directory, 0o755)
        self.socket = os.path.join(self.directory, "control")
        program = os.path.join(BUILD, "tests/integration/control-server")
        self.process = subprocess.Popen([program, self.socket], stdout=subprocess.PIPE)
        self.callback(self._stop)
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def _stop(self):
        self.process.terminate()
        status = self.process.wait(20)
        self.process.stdout.close()
        assert status == 0, "the server ended with status %d" % status

    def run(self, *words, **options):
        return subprocess.run([CLIENT, "--socket", self.socket, *words], stdin=subprocess.DEVNULL,
                              stdout=options.pop("stdout", subprocess.PIPE),
                              stderr=subprocess.PIPE, text=True, check=False, timeout=60,
                              **options)

    def connect(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.callback(s.close)
        s.settimeout(30)
        s.connect(self.socket)
        return s

    def works(self):
        """The server still answers."""
        done = self.run("status")
        assert done.returncode == 0, done.stderr

    def rss(self):
        with open("/proc/%d/statm" % self.process.pid, encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()


def fails(done, status, *fragments):
    """It failed with this status and one line that says all of these."""
    assert done.returncode == status, (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("memsharectl: "), done.stderr
    for fragment in fragments:
        assert fragment in done.stderr, done.stderr


def hangs_up(s):
    """Reads until the server closes; what it said."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while data := s.recv(65536):
            said += data
    return said


@tap.test("every command prints a table, and JSON with --json", limit=60)
def commands(server):
    for words, shown in [(["status"], "memshared 0.1.0: working, up 2 min 3 s"),
                         (["guests"], "web1"), (["guests", "11"], "pc.ram"), (["guests", "web1"], "pc.ram"),
                         (["enroll", "11", "12"], "enrolled 11 (web1): domain self, engine ksm"),
                         (["enroll", "web1"], "enrolled 11 (web1)"),
                         (["estimate"], "Sharing would save"),
                         (["estimate", "--group", "a=11,12"], "39.1 MiB")]:
        done = server.run(*words)
        assert done.returncode == 0 and not done.stderr, (words, done.stderr)
        assert shown in done.stdout, (words, done.stdout)
        done = server.run("--json", *words)
        assert done.returncode == 0 and not done.stderr, (words, done.stderr)
        json.loads(done.stdout)
    assert [g["pid"] for g in json.loads(server.run("guests", "12", "-j").stdout)["guests"]] == [12]
    assert json.loads(server.run("-j", "estimate").stdout)["groups"][0]["saved_pages"] == 15000


@tap.test("names can't reach the terminal unfiltered", limit=60)
def names(server):
    for locale in ("C", "C.UTF-8"):
        for words in (["guests"], ["guests", "12"], ["estimate"], ["enroll", "12"]):
            done = server.run(*words, env={**os.environ, "LC_ALL": locale})
            assert "evil?[2J??" in done.stdout, done.stdout
            assert all(c == "\n" or c.isprintable() for c in done.stdout), repr(done.stdout)


@tap.test("each failure is one line with its cause and an exit status of its own", limit=60)
def failures(server):
    fails(server.run("enroll", "99"), 1, "there is no process 99")
    fails(server.run("enroll", "13"), 1, "13 forbids sharing (remove <nosharepages/>)")
    fails(server.run("guests", "99"), 1, "no guest has pid 99")
    fails(server.run("estimate", "99"), 1, "there is no process 99")
    # What could be read is shown, and the status says that it is not all.
    for words in (["estimate", "11", "13"], ["estimate", "--group", "a=12,13"],
                  ["-j", "estimate", "13"]):
        done = server.run(*words)
        assert done.returncode == 1, done
        assert '"pairs"' in done.stdout or "ACROSS" in done.stdout, done
        assert done.stderr == "memsharectl: 13 is left out: it burns\n", done
    fails(server.run("reload"), 1, "memshared.conf:7: unknown key")
    fails(server.run("unenroll", "11"), 1, "does not know Unenroll")
    fails(server.run("nonsense"), 2, '"nonsense"')
    fails(server.run(), 2, "no command")
    fails(server.run("enroll"), 2, "usage: memsharectl enroll")
    fails(server.run("enroll", "1x"), 1, 'no guest is called "1x"')
    fails(server.run("enroll", "99999999999"), 2, "not a process id")
    fails(server.run("guests", ""), 1, "no guest is called")
    fails(server.run("policy", "11"), 1, "does not know Policy")
    fails(server.run("status", "--persist"), 2, "--persist is for enroll and unenroll")
    fails(server.run("enroll", "0"), 2, "not a process id")
    fails(server.run("status", "1"), 2, "usage: memsharectl status")
    fails(server.run("status", "--group", "a=1"), 2, "--group is for estimate")
    fails(server.run("reload", "--domain", "a"), 2, "--domain is for enroll")
    fails(server.run("estimate", "12", "12"), 2, "12 is named twice")
    fails(server.run("estimate", "--group", "a=11,12,11"), 2, "11 is named twice")
    fails(server.run("estimate", "--group", "a"), 2, "NAME=PID")
    fails(server.run("estimate", "--group", "a=x"), 2, "not a process id")
    assert server.run("--nonsense").returncode == 2
    with open("/dev/full", "w", encoding="ascii") as full:
        fails(server.run("guests", stdout=full), 1, "No space left")
    # One of several fails: the others are done, and the status says that one did not.
    done = server.run("enroll", "11", "99", "12")
    assert done.returncode == 1 and done.stdout.count("enrolled") == 2, done


@tap.test("without a daemon the line names the socket and the remedy", limit=60)
def unreachable(server):
    server.socket += "-none"
    fails(server.run("status"), 3, server.socket, "systemctl start memshared")
    server.socket = "/" + 200 * "x"
    fails(server.run("status"), 2, "too long")


@tap.test("another user may look, and no more", limit=60)
def other_user(server):
    if not shutil.which("setpriv"):
        raise tap.Skip("needs setpriv")
    client = os.path.join(server.directory, "memsharectl")
    shutil.copy(CLIENT, client)

    def run(*words):
        return subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", client, "--socket",
                               server.socket, *words], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=60)
    assert run("status").returncode == 0
    assert run("guests").returncode == 0
    fails(run("enroll", "11"), 1, "only root may call Enroll")
    os.chmod(server.socket, 0o600)
    fails(run("status"), 3, "no permission", server.socket)


def on_terminal(server, columns, *words):
    """What the client says to a terminal of so many columns."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([CLIENT, "--socket", server.socket, *words], stdin=other,
                               stdout=other, stderr=other)
    os.close(other)
    said, deadline = b"", time.monotonic() + 30
    with contextlib.suppress(OSError):
        while select.select([main], [], [], deadline - time.monotonic())[0]:
            data = os.read(main, 65536)
            if not data:
                break
            said += data
    os.close(main)
    assert process.wait(30) == 0
    return said.decode()


@tap.test("a terminal gets a progress bar and lines that fit, a pipe neither", limit=60)
def terminal(server):
    text = on_terminal(server, 80, "estimate")
    assert "\rreading [" in text and "\r\033[K" in text, repr(text)
    done = server.run("estimate")
    assert text.rpartition("\033[K")[2].splitlines() == done.stdout.splitlines()
    assert not done.stderr
    lines = on_terminal(server, 110, "guests").splitlines()
    assert max(map(len, lines)) == 110 and lines[3].endswith("..."), lines
    assert "its last word." in server.run("guests").stdout


@tap.test("a server that answers nonsense gives one clear line", limit=60)
def hostile_server(server):
    path = os.path.join(server.directory, "fake")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as fake:
        fake.bind(path)
        fake.listen()
        server.socket = path
        for answer, fragment in [(b"", "without an answer"), (b"x\0", "can't be read"),
                                 (b"{}\0", "version is missing"), (b'{"error":5}\0', "can't be read"),
                                 (b'{"parameters":{"version":5}}\0', "version has the wrong type"),
                                 (b'{"error":"a.b.C","parameters":{"message":"\\u001b[2J"}}\0',
                                  "?[2J")]:
            process = subprocess.Popen([CLIENT, "--socket", path, "status"], text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            connection = fake.accept()[0]
            connection.recv(65536)
            connection.sendall(answer)
            connection.close()
            out, err = process.communicate(timeout=30)
            fails(subprocess.CompletedProcess([], process.returncode, out, err), 1, fragment)


@tap.test("a thousand connections leave the server answering, and no memory behind", limit=120)
def thousand_connections(server):
    before = server.rss()
    for _ in range(5):
        crowd = [server.connect() for _ in range(200)]
        turned_away = sum(b"io.memshared.Busy" in hangs_up(s) for s in crowd[64:])
        assert turned_away == len(crowd) - 64, turned_away
        fails(server.run("status"), 1, "too many clients")
        for s in crowd:
            s.close()
        deadline = time.monotonic() + 30
        while server.run("status").returncode:
            assert time.monotonic() < deadline
    assert server.rss() - before < 8 << 20


@tap.test("clients that send without reading are held up, alone", limit=120)
def never_reading(server):
    call = b'{"method":"io.memshared.Guests"}\0' * 1000
    crowd = [server.connect() for _ in range(40)]
    for s in crowd:
        s.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                s.send(call)
    server.works()
    assert server.rss() < 100 << 20, server.rss()


@tap.test("garbage, oversize, NUL storms and half calls cost only their sender", limit=120)
def garbage(server):
    for junk in [b"\0" * 100000, b"x" * (2 << 20), b"\xff\0", b"[" * 100000 + b"\0", b"{}\0",
                 b'{"method":"io.memshared.Status"}\n\0' + b"\0",
                 b'{"method":"io.memshared.Status","parameters":{"x":' + b"[" * 3000 + b"\0"]:
        s = server.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(junk)
        hangs_up(s)
    halves = [server.connect() for _ in range(30)]
    for s in halves:
        s.sendall(b'{"method":')
    server.works()
    for s in halves:
        s.close()
    # A call kept when its client goes: the work is cancelled and the server lives.
    for _ in range(50):
        s = server.connect()
        s.sendall(b'{"method":"io.memshared.Estimate","more":true}\0')
        s.close()
    server.works()


if __name__ == "__main__":
    tap.main(Server)
