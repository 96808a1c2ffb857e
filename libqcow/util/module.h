/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A library that few calls need is linked into a module and loaded at its first use: linking libnbd costs
 * every command 2 ms at its start, the libraries for compression 0.25 ms.
 */
#ifndef QCOW2_UTIL_MODULE_H
#define QCOW2_UTIL_MODULE_H

#include "libqcow2.h"

/**
 * qcow2_module_symbol:
 * @module: such as "nbd": the file libqcow2-MODULE.so beside the library, in the folder libqcow2 there, or
 *          in the folder that the library was built for; $QCOW2_MODULE_DIR, when set, is looked at first
 *
 * Returns: the address of @symbol; the module stays loaded. NULL with an error that names the file.
 */
void *qcow2_module_symbol(const char *module, const char *symbol, GError **error);

#endif
