/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's image locks. For each permission n that a process uses it holds byte 100 + n, for each one that
 * it does not share with others byte 200 + n. All locks are shared locks of the open file description:
 * they never exclude each other; what conflicts is found by asking who holds the opposite byte.
 *
 *     n    permission          byte of who uses it    byte of who does not share it
 *     0    consistent read     100                    200
 *     1    write               101                    201
 *     2    write unchanged     102                    202
 *     3    resize              103                    203
 *
 * Taking first and asking afterwards means that of two processes that come at once none misses the other.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>

#include "util/error.h"

#define N_PERMS       4
#define USED_BASE     100
#define UNSHARED_BASE 200
#define WRITE_PERM    1

static const char *const perm_names[N_PERMS] = { "consistent read", "write", "write unchanged", "resize" };

static bool take_byte(int fd, off_t byte, GError **error)
{
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
    int result;

    do {
        result = fcntl(fd, F_OFD_SETLK, &lock);
    } while (result < 0 && errno == EINTR);
    if (result == 0) {
        return true;
    }
    if (errno == EAGAIN || errno == EACCES) {
        return qcow2_fail(error, QCOW2_ERROR_IN_USE, "Failed to lock byte %d", (int) byte);
    }
    return qcow2_fail_errno(error, errno, "Failed to lock byte %d", (int) byte);
}

/* Does another open file description hold @byte? */
static bool is_byte_held(int fd, off_t byte, bool *ret_held, GError **error)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) {
        return qcow2_fail_errno(error, errno, "Failed to test the lock on byte %d", (int) byte);
    }
    *ret_held = lock.l_type != F_UNLCK;
    return true;
}

static bool take_bytes(int fd, Qcow2Perm used, Qcow2Perm shared, GError **error)
{
    for (unsigned n = 0; n < N_PERMS; n++) {
        if ((used & (1u << n)) && !take_byte(fd, USED_BASE + n, error)) {
            return false;
        }
    }
    for (unsigned n = 0; n < N_PERMS; n++) {
        if (!(shared & (1u << n)) && !take_byte(fd, UNSHARED_BASE + n, error)) {
            return false;
        }
    }
    return true;
}

static bool check_byte(int fd, off_t byte, const char *what, unsigned n, GError **error)
{
    bool held = false;

    if (!is_byte_held(fd, byte, &held, error)) {
        return false;
    }
    if (held) {
        return qcow2_fail(error, QCOW2_ERROR_IN_USE, "Failed to get %s\"%s\" lock", what, perm_names[n]);
    }
    return true;
}

static bool check_bytes(int fd, Qcow2Perm used, Qcow2Perm shared, GError **error)
{
    for (unsigned n = 0; n < N_PERMS; n++) {
        if ((used & (1u << n)) && !check_byte(fd, UNSHARED_BASE + n, "", n, error)) {
            return false;
        }
    }
    for (unsigned n = 0; n < N_PERMS; n++) {
        if (!(shared & (1u << n)) && !check_byte(fd, USED_BASE + n, "shared ", n, error)) {
            return false;
        }
    }
    return true;
}

bool qcow2_io_file_lock(Qcow2Io *io, Qcow2Perm used, Qcow2Perm shared, GError **error)
{
    int fd = qcow2_io_get_fd(io);
    g_autoptr(GError) cause = NULL;

    if (fd < 0 || (take_bytes(fd, used, shared, &cause) && check_bytes(fd, used, shared, &cause))) {
        return true;
    }
    if (g_error_matches(cause, QCOW2_ERROR, QCOW2_ERROR_IN_USE)) {
        g_autofree char *name = qcow2_escape_name(io->name, -1);
        return qcow2_fail(error, QCOW2_ERROR_IN_USE, "%s. Is another process using the image [%s]?",
                          cause->message, name);
    }
    g_propagate_error(error, g_steal_pointer(&cause));
    return false;
}

bool qcow2_file_has_writer(Qcow2Io *io, bool *ret_has_writer, GError **error)
{
    return is_byte_held(((Qcow2FileIo *) io)->fd, USED_BASE + WRITE_PERM, ret_has_writer, error);
}
