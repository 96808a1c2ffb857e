/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Regular files and block devices: opening, reading, writing, flushing. */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

bool qcow2_file_read_fd(int fd, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    uint8_t *p = buffer;

    while (len_bytes > 0) {
        ssize_t n = pread(fd, p, len_bytes, (off_t) offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return qcow2_fail_system(error, errno);
        }
        if (n == 0) {
            memset(p, 0, len_bytes);
            return true;
        }
        p += n;
        offset += (uint64_t) n;
        len_bytes -= (size_t) n;
    }
    return true;
}

bool qcow2_file_write_fd(int fd, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    const uint8_t *p = buffer;

    while (len_bytes > 0) {
        ssize_t n = pwrite(fd, p, len_bytes, (off_t) offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return qcow2_fail_system(error, n < 0 ? errno : EIO);
        }
        p += n;
        offset += (uint64_t) n;
        len_bytes -= (size_t) n;
    }
    return true;
}

static bool file_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;

    return file->direct_fd >= 0 ? qcow2_file_direct_read(file, offset, buffer, len_bytes, error)
                                : qcow2_file_read_fd(file->fd, offset, buffer, len_bytes, error);
}

/*
 * The kernel reports a lost write to one fsync() only and then takes the pages as clean: a later flush
 * that succeeds says nothing, so it is not tried.
 */
static bool flush_file(Qcow2FileIo *file, GError **error)
{
    int result;

    if (g_atomic_int_get(&file->flush_failed)) {
        return qcow2_fail(error, QCOW2_ERROR_IO, "an earlier flush has failed");
    }
    do {
        result = fdatasync(file->fd);
    } while (result < 0 && errno == EINTR);
    if (result < 0) {
        int errnum = errno;
        g_atomic_int_set(&file->flush_failed, 1);
        return qcow2_fail_system(error, errnum);
    }
    return true;
}

static bool file_flush(Qcow2Io *io, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;

    return file->cache == QCOW2_CACHE_UNSAFE || flush_file(file, error);
}

bool qcow2_file_after_write(Qcow2FileIo *file, GError **error)
{
    bool through = file->cache == QCOW2_CACHE_WRITETHROUGH || file->cache == QCOW2_CACHE_DIRECTSYNC;

    return !through || flush_file(file, error);
}

static bool file_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    bool written = file->direct_fd >= 0 ? qcow2_file_direct_write(file, offset, buffer, len_bytes, error)
                                        : qcow2_file_write_fd(file->fd, offset, buffer, len_bytes, error);

    return written && qcow2_file_after_write(file, error);
}

bool qcow2_file_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    struct stat status;

    if (file->is_device) {
        return ioctl(file->fd, BLKGETSIZE64, ret_size) == 0 || qcow2_fail_system(error, errno);
    }
    if (fstat(file->fd, &status) < 0) {
        return qcow2_fail_system(error, errno);
    }
    *ret_size = (uint64_t) status.st_size;
    return true;
}

/* The times of a block device's name do not move when its contents are written, so nothing is known. */
static bool file_identify(Qcow2Io *io, Qcow2IoIdentity *ret, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    struct stat status;

    if (fstat(file->fd, &status) < 0) {
        return qcow2_fail_errno(error, errno, "identify the file");
    }
    *ret = (Qcow2IoIdentity) {
        .known = !file->is_device,
        .device = status.st_dev,
        .inode = status.st_ino,
        .size = (uint64_t) status.st_size,
        .mtime_sec = status.st_mtim.tv_sec,
        .mtime_nsec = status.st_mtim.tv_nsec,
        .ctime_sec = status.st_ctim.tv_sec,
        .ctime_nsec = status.st_ctim.tv_nsec,
    };
    return true;
}

static Qcow2Io *file_reopen(Qcow2Io *io, GError **error)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    struct stat by_fd, by_name;

    if (!file->has_path) {
        return qcow2_io_ref(io);
    }
    bool named = stat(io->name, &by_name) == 0;
    if ((!named && errno != ENOENT) || fstat(file->fd, &by_fd) < 0) {
        qcow2_fail_errno(error, errno, "look at the file again");
        return NULL;
    }
    if (!named || by_fd.st_dev != by_name.st_dev || by_fd.st_ino != by_name.st_ino) {
        qcow2_fail(error, QCOW2_ERROR_CHANGED, "the file was replaced by another or removed");
        return NULL;
    }
    return qcow2_io_ref(io);
}

static bool file_get_actual_size(Qcow2Io *io, uint64_t *ret_bytes)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;
    struct stat status;

    if (fstat(file->fd, &status) < 0) {
        return false;
    }
    *ret_bytes = (uint64_t) status.st_blocks * 512;
    return true;
}

static int file_get_fd(Qcow2Io *io)
{
    return ((Qcow2FileIo *) io)->fd;
}

static void file_close(Qcow2Io *io)
{
    Qcow2FileIo *file = (Qcow2FileIo *) io;

    if (file->direct_fd >= 0) {
        close(file->direct_fd);
    }
    close(file->fd);
}

#define FILE_CALLS                                  \
    .read = file_read,                              \
    .write = file_write,                            \
    .flush = file_flush,                            \
    .get_size = qcow2_file_get_size,                \
    .truncate = qcow2_file_truncate,                \
    .zero = qcow2_file_zero,                        \
    .identify = file_identify,                      \
    .has_writer = qcow2_file_has_writer,            \
    .reopen = file_reopen,                          \
    .get_actual_size = file_get_actual_size,        \
    .get_fd = file_get_fd,                          \
    .close = file_close

static const Qcow2IoOps file_ops = {
    .protocol = "file",
    FILE_CALLS,
    .extent = qcow2_file_extent,
    .clone_from = qcow2_file_clone_from,
    .copy_from = qcow2_file_copy_from,
    .start_writeback = qcow2_file_start_writeback,
    .start_reading = qcow2_file_start_reading,
};

static const Qcow2IoOps device_ops = {
    .protocol = "host_device",
    FILE_CALLS,
};

/* Takes @fd over. */
static Qcow2FileIo *file_new(int fd, const char *name, bool writable, Qcow2Cache cache, bool is_device)
{
    Qcow2FileIo *file = g_new0(Qcow2FileIo, 1);

    qcow2_io_init(&file->io, is_device ? &device_ops : &file_ops, name, writable);
    file->fd = fd;
    file->direct_fd = -1;
    file->cache = cache;
    file->is_device = is_device;
    return file;
}

static bool check_type(mode_t mode, GError **error)
{
    if (S_ISREG(mode) || S_ISBLK(mode)) {
        return true;
    }
    return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "it is %s, not a file or block device",
                      S_ISDIR(mode) ? "a folder" : S_ISFIFO(mode) ? "a pipe"
                      : S_ISSOCK(mode) ? "a socket" : "a character device");
}

/* The type is looked at before opening as well: opening a pipe waits, opening some devices acts. */
static int open_file(const char *path, const Qcow2FileOptions *options, bool *ret_is_device, GError **error)
{
    int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (options->writable ? O_RDWR : O_RDONLY)
              | (options->create_exclusive ? O_CREAT | O_EXCL : 0);
    struct stat status;

    if (!options->create_exclusive && stat(path, &status) == 0 && !check_type(status.st_mode, error)) {
        return -1;
    }
    int fd = open(path, flags, 0666);
    if (fd < 0 && errno == EEXIST) {
        qcow2_fail(error, QCOW2_ERROR_EXISTS, "the file exists already");
        return -1;
    }
    if (fd < 0 || fstat(fd, &status) < 0 || fcntl(fd, F_SETFL, flags & O_ACCMODE) < 0) {
        qcow2_fail_errno(error, errno, "could not open");
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    if (!check_type(status.st_mode, error)) {
        close(fd);
        return -1;
    }
    *ret_is_device = S_ISBLK(status.st_mode);
    return fd;
}

Qcow2Io *qcow2_io_file_open(const char *path, const Qcow2FileOptions *options, GError **error)
{
    bool direct = options->cache == QCOW2_CACHE_NONE || options->cache == QCOW2_CACHE_DIRECTSYNC;
    bool is_device;
    int fd = open_file(path, options, &is_device, error);

    if (fd < 0) {
        return NULL;
    }
    Qcow2FileIo *file = file_new(fd, path, options->writable, options->cache, is_device);
    g_autoptr(Qcow2Io) io = &file->io;
    file->has_path = true;
    if (options->lock && !qcow2_io_file_lock(io, options->used, options->shared, error)) {
        return NULL;
    }
    if (direct && !qcow2_file_direct_open(file, path, error)) {
        return NULL;
    }
    return g_steal_pointer(&io);
}

/* Offsets do not mean what the caller thinks when the descriptor appends or is past its start. */
static bool is_stream(int fd, mode_t mode)
{
    return (!S_ISREG(mode) && !S_ISBLK(mode))
        || (fcntl(fd, F_GETFL) & O_APPEND)
        || lseek(fd, 0, SEEK_CUR) != 0;
}

Qcow2Io *qcow2_io_file_from_fd(int fd, const char *name, bool writable)
{
    struct stat status = { 0 };

    if (fstat(fd, &status) < 0 || is_stream(fd, status.st_mode)) {
        return qcow2_file_stream_new(fd, name, writable);
    }
    return &file_new(fd, name, writable, QCOW2_CACHE_WRITEBACK, S_ISBLK(status.st_mode))->io;
}
