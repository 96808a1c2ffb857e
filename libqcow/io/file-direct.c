/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Direct I/O, for the cache modes none and directsync. It wants offsets, lengths and buffers that are
 * aligned; callers have none of this to care about:
 *
 *     read     whole blocks around the range go through an aligned buffer
 *     write    whole blocks inside the range go to the descriptor with O_DIRECT; the ragged edges go to
 *              the one without, since the kernel merges them into their pages under its own locks, while
 *              read-modify-write done here would undo what another thread writes beside them
 *
 * The kernel writes a page back before a direct read of it, and drops it after a direct write.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/error.h"

#define MIN_ALIGN  4096
#define MAX_BOUNCE (1024 * 1024)

static size_t find_alignment(const Qcow2FileIo *file)
{
    int sector_size;

    if (file->is_device && ioctl(file->fd, BLKSSZGET, &sector_size) == 0 && sector_size > MIN_ALIGN) {
        return (size_t) sector_size;
    }
    return MIN_ALIGN;
}

bool qcow2_file_direct_open(Qcow2FileIo *file, const char *path, GError **error)
{
    struct stat buffered, direct;

    file->direct_fd = open(path, O_CLOEXEC | O_DIRECT | (file->io.writable ? O_RDWR : O_RDONLY));
    if (file->direct_fd < 0 && errno == EINVAL) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "the file system has no direct I/O, which cache modes none and directsync need");
    }
    if (file->direct_fd < 0 || fstat(file->fd, &buffered) < 0 || fstat(file->direct_fd, &direct) < 0) {
        return qcow2_fail_errno(error, errno, "could not open for direct I/O");
    }
    if (buffered.st_dev != direct.st_dev || buffered.st_ino != direct.st_ino) {
        return qcow2_fail(error, QCOW2_ERROR_CHANGED, "the file was replaced by another while it was opened");
    }
    file->direct_align = find_alignment(file);
    return true;
}

static bool is_aligned(const Qcow2FileIo *file, const void *buffer)
{
    return ((uintptr_t) buffer & (file->direct_align - 1)) == 0;
}

static void *new_bounce(const Qcow2FileIo *file, size_t len_bytes, GError **error)
{
    void *bounce = aligned_alloc(file->direct_align, len_bytes);

    if (!bounce) {
        qcow2_fail_memory(error, len_bytes, "direct I/O");
    }
    return bounce;
}

/*
 * A direct read that ends inside a block stops there: what follows is past the end, unless the file grew
 * since. Then the rest starts at an odd offset, which the other descriptor reads.
 */
static bool read_blocks(const Qcow2FileIo *file, uint64_t offset, void *buffer, size_t len_bytes,
                        GError **error)
{
    uint8_t *p = buffer;
    size_t done = 0;

    while (done < len_bytes && done % file->direct_align == 0) {
        ssize_t n = pread(file->direct_fd, p + done, len_bytes - done, (off_t) (offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return qcow2_fail_system(error, errno);
        }
        if (n == 0) {
            memset(p + done, 0, len_bytes - done);
            return true;
        }
        done += (size_t) n;
    }
    return qcow2_file_read_fd(file->fd, offset + done, p + done, len_bytes - done, error);
}

static bool read_bounced(const Qcow2FileIo *file, uint64_t offset, void *buffer, size_t len_bytes,
                         GError **error)
{
    uint64_t start = qcow2_align_down(offset, file->direct_align);
    uint64_t end = qcow2_align_up(offset + len_bytes, file->direct_align);
    size_t len_bounce = MIN(end - start, MAX_BOUNCE);
    void *bounce = new_bounce(file, len_bounce, error);
    bool ok = bounce != NULL;

    for (uint64_t at = start; ok && at < end; at += len_bounce) {
        size_t len_blocks = MIN(end - at, len_bounce);
        uint64_t from = MAX(at, offset);
        uint64_t to = MIN(at + len_blocks, offset + len_bytes);

        ok = read_blocks(file, at, bounce, len_blocks, error);
        if (ok) {
            memcpy((uint8_t *) buffer + (from - offset), (uint8_t *) bounce + (from - at), to - from);
        }
    }
    free(bounce);
    return ok;
}

bool qcow2_file_direct_read(Qcow2FileIo *file, uint64_t offset, void *buffer, size_t len_bytes,
                            GError **error)
{
    bool aligned = is_aligned(file, buffer) && ((offset | len_bytes) & (file->direct_align - 1)) == 0;

    return aligned ? read_blocks(file, offset, buffer, len_bytes, error)
                   : read_bounced(file, offset, buffer, len_bytes, error);
}

/* A short count leaves a rest that may start inside a block: the other descriptor writes it, or fails. */
static bool write_blocks(const Qcow2FileIo *file, uint64_t offset, const void *buffer, size_t len_bytes,
                         GError **error)
{
    const uint8_t *p = buffer;
    size_t done = 0;

    while (done < len_bytes && done % file->direct_align == 0) {
        ssize_t n = pwrite(file->direct_fd, p + done, len_bytes - done, (off_t) (offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return qcow2_fail_system(error, n < 0 ? errno : EIO);
        }
        done += (size_t) n;
    }
    return qcow2_file_write_fd(file->fd, offset + done, p + done, len_bytes - done, error);
}

static bool write_bounced(const Qcow2FileIo *file, uint64_t offset, const void *buffer, size_t len_bytes,
                          GError **error)
{
    size_t len_bounce = MIN(len_bytes, MAX_BOUNCE);
    void *bounce = new_bounce(file, len_bounce, error);
    bool ok = bounce != NULL;

    for (size_t done = 0; ok && done < len_bytes; done += len_bounce) {
        size_t len_blocks = MIN(len_bytes - done, len_bounce);

        memcpy(bounce, (const uint8_t *) buffer + done, len_blocks);
        ok = write_blocks(file, offset + done, bounce, len_blocks, error);
    }
    free(bounce);
    return ok;
}

bool qcow2_file_direct_write(Qcow2FileIo *file, uint64_t offset, const void *buffer, size_t len_bytes,
                             GError **error)
{
    const uint8_t *bytes = buffer;
    uint64_t end = offset + len_bytes;
    uint64_t first = qcow2_align_up(offset, file->direct_align);
    uint64_t last = qcow2_align_down(end, file->direct_align);

    if (first >= last) {
        return qcow2_file_write_fd(file->fd, offset, buffer, len_bytes, error);
    }
    const uint8_t *blocks = bytes + (first - offset);
    bool written = is_aligned(file, blocks) ? write_blocks(file, first, blocks, last - first, error)
                                            : write_bounced(file, first, blocks, last - first, error);
    return written
        && qcow2_file_write_fd(file->fd, offset, bytes, first - offset, error)
        && qcow2_file_write_fd(file->fd, last, bytes + (last - offset), end - last, error);
}
