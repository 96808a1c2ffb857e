/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Moves chosen ranges from the layers of a chain to one target, in parallel, neighbours joined, each run the
 * cheapest way: extents shared, copied by the kernel, or through a buffer.
 */
#ifndef QCOW2_MOVE_MOVER_H
#define QCOW2_MOVE_MOVER_H

#include "image/reader-pool.h"
#include "state/state.h"
#include "util/zeros.h"

typedef struct Qcow2Mover Qcow2Mover;

typedef struct Qcow2MoverOptions {
    unsigned n_threads;       /* 0: the default */
    bool no_reflink;
    bool source_in_use;       /* a VM writes to the source: hold its file system up for short times only */
    Qcow2SparseRule sparse;   /* of data that goes through a buffer; all zero: it is written as it is */
    bool target_is_zero;      /* what is not written reads as zeros */
    bool keep_space;          /* zeros have space in the target, too */
} Qcow2MoverOptions;

typedef struct Qcow2MoverStats {
    uint64_t bytes_copied, bytes_cloned;
} Qcow2MoverStats;

/** qcow2_mover_new: @source and @target are borrowed; @progress may be NULL. */
Qcow2Mover *qcow2_mover_new(Qcow2State *source, Qcow2Io *target, const Qcow2MoverOptions *options,
                            Qcow2Progress *progress);
void qcow2_mover_free(Qcow2Mover *mover);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Mover, qcow2_mover_free)

/**
 * qcow2_mover_add:
 * @extent: resolved in the source state; any kind
 * @target_offset: where its bytes go in the target; what reads as zeros is made to read so there
 *
 * Queues a move; when enough is queued it is done at once. Order is not kept: targets must not overlap.
 */
bool qcow2_mover_add(Qcow2Mover *mover, const Qcow2Extent *extent, uint64_t target_offset, GError **error);

/**
 * qcow2_mover_can_share:
 * @extent, @target_offset: as for qcow2_mover_add(), which still has to be called
 *
 * Whether the target can share extents with the source, found out by sharing the first block of this one.
 */
bool qcow2_mover_can_share(Qcow2Mover *mover, const Qcow2Extent *extent, uint64_t target_offset);

/** qcow2_mover_drain: returns when all that was added is in the target, not yet flushed. */
bool qcow2_mover_drain(Qcow2Mover *mover, GError **error);

Qcow2MoverStats qcow2_mover_get_stats(const Qcow2Mover *mover);

#endif
