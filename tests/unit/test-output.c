/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/backends.h"
#include "move/output.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ACL_ACCESS  "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define NOBODY      65534u

typedef struct Fixture {
    char *folder, *path;      /* an empty folder, and a file name in it */
} Fixture;

static void set_up(Fixture *f, const void *data)
{
    (void)data;
    f->folder = g_dir_make_tmp("qcow-output-XXXXXX", NULL);
    g_assert_nonnull(f->folder);
    f->path = g_build_filename(f->folder, "disk.qcow2", NULL);
}

static char **list_names(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    const char *name;

    while ((name = g_dir_read_name(dir)) != NULL) {
        g_strv_builder_add(names, name);
    }
    return g_strv_builder_end(names);
}

static void tear_down(Fixture *f, const void *data)
{
    g_auto(GStrv) names = list_names(f->folder);

    (void)data;
    for (char **name = names; *name; name++) {
        g_autofree char *path = g_build_filename(f->folder, *name, NULL);
        g_assert_cmpint(g_remove(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(f->folder), ==, 0);
    g_free(f->folder);
    g_free(f->path);
}

static unsigned count_names(const Fixture *f)
{
    g_auto(GStrv) names = list_names(f->folder);
    return g_strv_length(names);
}

static void assert_holds(const char *path, const char *bytes)
{
    g_autofree char *found = NULL;
    g_assert_true(g_file_get_contents(path, &found, NULL, NULL));
    g_assert_cmpstr(found, ==, bytes);
}

static void assert_mode(const char *path, unsigned mode)
{
    struct stat status;
    g_assert_cmpint(stat(path, &status), ==, 0);
    g_assert_cmphex(status.st_mode & 07777, ==, mode);
}

static void put(const char *path, const char *bytes, unsigned mode)
{
    g_assert_true(g_file_set_contents(path, bytes, -1, NULL));
    g_assert_cmpint(chmod(path, mode), ==, 0);
}

static Qcow2Output *start(const char *path, bool overwrite)
{
    g_autoptr(GError) error = NULL;
    Qcow2Output *output = qcow2_output_new(path, overwrite, QCOW2_CACHE_WRITEBACK, &error);

    g_assert_no_error(error);
    g_assert_true(qcow2_io_write(qcow2_output_io(output), 0, "new", 3, &error));
    g_assert_no_error(error);
    return output;
}

static void publish(Qcow2Output *output)
{
    g_autoptr(GError) error = NULL;
    g_assert_true(qcow2_output_publish(output, &error));
    g_assert_no_error(error);
}

static void make(const char *path, bool overwrite)
{
    g_autoptr(Qcow2Output) output = start(path, overwrite);
    publish(output);
}

static void assert_refused(const char *path, bool overwrite, Qcow2Error code, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(qcow2_output_new(path, overwrite, QCOW2_CACHE_WRITEBACK, &error));
    g_assert_error(error, QCOW2_ERROR, (int)code);
    g_assert_nonnull(strstr(error->message, path));
    g_assert_nonnull(strstr(error->message, words));
}

static void test_appears_when_published(Fixture *f, const void *data)
{
    g_autoptr(Qcow2Output) output = start(f->path, false);
    g_auto(GStrv) names = list_names(f->folder);

    (void)data;
    g_assert_cmpuint(g_strv_length(names), ==, 1);
    g_assert_true(g_regex_match_simple("^\\.disk\\.qcow2\\.qcow-[a-z0-9]{6}$", names[0], 0, 0));
    publish(output);
    g_assert_cmpuint(count_names(f), ==, 1);
    assert_holds(f->path, "new");

    mode_t mask = umask(0);
    umask(mask);
    assert_mode(f->path, 0666 & ~mask);
}

static void test_freed_leaves_nothing(Fixture *f, const void *data)
{
    (void)data;
    put(f->path, "old", 0644);
    qcow2_output_free(start(f->path, true));
    g_assert_cmpuint(count_names(f), ==, 1);
    assert_holds(f->path, "old");
    qcow2_output_free(NULL);
}

static void test_every_cache_mode(Fixture *f, const void *data)
{
    (void)data;
    for (unsigned cache = QCOW2_CACHE_WRITEBACK; cache <= QCOW2_CACHE_UNSAFE; cache++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Qcow2Output) output = qcow2_output_new(f->path, true, cache, &error);
        if (!output && (cache == QCOW2_CACHE_NONE || cache == QCOW2_CACHE_DIRECTSYNC)) {
            continue;        /* tmpfs has no direct I/O */
        }
        g_assert_no_error(error);
        g_assert_true(qcow2_io_write(qcow2_output_io(output), 0, "again", 5, &error));
        publish(output);
        assert_holds(f->path, "again");
        g_assert_cmpuint(count_names(f), ==, 1);
        g_assert_cmpint(g_remove(f->path), ==, 0);
    }
}

static void test_existing_is_kept_unless_asked(Fixture *f, const void *data)
{
    (void)data;
    put(f->path, "old", 0640);
    assert_refused(f->path, false, QCOW2_ERROR_EXISTS, "exists");
    g_assert_cmpuint(count_names(f), ==, 1);
    make(f->path, true);
    assert_holds(f->path, "new");
    assert_mode(f->path, 0640);
}

static void test_file_that_appeared_is_not_clobbered(Fixture *f, const void *data)
{
    g_autoptr(Qcow2Output) output = start(f->path, false);
    g_autoptr(GError) error = NULL;

    (void)data;
    put(f->path, "other", 0644);
    g_assert_false(qcow2_output_publish(output, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_EXISTS);
    qcow2_output_free(g_steal_pointer(&output));
    assert_holds(f->path, "other");
    g_assert_cmpuint(count_names(f), ==, 1);
}

/* With leave to replace, what appeared meanwhile is treated as if it had been there from the start. */
static void test_file_that_appeared_is_replaced_with_its_access(Fixture *f, const void *data)
{
    g_autoptr(Qcow2Output) output = start(f->path, true);

    (void)data;
    put(f->path, "other", 0604);
    publish(output);
    assert_holds(f->path, "new");
    assert_mode(f->path, 0604);
}

static void test_old_that_vanished_still_gives_its_access(Fixture *f, const void *data)
{
    (void)data;
    put(f->path, "old", 0640);
    g_autoptr(Qcow2Output) output = start(f->path, true);
    g_assert_cmpint(g_remove(f->path), ==, 0);
    publish(output);
    assert_holds(f->path, "new");
    assert_mode(f->path, 0640);
}

static void test_folder_that_appeared_is_an_error(Fixture *f, const void *data)
{
    g_autoptr(Qcow2Output) output = start(f->path, true);
    g_autoptr(GError) error = NULL;

    (void)data;
    g_assert_cmpint(g_mkdir(f->path, 0755), ==, 0);
    g_assert_false(qcow2_output_publish(output, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
}

static void test_links_are_followed(Fixture *f, const void *data)
{
    g_autofree char *link = g_build_filename(f->folder, "link", NULL);
    g_autofree char *second = g_build_filename(f->folder, "second", NULL);

    (void)data;
    g_assert_cmpint(symlink("disk.qcow2", link), ==, 0);
    g_assert_cmpint(symlink(link, second), ==, 0);
    make(second, false);                          /* the links lead nowhere yet */
    assert_holds(f->path, "new");

    put(f->path, "old", 0600);
    assert_refused(second, false, QCOW2_ERROR_EXISTS, "exists");
    make(second, true);
    assert_holds(f->path, "new");
    assert_mode(f->path, 0600);
    g_assert_true(g_file_test(link, G_FILE_TEST_IS_SYMLINK));
    g_assert_true(g_file_test(second, G_FILE_TEST_IS_SYMLINK));
    g_assert_cmpuint(count_names(f), ==, 3);
}

static void test_link_loop(Fixture *f, const void *data)
{
    g_autofree char *link = g_build_filename(f->folder, "link", NULL);

    (void)data;
    g_assert_cmpint(symlink("disk.qcow2", link), ==, 0);
    g_assert_cmpint(symlink("link", f->path), ==, 0);
    assert_refused(f->path, true, QCOW2_ERROR_IO, g_strerror(ELOOP));
}

static void test_what_is_no_file_is_refused(Fixture *f, const void *data)
{
    g_autofree char *pipe = g_build_filename(f->folder, "pipe", NULL);
    g_autofree char *no_folder = g_build_filename(f->folder, "none", "disk", NULL);
    g_autofree char *slash = g_strconcat(f->folder, "/new/", NULL);

    (void)data;
    g_assert_cmpint(mkfifo(pipe, 0666), ==, 0);
    assert_refused(f->folder, true, QCOW2_ERROR_INVALID, "a folder");
    assert_refused(pipe, true, QCOW2_ERROR_INVALID, "a pipe");
    assert_refused("/dev/null", true, QCOW2_ERROR_INVALID, "a character device");
    assert_refused(slash, true, QCOW2_ERROR_INVALID, "a folder");
    assert_refused("", true, QCOW2_ERROR_INVALID, "a folder");
    assert_refused(no_folder, false, QCOW2_ERROR_NOT_FOUND, g_strerror(ENOENT));
}

static void test_longest_name(Fixture *f, const void *data)
{
    g_autofree char *name = g_strnfill(255, 'n');
    g_autofree char *path = g_build_filename(f->folder, name, NULL);
    g_autofree char *longer = g_strconcat(path, "n", NULL);

    (void)data;
    make(path, false);
    assert_holds(path, "new");
    assert_refused(longer, false, QCOW2_ERROR_IO, g_strerror(ENAMETOOLONG));
}

static Qcow2Io *lock(const char *path, Qcow2Perm used, Qcow2Perm shared)
{
    Qcow2FileOptions options = { .writable = true, .lock = true, .used = used, .shared = shared };
    g_autoptr(GError) error = NULL;
    Qcow2Io *io = qcow2_io_file_open(path, &options, &error);

    g_assert_no_error(error);
    return io;
}

static void test_a_file_in_use_is_not_replaced(Fixture *f, const void *data)
{
    const Qcow2Perm users[][2] = {
        { 11, 5 },                                /* a VM's own disk */
        { 1, 5 },                                 /* a VM's backing file */
        { 1, 15 },                                /* a raw backing file, or --force-share */
    };

    (void)data;
    put(f->path, "old", 0644);
    for (size_t i = 0; i < G_N_ELEMENTS(users); i++) {
        G_GNUC_UNUSED g_autoptr(Qcow2Io) vm = lock(f->path, users[i][0], users[i][1]);
        assert_refused(f->path, true, QCOW2_ERROR_IN_USE, "Is another process using the image");
    }
    g_assert_cmpuint(count_names(f), ==, 1);
    make(f->path, true);
}

static void test_a_file_that_came_into_use_is_not_replaced(Fixture *f, const void *data)
{
    g_autoptr(Qcow2Output) output = start(f->path, true);
    g_autoptr(GError) error = NULL;

    (void)data;
    put(f->path, "other", 0644);
    G_GNUC_UNUSED g_autoptr(Qcow2Io) vm = lock(f->path, 11, 5);
    g_assert_false(qcow2_output_publish(output, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_IN_USE);
    qcow2_output_free(g_steal_pointer(&output));
    assert_holds(f->path, "other");
}

static void test_no_vm_starts_on_a_file_that_is_being_replaced(Fixture *f, const void *data)
{
    Qcow2FileOptions vm = { .writable = true, .lock = true, .used = 11, .shared = 5 };
    g_autoptr(GError) error = NULL;

    (void)data;
    put(f->path, "old", 0644);
    g_autoptr(Qcow2Output) output = start(f->path, true);
    g_assert_null(qcow2_io_file_open(f->path, &vm, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_IN_USE);
    publish(output);
    g_autoptr(Qcow2Io) io = qcow2_io_file_open(f->path, &vm, NULL);
    g_assert_nonnull(io);
}

/* user::rw- user:NOBODY:r-- group::--- mask::r-- other::---, as the kernel stores it */
static const uint8_t acl_bytes[] = {
    2, 0, 0, 0,
    1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
    2, 0, 4, 0, 0xfe, 0xff, 0, 0,
    4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
    16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
    32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
};

static void assert_acl(const char *path, const void *acl, ssize_t len)
{
    uint8_t found[256];
    ssize_t n = getxattr(path, ACL_ACCESS, found, sizeof(found));

    g_assert_cmpint(n, ==, acl ? len : -1);
    if (acl) {
        g_assert_cmpmem(found, (size_t)n, acl, (size_t)len);
    }
}

static void test_acl(Fixture *f, const void *data)
{
    (void)data;
    put(f->path, "old", 0600);
    if (setxattr(f->path, ACL_ACCESS, acl_bytes, sizeof(acl_bytes), 0) < 0) {
        g_test_skip("no ACLs in the folder for temporary files");
        return;
    }
    assert_mode(f->path, 0640);
    make(f->path, true);
    assert_acl(f->path, acl_bytes, sizeof(acl_bytes));
    assert_mode(f->path, 0640);
}

static void test_acl_of_the_folder_is_for_new_files_only(Fixture *f, const void *data)
{
    g_autofree char *fresh = g_build_filename(f->folder, "fresh", NULL);

    (void)data;
    put(f->path, "old", 0644);
    if (setxattr(f->folder, ACL_DEFAULT, acl_bytes, sizeof(acl_bytes), 0) < 0) {
        g_test_skip("no ACLs in the folder for temporary files");
        return;
    }
    make(f->path, true);
    assert_acl(f->path, NULL, 0);
    assert_mode(f->path, 0644);
    make(fresh, false);
    assert_acl(fresh, acl_bytes, sizeof(acl_bytes));
}

static void test_label(Fixture *f, const void *data)
{
    char label[16] = "";

    (void)data;
    put(f->path, "old", 0644);
    if (setxattr(f->path, "security.qcow_test", "svirt", 5, 0) < 0) {
        g_test_skip("no permission to set a security label");
        return;
    }
    make(f->path, true);
    g_assert_cmpint(getxattr(f->path, "security.qcow_test", label, sizeof(label)), ==, 5);
    g_assert_cmpstr(label, ==, "svirt");
}

static void test_owner(Fixture *f, const void *data)
{
    struct stat status;

    (void)data;
    put(f->path, "old", 0640);
    if (chown(f->path, NOBODY, NOBODY) < 0) {
        g_test_skip("only root may give files away");
        return;
    }
    make(f->path, true);
    g_assert_cmpint(stat(f->path, &status), ==, 0);
    g_assert_cmpuint(status.st_uid, ==, NOBODY);
    g_assert_cmpuint(status.st_gid, ==, NOBODY);
    assert_mode(f->path, 0640);
}

/* A user who may not give files away becomes their owner: nobody may gain rights by that. */
static void test_rights_never_grow(Fixture *f, const void *data)
{
    const struct { unsigned before, after; } cases[] = { { 0626, 0622 }, { 0606, 0600 }, { 0776, 0766 } };

    (void)data;
    if (getuid() != 0 || chown(f->folder, NOBODY, NOBODY) < 0) {
        g_test_skip("needs root to become another user");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        put(f->path, "old", cases[i].before);
        g_assert_cmpint(setegid(NOBODY), ==, 0);
        g_assert_cmpint(seteuid(NOBODY), ==, 0);
        make(f->path, true);
        assert_mode(f->path, cases[i].after);
        g_assert_cmpint(seteuid(0), ==, 0);
        g_assert_cmpint(setegid(0), ==, 0);
    }
    put(f->path, "old", 0644);
    g_assert_cmpint(seteuid(NOBODY), ==, 0);
    assert_refused(f->path, true, QCOW2_ERROR_IO, g_strerror(EACCES));
    g_assert_cmpint(seteuid(0), ==, 0);
}

#define ADD(name, func) g_test_add("/output/" name, Fixture, NULL, set_up, func, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("appears-when-published", test_appears_when_published);
    ADD("freed-leaves-nothing", test_freed_leaves_nothing);
    ADD("every-cache-mode", test_every_cache_mode);
    ADD("existing-is-kept-unless-asked", test_existing_is_kept_unless_asked);
    ADD("file-that-appeared-is-not-clobbered", test_file_that_appeared_is_not_clobbered);
    ADD("file-that-appeared-is-replaced-with-its-access",
        test_file_that_appeared_is_replaced_with_its_access);
    ADD("old-that-vanished-still-gives-its-access", test_old_that_vanished_still_gives_its_access);
    ADD("folder-that-appeared-is-an-error", test_folder_that_appeared_is_an_error);
    ADD("links-are-followed", test_links_are_followed);
    ADD("link-loop", test_link_loop);
    ADD("what-is-no-file-is-refused", test_what_is_no_file_is_refused);
    ADD("longest-name", test_longest_name);
    ADD("a-file-in-use-is-not-replaced", test_a_file_in_use_is_not_replaced);
    ADD("a-file-that-came-into-use-is-not-replaced", test_a_file_that_came_into_use_is_not_replaced);
    ADD("no-vm-starts-on-a-file-that-is-being-replaced", test_no_vm_starts_on_a_file_that_is_being_replaced);
    ADD("acl", test_acl);
    ADD("acl-of-the-folder-is-for-new-files-only", test_acl_of_the_folder_is_for_new_files_only);
    ADD("label", test_label);
    ADD("owner", test_owner);
    ADD("rights-never-grow", test_rights_never_grow);
    return g_test_run();
}
