/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check finds the same whatever memory it has. The image has 512-byte clusters, so that its 70000
 * clusters are more than counts with little memory hold in one window; bats tests have QEMU as the judge.
 */
#include <inttypes.h>
#include <string.h>

#include "format/l2.h"
#include "format/refcount.h"
#include "image/check.h"
#include "image/image.h"
#include "io/backends.h"

#define CLUSTER UINT64_C(512)
#define N_TABLES 1100u
#define ENTRIES (CLUSTER / 8)
#define N_DATA (N_TABLES * ENTRIES)

/* Cluster numbers: what an image needs, one after the other. */
#define REFTABLE_LEN 5u
#define REFTABLE 1u
#define REFBLOCKS (REFTABLE + REFTABLE_LEN)
#define N_REFBLOCKS 290u
#define L1_LEN 18u
#define L1 (REFBLOCKS + N_REFBLOCKS)
#define SNAPSHOT_L1 (L1 + L1_LEN)
#define SNAPSHOTS (SNAPSHOT_L1 + L1_LEN)
#define TABLES (SNAPSHOTS + 1)
#define DATA (TABLES + N_TABLES)
#define N_CLUSTERS (DATA + N_DATA)

typedef struct Fixture {
    uint8_t *bytes;
    Qcow2Layout layout;
} Fixture;

static uint8_t *cluster_at(Fixture *f, uint64_t cluster)
{
    return f->bytes + cluster * CLUSTER;
}

static void set_refcount(Fixture *f, uint64_t cluster, uint64_t count)
{
    qcow2_refcount_set(&f->layout, cluster_at(f, REFBLOCKS + cluster / 256), cluster % 256, count);
}

static uint8_t *l2_entry(Fixture *f, uint64_t index)
{
    return cluster_at(f, TABLES) + index * 8;
}

static void make_header(Fixture *f)
{
    qcow2_store_be32(f->bytes, QCOW2_MAGIC);
    qcow2_store_be32(f->bytes + 4, 3);
    qcow2_store_be32(f->bytes + 20, 9);
    qcow2_store_be64(f->bytes + 24, N_DATA * CLUSTER);
    qcow2_store_be32(f->bytes + 36, N_TABLES);
    qcow2_store_be64(f->bytes + 40, L1 * CLUSTER);
    qcow2_store_be64(f->bytes + 48, REFTABLE * CLUSTER);
    qcow2_store_be32(f->bytes + 56, REFTABLE_LEN);
    qcow2_store_be32(f->bytes + 60, 1);
    qcow2_store_be64(f->bytes + 64, SNAPSHOTS * CLUSTER);
    qcow2_store_be32(f->bytes + 96, 4);
    qcow2_store_be32(f->bytes + 100, 104);
}

static void make_snapshot(Fixture *f)
{
    uint8_t *entry = cluster_at(f, SNAPSHOTS);

    qcow2_store_be64(entry, SNAPSHOT_L1 * CLUSTER);
    qcow2_store_be32(entry + 8, N_TABLES);
    qcow2_store_be16(entry + 12, 1);
    qcow2_store_be16(entry + 14, 3);
    qcow2_store_be32(entry + 36, 16);
    qcow2_store_be64(entry + 48, N_DATA * CLUSTER);
    memcpy(entry + 56, "1one", 4);
}

static uint64_t data_cluster(uint64_t index)
{
    return DATA + index * 7919 % N_DATA;    /* in no order */
}

/* Every other table is shared with the snapshot, and all that it refers to. */
static bool is_shared(uint64_t table)
{
    return table % 2 == 0;
}

static void make_table(Fixture *f, uint64_t table)
{
    uint64_t copied = is_shared(table) ? 0 : L2E_COPIED;

    qcow2_store_be64(cluster_at(f, L1) + table * 8, (TABLES + table) * CLUSTER | copied);
    if (is_shared(table)) {
        qcow2_store_be64(cluster_at(f, SNAPSHOT_L1) + table * 8, (TABLES + table) * CLUSTER);
        set_refcount(f, TABLES + table, 2);
    }
    for (uint64_t i = table * ENTRIES; i < (table + 1) * ENTRIES; i++) {
        qcow2_store_be64(l2_entry(f, i), data_cluster(i) * CLUSTER | copied);
        set_refcount(f, data_cluster(i), is_shared(table) ? 2 : 1);
    }
}

static void set_up(Fixture *f, const void *data)
{
    (void) data;
    f->layout = qcow2_layout(3, 9, false, 4, false);
    f->bytes = g_malloc0(N_CLUSTERS * CLUSTER);
    make_header(f);
    make_snapshot(f);
    for (uint64_t i = 0; i < N_REFBLOCKS; i++) {
        qcow2_store_be64(cluster_at(f, REFTABLE) + i * 8, (REFBLOCKS + i) * CLUSTER);
    }
    for (uint64_t i = 0; i < DATA; i++) {
        set_refcount(f, i, 1);
    }
    for (uint64_t i = 0; i < N_TABLES; i++) {
        make_table(f, i);
    }
}

static void tear_down(Fixture *f, const void *data)
{
    (void) data;
    g_free(f->bytes);
}

/* ---- Checking ------------------------------------------------------------------------------------ */

typedef struct Findings {
    GPtrArray *texts;
    uint64_t counts[QCOW2_FINDING_EXPLANATION + 1];
    Qcow2CheckResult numbers;
} Findings;

static void note_finding(const Qcow2Finding *finding, void *data)
{
    Findings *findings = data;

    findings->counts[finding->kind] += finding->count;
    g_ptr_array_add(findings->texts,
                    g_strdup_printf("%d %" PRIu64 " %s", finding->kind, finding->count, finding->text));
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static Findings check_with(Fixture *f, size_t memory, unsigned n_threads)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new(f->bytes, N_CLUSTERS * CLUSTER, "image", false);
    g_autoptr(Qcow2Image) image = qcow2_image_open(io, &error);
    Findings findings = { .texts = g_ptr_array_new_with_free_func(g_free) };

    g_assert_no_error(error);
    g_assert_true(qcow2_image_load_snapshots(image, &error));
    Qcow2CheckSource source = {
        .file = io,
        .header = &image->header,
        .snapshots = image->snapshots,
        .n_threads = n_threads,
        .memory = memory,
    };
    g_assert_true(qcow2_image_check(&source, note_finding, &findings, &findings.numbers, NULL, &error));
    g_assert_no_error(error);
    g_ptr_array_sort(findings.texts, compare_texts);
    return findings;
}

static void assert_same(const Findings *a, const Findings *b)
{
    g_assert_cmpuint(a->texts->len, ==, b->texts->len);
    for (guint i = 0; i < a->texts->len; i++) {
        g_assert_cmpstr(a->texts->pdata[i], ==, b->texts->pdata[i]);
    }
    g_assert_cmpmem(a->counts, sizeof(a->counts), b->counts, sizeof(b->counts));
    g_assert_cmpmem(&a->numbers, sizeof(a->numbers), &b->numbers, sizeof(b->numbers));
}

static void check_in_all_ways(Fixture *f, guint n_findings)
{
    static const size_t memories[] = { 1, 10000, 20000, 30000, 100000 };
    Findings expected = check_with(f, 0, 1);

    g_assert_cmpuint(expected.texts->len, ==, n_findings);
    for (size_t i = 0; i < G_N_ELEMENTS(memories); i++) {
        for (unsigned n_threads = 1; n_threads <= 4; n_threads += 3) {
            Findings findings = check_with(f, memories[i], n_threads);
            assert_same(&expected, &findings);
            g_ptr_array_unref(findings.texts);
        }
    }
    g_ptr_array_unref(expected.texts);
}

static void test_sound(Fixture *f, const void *data)
{
    (void) data;
    check_in_all_ways(f, 0);
}

/* One of each kind, spread over the whole file. */
static void test_damaged(Fixture *f, const void *data)
{
    uint64_t private = ENTRIES;    /* the first entry of a table that is not shared */
    uint64_t raw = qcow2_load_be64(l2_entry(f, private + 5));

    (void) data;
    set_refcount(f, data_cluster(0), 7);                                    /* a leak */
    set_refcount(f, data_cluster(private + 3), 2);                          /* a leak, and a wrong flag */
    qcow2_store_be64(l2_entry(f, private + 5), raw & ~L2E_COPIED);          /* a wrong flag */
    qcow2_store_be64(l2_entry(f, N_DATA - 1), 0);                           /* a leak */
    qcow2_store_be64(cluster_at(f, L1) + 8 * 3, (TABLES + 3) * CLUSTER);    /* a wrong flag of an L1 entry */
    check_in_all_ways(f, 6);
}

/* Far more references to one cluster than its chunk has bits for, when it begins. */
static void test_many_references(Fixture *f, const void *data)
{
    (void) data;
    for (uint64_t i = 0; i < N_DATA; i += 2) {
        qcow2_store_be64(l2_entry(f, i), (N_CLUSTERS - 1) * CLUSTER);
    }
    Findings one = check_with(f, 0, 2), other = check_with(f, 10000, 2);

    g_assert_cmpuint(one.texts->len, >, N_DATA / 2);
    assert_same(&one, &other);
    g_ptr_array_unref(one.texts);
    g_ptr_array_unref(other.texts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/check/sound", Fixture, NULL, set_up, test_sound, tear_down);
    g_test_add("/check/damaged", Fixture, NULL, set_up, test_damaged, tear_down);
    g_test_add("/check/many-references", Fixture, NULL, set_up, test_many_references, tear_down);
    return g_test_run();
}
