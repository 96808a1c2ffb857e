/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/in-use.h"

#include "format/l2.h"
#include "image/bitmaps.h"
#include "image/map.h"
#include "image/tables.h"
#include "util/error.h"

typedef struct Search {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    const Qcow2FreeSpace *space;
    uint8_t *buffer;          /* a cluster */
    const char *what;         /* the table at hand, and where it is */
    uint64_t at;
    bool found;               /* something in use that counts as free; other failures only say nothing */
} Search;

/* @entry: the first one that names these bytes; those of a run follow each other. */
static bool check_bytes(Search *self, uint64_t entry, uint64_t offset, uint64_t len_bytes, GError **error)
{
    unsigned bits = self->layout->cluster_bits;
    uint64_t first = offset >> bits, cluster;

    if (len_bytes == 0
        || !qcow2_free_space_find(self->space, first, ((offset + len_bytes - 1) >> bits) + 1, &cluster)) {
        return true;
    }
    self->found = true;
    return qcow2_corrupt(error,
                         "%s at 0x%" PRIx64 ": entry %" PRIu64 " names the cluster at 0x%" PRIx64
                         ", whose refcount is 0; run qcow-check -r all",
                         self->what, self->at, entry + (cluster - first), cluster << bits);
}

/* ---- Tables of states -------------------------------------------------------------------------- */

/* The key is the number of the table's cluster. */
static bool add_tables(const Search *self, const Qcow2View *view, GHashTable *tables, GError **error)
{
    g_autofree uint64_t *l1 = qcow2_image_read_l1(self->image, view, error);

    for (uint64_t i = 0; l1 && i < view->l1_entries; i++) {
        uint64_t offset = GUINT64_FROM_BE(l1[i]) & L1E_OFFSET;
        if (!qcow2_is_cluster_aligned(self->layout, offset)) {
            return qcow2_corrupt(error, "L2 table offset 0x%" PRIx64, offset);
        }
        if (offset != 0) {
            g_hash_table_add(tables, GSIZE_TO_POINTER(offset >> self->layout->cluster_bits));
        }
    }
    return l1 != NULL;
}

static bool add_all_tables(const Search *self, GHashTable *tables, GError **error)
{
    const GArray *snapshots = self->image->snapshots;
    Qcow2View view = qcow2_image_active_view(self->image);

    if (!add_tables(self, &view, tables, error)) {
        return false;
    }
    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(snapshots, Qcow2SnapshotEntry, i);
        if (!qcow2_image_snapshot_view(self->image, entry, &view, error)
            || !add_tables(self, &view, tables, error)) {
            return false;
        }
    }
    return true;
}

static bool check_reference(const Qcow2Reference *reference, void *data, GError **error)
{
    return check_bytes(data, reference->first_entry, reference->host_offset, reference->len_bytes, error);
}

static bool check_table(Search *self, uint64_t offset, GError **error)
{
    uint64_t cluster_size = self->layout->cluster_size, cluster = offset >> self->layout->cluster_bits;

    if (qcow2_free_space_find(self->space, cluster, cluster + 1, &cluster)) {
        self->found = true;
        return qcow2_corrupt(error,
                             "an L1 table names the L2 table at 0x%" PRIx64 ", whose refcount is 0; run"
                             " qcow-check -r all", offset);
    }
    self->what = "L2 table";
    self->at = offset;
    return qcow2_io_read(self->image->file, offset, self->buffer, cluster_size, error)
        && qcow2_each_reference(self->layout, self->buffer, check_reference, self, error);
}

static gint compare_keys(gconstpointer a, gconstpointer b)
{
    size_t x = GPOINTER_TO_SIZE(*(gconstpointer const *)a), y = GPOINTER_TO_SIZE(*(gconstpointer const *)b);

    return x < y ? -1 : x > y;
}

/* In host order; a table that several states share is looked at once. */
static bool check_states(Search *self, GError **error)
{
    g_autoptr(GHashTable) tables = g_hash_table_new(NULL, NULL);
    guint n_tables;

    if (!add_all_tables(self, tables, error)) {
        return false;
    }
    g_autofree gpointer *keys = g_hash_table_get_keys_as_array(tables, &n_tables);
    qsort(keys, n_tables, sizeof(*keys), compare_keys);
    for (guint i = 0; i < n_tables; i++) {
        if (!check_table(self, GPOINTER_TO_SIZE(keys[i]) << self->layout->cluster_bits, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Bitmaps ----------------------------------------------------------------------------------- */

/* The entries [first, first + n) of a bitmap's table, which are in the buffer. */
static bool check_bits(Search *self, uint64_t first, uint64_t n, GError **error)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t offset = qcow2_load_be64(self->buffer + 8 * i) & QCOW2_BITMAP_TABLE_OFFSET;
        if (offset != 0 && !check_bytes(self, first + i, offset, self->layout->cluster_size, error)) {
            return false;
        }
    }
    return true;
}

static bool check_bitmap(Search *self, const Qcow2BitmapEntry *entry, uint64_t index, GError **error)
{
    uint64_t per_cluster = self->layout->cluster_size / 8;

    self->what = "bitmap directory";
    self->at = self->image->header.bitmap_directory_offset;
    if (!check_bytes(self, index, entry->table_offset, entry->table_entries * UINT64_C(8), error)) {
        return false;
    }
    self->what = "bitmap table";
    self->at = entry->table_offset;
    for (uint64_t i = 0; i < entry->table_entries; i += per_cluster) {
        uint64_t n = MIN(per_cluster, entry->table_entries - i);
        if (!qcow2_io_read(self->image->file, entry->table_offset + 8 * i, self->buffer, 8 * n, error)
            || !check_bits(self, i, n, error)) {
            return false;
        }
    }
    return true;
}

/* Without the bit that vouches for them they may be gone, and their clusters be somebody else's. */
static bool check_bitmaps(Search *self, GError **error)
{
    if (!(self->image->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return true;
    }
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(self->image, error);
    for (guint i = 0; entries && i < entries->len; i++) {
        if (!check_bitmap(self, &g_array_index(entries, Qcow2BitmapEntry, i), i, error)) {
            return false;
        }
    }
    return entries != NULL;
}

bool qcow2_image_check_in_use(Qcow2Image *image, const Qcow2FreeSpace *space, bool *ret_known,
                              GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    g_autofree uint8_t *buffer = g_try_malloc(layout->cluster_size);
    Search self = { .image = image, .layout = layout, .space = space, .buffer = buffer };
    g_autoptr(GError) cause = NULL;

    if (!buffer) {
        return qcow2_fail_memory(error, layout->cluster_size, "a table");
    }
    *ret_known = check_states(&self, &cause) && check_bitmaps(&self, &cause);
    if (self.found) {
        g_propagate_error(error, g_steal_pointer(&cause));
    }
    return !self.found;
}
