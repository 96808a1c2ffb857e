/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest range is in one image, or in a chain: the descriptor that all choosing works on. */
#ifndef QCOW2_IMAGE_EXTENT_H
#define QCOW2_IMAGE_EXTENT_H

#include "libqcow2.h"

typedef enum {
    QCOW2_EXTENT_UNALLOCATED,   /* the layer below answers; zeros when there is none */
    QCOW2_EXTENT_ZERO,
    QCOW2_EXTENT_DATA,          /* host_offset in the layer's data file, contiguous */
    QCOW2_EXTENT_COMPRESSED,    /* all or a part of one compressed cluster */
} Qcow2ExtentKind;

typedef struct Qcow2Extent {
    uint64_t guest_offset;
    uint64_t len_bytes;
    uint64_t host_offset;       /* DATA: of guest_offset; ZERO, UNALLOCATED with allocated: likewise;
                                   COMPRESSED: of the stream, whatever part of the cluster this is */
    uint32_t stream_len;        /* COMPRESSED: bytes that the stream may reach into */
    uint16_t layer;             /* index in the chain; QCOW2_NO_LAYER past the end of a state */
    uint8_t kind;               /* Qcow2ExtentKind */
    bool allocated;             /* ZERO, UNALLOCATED: a host cluster is kept under it */
} Qcow2Extent;

#define QCOW2_NO_LAYER UINT16_MAX

/** A guest range, half open. Arrays of them are sorted and do not touch. */
typedef struct Qcow2Range {
    uint64_t start, end;
} Qcow2Range;

static inline uint64_t qcow2_extent_end(const Qcow2Extent *extent)
{
    return extent->guest_offset + extent->len_bytes;
}

static inline bool qcow2_extent_is_zero(const Qcow2Extent *extent)
{
    return extent->kind == QCOW2_EXTENT_ZERO;
}

/** qcow2_extent_slice: the part of @extent in [start, end), which it overlaps. */
Qcow2Extent qcow2_extent_slice(const Qcow2Extent *extent, uint64_t start, uint64_t end);

/** qcow2_extents_push: appends to an array of Qcow2Extent in guest order, joining what continues. */
void qcow2_extents_push(GArray *extents, const Qcow2Extent *extent);

/** qcow2_ranges_push: appends to an array of Qcow2Range in order, joining what touches or overlaps. */
void qcow2_ranges_push(GArray *ranges, uint64_t start, uint64_t end);

/** qcow2_ranges_align: ranges grown to whole units, cut at @limit; what touches is joined. */
void qcow2_ranges_align(GArray *ranges, uint64_t unit, uint64_t limit);

#endif
