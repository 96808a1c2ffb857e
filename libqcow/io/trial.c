/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "io/backends.h"
#include "io/room.h"
#include "io/stack.h"
#include "util/bits.h"
#include "util/error.h"

#define PAGE        UINT64_C(4096)
#define CHUNK_PAGES 16u
#define CHUNK_SIZE  (CHUNK_PAGES * PAGE)

/* Some pages in a row; those that were written are in the scratch file. */
typedef struct Chunk {
    uint64_t index;           /* in the place; the key */
    uint64_t scratch_offset;
    uint32_t written;         /* a bit for each page */
} Chunk;

typedef struct TrialIo {
    Qcow2StackIo stack;
    Qcow2Io *scratch;
    GMutex mutex;             /* all below */
    GHashTable *chunks;       /* Chunk, by its index */
    uint64_t size, old_size, scratch_size;
    uint64_t needed, filled;  /* past the old end, and in holes before it */
    uint64_t freed, written;
    bool scratch_failed;
} TrialIo;

static TrialIo *trial_of(Qcow2Io *io)
{
    return (TrialIo *)io;
}

/* ---- Accounts ---------------------------------------------------------------------------------- */

/* Holes of the place below are counted too: writing into them allocates, unless space was set aside there. */
static void count_needed(TrialIo *trial, uint64_t offset, uint64_t len_bytes)
{
    Qcow2Io *below = trial->stack.below;

    while (len_bytes > 0) {
        Qcow2IoExtent extent = { .len_bytes = len_bytes, .hole = true };
        if (offset < trial->old_size
            && !qcow2_io_extent(below, offset, MIN(len_bytes, trial->old_size - offset), &extent, NULL)) {
            extent = (Qcow2IoExtent) { .len_bytes = len_bytes, .hole = true };
        }
        uint64_t n = MIN(extent.len_bytes, len_bytes);
        *(offset < trial->old_size ? &trial->filled : &trial->needed) += extent.hole ? n : 0;
        offset += n;
        len_bytes -= n;
    }
}

/* A device or an export does not get longer. */
static bool grow(TrialIo *trial, uint64_t end, GError **error)
{
    if (end > trial->old_size && !qcow2_io_can_grow(trial->stack.below)) {
        return qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                          "0x%" PRIx64 " bytes are needed, and it has 0x%" PRIx64, end, trial->old_size);
    }
    trial->size = MAX(trial->size, end);
    return true;
}

/* ---- Pages ------------------------------------------------------------------------------------- */

static Chunk *find_chunk(TrialIo *trial, uint64_t offset)
{
    uint64_t index = offset / CHUNK_SIZE;

    return g_hash_table_lookup(trial->chunks, &index);
}

static Chunk *get_chunk(TrialIo *trial, uint64_t offset)
{
    Chunk *chunk = find_chunk(trial, offset);

    if (!chunk) {
        chunk = g_new0(Chunk, 1);
        chunk->index = offset / CHUNK_SIZE;
        chunk->scratch_offset = trial->scratch_size;
        trial->scratch_size += CHUNK_SIZE;
        g_hash_table_insert(trial->chunks, &chunk->index, chunk);
    }
    return chunk;
}

static uint32_t page_bit(uint64_t offset)
{
    return UINT32_C(1) << (offset % CHUNK_SIZE / PAGE);
}

static bool read_page(TrialIo *trial, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    const Chunk *chunk = find_chunk(trial, offset);
    Qcow2Io *io = trial->stack.below;
    uint64_t from = offset;

    if (chunk && (chunk->written & page_bit(offset))) {
        io = trial->scratch;
        from = chunk->scratch_offset + offset % CHUNK_SIZE;
    }
    return io->ops->read(io, from, buffer, len_bytes, error);
}

/* Of a page that is not written whole the rest is what it was. */
static bool write_page(TrialIo *trial, uint64_t offset, const void *bytes, size_t len_bytes, GError **error)
{
    Chunk *chunk = get_chunk(trial, offset);
    uint64_t start = qcow2_align_down(offset, PAGE);
    uint8_t page[PAGE];

    if (!(chunk->written & page_bit(offset))) {
        count_needed(trial, start, PAGE);
    }
    if (len_bytes < PAGE && !read_page(trial, start, page, PAGE, error)) {
        return false;
    }
    memcpy(page + (offset - start), bytes, len_bytes);
    chunk->written |= page_bit(offset);
    uint64_t to = chunk->scratch_offset + start % CHUNK_SIZE;
    if (!qcow2_io_write_named(trial->scratch, to, page, PAGE, error)) {
        trial->scratch_failed = true;    /* for good: other threads go on writing */
        return false;
    }
    return true;
}

static void trial_close(Qcow2Io *io);

/* ---- Calls ------------------------------------------------------------------------------------- */

static size_t piece(uint64_t offset, size_t len_bytes)
{
    return MIN(len_bytes, PAGE - offset % PAGE);
}

static bool is_untouched(TrialIo *trial, uint64_t offset, uint64_t end)
{
    for (; offset < end; offset = qcow2_align_down(offset, CHUNK_SIZE) + CHUNK_SIZE) {
        if (find_chunk(trial, offset)) {
            return false;
        }
    }
    return true;
}

static bool trial_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    TrialIo *trial = trial_of(io);
    Qcow2Io *below = trial->stack.below;
    uint8_t *to = buffer;

    g_mutex_lock(&trial->mutex);
    bool untouched = is_untouched(trial, offset, offset + len_bytes), ok = true;
    while (!untouched && ok && len_bytes > 0) {
        size_t len = piece(offset, len_bytes);
        ok = read_page(trial, offset, to, len, error);
        to += len;
        offset += len;
        len_bytes -= len;
    }
    g_mutex_unlock(&trial->mutex);
    return untouched ? below->ops->read(below, offset, buffer, len_bytes, error) : ok;
}

static bool trial_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    TrialIo *trial = trial_of(io);
    const uint8_t *from = buffer;

    g_mutex_lock(&trial->mutex);
    bool ok = grow(trial, offset + len_bytes, error);
    trial->written += len_bytes;
    while (ok && len_bytes > 0) {
        size_t len = piece(offset, len_bytes);
        ok = write_page(trial, offset, from, len, error);
        from += len;
        offset += len;
        len_bytes -= len;
    }
    g_mutex_unlock(&trial->mutex);
    return ok;
}

static bool trial_flush(Qcow2Io *io, GError **error)
{
    (void)io;
    (void)error;
    return true;
}

static bool trial_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    TrialIo *trial = trial_of(io);

    (void)error;
    g_mutex_lock(&trial->mutex);
    *ret_size = trial->size;
    g_mutex_unlock(&trial->mutex);
    return true;
}

/* What is cut off is not read again: an image refers to nothing there. */
static bool trial_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    TrialIo *trial = trial_of(io);

    g_mutex_lock(&trial->mutex);
    bool ok = grow(trial, size, error);
    /* A device stays as long as it is. */
    trial->size = ok && qcow2_io_can_grow(io) ? size : trial->size;
    g_mutex_unlock(&trial->mutex);
    return ok;
}

bool qcow2_io_is_trial(const Qcow2Io *io)
{
    return io->ops->close == trial_close;
}

/* Without a byte of it: data is never read back by what writes it. */
bool qcow2_trial_note_moved(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool is_shared, GError **error)
{
    TrialIo *trial = trial_of(io);

    g_mutex_lock(&trial->mutex);
    bool ok = grow(trial, offset + len_bytes, error);
    if (ok && !is_shared) {
        count_needed(trial, offset, len_bytes);
    }
    g_mutex_unlock(&trial->mutex);
    return ok;
}

static bool trial_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    TrialIo *trial = trial_of(io);

    if (!may_unmap) {
        return qcow2_trial_note_moved(io, offset, len_bytes, false, error);
    }
    g_mutex_lock(&trial->mutex);
    bool is_longer = offset + len_bytes > trial->size, ok = grow(trial, offset + len_bytes, error);
    if (ok && is_longer) {
        /* A hole does not move the end: a byte is written there. */
        count_needed(trial, offset + len_bytes - 1, PAGE);
    }
    g_mutex_unlock(&trial->mutex);
    return ok;
}

/* Where data was moved to it is as little seen as the data itself. */
static bool trial_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error)
{
    TrialIo *trial = trial_of(io);

    if (offset >= trial->old_size) {
        return qcow2_io_extent_by_size(io, offset, len_bytes, ret, error);
    }
    return qcow2_io_extent(trial->stack.below, offset, MIN(len_bytes, trial->old_size - offset), ret, error);
}

static Qcow2CopyOutcome trial_copy_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                        uint64_t len_bytes, GError **error)
{
    (void)source;
    (void)source_offset;
    return qcow2_trial_note_moved(io, offset, len_bytes, false, error) ? QCOW2_COPY_DONE
                                                                         : QCOW2_COPY_FAILED;
}

static void trial_close(Qcow2Io *io)
{
    TrialIo *trial = trial_of(io);

    g_hash_table_unref(trial->chunks);
    qcow2_io_unref(trial->scratch);
    g_mutex_clear(&trial->mutex);
    qcow2_stack_close(io);
}

/* ---- The whole --------------------------------------------------------------------------------- */

Qcow2Io *qcow2_io_scratch_new(GError **error)
{
    g_autofree char *name = g_build_filename(g_get_tmp_dir(), "qcow-spool-XXXXXX", NULL);
    int fd = g_mkstemp_full(name, O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        qcow2_fail_errno(error, errno, "'%s': spool file (TMPDIR chooses its folder)", name);
        return NULL;
    }
    unlink(name);
    return qcow2_io_file_from_fd(fd, name, true);
}

Qcow2Io *qcow2_io_trial_new(Qcow2Io *below, GError **error)
{
    g_autoptr(Qcow2Io) scratch = qcow2_io_scratch_new(error);
    uint64_t size;

    if (!scratch || !qcow2_io_get_size(below, &size, error)) {
        return NULL;
    }
    TrialIo *trial = g_new0(TrialIo, 1);
    Qcow2IoOps *ops = &trial->stack.ops;
    qcow2_stack_init(&trial->stack, below);
    trial->stack.io.writable = true;
    trial->scratch = g_steal_pointer(&scratch);
    g_mutex_init(&trial->mutex);
    trial->chunks = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    trial->size = trial->old_size = size;
    ops->read = trial_read;
    ops->write = trial_write;
    ops->flush = trial_flush;
    ops->get_size = trial_get_size;
    ops->truncate = trial_truncate;
    ops->zero = trial_zero;
    ops->extent = trial_extent;
    ops->clone_from = NULL;
    ops->copy_from = trial_copy_from;
    ops->start_writeback = NULL;
    ops->close = trial_close;
    return &trial->stack.io;
}

/* What was set aside looks like a hole, too: there are no more of them than blocks are missing. */
static uint64_t needed_in_holes(const TrialIo *trial)
{
    uint64_t actual;

    if (!qcow2_io_get_actual_size(trial->stack.below, &actual)) {
        return trial->filled;
    }
    return MIN(trial->filled, trial->old_size - MIN(actual, trial->old_size));
}

bool qcow2_io_trial_get(Qcow2Io *io, Qcow2TrialSums *ret)
{
    if (!qcow2_io_is_trial(io)) {
        return false;
    }
    TrialIo *trial = trial_of(io);
    g_mutex_lock(&trial->mutex);
    *ret = (Qcow2TrialSums) {
        .growth = trial->size - MIN(trial->size, trial->old_size),
        .needed = trial->needed + needed_in_holes(trial),
        .freed = trial->freed,
        .written = trial->written,
        .below = trial->stack.below,
        .scratch_failed = trial->scratch_failed,
    };
    g_mutex_unlock(&trial->mutex);
    ret->has_available = qcow2_io_get_available(trial->stack.below, &ret->available);
    return true;
}

void qcow2_trial_note_freed(Qcow2Io *io, uint64_t len_bytes)
{
    if (qcow2_io_is_trial(io)) {
        TrialIo *trial = trial_of(io);
        g_mutex_lock(&trial->mutex);
        trial->freed += len_bytes;
        g_mutex_unlock(&trial->mutex);
    }
}
