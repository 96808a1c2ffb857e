/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/batch.h"

#include "format/header-switch.h"
#include "image/free-space.h"
#include "image/in-use.h"
#include "image/roots.h"
#include "io/trial.h"
#include "util/error.h"

#define SECTOR QCOW2_HEADER_SECTOR

/* Looking through more than these for free clusters costs more than the file grows without. */
#define BLOCKS_LOOKED_AT 32u

typedef struct Run {
    uint64_t first, n;
} Run;

struct Qcow2Batch {
    Qcow2Image *image;
    Qcow2Header header;       /* a copy */
    bool relaid;              /* extensions, names or the version change: the header is laid out anew */
    uint8_t *cluster;         /* the first cluster as it will be; NULL unless relaid */
    uint64_t old_len;         /* bytes of the file before */
    uint64_t old_end;         /* host clusters: one more than the last one in use, or in the file */
    Qcow2CountsCache *counts;
    Qcow2FreeSpace *space;
    GArray *uncounted;        /* Run: taken, and not in the counts yet */
    bool is_low;              /* counts move down, too, even where they do not change */
    bool header_only;         /* settled: no count has changed */
    bool was_checked;         /* what is free; see check_before_use() */
    bool committed;
};

static bool check_writable(const Qcow2Image *image, GError **error)
{
    const Qcow2Header *header = &image->header;

    if (image->kind != QCOW2_IMAGE_QCOW2) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a raw image has no metadata to change");
    }
    if (header->incompatible & QCOW2_INCOMPAT_CORRUPT) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "the image is marked corrupt and cannot be written; run qcow-check"
                          " -r all");
    }
    if (header->incompatible & QCOW2_INCOMPAT_DIRTY) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "the image was not closed properly and its refcounts may be wrong"
                          " (dirty bit); run qcow-check -r all");
    }
    return true;
}

static uint64_t place_block(void *data, GError **error)
{
    return qcow2_batch_take(data, 1, error);
}

static Qcow2Batch *begin(Qcow2Image *image, unsigned n_blocks, GError **error)
{
    if (!check_writable(image, error)) {
        return NULL;
    }
    g_autoptr(Qcow2Batch) batch = g_new0(Qcow2Batch, 1);
    batch->image = image;
    qcow2_header_copy(&image->header, &batch->header);
    batch->committed = true;    /* nothing to give up yet */
    batch->uncounted = g_array_new(FALSE, FALSE, sizeof(Run));
    batch->counts = qcow2_counts_cache_new(image, place_block, batch, error);
    if (!batch->counts || !qcow2_io_get_size(image->file, &batch->old_len, error)) {
        return NULL;
    }
    batch->space = qcow2_free_space_new(image, batch->counts, n_blocks, error);
    if (!batch->space || !qcow2_image_check_roots(image, batch->counts, error)
        || !qcow2_image_check_tables(image, batch->space, error)) {
        return NULL;
    }
    batch->old_end = qcow2_free_space_end(batch->space);
    batch->committed = false;
    return g_steal_pointer(&batch);
}

Qcow2Batch *qcow2_batch_begin(Qcow2Image *image, GError **error)
{
    return begin(image, BLOCKS_LOOKED_AT, error);
}

Qcow2Batch *qcow2_batch_begin_low(Qcow2Image *image, GError **error)
{
    Qcow2Batch *batch = begin(image, UINT_MAX, error);

    if (batch) {
        batch->is_low = true;
    }
    return batch;
}

void qcow2_batch_keep_below(Qcow2Batch *batch, uint64_t limit)
{
    qcow2_free_space_keep_below(batch->space, limit);
}

void qcow2_batch_free(Qcow2Batch *batch)
{
    if (!batch) {
        return;
    }
    uint64_t len;
    if (!batch->committed && qcow2_io_get_size(batch->image->file, &len, NULL) && len > batch->old_len) {
        /* Best effort: what is past the old end is unused in any case. */
        qcow2_io_truncate(batch->image->file, batch->old_len, NULL);
    }
    qcow2_counts_cache_free(batch->counts);
    qcow2_free_space_free(batch->space);
    g_array_unref(batch->uncounted);
    qcow2_header_clear(&batch->header);
    g_free(batch->cluster);
    g_free(batch);
}

Qcow2Header *qcow2_batch_header(Qcow2Batch *batch)
{
    return &batch->header;
}

void qcow2_batch_relay_header(Qcow2Batch *batch)
{
    batch->relaid = true;
}

void qcow2_batch_set_ext(Qcow2Batch *batch, uint32_t type, const void *data, size_t len_bytes)
{
    qcow2_header_set_ext(&batch->header, type, data, len_bytes);
    batch->relaid = true;
}

bool qcow2_batch_set_refcount_order(Qcow2Batch *batch, unsigned refcount_order, GError **error)
{
    Qcow2Layout *layout = &batch->header.layout;
    Qcow2Layout before = *layout;

    *layout = qcow2_layout(before.version, before.cluster_bits, before.extended_l2, refcount_order,
                           before.has_data_file);
    Qcow2CountsCache *counts = qcow2_counts_cache_convert(batch->counts, layout, error);
    if (!counts) {
        *layout = before;
        return false;
    }
    qcow2_counts_cache_free(batch->counts);
    batch->counts = counts;
    return true;
}

Qcow2CountsCache *qcow2_batch_counts(Qcow2Batch *batch)
{
    return batch->counts;
}

static bool fail_limit(const Qcow2Batch *batch, uint64_t end_cluster, GError **error)
{
    if (qcow2_io_can_grow(batch->image->file)) {
        return qcow2_fail(error, QCOW2_ERROR_NO_SPACE, "the image would grow past 2^56 bytes");
    }
    return qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                      "0x%" PRIx64 " bytes are needed, and it has 0x%" PRIx64,
                      end_cluster << batch->header.layout.cluster_bits, batch->old_len);
}

/*
 * As late as this, since most changes find no free clusters, or need none; and once for an image, unless a
 * later batch looks further: between batches the counts are right as far as they were right before. Where it
 * cannot be known nothing is used again, and nothing is lost.
 */
static bool check_before_use(Qcow2Batch *batch, GError **error)
{
    Qcow2Image *image = batch->image;
    uint64_t start = qcow2_free_space_start(batch->space);
    bool is_known, takes_end = qcow2_io_can_grow(image->file) && qcow2_free_space_is_empty(batch->space);

    if (takes_end || batch->was_checked || (image->was_checked && image->checked_from <= start)) {
        return true;
    }
    if (!qcow2_image_check_in_use(image, batch->space, &is_known, error)) {
        return false;
    }
    batch->was_checked = true;
    if (is_known) {
        image->was_checked = true;
        image->checked_from = start;
    } else {
        qcow2_free_space_keep_below(batch->space, 0);
    }
    return true;
}

uint64_t qcow2_batch_take(Qcow2Batch *batch, uint64_t n_clusters, GError **error)
{
    if (!check_before_use(batch, error)) {
        return 0;
    }
    Run run = { qcow2_free_space_take(batch->space, n_clusters), n_clusters };

    if (run.first + n_clusters > qcow2_free_space_limit(batch->space)) {
        fail_limit(batch, run.first + n_clusters, error);
        return 0;
    }
    g_array_append_val(batch->uncounted, run);
    return run.first << batch->header.layout.cluster_bits;
}

bool qcow2_batch_take_at(Qcow2Batch *batch, uint64_t first_cluster, uint64_t n_clusters, GError **error)
{
    Run run = { first_cluster, n_clusters };

    if (!check_before_use(batch, error)) {
        return false;
    }
    if (!qcow2_free_space_take_at(batch->space, first_cluster, n_clusters)) {
        return qcow2_fail(error, QCOW2_ERROR_FAILED, "cluster %" PRIu64 " is not free", first_cluster);
    }
    g_array_append_val(batch->uncounted, run);
    return true;
}

bool qcow2_batch_take_for(Qcow2Batch *batch, uint64_t len_bytes, uint64_t *ret_offset, GError **error)
{
    uint64_t n = qcow2_div_round_up(len_bytes, batch->header.layout.cluster_size);

    *ret_offset = n > 0 ? qcow2_batch_take(batch, n, error) : 0;
    return n == 0 || *ret_offset != 0;
}

bool qcow2_batch_add(Qcow2Batch *batch, uint64_t host_offset, uint64_t len_bytes, int delta, GError **error)
{
    unsigned bits = batch->header.layout.cluster_bits;

    if (len_bytes == 0 || delta == 0) {
        return true;
    }
    uint64_t first = host_offset >> bits, last = (host_offset + len_bytes - 1) >> bits;
    if (last >= qcow2_free_space_end(batch->space)) {
        return qcow2_corrupt(error,
                             "an entry refers to 0x%" PRIx64 ", past the last cluster in use; run qcow-check"
                             " -r all", host_offset);
    }
    return qcow2_counts_cache_add(batch->counts, first, last - first + 1, delta, error);
}

bool qcow2_batch_write(Qcow2Batch *batch, uint64_t host_offset, const void *bytes, size_t len_bytes,
                       GError **error)
{
    return qcow2_io_write(batch->image->file, host_offset, bytes, len_bytes, error);
}

/* ---- Committing -------------------------------------------------------------------------------- */

bool qcow2_batch_count_taken(Qcow2Batch *batch, GError **error)
{
    for (guint i = 0; i < batch->uncounted->len; i++) {
        Run run = g_array_index(batch->uncounted, Run, i);
        if (!qcow2_counts_cache_add(batch->counts, run.first, run.n, 1, error)) {
            return false;
        }
    }
    g_array_set_size(batch->uncounted, 0);
    return true;
}

/*
 * Counting new clusters changes blocks, changed blocks need new clusters, and more blocks may need a longer
 * table: until nothing changes any more. Blocks near the end of the file soon cover themselves.
 */
static bool settle_counts(Qcow2Batch *batch, GError **error)
{
    Qcow2Header *header = &batch->header;
    uint64_t cluster_size = header->layout.cluster_size;
    uint64_t placed = 1;

    batch->header_only = !batch->is_low && batch->uncounted->len == 0
                      && !qcow2_counts_cache_is_changed(batch->counts);
    if (batch->header_only) {
        return true;
    }
    if (!qcow2_batch_add(batch, header->reftable_offset, header->reftable_clusters * cluster_size, -1,
                         error)) {
        return false;
    }
    header->reftable_clusters = 0;
    while (placed > 0 || batch->uncounted->len > 0) {
        if (!qcow2_batch_count_taken(batch, error)
            || !qcow2_counts_cache_place_all(batch->counts, &placed, error)) {
            return false;
        }
        uint64_t needed = qcow2_div_round_up(qcow2_counts_cache_n_blocks(batch->counts) * 8, cluster_size);
        if (needed * cluster_size > QCOW2_MAX_REFTABLE_BYTES) {
            return qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                              "the refcount table would grow past %" PRIu64 " bytes",
                              QCOW2_MAX_REFTABLE_BYTES);
        }
        if (needed > header->reftable_clusters) {
            if (!qcow2_batch_add(batch, header->reftable_offset, header->reftable_clusters * cluster_size, -1,
                                 error)) {
                return false;
            }
            header->reftable_offset = qcow2_batch_take(batch, needed, error);
            header->reftable_clusters = (uint32_t)needed;
            if (header->reftable_offset == 0) {
                return false;
            }
        }
    }
    return true;
}

/* The bytes past the first sector that differ, in one write; the old header does not use them. */
static bool write_past_sector(Qcow2Batch *batch, const uint8_t *old, size_t len, GError **error)
{
    size_t start = SECTOR, end = len;

    while (start < end && old[start] == batch->cluster[start]) {
        start++;
    }
    while (end > start && old[end - 1] == batch->cluster[end - 1]) {
        end--;
    }
    return start == end
        || qcow2_io_write(batch->image->file, start, batch->cluster + start, end - start, error);
}

/* What is read back must be what was meant: a header that cannot be read is found before it is written. */
static bool lay_header_out(Qcow2Batch *batch, const uint8_t *old, size_t len, GError **error)
{
    g_auto(Qcow2Header) decoded = { 0 };

    batch->cluster = g_try_malloc(len);
    if (!batch->cluster) {
        return qcow2_fail_memory(error, len, "the header");
    }
    if (!qcow2_header_switch(old, &batch->header, batch->cluster, len, error)
        || !qcow2_header_decode(batch->cluster, len, &decoded, error)) {
        return false;
    }
    qcow2_header_clear(&batch->header);
    qcow2_header_copy(&decoded, &batch->header);
    return write_past_sector(batch, old, len, error);
}

static bool prepare_header(Qcow2Batch *batch, GError **error)
{
    size_t len = batch->relaid ? batch->header.layout.cluster_size : SECTOR;
    g_autofree uint8_t *old = g_try_malloc(len);

    if (!old) {
        return qcow2_fail_memory(error, len, "the header");
    }
    if (!qcow2_io_read(batch->image->file, 0, old, len, error)) {
        return false;
    }
    /* Who writes clears what it does not know. */
    batch->header.autoclear &= QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA;
    if (batch->relaid) {
        return lay_header_out(batch, old, len, error);
    }
    qcow2_header_patch_roots(&batch->header, old);
    batch->cluster = g_steal_pointer(&old);
    return true;
}

uint64_t qcow2_batch_end(const Qcow2Batch *batch)
{
    return qcow2_free_space_end(batch->space) << batch->header.layout.cluster_bits;
}

static bool write_everything(Qcow2Batch *batch, GError **error)
{
    uint64_t end = qcow2_batch_end(batch), size;

    if (batch->header_only) {
        return prepare_header(batch, error) && qcow2_io_flush(batch->image->file, error);
    }
    if (!qcow2_counts_cache_write(batch->counts, batch->header.reftable_offset,
                                  batch->header.reftable_clusters, error)
        || !prepare_header(batch, error) || !qcow2_io_get_size(batch->image->file, &size, error)) {
        return false;
    }
    /* The last cluster whole, so that a later write to it cannot fail for want of a longer file. */
    return (size >= end || !qcow2_io_can_grow(batch->image->file)
            || qcow2_io_truncate(batch->image->file, end, error))
        && qcow2_io_flush(batch->image->file, error);
}

/* Names that others may still look at stay where they are unless they changed. */
static void take_header_over(Qcow2Batch *batch)
{
    Qcow2Image *image = batch->image;

    if (batch->relaid) {
        qcow2_header_clear(&image->header);
        qcow2_header_copy(&batch->header, &image->header);
    } else {
        Qcow2Header header = batch->header;
        header.backing_name = image->header.backing_name;
        header.backing_format = image->header.backing_format;
        header.data_file = image->header.data_file;
        header.unknown_fields = image->header.unknown_fields;
        header.extensions = image->header.extensions;
        image->header = header;
    }
    image->size = qcow2_align_down(image->header.size, QCOW2_SECTOR_SIZE);
    g_clear_pointer(&image->snapshots, g_array_unref);
}

static bool publish(Qcow2Batch *batch, GError **error)
{
    Qcow2Image *image = batch->image;
    bool written = qcow2_image_publish_header(image->file, batch->cluster, error);

    /* Also after a failure it may be on disk: neither state may be cut off. */
    batch->committed = true;
    qcow2_trial_note_freed(image->file, qcow2_counts_cache_n_freed(batch->counts)
                                            << batch->header.layout.cluster_bits);
    if (!written) {
        g_prefix_error(error, "header: ");
        return false;
    }
    take_header_over(batch);
    return true;
}

bool qcow2_batch_rehearse(Qcow2Batch *batch, GError **error)
{
    return settle_counts(batch, error) && write_everything(batch, error);
}

bool qcow2_batch_commit(Qcow2Batch *batch, GError **error)
{
    return qcow2_batch_rehearse(batch, error) && publish(batch, error);
}

bool qcow2_batch_commit_in_file(Qcow2Batch *batch, bool *ret_committed, GError **error)
{
    *ret_committed = false;
    if (!settle_counts(batch, error)) {
        return false;
    }
    *ret_committed = qcow2_free_space_end(batch->space) <= batch->old_end;
    return !*ret_committed || (write_everything(batch, error) && publish(batch, error));
}

bool qcow2_batch_cut_end(Qcow2Batch *batch, GError **error)
{
    uint64_t end = qcow2_counts_cache_end(batch->counts), count = 0, size;

    while (end > 0) {
        if (!qcow2_counts_cache_get(batch->counts, end - 1, &count, error)) {
            return false;
        }
        if (count > 0) {
            break;
        }
        end--;
    }
    if (!qcow2_io_get_size(batch->image->file, &size, error)) {
        return false;
    }
    end <<= batch->header.layout.cluster_bits;
    batch->old_len = MIN(batch->old_len, end);
    return size <= end || qcow2_io_truncate(batch->image->file, end, error);
}
