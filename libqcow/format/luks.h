/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The plain-text header of LUKS version 1, for showing it. */
#ifndef QCOW2_FORMAT_LUKS_H
#define QCOW2_FORMAT_LUKS_H

#include "libqcow2.h"

#define QCOW2_LUKS_HEADER_LEN 592u

/** qcow2_luks_decode: Errors: QCOW2_ERROR_CORRUPT, QCOW2_ERROR_UNSUPPORTED for another version. */
bool qcow2_luks_decode(const uint8_t *bytes, size_t len_bytes, Qcow2LuksInfo *ret, GError **error);

#endif
