/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How often each host cluster of a window is referenced. Internal to the check.
 *
 * Counts are kept in chunks. A chunk whose clusters all have the same count takes no memory; any other
 * starts with 2 bits for each cluster and is widened to 4, 8 … 64 when a count asks for it, so that an
 * image with many snapshots, whose counts are large everywhere, costs no more than it must.
 *
 * When the memory does not suffice, the upper half of the window is given up: the caller looks where the
 * window ends now, and counts the rest in another pass.
 */
#ifndef QCOW2_IMAGE_CHECK_COUNTS_H
#define QCOW2_IMAGE_CHECK_COUNTS_H

#include "format/layout.h"

#define QCOW2_COUNTS_CHUNK_BITS 15
#define QCOW2_COUNTS_CHUNK ((size_t)1 << QCOW2_COUNTS_CHUNK_BITS)    /* clusters */

typedef struct Qcow2Counts Qcow2Counts;

/**
 * qcow2_counts_new:
 * @start, @end: the window, host clusters; @start is a multiple of QCOW2_COUNTS_CHUNK
 * @budget: bytes that the counts may take
 */
Qcow2Counts *qcow2_counts_new(uint64_t start, uint64_t end, size_t budget);
void qcow2_counts_free(Qcow2Counts *counts);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Counts, qcow2_counts_free)

/** qcow2_counts_end: where the window ends now; only ever decreases, and stays above its start. */
uint64_t qcow2_counts_end(const Qcow2Counts *counts);

/** qcow2_counts_failed: not even one chunk could be allocated; the counts are worth nothing. */
bool qcow2_counts_failed(const Qcow2Counts *counts);

/**
 * qcow2_counts_add: @weight more references to clusters [@first, @first + @n), as far as they are in the
 * window.
 */
void qcow2_counts_add(Qcow2Counts *counts, uint64_t first, uint64_t n, uint64_t weight);

/** qcow2_counts_get: @cluster is in the window. */
uint64_t qcow2_counts_get(const Qcow2Counts *counts, uint64_t cluster);

/** qcow2_counts_set: @cluster is in the window; without memory for the count the window shrinks. */
void qcow2_counts_set(Qcow2Counts *counts, uint64_t cluster, uint64_t count);

/** qcow2_counts_cap: what is larger than @max becomes @max. */
void qcow2_counts_cap(Qcow2Counts *counts, uint64_t max);

/** qcow2_counts_max: the largest one. */
uint64_t qcow2_counts_max(const Qcow2Counts *counts);

/** qcow2_counts_is_zero: nothing refers to the clusters [@first, @first + @n) of one chunk. */
bool qcow2_counts_is_zero(const Qcow2Counts *counts, uint64_t first, size_t n);

#define QCOW2_COUNTS_SLACK 8u    /* bytes that a buffer for the next function has to have at its end */

/**
 * qcow2_counts_encode:
 * @first, @n: a chunk, or its part that lies in the window
 * @room: gets the counts as refcount blocks hold them
 *
 * Returns: false when a count is larger than a refcount can be; @room is undefined then.
 */
bool qcow2_counts_encode(const Qcow2Counts *counts, const Qcow2Layout *layout, uint64_t first, size_t n,
                         uint8_t *room);

#endif
