/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors with context: the cause is set where it happens, each level above prefixes what it knows. */
#ifndef QCOW2_UTIL_ERROR_H
#define QCOW2_UTIL_ERROR_H

#include <inttypes.h>

#include "libqcow2.h"

/* All return false, so that "return qcow2_fail(…)" ends a function. */
bool qcow2_fail(GError **error, Qcow2Error code, const char *format, ...) G_GNUC_PRINTF(3, 4);
bool qcow2_corrupt(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Appends ": STRERROR"; ENOSPC and EDQUOT become _NO_SPACE, ENOENT _NOT_FOUND, the others _IO. */
bool qcow2_fail_errno(GError **error, int errnum, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* Only STRERROR, with the code as above: for a cause whose caller prefixes what was tried. */
bool qcow2_fail_system(GError **error, int errnum);

/*
 * For what changes the image @name all or nothing: puts the name in front of a message that has none, and
 * says how to go on when a disk is full.
 */
bool qcow2_fail_unchanged(GError **error, const char *name);

/* An allocation whose size follows from a file and that did not succeed. */
bool qcow2_fail_memory(GError **error, uint64_t len_bytes, const char *what);

#endif
