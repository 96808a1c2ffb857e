/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON text as GVariant. The text comes out of images, so the reader is strict, bounded, and takes what
 * QEMU takes: a library that also takes comments, octal numbers or 2^64 - 1 as -1 would see another file
 * in a hostile name than QEMU does.
 */
#ifndef QCOW2_UTIL_JSON_H
#define QCOW2_UTIL_JSON_H

#include "libqcow2.h"

#define QCOW2_JSON_MAX_TEXT  (64 * 1024)   /* bytes */
#define QCOW2_JSON_MAX_DEPTH 64

/**
 * qcow2_json_parse:
 * @text: JSON whose outermost value is an object; single-quoted strings are accepted as QEMU does
 *
 * Returns: an a{sv} whose values are s, x, d, b, av, a{sv} or mv (null), owned by the caller.
 * Errors: QCOW2_ERROR_INVALID with the offset in @text; also for more than QCOW2_JSON_MAX_TEXT bytes or
 * QCOW2_JSON_MAX_DEPTH levels, a key that is there twice, and a NUL inside a string.
 */
GVariant *qcow2_json_parse(const char *text, GError **error);

#endif
