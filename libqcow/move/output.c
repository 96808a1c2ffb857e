/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new file under a temporary name beside its own, and the rename that makes it real:
 *
 *   step                                    a crash afterwards leaves
 *   1  make .NAME.qcow-XXXXXX, write it     the old file, or none, and the temporary one
 *   2  flush it                             the same
 *   3  rename it                            the old file or the new one, each of them whole
 *   4  flush the folder                     the new file
 */
#include "move/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/backends.h"
#include "move/access.h"
#include "util/error.h"

#define MAX_LINKS     40      /* the kernel's own limit */
#define MAX_NAME      255     /* bytes in a file name, on every file system that matters here */
#define TEMP_LETTERS  "abcdefghijklmnopqrstuvwxyz0123456789"
#define TEMP_RANDOM   6
#define TEMP_ATTEMPTS 100

struct Qcow2Output {
    Qcow2Io *io;
    char *target;             /* the name that the file gets, at the end of all links */
    char *temp;               /* NULL once it is renamed */
    bool overwrite;
    bool resume;              /* the temporary file has a name that is found again, and stays */
    bool was_there;           /* it was found */
    Qcow2Cache cache;
    Qcow2Io *old;             /* the file to be replaced, locked, so that no VM starts on it; or NULL */
};

/* ---- The name ---------------------------------------------------------------------------------- */

/* What a link says, as a path of the same kind as @path; NULL when @path is no link. */
static char *follow_once(const char *path)
{
    g_autofree char *link = g_file_read_link(path, NULL);

    if (!link || g_path_is_absolute(link)) {
        return g_steal_pointer(&link);
    }
    g_autofree char *folder = g_path_get_dirname(path);
    return g_build_filename(folder, link, NULL);
}

/* Also a link to a file that does not exist yet says where that file shall be. */
static char *follow_links(const char *path, GError **error)
{
    g_autofree char *target = g_strdup(path);

    for (unsigned i = 0; i < MAX_LINKS; i++) {
        char *next = follow_once(target);
        if (!next) {
            return g_steal_pointer(&target);
        }
        g_free(target);
        target = next;
    }
    qcow2_fail_system(error, ELOOP);
    return NULL;
}

static bool check_type(mode_t mode, GError **error)
{
    if (S_ISREG(mode)) {
        return true;
    }
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "it is %s, and only a regular file can be made or replaced",
                      S_ISDIR(mode) ? "a folder" : S_ISBLK(mode) ? "a block device"
                      : S_ISCHR(mode) ? "a character device" : S_ISFIFO(mode) ? "a pipe" : "a socket");
}

static bool fail_exists(GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_EXISTS, "the file exists already");
}

/* Asks by the name as it was given: the kernel refuses links that a stranger put into a shared folder. */
static bool look_at(const char *path, bool *ret_exists, struct stat *ret_status, GError **error)
{
    *ret_exists = stat(path, ret_status) == 0;
    if (!*ret_exists && errno != ENOENT) {
        return qcow2_fail_system(error, errno);
    }
    if (!*ret_exists && (path[0] == '\0' || g_str_has_suffix(path, "/"))) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "this names a folder, not a file");
    }
    return !*ret_exists || check_type(ret_status->st_mode, error);
}

/* ---- The file to be replaced ------------------------------------------------------------------- */

/*
 * Opened for writing, since who may not write a file should not replace it either. Nothing is shared: also
 * who only reads the file would go on with one that has no name any more.
 */
static bool hold_old(Qcow2Output *output, GError **error)
{
    Qcow2FileOptions options = {
        .writable = true,
        .lock = true,
        .used = QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE,
    };

    g_clear_pointer(&output->old, qcow2_io_unref);
    output->old = qcow2_io_file_open(output->target, &options, error);
    return output->old != NULL;
}

static bool is_old(const Qcow2Output *output, const struct stat *status)
{
    struct stat old;

    return output->old && fstat(qcow2_io_get_fd(output->old), &old) == 0
        && old.st_dev == status->st_dev && old.st_ino == status->st_ino;
}

/* ---- The temporary file ------------------------------------------------------------------------ */

static char *make_temp_name(const char *target)
{
    g_autofree char *folder = g_path_get_dirname(target);
    g_autofree char *name = g_path_get_basename(target);
    char letters[TEMP_RANDOM + 1] = "";
    const size_t added = strlen("..qcow-") + TEMP_RANDOM;

    for (unsigned i = 0; i < TEMP_RANDOM; i++) {
        letters[i] = TEMP_LETTERS[g_random_int_range(0, (gint32)strlen(TEMP_LETTERS))];
    }
    g_autofree char *temp_name = g_strdup_printf(".%.*s.qcow-%s", (int)(MAX_NAME - added), name, letters);
    return g_build_filename(folder, temp_name, NULL);
}

/* Only its owner may read it as long as it is to get the access of the file that it replaces. */
static bool make_temp(Qcow2Output *output, GError **error)
{
    mode_t mode = output->old ? 0600 : 0666;
    int fd = -1;

    for (unsigned i = 0; fd < 0 && i < TEMP_ATTEMPTS; i++) {
        g_autofree char *name = make_temp_name(output->target);
        fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, mode);
        if (fd >= 0) {
            output->temp = g_steal_pointer(&name);
        } else if (errno != EEXIST) {
            break;
        }
    }
    if (fd < 0) {
        return qcow2_fail_errno(error, errno, "make a file in this folder");
    }
    close(fd);

    Qcow2FileOptions options = { .writable = true, .cache = output->cache };
    output->io = qcow2_io_file_open(output->temp, &options, error);
    if (!output->io) {
        return false;
    }
    /* Messages speak of the file that was asked for. */
    g_free(output->io->name);
    output->io->name = g_strdup(output->target);
    return true;
}

/* Returns: a descriptor, or -1. */
static int make_or_find_part(Qcow2Output *output)
{
    mode_t mode = output->old ? 0600 : 0666;
    const int flags = O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW;
    int fd = open(output->temp, flags | O_EXCL, mode);

    output->was_there = fd < 0 && errno == EEXIST;
    return output->was_there ? open(output->temp, flags, mode) : fd;
}

/* Locked, so that no other process goes on with it at the same time. */
static bool open_part(Qcow2Output *output, GError **error)
{
    Qcow2FileOptions options = {
        .writable = true,
        .cache = output->cache,
        .lock = true,
        .used = QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE,
    };
    struct stat status;

    output->temp = g_strconcat(output->target, ".qcow-part", NULL);
    int fd = make_or_find_part(output);
    if (fd < 0) {
        return qcow2_fail_errno(error, errno, "'%s'", output->temp);
    }
    bool ok = fstat(fd, &status) == 0 && check_type(status.st_mode, error);
    close(fd);
    output->io = ok ? qcow2_io_file_open(output->temp, &options, error) : NULL;
    if (!output->io) {
        g_prefix_error(error, "'%s': ", output->temp);
    }
    return output->io != NULL;
}

static bool prepare(Qcow2Output *output, const char *path, GError **error)
{
    struct stat status;
    bool exists;

    if (!look_at(path, &exists, &status, error)) {
        return false;
    }
    if (exists && !output->overwrite) {
        return fail_exists(error);
    }
    output->target = follow_links(path, error);
    return output->target && (!exists || hold_old(output, error))
        && (output->resume ? open_part(output, error) : make_temp(output, error));
}

/* Takes @output over. */
static Qcow2Output *prepared(Qcow2Output *output, const char *path, GError **error)
{
    if (!prepare(output, path, error)) {
        g_prefix_error(error, "'%s': ", path);
        qcow2_output_free(output);
        return NULL;
    }
    return output;
}

Qcow2Output *qcow2_output_new(const char *path, bool overwrite, Qcow2Cache cache, GError **error)
{
    Qcow2Output *output = g_new0(Qcow2Output, 1);

    output->overwrite = overwrite;
    output->cache = cache;
    return prepared(output, path, error);
}

Qcow2Output *qcow2_output_resume(const char *path, Qcow2Cache cache, GError **error)
{
    Qcow2Output *output = g_new0(Qcow2Output, 1);

    output->overwrite = output->resume = true;
    output->cache = cache;
    return prepared(output, path, error);
}

bool qcow2_output_was_there(const Qcow2Output *output)
{
    return output->was_there;
}

void qcow2_output_discard(Qcow2Output *output)
{
    output->resume = false;
}

const char *qcow2_output_target(const Qcow2Output *output)
{
    return output->target;
}

Qcow2Io *qcow2_output_io(Qcow2Output *output)
{
    return output->io;
}

bool qcow2_output_trace(Qcow2Output *output, const char *trace, GError **error)
{
    Qcow2Io *traced = qcow2_io_trace_new(output->io, trace, error);

    if (traced) {
        qcow2_io_unref(output->io);
        output->io = traced;
    }
    return traced != NULL;
}

/* ---- Publishing -------------------------------------------------------------------------------- */

/* The flush of the io covers the bytes and what is needed to read them, this also owner and mode. */
static bool flush_file(Qcow2Output *output, GError **error)
{
    return qcow2_io_flush(output->io, error)
        && (output->cache == QCOW2_CACHE_UNSAFE || fsync(qcow2_io_get_fd(output->io)) == 0
            || qcow2_fail_errno(error, errno, "flush"));
}

/* Not every file system can rename so (NFS cannot); a second name is refused in the same way if it exists. */
static bool rename_to_free_name(const Qcow2Output *output, GError **error)
{
    if (renameat2(AT_FDCWD, output->temp, AT_FDCWD, output->target, RENAME_NOREPLACE) == 0) {
        return true;
    }
    if ((errno == EINVAL || errno == ENOSYS) && link(output->temp, output->target) == 0) {
        unlink(output->temp);
        return true;
    }
    return errno == EEXIST ? fail_exists(error) : qcow2_fail_errno(error, errno, "rename the new file");
}

static bool rename_over(const Qcow2Output *output, GError **error)
{
    return rename(output->temp, output->target) == 0 || qcow2_fail_errno(error, errno, "rename the new file");
}

/* What has the name now may have come while the output was written: it is held as what was there before. */
static bool hold_what_is_there(Qcow2Output *output, bool *ret_exists, GError **error)
{
    struct stat status;

    *ret_exists = lstat(output->target, &status) == 0;
    return !*ret_exists
        || (check_type(status.st_mode, error) && (is_old(output, &status) || hold_old(output, error)));
}

static bool take_over_access(Qcow2Output *output, GError **error)
{
    return !output->old
        || (qcow2_copy_access(qcow2_io_get_fd(output->old), qcow2_io_get_fd(output->io), error)
            && flush_file(output, error));
}

static bool take_name(Qcow2Output *output, GError **error)
{
    bool exists;

    if (!output->overwrite) {
        return rename_to_free_name(output, error);
    }
    return hold_what_is_there(output, &exists, error) && take_over_access(output, error)
        && (exists ? rename_over(output, error) : rename_to_free_name(output, error));
}

bool qcow2_flush_folder_of(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int errnum = fd < 0 || fsync(fd) < 0 ? errno : 0;

    if (fd >= 0) {
        close(fd);
    }
    /* A file system that cannot flush a folder says EINVAL; a folder may be writable and not readable. */
    return errnum == 0 || errnum == EINVAL || errnum == EACCES
        || qcow2_fail_errno(error, errnum, "flush the folder '%s'", folder);
}

static bool flush_folder(const Qcow2Output *output, GError **error)
{
    if (output->cache == QCOW2_CACHE_UNSAFE || qcow2_flush_folder_of(output->target, error)) {
        return true;
    }
    g_prefix_error(error, "the file is complete, but ");
    return false;
}

bool qcow2_output_publish(Qcow2Output *output, GError **error)
{
    if (!flush_file(output, error) || !take_name(output, error)) {
        g_prefix_error(error, "'%s': ", output->target);
        return false;
    }
    g_clear_pointer(&output->temp, g_free);
    g_clear_pointer(&output->old, qcow2_io_unref);
    if (!flush_folder(output, error)) {
        g_prefix_error(error, "'%s': ", output->target);
        return false;
    }
    return true;
}

void qcow2_output_free(Qcow2Output *output)
{
    if (!output) {
        return;
    }
    if (output->temp && !output->resume) {
        unlink(output->temp);
    }
    g_clear_pointer(&output->io, qcow2_io_unref);
    g_clear_pointer(&output->old, qcow2_io_unref);
    g_free(output->temp);
    g_free(output->target);
    g_free(output);
}
