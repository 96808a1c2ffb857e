/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/refcount.h"

/*
 * Counts narrower than a byte stand in it from the least significant bits up; wider ones are big-endian:
 *
 *   order 0   byte 0: counts 7 6 5 4 3 2 1 0       order 3   one byte each
 *   order 1   byte 0: counts 3 3 2 2 1 1 0 0       order 4   two bytes, the high one first
 *   order 2   byte 0: counts 1 1 1 1 0 0 0 0       …
 */

uint64_t qcow2_refcount_max(const Qcow2Layout *layout)
{
    unsigned bits = 1u << layout->refcount_order;

    return bits == 64 ? UINT64_MAX : BIT(bits) - 1;
}

/* Where a count narrower than a byte stands: the byte, and the shift inside it. */
static size_t narrow_position(unsigned order, size_t index, unsigned *ret_shift)
{
    size_t per_byte = (size_t) 8 >> order;

    *ret_shift = (unsigned) (index % per_byte) << order;
    return index / per_byte;
}

uint64_t qcow2_refcount_get(const Qcow2Layout *layout, const uint8_t *block, size_t index)
{
    unsigned shift;

    switch (layout->refcount_order) {
    case 3:
        return block[index];
    case 4:
        return qcow2_load_be16(block + index * 2);
    case 5:
        return qcow2_load_be32(block + index * 4);
    case 6:
        return qcow2_load_be64(block + index * 8);
    default: {
        size_t byte = narrow_position(layout->refcount_order, index, &shift);
        return (uint64_t) (block[byte] >> shift) & qcow2_refcount_max(layout);
    }
    }
}

static void set_narrow(const Qcow2Layout *layout, uint8_t *block, size_t index, uint64_t count)
{
    unsigned shift;
    size_t byte = narrow_position(layout->refcount_order, index, &shift);
    unsigned mask = (unsigned) qcow2_refcount_max(layout) << shift;

    block[byte] = (uint8_t) ((block[byte] & ~mask) | ((unsigned) count << shift));
}

void qcow2_refcount_set(const Qcow2Layout *layout, uint8_t *block, size_t index, uint64_t count)
{
    switch (layout->refcount_order) {
    case 3:
        block[index] = (uint8_t) count;
        break;
    case 4:
        qcow2_store_be16(block + index * 2, (uint16_t) count);
        break;
    case 5:
        qcow2_store_be32(block + index * 4, (uint32_t) count);
        break;
    case 6:
        qcow2_store_be64(block + index * 8, count);
        break;
    default:
        set_narrow(layout, block, index, count);
        break;
    }
}

/* Whole bytes by memset; the counts that share a byte with others one by one. */
static void fill_narrow(const Qcow2Layout *layout, uint8_t *block, size_t index, size_t n, uint64_t count)
{
    unsigned order = layout->refcount_order;
    size_t per_byte = (size_t) 8 >> order;
    uint8_t pattern = 0;

    for (unsigned shift = 0; shift < 8; shift += 1u << order) {
        pattern = (uint8_t) (pattern | (unsigned) count << shift);
    }

    for (; n > 0 && index % per_byte != 0; index++, n--) {
        set_narrow(layout, block, index, count);
    }
    memset(block + index / per_byte, pattern, n / per_byte);
    index += n / per_byte * per_byte;
    for (n %= per_byte; n > 0; index++, n--) {
        set_narrow(layout, block, index, count);
    }
}

void qcow2_refcount_fill(const Qcow2Layout *layout, uint8_t *block, size_t index, size_t n, uint64_t count)
{
    if (layout->refcount_order < 3) {
        fill_narrow(layout, block, index, n, count);
        return;
    }

    size_t width = (size_t) 1 << (layout->refcount_order - 3);
    uint8_t *start = block + index * width;
    size_t len_bytes = n * width, done = width;

    if (n == 0) {
        return;
    }
    if (count == 0) {
        memset(start, 0, len_bytes);
        return;
    }

    /* The filled part doubles with each copy, so that a block takes a few large ones. */
    qcow2_refcount_set(layout, block, index, count);
    while (done < len_bytes) {
        size_t len_copy = MIN(done, len_bytes - done);
        memcpy(start + done, start, len_copy);
        done += len_copy;
    }
}
