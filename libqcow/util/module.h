/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Libraries that few calls need (libnbd, json-glib) are linked into modules and loaded at their first
 * use: linking them costs every command 1 to 3 ms at its start.
 */
#ifndef QCOW2_UTIL_MODULE_H
#define QCOW2_UTIL_MODULE_H

#include "libqcow2.h"

/**
 * qcow2_module_symbol:
 * @module: "nbd" or "json": the file libqcow2-MODULE.so beside the library, or in its module folder
 *
 * Returns: the address of @symbol; the module stays loaded. NULL with an error that names the file.
 */
void *qcow2_module_symbol(const char *module, const char *symbol, GError **error);

#endif
