/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD back end against real servers: nbdkit, whose filters and scripts make every kind, and qemu-nbd. */
#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/backends.h"
#include "util/pool.h"

typedef struct Fixture {
    char *folder, *socket, *uri, *file;
    char *ready;              /* the server's pid file, which it writes when it listens */
    GPid pid;                 /* of the server; 0 while none runs */
} Fixture;

static void set_up(Fixture *f, const void *data)
{
    g_autoptr(GError) error = NULL;
    (void) data;

    f->folder = g_dir_make_tmp("qcow-nbd-XXXXXX", &error);
    g_assert_no_error(error);
    f->socket = g_build_filename(f->folder, "socket", NULL);
    f->file = g_build_filename(f->folder, "file", NULL);
    f->ready = g_build_filename(f->folder, "pid", NULL);
    f->uri = g_strdup_printf("nbd+unix:///?socket=%s", f->socket);
}

static void stop_server(Fixture *f, int signum)
{
    if (f->pid) {
        kill(f->pid, signum);
        waitpid(f->pid, NULL, 0);
        f->pid = 0;
    }
    g_unlink(f->socket);
    g_unlink(f->ready);
}

static void tear_down(Fixture *f, const void *data)
{
    (void) data;
    stop_server(f, SIGTERM);
    g_unlink(f->file);
    g_rmdir(f->folder);
    g_free(f->folder);
    g_free(f->socket);
    g_free(f->uri);
    g_free(f->file);
    g_free(f->ready);
}

/* Runs a command in the fixture's folder. False, and a skipped test, when it is not installed. */
static bool start_server(Fixture *f, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool start_server(Fixture *f, const char *format, ...)
{
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    va_list args;

    va_start(args, format);
    g_autofree char *command = g_strdup_vprintf(format, args);
    va_end(args);
    g_assert_true(g_shell_parse_argv(command, NULL, &argv, &error));
    g_autofree char *program = g_find_program_in_path(argv[0]);
    if (!program) {
        g_test_skip("the server is not installed");
        return false;
    }
    g_spawn_async(f->folder, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &f->pid,
                  &error);
    g_assert_no_error(error);
    for (int i = 0; i < 1000 && !g_file_test(f->ready, G_FILE_TEST_EXISTS); i++) {
        g_usleep(10000);
    }
    g_assert_true(g_file_test(f->ready, G_FILE_TEST_EXISTS));
    return true;
}

#define NBDKIT   "nbdkit -f -U socket -P pid "
#define QEMU_NBD "qemu-nbd -t -f raw --pid-file=pid -k "      /* takes absolute paths only */

static Qcow2Io *open_export(Fixture *f, bool writable, unsigned n_connections)
{
    g_autoptr(GError) error = NULL;
    Qcow2Io *io = qcow2_io_nbd_open(f->uri, writable, QCOW2_CACHE_WRITEBACK, n_connections, &error);
    g_assert_no_error(error);
    return io;
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

static void write_bytes(Qcow2Io *io, uint64_t offset, size_t len_bytes, uint8_t value)
{
    g_autofree uint8_t *buffer = g_malloc(len_bytes);
    g_autoptr(GError) error = NULL;

    memset(buffer, value, len_bytes);
    qcow2_io_write(io, offset, buffer, len_bytes, &error);
    g_assert_no_error(error);
}

static void assert_size(Qcow2Io *io, uint64_t expected)
{
    uint64_t size = 0;
    g_assert_true(qcow2_io_get_size(io, &size, NULL));
    g_assert_cmpuint(size, ==, expected);
}

static void use_export(Qcow2Io *io)
{
    g_autoptr(GError) full = NULL;
    g_autoptr(GError) error = NULL;

    assert_size(io, 1 << 20);
    write_bytes(io, 100, 300000, 7);
    assert_bytes(io, 0, 100, 0);
    assert_bytes(io, 100, 300000, 7);
    g_assert_true(qcow2_io_zero(io, 1000, 100001, true, &error));
    assert_bytes(io, 100, 900, 7);
    assert_bytes(io, 1000, 100001, 0);
    assert_bytes(io, 101001, 1000, 7);
    g_assert_true(qcow2_io_flush(io, &error));
    assert_bytes(io, (1 << 20) - 10, 1000, 0);
    g_assert_true(qcow2_io_truncate(io, 1 << 20, &error));
    g_assert_no_error(error);
    g_assert_false(qcow2_io_write(io, (1 << 20) - 1, "ab", 2, &full));
    g_assert_error(full, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);
    g_assert_false(qcow2_io_truncate(io, (1 << 20) + 1, NULL));
}

static void test_nbdkit(Fixture *f, const void *data)
{
    (void) data;
    if (start_server(f, NBDKIT "memory 1M")) {
        g_autoptr(Qcow2Io) io = open_export(f, true, 0);
        g_assert_cmpstr(io->ops->protocol, ==, "nbd");
        use_export(io);
    }
}

static void test_qemu_nbd(Fixture *f, const void *data)
{
    (void) data;
    g_assert_true(g_file_set_contents(f->file, "", 0, NULL));
    g_assert_cmpint(truncate(f->file, 1 << 20), ==, 0);
    if (start_server(f, QEMU_NBD "%s %s", f->socket, f->file)) {
        g_autoptr(Qcow2Io) io = open_export(f, true, 0);
        use_export(io);
    }
}

static void test_odd_size(Fixture *f, const void *data)
{
    (void) data;
    if (start_server(f, NBDKIT "memory 1000001")) {
        g_autoptr(Qcow2Io) io = open_export(f, true, 1);

        assert_size(io, 1000001);
        write_bytes(io, 999990, 11, 3);
        assert_bytes(io, 999990, 11, 3);
        assert_bytes(io, 1000001, 500, 0);
        g_assert_true(qcow2_io_zero(io, 1000000, 1, true, NULL));
        assert_bytes(io, 1000000, 2, 0);
    }
}

static void test_extents(Fixture *f, const void *data)
{
    (void) data;
    Qcow2IoExtent extent;

    if (!start_server(f, NBDKIT "data size=10M data='@1048576 (1)*65536'")) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, false, 1);
    g_assert_true(qcow2_io_extent(io, 5, 20 << 20, &extent, NULL));
    g_assert_true(extent.zero && extent.hole);
    g_assert_cmpuint(extent.len_bytes, ==, (1 << 20) - 5);
    g_assert_true(qcow2_io_extent(io, (1 << 20) + 100, 20 << 20, &extent, NULL));
    g_assert_false(extent.zero || extent.hole);
    g_assert_cmpuint(extent.len_bytes, ==, 65536 - 100);
    g_assert_true(qcow2_io_extent(io, (1 << 20) + 100, 10, &extent, NULL));
    g_assert_cmpuint(extent.len_bytes, ==, 10);
    g_assert_true(qcow2_io_extent(io, 10 << 20, 10, &extent, NULL));
    g_assert_true(extent.zero && extent.hole);
}

static bool write_own_bytes(size_t index, void *data, GError **error)
{
    uint8_t bytes[1000];

    memset(bytes, (int) index + 1, sizeof(bytes));
    return qcow2_io_write(data, index * sizeof(bytes), bytes, sizeof(bytes), error);
}

/* The server ends every request that does not keep to its block sizes. */
static void test_block_sizes(Fixture *f, const void *data)
{
    (void) data;
    if (!start_server(f, NBDKIT "--filter=blocksize-policy memory 1M blocksize-error-policy=error "
                      "blocksize-minimum=4096 blocksize-preferred=4096 blocksize-maximum=64k")) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, true, 4);
    g_autoptr(GError) error = NULL;
    Qcow2IoExtent extent;

    g_assert_true(qcow2_parallel_for(4, 200, write_own_bytes, io, &error));
    g_assert_no_error(error);
    for (unsigned i = 0; i < 200; i++) {
        assert_bytes(io, i * 1000, 1000, (uint8_t) (i + 1));
    }
    write_bytes(io, 1001, 500001, 9);
    assert_bytes(io, 1000, 1, 2);
    assert_bytes(io, 1001, 500001, 9);
    assert_bytes(io, 501002, 1, 0);
    g_assert_true(qcow2_io_extent(io, 1001, 100, &extent, &error));
    g_assert_cmpuint(extent.len_bytes, ==, 100);
    g_assert_false(extent.zero);
    g_assert_true(qcow2_io_zero(io, 1001, 400000, false, &error));
    assert_bytes(io, 1000, 1, 2);
    assert_bytes(io, 1001, 400000, 0);
    assert_bytes(io, 401001, 100001, 9);
}

static void test_bad_block_size(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) error = NULL;

    if (start_server(f, NBDKIT "--filter=blocksize-policy memory 1000001 blocksize-minimum=4096")) {
        g_assert_null(qcow2_io_nbd_open(f->uri, false, QCOW2_CACHE_WRITEBACK, 1, &error));
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
    }
}

static bool read_one(size_t index, void *data, GError **error)
{
    uint8_t buffer[4096];

    return qcow2_io_read(data, index * sizeof(buffer), buffer, sizeof(buffer), error);
}

/* Each read takes 0.2 s at the server; one after another 16 of them would take 3.2 s. */
static void test_in_flight(Fixture *f, const void *data)
{
    (void) data;
    if (!start_server(f, NBDKIT "--filter=delay memory 1M rdelay=200ms")) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, false, 1);
    gint64 start = g_get_monotonic_time();

    g_assert_true(qcow2_parallel_for(16, 16, read_one, io, NULL));
    g_assert_cmpint(g_get_monotonic_time() - start, <, 5 * G_USEC_PER_SEC / 2);
}

static bool write_one(size_t index, void *data, GError **error)
{
    uint8_t buffer[4096];

    memset(buffer, (int) index + 1, sizeof(buffer));
    return qcow2_io_write(data, index * sizeof(buffer), buffer, sizeof(buffer), error);
}

static unsigned count_connections(Fixture *f)
{
    g_autofree char *log = NULL;
    unsigned n = 0;

    g_assert_true(g_file_get_contents(f->file, &log, NULL, NULL));
    for (const char *p = log; (p = strstr(p, " Connect ")); p++) {
        n++;
    }
    return n;
}

static void test_connections(Fixture *f, const void *data)
{
    (void) data;
    static const char *const modes[] = { "emulate", "disable" };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (!start_server(f, NBDKIT "--filter=log --filter=multi-conn --filter=delay memory 1M rdelay=20ms "
                          "wdelay=20ms logfile=%s multi-conn-mode=%s", f->file, modes[i])) {
            return;
        }
        g_autoptr(Qcow2Io) io = open_export(f, true, 3);
        g_assert_true(qcow2_io_read(io, 0, (uint8_t[512]) { 0 }, 512, NULL));
        g_assert_true(qcow2_io_read(io, 0, (uint8_t[512]) { 0 }, 512, NULL));
        g_assert_cmpuint(count_connections(f), ==, 1);       /* more only for more at a time */
        g_assert_true(qcow2_parallel_for(8, 200, write_one, io, NULL));
        g_assert_true(qcow2_io_flush(io, NULL));
        for (unsigned j = 0; j < 200; j += 50) {
            assert_bytes(io, j * 4096, 4096, (uint8_t) (j + 1));
        }
        g_assert_cmpuint(count_connections(f), ==, i == 0 ? 3 : 1);
        g_clear_pointer(&io, qcow2_io_unref);
        stop_server(f, SIGTERM);
    }
}

static void test_server_errors(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) read_error = NULL;
    g_autoptr(GError) write_error = NULL;
    g_autoptr(GError) zero_error = NULL;
    uint8_t buffer[512] = { 0 };

    if (!start_server(f, NBDKIT "--filter=error memory 1M error-pread=EIO error-pwrite=ENOSPC "
                      "error-zero=EINVAL error-rate=100%%")) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, true, 1);
    g_assert_false(qcow2_io_read(io, 0, buffer, 512, &read_error));
    g_assert_error(read_error, QCOW2_ERROR, QCOW2_ERROR_IO);
    g_assert_cmpstr(read_error->message, ==, "read 512 bytes at 0x0: Input/output error");
    g_assert_false(qcow2_io_write(io, 512, buffer, 512, &write_error));
    g_assert_error(write_error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);
    g_assert_false(qcow2_io_zero(io, 0, 4096, true, &zero_error));
    g_assert_error(zero_error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);     /* refused, so zeros were written */
}

static void test_open_errors(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) missing = NULL;
    g_autoptr(GError) bad_uri = NULL;
    g_autoptr(GError) no_export = NULL;
    g_autoptr(GError) read_only = NULL;
    g_autofree char *other = g_strdup_printf("nbd+unix:///other?socket=%s", f->socket);

    g_assert_null(qcow2_io_nbd_open(f->uri, false, QCOW2_CACHE_WRITEBACK, 1, &missing));
    g_assert_error(missing, QCOW2_ERROR, QCOW2_ERROR_IO);
    g_assert_nonnull(strstr(missing->message, g_strerror(ENOENT)));
    g_assert_null(qcow2_io_nbd_open("nbd+gopher://x", false, QCOW2_CACHE_WRITEBACK, 1, &bad_uri));
    g_assert_error(bad_uri, QCOW2_ERROR, QCOW2_ERROR_IO);
    if (!start_server(f, NBDKIT "-r --filter=exportname memory 1M exportname-strict=true exportname=''")) {
        return;
    }
    g_assert_null(qcow2_io_nbd_open(other, false, QCOW2_CACHE_WRITEBACK, 1, &no_export));
    g_assert_error(no_export, QCOW2_ERROR, QCOW2_ERROR_IO);
    g_assert_null(qcow2_io_nbd_open(f->uri, true, QCOW2_CACHE_WRITEBACK, 1, &read_only));
    g_assert_error(read_only, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
}

#define EVAL "eval get_size='echo 1M' can_write='exit 0' pread='dd if=/dev/zero count=$3 iflag=count_bytes' "

static void test_no_flush(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) refused = NULL;
    g_autoptr(GError) error = NULL;

    if (!start_server(f, NBDKIT EVAL "can_flush='exit 3' can_fua='echo none' pwrite='cat >/dev/null'")) {
        return;
    }
    g_assert_null(qcow2_io_nbd_open(f->uri, true, QCOW2_CACHE_WRITEBACK, 1, &refused));
    g_assert_error(refused, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
    g_autoptr(Qcow2Io) reader = open_export(f, false, 1);
    assert_bytes(reader, 0, 512, 0);
    g_autoptr(Qcow2Io) io = qcow2_io_nbd_open(f->uri, true, QCOW2_CACHE_UNSAFE, 1, &error);
    g_assert_no_error(error);
    write_bytes(io, 0, 512, 1);
    g_assert_true(qcow2_io_flush(io, NULL));
}

/* The log holds a line for each call: "write FLAGS" or "flush". */
static void check_finality(Fixture *f, const char *can_flush, const char *can_fua, Qcow2Cache cache,
                           const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *log = NULL;

    g_assert_true(g_file_set_contents(f->file, "", 0, NULL));
    if (!start_server(f, NBDKIT EVAL "can_flush='exit %s' can_fua='echo %s' flush='echo flush >>%s' "
                      "pwrite='cat >/dev/null; echo write $5 >>%s'", can_flush, can_fua, f->file, f->file)) {
        return;
    }
    g_autoptr(Qcow2Io) io = qcow2_io_nbd_open(f->uri, true, cache, 1, &error);
    g_assert_no_error(error);
    write_bytes(io, 0, 512, 1);
    write_bytes(io, 512, 512, 1);
    g_assert_true(qcow2_io_flush(io, &error));
    g_assert_true(g_file_get_contents(f->file, &log, NULL, NULL));
    g_assert_cmpstr(log, ==, expected);
    g_clear_pointer(&io, qcow2_io_unref);
    stop_server(f, SIGTERM);
}

static void test_finality(Fixture *f, const void *data)
{
    (void) data;
    check_finality(f, "0", "native", QCOW2_CACHE_WRITEBACK, "write\nwrite\nflush\n");
    check_finality(f, "3", "native", QCOW2_CACHE_WRITEBACK, "write fua\nwrite fua\n");
    check_finality(f, "0", "native", QCOW2_CACHE_UNSAFE, "write\nwrite\n");
    check_finality(f, "0", "native", QCOW2_CACHE_WRITETHROUGH, "write fua\nwrite fua\nflush\n");
    check_finality(f, "0", "none", QCOW2_CACHE_DIRECTSYNC, "write\nflush\nwrite\nflush\nflush\n");
}

static void *kill_soon(void *data)
{
    g_usleep(300000);
    stop_server(data, SIGKILL);
    return NULL;
}

static void test_server_dies(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) later = NULL;
    uint8_t buffer[512] = { 0 };

    if (!start_server(f, NBDKIT "--filter=delay memory 1M rdelay=60")) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, true, 4);
    GThread *thread = g_thread_new("kill", kill_soon, f);
    gint64 start = g_get_monotonic_time();

    g_assert_false(qcow2_parallel_for(8, 8, read_one, io, &error));
    g_assert_cmpint(g_get_monotonic_time() - start, <, 10 * G_USEC_PER_SEC);
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_IO);
    g_assert_nonnull(strstr(error->message, "connection to the NBD server lost"));
    g_thread_join(thread);
    for (int i = 0; i < 3; i++) {
        g_clear_error(&later);
        g_assert_false(qcow2_io_write(io, 0, buffer, 512, &later));     /* no SIGPIPE either */
        g_assert_error(later, QCOW2_ERROR, QCOW2_ERROR_IO);
    }
    g_assert_false(qcow2_io_flush(io, NULL));
    g_assert_null(qcow2_io_reopen(io, NULL));
}

static void test_reopen(Fixture *f, const void *data)
{
    (void) data;
    g_assert_true(g_file_set_contents(f->file, "", 0, NULL));
    g_assert_cmpint(truncate(f->file, 1 << 20), ==, 0);
    if (!start_server(f, NBDKIT "-r file %s", f->file)) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, false, 0);
    g_assert_cmpint(truncate(f->file, 3 << 20), ==, 0);
    g_autoptr(Qcow2Io) again = qcow2_io_reopen(io, NULL);
    assert_size(io, 1 << 20);
    assert_size(again, 3 << 20);
    assert_bytes(io, 0, 512, 0);
}

/* qemu-nbd serves one client unless told otherwise. */
static void test_reopen_single_client(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) error = NULL;

    g_assert_true(g_file_set_contents(f->file, "", 0, NULL));
    g_assert_cmpint(truncate(f->file, 1 << 20), ==, 0);
    if (!start_server(f, QEMU_NBD "%s -r %s", f->socket, f->file)) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, false, 4);
    g_assert_true(qcow2_parallel_for(4, 50, read_one, io, &error));
    g_autoptr(Qcow2Io) again = qcow2_io_reopen(io, &error);
    g_assert_no_error(error);
    assert_bytes(again, 0, 4096, 0);
    g_assert_false(qcow2_io_read(io, 0, (uint8_t[512]) { 0 }, 512, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_IO);
}

static void test_tls(Fixture *f, const void *data)
{
    (void) data;
    static const char key[] = "alice:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";
    g_autofree char *uri = g_strdup_printf("nbds+unix://alice@/?socket=%s&tls-psk-file=%s", f->socket,
                                           f->file);
    g_autoptr(GError) plain = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(g_file_set_contents(f->file, key, -1, NULL));
    if (!start_server(f, NBDKIT "--tls=require --tls-psk=%s --filter=delay memory 1M rdelay=10ms", f->file)) {
        return;
    }
    g_assert_null(qcow2_io_nbd_open(f->uri, true, QCOW2_CACHE_WRITEBACK, 1, &plain));
    g_assert_error(plain, QCOW2_ERROR, QCOW2_ERROR_IO);
    g_autoptr(Qcow2Io) io = qcow2_io_nbd_open(uri, true, QCOW2_CACHE_WRITEBACK, 4, &error);
    g_assert_no_error(error);
    use_export(io);
    g_assert_true(qcow2_parallel_for(4, 100, write_one, io, &error));
    stop_server(f, SIGKILL);
    g_assert_false(qcow2_io_write(io, 0, key, 1, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_IO);
}

/* 100 MiB in one call: the server, and libnbd, take 32 MiB at most. */
static void test_large_request(Fixture *f, const void *data)
{
    (void) data;
    size_t len = 100 << 20;

    if (!start_server(f, NBDKIT "memory 100M")) {
        return;
    }
    g_autoptr(Qcow2Io) io = open_export(f, true, 2);
    g_autofree uint8_t *bytes = g_malloc(len);
    g_autofree uint8_t *got = g_malloc0(len);

    memset(bytes, 5, len);
    bytes[len - 1] = 6;
    g_assert_true(qcow2_io_write(io, 0, bytes, len, NULL));
    g_assert_true(qcow2_io_read(io, 0, got, len, NULL));
    g_assert_true(memcmp(bytes, got, len) == 0);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(Fixture *, const void *);
    } tests[] = {
        { "/nbd/an export of nbdkit is read and written", test_nbdkit },
        { "/nbd/an export of qemu-nbd is read and written", test_qemu_nbd },
        { "/nbd/an export whose size is odd", test_odd_size },
        { "/nbd/extents come from base:allocation", test_extents },
        { "/nbd/the server's block sizes are kept, and neighbours with them", test_block_sizes },
        { "/nbd/a size that is no multiple of the block size is refused", test_bad_block_size },
        { "/nbd/as many requests in flight as callers", test_in_flight },
        { "/nbd/several connections only with multi-conn, and only when needed", test_connections },
        { "/nbd/the server's errors arrive", test_server_errors },
        { "/nbd/what cannot be opened says why", test_open_errors },
        { "/nbd/a server that cannot flush is written only when unsafe", test_no_flush },
        { "/nbd/FUA and flush follow the cache mode", test_finality },
        { "/nbd/a server that dies is an error, not a hang", test_server_dies },
        { "/nbd/reopening sees the size of now", test_reopen },
        { "/nbd/reopening works with a server for one client", test_reopen_single_client },
        { "/nbd/TLS", test_tls },
        { "/nbd/large requests are split", test_large_request },
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add(tests[i].name, Fixture, NULL, set_up, tests[i].run, tear_down);
    }
    return g_test_run();
}
