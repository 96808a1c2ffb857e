/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/nbd.h"

#include <string.h>

#include "util/module.h"

Qcow2Io *qcow2_io_nbd_open(const char *uri, bool writable, Qcow2Cache cache, unsigned n_connections,
                           GError **error)
{
    void *symbol = qcow2_module_symbol("nbd", QCOW2_NBD_MODULE_OPEN, error);
    Qcow2NbdModuleOpen *module_open;

    if (!symbol) {
        return NULL;
    }
    memcpy(&module_open, &symbol, sizeof(module_open));   /* C has no cast from data to function pointers */
    return module_open(uri, writable, cache, n_connections, error);
}
