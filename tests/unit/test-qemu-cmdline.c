/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/qemu-cmdline.h"

#include "daemon/libvirt-xml.h"
#include "tests/unit/unit.h"

static void programs(void **state _unused_)
{
	assert_true(qemu_is_program("qemu-system-x86_64"));
	assert_true(qemu_is_program("qemu-system-aarch64"));
	assert_true(qemu_is_program("qemu-kvm"));
	assert_true(qemu_is_program("kvm"));
	assert_true(qemu_is_program(".qemu-system-x86_64-wrapped"));
	assert_false(qemu_is_program("qemu-x86_64"));
	assert_false(qemu_is_program("qemu-img"));
	assert_false(qemu_is_program("kvm-nx-lpage-re"));
	assert_false(qemu_is_program("bash"));
	assert_false(qemu_is_program(""));
}

static void get_is(const char *option, const char *implied, const char *key, const char *expected)
{
	char value[16];
	bool found = qemu_option_get(option, implied, key, value, sizeof(value));

	assert_int_equal(found, expected != NULL);
	if (expected)
		assert_string_equal(value, expected);
}

static void options(void **state _unused_)
{
	get_is("guest=a,debug-threads=on", "guest", "guest", "a");
	get_is("a,debug-threads=on", "guest", "guest", "a");
	get_is("a,debug-threads=on", NULL, "guest", NULL);
	get_is("a", NULL, "a", "on");
	get_is("debug-threads=on,guest=a", "guest", "guest", "a");
	get_is("guest=a,guest=b", "guest", "guest", "b");
	get_is("guest=a,,b,x=1", "guest", "guest", "a,b");
	get_is("a,,guest=b", "x", "guest", NULL);
	get_is("x,,guest=b,y", "x", "guest", NULL);
	get_is("a,server,path=/x", "backend", "server", "on");
	get_is("a,server=off,path=/x=y", "backend", "path", "/x=y");
	get_is("guestx=a", "guest", "guest", NULL);
	get_is("gues=a", "guest", "guest", NULL);
	get_is("", "guest", "guest", "");
	get_is(",,", "guest", "guest", ",");
	get_is("guest=", "guest", "guest", "");
	get_is("guest=0123456789abcde", NULL, "guest", "0123456789abcde");
	get_is("guest=0123456789abcdef", NULL, "guest", NULL);
	get_is("{\"chardev\": \"m\", \"pretty\": true}", "x", "chardev", "m");
	get_is("{\"chardev\": \"m\", \"pretty\": true}", "x", "pretty", "on");
	get_is("{\"chardev\": 5}", "x", "chardev", NULL);
	get_is("{\"chardev\": \"0123456789abcdef\"}", "x", "chardev", NULL);
	get_is("{", "x", "chardev", NULL);
}

/* The arguments, separated by '|' here. */
static int parse(const char *text, struct qemu_cmdline *ret)
{
	const char *reason = NULL;
	char buf[1024];
	size_t len = strlen(text) + 1;
	int r;

	assert_true(len <= sizeof(buf));
	memcpy(buf, text, len);
	for (size_t i = 0; i < len; i++)
		if (buf[i] == '|')
			buf[i] = '\0';
	r = qemu_parse_cmdline(buf, len, ret, &reason);
	assert_int_equal(r < 0, reason != NULL);
	return r;
}

static void names(void **state _unused_)
{
	struct qemu_cmdline c;

	assert_int_equal(parse("qemu|-name|guest=web1,debug-threads=on|-S|-uuid|"
			       "C7A5FDBD-edaf-9455-926a-d65c16db1809",
			       &c),
			 0);
	assert_string_equal(c.name, "web1");
	assert_string_equal(c.uuid, "c7a5fdbd-edaf-9455-926a-d65c16db1809");
	assert_int_equal(parse("qemu|--name|a\x1b[2Jb", &c), 0);
	assert_string_equal(c.name, "a?[2Jb");
	assert_string_equal(c.uuid, "");
	assert_int_equal(parse("qemu", &c), 0);
	assert_string_equal(c.name, "");
	assert_int_equal(parse("qemu|disk.img|-uuid|nonsense|-name", &c), 0);
	assert_string_equal(c.uuid, "");
	assert_string_equal(c.name, "");
	/* A kernel's command line is no option of ours. */
	assert_false(c.incoming);
	assert_int_equal(parse("qemu|-append|-incoming|-S", &c), 0);
	assert_false(c.incoming);
	assert_int_equal(parse("qemu|-incoming|-name|-uuid|x", &c), 0);
	assert_true(c.incoming && !*c.name);
	assert_int_equal(parse("qemu|-append|-name|-name|a", &c), 0);
	assert_string_equal(c.name, "a");
	/* Not the program's name either. */
	assert_int_equal(parse("-version|-name|a", &c), 0);
	assert_string_equal(c.name, "a");
}

static void monitors(void **state _unused_)
{
	struct qemu_cmdline c;

	assert_int_equal(parse("qemu|-qmp|unix:/run/a,,b.sock,server=on,wait=off|"
			       "-qmp|tcp:localhost:4444,server=on|-qmp-pretty|unix:q,server,nowait|"
			       "-qmp|unix:/run/client.sock|-qmp|unix:/x,server=off|-qmp|stdio",
			       &c),
			 0);
	assert_int_equal(c.n_monitors, 2);
	assert_string_equal(c.monitors[0], "/run/a,b.sock");
	assert_string_equal(c.monitors[1], "q");

	/* In any order; a human monitor and libvirt's descriptor are of no use. */
	assert_int_equal(parse("qemu|-mon|chardev=m,id=monitor,mode=control|"
			       "-chardev|socket,id=h,path=/run/h,server=on|-mon|h,mode=readline|"
			       "-chardev|socket,id=m,path=/run/m,server=on,wait=off|"
			       "-chardev|socket,id=l,fd=34,server=on|-mon|l,mode=control|"
			       "-chardev|pty,id=p,path=/run/p,server=on|-mon|p,mode=control|"
			       "-chardev|socket,id=z,path=/z,server=on,abstract=on|-mon|z,mode=control|"
			       "-mon|{\"chardev\":\"h\",\"mode\":\"control\"}",
			       &c),
			 0);
	assert_int_equal(c.n_monitors, 2);
	assert_string_equal(c.monitors[0], "/run/m");
	assert_string_equal(c.monitors[1], "/run/h");

	assert_int_equal(parse("qemu|-qmp|unix:1,server|-qmp|unix:2,server|-qmp|unix:3,server|"
			       "-qmp|unix:4,server|-qmp|unix:5,server",
			       &c),
			 0);
	assert_int_equal(c.n_monitors, QEMU_MONITORS_MAX);
}

static uint32_t devices_of(const char *text)
{
	struct qemu_cmdline c;

	assert_int_equal(parse(text, &c), 0);
	return c.devices;
}

static void devices(void **state _unused_)
{
	static const char *const reporting[] = {
		"qemu|-device|virtio-balloon-pci,id=b,free-page-reporting=on",
		"qemu|-device|virtio-balloon-pci,id=b,free-page-reporting=yes",
		"qemu|-device|virtio-balloon-pci,id=b,free-page-reporting=true",
		"qemu|-device|virtio-balloon-pci,free-page-reporting=y,id=b",
		"qemu|-device|virtio-balloon-pci,free-page-reporting",
		"qemu|--device|driver=virtio-balloon,free-page-reporting=on",
		"qemu|-device|{\"driver\":\"virtio-balloon-pci\",\"free-page-reporting\":true}",
		"qemu|-device|{ \"driver\" : \"virtio-balloon-pci\", \"free-page-reporting\" : true }",
		"qemu|-global|virtio-balloon-device.free-page-reporting=on|-device|virtio-balloon-pci",
		"qemu|-global|driver=virtio-balloon-pci,property=free-page-reporting,value=true",
		"qemu|-set|device.b.free-page-reporting=on",
	};
	static const char *const harmless[] = {
		"qemu|-m|64",
		"qemu|-device|virtio-balloon-pci,id=b,free-page-reporting=off",
		"qemu|-device|virtio-balloon-pci,id=b,free-page-reporting=no",
		"qemu|-device|{\"driver\": \"virtio-balloon-pci\", \"free-page-reporting\": false}",
		"qemu|-global|virtio-balloon-pci.free-page-reporting=off",
		"qemu|-device|virtio-blk-pci,drive=d,serial=virtio-mem",
		"qemu|-name|virtio-mem-pci|-append|-device virtio-mem-pci",
		"qemu|-device|vhost-user-scsi-pci,chardev=c",
		"qemu|-device|vhost-vsock-pci,guest-cid=3",
		"qemu|-device",
	};

	for (size_t i = 0; i < ARRAY_SIZE(reporting); i++)
		if (devices_of(reporting[i]) % LIBVIRT_FLAGS_END != LIBVIRT_PAGE_REPORTING)
			fail_msg("%s", reporting[i]);
	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		if (devices_of(harmless[i]) % LIBVIRT_FLAGS_END != 0)
			fail_msg("%s", harmless[i]);
	assert_int_equal(devices_of(harmless[0]), 0);
	assert_int_equal(devices_of(harmless[1]), LIBVIRT_HAS_BALLOON);
	assert_int_equal(devices_of(harmless[3]), LIBVIRT_HAS_BALLOON);
	assert_int_equal(devices_of("qemu|-device|virtio-mem-pci,id=m,memdev=x"), LIBVIRT_VIRTIO_MEM);
	assert_int_equal(devices_of("qemu|-device|{\"driver\": \"virtio-mem-pci\"}"), LIBVIRT_VIRTIO_MEM);
	assert_int_equal(devices_of("qemu|-device|hv-balloon,id=b"), LIBVIRT_VIRTIO_MEM);
	assert_int_equal(devices_of("qemu|-device|vfio-pci,host=01:00.0"), LIBVIRT_VFIO);
	assert_int_equal(devices_of("qemu|-device|vhost-scsi-pci,wwpn=naa.1"), LIBVIRT_VHOST_SCSI);
	assert_int_equal(devices_of("qemu|-object|sev-guest,id=s"), LIBVIRT_SECURE);
	assert_int_equal(devices_of("qemu|-object|{\"qom-type\":\"sev-snp-guest\"}|-object|id=t,qom-type=tdx-guest"),
			 LIBVIRT_SECURE);
}

static void no_guests(void **state _unused_)
{
	struct qemu_cmdline c = { .name = "old" };
	const char *reason;

	assert_int_equal(parse("qemu|-version", &c), -ENOMSG);
	assert_int_equal(parse("qemu|-m|64|--help", &c), -ENOMSG);
	assert_int_equal(parse("qemu|-S|-machine|none,accel=kvm:tcg|-daemonize", &c), -ENOMSG);
	assert_int_equal(parse("qemu|-M|none", &c), -ENOMSG);
	assert_int_equal(parse("qemu|-M|accel=tcg,type=none", &c), -ENOMSG);
	assert_int_equal(qemu_parse_cmdline("", 0, &c, &reason), -EINVAL);
	assert_int_equal(qemu_parse_cmdline("qemu", 4, &c, &reason), -EINVAL);
	assert_string_equal(c.name, "old");
	assert_int_equal(parse("qemu|-machine|pc,accel=tcg|-name|n", &c), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(programs), cmocka_unit_test(options),	 cmocka_unit_test(names),
		cmocka_unit_test(monitors), cmocka_unit_test(no_guests),
		cmocka_unit_test(devices),
	};

	return cmocka_run_group_tests_name("qemu-cmdline", tests, NULL, NULL);
}
