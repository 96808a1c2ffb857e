/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where two states may read differently, found from descriptors: equal tables and equal entries are equal
 * clusters, whatever they hold.
 */
#ifndef QCOW2_STATE_DIFF_H
#define QCOW2_STATE_DIFF_H

#include "image/reader.h"
#include "state/state.h"

typedef struct Qcow2Diff Qcow2Diff;

/** qcow2_diff_new: of one chain or of two; both are borrowed. Shared lower layers are found and not read. */
Qcow2Diff *qcow2_diff_new(Qcow2State *a, Qcow2State *b, GError **error);
void qcow2_diff_free(Qcow2Diff *diff);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Diff, qcow2_diff_free)

/**
 * qcow2_diff_next:
 * @from: guest offset to go on at, a multiple of 2 MiB
 * @limit: guest offset to stop at
 * @ret_ranges: emptied, then gets the differing ranges of this window, sorted
 * @ret_end: where the window ends; the next call goes on there
 *
 * What the smaller state reads as zeros past its end differs only where the larger one does not read
 * zeros; in the cluster in which the smaller one ends, bytes decide that.
 */
bool qcow2_diff_next(Qcow2Diff *diff, uint64_t from, uint64_t limit, GArray *ret_ranges, uint64_t *ret_end,
                     GError **error);

/** qcow2_state_reads_zero: whether the bytes of a range are all zero; reads data. */
bool qcow2_state_range_is_zero(Qcow2State *state, Qcow2Range range, bool *ret_zero, GError **error);

#endif
