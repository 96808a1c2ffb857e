/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/amend.h"

#include <string.h>

#include "format/l2.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"

#define VERSION_2_REFCOUNT_ORDER 4u

void qcow2_amendment_init(const Qcow2Image *image, Qcow2Amendment *ret)
{
    const Qcow2Header *header = &image->header;

    *ret = (Qcow2Amendment) {
        .version = header->layout.version,
        .refcount_order = header->layout.refcount_order,
        .lazy_refcounts = header->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS,
        .raw_data_file = header->autoclear & QCOW2_AUTOCLEAR_RAW_DATA,
        .data_file = header->data_file,
    };
}

static bool is_downgrade(const Qcow2Image *image, const Qcow2Amendment *amendment)
{
    return amendment->version < image->header.layout.version;
}

/* ---- Checks ------------------------------------------------------------------------------------ */

static bool check_counts(const Qcow2Amendment *amendment, GError **error)
{
    if (amendment->version >= 3 || amendment->refcount_order == VERSION_2_REFCOUNT_ORDER) {
        return true;
    }
    return qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "Refcount widths other than 16 bits require compatibility level 1.1 or above (use"
                      " compat=1.1 or greater; compat=0.10 requires refcount_bits=16)");
}

static bool check_data_file(const Qcow2Image *image, const Qcow2Amendment *amendment, GError **error)
{
    const Qcow2Header *header = &image->header;

    if (g_strcmp0(amendment->data_file, header->data_file) != 0 && !header->layout.has_data_file) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "data-file can only be set for images that use an external data file");
    }
    return !amendment->raw_data_file || (header->autoclear & QCOW2_AUTOCLEAR_RAW_DATA)
        || qcow2_fail(error, QCOW2_ERROR_INVALID, "data-file-raw cannot be set on existing images");
}

/* A reader of version 2 takes every snapshot for as large as the disk, and 32 bits for its VM state. */
static bool check_snapshots(const Qcow2Image *image, GError **error)
{
    for (guint i = 0; i < image->snapshots->len; i++) {
        const Qcow2Snapshot *info = &g_array_index(image->snapshots, Qcow2SnapshotEntry, i).info;
        if (info->vm_state_size > G_MAXUINT32 || info->disk_size != image->size) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                              "Internal snapshots prevent downgrade of image: '%s' has another size",
                              info->name);
        }
    }
    return true;
}

static bool is_not_compressed(const Qcow2Reference *reference, void *data, GError **error)
{
    (void)data;
    return !reference->compressed
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "Cannot downgrade an image with zstd compression type and existing compressed"
                      " clusters");
}

static bool has_no_compressed(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                              GError **error)
{
    const Qcow2Image *image = data;

    (void)l1_index;
    (void)host_offset;
    return qcow2_each_reference(&image->header.layout, raw, is_not_compressed, NULL, error);
}

static bool check_compressed(Qcow2Image *image, GError **error)
{
    Qcow2View view = qcow2_image_active_view(image);

    if (image->header.compression == QCOW2_COMPRESSION_ZLIB) {
        return true;
    }
    if (!qcow2_each_table(image, &view, has_no_compressed, image, error)) {
        return false;
    }
    for (guint i = 0; i < image->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(image->snapshots, Qcow2SnapshotEntry, i);
        if (!qcow2_image_snapshot_view(image, entry, &view, error)
            || !qcow2_each_table(image, &view, has_no_compressed, image, error)) {
            return false;
        }
    }
    return true;
}

static bool check_downgrade(Qcow2Image *image, GError **error)
{
    const Qcow2Header *header = &image->header;
    uint64_t unfit = header->incompatible & ~QCOW2_INCOMPAT_COMPRESSION;

    if (header->layout.has_data_file) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "Cannot downgrade an image with a data file");
    }
    if (unfit) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "Cannot downgrade an image with incompatible features 0x%" PRIx64 " set%s", unfit,
                          unfit & QCOW2_INCOMPAT_EXTENDED_L2 ? " (extended L2 entries)" : "");
    }
    if (header->n_bitmaps > 0) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "Cannot downgrade an image with dirty bitmaps: it has %" PRIu32
                          ", which compat=0.10 cannot hold; remove them first", header->n_bitmaps);
    }
    return check_snapshots(image, error) && check_compressed(image, error);
}

bool qcow2_image_check_amendment(Qcow2Image *image, const Qcow2Amendment *amendment, GError **error)
{
    bool was_lazy = image->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;

    if (amendment->version < 3 && amendment->lazy_refcounts && !was_lazy) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Lazy refcounts only supported with compatibility level 1.1 and above (use"
                          " compat=1.1 or greater)");
    }
    return check_counts(amendment, error)
        && check_data_file(image, amendment, error)
        && qcow2_image_load_snapshots(image, error)
        && (!is_downgrade(image, amendment) || check_downgrade(image, error));
}

/* ---- Changes ----------------------------------------------------------------------------------- */

static bool change_counts(Qcow2Batch *batch, const Qcow2Amendment *amendment, GError **error)
{
    unsigned order = qcow2_batch_header(batch)->layout.refcount_order;

    return amendment->refcount_order == order
        || qcow2_batch_set_refcount_order(batch, amendment->refcount_order, error);
}

/* Version 3 wants the disk size in every snapshot. */
static bool complete_snapshots(Qcow2Batch *batch, const Qcow2Image *image, GError **error)
{
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(image);
    bool complete = true;

    for (guint i = 0; i < entries->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(image->snapshots, Qcow2SnapshotEntry, i);
        if (!entry->has_disk_size) {
            g_bytes_unref(g_ptr_array_index(entries, i));
            g_ptr_array_index(entries, i) = qcow2_snapshot_entry_completed(entry->raw, entry->info.disk_size);
            complete = false;
        }
    }
    return complete || qcow2_batch_set_snapshots(batch, image, entries, error);
}

static bool upgrade(Qcow2Batch *batch, const Qcow2Image *image, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(batch);

    header->layout.version = 3;
    qcow2_header_set_feature_names(header);
    qcow2_batch_relay_header(batch);
    return complete_snapshots(batch, image, error);
}

static bool downgrade(Qcow2Batch *batch, Qcow2Image *image, const Qcow2Amendment *amendment,
                      Qcow2Progress *progress, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(batch);

    header->layout.version = 2;
    header->incompatible = header->compatible = header->autoclear = 0;
    header->compression = QCOW2_COMPRESSION_ZLIB;
    g_clear_pointer(&header->unknown_fields, g_bytes_unref);
    qcow2_header_set_ext(header, QCOW2_EXT_FEATURE_NAMES, NULL, 0);
    qcow2_batch_relay_header(batch);
    return qcow2_batch_expand_zeros(batch, image, amendment, progress, error);
}

static void change_flags(Qcow2Batch *batch, const Qcow2Amendment *amendment)
{
    Qcow2Header *header = qcow2_batch_header(batch);
    const char *data_file = amendment->data_file;

    header->compatible = (header->compatible & ~QCOW2_COMPAT_LAZY_REFCOUNTS)
                       | (amendment->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
    header->autoclear = (header->autoclear & ~QCOW2_AUTOCLEAR_RAW_DATA)
                      | (amendment->raw_data_file ? QCOW2_AUTOCLEAR_RAW_DATA : 0);
    if (g_strcmp0(header->data_file, data_file) != 0) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_DATA_FILE, data_file, data_file ? strlen(data_file) : 0);
    }
}

static bool is_already_so(const Qcow2Image *image, const Qcow2Amendment *amendment)
{
    Qcow2Amendment now;

    qcow2_amendment_init(image, &now);
    return now.version == amendment->version && now.refcount_order == amendment->refcount_order
        && now.lazy_refcounts == amendment->lazy_refcounts && now.raw_data_file == amendment->raw_data_file
        && g_strcmp0(now.data_file, amendment->data_file) == 0;
}

bool qcow2_image_amend(Qcow2Image *image, const Qcow2Amendment *amendment, Qcow2Progress *progress,
                       GError **error)
{
    if (is_already_so(image, amendment)) {
        return true;
    }
    unsigned old_version = image->header.layout.version;
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);
    if (!batch || !change_counts(batch, amendment, error)
        || (amendment->version > old_version && !upgrade(batch, image, error))) {
        return false;
    }
    change_flags(batch, amendment);
    return (amendment->version >= old_version || downgrade(batch, image, amendment, progress, error))
        && qcow2_batch_commit(batch, error);
}
