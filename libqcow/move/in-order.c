/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/in-order.h"

#include "util/error.h"

#define ZERO_CHUNK 65536u

typedef struct InOrderIo {
    Qcow2Io io;
    Qcow2Io *below;
    GChecksum *digest;
    uint64_t position;
} InOrderIo;

static bool append(InOrderIo *self, const void *buffer, size_t len_bytes, GError **error)
{
    g_checksum_update(self->digest, buffer, (gssize)len_bytes);
    if (!qcow2_io_write(self->below, self->position, buffer, len_bytes, error)) {
        return false;
    }
    self->position += len_bytes;
    return true;
}

static bool fill(InOrderIo *self, uint64_t until, GError **error)
{
    static const uint8_t zeros[ZERO_CHUNK];

    while (self->position < until) {
        if (!append(self, zeros, MIN(ZERO_CHUNK, until - self->position), error)) {
            return false;
        }
    }
    return true;
}

static bool in_order_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    (void)io, (void)offset, (void)buffer, (void)len_bytes;
    return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "what was written to a pipe cannot be read back");
}

static bool in_order_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    InOrderIo *self = (InOrderIo *)io;

    if (offset < self->position) {
        return qcow2_fail(error, QCOW2_ERROR_FAILED, "0x%" PRIx64 " was passed already", offset);
    }
    return fill(self, offset, error) && append(self, buffer, len_bytes, error);
}

static bool in_order_flush(Qcow2Io *io, GError **error)
{
    return qcow2_io_flush(((InOrderIo *)io)->below, error);
}

static bool in_order_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    (void)error;
    *ret_size = ((InOrderIo *)io)->position;
    return true;
}

static bool in_order_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    return fill((InOrderIo *)io, size, error);
}

static void in_order_close(Qcow2Io *io)
{
    InOrderIo *self = (InOrderIo *)io;

    g_checksum_free(self->digest);
    qcow2_io_unref(self->below);
}

static const Qcow2IoOps in_order_ops = {
    .protocol = "pipe",
    .read = in_order_read,
    .write = in_order_write,
    .flush = in_order_flush,
    .get_size = in_order_get_size,
    .truncate = in_order_truncate,
    .close = in_order_close,
};

Qcow2Io *qcow2_io_in_order_new(Qcow2Io *below)
{
    InOrderIo *self = g_new0(InOrderIo, 1);

    qcow2_io_init(&self->io, &in_order_ops, below->name, true);
    self->below = qcow2_io_ref(below);
    self->digest = g_checksum_new(G_CHECKSUM_SHA256);
    return &self->io;
}

bool qcow2_io_in_order_finish(Qcow2Io *io, uint64_t end, uint8_t ret_digest[32], GError **error)
{
    InOrderIo *self = (InOrderIo *)io;
    gsize len = 32;

    if (!fill(self, end, error)) {
        return false;
    }
    g_autoptr(GChecksum) digest = g_checksum_copy(self->digest);
    g_checksum_get_digest(digest, ret_digest, &len);
    return true;
}
