/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a header names as its backing file and as its data file, whatever else it says. Also in the two other
 * formats in which QEMU makes images over any image: whoever changes an image has to know of those that read
 * through it.
 */
#ifndef QCOW2_FORMAT_PEEK_H
#define QCOW2_FORMAT_PEEK_H

#include "format/header.h"

typedef struct Qcow2Peek {
    uint64_t name_offset;     /* in the file */
    uint32_t name_len;
    uint64_t incompatible;    /* qcow2's feature bits, known or not; 0 in version 2, and in other formats */
    uint64_t area_len;        /* bytes from the file's start that hold the header and its extensions; 0: the
                                 data is in the image itself */
    bool is_qcow2;
} Qcow2Peek;

/**
 * qcow2_peek_header:
 * @bytes: the first QCOW2_HEADER_PEEK ones of a file
 *
 * Returns: false when no backing file is named; @ret is right all the same.
 */
bool qcow2_peek_header(const uint8_t *bytes, Qcow2Peek *ret);

/**
 * qcow2_peek_data_file: the name of the data file of an image that has one; NULL when it is not recorded.
 * Free it with g_free().
 * @area: the first @peek->area_len bytes of the file; it is not 0
 */
char *qcow2_peek_data_file(const uint8_t *area, const Qcow2Peek *peek);

#endif
