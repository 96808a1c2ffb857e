/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bitmap directories, made by hand and by QEMU. */
#include "format/bitmap-directory.h"

#include "format-bytes.h"

enum {
    AT_TABLE_OFFSET = 0, AT_TABLE_ENTRIES = 8, AT_FLAGS = 12, AT_TYPE = 16, AT_GRANULARITY = 17,
    AT_NAME_LEN = 18, AT_EXTRA_LEN = 20, AT_NAME = 24,
};

#define NAME "a \xff name"           /* 8 bytes: an entry of 32 without padding */

static Qcow2Header test_header(uint32_t n_bitmaps)
{
    Qcow2Header header = {
        .layout = qcow2_layout(3, 16, false, 4, false), .size = UINT64_C(1) << 30,
        .has_bitmaps = true, .n_bitmaps = n_bitmaps, .bitmap_directory_offset = 0x70000,
    };
    return header;
}

static void put_entry(uint8_t *bytes)
{
    put_be(bytes, AT_TABLE_OFFSET, 8, 0x80000);
    put_be(bytes, AT_TABLE_ENTRIES, 4, 1);
    put_be(bytes, AT_FLAGS, 4, 2);
    put_be(bytes, AT_TYPE, 1, 1);
    put_be(bytes, AT_GRANULARITY, 1, 16);
    put_be(bytes, AT_NAME_LEN, 2, strlen(NAME));
    put_be(bytes, AT_EXTRA_LEN, 4, 0);
    memcpy(bytes + AT_NAME, NAME, strlen(NAME));
}

static GArray *expect_good(const Qcow2Header *header, const uint8_t *bytes, size_t len)
{
    g_autoptr(GError) error = NULL;
    GArray *entries = qcow2_bitmap_directory_decode(header, bytes, len, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(entries->len, ==, header->n_bitmaps);
    return entries;
}

static void expect_bad(const Qcow2Header *header, const uint8_t *bytes, size_t len, const char *message)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(qcow2_bitmap_directory_decode(header, bytes, len, &error));
    assert_error_tells(error, QCOW2_ERROR_CORRUPT, message);
}

static void test_fields(void)
{
    Qcow2Header header = test_header(1);
    uint8_t bytes[32];

    put_entry(bytes);
    g_autoptr(GArray) entries = expect_good(&header, bytes, sizeof(bytes));
    const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, 0);
    g_assert_cmpstr(entry->name, ==, NAME);
    g_assert_cmphex(entry->table_offset, ==, 0x80000);
    g_assert_cmpuint(entry->table_entries, ==, 1);
    g_assert_cmphex(entry->flags, ==, QCOW2_BITMAP_AUTO);
    g_assert_cmpuint(entry->granularity_bits, ==, 16);
    g_assert_cmpuint(entry->extra_data_len, ==, 0);
}

typedef struct Case {
    size_t offset;
    unsigned width;
    uint64_t value;
    const char *message;         /* NULL: accepted */
} Case;

/* A disk of 1 GiB: a table entry covers 64 Ki * 8 bits, 256 MiB at a granularity of 512. */
static const Case cases[] = {
    { AT_TABLE_OFFSET, 8, 0, "bitmap directory at 0x70000, entry at 0x0: bitmap table offset 0x0 is 0" },
    { AT_TABLE_OFFSET, 8, 0x80008, "bitmap table offset 0x80008" },
    { AT_TABLE_OFFSET, 8, BIT(63), "too large" },
    { AT_TABLE_OFFSET, 8, BIT(63) - 65536, NULL },
    { AT_TABLE_ENTRIES, 4, 0, "bitmap table has 0 entries, not 1 to 8192" },
    { AT_TABLE_ENTRIES, 4, 8192, NULL },
    { AT_TABLE_ENTRIES, 4, 8193, "bitmap table has 8193 entries" },
    { AT_TABLE_ENTRIES, 4, UINT32_MAX, "bitmap table has 4294967295 entries" },
    { AT_FLAGS, 4, 0, NULL },
    { AT_FLAGS, 4, 7, NULL },
    { AT_FLAGS, 4, 8, "flags 0x00000008 set reserved bits" },
    { AT_FLAGS, 4, BIT(31), "flags 0x80000000" },
    { AT_TYPE, 1, 0, "bitmap type is 0, not 1" },
    { AT_TYPE, 1, 2, "bitmap type is 2" },
    { AT_GRANULARITY, 1, 8, "granularity_bits is 8, not 9 to 31" },
    { AT_GRANULARITY, 1, 11, NULL },
    { AT_GRANULARITY, 1, 10, "bitmap table has 1 entries for 536870912 bytes, the disk has 1073741824" },
    { AT_GRANULARITY, 1, 31, NULL },
    { AT_GRANULARITY, 1, 32, "granularity_bits is 32" },
    { AT_NAME_LEN, 2, 0, "1 of 1 bitmaps fill 24 of 32 bytes" },
    { AT_NAME_LEN, 2, 1, NULL },
    { AT_NAME_LEN, 2, 9, "32 bytes are left of the directory, 40 are needed" },
    { AT_EXTRA_LEN, 4, 1, "32 bytes are left of the directory, 40 are needed" },
    { AT_EXTRA_LEN, 4, UINT32_MAX, "32 bytes are left of the directory, 4294967328 are needed" },
};

static void test_limits(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Qcow2Header header = test_header(1);
        uint8_t bytes[32];

        g_test_message("case %zu", i);
        put_entry(bytes);
        put_be(bytes, cases[i].offset, cases[i].width, cases[i].value);
        if (cases[i].message) {
            expect_bad(&header, bytes, sizeof(bytes), cases[i].message);
        } else {
            g_array_unref(expect_good(&header, bytes, sizeof(bytes)));
        }
    }
}

static void test_long_name(void)
{
    Qcow2Header header = test_header(1);
    g_autofree uint8_t *bytes = g_malloc(24 + 1024);

    put_entry(bytes);
    memset(bytes + AT_NAME, 'n', 1024);
    put_be(bytes, AT_NAME_LEN, 2, 1023);
    g_autoptr(GArray) entries = expect_good(&header, bytes, 24 + 1024);
    g_assert_cmpuint(strlen(g_array_index(entries, Qcow2BitmapEntry, 0).name), ==, 1023);
    put_be(bytes, AT_NAME_LEN, 2, 1024);
    expect_bad(&header, bytes, 24 + 1024, "name of 1024 bytes, the limit is 1023");
}

/* A bitmap in use may have missed that the disk grew. */
static void test_in_use(void)
{
    Qcow2Header header = test_header(1);
    uint8_t bytes[32];

    put_entry(bytes);
    put_be(bytes, AT_GRANULARITY, 1, 9);
    expect_bad(&header, bytes, sizeof(bytes), "1 entries for 268435456 bytes");
    put_be(bytes, AT_FLAGS, 4, QCOW2_BITMAP_IN_USE);
    g_array_unref(expect_good(&header, bytes, sizeof(bytes)));

    /* A disk that is a sector larger, and one that is some bytes larger, which QEMU does not see. */
    put_be(bytes, AT_FLAGS, 4, 0);
    header.size = (256 << 20) + 512;
    expect_bad(&header, bytes, sizeof(bytes), "1 entries for");
    header.size = (256 << 20) + 511;
    g_array_unref(expect_good(&header, bytes, sizeof(bytes)));
}

static void test_extra_data(void)
{
    Qcow2Header header = test_header(1);
    uint8_t bytes[40];

    put_entry(bytes);
    put_be(bytes, AT_FLAGS, 4, QCOW2_BITMAP_EXTRA_DATA_COMPATIBLE);
    put_be(bytes, AT_EXTRA_LEN, 4, 5);
    memcpy(bytes + 24, "extraname", 9);
    put_be(bytes, AT_NAME_LEN, 2, 4);
    g_autoptr(GArray) entries = expect_good(&header, bytes, sizeof(bytes));
    const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, 0);
    g_assert_cmpstr(entry->name, ==, "name");
    g_assert_cmpuint(entry->extra_data_len, ==, 5);
}

static void test_counts(void)
{
    uint8_t bytes[64];
    Qcow2Header two = test_header(2), one = test_header(1), three = test_header(3);

    put_entry(bytes);
    put_entry(bytes + 32);
    g_array_unref(expect_good(&two, bytes, sizeof(bytes)));
    expect_bad(&one, bytes, sizeof(bytes), "1 of 1 bitmaps fill 32 of 64 bytes");
    expect_bad(&three, bytes, sizeof(bytes), "2 of 3 bitmaps fill 64 of 64 bytes");
    expect_bad(&two, bytes, 0, "0 of 2 bitmaps");
    expect_bad(&two, bytes, 40, "entry at 0x20: 8 bytes are left of the directory, 24 are needed");
    expect_bad(&two, bytes, 56, "entry at 0x20: 24 bytes are left of the directory, 32 are needed");
    bytes[32 + AT_TYPE] = 9;
    expect_bad(&two, bytes, sizeof(bytes), "entry at 0x20: bitmap type is 9");
}

static void test_qemu_directories(void)
{
    static const char *const names[] = { "bitmaps-7.2.directory", "bitmaps-10.0.directory" };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        size_t len;
        g_autofree uint8_t *bytes = load_piece(names[i], &len);
        Qcow2Header header = test_header(2);

        header.size = 10 << 20;
        g_autoptr(GArray) entries = expect_good(&header, bytes, len);
        const Qcow2BitmapEntry *first = &g_array_index(entries, Qcow2BitmapEntry, 0);
        const Qcow2BitmapEntry *second = &g_array_index(entries, Qcow2BitmapEntry, 1);
        g_assert_cmpstr(first->name, ==, "nightly");
        g_assert_cmphex(first->flags, ==, QCOW2_BITMAP_AUTO);
        g_assert_cmpuint(first->granularity_bits, ==, 16);
        g_assert_cmpstr(second->name, ==, "b2");
        g_assert_cmphex(second->flags, ==, 0);
        g_assert_cmpuint(second->granularity_bits, ==, 9);
    }
}

/* What is encoded is decoded to the same, and an entry of QEMU's to the same bytes. */
static void test_encode(void)
{
    Qcow2Header header = test_header(1);
    uint8_t bytes[32];
    g_autoptr(GError) error = NULL;

    put_entry(bytes);
    g_autoptr(GArray) entries = expect_good(&header, bytes, sizeof(bytes));
    g_autoptr(GByteArray) again = qcow2_bitmap_directory_encode(entries, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(again->data, again->len, bytes, sizeof(bytes));

    for (unsigned len = 1; len <= QCOW2_MAX_BITMAP_NAME; len += 7) {
        Qcow2BitmapEntry more = { .name = g_strnfill(len, 'x'), .table_offset = 0x90000, .table_entries = 1,
                                  .flags = QCOW2_BITMAP_IN_USE, .granularity_bits = 31 };
        g_array_append_val(entries, more);
    }
    g_byte_array_unref(again);
    again = qcow2_bitmap_directory_encode(entries, &error);
    g_assert_no_error(error);
    header.n_bitmaps = entries->len;
    g_autoptr(GArray) decoded = expect_good(&header, again->data, again->len);
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2BitmapEntry *a = &g_array_index(entries, Qcow2BitmapEntry, i);
        const Qcow2BitmapEntry *b = &g_array_index(decoded, Qcow2BitmapEntry, i);
        g_assert_cmpstr(a->name, ==, b->name);
        g_assert_cmpuint(a->flags, ==, b->flags);
        g_assert_cmpuint(a->granularity_bits, ==, b->granularity_bits);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bitmap-directory/fields", test_fields);
    g_test_add_func("/bitmap-directory/limits", test_limits);
    g_test_add_func("/bitmap-directory/names up to 1023 bytes", test_long_name);
    g_test_add_func("/bitmap-directory/a bitmap in use may be too short", test_in_use);
    g_test_add_func("/bitmap-directory/extra data is skipped", test_extra_data);
    g_test_add_func("/bitmap-directory/as many as the header says", test_counts);
    g_test_add_func("/bitmap-directory/directories of QEMU", test_qemu_directories);
    g_test_add_func("/bitmap-directory/encoded and decoded again", test_encode);
    return g_test_run();
}
