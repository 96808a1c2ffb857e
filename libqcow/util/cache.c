/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/error.h"

#include <string.h>

bool qcow2_parse_cache(const char *text, Qcow2Cache *ret_cache, GError **error)
{
    static const struct {
        const char *name;
        Qcow2Cache cache;
    } modes[] = {
        { "writeback", QCOW2_CACHE_WRITEBACK },
        { "none", QCOW2_CACHE_NONE },
        { "off", QCOW2_CACHE_NONE },
        { "writethrough", QCOW2_CACHE_WRITETHROUGH },
        { "directsync", QCOW2_CACHE_DIRECTSYNC },
        { "unsafe", QCOW2_CACHE_UNSAFE },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(text, modes[i].name) == 0) {
            *ret_cache = modes[i].cache;
            return true;
        }
    }
    return qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "'%s' is no cache mode: writeback, none, writethrough, directsync or unsafe", text);
}
