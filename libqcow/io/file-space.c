/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The space behind a file: its length, its holes, and ranges that are made zero. */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/error.h"

#define ZERO_CHUNK (64 * 1024)

/* A device keeps its size; what does not fit it has no place. */
static bool truncate_device(Qcow2Io *io, uint64_t size, GError **error)
{
    uint64_t device_size;

    if (!qcow2_file_get_size(io, &device_size, error)) {
        return false;
    }
    return size <= device_size || qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                                             "the block device has only %" PRIu64 " bytes", device_size);
}

bool qcow2_file_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    int result;

    if (file->is_device) {
        return truncate_device(io, size, error);
    }
    do {
        result = ftruncate(file->fd, (off_t) size);
    } while (result < 0 && errno == EINTR);
    if (result < 0) {
        return qcow2_fail_system(error, errno);
    }
    return qcow2_file_after_write(file, error);
}

static int call_fallocate(int fd, int mode, uint64_t offset, uint64_t len_bytes)
{
    int result;

    do {
        result = fallocate(fd, mode, (off_t) offset, (off_t) len_bytes);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

static bool write_zeros(Qcow2FileIo *file, uint64_t offset, uint64_t len_bytes, GError **error)
{
    g_autofree void *zeros = g_malloc0(ZERO_CHUNK);

    while (len_bytes > 0) {
        size_t chunk = MIN(len_bytes, ZERO_CHUNK);
        if (!qcow2_file_write_fd(file->fd, offset, zeros, chunk, error)) {
            return false;
        }
        offset += chunk;
        len_bytes -= chunk;
    }
    return true;
}

/*
 * A hole does not move the end of the file. One byte written there does, and cannot make the file shorter
 * when another thread has written behind it, as a truncation could.
 */
static bool extend_to(Qcow2FileIo *file, uint64_t end, GError **error)
{
    uint64_t size;

    return qcow2_file_get_size(&file->io, &size, error)
        && (size >= end || qcow2_file_write_fd(file->fd, end - 1, "", 1, error));
}

static bool zero_range(Qcow2FileIo *file, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    int errnum = EOPNOTSUPP;

    if (may_unmap) {
        errnum = call_fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len_bytes);
        if (errnum == 0) {
            return file->is_device || extend_to(file, offset + len_bytes, error);
        }
    }
    if (errnum != ENOSPC && errnum != EDQUOT && errnum != EIO) {
        errnum = call_fallocate(file->fd, FALLOC_FL_ZERO_RANGE, offset, len_bytes);
    }
    switch (errnum) {
    case 0:
        return true;
    case ENOSPC:
    case EDQUOT:
    case EIO:
        return qcow2_fail_system(error, errnum);
    default:     /* this file system, or this alignment on a device, cannot do it */
        return write_zeros(file, offset, len_bytes, error);
    }
}

bool qcow2_file_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;

    return zero_range(file, offset, len_bytes, may_unmap, error) && qcow2_file_after_write(file, error);
}

/* Asked often, for each run of data and hole, so with as few calls as can be: also these know the end. */
bool qcow2_file_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    off_t data = lseek(file->fd, (off_t) offset, SEEK_DATA);

    *ret = (Qcow2IoExtent) { .len_bytes = len_bytes };
    if (data < 0 && (errno == ENXIO || errno == EINVAL)) {
        /* No data from here to the end; or a file system without holes. */
        bool no_data = errno == ENXIO;
        bool ok = qcow2_io_extent_by_size(io, offset, len_bytes, ret, error);
        ret->zero = ret->hole = no_data || ret->zero;
        return ok;
    }
    if (data < 0) {
        return qcow2_fail_system(error, errno);
    }
    if ((uint64_t) data > offset) {
        ret->zero = ret->hole = true;
        ret->len_bytes = (uint64_t) data - offset;
        return true;
    }
    off_t hole = lseek(file->fd, (off_t) offset, SEEK_HOLE);
    if (hole > (off_t) offset) {
        ret->len_bytes = (uint64_t) hole - offset;
    }
    return true;
}

uint64_t qcow2_io_file_extent_size_hint(Qcow2Io *io)
{
    int fd = qcow2_io_get_fd(io);
    struct fsxattr attributes;

    return fd >= 0 && ioctl(fd, FS_IOC_FSGETXATTR, &attributes) == 0 ? attributes.fsx_extsize : 0;
}

bool qcow2_io_file_set_extent_size_hint(Qcow2Io *io, uint64_t bytes, GError **error)
{
    int fd = qcow2_io_get_fd(io);
    struct fsxattr attributes;

    if (fd < 0 || ioctl(fd, FS_IOC_FSGETXATTR, &attributes) < 0) {
        return qcow2_fail_system(error, fd < 0 ? ENOTSUP : errno);
    }
    attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
    attributes.fsx_extsize = (uint32_t) bytes;
    return ioctl(fd, FS_IOC_FSSETXATTR, &attributes) == 0 || qcow2_fail_system(error, errno);
}

void qcow2_io_file_set_nocow(Qcow2Io *io)
{
    int fd = qcow2_io_get_fd(io), flags;

    if (fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
}
