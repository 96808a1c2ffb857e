/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON text as GVariant; json-glib does the work, in a module. */
#ifndef QCOW2_UTIL_JSON_H
#define QCOW2_UTIL_JSON_H

#include "libqcow2.h"

/**
 * qcow2_json_parse:
 * @text: JSON whose outermost value is an object; single-quoted strings are accepted as QEMU does
 *
 * Returns: an a{sv} whose values are s, x, d, b, av, a{sv} or mv (null), owned by the caller.
 */
GVariant *qcow2_json_parse(const char *text, GError **error);

#endif
