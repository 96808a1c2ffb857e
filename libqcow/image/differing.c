/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which table entries of two views of one image differ. No entry is decoded: equal bits are equal clusters.
 */
#include "format/l2.h"
#include "image/l2-slices.h"
#include "image/map.h"
#include "util/error.h"
#include "util/pool.h"

#define L1_CHUNK 4096u     /* entries read at a time when looking for tables that differ */

bool qcow2_image_skip_equal(Qcow2Image *image, const Qcow2View *a, const Qcow2View *b, uint64_t from,
                            uint64_t limit, uint64_t *ret_offset, GError **error)
{
    uint64_t coverage = qcow2_l2_coverage(&image->header.layout);
    uint64_t end = qcow2_div_round_up(limit, coverage);
    g_autofree uint64_t *l1_a = g_new(uint64_t, L1_CHUNK);
    g_autofree uint64_t *l1_b = g_new(uint64_t, L1_CHUNK);

    for (uint64_t first = from / coverage; first < end; first += L1_CHUNK) {
        size_t n = MIN(L1_CHUNK, end - first);
        if (!qcow2_l1_read(image, a, first, n, l1_a, error)
            || !qcow2_l1_read(image, b, first, n, l1_b, error)) {
            return false;
        }
        for (size_t i = 0; i < n; i++) {
            if (l1_a[i] != l1_b[i]) {
                *ret_offset = MAX(from, (first + i) * coverage);
                return true;
            }
        }
    }
    *ret_offset = limit;
    return true;
}

/* Tables of one view that are looked at by one thread, and those that it reads at a time. */
#define CHUNK_BYTES (UINT64_C(4) << 20)
#define STEP_BYTES  (UINT64_C(128) << 10) /* with those of the other view they stay in the processor's cache \
                                           */

/* The parts of @range whose L2 tables are not the same, one for each table. */
static bool differing_tables(Qcow2Image *image, const Qcow2View *a, const Qcow2View *b, Qcow2Range range,
                             GArray *ret_ranges, GError **error)
{
    uint64_t coverage = qcow2_l2_coverage(&image->header.layout);
    uint64_t first = range.start / coverage;
    size_t n = qcow2_div_round_up(range.end, coverage) - first;
    g_autofree uint64_t *l1_a = g_try_new(uint64_t, n);
    g_autofree uint64_t *l1_b = g_try_new(uint64_t, n);

    if (!l1_a || !l1_b) {
        return qcow2_fail_memory(error, n * 16, "parts of two L1 tables");
    }
    if (!qcow2_l1_read(image, a, first, n, l1_a, error) || !qcow2_l1_read(image, b, first, n, l1_b, error)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (l1_a[i] != l1_b[i]) {
            uint64_t start = (first + i) * coverage;
            Qcow2Range table = { MAX(start, range.start), MIN(start + coverage, range.end) };
            g_array_append_val(ret_ranges, table);
        }
    }
    return true;
}

/*
 * The bits that say nothing about what a guest reads. In a compressed entry bit 0 belongs to the offset, so
 * only what no kind of entry uses is left out; a reserved bit that differs just costs a decoding.
 */
static const uint64_t silent_bits = L2E_COPIED;

static uint64_t word(const uint8_t *raw, uint64_t index)
{
    return raw ? qcow2_load_be64(raw + index * 8) : 0;
}

/* The first word from @i on in which the slices agree (@same), or do not; @n when there is none. */
static uint64_t next_word(const uint8_t *a, const uint8_t *b, uint64_t i, uint64_t n,
                          uint64_t words_per_entry, bool same)
{
    for (; i < n; i += words_per_entry) {
        uint64_t difference = (word(a, i) ^ word(b, i)) & ~silent_bits;
        if (words_per_entry == 2) {
            difference |= word(a, i + 1) ^ word(b, i + 1);
        }
        if ((difference == 0) == same) {
            break;
        }
    }
    return MIN(i, n);
}

/* Most tables that differ do so in few places: long equal stretches are passed over in blocks. */
#define BLOCK_WORDS 16u

static uint64_t skip_equal_blocks(const uint8_t *a, const uint8_t *b, uint64_t i, uint64_t n)
{
    uint64_t mask = GUINT64_TO_BE(~silent_bits);

    while (a && b && i + BLOCK_WORDS <= n) {
        uint64_t x[BLOCK_WORDS], y[BLOCK_WORDS], difference = 0;
        memcpy(x, a + i * 8, sizeof(x));
        memcpy(y, b + i * 8, sizeof(y));
        for (unsigned k = 0; k < BLOCK_WORDS; k++) {
            difference |= x[k] ^ y[k];
        }
        if (difference & mask) {
            break;
        }
        i += BLOCK_WORDS;
    }
    return i;
}

/* A host cluster and nothing else. With a data file COPIED makes a difference, and decoding tells. */
static bool is_plain_data(const Qcow2Layout *layout, uint64_t raw)
{
    uint64_t host_offset = raw & L2E_HOST_OFFSET;

    return host_offset != 0 && (raw & ~(L2E_HOST_OFFSET | L2E_COPIED)) == 0 && !layout->has_data_file
        && qcow2_is_cluster_aligned(layout, host_offset);
}

/* Adds entries [start, end), which all differ. */
static void push_entries(const Qcow2Layout *layout, const Qcow2L2Slice *a, const Qcow2L2Slice *b,
                         uint64_t start, uint64_t end, Qcow2Range table, Qcow2Differing *found)
{
    for (uint64_t i = start; i < end; i++) {
        bool sure = !layout->extended_l2 && is_plain_data(layout, word(a->raw, i))
                 && is_plain_data(layout, word(b->raw, i));
        uint64_t guest_start = a->guest_start + (i << layout->cluster_bits);
        qcow2_ranges_push(sure ? found->sure : found->maybe, MAX(guest_start, table.start),
                          MIN(guest_start + layout->cluster_size, table.end));
    }
}

static void differing_entries(const Qcow2Layout *layout, const Qcow2L2Slice *a, const Qcow2L2Slice *b,
                              Qcow2Range table, Qcow2Differing *found)
{
    uint64_t words_per_entry = layout->l2_entry_size / 8;
    uint64_t n = a->n_entries * words_per_entry;

    for (uint64_t i = 0; i < n;) {
        if (words_per_entry == 1) {
            i = skip_equal_blocks(a->raw, b->raw, i, n);
        }
        uint64_t start = next_word(a->raw, b->raw, i, n, words_per_entry, false);
        i = next_word(a->raw, b->raw, start, n, words_per_entry, true);
        push_entries(layout, a, b, start / words_per_entry, i / words_per_entry, table, found);
    }
}

/* ---- On all processors ------------------------------------------------------------------------- */

static void differing_init(Qcow2Differing *differing)
{
    differing->sure = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    differing->maybe = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
}

void qcow2_differing_clear(Qcow2Differing *differing)
{
    g_clear_pointer(&differing->sure, g_array_unref);
    g_clear_pointer(&differing->maybe, g_array_unref);
}

static void push_all(GArray *ranges, const GArray *more)
{
    for (guint i = 0; i < more->len; i++) {
        const Qcow2Range *range = &g_array_index(more, Qcow2Range, i);
        qcow2_ranges_push(ranges, range->start, range->end);
    }
}

/* Tables that differ, cut into chunks for the threads. */
typedef struct Search {
    Qcow2Image *image;
    const Qcow2View *a, *b;
    GArray *tables;           /* Qcow2Range, one for each table */
    uint64_t tables_per_chunk, tables_per_step;
    Qcow2Differing *found;    /* for each chunk */
} Search;

static bool search_chunk(size_t index, void *data, GError **error)
{
    const Search *search = data;
    uint64_t end = MIN((index + 1) * search->tables_per_chunk, search->tables->len), n;
    g_auto(Qcow2L2Slices) slices_a = { 0 }, slices_b = { 0 };
    Qcow2Differing *found = &search->found[index];

    differing_init(found);
    for (uint64_t at = index * search->tables_per_chunk; at < end; at += n) {
        const Qcow2Range *tables = &g_array_index(search->tables, Qcow2Range, at);
        n = MIN(search->tables_per_step, end - at);
        if (!qcow2_l2_slices_load(search->image, search->a, tables, n, &slices_a, error)
            || !qcow2_l2_slices_load(search->image, search->b, tables, n, &slices_b, error)) {
            return false;
        }
        for (guint i = 0; i < n; i++) {
            differing_entries(&search->image->header.layout, &g_array_index(slices_a.slices, Qcow2L2Slice, i),
                              &g_array_index(slices_b.slices, Qcow2L2Slice, i), tables[i], found);
        }
    }
    return true;
}

static bool search_tables(Search *search, Qcow2Differing *ret, GError **error)
{
    size_t n_chunks = qcow2_div_round_up(search->tables->len, search->tables_per_chunk);
    /* Over a network the reads of one step are made in parallel. */
    unsigned n_threads = qcow2_io_get_fd(search->image->file) < 0 ? 1 : search->image->n_threads;
    search->found = g_new0(Qcow2Differing, n_chunks);
    bool ok = qcow2_parallel_for(n_threads, n_chunks, search_chunk, search, error);

    for (size_t i = 0; i < n_chunks; i++) {
        if (ok) {
            push_all(ret->sure, search->found[i].sure);
            push_all(ret->maybe, search->found[i].maybe);
        }
        qcow2_differing_clear(&search->found[i]);
    }
    g_free(search->found);
    return ok;
}

bool qcow2_image_differing(Qcow2Image *image, const Qcow2View *a, const Qcow2View *b, Qcow2Range range,
                           Qcow2Differing *ret, GError **error)
{
    g_autoptr(GArray) tables = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    unsigned cluster_bits = image->header.layout.cluster_bits;
    Search search = { .image = image, .a = a, .b = b, .tables = tables };

    differing_init(ret);
    if (image->kind == QCOW2_IMAGE_RAW) {
        return true;    /* raw has one state only */
    }
    if (!differing_tables(image, a, b, range, tables, error)) {
        return false;
    }
    search.tables_per_chunk = MAX(1, CHUNK_BYTES >> cluster_bits);
    search.tables_per_step =
        qcow2_io_get_fd(image->file) < 0 ? search.tables_per_chunk : MAX(1, STEP_BYTES >> cluster_bits);
    return search_tables(&search, ret, error);
}
