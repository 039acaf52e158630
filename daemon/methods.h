/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The methods of io.memshared (conf/io.memshared.varlink), on the manager. Their userdata is
 * the struct manager. Owned by the loop.
 */
#pragma once

#include <stddef.h>

#include "daemon/config.h"
#include "daemon/control.h"

const struct control_method *methods_table(size_t *ret_n);

/* Estimate has a file of its own. */
int methods_estimate(struct control_call *call, json_t *parameters, void *userdata);

/* How Reload() reads the configuration again: main's business. */
typedef int reload_fn(void *userdata, char ret_error[CONFIG_ERROR_MAX]);
void methods_set_reload(reload_fn *fn, void *userdata);
