/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a header names as its backing file, whatever else it says. Also in the two other formats in which QEMU
 * makes images over any image: whoever changes a qcow2 image has to know of those that read through it.
 */
#ifndef QCOW2_FORMAT_PEEK_H
#define QCOW2_FORMAT_PEEK_H

#include "format/header.h"

typedef struct Qcow2Peek {
    uint64_t name_offset;     /* in the file */
    uint32_t name_len;
    uint64_t incompatible;    /* qcow2's feature bits, known or not; 0 in version 2, and in other formats */
    bool is_qcow2;
} Qcow2Peek;

/**
 * qcow2_peek_header:
 * @bytes: the first QCOW2_HEADER_PEEK ones of a file
 *
 * Returns: false when no backing file is named.
 */
bool qcow2_peek_header(const uint8_t *bytes, Qcow2Peek *ret);

#endif
