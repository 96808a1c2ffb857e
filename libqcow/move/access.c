/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/access.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "util/error.h"

#define ACL_XATTR "system.posix_acl_access"

/* What of the old file's access the new one could be given. */
typedef struct Kept {
    bool owner, group, acl;
} Kept;

/* Errors that say "not to you" or "not here", EINVAL also for an id that a user namespace does not map. */
static bool is_refusal(int errnum)
{
    return errnum == EPERM || errnum == EACCES || errnum == EOPNOTSUPP || errnum == EINVAL
        || errnum == ENOSYS;
}

static bool copy_owner(const struct stat *from, int to_fd, Kept *kept, GError **error)
{
    struct stat to;

    if (fstat(to_fd, &to) < 0) {
        return qcow2_fail_errno(error, errno, "look at the new file");
    }
    kept->owner = from->st_uid == to.st_uid;
    kept->group = from->st_gid == to.st_gid;
    if ((kept->owner && kept->group) || fchown(to_fd, from->st_uid, from->st_gid) == 0) {
        kept->owner = kept->group = true;
        return true;
    }
    if (!is_refusal(errno)) {
        return qcow2_fail_errno(error, errno, "set the owner of the new file");
    }
    /* A user may at least choose among the groups that they are in. */
    kept->group = kept->group || fchown(to_fd, (uid_t)-1, from->st_gid) == 0;
    return true;
}

/* Returns: 0 with the value, ENODATA without one, or another error number. */
static int read_xattr(int fd, const char *name, GByteArray *ret_value)
{
    ssize_t len = fgetxattr(fd, name, NULL, 0);

    if (len < 0) {
        return errno;
    }
    g_byte_array_set_size(ret_value, (guint)len);
    len = fgetxattr(fd, name, ret_value->data, ret_value->len);
    if (len < 0) {
        return errno;
    }
    g_byte_array_set_size(ret_value, (guint)len);
    return 0;
}

/*
 * An ACL names its owner and group only as "owner" and "group": with others in their place it would say
 * something else, so it is kept only together with them. What the new file inherited from its folder goes.
 */
static bool copy_acl(int from_fd, int to_fd, Kept *kept, GError **error)
{
    g_autoptr(GByteArray) acl = g_byte_array_new();
    int errnum = read_xattr(from_fd, ACL_XATTR, acl);

    if (errnum == ENODATA || errnum == EOPNOTSUPP) {
        kept->acl = true;
        if (fremovexattr(to_fd, ACL_XATTR) < 0 && errno != ENODATA && errno != EOPNOTSUPP) {
            return qcow2_fail_errno(error, errno, "remove the inherited ACL of the new file");
        }
        return true;
    }
    if (errnum != 0) {
        return qcow2_fail_errno(error, errnum, "read the ACL of the file to be replaced");
    }
    kept->acl = kept->owner && kept->group && fsetxattr(to_fd, ACL_XATTR, acl->data, acl->len, 0) == 0;
    if (!kept->acl && kept->owner && kept->group && !is_refusal(errno)) {
        return qcow2_fail_errno(error, errno, "set the ACL of the new file");
    }
    return true;
}

/*
 * Whoever was owner or in the group and is not any more now has the rights of the class below, which must
 * not be more than they had.
 */
static mode_t narrow(mode_t mode, const Kept *kept)
{
    mode_t user = mode >> 6 & 7, group = mode >> 3 & 7, other = mode & 7;

    if (!kept->acl) {
        return user << 6;
    }
    if (!kept->owner) {
        group &= user;
        other &= user;
    }
    if (!kept->group) {
        other &= group;
        group = other;
    }
    return user << 6 | group << 3 | other;
}

/* Labels move with the name. IMA's and EVM's values are hashes of contents, and no image is a program. */
static bool is_label(const char *xattr)
{
    return g_str_has_prefix(xattr, "security.") && strcmp(xattr, "security.ima") != 0
        && strcmp(xattr, "security.evm") != 0 && strcmp(xattr, "security.capability") != 0;
}

/* A label that cannot be set stays what the system chose for a new file there. */
static void copy_labels(int from_fd, int to_fd)
{
    g_autoptr(GByteArray) value = g_byte_array_new();
    ssize_t len = flistxattr(from_fd, NULL, 0);
    g_autofree char *names = len > 0 ? g_malloc0((gsize)len + 1) : NULL;

    if (!names || (len = flistxattr(from_fd, names, (size_t)len)) <= 0) {
        return;
    }
    for (const char *name = names; name < names + len; name += strlen(name) + 1) {
        if (is_label(name) && read_xattr(from_fd, name, value) == 0) {
            fsetxattr(to_fd, name, value->data, value->len, 0);
        }
    }
}

bool qcow2_copy_access(int from_fd, int to_fd, GError **error)
{
    struct stat from;
    Kept kept = { 0 };

    if (fstat(from_fd, &from) < 0) {
        return qcow2_fail_errno(error, errno, "look at the file to be replaced");
    }
    if (!copy_owner(&from, to_fd, &kept, error) || !copy_acl(from_fd, to_fd, &kept, error)) {
        return false;
    }
    copy_labels(from_fd, to_fd);
    if (fchmod(to_fd, narrow(from.st_mode & 0777, &kept)) < 0) {
        return qcow2_fail_errno(error, errno, "set the mode of the new file");
    }
    return true;
}
