/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/io.h"

#include <string.h>

#include "util/bits.h"
#include "util/error.h"

/* Zeros are written in pieces that stay in the processor's cache. */
#define ZERO_CHUNK (64 * 1024)

void qcow2_io_init(Qcow2Io *io, const Qcow2IoOps *ops, const char *name, bool writable)
{
    io->ops = ops;
    io->name = g_strdup(name);
    io->writable = writable;
    io->ref_count = 1;
}

Qcow2Io *qcow2_io_ref(Qcow2Io *io)
{
    g_atomic_int_inc(&io->ref_count);
    return io;
}

void qcow2_io_unref(Qcow2Io *io)
{
    if (io && g_atomic_int_dec_and_test(&io->ref_count)) {
        if (io->ops->close) {
            io->ops->close(io);
        }
        g_free(io->name);
        g_free(io);
    }
}

static bool check_range(uint64_t offset, uint64_t len_bytes, GError **error)
{
    return qcow2_range_fits(offset, len_bytes)
        || qcow2_fail(error, QCOW2_ERROR_INVALID, "the range ends past 63 bits");
}

static bool check_writable(const Qcow2Io *io, GError **error)
{
    return io->writable || qcow2_fail(error, QCOW2_ERROR_INVALID, "opened for reading only");
}

bool qcow2_io_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    if (len_bytes == 0) {
        return true;
    }
    if (!check_range(offset, len_bytes, error) || !io->ops->read(io, offset, buffer, len_bytes, error)) {
        g_prefix_error(error, "read %zu bytes at 0x%" PRIx64 ": ", len_bytes, offset);
        return false;
    }
    return true;
}

bool qcow2_io_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    if (len_bytes == 0) {
        return true;
    }
    if (!check_range(offset, len_bytes, error) || !check_writable(io, error)
        || !io->ops->write(io, offset, buffer, len_bytes, error)) {
        g_prefix_error(error, "write %zu bytes at 0x%" PRIx64 ": ", len_bytes, offset);
        return false;
    }
    return true;
}

bool qcow2_io_write_named(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    if (!qcow2_io_write(io, offset, buffer, len_bytes, error)) {
        g_prefix_error(error, "'%s': ", io->name);
        return false;
    }
    return true;
}

bool qcow2_io_flush(Qcow2Io *io, GError **error)
{
    if (!io->writable) {
        return true;
    }
    if (!io->ops->flush(io, error)) {
        g_prefix_error(error, "flush: ");
        return false;
    }
    return true;
}

bool qcow2_io_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    if (!io->ops->get_size(io, ret_size, error)) {
        g_prefix_error(error, "get the size: ");
        return false;
    }
    return true;
}

bool qcow2_io_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    if (!check_range(size, 0, error) || !check_writable(io, error) || !io->ops->truncate(io, size, error)) {
        g_prefix_error(error, "set the size to %" PRIu64 " bytes: ", size);
        return false;
    }
    return true;
}

static bool write_zeros(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, GError **error)
{
    g_autofree void *zeros = g_malloc0(MIN(len_bytes, ZERO_CHUNK));

    while (len_bytes > 0) {
        size_t chunk = MIN(len_bytes, ZERO_CHUNK);
        if (!io->ops->write(io, offset, zeros, chunk, error)) {
            return false;
        }
        offset += chunk;
        len_bytes -= chunk;
    }
    return true;
}

bool qcow2_io_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    bool zeroed;

    if (len_bytes == 0) {
        return true;
    }
    zeroed = check_range(offset, len_bytes, error) && check_writable(io, error);
    if (zeroed) {
        zeroed = io->ops->zero ? io->ops->zero(io, offset, len_bytes, may_unmap, error)
                               : write_zeros(io, offset, len_bytes, error);
    }
    if (!zeroed) {
        g_prefix_error(error, "zero %" PRIu64 " bytes at 0x%" PRIx64 ": ", len_bytes, offset);
    }
    return zeroed;
}

bool qcow2_io_extent_by_size(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret,
                             GError **error)
{
    uint64_t size;

    if (!io->ops->get_size(io, &size, error)) {
        return false;
    }
    *ret = offset < size ? (Qcow2IoExtent) { .len_bytes = MIN(len_bytes, size - offset) }
                         : (Qcow2IoExtent) { .len_bytes = len_bytes, .zero = true, .hole = true };
    return true;
}

static bool find_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error)
{
    if (!check_range(offset, len_bytes, error)) {
        return false;
    }
    if (!io->ops->extent) {
        return qcow2_io_extent_by_size(io, offset, len_bytes, ret, error);
    }
    if (!io->ops->extent(io, offset, len_bytes, ret, error)) {
        return false;
    }
    ret->len_bytes = MIN(ret->len_bytes, len_bytes);
    return true;
}

bool qcow2_io_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error)
{
    if (!find_extent(io, offset, len_bytes, ret, error)) {
        g_prefix_error(error, "find the extent at 0x%" PRIx64 ": ", offset);
        return false;
    }
    return true;
}

/* What clone and copy have in common; @call is NULL for a back end that has no such call. */
static Qcow2CopyOutcome transfer(Qcow2CopyOutcome (*call)(Qcow2Io *, uint64_t, Qcow2Io *, uint64_t, uint64_t,
                                                          GError **),
                                 const char *verb, Qcow2Io *io, uint64_t offset, Qcow2Io *source,
                                 uint64_t source_offset, uint64_t len_bytes, GError **error)
{
    Qcow2CopyOutcome outcome = QCOW2_COPY_FAILED;

    if (!call) {
        return QCOW2_COPY_IMPOSSIBLE;
    }
    if (len_bytes == 0) {
        return QCOW2_COPY_DONE;
    }
    if (check_range(offset, len_bytes, error) && check_range(source_offset, len_bytes, error)
        && check_writable(io, error)) {
        outcome = call(io, offset, source, source_offset, len_bytes, error);
    }
    if (outcome == QCOW2_COPY_FAILED) {
        g_prefix_error(error, "%s %" PRIu64 " bytes from 0x%" PRIx64 " of '%s' to 0x%" PRIx64 ": ",
                       verb, len_bytes, source_offset, source->name, offset);
    }
    return outcome;
}

Qcow2CopyOutcome qcow2_io_clone_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                     uint64_t len_bytes, GError **error)
{
    return transfer(io->ops->clone_from, "share", io, offset, source, source_offset, len_bytes, error);
}

Qcow2CopyOutcome qcow2_io_copy_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                    uint64_t len_bytes, GError **error)
{
    return transfer(io->ops->copy_from, "copy", io, offset, source, source_offset, len_bytes, error);
}

void qcow2_io_start_writeback(Qcow2Io *io, uint64_t offset, uint64_t len_bytes)
{
    if (io->ops->start_writeback && len_bytes > 0 && qcow2_range_fits(offset, len_bytes)) {
        io->ops->start_writeback(io, offset, len_bytes);
    }
}

bool qcow2_io_start_reading(Qcow2Io *io, uint64_t offset, uint64_t len_bytes)
{
    return io->ops->start_reading && qcow2_range_fits(offset, len_bytes)
        && io->ops->start_reading(io, offset, len_bytes);
}

bool qcow2_io_identify(Qcow2Io *io, Qcow2IoIdentity *ret, GError **error)
{
    *ret = (Qcow2IoIdentity) { .known = false };
    return !io->ops->identify || io->ops->identify(io, ret, error);
}

bool qcow2_io_has_writer(Qcow2Io *io, bool *ret_has_writer, GError **error)
{
    *ret_has_writer = false;
    return !io->ops->has_writer || io->ops->has_writer(io, ret_has_writer, error);
}

Qcow2Io *qcow2_io_reopen(Qcow2Io *io, GError **error)
{
    return io->ops->reopen ? io->ops->reopen(io, error) : qcow2_io_ref(io);
}

bool qcow2_io_get_actual_size(Qcow2Io *io, uint64_t *ret_bytes)
{
    *ret_bytes = 0;
    return io->ops->get_actual_size && io->ops->get_actual_size(io, ret_bytes);
}

bool qcow2_io_can_grow(const Qcow2Io *io)
{
    return strcmp(io->ops->protocol, "host_device") != 0 && strcmp(io->ops->protocol, "nbd") != 0;
}

int qcow2_io_get_fd(Qcow2Io *io)
{
    return io->ops->get_fd ? io->ops->get_fd(io) : -1;
}
