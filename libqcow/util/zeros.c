/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/zeros.h"

#include <string.h>

#include "util/bits.h"

#define PROBE 16u

bool qcow2_is_zero(const void *buffer, size_t len_bytes)
{
    static const uint8_t zeros[PROBE];
    const uint8_t *bytes = buffer;

    if (len_bytes <= PROBE) {
        return memcmp(bytes, zeros, len_bytes) == 0;
    }
    /* Each byte equals the one 16 before it; mostly the first 16 tell already. */
    return memcmp(bytes, zeros, PROBE) == 0 && memcmp(bytes, bytes + PROBE, len_bytes - PROBE) == 0;
}

Qcow2SparseRule qcow2_sparse_rule(uint64_t min_bytes)
{
    Qcow2SparseRule rule = { .min = min_bytes };

    for (uint64_t block = 1; block <= min_bytes; block *= 2) {
        rule.block = block;
    }
    return rule;
}

/* The bytes up to the next border of a block that are alike. */
static size_t same_blocks(const Qcow2SparseRule *rule, uint64_t offset, const uint8_t *buffer,
                          size_t len_bytes, bool *ret_zero)
{
    size_t at = 0;

    while (at < len_bytes) {
        uint64_t to_border = rule->block - ((offset + at) & (rule->block - 1));
        size_t len = MIN(to_border, len_bytes - at);
        bool zero = qcow2_is_zero(buffer + at, len);
        if (at > 0 && zero != *ret_zero) {
            break;
        }
        *ret_zero = zero;
        at += len;
    }
    return at;
}

size_t qcow2_sparse_piece(const Qcow2SparseRule *rule, uint64_t offset, const uint8_t *buffer,
                          size_t len_bytes, bool *ret_zero)
{
    size_t data = 0;

    *ret_zero = false;
    while (rule->block > 0 && data < len_bytes) {
        bool zero = false;
        size_t len = same_blocks(rule, offset + data, buffer + data, len_bytes - data, &zero);
        /* Short zeros at either end may be part of a hole that goes on there. */
        bool at_end = data == 0 || data + len == len_bytes;
        if (zero && (len >= rule->min || at_end)) {
            *ret_zero = data == 0;
            return data == 0 ? len : data;
        }
        data += len;
    }
    return len_bytes;
}
