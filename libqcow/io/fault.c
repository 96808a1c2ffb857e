/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/backends.h"
#include "io/stack.h"
#include "util/error.h"

typedef struct FaultIo {
    Qcow2StackIo stack;
    Qcow2FaultCalls calls;
    uint64_t n;
    int errnum;
    bool short_len;
    GMutex mutex;
    uint64_t count;           /* of chosen calls */
} FaultIo;

static bool is_the_call(Qcow2Io *io, Qcow2FaultCalls call)
{
    FaultIo *fault = (FaultIo *) io;

    if (!(fault->calls & call)) {
        return false;
    }
    g_mutex_lock(&fault->mutex);
    bool found = fault->count++ == fault->n;
    g_mutex_unlock(&fault->mutex);
    return found;
}

static bool fail(Qcow2Io *io, GError **error)
{
    return qcow2_fail_system(error, ((FaultIo *) io)->errnum);
}

static bool fault_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    return is_the_call(io, QCOW2_FAULT_READ) ? fail(io, error)
                                             : below->ops->read(below, offset, buffer, len_bytes, error);
}

static bool fault_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    if (!is_the_call(io, QCOW2_FAULT_WRITE)) {
        return below->ops->write(below, offset, buffer, len_bytes, error);
    }
    if (((FaultIo *) io)->short_len && len_bytes > 1
        && !below->ops->write(below, offset, buffer, len_bytes / 2, error)) {
        return false;
    }
    return fail(io, error);
}

static bool fault_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    if (!is_the_call(io, QCOW2_FAULT_WRITE)) {
        return below->ops->zero(below, offset, len_bytes, may_unmap, error);
    }
    if (((FaultIo *) io)->short_len && len_bytes > 1
        && !below->ops->zero(below, offset, len_bytes / 2, may_unmap, error)) {
        return false;
    }
    return fail(io, error);
}

static bool fault_flush(Qcow2Io *io, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    return is_the_call(io, QCOW2_FAULT_FLUSH) ? fail(io, error) : below->ops->flush(below, error);
}

static bool fault_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    return is_the_call(io, QCOW2_FAULT_TRUNCATE) ? fail(io, error) : below->ops->truncate(below, size, error);
}

static void fault_close(Qcow2Io *io)
{
    g_mutex_clear(&((FaultIo *) io)->mutex);
    qcow2_stack_close(io);
}

Qcow2Io *qcow2_io_fault_new(Qcow2Io *below, Qcow2FaultCalls calls, uint64_t n, int errnum, bool short_len)
{
    FaultIo *fault = g_new0(FaultIo, 1);
    Qcow2IoOps *ops = &fault->stack.ops;

    qcow2_stack_init(&fault->stack, below);
    fault->calls = calls;
    fault->n = n;
    fault->errnum = errnum;
    fault->short_len = short_len;
    g_mutex_init(&fault->mutex);
    ops->read = fault_read;
    ops->write = fault_write;
    ops->zero = ops->zero ? fault_zero : NULL;
    ops->flush = fault_flush;
    ops->truncate = fault_truncate;
    /* The kernel would copy past the calls above: into this place, and out of it through its descriptor. */
    ops->clone_from = NULL;
    ops->copy_from = NULL;
    ops->get_fd = NULL;
    ops->close = fault_close;
    return &fault->stack.io;
}

uint64_t qcow2_io_fault_count(Qcow2Io *io)
{
    FaultIo *fault = (FaultIo *) io;

    g_mutex_lock(&fault->mutex);
    uint64_t count = fault->count;
    g_mutex_unlock(&fault->mutex);
    return count;
}
