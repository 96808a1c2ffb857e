/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What holds for every place, shown with memory; and the places that stack on others. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/backends.h"
#include "io/trial.h"
#include "util/error.h"
#include "util/json.h"
#include "util/pool.h"

static void assert_bytes(Qcow2Io *io, uint64_t offset, size_t len_bytes, uint8_t expected)
{
    g_autofree uint8_t *buffer = g_malloc(len_bytes);
    g_autoptr(GError) error = NULL;

    memset(buffer, 0x55, len_bytes);
    qcow2_io_read(io, offset, buffer, len_bytes, &error);
    g_assert_no_error(error);
    for (size_t i = 0; i < len_bytes; i++) {
        g_assert_cmphex(buffer[i], ==, expected);
    }
}

static void test_memory(void)
{
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new("abc", 3, "mem", true);
    g_autoptr(GError) error = NULL;
    uint64_t size;
    size_t len;

    assert_bytes(io, 3, 100, 0);
    assert_bytes(io, INT64_MAX - 100, 100, 0);
    g_assert_true(qcow2_io_write(io, 100000, "x", 1, &error));
    g_assert_true(qcow2_io_get_size(io, &size, &error));
    g_assert_cmpuint(size, ==, 100001);
    assert_bytes(io, 3, 100000 - 3, 0);
    assert_bytes(io, 100000, 1, 'x');
    g_assert_true(qcow2_io_truncate(io, 2, &error));
    g_assert_true(qcow2_io_truncate(io, 200000, &error));
    g_assert_cmpmem(qcow2_io_memory_peek(io, &len), 3, "ab", 3);
    g_assert_cmpuint(len, ==, 200000);
    assert_bytes(io, 2, 200000, 0);
    g_assert_no_error(error);

    g_assert_false(qcow2_io_write(io, UINT64_C(1) << 40, "x", 1, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);
}

static void test_range_checks(void)
{
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new("abc", 3, "mem", false);
    g_autoptr(GError) past_end = NULL;
    g_autoptr(GError) read_only = NULL;
    uint8_t buffer[16];

    g_assert_false(qcow2_io_read(io, (uint64_t) INT64_MAX - 14, buffer, 16, &past_end));
    g_assert_error(past_end, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    g_assert_cmpstr(past_end->message, ==,
                    "read 16 bytes at 0x7ffffffffffffff1: the range ends past 63 bits");
    g_assert_false(qcow2_io_read(io, UINT64_MAX, buffer, 16, NULL));
    g_assert_true(qcow2_io_read(io, UINT64_MAX, buffer, 0, NULL));

    g_assert_false(qcow2_io_write(io, 16, buffer, 5, &read_only));
    g_assert_error(read_only, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    g_assert_cmpstr(read_only->message, ==, "write 5 bytes at 0x10: opened for reading only");
    g_assert_false(qcow2_io_zero(io, 0, 1, true, NULL));
    g_assert_false(qcow2_io_truncate(io, 0, NULL));
    g_assert_true(qcow2_io_flush(io, NULL));
}

static void test_defaults(void)
{
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new("abcdefgh", 8, "mem", true);
    g_autoptr(Qcow2Io) again = qcow2_io_reopen(io, NULL);
    Qcow2IoExtent extent;
    Qcow2IoIdentity identity = { .known = true };
    bool has_writer = true;
    uint64_t actual;

    g_assert_true(qcow2_io_extent(io, 2, 100, &extent, NULL));
    g_assert_cmpuint(extent.len_bytes, ==, 6);
    g_assert_false(extent.zero || extent.hole);
    g_assert_true(qcow2_io_extent(io, 8, 100, &extent, NULL));
    g_assert_cmpuint(extent.len_bytes, ==, 100);
    g_assert_true(extent.zero && extent.hole);

    g_assert_true(qcow2_io_zero(io, 4, 200000, true, NULL));
    assert_bytes(io, 4, 200000, 0);
    g_assert_true(qcow2_io_identify(io, &identity, NULL) && !identity.known);
    g_assert_true(qcow2_io_has_writer(io, &has_writer, NULL) && !has_writer);
    g_assert_false(qcow2_io_get_actual_size(io, &actual));
    g_assert_cmpint(qcow2_io_get_fd(io), ==, -1);
    g_assert_cmpint(qcow2_io_clone_from(io, 0, again, 0, 4, NULL), ==, QCOW2_COPY_IMPOSSIBLE);
    g_assert_cmpint(qcow2_io_copy_from(io, 0, again, 0, 4, NULL), ==, QCOW2_COPY_IMPOSSIBLE);
    g_assert_true(qcow2_io_file_lock(io, QCOW2_PERM_ALL, 0, NULL));
    qcow2_io_start_writeback(io, 0, 4);
}

static void assert_record(const GArray *records, guint i, Qcow2RecordKind kind, uint64_t offset,
                          uint64_t len_bytes)
{
    const Qcow2Record *record = &g_array_index(records, Qcow2Record, i);

    g_assert_cmpuint(i, <, records->len);
    g_assert_cmpint(record->kind, ==, kind);
    g_assert_cmpuint(record->offset, ==, offset);
    g_assert_cmpuint(record->len_bytes, ==, len_bytes);
    g_assert_true((record->bytes != NULL) == (kind == QCOW2_RECORD_WRITE));
}

static void test_recorder(void)
{
    g_autoptr(Qcow2Io) memory = qcow2_io_memory_new(NULL, 0, "mem", true);
    g_autoptr(Qcow2Io) fault = qcow2_io_fault_new(memory, QCOW2_FAULT_WRITE, 1, EIO, false);
    g_autoptr(Qcow2Io) io = qcow2_io_recorder_new(fault);
    const GArray *records = qcow2_io_recorder_get(io);
    uint8_t byte;

    g_assert_true(qcow2_io_write(io, 10, "abc", 3, NULL));
    g_assert_true(qcow2_io_read(io, 10, &byte, 1, NULL));
    g_assert_true(qcow2_io_flush(io, NULL));
    g_assert_false(qcow2_io_write(io, 20, "def", 3, NULL));
    g_assert_true(qcow2_io_truncate(io, 99, NULL));
    g_assert_true(qcow2_io_zero(io, 0, 5, true, NULL));     /* memory has no zero(): a write of zeros */

    g_assert_cmpuint(records->len, ==, 4);
    assert_record(records, 0, QCOW2_RECORD_WRITE, 10, 3);
    assert_record(records, 1, QCOW2_RECORD_FLUSH, 0, 0);
    assert_record(records, 2, QCOW2_RECORD_TRUNCATE, 99, 0);
    assert_record(records, 3, QCOW2_RECORD_WRITE, 0, 5);
    g_assert_cmpmem(g_bytes_get_data(g_array_index(records, Qcow2Record, 0).bytes, NULL), 3, "abc", 3);
    assert_bytes(memory, 11, 1, 'b');
}

static void test_recorder_of_several(void)
{
    g_autoptr(Qcow2Io) base = qcow2_io_memory_new(NULL, 0, "base", true);
    g_autoptr(Qcow2Io) overlay = qcow2_io_memory_new(NULL, 0, "overlay", true);
    g_autoptr(Qcow2Io) first = qcow2_io_recorder_new(base);
    g_autoptr(Qcow2Io) second = qcow2_io_recorder_new_beside(overlay, first);
    const unsigned expected[] = { 0, 1, 0, 1 };

    g_assert_true(qcow2_io_write(first, 0, "a", 1, NULL));
    g_assert_true(qcow2_io_write(second, 0, "b", 1, NULL));
    g_assert_true(qcow2_io_flush(first, NULL));
    g_clear_pointer(&first, qcow2_io_unref);
    g_assert_true(qcow2_io_flush(second, NULL));

    const GArray *records = qcow2_io_recorder_get(second);
    g_assert_cmpuint(records->len, ==, G_N_ELEMENTS(expected));
    for (guint i = 0; i < records->len; i++) {
        g_assert_cmpuint(g_array_index(records, Qcow2Record, i).place, ==, expected[i]);
    }
    assert_bytes(base, 0, 1, 'a');
    assert_bytes(overlay, 0, 1, 'b');
}

/* A place whose flush lasts until another thread has written: that write must not count as flushed. */
typedef struct SlowFlush {
    Qcow2Io io;
    gint flushing, written;
} SlowFlush;

static bool slow_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    (void) io;
    (void) offset;
    (void) buffer;
    (void) len_bytes;
    (void) error;
    return true;
}

static bool slow_flush(Qcow2Io *io, GError **error)
{
    SlowFlush *slow = (SlowFlush *) io;
    (void) error;

    g_atomic_int_set(&slow->flushing, 1);
    while (!g_atomic_int_get(&slow->written)) {
        g_usleep(1000);
    }
    return true;
}

static bool flush_or_write(size_t index, void *data, GError **error)
{
    Qcow2Io *recorder = ((Qcow2Io **) data)[0];
    SlowFlush *slow = ((SlowFlush **) data)[1];

    if (index == 0) {
        return qcow2_io_flush(recorder, error);
    }
    while (!g_atomic_int_get(&slow->flushing)) {
        g_usleep(1000);
    }
    bool ok = qcow2_io_write(recorder, 0, "a", 1, error);
    g_atomic_int_set(&slow->written, 1);
    return ok;
}

static void test_recorder_order(void)
{
    static const Qcow2IoOps slow_ops = { .protocol = "slow", .write = slow_write, .flush = slow_flush };
    SlowFlush *slow = g_new0(SlowFlush, 1);
    qcow2_io_init(&slow->io, &slow_ops, "slow", true);
    g_autoptr(Qcow2Io) below = &slow->io;
    g_autoptr(Qcow2Io) io = qcow2_io_recorder_new(below);
    void *data[] = { io, slow };

    g_assert_true(qcow2_parallel_for(2, 2, flush_or_write, data, NULL));
    assert_record(qcow2_io_recorder_get(io), 0, QCOW2_RECORD_FLUSH, 0, 0);
    assert_record(qcow2_io_recorder_get(io), 1, QCOW2_RECORD_WRITE, 0, 1);
}

static void test_fault(void)
{
    g_autoptr(Qcow2Io) memory = qcow2_io_memory_new("........", 8, "mem", true);
    g_autoptr(Qcow2Io) io = qcow2_io_fault_new(memory, QCOW2_FAULT_WRITE | QCOW2_FAULT_FLUSH, 2, ENOSPC,
                                               true);
    g_autoptr(GError) error = NULL;
    g_autofree char *expected = g_strdup_printf("write 4 bytes at 0x4: %s", g_strerror(ENOSPC));

    g_assert_true(qcow2_io_write(io, 0, "ab", 2, NULL));
    g_assert_true(qcow2_io_flush(io, NULL));
    g_assert_true(qcow2_io_truncate(io, 8, NULL));
    g_assert_false(qcow2_io_write(io, 4, "wxyz", 4, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);
    g_assert_cmpstr(error->message, ==, expected);
    g_assert_true(qcow2_io_flush(io, NULL));
    g_assert_cmpuint(qcow2_io_fault_count(io), ==, 4);

    size_t len;
    g_assert_cmpmem(qcow2_io_memory_peek(memory, &len), 8, "ab..wx..", 8);
}

static void test_fault_each_call(void)
{
    static const Qcow2FaultCalls calls[] = {
        QCOW2_FAULT_READ, QCOW2_FAULT_WRITE, QCOW2_FAULT_FLUSH, QCOW2_FAULT_TRUNCATE,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
        g_autoptr(Qcow2Io) memory = qcow2_io_memory_new(NULL, 8, "mem", true);
        g_autoptr(Qcow2Io) io = qcow2_io_fault_new(memory, calls[i], 0, EIO, false);
        uint8_t byte = 1;

        g_assert_true(qcow2_io_read(io, 0, &byte, 1, NULL) == (calls[i] != QCOW2_FAULT_READ));
        g_assert_true(qcow2_io_write(io, 0, &byte, 1, NULL) == (calls[i] != QCOW2_FAULT_WRITE));
        g_assert_true(qcow2_io_flush(io, NULL) == (calls[i] != QCOW2_FAULT_FLUSH));
        g_assert_true(qcow2_io_truncate(io, 9, NULL) == (calls[i] != QCOW2_FAULT_TRUNCATE));
    }
}

static void test_trace(void)
{
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "qcow-trace-XXXXXX", NULL);
    int fd = g_mkstemp(path);
    g_autoptr(Qcow2Io) memory = qcow2_io_memory_new(NULL, 0, "a \"b\"\n\\c", true);
    g_autoptr(Qcow2Io) fault = qcow2_io_fault_new(memory, QCOW2_FAULT_FLUSH, 0, EIO, false);
    g_autoptr(Qcow2Io) io = qcow2_io_trace_new(fault, path, NULL);
    static const char *const calls[] = { "write", "truncate", "flush" };
    g_autofree char *text = NULL;

    g_assert_true(qcow2_io_write(io, 10, "abc", 3, NULL));
    g_assert_true(qcow2_io_truncate(io, 99, NULL));
    g_assert_false(qcow2_io_flush(io, NULL));
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    unlink(path);
    close(fd);

    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 4);
    for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GVariant) line = qcow2_json_parse(lines[i], &error);
        const char *call, *file;
        gboolean ok;

        g_assert_no_error(error);
        g_assert_true(g_variant_lookup(line, "call", "&s", &call));
        g_assert_cmpstr(call, ==, calls[i]);
        g_assert_true(g_variant_lookup(line, "file", "&s", &file));
        g_assert_cmpstr(file, ==, "a \"b\"\\x0a\\\\c");
        g_assert_true(g_variant_lookup(line, "ok", "b", &ok));
        g_assert_true(ok == (i < 2));
    }
}

static bool hammer(size_t index, void *data, GError **error)
{
    Qcow2Io *io = data;
    uint8_t buffer[512];
    uint64_t size;

    memset(buffer, (int) index, sizeof(buffer));
    return qcow2_io_write(io, index * sizeof(buffer), buffer, sizeof(buffer), error)
        && qcow2_io_read(io, index * sizeof(buffer), buffer, sizeof(buffer), error)
        && buffer[511] == (uint8_t) index
        && qcow2_io_get_size(io, &size, error)
        && qcow2_io_flush(io, error);
}

static bool write_page(Qcow2Io *trial, uint64_t offset)
{
    uint8_t page[4096] = { 1 };

    return qcow2_io_write(trial, offset, page, sizeof(page), NULL);
}

/* Some file in TMPDIR is what is full, not the place: whoever asks later has to be told so. */
static void test_full_scratch(void)
{
    g_autoptr(Qcow2Io) memory = qcow2_io_memory_new(NULL, 0, "mem", true);
    g_autoptr(Qcow2Io) trial = qcow2_io_trial_new(memory, NULL);
    struct rlimit old, small;
    Qcow2TrialSums sums;

    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    small = old;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &small), ==, 0);
    bool fits = write_page(trial, 0), is_full = !write_page(trial, 4096), fits_again = write_page(trial, 0);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    signal(SIGXFSZ, SIG_DFL);
    g_assert_true(fits && is_full && fits_again);
    g_assert_true(qcow2_io_trial_get(trial, &sums));
    g_assert_true(sums.scratch_failed);
}

static void test_threads(void)
{
    g_autoptr(Qcow2Io) memory = qcow2_io_memory_new(NULL, 0, "mem", true);
    g_autoptr(Qcow2Io) fault = qcow2_io_fault_new(memory, QCOW2_FAULT_WRITE, UINT64_MAX, EIO, false);
    g_autoptr(Qcow2Io) io = qcow2_io_recorder_new(fault);

    g_assert_true(qcow2_parallel_for(4, 500, hammer, io, NULL));
    g_assert_cmpuint(qcow2_io_fault_count(fault), ==, 500);
    g_assert_cmpuint(qcow2_io_recorder_get(io)->len, ==, 1000);
    for (unsigned i = 0; i < 500; i++) {
        assert_bytes(memory, i * 512, 512, (uint8_t) i);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/io/memory grows, shrinks and reads as zeros past its end", test_memory);
    g_test_add_func("/io/ranges and rights are checked, and errors say what was tried", test_range_checks);
    g_test_add_func("/io/a back end without optional calls", test_defaults);
    g_test_add_func("/recorder/keeps what succeeded, in order", test_recorder);
    g_test_add_func("/recorder/several places share a list", test_recorder_of_several);
    g_test_add_func("/recorder/a write that ends during a flush comes after it", test_recorder_order);
    g_test_add_func("/fault/the chosen call fails once, after half of its bytes", test_fault);
    g_test_add_func("/fault/each kind of call can fail", test_fault_each_call);
    g_test_add_func("/trace/one JSON line for each change", test_trace);
    g_test_add_func("/trial/a full scratch file is not forgotten", test_full_scratch);
    g_test_add_func("/io/many threads share a place", test_threads);
    return g_test_run();
}
