/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file back end, on the file system of the temporary folder. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/backends.h"
#include "util/pool.h"

typedef struct Fixture {
    char *folder;
    char *path;
} Fixture;

static void set_up(Fixture *f, const void *data)
{
    g_autoptr(GError) error = NULL;
    (void) data;

    f->folder = g_dir_make_tmp("qcow-file-XXXXXX", &error);
    g_assert_no_error(error);
    f->path = g_build_filename(f->folder, "image", NULL);
}

static void tear_down(Fixture *f, const void *data)
{
    (void) data;
    g_unlink(f->path);
    g_rmdir(f->folder);
    g_free(f->path);
    g_free(f->folder);
}

static void make_file(const char *path, size_t len_bytes, uint8_t value)
{
    g_autofree char *bytes = g_malloc(len_bytes + 1);
    memset(bytes, value, len_bytes);
    g_assert_true(g_file_set_contents(path, bytes, (gssize) len_bytes, NULL));
}

static Qcow2Io *open_with(const char *path, Qcow2FileOptions options)
{
    g_autoptr(GError) error = NULL;
    Qcow2Io *io = qcow2_io_file_open(path, &options, &error);
    g_assert_no_error(error);
    return io;
}

static Qcow2Io *open_rw(const char *path)
{
    return open_with(path, (Qcow2FileOptions) { .writable = true });
}

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

static void assert_size(Qcow2Io *io, uint64_t expected)
{
    uint64_t size = 0;
    g_assert_true(qcow2_io_get_size(io, &size, NULL));
    g_assert_cmpuint(size, ==, expected);
}

static void test_past_end(Fixture *f, const void *data)
{
    (void) data;
    make_file(f->path, 1000, 7);
    g_autoptr(Qcow2Io) io = open_rw(f->path);

    assert_bytes(io, 0, 1000, 7);
    assert_bytes(io, 1000, 70000, 0);
    assert_bytes(io, UINT64_C(1) << 50, 512, 0);
    g_assert_true(qcow2_io_write(io, 5000, "x", 1, NULL));
    assert_size(io, 5001);
    assert_bytes(io, 1000, 4000, 0);
    g_assert_cmpstr(io->ops->protocol, ==, "file");
}

static void test_open_errors(Fixture *f, const void *data)
{
    (void) data;
    const Qcow2FileOptions plain = { 0 };
    const Qcow2FileOptions create = { .writable = true, .create_exclusive = true };
    g_autoptr(GError) missing = NULL;
    g_autoptr(GError) folder = NULL;
    g_autoptr(GError) fifo = NULL;
    g_autoptr(GError) exists = NULL;
    struct stat status;

    g_assert_null(qcow2_io_file_open(f->path, &plain, &missing));
    g_assert_error(missing, QCOW2_ERROR, QCOW2_ERROR_NOT_FOUND);
    g_assert_null(qcow2_io_file_open(f->folder, &plain, &folder));
    g_assert_error(folder, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);

    g_assert_cmpint(mkfifo(f->path, 0600), ==, 0);
    g_assert_null(qcow2_io_file_open(f->path, &plain, &fifo));       /* does not wait for a writer */
    g_assert_error(fifo, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
    g_unlink(f->path);

    mode_t mask = umask(027);
    g_autoptr(Qcow2Io) io = open_with(f->path, create);
    umask(mask);
    g_assert_cmpint(fstat(qcow2_io_get_fd(io), &status), ==, 0);
    g_assert_cmpint(status.st_mode & 0777, ==, 0640);
    g_assert_cmpint(fcntl(qcow2_io_get_fd(io), F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
    g_assert_cmpint(fcntl(qcow2_io_get_fd(io), F_GETFL) & O_NONBLOCK, ==, 0);
    g_assert_null(qcow2_io_file_open(f->path, &create, &exists));
    g_assert_error(exists, QCOW2_ERROR, QCOW2_ERROR_EXISTS);
}

static void test_extents(Fixture *f, const void *data)
{
    (void) data;
    make_file(f->path, 0, 0);
    g_autoptr(Qcow2Io) io = open_rw(f->path);
    g_autofree uint8_t *block = g_malloc0(65536);
    Qcow2IoExtent extent;

    memset(block, 1, 65536);
    g_assert_true(qcow2_io_write(io, 1 << 20, block, 65536, NULL));
    g_assert_true(qcow2_io_truncate(io, 2 << 20, NULL));
    if (lseek(qcow2_io_get_fd(io), 0, SEEK_DATA) != 1 << 20) {
        g_test_skip("this file system does not tell its holes");
        return;
    }

    g_assert_true(qcow2_io_extent(io, 4096, 8 << 20, &extent, NULL));
    g_assert_true(extent.zero && extent.hole);
    g_assert_cmpuint(extent.len_bytes, ==, (1 << 20) - 4096);
    g_assert_true(qcow2_io_extent(io, 4096, 512, &extent, NULL));
    g_assert_cmpuint(extent.len_bytes, ==, 512);
    g_assert_true(qcow2_io_extent(io, (1 << 20) + 100, 8 << 20, &extent, NULL));
    g_assert_false(extent.zero || extent.hole);
    g_assert_cmpuint(extent.len_bytes, ==, 65536 - 100);
    g_assert_true(qcow2_io_extent(io, (1 << 20) + 65536, 8 << 20, &extent, NULL));
    g_assert_true(extent.zero && extent.hole);
    g_assert_cmpuint(extent.len_bytes, ==, (1 << 20) - 65536);
    g_assert_true(qcow2_io_extent(io, 2 << 20, 8 << 20, &extent, NULL));
    g_assert_true(extent.zero && extent.hole);
    g_assert_cmpuint(extent.len_bytes, ==, 8 << 20);
}

static void test_zero(Fixture *f, const void *data)
{
    (void) data;
    for (int may_unmap = 0; may_unmap < 2; may_unmap++) {
        make_file(f->path, 1 << 20, 9);
        g_autoptr(Qcow2Io) io = open_rw(f->path);
        g_autoptr(GError) error = NULL;
        uint64_t before, after;

        g_assert_true(qcow2_io_flush(io, NULL));
        g_assert_true(qcow2_io_get_actual_size(io, &before));
        g_assert_true(qcow2_io_zero(io, 1000, 600000, may_unmap, &error));
        g_assert_no_error(error);
        assert_bytes(io, 0, 1000, 9);
        assert_bytes(io, 1000, 600000, 0);
        assert_bytes(io, 601000, (1 << 20) - 601000, 9);
        assert_size(io, 1 << 20);
        g_assert_true(qcow2_io_get_actual_size(io, &after));
        g_assert_true(may_unmap ? after < before : after >= before);

        g_assert_true(qcow2_io_zero(io, 1 << 20, 12345, may_unmap, &error));     /* grows as a write would */
        assert_size(io, (1 << 20) + 12345);
        assert_bytes(io, 1 << 20, 12345, 0);
    }
}

/* Every alignment of offset, length and buffer gives the bytes that a plain file gives. */
static void test_direct(Fixture *f, const void *data)
{
    (void) data;
    static const size_t edges[] = { 0, 1, 511, 512, 4095, 4096, 4097, 8192, 65536, 70001, 1048576, 1100001 };
    const Qcow2FileOptions options = { .writable = true, .cache = QCOW2_CACHE_DIRECTSYNC };
    g_autoptr(GError) error = NULL;
    size_t total = 1200000;
    g_autofree uint8_t *expected = g_malloc0(total);
    g_autofree uint8_t *got = g_malloc0(total + 4097);

    make_file(f->path, 5000, 0);
    g_autoptr(Qcow2Io) io = qcow2_io_file_open(f->path, &options, &error);
    if (g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED)) {
        g_test_skip("this file system has no direct I/O");
        return;
    }
    g_assert_no_error(error);
    for (size_t i = 0; i < G_N_ELEMENTS(edges); i++) {
        for (size_t j = i + 1; j < G_N_ELEMENTS(edges); j++) {
            memset(expected + edges[i], (int) (i * 16 + j), edges[j] - edges[i]);
            g_assert_true(qcow2_io_write(io, edges[i], expected + edges[i], edges[j] - edges[i], &error));
            g_assert_true(qcow2_io_read(io, edges[i], got + (j & 1), edges[j] - edges[i], &error));
            g_assert_cmpmem(got + (j & 1), edges[j] - edges[i], expected + edges[i], edges[j] - edges[i]);
        }
    }
    assert_size(io, edges[G_N_ELEMENTS(edges) - 1]);        /* not rounded up */
    g_assert_true(qcow2_io_read(io, 0, got, total, &error));
    g_assert_cmpmem(got, total, expected, total);

    g_autoptr(Qcow2Io) plain = open_rw(f->path);
    g_assert_true(qcow2_io_read(plain, 0, got, total, &error));
    g_assert_cmpmem(got, total, expected, total);
}

static bool write_own_bytes(size_t index, void *data, GError **error)
{
    uint8_t bytes[100];

    memset(bytes, (int) index + 1, sizeof(bytes));
    return qcow2_io_write(data, index * sizeof(bytes), bytes, sizeof(bytes), error);
}

static void test_direct_neighbours(Fixture *f, const void *data)
{
    (void) data;
    const Qcow2FileOptions options = { .writable = true, .cache = QCOW2_CACHE_NONE };
    g_autoptr(GError) error = NULL;

    make_file(f->path, 0, 0);
    g_autoptr(Qcow2Io) io = qcow2_io_file_open(f->path, &options, &error);
    if (g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED)) {
        g_test_skip("this file system has no direct I/O");
        return;
    }
    g_assert_true(qcow2_parallel_for(4, 200, write_own_bytes, io, &error));
    for (unsigned i = 0; i < 200; i++) {
        assert_bytes(io, i * 100, 100, (uint8_t) (i + 1));
    }
}

static void test_cache_modes(Fixture *f, const void *data)
{
    (void) data;
    static const Qcow2Cache modes[] = { QCOW2_CACHE_WRITEBACK, QCOW2_CACHE_WRITETHROUGH, QCOW2_CACHE_UNSAFE };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        make_file(f->path, 0, 0);
        const Qcow2FileOptions options = { .writable = true, .cache = modes[i] };
        g_autoptr(Qcow2Io) io = open_with(f->path, options);

        g_assert_true(qcow2_io_write(io, 3, "abc", 3, NULL));
        qcow2_io_start_writeback(io, 0, 6);
        g_assert_true(qcow2_io_flush(io, NULL));
        assert_bytes(io, 3, 1, 'a');
    }
}

static void test_identity(Fixture *f, const void *data)
{
    (void) data;
    make_file(f->path, 100, 1);
    g_autoptr(Qcow2Io) io = open_with(f->path, (Qcow2FileOptions) { 0 });
    g_autoptr(Qcow2Io) same = NULL;
    g_autoptr(GError) replaced = NULL;
    g_autoptr(GError) removed = NULL;
    Qcow2IoIdentity first, second;

    g_assert_true(qcow2_io_identify(io, &first, NULL));
    g_assert_true(first.known);
    g_usleep(20000);
    g_autoptr(Qcow2Io) writer = open_rw(f->path);
    g_assert_true(qcow2_io_write(writer, 0, "x", 1, NULL));
    g_assert_true(qcow2_io_identify(io, &second, NULL));
    g_assert_true(first.inode == second.inode && first.size == second.size);
    g_assert_true(first.mtime_sec != second.mtime_sec || first.mtime_nsec != second.mtime_nsec);

    same = qcow2_io_reopen(io, NULL);
    g_assert_nonnull(same);
    make_file(f->path, 100, 1);            /* by renaming a new file over it */
    g_assert_null(qcow2_io_reopen(io, &replaced));
    g_assert_error(replaced, QCOW2_ERROR, QCOW2_ERROR_CHANGED);
    g_unlink(f->path);
    g_assert_null(qcow2_io_reopen(io, &removed));
    g_assert_error(removed, QCOW2_ERROR, QCOW2_ERROR_CHANGED);
    assert_bytes(io, 1, 99, 1);
}

/* Sharing works on some file systems only; a copy works, or is impossible, and never lies. */
static void test_copy(Fixture *f, const void *data)
{
    (void) data;
    g_autofree char *other = g_build_filename(f->folder, "other", NULL);
    make_file(f->path, 100000, 3);
    make_file(other, 200000, 4);
    g_autoptr(Qcow2Io) from = open_with(f->path, (Qcow2FileOptions) { 0 });
    g_autoptr(Qcow2Io) to = open_rw(other);
    g_autoptr(Qcow2Io) read_only = open_with(other, (Qcow2FileOptions) { 0 });
    g_autoptr(Qcow2Io) memory = qcow2_io_memory_new(NULL, 4096, "mem", false);
    g_autoptr(GError) error = NULL;

    Qcow2CopyOutcome outcome = qcow2_io_copy_from(to, 1000, from, 95000, 10000, &error);
    g_assert_cmpint(outcome, !=, QCOW2_COPY_FAILED);
    g_assert_no_error(error);
    if (outcome == QCOW2_COPY_DONE) {
        assert_bytes(to, 1000, 5000, 3);
        assert_bytes(to, 6000, 5000, 0);         /* the source ended */
    }
    assert_bytes(to, 0, 1000, 4);
    assert_bytes(to, 11000, 189000, 4);

    outcome = qcow2_io_clone_from(to, 65536, from, 0, 65536, &error);
    g_assert_cmpint(outcome, !=, QCOW2_COPY_FAILED);
    assert_bytes(to, 65536, 65536, outcome == QCOW2_COPY_DONE ? 3 : 4);
    g_assert_cmpint(qcow2_io_clone_from(to, 65537, from, 0, 65536, &error), ==, QCOW2_COPY_IMPOSSIBLE);
    g_assert_cmpint(qcow2_io_clone_from(to, 0, memory, 0, 4096, &error), ==, QCOW2_COPY_IMPOSSIBLE);
    g_assert_cmpint(qcow2_io_copy_from(to, 0, memory, 0, 4096, &error), ==, QCOW2_COPY_IMPOSSIBLE);
    g_assert_no_error(error);
    g_assert_cmpint(qcow2_io_copy_from(read_only, 0, from, 0, 4096, &error), ==, QCOW2_COPY_FAILED);
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    g_unlink(other);
}

static void test_pipe(Fixture *f, const void *data)
{
    (void) data;
    (void) f;
    int ends[2];
    char got[8] = "";
    g_autoptr(GError) order = NULL;
    g_autoptr(GError) reading = NULL;

    g_assert_cmpint(pipe(ends), ==, 0);
    g_autoptr(Qcow2Io) io = qcow2_io_file_from_fd(ends[1], "stdout", true);
    g_assert_true(qcow2_io_write(io, 0, "abc", 3, NULL));
    g_assert_true(qcow2_io_zero(io, 3, 1, true, NULL));
    g_assert_true(qcow2_io_write(io, 4, "e", 1, NULL));
    g_assert_false(qcow2_io_write(io, 4, "f", 1, &order));
    g_assert_error(order, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
    g_assert_false(qcow2_io_read(io, 0, got, 1, &reading));
    g_assert_error(reading, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
    g_assert_true(qcow2_io_flush(io, NULL));
    assert_size(io, 5);
    g_assert_cmpint(read(ends[0], got, sizeof(got)), ==, 5);
    g_assert_cmpmem(got, 5, "abc\0e", 5);
    close(ends[0]);
}

static void test_from_fd(Fixture *f, const void *data)
{
    (void) data;
    make_file(f->path, 10, 'o');

    /* As "command >> file": nothing that was there is overwritten. */
    g_autoptr(Qcow2Io) append = qcow2_io_file_from_fd(open(f->path, O_WRONLY | O_APPEND), "stdout", true);
    g_assert_true(qcow2_io_write(append, 0, "nn", 2, NULL));
    g_assert_false(qcow2_io_write(append, 0, "x", 1, NULL));

    g_autoptr(Qcow2Io) io = qcow2_io_file_from_fd(open(f->path, O_RDWR), "stdin", true);
    assert_size(io, 12);
    assert_bytes(io, 0, 10, 'o');
    assert_bytes(io, 10, 2, 'n');
    g_assert_true(qcow2_io_write(io, 1, "x", 1, NULL));
    assert_bytes(io, 1, 1, 'x');
    g_autoptr(Qcow2Io) again = qcow2_io_reopen(io, NULL);
    g_assert_nonnull(again);
}

/* /dev/full takes no byte; a full file system would need a mount. */
static void test_full_disk(Fixture *f, const void *data)
{
    (void) data;
    (void) f;
    g_autoptr(Qcow2Io) io = qcow2_io_file_from_fd(open("/dev/full", O_WRONLY), "full", true);
    g_autoptr(GError) error = NULL;

    g_assert_false(qcow2_io_write(io, 0, "abc", 3, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);
}

/* A closed descriptor makes every later flush fail; the first failure must not be forgotten. */
static void test_flush_fails_for_good(Fixture *f, const void *data)
{
    (void) data;
    make_file(f->path, 10, 'o');
    g_autoptr(Qcow2Io) io = open_rw(f->path);
    g_autoptr(GError) first = NULL;
    g_autoptr(GError) second = NULL;
    int fd = qcow2_io_get_fd(io);
    int kept = dup(fd);
    int ends[2];

    g_assert_cmpint(pipe(ends), ==, 0);
    g_assert_cmpint(dup2(ends[1], fd), ==, fd);       /* a pipe cannot be flushed */
    g_assert_false(qcow2_io_flush(io, &first));
    g_assert_error(first, QCOW2_ERROR, QCOW2_ERROR_IO);
    g_assert_cmpint(dup2(kept, fd), ==, fd);
    g_assert_false(qcow2_io_flush(io, &second));
    g_assert_error(second, QCOW2_ERROR, QCOW2_ERROR_IO);
    close(kept);
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(Fixture *, const void *);
    } tests[] = {
        { "/file/past the end all is zero, and a write grows the file", test_past_end },
        { "/file/what cannot be opened says why", test_open_errors },
        { "/file/holes are found, and cut at the range asked for", test_extents },
        { "/file/zeroing keeps the neighbours, grows, and gives space back if it may", test_zero },
        { "/file/direct I/O takes any alignment", test_direct },
        { "/file/direct I/O keeps what other threads write beside it", test_direct_neighbours },
        { "/file/cache modes", test_cache_modes },
        { "/file/a changed or replaced file is noticed", test_identity },
        { "/file/the kernel copies, or says that it cannot", test_copy },
        { "/file/a pipe is written in order", test_pipe },
        { "/file/an open descriptor is used from its start, or appended to", test_from_fd },
        { "/file/a full device", test_full_disk },
        { "/file/after a failed flush no flush succeeds", test_flush_fails_for_good },
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add(tests[i].name, Fixture, NULL, set_up, tests[i].run, tear_down);
    }
    return g_test_run();
}
