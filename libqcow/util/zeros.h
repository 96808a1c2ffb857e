/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zeros in data, which need not be written where nothing but zeros is. */
#ifndef QCOW2_UTIL_ZEROS_H
#define QCOW2_UTIL_ZEROS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** How many zeros are worth a hole. */
typedef struct Qcow2SparseRule {
    uint64_t block;           /* holes begin and end at multiples of this, a power of two; 0: no holes */
    uint64_t min;             /* bytes that a hole has at least */
} Qcow2SparseRule;

/** qcow2_sparse_rule: for holes of at least @min_bytes, a multiple of 512; 0 makes none. */
Qcow2SparseRule qcow2_sparse_rule(uint64_t min_bytes);

/** qcow2_is_zero: whether all bytes are zero. */
bool qcow2_is_zero(const void *buffer, size_t len_bytes);

/**
 * qcow2_sparse_piece:
 * @offset: of the first byte, for finding the borders of blocks
 *
 * Returns: the length of the first piece of @buffer that is a hole, or holds none; at most @len_bytes.
 */
size_t qcow2_sparse_piece(const Qcow2SparseRule *rule, uint64_t offset, const uint8_t *buffer,
                          size_t len_bytes, bool *ret_zero);

#endif
