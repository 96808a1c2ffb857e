/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* L2 entries, by a table of what QEMU makes of them. */
#include "format/l2.h"

#include "format-bytes.h"

typedef enum { V2, V3, EXTENDED, DATA_FILE, EXTENDED_DATA_FILE } Image;

static Qcow2Layout layout_of(Image image)
{
    return qcow2_layout(image == V2 ? 2 : 3, 16, image == EXTENDED || image == EXTENDED_DATA_FILE, 4,
                        image == DATA_FILE || image == EXTENDED_DATA_FILE);
}

#define OFFSET UINT64_C(0x50000)
#define LAST_OFFSET UINT64_C(0x00ffffffffff0000)    /* bits 16-55 */
#define ALLOC(n) BIT(n)
#define SUBZERO(n) BIT((n) + 32)

static const struct {
    Image image;
    uint64_t raw, bitmap;
    Qcow2ClusterKind kind;
    bool allocated, copied;
    uint64_t host_offset;
    uint32_t data_mask, zero_mask;
} good[] = {
    { V2, 0, 0, QCOW2_CLUSTER_UNALLOCATED, false, false, 0, 0, 0 },
    { V2, OFFSET | L2E_COPIED, 0, QCOW2_CLUSTER_DATA, true, true, OFFSET, 0, 0 },
    { V2, OFFSET, 0, QCOW2_CLUSTER_DATA, true, false, OFFSET, 0, 0 },
    { V3, 0, 0, QCOW2_CLUSTER_UNALLOCATED, false, false, 0, 0, 0 },
    { V3, L2E_COPIED, 0, QCOW2_CLUSTER_UNALLOCATED, false, true, 0, 0, 0 },
    { V3, L2E_ZERO, 0, QCOW2_CLUSTER_ZERO, false, false, 0, 0, 0 },
    { V3, OFFSET | L2E_ZERO | L2E_COPIED, 0, QCOW2_CLUSTER_ZERO, true, true, OFFSET, 0, 0 },
    { V3, LAST_OFFSET, 0, QCOW2_CLUSTER_DATA, true, false, LAST_OFFSET, 0, 0 },
    /* Reserved bits are masked, and the bitmap of an entry that has none is not looked at. */
    { V3, OFFSET | L2E_RESERVED, UINT64_MAX, QCOW2_CLUSTER_DATA, true, false, OFFSET, 0, 0 },
    { V3, L2E_RESERVED, 0, QCOW2_CLUSTER_UNALLOCATED, false, false, 0, 0, 0 },
    /* Offset 0 is a cluster in a data file, if COPIED says so, and not under zeros. */
    { DATA_FILE, 0, 0, QCOW2_CLUSTER_UNALLOCATED, false, false, 0, 0, 0 },
    { DATA_FILE, L2E_COPIED, 0, QCOW2_CLUSTER_DATA, true, true, 0, 0, 0 },
    { DATA_FILE, L2E_COPIED | L2E_ZERO, 0, QCOW2_CLUSTER_ZERO, false, true, 0, 0, 0 },
    { DATA_FILE, OFFSET, 0, QCOW2_CLUSTER_DATA, true, false, OFFSET, 0, 0 },
    { EXTENDED, 0, 0, QCOW2_CLUSTER_UNALLOCATED, false, false, 0, 0, 0 },
    { EXTENDED, 0, SUBZERO(0) | SUBZERO(31), QCOW2_CLUSTER_UNALLOCATED, false, false, 0, 0, 0x80000001 },
    { EXTENDED, OFFSET, 0, QCOW2_CLUSTER_DATA, true, false, OFFSET, 0, 0 },
    { EXTENDED, OFFSET | L2E_COPIED, ALLOC(0) | ALLOC(31) | SUBZERO(1),
      QCOW2_CLUSTER_DATA, true, true, OFFSET, 0x80000001, 2 },
    { EXTENDED, OFFSET, UINT32_MAX, QCOW2_CLUSTER_DATA, true, false, OFFSET, UINT32_MAX, 0 },
    { EXTENDED, OFFSET, ~(uint64_t) UINT32_MAX, QCOW2_CLUSTER_DATA, true, false, OFFSET, 0, UINT32_MAX },
    /* Bit 0 of the first half means nothing in an extended entry. */
    { EXTENDED, OFFSET | L2E_ZERO, ALLOC(5), QCOW2_CLUSTER_DATA, true, false, OFFSET, 0x20, 0 },
    { EXTENDED, L2E_ZERO, 0, QCOW2_CLUSTER_UNALLOCATED, false, false, 0, 0, 0 },
    { EXTENDED_DATA_FILE, L2E_COPIED, ALLOC(3), QCOW2_CLUSTER_DATA, true, true, 0, 8, 0 },
    { EXTENDED_DATA_FILE, L2E_COPIED | L2E_ZERO, ALLOC(3), QCOW2_CLUSTER_DATA, true, true, 0, 8, 0 },
};

static void test_good(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        Qcow2Layout layout = layout_of(good[i].image);
        Qcow2L2Entry entry;
        g_autoptr(GError) error = NULL;

        g_test_message("entry %zu: 0x%016" G_GINT64_MODIFIER "x", i, good[i].raw);
        qcow2_l2_decode(&layout, good[i].raw, good[i].bitmap, &entry, &error);
        g_assert_no_error(error);
        g_assert_cmpint(entry.kind, ==, good[i].kind);
        g_assert_true(entry.allocated == good[i].allocated);
        g_assert_true(entry.copied == good[i].copied);
        g_assert_cmphex(entry.host_offset, ==, good[i].host_offset);
        g_assert_cmphex(entry.data_mask, ==, good[i].data_mask);
        g_assert_cmphex(entry.zero_mask, ==, good[i].zero_mask);
        g_assert_cmpuint(entry.stream_len, ==, 0);
    }
}

static const struct {
    Image image;
    uint64_t raw, bitmap;
    const char *message;
} bad[] = {
    { V2, L2E_ZERO, 0, "L2 entry 0x0000000000000001 is a zero cluster, which version 2" },
    { V2, OFFSET | L2E_ZERO, 0, "zero cluster" },
    { V3, OFFSET + 512, 0, "L2 entry 0x0000000000050200: host offset 0x50200 is not a multiple" },
    { V3, 512, 0, "of the cluster size 0x10000" },
    { V3, 512 | L2E_ZERO, 0, "not a multiple" },
    { V3, UINT64_C(0x00fffffffffffe00), 0, "not a multiple" },
    { EXTENDED, OFFSET + 2048, 0, "not a multiple" },
    { EXTENDED, 0, ALLOC(7), "bitmap 0x0000000000000080 allocates subclusters of no host cluster" },
    { EXTENDED, L2E_COPIED, ALLOC(31), "no host cluster" },
    { EXTENDED, OFFSET, ALLOC(7) | SUBZERO(7), "both allocated and zero" },
    { EXTENDED, OFFSET, ALLOC(0) | SUBZERO(5) | ALLOC(5), "both allocated and zero" },
    { EXTENDED_DATA_FILE, 0, ALLOC(1), "no host cluster" },
    { DATA_FILE, L2E_COMPRESSED | OFFSET, 0, "compressed cluster" },
};

static void test_bad(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        Qcow2Layout layout = layout_of(bad[i].image);
        Qcow2L2Entry entry;
        g_autoptr(GError) error = NULL;

        g_assert_false(qcow2_l2_decode(&layout, bad[i].raw, bad[i].bitmap, &entry, &error));
        assert_error_tells(error, QCOW2_ERROR_CORRUPT, bad[i].message);
    }
}

/* Descriptors of the smallest, the usual and the largest cluster. */
static void test_compressed(void)
{
    static const struct {
        unsigned cluster_bits;
        uint64_t raw, host_offset;
        uint32_t stream_len;
    } cases[] = {
        { 9, L2E_COMPRESSED | 0x1234, 0x1234, 512 - 0x34 },
        { 9, L2E_COMPRESSED | BIT(61) | 0x1200, 0x1200, 1024 },
        { 9, L2E_COMPRESSED | BIT(60), BIT(60), 512 },
        { 16, L2E_COMPRESSED | 0x50001, 0x50001, 511 },
        { 16, L2E_COMPRESSED | UINT64_C(0xff) << 54 | 0x501ff, 0x501ff, 256 * 512 - 511 },
        { 16, L2E_COMPRESSED | L2E_COPIED | 0x50000, 0x50000, 512 },
        { 21, L2E_COMPRESSED | UINT64_C(0x1fff) << 49 | (BIT(49) - 1), BIT(49) - 1, 8192 * 512 - 511 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Qcow2Layout layout = qcow2_layout(3, cases[i].cluster_bits, false, 4, false);
        Qcow2L2Entry entry;
        g_autoptr(GError) error = NULL;

        qcow2_l2_decode(&layout, cases[i].raw, 0, &entry, &error);
        g_assert_no_error(error);
        g_assert_cmpint(entry.kind, ==, QCOW2_CLUSTER_COMPRESSED);
        g_assert_true(entry.allocated);
        g_assert_true(entry.copied == (cases[i].raw >> 63));
        g_assert_cmphex(entry.host_offset, ==, cases[i].host_offset);
        g_assert_cmpuint(entry.stream_len, ==, cases[i].stream_len);
    }
}

/* A compressed cluster has no subclusters, whatever its bitmap says; in version 2 bit 0 is of its offset. */
static void test_compressed_ignores(void)
{
    Qcow2Layout layout = layout_of(EXTENDED);
    Qcow2L2Entry entry;

    g_assert_true(qcow2_l2_decode(&layout, L2E_COMPRESSED | OFFSET, UINT64_MAX, &entry, NULL));
    g_assert_cmpint(entry.kind, ==, QCOW2_CLUSTER_COMPRESSED);
    g_assert_cmphex(entry.data_mask | entry.zero_mask, ==, 0);

    layout = layout_of(V2);
    g_assert_true(qcow2_l2_decode(&layout, L2E_COMPRESSED | 0x50001, 0, &entry, NULL));
    g_assert_cmphex(entry.host_offset, ==, 0x50001);
}

static void test_encode(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (unsigned bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
        Qcow2Layout layout = qcow2_layout(3, bits, false, 4, false);
        for (int i = 0; i < 500; i++) {
            uint64_t offset = (uint64_t) g_rand_int(rand) << g_rand_int_range(rand, 0, 17);
            uint64_t len = (uint64_t) g_rand_int_range(rand, 1, (gint32) layout.cluster_size), raw;
            Qcow2L2Entry entry;

            offset += (uint64_t) g_rand_int_range(rand, 0, 512);
            g_assert_true(qcow2_l2_encode_compressed(&layout, offset, len, &raw));
            g_assert_cmphex(qcow2_l2_reserved(&layout, raw), ==, 0);
            g_assert_true(qcow2_l2_decode(&layout, raw, 0, &entry, NULL));
            g_assert_cmphex(entry.host_offset, ==, offset);
            g_assert_cmpuint(entry.stream_len, >=, len);
            g_assert_cmpuint(entry.stream_len, <, len + 512);
        }
    }
}

static void test_encode_limits(void)
{
    Qcow2Layout small = qcow2_layout(3, 9, false, 4, false), large = qcow2_layout(3, 21, false, 4, false);
    uint64_t raw;

    g_assert_false(qcow2_l2_encode_compressed(&small, 0x1000, 0, &raw));
    g_assert_true(qcow2_l2_encode_compressed(&small, 0x1000, 1024, &raw));
    g_assert_false(qcow2_l2_encode_compressed(&small, 0x1000, 1025, &raw));
    g_assert_false(qcow2_l2_encode_compressed(&small, 0x1001, 1024, &raw));
    g_assert_true(qcow2_l2_encode_compressed(&small, BIT(56) - 100, 100, &raw));
    g_assert_false(qcow2_l2_encode_compressed(&small, BIT(56) - 100, 101, &raw));
    g_assert_true(qcow2_l2_encode_compressed(&large, BIT(49) - 1, 1, &raw));
    g_assert_false(qcow2_l2_encode_compressed(&large, BIT(49), 1, &raw));
    g_assert_false(qcow2_l2_encode_compressed(&large, 0, UINT64_MAX, &raw));
    g_assert_false(qcow2_l2_encode_compressed(&large, UINT64_MAX, 1, &raw));
}

static void test_reserved(void)
{
    Qcow2Layout v2 = layout_of(V2), v3 = layout_of(V3), extended = layout_of(EXTENDED);
    Qcow2Layout small = qcow2_layout(3, 9, false, 4, false);

    g_assert_cmphex(L2E_RESERVED, ==, UINT64_C(0x3f000000000001fe));
    g_assert_cmphex(L1E_RESERVED, ==, UINT64_C(0x7f000000000001ff));
    g_assert_cmphex(qcow2_l2_reserved(&v3, ~L2E_COMPRESSED), ==, L2E_RESERVED);
    g_assert_cmphex(qcow2_l2_reserved(&v2, ~L2E_COMPRESSED), ==, L2E_RESERVED | L2E_ZERO);
    g_assert_cmphex(qcow2_l2_reserved(&extended, ~L2E_COMPRESSED), ==, L2E_RESERVED | L2E_ZERO);
    g_assert_cmphex(qcow2_l2_reserved(&v3, UINT64_MAX), ==, 0);
    g_assert_cmphex(qcow2_l2_reserved(&small, UINT64_MAX), ==, UINT64_C(0x1f00000000000000));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/l2/standard and extended entries", test_good);
    g_test_add_func("/l2/what QEMU refuses is corrupt", test_bad);
    g_test_add_func("/l2/compressed descriptors of each size", test_compressed);
    g_test_add_func("/l2/compressed descriptors have no subclusters", test_compressed_ignores);
    g_test_add_func("/l2/compressed descriptors come back", test_encode);
    g_test_add_func("/l2/compressed descriptors have limits", test_encode_limits);
    g_test_add_func("/l2/reserved bits", test_reserved);
    return g_test_run();
}
