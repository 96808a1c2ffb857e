/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pipes, sockets, and files that a shell opened for appending: they are written from front to back. */
#include "io/file.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "util/error.h"

typedef struct StreamIo {
    Qcow2Io io;
    int fd;
    GMutex mutex;
    uint64_t position;        /* bytes written */
} StreamIo;

static bool write_all(int fd, const uint8_t *p, size_t len_bytes, GError **error)
{
    while (len_bytes > 0) {
        ssize_t n = write(fd, p, len_bytes);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            /* Somebody made the shared descriptor non-blocking. */
            struct pollfd waiting = { .fd = fd, .events = POLLOUT };
            poll(&waiting, 1, -1);
            continue;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return qcow2_fail_system(error, n < 0 ? errno : EIO);
        }
        p += n;
        len_bytes -= (size_t) n;
    }
    return true;
}

static bool stream_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    (void) io;
    (void) offset;
    (void) buffer;
    (void) len_bytes;
    return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a pipe cannot be read at an offset");
}

static bool stream_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    StreamIo *stream = (StreamIo *) io;
    bool written;

    g_mutex_lock(&stream->mutex);
    if (offset == stream->position) {
        written = write_all(stream->fd, buffer, len_bytes, error);
        stream->position += written ? len_bytes : 0;
    } else {
        written = qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                             "a pipe is written in order, and is at 0x%" PRIx64, stream->position);
    }
    g_mutex_unlock(&stream->mutex);
    return written;
}

static bool stream_flush(Qcow2Io *io, GError **error)
{
    StreamIo *stream = (StreamIo *) io;

    /* A pipe has nothing to flush, and says so with EINVAL; a file opened for appending has. */
    if (fdatasync(stream->fd) < 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) {
        return qcow2_fail_system(error, errno);
    }
    return true;
}

static bool stream_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    StreamIo *stream = (StreamIo *) io;
    (void) error;

    g_mutex_lock(&stream->mutex);
    *ret_size = stream->position;
    g_mutex_unlock(&stream->mutex);
    return true;
}

static bool stream_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    uint64_t position;

    stream_get_size(io, &position, NULL);
    return size == position || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a pipe has no size to set");
}

static void stream_close(Qcow2Io *io)
{
    StreamIo *stream = (StreamIo *) io;

    g_mutex_clear(&stream->mutex);
    close(stream->fd);
}

static const Qcow2IoOps stream_ops = {
    .protocol = "file",
    .read = stream_read,
    .write = stream_write,
    .flush = stream_flush,
    .get_size = stream_get_size,
    .truncate = stream_truncate,
    .close = stream_close,
};

Qcow2Io *qcow2_file_stream_new(int fd, const char *name, bool writable)
{
    StreamIo *stream = g_new0(StreamIo, 1);

    qcow2_io_init(&stream->io, &stream_ops, name, writable);
    stream->fd = fd;
    g_mutex_init(&stream->mutex);
    return &stream->io;
}
