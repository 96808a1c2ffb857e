/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Version 2 has no zero clusters. Where nothing below shows they become unallocated, elsewhere data.
 *
 * A table that several L1 tables share is replaced once, by one that they share again: its count says by how
 * many. What it refers to is counted once for each of them.
 */
#include <string.h>

#include "format/l2.h"
#include "image/amend.h"
#include "image/reserve.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"
#include "util/progress.h"

typedef struct Expansion {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    const Qcow2Amendment *amendment;
    Qcow2Batch *batch;
    GHashTable *replaced;     /* host offset of a shared table -> that of the new one */
    GArray *shown;            /* Qcow2Range, of the entries at hand */
    uint8_t *table;           /* room for one */
    uint64_t *l1;             /* of the view at hand, as on disk */
    bool l1_changed;
} Expansion;

static bool is_zero(uint64_t raw)
{
    return !(raw & L2E_COMPRESSED) && (raw & L2E_ZERO);
}

static uint64_t load_entry(const Expansion *self, uint64_t index)
{
    return qcow2_load_be64(self->table + index * self->layout->l2_entry_size);
}

static void store_entry(Expansion *self, uint64_t index, uint64_t raw)
{
    qcow2_store_be64(self->table + index * self->layout->l2_entry_size, raw);
}

/* ---- The entries of a table -------------------------------------------------------------------- */

/* The parts of entries [first, end) of the table at @guest_start that a layer below would show. */
static bool find_shown(Expansion *self, uint64_t guest_start, uint64_t first, uint64_t end, GError **error)
{
    unsigned bits = self->layout->cluster_bits;
    Qcow2Range range = { guest_start + (first << bits), guest_start + (end << bits) };

    g_array_set_size(self->shown, 0);
    /* Past the end of the disk is VM state, which no layer below shows through. */
    range.end = MIN(range.end, self->image->size);
    if (!self->amendment->shown || range.start >= range.end) {
        return true;
    }
    if (!self->amendment->shown(&range, self->shown, self->amendment->shown_data, error)) {
        return false;
    }
    qcow2_ranges_align(self->shown, self->layout->cluster_size, guest_start + (end << bits));
    return true;
}

/* New clusters that read as zeros, for @n entries from @first on, counted @n_users times. */
static bool write_zeros(Expansion *self, uint64_t first, uint64_t n, uint64_t n_users, GError **error)
{
    uint64_t len = n << self->layout->cluster_bits;
    uint64_t host_offset = qcow2_batch_take(self->batch, n, error);

    if (host_offset == 0
        || !qcow2_batch_add(self->batch, host_offset, len, (int)n_users - 1, error)
        || !qcow2_reserve(self->image->file, host_offset, host_offset + len, QCOW2_PREALLOCATION_OFF, NULL,
                          error)) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t offset = host_offset + (i << self->layout->cluster_bits);
        store_entry(self, first + i, offset | (n_users == 1 ? L2E_COPIED : 0));
    }
    return true;
}

/* Zero entries [first, end) are given up, with what they keep allocated. */
static bool clear_entries(Expansion *self, uint64_t first, uint64_t end, uint64_t n_users, GError **error)
{
    for (uint64_t i = first; i < end; i++) {
        uint64_t kept = load_entry(self, i) & L2E_HOST_OFFSET;
        if (kept != 0
            && !qcow2_batch_add(self->batch, kept, self->layout->cluster_size, -(int)n_users, error)) {
            return false;
        }
        store_entry(self, i, 0);
    }
    return true;
}

static bool expand_run(Expansion *self, uint64_t guest_start, uint64_t first, uint64_t end, uint64_t n_users,
                       GError **error)
{
    unsigned bits = self->layout->cluster_bits;

    if (!find_shown(self, guest_start, first, end, error)
        || !clear_entries(self, first, end, n_users, error)) {
        return false;
    }
    if (self->shown->len > 0 && self->image->header.crypt != QCOW2_CRYPT_NONE) {
        return qcow2_fail(error, QCOW2_ERROR_ENCRYPTED,
                          "the image is encrypted: writing out its zero clusters needs the key");
    }
    for (guint i = 0; i < self->shown->len; i++) {
        const Qcow2Range *range = &g_array_index(self->shown, Qcow2Range, i);
        uint64_t index = (range->start - guest_start) >> bits, n = (range->end - range->start) >> bits;
        if (!write_zeros(self, index, n, n_users, error)) {
            return false;
        }
    }
    return true;
}

/* All runs of zero entries in the table at hand. */
static bool expand_entries(Expansion *self, uint64_t guest_start, uint64_t n_users, GError **error)
{
    uint64_t n_entries = BIT(self->layout->l2_bits);

    for (uint64_t first = 0; first < n_entries; first++) {
        uint64_t end = first;
        while (end < n_entries && is_zero(load_entry(self, end))) {
            end++;
        }
        if (end > first) {
            if (!expand_run(self, guest_start, first, end, n_users, error)) {
                return false;
            }
            first = end;
        }
    }
    return true;
}

/* ---- Tables ------------------------------------------------------------------------------------ */

static bool has_zero(const Qcow2Layout *layout, const uint8_t *raw)
{
    for (uint64_t i = 0; i < BIT(layout->l2_bits); i++) {
        if (is_zero(qcow2_load_be64(raw + i * layout->l2_entry_size))) {
            return true;
        }
    }
    return false;
}

static bool replace_table(Expansion *self, uint64_t guest_start, uint64_t host_offset, uint64_t n_users,
                          uint64_t *ret_offset, GError **error)
{
    size_t cluster_size = self->layout->cluster_size;

    if (!expand_entries(self, guest_start, n_users, error)) {
        return false;
    }
    *ret_offset = qcow2_batch_take(self->batch, 1, error);
    if (n_users > 1) {
        g_hash_table_insert(self->replaced, g_memdup2(&host_offset, sizeof(host_offset)),
                            g_memdup2(ret_offset, sizeof(*ret_offset)));
    }
    return *ret_offset != 0
        && qcow2_batch_add(self->batch, *ret_offset, cluster_size, (int)n_users - 1, error)
        && qcow2_batch_write(self->batch, *ret_offset, self->table, cluster_size, error);
}

static bool expand_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                         GError **error)
{
    Expansion *self = data;
    const uint64_t *known = g_hash_table_lookup(self->replaced, &host_offset);
    uint64_t n_users = 2, offset = known ? *known : 0;

    if (!known) {
        if (!has_zero(self->layout, raw)) {
            return true;
        }
        memcpy(self->table, raw, self->layout->cluster_size);
        if (!qcow2_counts_cache_get(qcow2_batch_counts(self->batch),
                                    host_offset >> self->layout->cluster_bits, &n_users, error)
            || !replace_table(self, l1_index * qcow2_l2_coverage(self->layout), host_offset,
                              MIN(n_users, G_MAXINT), &offset, error)) {
            return false;
        }
    }
    self->l1[l1_index] = GUINT64_TO_BE(offset | (n_users == 1 ? L2E_COPIED : 0));
    self->l1_changed = true;
    return qcow2_batch_add(self->batch, host_offset, self->layout->cluster_size, -1, error);
}

/* @ret_l1_offset: where the L1 table is afterwards; as before when nothing changed. */
static bool expand_view(Expansion *self, const Qcow2View *view, uint64_t *ret_l1_offset, GError **error)
{
    uint64_t len = view->l1_entries * 8;
    g_autofree uint64_t *l1 = g_try_malloc(len);

    *ret_l1_offset = view->l1_offset;
    if (!l1 && len > 0) {
        return qcow2_fail_memory(error, len, "the L1 table");
    }
    self->l1 = l1;
    self->l1_changed = false;
    if (!qcow2_io_read(self->image->file, view->l1_offset, l1, len, error)
        || !qcow2_each_table(self->image, view, expand_table, self, error)) {
        return false;
    }
    return !self->l1_changed
        || (qcow2_batch_add(self->batch, view->l1_offset, len, -1, error)
            && qcow2_batch_take_for(self->batch, len, ret_l1_offset, error)
            && qcow2_batch_write(self->batch, *ret_l1_offset, l1, len, error));
}

/* ---- Views ------------------------------------------------------------------------------------- */

static bool expand_snapshots(Expansion *self, Qcow2Progress *progress, GError **error)
{
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(self->image);
    bool changed = false;

    for (guint i = 0; i < entries->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(self->image->snapshots, Qcow2SnapshotEntry, i);
        Qcow2View view;
        uint64_t l1_offset;
        if (!qcow2_image_snapshot_view(self->image, entry, &view, error)
            || !expand_view(self, &view, &l1_offset, error) || !qcow2_progress_advance(progress, 1, error)) {
            return false;
        }
        if (l1_offset != view.l1_offset) {
            GBytes *moved = qcow2_snapshot_entry_with_vm_state(entry->raw, l1_offset, entry->l1_entries,
                                                               entry->info.vm_state_size, error);
            if (!moved) {
                return false;
            }
            g_bytes_unref(g_ptr_array_index(entries, i));
            g_ptr_array_index(entries, i) = moved;
            changed = true;
        }
    }
    return !changed || qcow2_batch_set_snapshots(self->batch, self->image, entries, error);
}

bool qcow2_batch_expand_zeros(Qcow2Batch *batch, Qcow2Image *image, const Qcow2Amendment *amendment,
                              Qcow2Progress *progress, GError **error)
{
    g_autoptr(GHashTable) replaced = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_autoptr(GArray) shown = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    g_autofree uint8_t *table = g_try_malloc(image->header.layout.cluster_size);
    Qcow2View view = qcow2_image_active_view(image);
    Expansion self = {
        .image = image,
        .layout = &image->header.layout,
        .amendment = amendment,
        .batch = batch,
        .replaced = replaced,
        .shown = shown,
        .table = table,
    };

    if (!table) {
        return qcow2_fail_memory(error, image->header.layout.cluster_size, "an L2 table");
    }
    qcow2_progress_expect(progress, image->snapshots->len + 1);
    return expand_view(&self, &view, &qcow2_batch_header(batch)->l1_offset, error)
        && qcow2_progress_advance(progress, 1, error)
        && expand_snapshots(&self, progress, error);
}
