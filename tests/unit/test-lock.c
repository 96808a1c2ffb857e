/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image locks, with qemu-io as the other process. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/backends.h"

/* What readers and writers of QEMU share, and what a writer uses. */
#define SHARED   (QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE_UNCHANGED)
#define WRITER   (QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE)

typedef struct Fixture {
    const char *qemu_io;
    char *folder;
    char *path;
} Fixture;

static void set_up(Fixture *f, const void *data)
{
    const char *const create[] = { "qemu-img", "create", "-q", "-f", "qcow2", NULL, "1M", NULL };
    g_autoptr(GError) error = NULL;

    f->qemu_io = data;
    f->folder = g_dir_make_tmp("qcow-lock-XXXXXX", &error);
    g_assert_no_error(error);
    f->path = g_build_filename(f->folder, "image", NULL);
    g_autofree char **argv = g_memdup2(create, sizeof(create));
    argv[5] = f->path;
    g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
}

static void tear_down(Fixture *f, const void *data)
{
    (void) data;
    g_unlink(f->path);
    g_rmdir(f->folder);
    g_free(f->path);
    g_free(f->folder);
}

static Qcow2Io *open_locked(const char *path, bool writable, unsigned used, unsigned shared, GError **error)
{
    const Qcow2FileOptions options = { .writable = writable, .lock = true, .used = used, .shared = shared };
    return qcow2_io_file_open(path, &options, error);
}

static Qcow2Io *open_reader(const char *path, GError **error)
{
    return open_locked(path, false, QCOW2_PERM_CONSISTENT_READ, SHARED, error);
}

static Qcow2Io *open_writer(const char *path, GError **error)
{
    return open_locked(path, true, WRITER, SHARED, error);
}

static Qcow2Io *open_sharing(const char *path, GError **error)
{
    return open_locked(path, false, QCOW2_PERM_CONSISTENT_READ, QCOW2_PERM_ALL, error);
}

/* A qemu-io that has the image open; it has answered a command, so its locks are taken. */
typedef struct Qemu {
    GPid pid;
    int in, out;
} Qemu;

static Qemu start_qemu(const Fixture *f, const char *option)
{
    const char *argv[] = { f->qemu_io, f->path, option, NULL };
    g_autoptr(GError) error = NULL;
    Qemu qemu;
    char c;

    g_spawn_async_with_pipes(NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                             NULL, NULL, &qemu.pid, &qemu.in, &qemu.out, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(write(qemu.in, "length\n", 7), ==, 7);
    g_autoptr(GString) text = g_string_new(NULL);
    while (!strstr(text->str, "1 MiB") && read(qemu.out, &c, 1) == 1) {
        g_string_append_c(text, c);
    }
    g_assert_nonnull(strstr(text->str, "1 MiB"));
    return qemu;
}

static void stop_qemu(Qemu qemu)
{
    close(qemu.in);
    waitpid(qemu.pid, NULL, 0);
    close(qemu.out);
}

/* Runs qemu-io once; true when it could open the image. */
static bool qemu_can_open(const Fixture *f, const char *option, char **ret_message)
{
    const char *argv[] = { f->qemu_io, "-c", "length", f->path, option, NULL };
    g_autoptr(GError) error = NULL;
    g_autofree char *message = NULL;
    int status;

    g_spawn_sync(NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL,
                 NULL, &message, &status, &error);
    if (ret_message) {
        *ret_message = g_steal_pointer(&message);
    }
    g_assert_no_error(error);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_qemu_writes(Fixture *f, const void *data)
{
    (void) data;
    Qemu qemu = start_qemu(f, NULL);
    g_autoptr(GError) reader_error = NULL;
    g_autoptr(GError) writer_error = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *expected = g_strdup_printf("Failed to get shared \"write\" lock. "
                                                "Is another process using the image [%s]?", f->path);
    bool has_writer;

    g_assert_null(open_reader(f->path, &reader_error));
    g_assert_error(reader_error, QCOW2_ERROR, QCOW2_ERROR_IN_USE);
    g_assert_cmpstr(reader_error->message, ==, expected);
    g_assert_null(open_writer(f->path, &writer_error));
    g_assert_error(writer_error, QCOW2_ERROR, QCOW2_ERROR_IN_USE);
    g_assert_nonnull(strstr(writer_error->message, "Failed to get \"write\" lock"));

    g_autoptr(Qcow2Io) shared = open_sharing(f->path, &error);
    g_assert_no_error(error);
    g_assert_true(qcow2_io_has_writer(shared, &has_writer, &error) && has_writer);
    stop_qemu(qemu);
    g_assert_true(qcow2_io_has_writer(shared, &has_writer, &error) && !has_writer);
}

static void test_qemu_reads(Fixture *f, const void *data)
{
    (void) data;
    Qemu qemu = start_qemu(f, "-r");
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) writer_error = NULL;
    bool has_writer;

    g_autoptr(Qcow2Io) reader = open_reader(f->path, &error);
    g_assert_no_error(error);
    g_assert_true(qcow2_io_has_writer(reader, &has_writer, &error) && !has_writer);
    g_assert_null(open_writer(f->path, &writer_error));
    g_assert_error(writer_error, QCOW2_ERROR, QCOW2_ERROR_IN_USE);
    stop_qemu(qemu);
}

static void test_we_read(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) error = NULL;
    g_autofree char *message = NULL;
    g_autoptr(Qcow2Io) reader = open_reader(f->path, &error);

    g_assert_no_error(error);
    g_assert_true(qemu_can_open(f, "-r", NULL));
    g_assert_false(qemu_can_open(f, NULL, &message));
    g_assert_nonnull(strstr(message, "Failed to get \"write\" lock"));
    g_clear_pointer(&reader, qcow2_io_unref);
    g_assert_true(qemu_can_open(f, NULL, NULL));
}

static void test_we_write(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) error = NULL;
    g_autofree char *message = NULL;
    g_autoptr(Qcow2Io) writer = open_writer(f->path, &error);
    bool has_writer;

    g_assert_no_error(error);
    g_assert_true(qcow2_io_has_writer(writer, &has_writer, &error) && !has_writer);     /* none but us */
    g_assert_false(qemu_can_open(f, "-r", &message));
    g_assert_nonnull(strstr(message, "Failed to get shared \"write\" lock"));
    g_assert_false(qemu_can_open(f, NULL, NULL));
    g_assert_true(qemu_can_open(f, "-rU", NULL));
}

static void test_force_share(Fixture *f, const void *data)
{
    (void) data;
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Io) shared = open_sharing(f->path, &error);

    g_assert_no_error(error);
    g_assert_nonnull(shared);
    g_assert_true(qemu_can_open(f, NULL, NULL));

    /* A writer that does not share "consistent read" keeps such a reader out, and the other way round. */
    g_autoptr(GError) refused = NULL;
    g_assert_null(open_locked(f->path, true, QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE, 0, &refused));
    g_assert_error(refused, QCOW2_ERROR, QCOW2_ERROR_IN_USE);
}

static void test_lock_later(Fixture *f, const void *data)
{
    (void) data;
    const Qcow2FileOptions options = { 0 };
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Io) io = qcow2_io_file_open(f->path, &options, &error);

    g_assert_true(qemu_can_open(f, NULL, NULL));
    g_assert_true(qcow2_io_file_lock(io, QCOW2_PERM_CONSISTENT_READ, SHARED, &error));
    g_assert_false(qemu_can_open(f, NULL, NULL));
    g_assert_true(qemu_can_open(f, "-r", NULL));
    g_assert_no_error(error);
}

/* The bytes themselves, as /proc/locks shows them. */
static bool is_held(const Fixture *f, int byte)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(fcntl(fd, F_OFD_GETLK, &lock), ==, 0);
    close(fd);
    g_assert_true(lock.l_type == F_UNLCK || lock.l_type == F_RDLCK);
    return lock.l_type != F_UNLCK;
}

static void test_bytes(Fixture *f, const void *data)
{
    (void) data;
    static const struct {
        unsigned used, shared;
        int bytes[9];
    } cases[] = {
        { QCOW2_PERM_CONSISTENT_READ, QCOW2_PERM_ALL, { 100 } },
        { QCOW2_PERM_CONSISTENT_READ, SHARED, { 100, 201, 203 } },
        { WRITER, SHARED, { 100, 101, 103, 201, 203 } },
        { QCOW2_PERM_ALL, 0, { 100, 101, 102, 103, 200, 201, 202, 203 } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(Qcow2Io) io = open_locked(f->path, true, cases[i].used, cases[i].shared, NULL);
        size_t next = 0;

        g_assert_nonnull(io);
        for (int byte = 90; byte < 220; byte++) {
            bool expected = byte == cases[i].bytes[next];
            g_assert_true(is_held(f, byte) == expected);
            next += expected;
        }
        g_assert_cmpint(cases[i].bytes[next], ==, 0);
    }
}

static const struct {
    const char *name;
    void (*run)(Fixture *, const void *);
} tests[] = {
    { "a writing qemu-io keeps readers and writers out", test_qemu_writes },
    { "a reading qemu-io lets readers in", test_qemu_reads },
    { "our reader keeps a writing qemu-io out", test_we_read },
    { "our writer keeps qemu-io out", test_we_write },
    { "force-share disturbs nobody but who shares nothing", test_force_share },
    { "locks can be taken after opening", test_lock_later },
    { "the bytes are those of QEMU", test_bytes },
};

static void add_tests(const char *version, char *qemu_io)
{
    for (size_t i = 0; qemu_io && i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *path = g_strdup_printf("/lock/%s/%s", version, tests[i].name);
        g_test_add(path, Fixture, qemu_io, set_up, tests[i].run, tear_down);
    }
}

static char *find_qemu10(void)
{
    const char *folder = g_getenv("QEMU10_DIR");
    g_autofree char *path = g_build_filename(folder ? folder : "/opt/qemu10/usr/bin", "qemu-io", NULL);

    return g_file_test(path, G_FILE_TEST_IS_EXECUTABLE) ? g_steal_pointer(&path) : NULL;
}

int main(int argc, char **argv)
{
    g_autofree char *qemu_io = g_find_program_in_path("qemu-io");
    g_autofree char *qemu10_io = find_qemu10();

    g_test_init(&argc, &argv, NULL);
    add_tests("qemu", qemu_io);
    add_tests("qemu 10", qemu10_io);
    return g_test_run();
}
