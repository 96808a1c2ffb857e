/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcount blocks while they are changed: every block that changes is a new cluster in the end, so that the
 * old ones stay what they are until one header write replaces them all.
 */
#ifndef QCOW2_IMAGE_COUNTS_CACHE_H
#define QCOW2_IMAGE_COUNTS_CACHE_H

#include "image/image.h"

typedef struct Qcow2CountsCache Qcow2CountsCache;

/** Gives a place for a changed block: the host offset of a new cluster; 0 with an error. */
typedef uint64_t (*Qcow2PlaceFunc)(void *data, GError **error);

/** qcow2_counts_cache_new: reads the refcount table; @place is asked when a changed block must be written. */
Qcow2CountsCache *qcow2_counts_cache_new(Qcow2Image *image, Qcow2PlaceFunc place, void *data, GError **error);

/**
 * qcow2_counts_cache_convert:
 * @cache: unchanged so far
 * @layout: with another width; must stay where it is
 *
 * The same counts in the other width: all blocks are new, and the old ones are released.
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED when a count does not fit.
 */
Qcow2CountsCache *qcow2_counts_cache_convert(Qcow2CountsCache *cache, const Qcow2Layout *layout,
                                             GError **error);
void qcow2_counts_cache_free(Qcow2CountsCache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2CountsCache, qcow2_counts_cache_free)

/** qcow2_counts_cache_get: the count of one cluster as it will be. */
bool qcow2_counts_cache_get(Qcow2CountsCache *cache, uint64_t cluster, uint64_t *ret_count, GError **error);

/**
 * qcow2_counts_cache_add: adds @delta to the counts of a range of clusters.
 * Errors: QCOW2_ERROR_UNSUPPORTED when a count would not fit its width; QCOW2_ERROR_CORRUPT when it would be
 * negative.
 */
bool qcow2_counts_cache_add(Qcow2CountsCache *cache, uint64_t first, uint64_t n, int delta, GError **error);

/**
 * qcow2_counts_cache_run:
 * @ret_n: how many clusters from @first on, at most @n, are alike in "is the count exactly one"
 */
bool qcow2_counts_cache_run(Qcow2CountsCache *cache, uint64_t first, uint64_t n, bool *ret_is_one,
                            uint64_t *ret_n, GError **error);

/** qcow2_counts_cache_n_freed: clusters whose counts went to zero, so far. */
uint64_t qcow2_counts_cache_n_freed(const Qcow2CountsCache *cache);

/** qcow2_counts_cache_end: one more than the last cluster that a refcount block covers. */
uint64_t qcow2_counts_cache_end(const Qcow2CountsCache *cache);

/** qcow2_counts_cache_n_blocks: entries that the table needs, once all blocks have their places. */
uint64_t qcow2_counts_cache_n_blocks(const Qcow2CountsCache *cache);

/** qcow2_counts_cache_block: the host offset of block @index, which is below the number of blocks; or 0. */
uint64_t qcow2_counts_cache_block(const Qcow2CountsCache *cache, uint64_t index);

/** qcow2_counts_cache_is_changed: whether a block has to be written anew. */
bool qcow2_counts_cache_is_changed(const Qcow2CountsCache *cache);

/** qcow2_counts_cache_touch: gives block @index a new place although nothing in it changes. */
bool qcow2_counts_cache_touch(Qcow2CountsCache *cache, uint64_t index, GError **error);

/**
 * qcow2_counts_cache_place_all: gives every changed block its new place, and takes back the clusters of the
 * old ones. Placing changes counts, so that the caller goes on until @ret_placed is 0.
 */
bool qcow2_counts_cache_place_all(Qcow2CountsCache *cache, uint64_t *ret_placed, GError **error);

/** qcow2_counts_cache_write: writes the changed blocks, and the table as it will be at @table_offset. */
bool qcow2_counts_cache_write(Qcow2CountsCache *cache, uint64_t table_offset, uint64_t table_clusters,
                              GError **error);

#endif
