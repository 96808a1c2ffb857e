/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The calls go straight to the table of the place below, not through io.c, which would check ranges and
 * prefix errors a second time.
 */
#include "io/stack.h"

static bool stack_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->read(below, offset, buffer, len_bytes, error);
}

static bool stack_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->write(below, offset, buffer, len_bytes, error);
}

static bool stack_flush(Qcow2Io *io, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->flush(below, error);
}

static bool stack_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->get_size(below, ret_size, error);
}

static bool stack_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->truncate(below, size, error);
}

static bool stack_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->zero(below, offset, len_bytes, may_unmap, error);
}

static bool stack_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret,
                         GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->extent(below, offset, len_bytes, ret, error);
}

static Qcow2CopyOutcome stack_clone_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source,
                                         uint64_t source_offset, uint64_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->clone_from(below, offset, source, source_offset, len_bytes, error);
}

static Qcow2CopyOutcome stack_copy_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                        uint64_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->copy_from(below, offset, source, source_offset, len_bytes, error);
}

static void stack_start_writeback(Qcow2Io *io, uint64_t offset, uint64_t len_bytes)
{
    Qcow2Io *below = qcow2_stack_below(io);
    below->ops->start_writeback(below, offset, len_bytes);
}

static bool stack_identify(Qcow2Io *io, Qcow2IoIdentity *ret, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->identify(below, ret, error);
}

static bool stack_start_reading(Qcow2Io *io, uint64_t offset, uint64_t len_bytes)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->start_reading(below, offset, len_bytes);
}

static bool stack_has_writer(Qcow2Io *io, bool *ret_has_writer, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->has_writer(below, ret_has_writer, error);
}

/* A new connection comes back as it is: it is made for reading once more, which nothing here watches. */
static Qcow2Io *stack_reopen(Qcow2Io *io, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    g_autoptr(Qcow2Io) reopened = below->ops->reopen(below, error);

    return reopened == below ? qcow2_io_ref(io) : g_steal_pointer(&reopened);
}

static bool stack_get_actual_size(Qcow2Io *io, uint64_t *ret_bytes)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->get_actual_size(below, ret_bytes);
}

static int stack_get_fd(Qcow2Io *io)
{
    Qcow2Io *below = qcow2_stack_below(io);
    return below->ops->get_fd(below);
}

void qcow2_stack_init(Qcow2StackIo *stack, Qcow2Io *below)
{
    const Qcow2IoOps *ops = below->ops;

    qcow2_io_init(&stack->io, &stack->ops, below->name, below->writable);
    stack->below = qcow2_io_ref(below);
    stack->ops = (Qcow2IoOps) {
        .protocol = ops->protocol,
        .read = stack_read,
        .write = stack_write,
        .flush = stack_flush,
        .get_size = stack_get_size,
        .truncate = stack_truncate,
        .zero = ops->zero ? stack_zero : NULL,
        .extent = ops->extent ? stack_extent : NULL,
        .clone_from = ops->clone_from ? stack_clone_from : NULL,
        .copy_from = ops->copy_from ? stack_copy_from : NULL,
        .start_writeback = ops->start_writeback ? stack_start_writeback : NULL,
        .start_reading = ops->start_reading ? stack_start_reading : NULL,
        .identify = ops->identify ? stack_identify : NULL,
        .has_writer = ops->has_writer ? stack_has_writer : NULL,
        .reopen = ops->reopen ? stack_reopen : NULL,
        .get_actual_size = ops->get_actual_size ? stack_get_actual_size : NULL,
        .get_fd = ops->get_fd ? stack_get_fd : NULL,
        .close = qcow2_stack_close,
    };
}

void qcow2_stack_close(Qcow2Io *io)
{
    qcow2_io_unref(qcow2_stack_below(io));
}
