/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/resize.h"

#include "format/l2.h"
#include "image/bitmap-write.h"
#include "image/editor.h"
#include "image/reserve.h"
#include "util/error.h"
#include "util/progress.h"

/* ---- Checks ------------------------------------------------------------------------------------ */

static bool check_l1(const Qcow2Layout *layout, uint64_t size, GError **error)
{
    uint64_t needed = qcow2_l1_entries(layout, size), limit = QCOW2_MAX_L1_BYTES / 8;

    return needed <= limit
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "Failed to grow the L1 table: File too large: a disk of %" PRIu64
                      " bytes needs %" PRIu64 " entries with clusters of %" PRIu64
                      " bytes, and the limit is %" PRIu64,
                      size, needed, layout->cluster_size, limit);
}

/* Zeros in an encrypted cluster are no zeros to the guest. */
static bool check_encrypted(const Qcow2Image *image, const Qcow2Resize *resize, GError **error)
{
    bool writes_zeros = resize->preallocation != QCOW2_PREALLOCATION_OFF
                     || (image->header.layout.version < 3 && resize->shown);

    return image->header.crypt == QCOW2_CRYPT_NONE || resize->size <= image->size || !writes_zeros
        || qcow2_fail(error, QCOW2_ERROR_ENCRYPTED,
                      "the image is encrypted: writing zeros into its new part needs the key");
}

bool qcow2_image_check_resize(const Qcow2Image *image, const Qcow2Resize *resize, GError **error)
{
    const Qcow2Header *header = &image->header;

    if (resize->size % QCOW2_SECTOR_SIZE != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "The new size must be a multiple of 512");
    }
    /* Snapshots of version 2 need not say how large they are. */
    if (header->layout.version < 3 && header->n_snapshots > 0) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "Can't resize a v2 image which has snapshots");
    }
    return check_l1(&header->layout, resize->size, error) && check_encrypted(image, resize, error);
}

/* ---- Growing ----------------------------------------------------------------------------------- */

typedef struct Growth {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    const Qcow2Resize *resize;
    Qcow2Batch *batch;
    Qcow2Editor *editor;
    Qcow2Progress *progress;
    uint64_t first, end;          /* guest clusters that are new as a whole */
} Growth;

static uint64_t guest_offset(const Growth *growth, uint64_t cluster)
{
    return cluster << growth->layout->cluster_bits;
}

static bool is_raw_data(const Qcow2Image *image)
{
    return image->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
}

/* A raw data file is the disk only as long as every cluster is mapped where it lies. */
static Qcow2Preallocation wanted_preallocation(const Growth *growth)
{
    bool must_map = is_raw_data(growth->image) && growth->resize->preallocation == QCOW2_PREALLOCATION_OFF;

    return must_map ? QCOW2_PREALLOCATION_METADATA : growth->resize->preallocation;
}

/*
 * The cluster in which the disk ended gets a new place, with zeros where its old bytes would show. In a data
 * file its place is fixed: nobody sees what is past the end of the disk, and the rest is written as it is.
 */
static bool replace_tail(Growth *growth, GError **error)
{
    const Qcow2Layout *layout = growth->layout;
    uint64_t cluster = growth->image->size >> layout->cluster_bits;
    uint64_t start = guest_offset(growth, cluster), len = layout->cluster_size, host_offset = start;
    uint64_t bitmap = layout->extended_l2 ? UINT32_MAX : 0;

    if (!growth->resize->tail) {
        return true;
    }
    if (layout->has_data_file) {
        len = MIN(len, growth->resize->size - start);
    } else {
        host_offset = qcow2_batch_take(growth->batch, 1, error);
        if (host_offset == 0) {
            return false;
        }
    }
    return qcow2_io_write(growth->image->data, host_offset, growth->resize->tail, len, error)
        && qcow2_editor_set(growth->editor, cluster, 1, host_offset | L2E_COPIED, bitmap, 0, error);
}

/* Leftovers of a time when the disk was larger. */
static bool drop_leftovers(Growth *growth, uint64_t old_l1_entries, GError **error)
{
    uint64_t end = MIN(growth->end, old_l1_entries << growth->layout->l2_bits);

    return qcow2_editor_drop(growth->editor, growth->first, end, error);
}

/* Maps guest clusters to new ones that read as zeros. */
static bool map_zeros(Growth *growth, uint64_t first, uint64_t n, uint64_t bitmap, GError **error)
{
    uint64_t len = n << growth->layout->cluster_bits;
    uint64_t host_offset = n > 0 ? qcow2_batch_take(growth->batch, n, error) : 0;

    return n == 0
        || (host_offset != 0
            && qcow2_reserve(growth->image->file, host_offset, host_offset + len,
                             wanted_preallocation(growth), growth->progress, error)
            && qcow2_editor_set(growth->editor, first, n, host_offset | L2E_COPIED, bitmap,
                                growth->layout->cluster_size, error));
}

/* Subclusters that say nothing would show what is below. */
static bool map_everything(Growth *growth, GError **error)
{
    const Qcow2Layout *layout = growth->layout;
    uint64_t n = growth->end - growth->first;
    uint64_t bitmap = layout->extended_l2 && growth->resize->shown ? (uint64_t)UINT32_MAX << 32 : 0;

    if (layout->has_data_file) {
        uint64_t raw = guest_offset(growth, growth->first) | L2E_COPIED;
        return qcow2_editor_set(growth->editor, growth->first, n, raw, bitmap, layout->cluster_size, error);
    }
    return map_zeros(growth, growth->first, n, bitmap, error);
}

/* Version 2 has no zero clusters. */
static bool hide_clusters(Growth *growth, uint64_t first, uint64_t n, GError **error)
{
    const Qcow2Layout *layout = growth->layout;

    if (layout->version < 3) {
        return map_zeros(growth, first, n, 0, error);
    }
    return qcow2_editor_set(growth->editor, first, n, layout->extended_l2 ? 0 : L2E_ZERO,
                            layout->extended_l2 ? (uint64_t)UINT32_MAX << 32 : 0, 0, error);
}

/* Only where the layers below hold data: elsewhere the new part reads as zeros by itself. */
static bool hide_shown(Growth *growth, GError **error)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    uint64_t start = guest_offset(growth, growth->first), end = guest_offset(growth, growth->end);
    uint64_t window = qcow2_image_window(growth->image);

    for (; growth->resize->shown && start < end; start += MIN(window, end - start)) {
        Qcow2Range range = { start, start + MIN(window, end - start) };
        g_array_set_size(ranges, 0);
        if (!qcow2_progress_check(growth->progress, error)
            || !growth->resize->shown(&range, ranges, growth->resize->shown_data, error)) {
            return false;
        }
        qcow2_ranges_align(ranges, growth->layout->cluster_size, range.end);
        for (guint i = 0; i < ranges->len; i++) {
            const Qcow2Range *shown = &g_array_index(ranges, Qcow2Range, i);
            uint64_t first = shown->start >> growth->layout->cluster_bits;
            if (!hide_clusters(growth, first, (shown->end >> growth->layout->cluster_bits) - first, error)) {
                return false;
            }
        }
    }
    return true;
}

/* The data file is on disk before an entry points into it. */
static bool grow_data_file(Growth *growth, GError **error)
{
    Qcow2Io *data = growth->image->data;
    uint64_t size = growth->resize->size, old_size;
    Qcow2Preallocation mode = wanted_preallocation(growth);

    if (!growth->layout->has_data_file) {
        return true;
    }
    if (!qcow2_io_get_size(data, &old_size, error)) {
        return false;
    }
    bool grown = mode != QCOW2_PREALLOCATION_OFF
               ? qcow2_reserve(data, growth->image->size, size, mode, growth->progress, error)
               : old_size >= size || qcow2_io_truncate(data, size, error);
    if (!grown || !qcow2_io_flush(data, error)) {
        g_prefix_error(error, "data file: ");
        return false;
    }
    return true;
}

static bool change_tables(Growth *growth, uint64_t old_l1_entries, GError **error)
{
    bool map = wanted_preallocation(growth) != QCOW2_PREALLOCATION_OFF;

    return drop_leftovers(growth, old_l1_entries, error)
        && replace_tail(growth, error)
        && (map ? map_everything(growth, error) : hide_shown(growth, error))
        && grow_data_file(growth, error);
}

/* ---- The whole --------------------------------------------------------------------------------- */

static bool resize_in_batch(Qcow2Image *image, const Qcow2Resize *resize, Qcow2Batch *batch,
                            Qcow2Progress *progress, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    Qcow2Header *header = qcow2_batch_header(batch);
    Qcow2View view = qcow2_image_active_view(image);
    g_autoptr(Qcow2Editor) editor = qcow2_editor_new(batch, image, &view, resize->size, error);
    g_autoptr(GArray) no_ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    Growth growth = {
        .image = image,
        .layout = layout,
        .resize = resize,
        .batch = batch,
        .editor = editor,
        .progress = progress,
        .first = qcow2_div_round_up(image->size, layout->cluster_size),
        .end = qcow2_div_round_up(resize->size, layout->cluster_size),
    };

    if (!editor || (resize->size > image->size && !change_tables(&growth, view.l1_entries, error))) {
        return false;
    }
    header->size = resize->size;
    return qcow2_editor_finish(editor, &header->l1_offset, &header->l1_entries, error)
        && qcow2_batch_mark_bitmaps(batch, image, no_ranges, error)
        && qcow2_batch_commit(batch, error);
}

bool qcow2_image_resize(Qcow2Image *image, const Qcow2Resize *resize, Qcow2Progress *progress,
                        GError **error)
{
    /* The data file grows before the batch ends: bitmaps are looked at before. */
    bool possible = qcow2_image_check_bitmaps(image, error);
    g_autoptr(Qcow2Batch) batch = possible ? qcow2_batch_begin(image, error) : NULL;

    return batch && resize_in_batch(image, resize, batch, progress, error);
}
