/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/tables.h"

#include "format/l2.h"
#include "util/error.h"

#define WINDOW_BYTES (UINT64_C(4) << 20)     /* of tables, in memory at a time */

static uint64_t n_entries(const Qcow2Layout *layout)
{
    return BIT(layout->l2_bits);
}

bool qcow2_each_table(Qcow2Image *image, const Qcow2View *view, Qcow2TableFunc func, void *data,
                      GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t coverage = qcow2_l2_coverage(layout);
    uint64_t step = MAX(1, WINDOW_BYTES >> layout->cluster_bits);

    for (uint64_t first = 0; first < view->l1_entries; first += step) {
        g_auto(Qcow2L2Slices) slices = { 0 };
        Qcow2Range range = { first * coverage, MIN(first + step, view->l1_entries) * coverage };
        if (!qcow2_l2_slices_load(image, view, &range, 1, &slices, error)) {
            return false;
        }
        for (guint i = 0; i < slices.slices->len; i++) {
            const Qcow2L2Slice *slice = &g_array_index(slices.slices, Qcow2L2Slice, i);
            if (slice->raw && !func(first + i, slice->host_offset, slice->raw, data, error)) {
                return false;
            }
        }
    }
    return true;
}

/* What one entry refers to; len_bytes 0: nothing. */
static Qcow2Reference reference_of(const Qcow2Layout *layout, uint64_t raw)
{
    Qcow2Reference reference = { .copied = raw & L2E_COPIED };
    Qcow2L2Entry entry;

    if (raw & L2E_COMPRESSED) {
        if (qcow2_l2_decode(layout, raw, 0, &entry, NULL)) {
            reference.host_offset = entry.host_offset;
            reference.len_bytes = entry.stream_len;
            reference.compressed = true;
        }
    } else if (raw & L2E_HOST_OFFSET) {
        reference.host_offset = raw & L2E_HOST_OFFSET;
        reference.len_bytes = layout->cluster_size;
    }
    return reference;
}

static bool continues(const Qcow2Reference *run, const Qcow2Reference *next, uint64_t entry)
{
    return run->len_bytes > 0 && !run->compressed && !next->compressed && run->copied == next->copied
           && run->host_offset + run->len_bytes == next->host_offset
           && run->first_entry + run->n_entries == entry;
}

bool qcow2_each_reference(const Qcow2Layout *layout, const uint8_t *raw, Qcow2ReferenceFunc func, void *data,
                          GError **error)
{
    Qcow2Reference run = { 0 };

    if (layout->has_data_file) {
        return true;
    }
    for (uint64_t i = 0; i < n_entries(layout); i++) {
        uint64_t word = qcow2_load_be64(raw + i * layout->l2_entry_size);
        if (word == 0) {
            continue;
        }
        Qcow2Reference next = reference_of(layout, word);
        if (next.len_bytes == 0) {
            continue;
        }
        if (continues(&run, &next, i)) {
            run.len_bytes += next.len_bytes;
            run.n_entries++;
            continue;
        }
        if (run.len_bytes > 0 && !func(&run, data, error)) {
            return false;
        }
        run = next;
        run.first_entry = i;
        run.n_entries = 1;
    }
    return run.len_bytes == 0 || func(&run, data, error);
}

bool qcow2_table_has_copied(const Qcow2Layout *layout, const uint8_t *raw)
{
    for (uint64_t i = 0; i < n_entries(layout); i++) {
        if (raw[i * layout->l2_entry_size] & (L2E_COPIED >> 56)) {
            return true;
        }
    }
    return false;
}

void qcow2_table_set_copied(const Qcow2Layout *layout, uint8_t *raw, uint64_t first, uint64_t n, bool copied)
{
    for (uint64_t i = first; i < first + n; i++) {
        uint8_t *byte = raw + i * layout->l2_entry_size;
        *byte = (uint8_t)((*byte & ~(L2E_COPIED >> 56)) | (copied ? L2E_COPIED >> 56 : 0));
    }
}

/* ---- Counts of a whole view -------------------------------------------------------------------- */

typedef struct Adder {
    Qcow2Batch *batch;
    const Qcow2Layout *layout;
    int delta;
} Adder;

static bool add_reference(const Qcow2Reference *reference, void *data, GError **error)
{
    const Adder *adder = data;

    return qcow2_batch_add(adder->batch, reference->host_offset, reference->len_bytes, adder->delta, error);
}

static bool add_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data, GError **error)
{
    const Adder *adder = data;

    (void)l1_index;
    return qcow2_batch_add(adder->batch, host_offset, adder->layout->cluster_size, adder->delta, error)
        && qcow2_each_reference(adder->layout, raw, add_reference, data, error);
}

bool qcow2_batch_add_view(Qcow2Batch *batch, Qcow2Image *image, const Qcow2View *view, int delta,
                          GError **error)
{
    Adder adder = { batch, &image->header.layout, delta };

    return qcow2_each_table(image, view, add_table, &adder, error);
}
