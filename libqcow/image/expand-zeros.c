/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Version 2 has no zero clusters. Where nothing below shows they become unallocated, elsewhere data. */
#include <string.h>

#include "format/l2.h"
#include "image/amend.h"
#include "image/reserve.h"
#include "image/rewrite-tables.h"
#include "util/error.h"
#include "util/progress.h"

typedef struct Expansion {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    const Qcow2Amendment *amendment;
    Qcow2Batch *batch;
    GArray *shown;            /* Qcow2Range, of the entries at hand */
    Qcow2RewrittenTable *table;
} Expansion;

static bool is_zero(uint64_t raw)
{
    return !(raw & L2E_COMPRESSED) && (raw & L2E_ZERO);
}

static uint64_t load_entry(const Expansion *self, uint64_t index)
{
    return qcow2_load_be64(self->table->bytes + index * self->layout->l2_entry_size);
}

/* ---- The entries of a table -------------------------------------------------------------------- */

/* The parts of entries [first, end) of the table that a layer below would show. */
static bool find_shown(Expansion *self, uint64_t first, uint64_t end, GError **error)
{
    uint64_t guest_start = self->table->guest_start;
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

/* New clusters that read as zeros, for @n entries from @first on. */
static bool write_zeros(Expansion *self, uint64_t first, uint64_t n, GError **error)
{
    uint64_t len = n << self->layout->cluster_bits;
    uint64_t host_offset = qcow2_batch_take(self->batch, n, error);

    if (host_offset == 0
        || !qcow2_batch_add(self->batch, host_offset, len, (int)self->table->n_users - 1, error)
        || !qcow2_reserve(self->image->file, host_offset, host_offset + len, QCOW2_PREALLOCATION_OFF, NULL,
                          error)) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t offset = host_offset + (i << self->layout->cluster_bits);
        qcow2_store_be64(self->table->bytes + (first + i) * self->layout->l2_entry_size,
                         offset | (self->table->n_users == 1 ? L2E_COPIED : 0));
    }
    return true;
}

/* Zero entries [first, end) are given up, with what they keep allocated. */
static bool clear_entries(Expansion *self, uint64_t first, uint64_t end, GError **error)
{
    for (uint64_t i = first; i < end; i++) {
        if (!qcow2_table_clear_entry(self->batch, self->table, i, error)) {
            return false;
        }
    }
    return true;
}

static bool expand_run(Expansion *self, uint64_t first, uint64_t end, GError **error)
{
    uint64_t guest_start = self->table->guest_start;
    unsigned bits = self->layout->cluster_bits;

    if (!find_shown(self, first, end, error) || !clear_entries(self, first, end, error)) {
        return false;
    }
    if (self->shown->len > 0 && self->image->header.crypt != QCOW2_CRYPT_NONE) {
        return qcow2_fail(error, QCOW2_ERROR_ENCRYPTED,
                          "the image is encrypted: writing out its zero clusters needs the key");
    }
    for (guint i = 0; i < self->shown->len; i++) {
        const Qcow2Range *range = &g_array_index(self->shown, Qcow2Range, i);
        uint64_t index = (range->start - guest_start) >> bits, n = (range->end - range->start) >> bits;
        if (!write_zeros(self, index, n, error)) {
            return false;
        }
    }
    return true;
}

/* All runs of zero entries in the table at hand. */
static bool expand_table(Qcow2RewrittenTable *table, bool *ret_changed, void *data, GError **error)
{
    Expansion *self = data;
    uint64_t n_entries = BIT(self->layout->l2_bits);

    self->table = table;
    *ret_changed = false;
    for (uint64_t first = 0; first < n_entries; first++) {
        uint64_t end = first;
        while (end < n_entries && is_zero(load_entry(self, end))) {
            end++;
        }
        if (end > first) {
            *ret_changed = true;
            if (!expand_run(self, first, end, error)) {
                return false;
            }
            first = end;
        }
    }
    return true;
}

bool qcow2_batch_expand_zeros(Qcow2Batch *batch, Qcow2Image *image, const Qcow2Amendment *amendment,
                              Qcow2Progress *progress, GError **error)
{
    g_autoptr(GArray) shown = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    Expansion self = {
        .image = image,
        .layout = &image->header.layout,
        .amendment = amendment,
        .batch = batch,
        .shown = shown,
    };

    return qcow2_batch_rewrite_tables(batch, image, expand_table, &self, progress, error);
}
