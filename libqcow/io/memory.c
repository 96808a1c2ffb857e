/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/backends.h"

#include <string.h>

#include "util/bits.h"
#include "util/error.h"

/* Writes behind this end fail as on a full disk: fuzzers make writes at any offset. */
#define MAX_SIZE (UINT64_C(1) << 30)

typedef struct MemoryIo {
    Qcow2Io io;
    GRWLock lock;
    uint8_t *bytes;        /* @capacity of them; zero from @size on */
    size_t size, capacity;
} MemoryIo;

static bool memory_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    MemoryIo *memory = (MemoryIo *) io;
    (void) error;

    g_rw_lock_reader_lock(&memory->lock);
    size_t n_there = offset < memory->size ? MIN(len_bytes, memory->size - offset) : 0;
    if (n_there > 0) {
        memcpy(buffer, memory->bytes + offset, n_there);
    }
    g_rw_lock_reader_unlock(&memory->lock);
    memset((uint8_t *) buffer + n_there, 0, len_bytes - n_there);
    return true;
}

/* The caller holds the writer lock; @size is at most MAX_SIZE. */
static bool reserve(MemoryIo *memory, size_t size, GError **error)
{
    if (size <= memory->capacity) {
        return true;
    }
    size_t capacity = MAX(size, MIN(memory->capacity * 2, MAX_SIZE));
    uint8_t *bytes = g_try_realloc(memory->bytes, capacity);
    if (!bytes) {
        return qcow2_fail_memory(error, capacity, memory->io.name);
    }
    memset(bytes + memory->capacity, 0, capacity - memory->capacity);
    memory->bytes = bytes;
    memory->capacity = capacity;
    return true;
}

static bool check_size(uint64_t size, GError **error)
{
    return size <= MAX_SIZE || qcow2_fail(error, QCOW2_ERROR_NO_SPACE, "more than 1 GiB in memory");
}

static bool memory_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    MemoryIo *memory = (MemoryIo *) io;

    if (!check_size(offset + len_bytes, error)) {
        return false;
    }
    g_rw_lock_writer_lock(&memory->lock);
    bool written = reserve(memory, offset + len_bytes, error);
    if (written) {
        memcpy(memory->bytes + offset, buffer, len_bytes);
        memory->size = MAX(memory->size, offset + len_bytes);
    }
    g_rw_lock_writer_unlock(&memory->lock);
    return written;
}

static bool memory_flush(Qcow2Io *io, GError **error)
{
    (void) io;
    (void) error;
    return true;
}

static bool memory_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    MemoryIo *memory = (MemoryIo *) io;
    (void) error;

    g_rw_lock_reader_lock(&memory->lock);
    *ret_size = memory->size;
    g_rw_lock_reader_unlock(&memory->lock);
    return true;
}

static bool memory_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    MemoryIo *memory = (MemoryIo *) io;

    if (!check_size(size, error)) {
        return false;
    }
    g_rw_lock_writer_lock(&memory->lock);
    bool resized = reserve(memory, size, error);
    if (resized) {
        if (size < memory->size) {
            memset(memory->bytes + size, 0, memory->size - size);
        }
        memory->size = size;
    }
    g_rw_lock_writer_unlock(&memory->lock);
    return resized;
}

static void memory_close(Qcow2Io *io)
{
    MemoryIo *memory = (MemoryIo *) io;

    g_rw_lock_clear(&memory->lock);
    g_free(memory->bytes);
}

static const Qcow2IoOps memory_ops = {
    .protocol = "memory",
    .read = memory_read,
    .write = memory_write,
    .flush = memory_flush,
    .get_size = memory_get_size,
    .truncate = memory_truncate,
    .close = memory_close,
};

Qcow2Io *qcow2_io_memory_new(const void *bytes, size_t len_bytes, const char *name, bool writable)
{
    MemoryIo *memory = g_new0(MemoryIo, 1);

    qcow2_io_init(&memory->io, &memory_ops, name, writable);
    g_rw_lock_init(&memory->lock);
    memory->bytes = g_malloc0(len_bytes);
    memory->size = len_bytes;
    memory->capacity = len_bytes;
    if (bytes && len_bytes > 0) {
        memcpy(memory->bytes, bytes, len_bytes);
    }
    return &memory->io;
}

const uint8_t *qcow2_io_memory_peek(Qcow2Io *io, size_t *ret_len_bytes)
{
    MemoryIo *memory = (MemoryIo *) io;

    *ret_len_bytes = memory->size;
    return memory->bytes;
}
