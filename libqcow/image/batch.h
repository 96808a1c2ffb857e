/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The metadata batch: the only code that changes an image's metadata, but for the repair of one (repair.h).
 *
 *   step                                                       a crash afterwards leaves
 *   1  data and tables into clusters that nothing refers to,   the image as it was, its file perhaps longer
 *      changed refcount blocks and the table into new ones,
 *      what the header needs past its first 512 bytes into
 *      a part of cluster 0 that it does not use yet; flush
 *   2  the first 512 bytes of the header, in one write;        the image as it will be
 *      flush
 *   3  what was freed may be cut off or reused                 the same
 *
 * A refcount and the COPIED flag that mirrors it lie in different sectors, and either one alone is corruption
 * to QEMU. So whatever changes is written anew, and one sector switches to all of it: L1 table, refcount
 * table, snapshot table, size, feature bits. Old and new state are both complete, and neither leaks.
 */
#ifndef QCOW2_IMAGE_BATCH_H
#define QCOW2_IMAGE_BATCH_H

#include "image/counts-cache.h"
#include "image/map.h"

typedef struct Qcow2Batch Qcow2Batch;

/**
 * qcow2_batch_begin:
 * @image: open for writing
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED for an image that must not be written: dirty, corrupt; the message says
 * what to run.
 */
Qcow2Batch *qcow2_batch_begin(Qcow2Image *image, GError **error);

/** qcow2_batch_begin_low: the same for a batch that shall use the lowest free clusters, wherever they are. */
Qcow2Batch *qcow2_batch_begin_low(Qcow2Image *image, GError **error);

/** qcow2_batch_keep_below: new clusters come from before host cluster @limit, or from past the end. */
void qcow2_batch_keep_below(Qcow2Batch *batch, uint64_t limit);

/** qcow2_batch_free: gives up what was not committed; the file gets its old length back. */
void qcow2_batch_free(Qcow2Batch *batch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Batch, qcow2_batch_free)

/** qcow2_batch_header: change roots, size and feature bits here; they count from the commit on. */
Qcow2Header *qcow2_batch_header(Qcow2Batch *batch);

/**
 * qcow2_batch_set_ext: adds, replaces or (NULL data) removes a header extension. The header is laid out anew,
 * so that its first sector alone switches to it; a commit fails where that cannot be.
 */
void qcow2_batch_set_ext(Qcow2Batch *batch, uint32_t type, const void *data, size_t len_bytes);

/** qcow2_batch_relay_header: the same after a change of version or backing name in the batch's header. */
void qcow2_batch_relay_header(Qcow2Batch *batch);

/**
 * qcow2_batch_set_refcount_order: counts get another width; before anything else changes in the batch.
 * Errors: QCOW2_ERROR_UNSUPPORTED when a count does not fit.
 */
bool qcow2_batch_set_refcount_order(Qcow2Batch *batch, unsigned refcount_order, GError **error);

/** qcow2_batch_counts: the counts as they will be. */
Qcow2CountsCache *qcow2_batch_counts(Qcow2Batch *batch);

/** qcow2_batch_take: @n new contiguous clusters, counted once; their host offset, or 0 with an error. */
uint64_t qcow2_batch_take(Qcow2Batch *batch, uint64_t n_clusters, GError **error);

/** qcow2_batch_take_for: for @len_bytes; no bytes need no cluster, and have offset 0. */
bool qcow2_batch_take_for(Qcow2Batch *batch, uint64_t len_bytes, uint64_t *ret_offset, GError **error);

/** qcow2_batch_take_at: free clusters that the caller has chosen, in a batch begun low; counted once. */
bool qcow2_batch_take_at(Qcow2Batch *batch, uint64_t first_cluster, uint64_t n_clusters, GError **error);

/** qcow2_batch_add: adds @delta to the counts of the clusters that the bytes [offset, offset + len) touch. */
bool qcow2_batch_add(Qcow2Batch *batch, uint64_t host_offset, uint64_t len_bytes, int delta, GError **error);

/** qcow2_batch_count_taken: what was taken so far is in the counts from here on; a commit does the same. */
bool qcow2_batch_count_taken(Qcow2Batch *batch, GError **error);

/** qcow2_batch_write: into clusters that this batch took. */
bool qcow2_batch_write(Qcow2Batch *batch, uint64_t host_offset, const void *bytes, size_t len_bytes,
                       GError **error);

/** qcow2_batch_commit: all or nothing. The image then has the new header. */
bool qcow2_batch_commit(Qcow2Batch *batch, GError **error);

/** qcow2_batch_commit_in_file: unless the file would become longer; then nothing changes. */
bool qcow2_batch_commit_in_file(Qcow2Batch *batch, bool *ret_committed, GError **error);

/** qcow2_batch_rehearse: all of it but the header, for an image on trial. The batch cannot be used then. */
bool qcow2_batch_rehearse(Qcow2Batch *batch, GError **error);

/** qcow2_batch_end: bytes of the file up to the last cluster in use or taken. */
uint64_t qcow2_batch_end(const Qcow2Batch *batch);

/** qcow2_batch_cut_end: cuts off what nobody uses at the end; after a commit, or without any change. */
bool qcow2_batch_cut_end(Qcow2Batch *batch, GError **error);

#endif
