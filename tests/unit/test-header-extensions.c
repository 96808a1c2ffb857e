/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Header extensions, and headers written again. Headers that QEMU 7.2 and 10.0 wrote are the judges. */
#include "header-bytes.h"

#define UNKNOWN_TYPE UINT32_C(0x12345678)

/* ---- Decoding ------------------------------------------------------------------------------------ */

static void expect_good(const uint8_t *bytes, Qcow2Header *ret)
{
    g_autoptr(GError) error = NULL;

    qcow2_header_decode(bytes, MAX_CLUSTER, ret, &error);
    g_assert_no_error(error);
}

static void expect_bad(const uint8_t *bytes, Qcow2Error code, const char *message)
{
    g_autoptr(GError) error = NULL;
    Qcow2Header header;

    g_assert_false(qcow2_header_decode(bytes, MAX_CLUSTER, &header, &error));
    assert_error_tells(error, (int) code, message);
}

static void test_area(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    Qcow2Header header;

    /* The area is exactly full, without an end mark. */
    put_be(bytes, AT_BACKING_OFFSET, 8, 112 + 8 + 16);
    put_ext_bytes(bytes, 112, UNKNOWN_TYPE, "0123456789abcdef", 16);
    expect_good(bytes, &header);
    g_assert_cmpuint(header.extensions->len, ==, 1);
    qcow2_header_clear(&header);

    /* Its last extension may lack its padding, but not a byte of its data. */
    put_be(bytes, 116, 4, 15);
    put_be(bytes, AT_BACKING_OFFSET, 8, 112 + 8 + 15);
    expect_good(bytes, &header);
    qcow2_header_clear(&header);
    put_be(bytes, AT_BACKING_OFFSET, 8, 112 + 8 + 14);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT,
               "at 0x70: type 0x12345678, length 0xf passes the end of the extensions at 0x86");

    put_be(bytes, AT_BACKING_OFFSET, 8, 112 + 7);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "header extension at 0x70: its head passes");
    put_be(bytes, AT_BACKING_OFFSET, 8, 0);
    put_be(bytes, 116, 4, 65536 - 120);
    expect_good(bytes, &header);
    qcow2_header_clear(&header);
    put_be(bytes, 116, 4, 65536 - 119);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "length 0xff89");
    put_be(bytes, 116, 4, UINT32_MAX);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "length 0xffffffff");
    put_be(bytes, 112, 4, 0);                                     /* QEMU looks at an end mark's length */
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "type 0x00000000");
}

static void test_strings(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    Qcow2Header header;

    size_t end = put_ext_bytes(bytes, 112, QCOW2_EXT_BACKING_FORMAT, "fifteen letters", 15);
    end = put_ext_bytes(bytes, end, QCOW2_EXT_DATA_FILE, "data\xff.raw", 9);
    memset(bytes + end - 7, 'x', 7);                              /* padding need not be zeros */
    expect_good(bytes, &header);
    g_assert_cmpstr(header.backing_format, ==, "fifteen letters");
    g_assert_cmpmem(header.data_file, strlen(header.data_file), "data\xff.raw", 9);
    qcow2_header_clear(&header);

    put_ext_bytes(bytes, 112, QCOW2_EXT_BACKING_FORMAT, "sixteen letters!", 16);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "backing format extension: length is 16 bytes, the limit is 15");

    memset(bytes + 112, 0, 100);
    put_ext_bytes(bytes, 112, QCOW2_EXT_BACKING_FORMAT, "", 0);
    expect_good(bytes, &header);
    g_assert_null(header.backing_format);
    g_assert_nonnull(qcow2_header_find_ext(&header, QCOW2_EXT_BACKING_FORMAT));
    qcow2_header_clear(&header);
}

/* Of a type that appears twice the last one counts, as in QEMU. */
static void test_twice(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    Qcow2Header header;

    size_t end = put_ext_bytes(bytes, 112, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
    put_ext_bytes(bytes, end, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
    expect_good(bytes, &header);
    g_assert_cmpuint(header.extensions->len, ==, 2);
    g_assert_cmpstr(header.backing_format, ==, "qcow2");
    g_assert_cmpuint(g_bytes_get_size(qcow2_header_find_ext(&header, QCOW2_EXT_BACKING_FORMAT)), ==, 5);
    qcow2_header_clear(&header);
}

static void put_bitmaps(uint8_t *bytes, uint32_t n, uint32_t reserved, uint64_t size, uint64_t offset)
{
    uint8_t data[24];

    put_be(data, 0, 4, n);
    put_be(data, 4, 4, reserved);
    put_be(data, 8, 8, size);
    put_be(data, 16, 8, offset);
    put_ext_bytes(bytes, 112, QCOW2_EXT_BITMAPS, data, sizeof(data));
}

static void test_bitmaps(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    const uint64_t max_size = UINT64_C(1024) * 65535;
    Qcow2Header header;

    put_be(bytes, AT_AUTOCLEAR, 8, 1);
    put_bitmaps(bytes, 65535, 0, max_size, 0x80000);
    expect_good(bytes, &header);
    g_assert_true(header.has_bitmaps);
    g_assert_cmpuint(header.n_bitmaps, ==, 65535);
    g_assert_cmpuint(header.bitmap_directory_size, ==, max_size);
    g_assert_cmphex(header.bitmap_directory_offset, ==, 0x80000);
    qcow2_header_clear(&header);

    put_bitmaps(bytes, 65536, 0, 100, 0x80000);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "bitmaps extension: nb_bitmaps is 65536, not 1 to 65535");
    put_bitmaps(bytes, 0, 0, 100, 0x80000);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "nb_bitmaps is 0");
    put_bitmaps(bytes, 1, 0, max_size + 1, 0x80000);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "bitmap_directory_size is 67107841 bytes, the limit is 67107840");
    put_bitmaps(bytes, 1, 0, 100, 0x80200);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "bitmap_directory_offset 0x80200 is not cluster aligned");
    put_bitmaps(bytes, 1, 0, 100, BIT(63));
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "bitmap_directory_offset 0x8000000000000000");
    put_bitmaps(bytes, 1, 5, 100, 0x80000);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "reserved bytes 4-7 are 0x00000005");

    /* Without the bit that vouches for them, whatever they say, there are none. */
    put_be(bytes, AT_AUTOCLEAR, 8, 0);
    expect_good(bytes, &header);
    g_assert_false(header.has_bitmaps);
    g_assert_cmpuint(header.n_bitmaps, ==, 0);
    g_assert_nonnull(qcow2_header_find_ext(&header, QCOW2_EXT_BITMAPS));
    qcow2_header_clear(&header);
    put_be(bytes, 116, 4, 23);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "bitmaps extension: length is 23 bytes, not 24");
}

static void test_encryption(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    uint8_t data[16];
    Qcow2Header header;

    put_be(data, 0, 8, 0x40000);
    put_be(data, 8, 8, 2068480);
    put_ext_bytes(bytes, 112, QCOW2_EXT_ENCRYPTION, data, sizeof(data));
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "encryption extension: crypt_method is 0, only LUKS (2) has one");
    put_be(bytes, AT_CRYPT, 4, 1);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "crypt_method is 1");

    put_be(bytes, AT_CRYPT, 4, 2);
    expect_good(bytes, &header);
    g_assert_cmphex(header.crypt_offset, ==, 0x40000);
    g_assert_cmpuint(header.crypt_len, ==, 2068480);
    qcow2_header_clear(&header);

    put_be(bytes, 120, 8, 0x40001);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "offset 0x40001, length 0x1f9000");
    put_be(bytes, 120, 8, BIT(63) - 65536);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "too large");
    put_be(bytes, 116, 4, 15);
    expect_bad(bytes, QCOW2_ERROR_CORRUPT, "encryption extension: length is 15 bytes, not 16");
}

static void test_feature_names(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3);
    uint8_t table[48 * 5] = { 0 };

    put_be(table, 1, 1, 7);
    memcpy(table + 2, "forty-six letters are all that fits in a name!", 46);
    put_be(table, 48, 2, 0x0108);
    memcpy(table + 50, "compatible, not what is asked for", 33);
    put_be(table, 96, 2, 0x0009);
    memcpy(table + 98, "esc\x1b[31m", 8);
    put_be(table, 144, 2, 0x00ff);
    memcpy(table + 146, "no such bit", 11);
    put_be(table, 192, 2, 0x0007);
    memcpy(table + 194, "a second name", 13);
    put_ext_bytes(bytes, 112, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
    put_be(bytes, AT_INCOMPATIBLE, 8, BIT(7) | BIT(8) | BIT(9));
    expect_bad(bytes, QCOW2_ERROR_UNSUPPORTED, "Unsupported qcow2 feature(s): forty-six letters are all"
               " that fits in a name!, esc\\x1b[31m, Unknown incompatible feature: 100");

    put_be(bytes, AT_INCOMPATIBLE, 8, BIT(7));
    expect_bad(bytes, QCOW2_ERROR_UNSUPPORTED, "feature(s): forty-six letters are all that fits in a name!");
    put_be(bytes, 116, 4, UINT32_MAX);
    expect_bad(bytes, QCOW2_ERROR_UNSUPPORTED, "feature(s): Unknown incompatible feature: 80");
}

/* ---- Encoding ------------------------------------------------------------------------------------ */

static void assert_same_ext(const Qcow2Header *a, const Qcow2Header *b)
{
    for (guint i = 0; a->extensions && i < a->extensions->len; i++) {
        const Qcow2HeaderExt *ext = &g_array_index(a->extensions, Qcow2HeaderExt, i);
        GBytes *other = qcow2_header_find_ext(b, ext->type);
        g_assert_nonnull(other);
        g_assert_true(g_bytes_equal(ext->data, other));
    }
    g_assert_cmpuint(a->extensions ? a->extensions->len : 0, ==, b->extensions ? b->extensions->len : 0);
}

static void assert_same(const Qcow2Header *a, const Qcow2Header *b)
{
    g_assert_cmpmem(&a->layout, sizeof(a->layout), &b->layout, sizeof(b->layout));
    g_assert_cmpuint(a->size, ==, b->size);
    g_assert_cmphex(a->incompatible, ==, b->incompatible);
    g_assert_cmphex(a->compatible, ==, b->compatible);
    g_assert_cmphex(a->autoclear, ==, b->autoclear);
    g_assert_cmpint(a->crypt, ==, b->crypt);
    g_assert_cmpint(a->compression, ==, b->compression);
    g_assert_cmphex(a->l1_offset, ==, b->l1_offset);
    g_assert_cmpuint(a->l1_entries, ==, b->l1_entries);
    g_assert_cmphex(a->reftable_offset, ==, b->reftable_offset);
    g_assert_cmpuint(a->reftable_clusters, ==, b->reftable_clusters);
    g_assert_cmphex(a->snapshots_offset, ==, b->snapshots_offset);
    g_assert_cmpuint(a->n_snapshots, ==, b->n_snapshots);
    g_assert_cmpstr(a->backing_name, ==, b->backing_name);
    g_assert_cmpstr(a->backing_format, ==, b->backing_format);
    g_assert_cmpstr(a->data_file, ==, b->data_file);
    g_assert_true(a->has_bitmaps == b->has_bitmaps);
    g_assert_cmphex(a->bitmap_directory_offset, ==, b->bitmap_directory_offset);
    g_assert_cmpuint(a->bitmap_directory_size, ==, b->bitmap_directory_size);
    g_assert_cmpuint(a->n_bitmaps, ==, b->n_bitmaps);
    g_assert_cmphex(a->crypt_offset, ==, b->crypt_offset);
    g_assert_cmpuint(a->crypt_len, ==, b->crypt_len);
    assert_same_ext(a, b);
}

static void encode(Qcow2Header *header, uint8_t *room, size_t room_len)
{
    g_autoptr(GError) error = NULL;

    memset(room, 0xee, room_len);
    qcow2_header_encode(header, room, room_len, &error);
    g_assert_no_error(error);
}

static const struct {
    const char *name;
    bool same_bytes;             /* QEMU puts the bitmaps behind the feature names, we before */
} pieces[] = {
    { "version-2-7.2.header", true }, { "version-2-10.0.header", true },
    { "version-3-7.2.header", false }, { "version-3-10.0.header", false },
    { "data-file-7.2.header", true }, { "data-file-10.0.header", true },
    { "luks-7.2.header", true }, { "luks-10.0.header", true },
};

static void test_qemu_headers(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(pieces); i++) {
        size_t len;
        g_autofree uint8_t *bytes = load_piece(pieces[i].name, &len);
        g_autofree uint8_t *room = g_malloc(MAX_CLUSTER);
        Qcow2Header header, again;
        g_autoptr(GError) error = NULL;

        qcow2_header_decode(bytes, len, &header, &error);
        g_assert_no_error(error);
        encode(&header, room, header.layout.cluster_size);
        qcow2_header_decode(room, header.layout.cluster_size, &again, &error);
        g_assert_no_error(error);
        assert_same(&header, &again);
        g_assert_true(!pieces[i].same_bytes || memcmp(bytes, room, len) == 0);
        qcow2_header_clear(&header);
        qcow2_header_clear(&again);
    }
}

static void test_qemu_values(void)
{
    size_t len;
    g_autofree uint8_t *bytes = load_piece("version-3-7.2.header", &len);
    g_autofree uint8_t *data_file = NULL;
    Qcow2Header header;

    g_assert_true(qcow2_header_decode(bytes, len, &header, NULL));
    g_assert_cmpuint(header.size, ==, 10 << 20);
    g_assert_cmpstr(header.backing_name, ==, "base.raw");
    g_assert_cmpstr(header.backing_format, ==, "raw");
    g_assert_cmpuint(header.n_bitmaps, ==, 2);
    g_assert_cmpint(header.compression, ==, QCOW2_COMPRESSION_ZSTD);
    g_assert_true(header.layout.extended_l2);
    g_assert_cmpuint(header.layout.refcount_order, ==, 6);
    g_assert_cmphex(header.compatible, ==, QCOW2_COMPAT_LAZY_REFCOUNTS);
    qcow2_header_clear(&header);

    data_file = load_piece("data-file-10.0.header", &len);
    g_assert_true(qcow2_header_decode(data_file, len, &header, NULL));
    g_assert_cmpstr(header.data_file, ==, "data.raw");
    g_assert_cmphex(header.autoclear, ==, QCOW2_AUTOCLEAR_RAW_DATA);
    qcow2_header_clear(&header);
}

/* Roots first, then the others, feature names last; in each group the order stays. */
static void test_order(void)
{
    static const uint32_t before[] = {
        QCOW2_EXT_FEATURE_NAMES, UNKNOWN_TYPE + 1, QCOW2_EXT_DATA_FILE, UNKNOWN_TYPE,
        QCOW2_EXT_BACKING_FORMAT,
    };
    static const uint32_t after[] = {
        QCOW2_EXT_DATA_FILE, QCOW2_EXT_BACKING_FORMAT, UNKNOWN_TYPE + 1, UNKNOWN_TYPE,
        QCOW2_EXT_FEATURE_NAMES,
    };
    g_autofree uint8_t *bytes = new_header_bytes(3), *room = g_malloc(65536);
    Qcow2Header header, again;
    size_t end = 112;

    for (size_t i = 0; i < G_N_ELEMENTS(before); i++) {
        end = put_ext_bytes(bytes, end, before[i], "odd", 3);
    }
    expect_good(bytes, &header);
    encode(&header, room, 65536);
    g_assert_true(qcow2_header_decode(room, 65536, &again, NULL));
    assert_same(&header, &again);
    for (size_t i = 0; i < G_N_ELEMENTS(after); i++) {
        g_assert_cmphex(g_array_index(again.extensions, Qcow2HeaderExt, i).type, ==, after[i]);
    }
    qcow2_header_clear(&header);
    qcow2_header_clear(&again);
}

static Qcow2Header new_header(unsigned cluster_bits)
{
    Qcow2Header header = {
        .layout = qcow2_layout(3, cluster_bits, false, 4, false),
        .l1_offset = 0x10000, .reftable_offset = 0x20000, .reftable_clusters = 1,
    };
    return header;
}

/* Clusters of 512 bytes: the name goes in to its last byte, feature names give way, nothing else does. */
static void test_room(void)
{
    const size_t len_max = 512 - 112 - 8;                         /* fields and end mark */
    g_autofree uint8_t *feature_names = g_malloc0(48 * 8);
    uint8_t room[512];
    Qcow2Header header = new_header(9), again;
    g_autoptr(GError) error = NULL;

    qcow2_header_set_ext(&header, QCOW2_EXT_FEATURE_NAMES, feature_names, 48 * 8);
    header.backing_name = g_strnfill(len_max, 'n');
    encode(&header, room, sizeof(room));
    g_assert_cmpuint(header.backing_offset, ==, 120);
    g_assert_cmpuint(header.backing_len, ==, len_max);
    g_assert_true(qcow2_header_decode(room, sizeof(room), &again, NULL));
    g_assert_cmpstr(again.backing_name, ==, header.backing_name);
    g_assert_null(qcow2_header_find_ext(&again, QCOW2_EXT_FEATURE_NAMES));
    qcow2_header_clear(&again);

    qcow2_header_set_ext(&header, UNKNOWN_TYPE, "x", 1);
    g_assert_false(qcow2_header_encode(&header, room, sizeof(room), &error));
    assert_error_tells(error, QCOW2_ERROR_NO_SPACE, "room for the extension of type 0x12345678 of 1 bytes");
    g_clear_error(&error);

    qcow2_header_set_ext(&header, UNKNOWN_TYPE, NULL, 0);
    g_free(header.backing_name);
    header.backing_name = g_strnfill(len_max + 1, 'n');
    g_assert_false(qcow2_header_encode(&header, room, sizeof(room), &error));
    assert_error_tells(error, QCOW2_ERROR_NO_SPACE, "no room for a backing file name of 393 bytes");
    g_clear_error(&error);

    g_free(header.backing_name);
    header.backing_name = g_strnfill(1024, 'n');
    g_assert_false(qcow2_header_encode(&header, room, sizeof(room), &error));
    assert_error_tells(error, QCOW2_ERROR_INVALID, "name of 1024 bytes, the limit is 1023");
    qcow2_header_clear(&header);
}

static void test_unknown_fields(void)
{
    g_autofree uint8_t *bytes = new_header_bytes(3), *room = g_malloc(65536);
    Qcow2Header header, again;

    put_be(bytes, AT_HEADER_LENGTH, 4, 136);
    memcpy(bytes + 112, "fields of the future, 24", 24);
    expect_good(bytes, &header);
    encode(&header, room, 65536);
    g_assert_cmpuint(header.header_length, ==, 136);
    g_assert_cmpmem(room + 112, 24, "fields of the future, 24", 24);
    g_assert_true(qcow2_header_decode(room, 65536, &again, NULL));
    g_assert_true(g_bytes_equal(header.unknown_fields, again.unknown_fields));
    qcow2_header_clear(&header);
    qcow2_header_clear(&again);

    /* Shorter than we write it. */
    put_be(bytes, AT_HEADER_LENGTH, 4, 104);
    memset(bytes + 104, 0, 32);
    expect_good(bytes, &header);
    g_assert_null(header.unknown_fields);
    encode(&header, room, 65536);
    g_assert_cmpuint(header.header_length, ==, 112);
    qcow2_header_clear(&header);
}

static void test_set_ext(void)
{
    Qcow2Header header = new_header(16);
    uint8_t bitmaps[24] = { 0 };

    qcow2_header_set_ext(&header, QCOW2_EXT_BACKING_FORMAT, NULL, 0);
    g_assert_null(qcow2_header_find_ext(&header, QCOW2_EXT_BACKING_FORMAT));
    qcow2_header_set_ext(&header, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
    qcow2_header_set_ext(&header, UNKNOWN_TYPE, "a", 1);
    qcow2_header_set_ext(&header, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
    g_assert_cmpstr(header.backing_format, ==, "qcow2");
    g_assert_cmpuint(header.extensions->len, ==, 2);
    g_assert_cmphex(g_array_index(header.extensions, Qcow2HeaderExt, 0).type, ==, QCOW2_EXT_BACKING_FORMAT);

    header.autoclear = QCOW2_AUTOCLEAR_BITMAPS;
    put_be(bitmaps, 0, 4, 3);
    put_be(bitmaps, 16, 8, 0x90000);
    qcow2_header_set_ext(&header, QCOW2_EXT_BITMAPS, bitmaps, sizeof(bitmaps));
    g_assert_true(header.has_bitmaps && header.n_bitmaps == 3 && header.bitmap_directory_offset == 0x90000);
    qcow2_header_set_ext(&header, QCOW2_EXT_BITMAPS, NULL, 0);
    g_assert_false(header.has_bitmaps || header.n_bitmaps || header.bitmap_directory_offset);

    qcow2_header_set_ext(&header, QCOW2_EXT_BACKING_FORMAT, NULL, 0);
    g_assert_null(header.backing_format);
    g_assert_cmpuint(header.extensions->len, ==, 1);
    qcow2_header_clear(&header);
    g_assert_null(header.extensions);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/header-extensions/stay in their area", test_area);
    g_test_add_func("/header-extensions/backing format and data file", test_strings);
    g_test_add_func("/header-extensions/of two the last one counts", test_twice);
    g_test_add_func("/header-extensions/bitmaps", test_bitmaps);
    g_test_add_func("/header-extensions/encryption", test_encryption);
    g_test_add_func("/header-extensions/unknown features are told by name", test_feature_names);
    g_test_add_func("/header-encode/headers of QEMU come back", test_qemu_headers);
    g_test_add_func("/header-encode/headers of QEMU say what they should", test_qemu_values);
    g_test_add_func("/header-encode/roots first, feature names last", test_order);
    g_test_add_func("/header-encode/a full cluster", test_room);
    g_test_add_func("/header-encode/unknown fields stay", test_unknown_fields);
    g_test_add_func("/header-encode/an extension is set, replaced and removed", test_set_ext);
    return g_test_run();
}
