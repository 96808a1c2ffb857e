/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free host clusters of an image: runs near its end that no count claims, then what is past the end. A place
 * that cannot grow has its end where the last cluster in use ends, and a limit: what fits into it whole.
 */
#ifndef QCOW2_IMAGE_FREE_SPACE_H
#define QCOW2_IMAGE_FREE_SPACE_H

#include "image/counts-cache.h"

typedef struct Qcow2FreeSpace Qcow2FreeSpace;

/**
 * qcow2_free_space_new:
 * @n_blocks: how many refcount blocks, counted from the end, are looked at; all of a place that cannot grow
 *
 * What is freed later is not offered: it may still be reachable until the header is written.
 */
Qcow2FreeSpace *qcow2_free_space_new(Qcow2Image *image, Qcow2CountsCache *counts, unsigned n_blocks,
                                     GError **error);
void qcow2_free_space_free(Qcow2FreeSpace *space);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2FreeSpace, qcow2_free_space_free)

/** qcow2_free_space_take: @n contiguous clusters; the first run that is large enough. Returns the first
 * cluster. */
uint64_t qcow2_free_space_take(Qcow2FreeSpace *space, uint64_t n);

/** qcow2_free_space_take_end: the same, always past the end of all that exists. */
uint64_t qcow2_free_space_take_end(Qcow2FreeSpace *space, uint64_t n);

/** qcow2_free_space_take_at: these clusters; false when they are not all known as free. */
bool qcow2_free_space_take_at(Qcow2FreeSpace *space, uint64_t first, uint64_t n);

/** qcow2_free_space_keep_below: free clusters from @limit on are not offered; what is past the end is. */
void qcow2_free_space_keep_below(Qcow2FreeSpace *space, uint64_t limit);

/** qcow2_free_space_has: whether a cluster may be given out; what is past the end is not meant. */
bool qcow2_free_space_has(const Qcow2FreeSpace *space, uint64_t cluster);

/** qcow2_free_space_find: a cluster of [first, end) that may be given out, those past the end too. */
bool qcow2_free_space_find(const Qcow2FreeSpace *space, uint64_t first, uint64_t end, uint64_t *ret_cluster);

/** qcow2_free_space_is_empty: what is given out next comes from the end. */
bool qcow2_free_space_is_empty(const Qcow2FreeSpace *space);

/** qcow2_free_space_start: the first cluster that was looked at. */
uint64_t qcow2_free_space_start(const Qcow2FreeSpace *space);

/** qcow2_free_space_end: one more than the last cluster in use or taken. */
uint64_t qcow2_free_space_end(const Qcow2FreeSpace *space);

/** qcow2_free_space_limit: one more than the last cluster that there can be; more than that can be taken. */
uint64_t qcow2_free_space_limit(const Qcow2FreeSpace *space);

#endif
