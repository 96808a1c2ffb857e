/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counts of references against an array of them; tables that overlap against a count for each byte. */
#include <string.h>

#include "format/refcount.h"
#include "image/check-counts.h"
#include "image/check-spans.h"
#include "io/backends.h"

#define N_CHUNKS 5
#define N_CLUSTERS (N_CHUNKS * QCOW2_COUNTS_CHUNK - 1000)
#define PLENTY ((size_t) 64 << 20)

/* ---- Counts -------------------------------------------------------------------------------------- */

typedef struct Reference {
    uint64_t first, n, weight;
} Reference;

/* Mostly short runs with small weights; some whole chunks, and some weights that need all the bits. */
static Reference random_reference(GRand *random, uint64_t end)
{
    static const uint64_t weights[] = { 1, 1, 1, 2, 3, 5, 17, 300, 70000, UINT64_C(1) << 40 };
    Reference reference = { .weight = weights[g_rand_int_range(random, 0, G_N_ELEMENTS(weights))] };

    if (g_rand_int_range(random, 0, 10) == 0) {
        reference.first = (uint64_t) g_rand_int_range(random, 0, N_CHUNKS) * QCOW2_COUNTS_CHUNK;
        reference.n = 2 * QCOW2_COUNTS_CHUNK;
    } else {
        reference.first = (uint64_t) g_rand_int_range(random, 0, (int) end);
        reference.n = (uint64_t) g_rand_int_range(random, 1, 300);
    }
    return reference;
}

static void add_naively(uint64_t *expected, uint64_t end, const Reference *reference)
{
    for (uint64_t i = reference->first; i < MIN(reference->first + reference->n, end); i++) {
        expected[i] += reference->weight;
    }
}

static void test_random_counts(void)
{
    const uint64_t start = 3 * QCOW2_COUNTS_CHUNK;
    g_autofree uint64_t *expected = g_new0(uint64_t, N_CLUSTERS);
    g_autoptr(Qcow2Counts) counts = qcow2_counts_new(start, start + N_CLUSTERS, PLENTY);
    g_autoptr(GRand) random = g_rand_new_with_seed(1);

    for (int i = 0; i < 5000; i++) {
        Reference reference = random_reference(random, N_CLUSTERS);
        add_naively(expected, N_CLUSTERS, &reference);
        qcow2_counts_add(counts, start + reference.first, reference.n, reference.weight);
    }
    g_assert_cmpuint(qcow2_counts_end(counts), ==, start + N_CLUSTERS);
    g_assert_false(qcow2_counts_failed(counts));
    for (uint64_t i = 0; i < N_CLUSTERS; i++) {
        g_assert_cmpuint(qcow2_counts_get(counts, start + i), ==, expected[i]);
    }
}

/* References that begin before the window, or end after it, count inside it only. */
static void test_edges_of_window(void)
{
    const uint64_t start = QCOW2_COUNTS_CHUNK, end = start + 100;
    g_autoptr(Qcow2Counts) counts = qcow2_counts_new(start, end, PLENTY);

    qcow2_counts_add(counts, 0, start, 1);
    g_assert_cmpuint(qcow2_counts_get(counts, start), ==, 0);
    g_assert_true(qcow2_counts_is_zero(counts, start, 100));
    qcow2_counts_add(counts, start - 5, 6, 1);
    qcow2_counts_add(counts, end - 1, 1000, 2);
    qcow2_counts_add(counts, end, 1, 1);
    g_assert_cmpuint(qcow2_counts_get(counts, start), ==, 1);
    g_assert_cmpuint(qcow2_counts_get(counts, start + 1), ==, 0);
    g_assert_cmpuint(qcow2_counts_get(counts, end - 2), ==, 0);
    g_assert_cmpuint(qcow2_counts_get(counts, end - 1), ==, 2);
    g_assert_false(qcow2_counts_is_zero(counts, start, 100));
}

/* Without memory the window gets smaller, and what is left of it is right. */
static void test_short_of_memory(void)
{
    for (size_t budget = 0; budget < (size_t) 3 << 20; budget += 40000) {
        g_autofree uint64_t *expected = g_new0(uint64_t, N_CLUSTERS);
        g_autoptr(Qcow2Counts) counts = qcow2_counts_new(0, N_CLUSTERS, budget);
        g_autoptr(GRand) random = g_rand_new_with_seed(2);

        for (int i = 0; i < 500; i++) {
            Reference reference = random_reference(random, N_CLUSTERS);
            add_naively(expected, N_CLUSTERS, &reference);
            qcow2_counts_add(counts, reference.first, reference.n, reference.weight);
        }
        g_assert_false(qcow2_counts_failed(counts));
        g_assert_cmpuint(qcow2_counts_end(counts), >=, QCOW2_COUNTS_CHUNK);
        for (uint64_t i = 0; i < qcow2_counts_end(counts); i++) {
            g_assert_cmpuint(qcow2_counts_get(counts, i), ==, expected[i]);
        }
    }
}

static void check_encoding(const Qcow2Layout *layout, const Qcow2Counts *counts)
{
    g_autofree uint8_t *room = g_malloc(QCOW2_COUNTS_CHUNK * 8 + QCOW2_COUNTS_SLACK);
    uint64_t max = qcow2_refcount_max(layout);

    for (uint64_t first = 0; first < N_CLUSTERS; first += QCOW2_COUNTS_CHUNK) {
        size_t n = MIN(QCOW2_COUNTS_CHUNK, N_CLUSTERS - first);
        bool fits = true;
        for (size_t i = 0; i < n; i++) {
            fits = fits && qcow2_counts_get(counts, first + i) <= max;
        }
        g_assert_cmpint(qcow2_counts_encode(counts, layout, first, n, room), ==, fits);
        for (size_t i = 0; fits && i < n; i++) {
            g_assert_cmpuint(qcow2_refcount_get(layout, room, i), ==, qcow2_counts_get(counts, first + i));
        }
    }
}

/* Each width of counts into each width of refcounts. */
static void test_encode(void)
{
    for (unsigned order = 0; order <= 6; order++) {
        Qcow2Layout layout = qcow2_layout(3, 16, false, order, false);
        for (uint64_t largest = 1; largest <= 100000; largest *= 7) {
            g_autoptr(Qcow2Counts) counts = qcow2_counts_new(0, N_CLUSTERS, PLENTY);
            g_autoptr(GRand) random = g_rand_new_with_seed(3);
            for (uint64_t i = QCOW2_COUNTS_CHUNK; i < N_CLUSTERS; i += 1 + g_rand_int_range(random, 0, 9)) {
                qcow2_counts_add(counts, i, 1, (uint64_t) g_rand_int_range(random, 1, (int) largest + 1));
            }
            check_encoding(&layout, counts);
        }
    }
}

/* ---- Spans --------------------------------------------------------------------------------------- */

#define N_ENTRIES 5000u

/* Set, lowered and capped beside a plain array. */
static void test_set(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(5);

    for (int round = 0; round < 20; round++) {
        size_t n = 2 * QCOW2_COUNTS_CHUNK;
        g_autoptr(Qcow2Counts) counts = qcow2_counts_new(0, n, SIZE_MAX);
        g_autofree uint64_t *expected = g_new0(uint64_t, n);
        uint64_t cap = UINT64_MAX >> g_rand_int_range(random, 0, 64);
        qcow2_counts_add(counts, 0, n, 2);    /* a chunk that has one count for all */
        for (size_t i = 0; i < n; i++) {
            expected[i] = 2;
        }
        for (int i = 0; i < 1000; i++) {
            size_t cluster = (size_t) g_rand_int_range(random, 0, 200) * (round % 2 ? 1 : 300);
            uint64_t value = ((uint64_t) g_rand_int(random) << 32 | g_rand_int(random))
                          >> g_rand_int_range(random, 0, 64);
            qcow2_counts_set(counts, cluster, value);
            expected[cluster] = value;
        }
        qcow2_counts_cap(counts, cap);
        for (size_t i = 0; i < n; i++) {
            g_assert_cmpuint(qcow2_counts_get(counts, i), ==, MIN(expected[i], cap));
        }
    }
}

typedef struct Seen {
    uint64_t weights[N_ENTRIES], active[N_ENTRIES];
    uint64_t until;
} Seen;

static bool note_entries(const Qcow2Span *span, uint64_t offset, const uint8_t *entries, size_t n, void *data,
                         GError **error)
{
    Seen *seen = data;

    (void) error;
    g_assert_cmpuint(offset, >=, seen->until);
    seen->until = offset + n * 8;
    for (size_t i = 0; i < n; i++) {
        uint64_t index = offset / 8 + i;
        g_assert_cmpuint(qcow2_load_be64(entries + i * 8), ==, index);
        seen->weights[index] += span->weight;
        seen->active[index] += span->active;
    }
    return true;
}

static void test_spans(void)
{
    g_autofree uint8_t *bytes = g_malloc(N_ENTRIES * 8);
    g_autoptr(GRand) random = g_rand_new_with_seed(4);

    for (uint64_t i = 0; i < N_ENTRIES; i++) {
        qcow2_store_be64(bytes + i * 8, i);
    }
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new(bytes, N_ENTRIES * 8, "entries", false);
    for (int round = 0; round < 200; round++) {
        g_autoptr(GArray) spans = qcow2_spans_new();
        g_autofree Seen *seen = g_new0(Seen, 1), *expected = g_new0(Seen, 1);
        for (int i = g_rand_int_range(random, 0, 40); i > 0; i--) {
            uint64_t first = (uint64_t) g_rand_int_range(random, 0, N_ENTRIES / 64 + 5) * 64;
            uint64_t n = (uint64_t) g_rand_int_range(random, 0, N_ENTRIES);
            qcow2_spans_add(spans, first * 8, n, i == 1, N_ENTRIES * 8);
            for (uint64_t j = first; j < MIN(first + n, N_ENTRIES); j++) {
                expected->weights[j]++;
                expected->active[j] += i == 1;
            }
        }
        qcow2_spans_split(spans);
        g_assert_true(qcow2_spans_read(io, spans, note_entries, seen, NULL));
        g_assert_cmpmem(seen->weights, sizeof(seen->weights), expected->weights, sizeof(expected->weights));
        g_assert_cmpmem(seen->active, sizeof(seen->active), expected->active, sizeof(expected->active));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/check-counts/random", test_random_counts);
    g_test_add_func("/check-counts/edges-of-window", test_edges_of_window);
    g_test_add_func("/check-counts/short-of-memory", test_short_of_memory);
    g_test_add_func("/check-counts/encode", test_encode);
    g_test_add_func("/check-counts/set", test_set);
    g_test_add_func("/check-spans/overlap", test_spans);
    return g_test_run();
}
