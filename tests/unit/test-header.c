/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fields of the header: each limit of QEMU 7.2 and 10.0 from both sides. */
#include "header-bytes.h"

#define OK (-1)
#define CORRUPT QCOW2_ERROR_CORRUPT
#define UNSUPPORTED QCOW2_ERROR_UNSUPPORTED

typedef struct Edit {
    size_t offset;
    unsigned width;
    uint64_t value;
} Edit;

/* What happens when fields of a good header are changed. */
typedef struct Case {
    unsigned version;
    Edit edits[4];
    int verdict;                 /* OK or a Qcow2Error */
    const char *message;         /* part of it */
} Case;

static void check_case(const Case *c, size_t number)
{
    g_autofree uint8_t *bytes = new_header_bytes(c->version);
    Qcow2Header header;
    g_autoptr(GError) error = NULL;

    g_test_message("case %zu: %s", number, c->message ? c->message : "accepted");
    for (size_t i = 0; i < G_N_ELEMENTS(c->edits) && c->edits[i].width; i++) {
        put_be(bytes, c->edits[i].offset, c->edits[i].width, c->edits[i].value);
    }
    bool decoded = qcow2_header_decode(bytes, MAX_CLUSTER, &header, &error);
    if (c->verdict == OK) {
        g_assert_no_error(error);
        g_assert_true(decoded);
        qcow2_header_clear(&header);
    } else {
        g_assert_false(decoded);
        assert_error_tells(error, c->verdict, c->message);
    }
}

static void check_cases(const Case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        check_case(&cases[i], i);
    }
}

static const Case format_cases[] = {
    { 3, { { 0 } }, OK },
    { 2, { { 0 } }, OK },
    { 3, { { AT_MAGIC, 4, 0x514649fa } }, UNSUPPORTED, "magic is 0x514649fa, not 0x514649fb" },
    { 3, { { AT_VERSION, 4, 1 } }, UNSUPPORTED, "version is 1" },
    { 3, { { AT_VERSION, 4, 4 } }, UNSUPPORTED, "version is 4" },
    { 3, { { AT_CLUSTER_BITS, 4, 8 } }, CORRUPT, "cluster_bits is 8, not 9 to 21" },
    { 3, { { AT_CLUSTER_BITS, 4, 9 }, { AT_L1_ENTRIES, 4, 32768 } }, OK },
    { 3, { { AT_CLUSTER_BITS, 4, 21 }, { AT_L1_OFFSET, 8, 0 }, { AT_REFTABLE_OFFSET, 8, 0 } }, OK },
    { 3, { { AT_CLUSTER_BITS, 4, 22 } }, CORRUPT, "cluster_bits is 22" },
    { 3, { { AT_CLUSTER_BITS, 4, UINT32_MAX } }, CORRUPT, "cluster_bits is 4294967295" },
    { 3, { { AT_HEADER_LENGTH, 4, 103 } }, CORRUPT, "header_length is 103 bytes, less than 104" },
    { 3, { { AT_HEADER_LENGTH, 4, 104 } }, OK },
    { 3, { { AT_HEADER_LENGTH, 4, 105 } }, OK },                  /* no multiple of 8: QEMU does not mind */
    { 3, { { AT_HEADER_LENGTH, 4, 65536 } }, OK },
    { 3, { { AT_HEADER_LENGTH, 4, 65537 } }, CORRUPT, "more than a cluster of 65536" },
    { 3, { { AT_HEADER_LENGTH, 4, UINT32_MAX } }, CORRUPT, "header_length is 4294967295" },
    { 3, { { AT_REFCOUNT_ORDER, 4, 0 } }, OK },
    { 3, { { AT_REFCOUNT_ORDER, 4, 6 } }, OK },
    { 3, { { AT_REFCOUNT_ORDER, 4, 7 } }, CORRUPT, "refcount_order is 7, the limit is 6" },
    { 3, { { AT_CRYPT, 4, 1 } }, OK },
    { 3, { { AT_CRYPT, 4, 2 } }, CORRUPT, "crypt_method is LUKS, but the encryption extension" },
    { 3, { { AT_CRYPT, 4, 3 } }, UNSUPPORTED, "crypt_method is 3" },
};

static void test_format(void)
{
    check_cases(format_cases, G_N_ELEMENTS(format_cases));
}

#define MAX_L1 UINT64_C(4194304)                 /* 32 MiB of entries */
#define L2_COVERAGE (UINT64_C(512) << 20)

static const Case table_cases[] = {
    { 3, { { AT_L1_ENTRIES, 4, 1 } }, CORRUPT, "L1 table has 1 entries, a size of 1073741824 bytes needs 2" },
    { 3, { { AT_L1_ENTRIES, 4, 3 } }, OK },
    { 3, { { AT_L1_ENTRIES, 4, MAX_L1 } }, OK },
    { 3, { { AT_L1_ENTRIES, 4, MAX_L1 + 1 } }, CORRUPT, "L1 table has 4194305 entries" },
    { 3, { { AT_L1_ENTRIES, 4, UINT32_MAX } }, CORRUPT, "the limit is 4194304" },
    { 3, { { AT_SIZE, 8, 2 * L2_COVERAGE + 1 } }, CORRUPT, "needs 3" },
    { 3, { { AT_SIZE, 8, 0 }, { AT_L1_ENTRIES, 4, 0 }, { AT_L1_OFFSET, 8, 0 } }, OK },
    { 3, { { AT_SIZE, 8, 1000 } }, OK },                          /* no whole sectors */
    { 3, { { AT_SIZE, 8, MAX_L1 * L2_COVERAGE }, { AT_L1_ENTRIES, 4, MAX_L1 } }, OK },
    { 3, { { AT_SIZE, 8, MAX_L1 * L2_COVERAGE + 1 }, { AT_L1_ENTRIES, 4, MAX_L1 } }, CORRUPT,
      "needs 4194305" },
    { 3, { { AT_SIZE, 8, INT64_MAX } }, CORRUPT, "needs 17179869184" },
    { 3, { { AT_SIZE, 8, BIT(63) } }, CORRUPT, "size is 0x8000000000000000" },
    { 3, { { AT_SIZE, 8, UINT64_MAX } }, CORRUPT, "size is 0xffffffffffffffff" },
    { 3, { { AT_L1_OFFSET, 8, 0x30200 } }, CORRUPT, "L1 table offset 0x30200 is not cluster aligned" },
    { 3, { { AT_L1_OFFSET, 8, BIT(63) - 65536 } }, OK },
    { 3, { { AT_L1_OFFSET, 8, BIT(63) } }, CORRUPT, "L1 table offset 0x8000000000000000" },
    { 3, { { AT_L1_OFFSET, 8, BIT(63) - 65536 }, { AT_L1_ENTRIES, 4, 8193 } }, CORRUPT, "too large" },
    { 3, { { AT_REFTABLE_CLUSTERS, 4, 0 } }, CORRUPT, "refcount_table_clusters is 0" },
    { 3, { { AT_REFTABLE_CLUSTERS, 4, 128 } }, OK },
    { 3, { { AT_REFTABLE_CLUSTERS, 4, 129 } }, CORRUPT,
      "refcount table has 129 entries of 65536 bytes, the limit is 128" },
    { 3, { { AT_REFTABLE_CLUSTERS, 4, UINT32_MAX } }, CORRUPT, "refcount table has 4294967295" },
    { 3, { { AT_REFTABLE_OFFSET, 8, 0x10001 } }, CORRUPT, "refcount table offset 0x10001" },
    { 3, { { AT_REFTABLE_OFFSET, 8, BIT(63) - 65536 } }, CORRUPT,
      "refcount table offset 0x7fffffffffff0000" },
    { 3, { { AT_N_SNAPSHOTS, 4, 65536 } }, OK },
    { 3, { { AT_N_SNAPSHOTS, 4, 65537 } }, CORRUPT, "snapshot table has 65537 entries" },
    { 3, { { AT_SNAPSHOTS_OFFSET, 8, 0x50000 }, { AT_N_SNAPSHOTS, 4, 1 } }, OK },
    { 3, { { AT_SNAPSHOTS_OFFSET, 8, 0x50008 }, { AT_N_SNAPSHOTS, 4, 1 } }, CORRUPT,
      "snapshot table offset 0x50008" },
    { 3, { { AT_SNAPSHOTS_OFFSET, 8, 0x50008 } }, CORRUPT, "snapshot table offset 0x50008" },
    { 3, { { AT_SNAPSHOTS_OFFSET, 8, UINT64_MAX - 65535 } }, CORRUPT,
      "snapshot table offset 0xffffffffffff0000" },
};

static void test_tables(void)
{
    check_cases(table_cases, G_N_ELEMENTS(table_cases));
}

static const Case feature_cases[] = {
    { 3, { { AT_INCOMPATIBLE, 8, 3 } }, OK },                     /* dirty and corrupt */
    { 3, { { AT_INCOMPATIBLE, 8, 4 } }, OK },
    { 3, { { AT_INCOMPATIBLE, 8, 16 }, { AT_L1_ENTRIES, 4, 4 } }, OK },
    { 3, { { AT_INCOMPATIBLE, 8, 16 }, { AT_L1_ENTRIES, 4, 3 } }, CORRUPT, "needs 4" },
    { 3, { { AT_INCOMPATIBLE, 8, 0x100 } }, UNSUPPORTED,
      "Unsupported qcow2 feature(s): Unknown incompatible feature: 100" },
    { 3, { { AT_INCOMPATIBLE, 8, BIT(63) | 0x21 } }, UNSUPPORTED, "feature: 8000000000000020" },
    { 3, { { AT_COMPATIBLE, 8, UINT64_MAX } }, OK },
    { 3, { { AT_AUTOCLEAR, 8, ~QCOW2_AUTOCLEAR_RAW_DATA } }, OK },
    { 3, { { AT_AUTOCLEAR, 8, 2 } }, CORRUPT, "autoclear feature bit 1 (raw data file)" },
    { 3, { { AT_AUTOCLEAR, 8, 2 }, { AT_INCOMPATIBLE, 8, 4 } }, OK },
    { 3, { { AT_COMPRESSION, 1, 1 } }, CORRUPT,
      "compression_type is 1 and incompatible feature bit 3 is clear" },
    { 3, { { AT_INCOMPATIBLE, 8, 8 } }, CORRUPT,
      "compression_type is 0 and incompatible feature bit 3 is set" },
    { 3, { { AT_COMPRESSION, 1, 1 }, { AT_INCOMPATIBLE, 8, 8 } }, OK },
    { 3, { { AT_COMPRESSION, 1, 2 }, { AT_INCOMPATIBLE, 8, 8 } }, UNSUPPORTED, "compression_type is 2" },
    { 3, { { AT_COMPRESSION + 1, 1, 1 } }, OK },                  /* padding */
    { 3, { { AT_HEADER_LENGTH, 4, 105 }, { AT_COMPRESSION, 1, 1 }, { AT_INCOMPATIBLE, 8, 8 } }, OK },
    { 3, { { AT_HEADER_LENGTH, 4, 104 }, { AT_INCOMPATIBLE, 8, 8 } }, CORRUPT, "compression_type is 0" },
    { 3, { { AT_HEADER_LENGTH, 4, 104 }, { AT_COMPRESSION, 1, 1 } }, OK },       /* an extension's type */
    { 3, { { AT_CLUSTER_BITS, 4, 14 }, { AT_INCOMPATIBLE, 8, 16 }, { AT_L1_ENTRIES, 4, 64 } }, OK },
    { 3, { { AT_CLUSTER_BITS, 4, 13 }, { AT_INCOMPATIBLE, 8, 16 }, { AT_L1_ENTRIES, 4, 4096 } },
      CORRUPT, "extended L2 entries need clusters of 16384 bytes, not 8192" },
};

static void test_features(void)
{
    check_cases(feature_cases, G_N_ELEMENTS(feature_cases));
}

static const Case backing_cases[] = {
    { 3, { { AT_BACKING_OFFSET, 8, 65536 } }, OK },
    { 3, { { AT_BACKING_OFFSET, 8, 65536 }, { AT_BACKING_LEN, 4, 1 } }, CORRUPT,
      "backing_file_size is 1 bytes, at offset 0x10000 the limit is 0" },
    { 3, { { AT_BACKING_OFFSET, 8, 65537 } }, CORRUPT, "backing_file_offset is 0x10001, past the first" },
    { 3, { { AT_BACKING_OFFSET, 8, UINT64_MAX } }, CORRUPT, "backing_file_offset is 0xffffffffffffffff" },
    { 3, { { AT_BACKING_OFFSET, 8, 512 }, { AT_BACKING_LEN, 4, 1023 } }, OK },
    { 3, { { AT_BACKING_OFFSET, 8, 512 }, { AT_BACKING_LEN, 4, 1024 } }, CORRUPT, "the limit is 1023" },
    { 3, { { AT_BACKING_OFFSET, 8, 512 }, { AT_BACKING_LEN, 4, UINT32_MAX } }, CORRUPT, "4294967295" },
    { 3, { { AT_BACKING_OFFSET, 8, 65526 }, { AT_BACKING_LEN, 4, 10 } }, OK },
    { 3, { { AT_BACKING_OFFSET, 8, 65526 }, { AT_BACKING_LEN, 4, 11 } }, CORRUPT, "the limit is 10" },
    { 3, { { AT_BACKING_LEN, 4, 5000 } }, OK },                   /* without an offset it means nothing */
    { 3, { { AT_BACKING_OFFSET, 8, 8 }, { AT_BACKING_LEN, 4, 4 } }, OK },   /* in the fields: QEMU reads it */
};

static void test_backing(void)
{
    check_cases(backing_cases, G_N_ELEMENTS(backing_cases));
}

static void test_values(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    Qcow2Header header;

    put_be(bytes, AT_SIZE, 8, 1000);
    put_be(bytes, AT_N_SNAPSHOTS, 4, 7);
    put_be(bytes, AT_SNAPSHOTS_OFFSET, 8, 0x70000);
    put_be(bytes, AT_INCOMPATIBLE, 8, 0x1d);
    put_be(bytes, AT_COMPATIBLE, 8, 1);
    put_be(bytes, AT_COMPRESSION, 1, 1);
    put_be(bytes, AT_REFCOUNT_ORDER, 4, 6);
    put_be(bytes, AT_BACKING_OFFSET, 8, 1000);
    put_be(bytes, AT_BACKING_LEN, 4, 9);
    memcpy(bytes + 1000, "ba\nse\xff.imX", 10);
    g_assert_true(qcow2_header_decode(bytes, MAX_CLUSTER, &header, NULL));

    g_assert_cmpuint(header.size, ==, 1000);
    g_assert_cmpuint(header.header_length, ==, 112);
    g_assert_cmpuint(header.n_snapshots, ==, 7);
    g_assert_cmphex(header.snapshots_offset, ==, 0x70000);
    g_assert_cmphex(header.l1_offset, ==, 0x30000);
    g_assert_cmpuint(header.l1_entries, ==, 2);
    g_assert_cmphex(header.reftable_offset, ==, 0x10000);
    g_assert_cmpuint(header.reftable_clusters, ==, 1);
    g_assert_cmpint(header.compression, ==, QCOW2_COMPRESSION_ZSTD);
    g_assert_cmpmem(header.backing_name, strlen(header.backing_name), "ba\nse\xff.im", 9);
    g_assert_true(header.layout.extended_l2 && header.layout.has_data_file);
    g_assert_cmpuint(header.layout.subcluster_size, ==, 2048);
    g_assert_cmpuint(header.layout.l2_bits, ==, 12);
    g_assert_cmpuint(header.layout.refblock_bits, ==, 13);
    qcow2_header_clear(&header);
}

/* What version 3 has in these bytes is an extension to version 2. */
static void test_version_2(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(2);
    Qcow2Header header;

    put_ext_bytes(bytes, 72, 0x12345678, "0123456789012345678901234567890123456789", 40);
    g_assert_true(qcow2_header_decode(bytes, MAX_CLUSTER, &header, NULL));
    g_assert_cmpuint(header.header_length, ==, 72);
    g_assert_cmphex(header.incompatible | header.compatible | header.autoclear, ==, 0);
    g_assert_cmpuint(header.layout.refcount_order, ==, 4);
    g_assert_cmpint(header.compression, ==, QCOW2_COMPRESSION_ZLIB);
    g_assert_cmpuint(g_bytes_get_size(qcow2_header_find_ext(&header, 0x12345678)), ==, 40);
    g_assert_null(header.unknown_fields);
    qcow2_header_clear(&header);
}

/* A file may end anywhere after what it must say. */
static void test_short_file(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    uint64_t cluster_size;

    for (size_t len = 0; len <= 112; len++) {
        g_autofree uint8_t *cut = g_memdup2(bytes, len);
        g_autoptr(GError) error = NULL;
        Qcow2Header header;

        g_assert_true(qcow2_header_cluster_size(cut, len, &cluster_size, NULL) == (len >= QCOW2_HEADER_MIN));
        if (len >= 104) {
            g_assert_true(qcow2_header_decode(cut, len, &header, NULL));
            qcow2_header_clear(&header);
        } else {
            g_assert_false(qcow2_header_decode(cut, len, &header, &error));
            g_assert_nonnull(error);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/header/format", test_format);
    g_test_add_func("/header/tables", test_tables);
    g_test_add_func("/header/features", test_features);
    g_test_add_func("/header/backing name", test_backing);
    g_test_add_func("/header/values come through", test_values);
    g_test_add_func("/header/version 2 has no feature fields", test_version_2);
    g_test_add_func("/header/a short file reads as zeros", test_short_file);
    return g_test_run();
}
