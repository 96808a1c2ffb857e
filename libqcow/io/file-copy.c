/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes that the kernel moves from file to file. */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/error.h"

#define COPY_CHUNK (64 * 1024)
#define READAHEAD_STEP (UINT64_C(1) << 20)
#define SHARE_UNIT 4096               /* the block size of the file systems that share extents */

/* Errors that mean "not with these two files, or not with these offsets", before anything was written. */
static bool means_impossible(int errnum)
{
    switch (errnum) {
    case EXDEV:
    case EINVAL:
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOTTY:
    case EBADF:
    case EPERM:
    case ETXTBSY:
        return true;
    default:
        return false;
    }
}

static Qcow2CopyOutcome fail_copy(int errnum, GError **error)
{
    qcow2_fail_system(error, errnum);
    return QCOW2_COPY_FAILED;
}

static Qcow2CopyOutcome after_copy(Qcow2FileIo *file, GError **error)
{
    return qcow2_file_after_write(file, error) ? QCOW2_COPY_DONE : QCOW2_COPY_FAILED;
}

/* The descriptor of @source when it is a regular file; others give no bytes to the calls used here. */
static int get_source_fd(Qcow2Io *source)
{
    int fd = qcow2_io_get_fd(source);
    struct stat status;

    return fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) ? fd : -1;
}

Qcow2CopyOutcome qcow2_file_clone_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                       uint64_t len_bytes, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    struct file_clone_range range = {
        .src_fd = get_source_fd(source),
        .src_offset = source_offset,
        .src_length = len_bytes,
        .dest_offset = offset,
    };
    int result;

    if (range.src_fd < 0) {
        return QCOW2_COPY_IMPOSSIBLE;
    }
    do {
        result = ioctl(file->fd, FICLONERANGE, &range);
    } while (result < 0 && errno == EINTR);
    if (result < 0) {
        return means_impossible(errno) ? QCOW2_COPY_IMPOSSIBLE : fail_copy(errno, error);
    }
    return after_copy(file, error);
}

/* Where the file itself is: a name can be a link to another file system. */
static char *folder_of(Qcow2Io *io)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", qcow2_io_get_fd(io));
    g_autofree char *path = g_file_read_link(link, NULL);

    return g_path_get_dirname(path ? path : io->name);
}

bool qcow2_io_file_may_share(Qcow2Io *io, Qcow2Io *source)
{
    g_autofree char *folder = folder_of(io);
    struct file_clone_range range = { .src_fd = get_source_fd(source), .src_length = SHARE_UNIT };

    if (range.src_fd < 0 || qcow2_io_get_fd(io) < 0) {
        return false;
    }
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        return true;
    }
    bool can = ioctl(fd, FICLONERANGE, &range) == 0 || !means_impossible(errno);
    close(fd);
    return can;
}

/*
 * The kernel copies nothing more: the source ends here, and reads as zeros from here on. Or it only says
 * so, as some kernels do over some file systems; reading tells.
 */
static Qcow2CopyOutcome copy_rest(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                  uint64_t len_bytes, GError **error)
{
    g_autofree void *buffer = g_malloc(MIN(len_bytes, COPY_CHUNK));

    while (len_bytes > 0) {
        size_t chunk = MIN(len_bytes, COPY_CHUNK);
        if (!qcow2_io_read(source, source_offset, buffer, chunk, error)
            || !io->ops->write(io, offset, buffer, chunk, error)) {
            return QCOW2_COPY_FAILED;
        }
        offset += chunk;
        source_offset += chunk;
        len_bytes -= chunk;
    }
    return QCOW2_COPY_DONE;
}

Qcow2CopyOutcome qcow2_file_copy_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                      uint64_t len_bytes, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    int source_fd = get_source_fd(source);
    off_t in = (off_t) source_offset;
    off_t out = (off_t) offset;
    uint64_t left = len_bytes;

    if (source_fd < 0) {
        return QCOW2_COPY_IMPOSSIBLE;
    }
    while (left > 0) {
        ssize_t n = copy_file_range(source_fd, &in, file->fd, &out, MIN(left, SSIZE_MAX), 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            bool untouched = left == len_bytes;
            return untouched && means_impossible(errno) ? QCOW2_COPY_IMPOSSIBLE : fail_copy(errno, error);
        }
        if (n == 0) {
            return left == len_bytes ? QCOW2_COPY_IMPOSSIBLE
                                     : copy_rest(io, (uint64_t) out, source, (uint64_t) in, left, error);
        }
        left -= (uint64_t) n;
    }
    return after_copy(file, error);
}

void qcow2_file_start_writeback(Qcow2Io *io, uint64_t offset, uint64_t len_bytes)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;

    if (file->cache == QCOW2_CACHE_WRITEBACK) {
        sync_file_range(file->fd, (off_t) offset, (off_t) len_bytes, SYNC_FILE_RANGE_WRITE);
    }
}

/* A sample: a range of which one byte is in the page cache is taken to be there whole. */
static bool is_cached(int fd, uint64_t offset)
{
    uint8_t byte;
    struct iovec one = { &byte, 1 };

    return preadv2(fd, &one, 1, (off_t) offset, RWF_NOWAIT) == 1;
}

/* To see that all is there the kernel looks at every page, which takes an eighth of the time of copying them.
 */
bool qcow2_file_start_reading(Qcow2Io *io, uint64_t offset, uint64_t len_bytes)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    uint64_t end = offset + len_bytes;
    bool started = false;

    for (uint64_t len; file->direct_fd < 0 && offset < end; offset += len) {
        len = MIN(READAHEAD_STEP, end - offset);
        if (!is_cached(file->fd, offset)) {
            posix_fadvise(file->fd, (off_t) offset, (off_t) len, POSIX_FADV_WILLNEED);
            started = true;
        }
    }
    return started;
}
