/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The list says what a crash may leave, so its order is the careful one where calls overlap: a write
 * enters when it has ended, a flush takes the place where it began, since it vouches only for writes that
 * had ended by then.
 */
#include "io/backends.h"
#include "io/stack.h"

typedef struct RecorderIo {
    Qcow2StackIo stack;
    GMutex mutex;
    GArray *records;          /* Qcow2Record */
} RecorderIo;

static void add_record(Qcow2Io *io, Qcow2Record record)
{
    RecorderIo *recorder = (RecorderIo *) io;

    g_mutex_lock(&recorder->mutex);
    g_array_append_val(recorder->records, record);
    g_mutex_unlock(&recorder->mutex);
}

static bool recorder_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    if (!below->ops->write(below, offset, buffer, len_bytes, error)) {
        return false;
    }
    add_record(io, (Qcow2Record) {
        .kind = QCOW2_RECORD_WRITE,
        .offset = offset,
        .len_bytes = len_bytes,
        .bytes = g_bytes_new(buffer, len_bytes),
    });
    return true;
}

static bool recorder_flush(Qcow2Io *io, GError **error)
{
    RecorderIo *recorder = (RecorderIo *) io;
    Qcow2Io *below = qcow2_stack_below(io);
    Qcow2Record record = { .kind = QCOW2_RECORD_FLUSH };

    g_mutex_lock(&recorder->mutex);
    guint begin = recorder->records->len;
    g_mutex_unlock(&recorder->mutex);

    if (!below->ops->flush(below, error)) {
        return false;
    }
    g_mutex_lock(&recorder->mutex);
    g_array_insert_val(recorder->records, begin, record);
    g_mutex_unlock(&recorder->mutex);
    return true;
}

static bool recorder_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    if (!below->ops->truncate(below, size, error)) {
        return false;
    }
    add_record(io, (Qcow2Record) { .kind = QCOW2_RECORD_TRUNCATE, .offset = size });
    return true;
}

static bool recorder_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    if (!below->ops->zero(below, offset, len_bytes, may_unmap, error)) {
        return false;
    }
    add_record(io, (Qcow2Record) { .kind = QCOW2_RECORD_ZERO, .offset = offset, .len_bytes = len_bytes });
    return true;
}

static void clear_record(void *data)
{
    g_clear_pointer(&((Qcow2Record *) data)->bytes, g_bytes_unref);
}

static void recorder_close(Qcow2Io *io)
{
    RecorderIo *recorder = (RecorderIo *) io;

    g_mutex_clear(&recorder->mutex);
    g_array_unref(recorder->records);
    qcow2_stack_close(io);
}

Qcow2Io *qcow2_io_recorder_new(Qcow2Io *below)
{
    RecorderIo *recorder = g_new0(RecorderIo, 1);
    Qcow2IoOps *ops = &recorder->stack.ops;

    qcow2_stack_init(&recorder->stack, below);
    g_mutex_init(&recorder->mutex);
    recorder->records = g_array_new(FALSE, FALSE, sizeof(Qcow2Record));
    g_array_set_clear_func(recorder->records, clear_record);
    ops->write = recorder_write;
    ops->flush = recorder_flush;
    ops->truncate = recorder_truncate;
    ops->zero = ops->zero ? recorder_zero : NULL;
    ops->clone_from = NULL;
    ops->copy_from = NULL;
    ops->close = recorder_close;
    return &recorder->stack.io;
}

const GArray *qcow2_io_recorder_get(Qcow2Io *io)
{
    return ((RecorderIo *) io)->records;
}
