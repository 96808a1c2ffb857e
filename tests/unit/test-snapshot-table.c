/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Snapshot table entries, made by hand and by QEMU. */
#include "format/snapshot-table.h"

#include "format-bytes.h"

static Qcow2Header test_header(unsigned version)
{
    Qcow2Header header = { .layout = qcow2_layout(version, 16, false, 4, false), .size = 10 << 20 };

    return header;
}

#define ID "7"
#define NAME "before\nthe \xff update"

/* An entry with @len_extra bytes of extra data, whose known fields have values; padding included. */
static uint8_t *new_entry(uint32_t len_extra, size_t *ret_len)
{
    size_t len = qcow2_align_up(40 + len_extra + strlen(ID) + strlen(NAME), 8);
    uint8_t extra[2000], *bytes = g_malloc0(len);

    memset(extra, 'u', sizeof(extra));
    put_be(extra, 0, 8, UINT64_C(5) << 32);
    put_be(extra, 8, 8, 7777);
    put_be(extra, 16, 8, 99);
    put_be(bytes, 0, 8, 0x50000);
    put_be(bytes, 8, 4, 2);
    put_be(bytes, 12, 2, strlen(ID));
    put_be(bytes, 14, 2, strlen(NAME));
    put_be(bytes, 16, 4, 1700000000);
    put_be(bytes, 20, 4, 999999999);
    put_be(bytes, 24, 8, UINT64_C(123456789012));
    put_be(bytes, 32, 4, 4096);
    put_be(bytes, 36, 4, len_extra);
    memcpy(bytes + 40, extra, len_extra);
    memcpy(bytes + 40 + len_extra, ID NAME, strlen(ID NAME));
    *ret_len = len;
    return bytes;
}

static void test_extra_data(void)
{
    static const struct {
        uint32_t len_extra;
        uint64_t vm_state_size, disk_size, icount;
        bool has_disk_size;
    } cases[] = {
        { 0, 4096, 10 << 20, UINT64_MAX, false },
        { 7, 4096, 10 << 20, UINT64_MAX, false },
        { 8, UINT64_C(5) << 32, 10 << 20, UINT64_MAX, false },
        { 15, UINT64_C(5) << 32, 10 << 20, UINT64_MAX, false },
        /* 7777 bytes are 15 sectors and a part of one. */
        { 16, UINT64_C(5) << 32, 7680, UINT64_MAX, true },
        { 23, UINT64_C(5) << 32, 7680, UINT64_MAX, true },
        { 24, UINT64_C(5) << 32, 7680, 99, true },
        { 25, UINT64_C(5) << 32, 7680, 99, true },
        { 1024, UINT64_C(5) << 32, 7680, 99, true },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Qcow2Header header = test_header(i % 2 ? 3 : 2);
        size_t len, len_told;
        g_autofree uint8_t *bytes = new_entry(cases[i].len_extra, &len);
        size_t len_whole = 40 + cases[i].len_extra + strlen(ID NAME);
        Qcow2SnapshotEntry entry;

        g_assert_true(qcow2_snapshot_entry_len(bytes, &len_told, NULL));
        g_assert_cmpuint(len_told, ==, len);
        g_assert_true(qcow2_snapshot_entry_decode(&header, bytes, len, &entry, NULL));
        g_assert_cmpuint(entry.info.vm_state_size, ==, cases[i].vm_state_size);
        g_assert_cmpuint(entry.info.disk_size, ==, cases[i].disk_size);
        g_assert_cmpuint(entry.info.icount, ==, cases[i].icount);
        g_assert_true(entry.has_disk_size == cases[i].has_disk_size);
        g_assert_cmpmem(g_bytes_get_data(entry.raw, NULL), g_bytes_get_size(entry.raw), bytes, len_whole);
        qcow2_snapshot_entry_clear(&entry);
    }
}

static void test_fields(void)
{
    Qcow2Header header = test_header(3);
    size_t len;
    g_autofree uint8_t *bytes = new_entry(24, &len);
    Qcow2SnapshotEntry entry;

    g_assert_true(qcow2_snapshot_entry_decode(&header, bytes, len, &entry, NULL));
    g_assert_cmphex(entry.l1_offset, ==, 0x50000);
    g_assert_cmpuint(entry.l1_entries, ==, 2);
    g_assert_cmpstr(entry.info.id, ==, ID);
    g_assert_cmpmem(entry.info.name, entry.name_len, NAME, strlen(NAME));
    g_assert_cmpint(entry.name[entry.name_len], ==, '\0');
    g_assert_cmpuint(entry.info.date_sec, ==, 1700000000);
    g_assert_cmpuint(entry.info.date_nsec, ==, 999999999);
    g_assert_cmpuint(entry.info.vm_clock_nsec, ==, UINT64_C(123456789012));
    qcow2_snapshot_entry_clear(&entry);
    g_assert_null(entry.raw);
}

/* Each length up to the whole entry's is too short; the padding may be missing. */
static void test_truncated(void)
{
    Qcow2Header header = test_header(3);
    size_t len, len_whole = 40 + 24 + strlen(ID NAME);
    g_autofree uint8_t *bytes = new_entry(24, &len);

    for (size_t cut = 0; cut <= len; cut++) {
        g_autofree uint8_t *exact = g_memdup2(bytes, cut);
        g_autoptr(GError) error = NULL;
        Qcow2SnapshotEntry entry;

        if (qcow2_snapshot_entry_decode(&header, exact, cut, &entry, &error)) {
            g_assert_cmpuint(cut, >=, len_whole);
            qcow2_snapshot_entry_clear(&entry);
        } else {
            g_assert_cmpuint(cut, <, len_whole);
            assert_error_tells(error, QCOW2_ERROR_CORRUPT, "bytes are left of the table");
        }
    }
}

static void test_longest(void)
{
    Qcow2Header header = test_header(3);
    size_t len = 40 + 1024 + 65535 + 65535 + 2, len_told;
    g_autofree uint8_t *bytes = g_malloc0(len);
    g_autoptr(GError) error = NULL;
    Qcow2SnapshotEntry entry;

    memset(bytes + 40 + 1024, 'i', 65535);
    put_be(bytes, 12, 4, UINT32_MAX);
    put_be(bytes, 36, 4, 1024);
    g_assert_true(qcow2_snapshot_entry_len(bytes, &len_told, NULL));
    g_assert_cmpuint(len_told, ==, len);
    g_assert_true(qcow2_snapshot_entry_decode(&header, bytes, len, &entry, NULL));
    g_assert_cmpuint(strlen(entry.id), ==, 65535);
    g_assert_cmpuint(entry.name_len, ==, 65535);
    g_assert_cmpstr(entry.name, ==, "");
    qcow2_snapshot_entry_clear(&entry);

    put_be(bytes, 36, 4, 1025);
    g_assert_false(qcow2_snapshot_entry_len(bytes, &len_told, &error));
    assert_error_tells(error, QCOW2_ERROR_CORRUPT, "extra data of 1025 bytes, the limit is 1024");
    g_clear_error(&error);
    put_be(bytes, 36, 4, UINT32_MAX);
    g_assert_false(qcow2_snapshot_entry_decode(&header, bytes, len, &entry, &error));
    assert_error_tells(error, QCOW2_ERROR_CORRUPT, "extra data of 4294967295 bytes");
}

/* What makes a snapshot unreadable does not stop the table from being listed. */
static void test_check(void)
{
    static const struct {
        uint64_t l1_offset, l1_entries, disk_size;
        const char *message;         /* NULL: readable */
    } cases[] = {
        { 0x50000, 4194304, 10 << 20, NULL },
        { 0x50000, 4194305, 10 << 20, "L1 table of 4194305 entries, the limit is 4194304" },
        { 0x50000, UINT32_MAX, 10 << 20, "L1 table of 4294967295 entries" },
        { 0x50200, 1, 10 << 20, "L1 table offset 0x50200 is not cluster aligned" },
        { BIT(63) - 65536, 8192, 10 << 20, "too large" },
        { BIT(63) - 65536, 8191, 10 << 20, NULL },
        { BIT(63), 1, 10 << 20, "L1 table offset 0x8000000000000000" },
        { 0x50000, 0, 10 << 20, NULL },
        { 0x50000, 1, INT64_MAX, NULL },
        { 0x50000, 1, BIT(63), "disk size is 0x8000000000000000 bytes, more than 63 bits" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Qcow2Header header = test_header(3);
        size_t len;
        g_autofree uint8_t *bytes = new_entry(24, &len);
        g_autoptr(GError) error = NULL;
        Qcow2SnapshotEntry entry;

        put_be(bytes, 0, 8, cases[i].l1_offset);
        put_be(bytes, 8, 4, cases[i].l1_entries);
        put_be(bytes, 48, 8, cases[i].disk_size);
        g_assert_true(qcow2_snapshot_entry_decode(&header, bytes, len, &entry, NULL));
        qcow2_snapshot_entry_check(&header, &entry, &error);
        if (cases[i].message) {
            assert_error_tells(error, QCOW2_ERROR_CORRUPT, cases[i].message);
        } else {
            g_assert_no_error(error);
        }
        qcow2_snapshot_entry_clear(&entry);
    }
}

/* Tables that QEMU 7.2 and 10.0 wrote: before a resize, after it, and with VM state. */
static void test_qemu_tables(void)
{
    static const struct {
        const char *name;
        uint64_t vm_state_size, vm_clock_nsec;
        uint32_t date_sec;
    } tables[] = {
        { "snapshots-7.2.table", 765, 222360, 1795165245 },
        { "snapshots-10.0.table", 1107, 189511, 1795165247 },
    };
    static const char *const names[] = { "first", "zweite Öffnung", "running" };
    static const uint64_t sizes[] = { 10 << 20, 20 << 20, 20 << 20 };

    for (size_t t = 0; t < G_N_ELEMENTS(tables); t++) {
        Qcow2Header header = test_header(3);
        size_t len_table, at = 0;
        g_autofree uint8_t *bytes = load_piece(tables[t].name, &len_table);

        for (size_t i = 0; i < 3; i++) {
            Qcow2SnapshotEntry entry;
            size_t len;
            bool running = i == 2;

            g_assert_true(qcow2_snapshot_entry_len(bytes + at, &len, NULL));
            g_assert_true(qcow2_snapshot_entry_decode(&header, bytes + at, len_table - at, &entry, NULL));
            g_assert_true(qcow2_snapshot_entry_check(&header, &entry, NULL));
            g_assert_cmpint(entry.info.id[0], ==, '1' + (int) i);
            g_assert_cmpstr(entry.info.name, ==, names[i]);
            g_assert_cmpuint(entry.info.disk_size, ==, sizes[i]);
            g_assert_cmpuint(entry.info.vm_state_size, ==, running ? tables[t].vm_state_size : 0);
            g_assert_cmpuint(entry.info.vm_clock_nsec, ==, running ? tables[t].vm_clock_nsec : 0);
            g_assert_cmpuint(entry.info.icount, ==, running ? UINT64_MAX : 0);
            g_assert_cmpuint(entry.info.date_sec, ==, tables[t].date_sec);
            g_assert_cmpuint(entry.l1_entries, ==, running ? 2 : 1);
            qcow2_snapshot_entry_clear(&entry);
            at += len;
        }
        g_assert_cmpuint(at, ==, len_table);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snapshot-table/extra data says what it reaches", test_extra_data);
    g_test_add_func("/snapshot-table/fields and raw names", test_fields);
    g_test_add_func("/snapshot-table/a truncated entry is corrupt", test_truncated);
    g_test_add_func("/snapshot-table/the longest entry", test_longest);
    g_test_add_func("/snapshot-table/whether a snapshot can be read", test_check);
    g_test_add_func("/snapshot-table/tables of QEMU", test_qemu_tables);
    return g_test_run();
}
