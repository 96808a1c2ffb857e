/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What each layer of a chain says about itself. */
#include <string.h>

#include "chain/chain.h"
#include "format/bitmap-directory.h"
#include "format/luks.h"
#include "image/bitmaps.h"
#include "io/backends.h"
#include "util/error.h"

static bool load_luks(Qcow2Layer *layer, GError **error)
{
    const Qcow2Image *image = layer->image;
    uint8_t bytes[QCOW2_LUKS_HEADER_LEN];

    if (layer->luks || image->header.crypt != QCOW2_CRYPT_LUKS) {
        return true;
    }
    Qcow2LuksInfo *luks = g_new0(Qcow2LuksInfo, 1);
    if (!qcow2_io_read(image->file, image->header.crypt_offset, bytes, sizeof(bytes), error)
        || !qcow2_luks_decode(bytes, MIN(sizeof(bytes), image->header.crypt_len), luks, error)) {
        g_prefix_error(error, "LUKS header at 0x%" PRIx64 ": ", image->header.crypt_offset);
        g_free(luks);
        return false;
    }
    layer->luks = luks;
    return true;
}

static bool load_snapshot_infos(Qcow2Layer *layer, GError **error)
{
    if (layer->snapshot_infos) {
        return true;
    }
    if (!qcow2_image_load_snapshots(layer->image, error)) {
        return false;
    }
    /* The image may read its table again; what the caller was given stays. */
    GArray *entries = layer->snapshot_entries = g_array_ref(layer->image->snapshots);
    layer->snapshot_infos = g_array_sized_new(FALSE, FALSE, sizeof(Qcow2Snapshot), entries->len);
    for (guint i = 0; i < entries->len; i++) {
        g_array_append_val(layer->snapshot_infos, g_array_index(entries, Qcow2SnapshotEntry, i).info);
    }
    return true;
}

/* In QEMU's words. That there are no bitmaps to be seen is not the whole truth. */
static void warn_stale_bitmaps(const Qcow2Chain *chain, const Qcow2Layer *layer)
{
    const Qcow2Image *image = layer->image;

    if (image->kind == QCOW2_IMAGE_QCOW2 && !image->header.has_bitmaps
        && qcow2_header_find_ext(&image->header, QCOW2_EXT_BITMAPS)) {
        qcow2_chain_warn(chain,
                         "'%s': a program lacking bitmap support modified this file, so all bitmaps are now"
                         " considered inconsistent; some clusters may be leaked, qcow-check -r leaks frees"
                         " them", layer->place->shown);
    }
}

static bool load_bitmap_infos(const Qcow2Chain *chain, Qcow2Layer *layer, GError **error)
{
    if (layer->bitmap_infos) {
        return true;
    }
    warn_stale_bitmaps(chain, layer);
    GArray *entries = qcow2_image_read_bitmaps(layer->image, error);
    if (!entries) {
        return false;
    }
    layer->bitmap_entries = entries;
    layer->bitmap_infos = g_array_sized_new(FALSE, TRUE, sizeof(Qcow2BitmapInfo), entries->len);
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        Qcow2BitmapInfo info = {
            .name = entry->name,
            .granularity = BIT(entry->granularity_bits),
            .enabled = entry->flags & QCOW2_BITMAP_AUTO,
            .in_use = entry->flags & QCOW2_BITMAP_IN_USE,
        };
        g_array_append_val(layer->bitmap_infos, info);
    }
    return true;
}

bool qcow2_chain_load_bitmap_counts(Qcow2Chain *chain, unsigned index, GError **error)
{
    Qcow2Layer *layer = qcow2_chain_layer(chain, index);

    if (!load_bitmap_infos(chain, layer, error)) {
        g_prefix_error(error, "'%s': ", layer->place->shown);
        return false;
    }
    for (guint i = 0; i < layer->bitmap_infos->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(layer->bitmap_entries, Qcow2BitmapEntry, i);
        Qcow2BitmapInfo *info = &g_array_index(layer->bitmap_infos, Qcow2BitmapInfo, i);
        if (!qcow2_image_count_bitmap(layer->image, entry, &info->dirty_bytes, error)) {
            g_prefix_error(error, "'%s': bitmap '%s': ", layer->place->shown, entry->name);
            return false;
        }
    }
    return true;
}

/*
 * The name of the layer below as QEMU prints it: paths are joined with the image's folder, names with a
 * protocol stay. NULL when there is no such folder.
 */
static const char *full_backing_name(Qcow2Layer *layer)
{
    const char *name = layer->image->header.backing_name;

    if (!layer->full_backing_name) {
        g_autoptr(Qcow2Place) place = qcow2_backing_place(layer, NULL);
        bool has_protocol = g_str_has_prefix(name, "json:") || g_str_has_prefix(name, "file:")
                         || (place && place->kind == QCOW2_PLACE_NBD);
        layer->full_backing_name = g_strdup(has_protocol ? name : place ? place->target : NULL);
    }
    return layer->full_backing_name;
}

static void fill_qcow2(Qcow2Layer *layer, Qcow2ImageInfo *ret)
{
    const Qcow2Header *header = &layer->image->header;

    ret->cluster_size = header->layout.cluster_size;
    ret->version = header->layout.version;
    ret->refcount_bits = 1u << header->layout.refcount_order;
    ret->dirty = header->incompatible & QCOW2_INCOMPAT_DIRTY;
    ret->corrupt = header->incompatible & QCOW2_INCOMPAT_CORRUPT;
    ret->lazy_refcounts = header->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    ret->extended_l2 = header->layout.extended_l2;
    ret->data_file_raw = header->autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
    ret->bitmaps_consistent = header->autoclear & QCOW2_AUTOCLEAR_BITMAPS;
    ret->encrypted = header->crypt != QCOW2_CRYPT_NONE;
    ret->encryption = header->crypt == QCOW2_CRYPT_LUKS  ? "luks"
                      : header->crypt == QCOW2_CRYPT_AES ? "aes"
                                                         : NULL;
    ret->luks = layer->luks;
    ret->compression_type = header->compression == QCOW2_COMPRESSION_ZSTD ? "zstd" : "zlib";
    ret->backing_filename = header->backing_name;
    ret->full_backing_filename = header->backing_name ? full_backing_name(layer) : NULL;
    ret->backing_format = header->backing_format;
    ret->data_file = header->layout.has_data_file ? header->data_file : NULL;
}

bool qcow2_chain_get_info(Qcow2Chain *chain, unsigned index, Qcow2ImageInfo *ret_info, GError **error)
{
    Qcow2Layer *layer = qcow2_chain_layer(chain, index);
    const Qcow2Image *image = layer->image;
    Qcow2ImageInfo info = {
        .filename = layer->place->shown,
        .format = image->kind == QCOW2_IMAGE_RAW ? "raw" : "qcow2",
        .protocol = image->file->ops->protocol,
        .virtual_size = image->size,
        .format_was_probed = layer->format_was_probed,
        .extent_size_hint = qcow2_io_file_extent_size_hint(image->file),
    };

    info.has_actual_size = qcow2_io_get_actual_size(image->file, &info.actual_size);
    if (!qcow2_io_get_size(image->file, &info.file_length, error) || !load_luks(layer, error)
        || !load_snapshot_infos(layer, error) || !load_bitmap_infos(chain, layer, error)) {
        g_prefix_error(error, "'%s': ", layer->place->shown);
        return false;
    }
    if (image->kind == QCOW2_IMAGE_QCOW2) {
        fill_qcow2(layer, &info);
    }
    info.snapshots = (const Qcow2Snapshot *)(const void *)layer->snapshot_infos->data;
    info.n_snapshots = layer->snapshot_infos->len;
    info.bitmaps = (const Qcow2BitmapInfo *)(const void *)layer->bitmap_infos->data;
    info.n_bitmaps = layer->bitmap_infos->len;
    *ret_info = info;
    return true;
}
