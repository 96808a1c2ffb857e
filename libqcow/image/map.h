/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From guest ranges to host extents of one image. Spec: "Cluster mapping". */
#ifndef QCOW2_IMAGE_MAP_H
#define QCOW2_IMAGE_MAP_H

#include "image/extent.h"
#include "image/image.h"

/** Which tables to look through: those of the active layer, or of a snapshot. */
typedef struct Qcow2View {
    uint64_t l1_offset;
    uint64_t l1_entries;
    uint64_t size;            /* guest bytes; what the tables hold past it is never looked at */
} Qcow2View;

/** qcow2_image_active_view: the active layer's tables. */
Qcow2View qcow2_image_active_view(const Qcow2Image *image);

/** qcow2_image_snapshot_view: a snapshot's. Errors: QCOW2_ERROR_CORRUPT for an impossible L1 table. */
bool qcow2_image_snapshot_view(const Qcow2Image *image, const Qcow2SnapshotEntry *entry, Qcow2View *ret,
                               GError **error);

/** qcow2_image_read_l1: a view's L1 table, big-endian as it is in the file; free it with g_free(). */
uint64_t *qcow2_image_read_l1(const Qcow2Image *image, const Qcow2View *view, GError **error);

/**
 * How many guest bytes a walk should handle at a time, so that tables and extents of a window stay
 * within some MiB whatever the image looks like: a power of two, at least 2 MiB.
 */
uint64_t qcow2_image_window(const Qcow2Image *image);

/**
 * qcow2_image_map:
 * @ranges: sorted guest ranges below view->size that span at most a window or so
 * @extents: gets them appended in guest order, all of each range, @layer written into each
 *
 * Reads L2 tables in host order, neighbours in one read, each once.
 *
 * Errors: QCOW2_ERROR_CORRUPT with the guest offset of the table; what the file reports.
 */
bool qcow2_image_map(Qcow2Image *image, const Qcow2View *view, const Qcow2Range *ranges, size_t n_ranges,
                     unsigned layer, GArray *extents, GError **error);

/**
 * qcow2_image_skip_equal:
 * @from, @limit: guest offsets below the size of both views
 *
 * Returns through @ret_offset the first guest offset from @from on whose L2 table is not the same in both
 * views, or @limit: a walk over a huge disk jumps there.
 */
bool qcow2_image_skip_equal(Qcow2Image *image, const Qcow2View *a, const Qcow2View *b, uint64_t from,
                            uint64_t limit, uint64_t *ret_offset, GError **error);

/** Guest ranges whose table entries differ; Qcow2Range, sorted. */
typedef struct Qcow2Differing {
    GArray *sure;             /* data in both views, in different host clusters */
    GArray *maybe;            /* what these entries mean has to be looked at */
} Qcow2Differing;

void qcow2_differing_clear(Qcow2Differing *differing);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2Differing, qcow2_differing_clear)

/**
 * qcow2_image_differing:
 * @range: below the size of both views; some windows are enough for all processors
 * @ret: zeroed by the caller, who clears it even when this fails
 *
 * Tables that both views share are not read; the others are, in parallel. Flags that say nothing about
 * contents (COPIED) do not count.
 */
bool qcow2_image_differing(Qcow2Image *image, const Qcow2View *a, const Qcow2View *b,
                           Qcow2Range range, Qcow2Differing *ret, GError **error);

#endif
