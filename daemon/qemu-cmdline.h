/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a QEMU command line says: name, UUID, monitors, whether its memory was to come from elsewhere,
 * and whether it is a guest at all.
 *
 * Pure: the text is that of /proc/PID/cmdline, arguments that each end in NUL, and whoever started
 * the process wrote it (the process itself can rewrite it, too). A name or UUID from here
 * identifies nobody; it is what the guest calls itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* libvirt's command lines have some 20 KiB. */
#define QEMU_CMDLINE_MAX_BYTES (256U << 10)
#define QEMU_MONITORS_MAX      4U
#define QEMU_PATH_BYTES	       108U /* sun_path */

/* Is this the base name of a program that runs guests (qemu-system-*, qemu-kvm, kvm)? */
bool qemu_is_program(const char *exe);

struct qemu_cmdline {
	char name[256]; /* -name guest=..., printable bytes only; "" when not given */
	char uuid[37];	/* -uuid, lower case; "" when not given or not a UUID */
	/* Where QMP monitors listen on a Unix socket, as the guest sees the path. libvirt's own
	 * monitor is not among them: it is handed over as a descriptor. */
	char monitors[QEMU_MONITORS_MAX][QEMU_PATH_BYTES];
	size_t n_monitors;
	uint32_t devices; /* enum libvirt_flag of what was given as -device, -object, -global and -set */
	bool incoming; /* -incoming: it was started to take in a migration or a saved state */
};

/* 0; -ENOMSG when a QEMU called like this runs no guest (help, version, machine none, which is how
 * libvirt asks for its capabilities); -EINVAL when it is no list of arguments. ret_reason says
 * which in a few words, and points to a constant. */
int qemu_parse_cmdline(const char *buf, size_t len, struct qemu_cmdline *ret,
		       const char **ret_reason);

/* enum libvirt_flag of a QEMU device or object of this type, or 0. */
uint32_t qemu_device_flags(const char *type);

/*
 * The value of a key in an option like "chardev=mon0,mode=control" or its JSON form, as QEMU
 * reads it: ",," stands for a comma, "key" alone means "on", a first word without '=' belongs
 * to the key `implied` (NULL: none), the last one of several wins. False when it is not there
 * or does not fit into size bytes.
 */
bool qemu_option_get(const char *option, const char *implied, const char *key, char *ret,
		     size_t size);
