/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bits, byte order and arithmetic that cannot overflow unnoticed. */
#ifndef QCOW2_UTIL_BITS_H
#define QCOW2_UTIL_BITS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BIT(n) (UINT64_C(1) << (n))

static inline uint16_t qcow2_load_be16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return GUINT16_FROM_BE(v);
}

static inline uint32_t qcow2_load_be32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return GUINT32_FROM_BE(v);
}

static inline uint64_t qcow2_load_be64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return GUINT64_FROM_BE(v);
}

static inline void qcow2_store_be16(void *p, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

static inline void qcow2_store_be32(void *p, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

static inline void qcow2_store_be64(void *p, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

/* @unit is a power of two in the two functions that align. */
static inline uint64_t qcow2_align_down(uint64_t v, uint64_t unit)
{
    return v & ~(unit - 1);
}

/* The caller knows that v + unit does not overflow: sizes are checked against INT64_MAX when read. */
static inline uint64_t qcow2_align_up(uint64_t v, uint64_t unit)
{
    return (v + unit - 1) & ~(unit - 1);
}

static inline uint64_t qcow2_div_round_up(uint64_t v, uint64_t unit)
{
    return v / unit + (v % unit != 0);
}

/* False when the range [offset, offset + len) does not fit 63 bits, as file offsets must. */
static inline bool qcow2_range_fits(uint64_t offset, uint64_t len)
{
    return offset <= INT64_MAX && len <= INT64_MAX - offset;
}

#endif
