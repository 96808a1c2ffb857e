/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The persistent bitmaps of a source, in the copy. */
#include "image/bitmap-write.h"
#include "image/bitmaps.h"
#include "ops/copy.h"
#include "util/error.h"

static Qcow2Image *source_image(const Qcow2Copy *copy)
{
    return qcow2_chain_image(copy->first, 0);
}

static bool is_broken(const Qcow2BitmapEntry *entry)
{
    bool is_unknown = entry->extra_data_len > 0 && !(entry->flags & QCOW2_BITMAP_EXTRA_DATA_COMPATIBLE);

    return is_unknown || (entry->flags & QCOW2_BITMAP_IN_USE);
}

static void warn(const Qcow2Copy *copy, const char *message)
{
    if (copy->options->warn) {
        copy->options->warn(message, copy->options->warn_data);
    }
}

static bool check_entries(const Qcow2Copy *copy, const GArray *entries, GError **error)
{
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        g_autofree char *name = qcow2_escape_name(entry->name, -1);
        if (!is_broken(entry)) {
            continue;
        }
        if (!copy->options->skip_broken_bitmaps) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                              "Cannot copy inconsistent bitmap '%s': try --skip-broken-bitmaps, or use"
                              " 'qcow-bitmap --remove' to delete it",
                              name);
        }
        g_autofree char *message = g_strdup_printf("Skipping inconsistent bitmap '%s'", name);
        warn(copy, message);
    }
    return true;
}

/* Without its autoclear bit nobody looks at the directory, so that they would be lost without a word. */
static bool check_vouched_for(const Qcow2Copy *copy, GError **error)
{
    if (!qcow2_image_has_stale_bitmaps(source_image(copy))) {
        return true;
    }
    if (!copy->options->skip_broken_bitmaps) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "Cannot copy inconsistent bitmaps: a program lacking bitmap support modified this"
                          " file, so all of them are; try --skip-broken-bitmaps");
    }
    warn(copy, "Skipping all bitmaps: a program lacking bitmap support modified this file, so they are"
               " inconsistent");
    return true;
}

static bool check_source(const Qcow2Copy *copy, GError **error)
{
    Qcow2Image *image = source_image(copy);

    if (image->kind == QCOW2_IMAGE_RAW || image->header.layout.version < 3) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Source lacks bitmap support");
    }
    if (!check_vouched_for(copy, error)) {
        return false;
    }
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(image, error);
    return entries && check_entries(copy, entries, error);
}

bool qcow2_copy_check_bitmaps(const Qcow2Copy *copy, GError **error)
{
    if (copy->options->bitmaps && !check_source(copy, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(copy->first, 0));
        return false;
    }
    return true;
}

static bool add_one(Qcow2BitmapEdit *edit, Qcow2Image *source, const Qcow2BitmapEntry *entry, GError **error)
{
    if (is_broken(entry)) {
        return true;
    }
    g_autoptr(Qcow2BitmapBits) bits = qcow2_bitmap_bits_open(source, NULL, entry, source->size, error);
    return bits
        && qcow2_bitmap_edit_add(edit, entry->name, entry->granularity_bits,
                                 entry->flags & QCOW2_BITMAP_AUTO, error)
        && qcow2_bitmap_edit_merge(edit, entry->name, bits, error);
}

bool qcow2_copy_bitmaps(const Qcow2Copy *copy, Qcow2Batch *batch, Qcow2Image *target, GError **error)
{
    Qcow2Image *source = source_image(copy);

    if (!copy->options->bitmaps) {
        return true;
    }
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(source, error);
    g_autoptr(Qcow2BitmapEdit) edit = entries ? qcow2_bitmap_edit_new(batch, target, error) : NULL;
    if (!edit) {
        return false;
    }
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        if (!add_one(edit, source, entry, error)) {
            g_autofree char *name = qcow2_escape_name(entry->name, -1);
            g_prefix_error(error, "Failed to create bitmap %s: ", name);
            return false;
        }
    }
    return qcow2_bitmap_edit_finish(edit, error);
}

/* Of @image, on a disk of @size bytes in clusters of @layout: bits, their tables, and the directory. */
static bool count_clusters(Qcow2Image *image, const Qcow2Layout *layout, uint64_t size, uint64_t *n_clusters,
                           GError **error)
{
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(image, error);

    for (guint i = 0; entries && i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        uint64_t n_bits = qcow2_div_round_up(size, BIT(entry->granularity_bits));
        uint64_t n_data = qcow2_div_round_up(qcow2_div_round_up(n_bits, 8), layout->cluster_size);
        uint64_t n_tables = qcow2_div_round_up(n_data * sizeof(uint64_t), layout->cluster_size);
        *n_clusters += n_data + n_tables
                     + qcow2_div_round_up(QCOW2_MAX_BITMAP_NAME + entry->extra_data_len, layout->cluster_size)
                     + 1;
    }
    return entries != NULL;
}

bool qcow2_copy_most_of_bitmaps(const Qcow2Copy *copy, Qcow2Image *target, uint64_t *ret_bytes,
                                GError **error)
{
    const Qcow2Layout *layout = &target->header.layout;
    uint64_t n_clusters = 0;

    if (!count_clusters(target, layout, target->size, &n_clusters, error)
        || (copy->options->bitmaps
            && !count_clusters(source_image(copy), layout, target->size, &n_clusters, error))) {
        return false;
    }
    /* The counts of them, too. */
    uint64_t n_blocks = n_clusters > 0 ? n_clusters / BIT(layout->refblock_bits) + 2 : 0;
    *ret_bytes = (n_clusters + 2 * n_blocks) * layout->cluster_size;
    return true;
}

bool qcow2_copy_bitmaps_to_new(const Qcow2Copy *copy, Qcow2Io *io, uint64_t *len_bytes, GError **error)
{
    Qcow2OpenOptions options = { .format = "qcow2", .writable = true, .untrusted = true };

    if (!copy->options->bitmaps) {
        return true;
    }
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open_io(io, &options, error);
    Qcow2Image *image = chain ? qcow2_chain_image(chain, 0) : NULL;
    g_autoptr(Qcow2Batch) batch = image ? qcow2_batch_begin(image, error) : NULL;
    return batch && qcow2_copy_bitmaps(copy, batch, image, error) && qcow2_batch_commit(batch, error)
        && qcow2_io_get_size(io, len_bytes, error);
}
