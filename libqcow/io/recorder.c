/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The list says what a crash may leave, so its order is the careful one where calls overlap: a write
 * enters when it has ended, a flush takes the place where it began, since it vouches only for writes that
 * had ended by then.
 */
#include "io/backends.h"
#include "io/stack.h"

typedef struct Recording {
    gint ref_count;
    GMutex mutex;
    GArray *records;          /* Qcow2Record */
    unsigned n_places;
} Recording;

typedef struct RecorderIo {
    Qcow2StackIo stack;
    Recording *recording;
    unsigned place;
} RecorderIo;

static void add_record(Qcow2Io *io, Qcow2Record record)
{
    RecorderIo *recorder = (RecorderIo *) io;
    Recording *recording = recorder->recording;

    record.place = recorder->place;
    g_mutex_lock(&recording->mutex);
    g_array_append_val(recording->records, record);
    g_mutex_unlock(&recording->mutex);
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
    Recording *recording = recorder->recording;
    Qcow2Io *below = qcow2_stack_below(io);
    Qcow2Record record = { .kind = QCOW2_RECORD_FLUSH, .place = recorder->place };

    g_mutex_lock(&recording->mutex);
    guint begin = recording->records->len;
    g_mutex_unlock(&recording->mutex);

    if (!below->ops->flush(below, error)) {
        return false;
    }
    g_mutex_lock(&recording->mutex);
    g_array_insert_val(recording->records, begin, record);
    g_mutex_unlock(&recording->mutex);
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

static void unref_recording(Recording *recording)
{
    if (g_atomic_int_dec_and_test(&recording->ref_count)) {
        g_mutex_clear(&recording->mutex);
        g_array_unref(recording->records);
        g_free(recording);
    }
}

static void recorder_close(Qcow2Io *io)
{
    unref_recording(((RecorderIo *) io)->recording);
    qcow2_stack_close(io);
}

static Qcow2Io *new_recorder(Qcow2Io *below, Recording *recording)
{
    RecorderIo *recorder = g_new0(RecorderIo, 1);
    Qcow2IoOps *ops = &recorder->stack.ops;

    qcow2_stack_init(&recorder->stack, below);
    recorder->recording = recording;
    recorder->place = recording->n_places++;
    ops->write = recorder_write;
    ops->flush = recorder_flush;
    ops->truncate = recorder_truncate;
    ops->zero = ops->zero ? recorder_zero : NULL;
    ops->clone_from = NULL;
    ops->copy_from = NULL;
    ops->close = recorder_close;
    return &recorder->stack.io;
}

Qcow2Io *qcow2_io_recorder_new(Qcow2Io *below)
{
    Recording *recording = g_new0(Recording, 1);

    recording->ref_count = 1;
    g_mutex_init(&recording->mutex);
    recording->records = g_array_new(FALSE, FALSE, sizeof(Qcow2Record));
    g_array_set_clear_func(recording->records, clear_record);
    return new_recorder(below, recording);
}

Qcow2Io *qcow2_io_recorder_new_beside(Qcow2Io *below, Qcow2Io *first)
{
    Recording *recording = ((RecorderIo *) first)->recording;

    g_atomic_int_inc(&recording->ref_count);
    return new_recorder(below, recording);
}

const GArray *qcow2_io_recorder_get(Qcow2Io *io)
{
    return ((RecorderIo *) io)->recording->records;
}
