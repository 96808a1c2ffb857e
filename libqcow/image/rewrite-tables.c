/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/rewrite-tables.h"

#include <string.h>

#include "format/l2.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"
#include "util/progress.h"

#define NO_TABLE UINT64_MAX    /* in place of a new one: nothing is left in it */

typedef struct Users {
    uint64_t n;               /* references to a table */
    uint64_t min_size;        /* of the states that refer to it */
} Users;

typedef struct Rewrite {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    Qcow2RewriteFunc func;
    void *data;
    GHashTable *users;        /* host offset of a table that is counted more than once -> Users */
    GHashTable *replaced;     /* host offset of a shared table -> that of the new one, or NO_TABLE */
    GHashTable *looked_at;    /* host offsets of shared tables that stay as they are */
    Qcow2RewrittenTable table;
    uint64_t *l1;             /* of the view at hand, as on disk */
    bool l1_changed;
    uint64_t size;            /* guest bytes of that view */
} Rewrite;

bool qcow2_table_clear_entry(Qcow2Batch *batch, Qcow2RewrittenTable *table, uint64_t index, GError **error)
{
    const Qcow2Layout *layout = &qcow2_batch_header(batch)->layout;
    uint8_t *entry = table->bytes + index * layout->l2_entry_size;
    uint64_t raw = qcow2_load_be64(entry), offset = raw & L2E_HOST_OFFSET;
    uint64_t len = offset ? layout->cluster_size : 0;
    Qcow2L2Entry decoded;

    if (raw & L2E_COMPRESSED) {
        if (!qcow2_l2_decode(layout, raw, 0, &decoded, error)) {
            return false;
        }
        offset = decoded.host_offset;
        len = decoded.stream_len;
    }
    memset(entry, 0, layout->l2_entry_size);
    return layout->has_data_file
        || qcow2_batch_add(batch, offset, len, -(int)table->n_users, error);
}

/* ---- Tables ------------------------------------------------------------------------------------ */

static void remember(GHashTable *table, uint64_t key, uint64_t value)
{
    g_hash_table_insert(table, g_memdup2(&key, sizeof(key)), g_memdup2(&value, sizeof(value)));
}

bool qcow2_table_is_empty(const Qcow2Layout *layout, const uint8_t *bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, layout->cluster_size - 1) == 0;
}

static bool place_table(Rewrite *self, uint64_t host_offset, uint64_t *ret_offset, GError **error)
{
    size_t cluster_size = self->layout->cluster_size;
    uint64_t n_users = self->table.n_users;
    bool empty = qcow2_table_is_empty(self->layout, self->table.bytes);

    *ret_offset = empty ? NO_TABLE : qcow2_batch_take(self->batch, 1, error);
    if (n_users > 1) {
        remember(self->replaced, host_offset, *ret_offset);
    }
    if (empty) {
        return true;
    }
    return *ret_offset != 0
        && qcow2_batch_add(self->batch, *ret_offset, cluster_size, (int)n_users - 1, error)
        && qcow2_batch_write(self->batch, *ret_offset, self->table.bytes, cluster_size, error);
}

/* @ret_offset: 0 when the table stays. */
static bool rewrite_new_table(Rewrite *self, uint64_t l1_index, uint64_t host_offset, const uint8_t *raw,
                              uint64_t *ret_offset, GError **error)
{
    const Users *users = g_hash_table_lookup(self->users, &host_offset);
    bool changed = false;

    *ret_offset = 0;
    memcpy(self->table.bytes, raw, self->layout->cluster_size);
    self->table.host_offset = host_offset;
    self->table.guest_start = l1_index * qcow2_l2_coverage(self->layout);
    self->table.n_users = users ? MIN(users->n, G_MAXINT) : 1;
    self->table.min_size = users ? users->min_size : self->size;
    if (!self->func(&self->table, &changed, self->data, error)) {
        return false;
    }
    if (!changed) {
        if (self->table.n_users > 1) {
            remember(self->looked_at, host_offset, 0);
        }
        return true;
    }
    return place_table(self, host_offset, ret_offset, error);
}

static bool rewrite_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                          GError **error)
{
    Rewrite *self = data;
    const uint64_t *known = g_hash_table_lookup(self->replaced, &host_offset);
    uint64_t offset = known ? *known : 0;

    if (g_hash_table_contains(self->looked_at, &host_offset)) {
        return true;
    }
    if (!known && !rewrite_new_table(self, l1_index, host_offset, raw, &offset, error)) {
        return false;
    }
    if (offset == 0) {
        return true;
    }
    bool alone = !known && self->table.n_users == 1;
    self->l1[l1_index] = offset == NO_TABLE ? 0 : GUINT64_TO_BE(offset | (alone ? L2E_COPIED : 0));
    self->l1_changed = true;
    return qcow2_batch_add(self->batch, host_offset, self->layout->cluster_size, -1, error);
}

/* ---- Views ------------------------------------------------------------------------------------- */

static void add_user(Rewrite *self, uint64_t host_offset, uint64_t size)
{
    Users *users = g_hash_table_lookup(self->users, &host_offset);

    if (!users) {
        users = g_new(Users, 1);
        *users = (Users) { .min_size = size };
        g_hash_table_insert(self->users, g_memdup2(&host_offset, sizeof(host_offset)), users);
    }
    users->n++;
    users->min_size = MIN(users->min_size, size);
}

/* Counts do not tell how many there are: a leak counts more. */
static bool count_users(Rewrite *self, const Qcow2View *view, GError **error)
{
    g_autofree uint64_t *l1 = qcow2_image_read_l1(self->image, view, error);

    for (uint64_t i = 0; l1 && i < view->l1_entries; i++) {
        uint64_t offset = GUINT64_FROM_BE(l1[i]) & L1E_OFFSET, count = 0;
        if (offset != 0
            && !qcow2_counts_cache_get(qcow2_batch_counts(self->batch), offset >> self->layout->cluster_bits,
                                       &count, error)) {
            return false;
        }
        if (count > 1) {
            add_user(self, offset, view->size);
        }
    }
    return l1 != NULL;
}

/* @ret_l1_offset: where the L1 table is afterwards; as before when nothing changed. */
static bool rewrite_view(Rewrite *self, const Qcow2View *view, uint64_t *ret_l1_offset, GError **error)
{
    uint64_t len = view->l1_entries * 8;
    g_autofree uint64_t *l1 = qcow2_image_read_l1(self->image, view, error);

    *ret_l1_offset = view->l1_offset;
    self->l1 = l1;
    self->l1_changed = false;
    self->size = view->size;
    if (!l1 || !qcow2_each_table(self->image, view, rewrite_table, self, error)) {
        return false;
    }
    return !self->l1_changed
        || (qcow2_batch_add(self->batch, view->l1_offset, len, -1, error)
            && qcow2_batch_take_for(self->batch, len, ret_l1_offset, error)
            && qcow2_batch_write(self->batch, *ret_l1_offset, l1, len, error));
}

static bool move_entry(GPtrArray *entries, guint index, const Qcow2SnapshotEntry *entry, uint64_t l1_offset,
                       GError **error)
{
    GBytes *moved = qcow2_snapshot_entry_with_vm_state(entry->raw, l1_offset, entry->l1_entries,
                                                       entry->info.vm_state_size, error);

    if (!moved) {
        return false;
    }
    g_bytes_unref(g_ptr_array_index(entries, index));
    g_ptr_array_index(entries, index) = moved;
    return true;
}

/* To be asked for again after each call of the function, which may read the snapshot table anew. */
static const Qcow2SnapshotEntry *entry_at(const Rewrite *self, guint index)
{
    return &g_array_index(self->image->snapshots, Qcow2SnapshotEntry, index);
}

static bool count_all_users(Rewrite *self, GError **error)
{
    Qcow2View view = qcow2_image_active_view(self->image);

    if (!count_users(self, &view, error)) {
        return false;
    }
    for (guint i = 0; i < self->image->snapshots->len; i++) {
        if (!qcow2_image_snapshot_view(self->image, entry_at(self, i), &view, error)
            || !count_users(self, &view, error)) {
            return false;
        }
    }
    return true;
}

static bool rewrite_snapshots(Rewrite *self, Qcow2Progress *progress, GError **error)
{
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(self->image);
    bool changed = false;

    for (guint i = 0; i < entries->len; i++) {
        Qcow2View view;
        uint64_t l1_offset;
        self->table.snapshot = i;
        if (!qcow2_image_snapshot_view(self->image, entry_at(self, i), &view, error)
            || !rewrite_view(self, &view, &l1_offset, error) || !qcow2_progress_check(progress, error)) {
            return false;
        }
        if (l1_offset != view.l1_offset) {
            if (!move_entry(entries, i, entry_at(self, i), l1_offset, error)) {
                return false;
            }
            changed = true;
        }
    }
    return !changed || qcow2_batch_set_snapshots(self->batch, self->image, entries, error);
}

bool qcow2_batch_rewrite_tables(Qcow2Batch *batch, Qcow2Image *image, Qcow2RewriteFunc func, void *data,
                                Qcow2Progress *progress, GError **error)
{
    g_autoptr(GHashTable) users = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_autoptr(GHashTable) replaced = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_autoptr(GHashTable) looked_at = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_autofree uint8_t *bytes = g_try_malloc(image->header.layout.cluster_size);
    Qcow2View view = qcow2_image_active_view(image);
    Rewrite self = {
        .image = image,
        .layout = &image->header.layout,
        .batch = batch,
        .func = func,
        .data = data,
        .users = users,
        .replaced = replaced,
        .looked_at = looked_at,
        .table = { .snapshot = QCOW2_ACTIVE_LAYER, .bytes = bytes },
    };

    if (!bytes) {
        return qcow2_fail_memory(error, image->header.layout.cluster_size, "an L2 table");
    }
    return count_all_users(&self, error)
        && rewrite_view(&self, &view, &qcow2_batch_header(batch)->l1_offset, error)
        && rewrite_snapshots(&self, progress, error);
}
