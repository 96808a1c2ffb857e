/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/extent.h"

#include "util/bits.h"

Qcow2Extent qcow2_extent_slice(const Qcow2Extent *extent, uint64_t start, uint64_t end)
{
    Qcow2Extent slice = *extent;
    uint64_t skip = start > extent->guest_offset ? start - extent->guest_offset : 0;

    slice.guest_offset += skip;
    slice.len_bytes = MIN(end, qcow2_extent_end(extent)) - slice.guest_offset;
    if (extent->kind == QCOW2_EXTENT_DATA || extent->allocated) {
        slice.host_offset += skip;
    }
    return slice;
}

/* Whether @next goes on where @last ends, in the guest and on the host. */
static bool continues(const Qcow2Extent *last, const Qcow2Extent *next)
{
    if (last->kind != next->kind || last->layer != next->layer || last->allocated != next->allocated
        || qcow2_extent_end(last) != next->guest_offset) {
        return false;
    }
    if (next->kind == QCOW2_EXTENT_COMPRESSED) {
        /* The same stream may be a later part of the cluster, or another cluster with the same contents. */
        return false;
    }
    return !(next->kind == QCOW2_EXTENT_DATA || next->allocated)
        || last->host_offset + last->len_bytes == next->host_offset;
}

void qcow2_extents_push(GArray *extents, const Qcow2Extent *extent)
{
    if (extents->len > 0) {
        Qcow2Extent *last = &g_array_index(extents, Qcow2Extent, extents->len - 1);
        if (continues(last, extent)) {
            last->len_bytes += extent->len_bytes;
            return;
        }
    }
    g_array_append_vals(extents, extent, 1);
}

void qcow2_ranges_push(GArray *ranges, uint64_t start, uint64_t end)
{
    if (start >= end) {
        return;
    }
    if (ranges->len > 0) {
        Qcow2Range *last = &g_array_index(ranges, Qcow2Range, ranges->len - 1);
        if (start <= last->end) {
            last->end = MAX(last->end, end);
            return;
        }
    }
    Qcow2Range range = { start, end };
    g_array_append_vals(ranges, &range, 1);
}

void qcow2_ranges_align(GArray *ranges, uint64_t unit, uint64_t limit)
{
    guint n = ranges->len;
    guint kept = 0;
    Qcow2Range *range = (Qcow2Range *)(void *)ranges->data;

    for (guint i = 0; i < n; i++) {
        uint64_t start = qcow2_align_down(range[i].start, unit);
        uint64_t end = MIN(qcow2_align_up(range[i].end, unit), limit);
        if (kept > 0 && start <= range[kept - 1].end) {
            range[kept - 1].end = MAX(range[kept - 1].end, end);
        } else {
            range[kept++] = (Qcow2Range) { start, end };
        }
    }
    g_array_set_size(ranges, kept);
}
