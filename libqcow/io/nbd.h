/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between the library and its NBD module. */
#ifndef QCOW2_IO_NBD_H
#define QCOW2_IO_NBD_H

#include "io/backends.h"

#define QCOW2_NBD_MODULE_OPEN "qcow2_nbd_module_open"

/* As qcow2_io_nbd_open(). */
typedef Qcow2Io *Qcow2NbdModuleOpen(const char *uri, bool writable, Qcow2Cache cache, unsigned n_connections,
                                    GError **error);
Qcow2NbdModuleOpen qcow2_nbd_module_open;

#endif
