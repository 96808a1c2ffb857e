/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NBD exports as places that hold bytes: block sizes, flags of the server, several connections. */
#include "io/nbd.h"

#include <errno.h>
#include <string.h>

#include "io/nbd-connection.h"
#include "io/nbd-extents.h"
#include "util/bits.h"
#include "util/error.h"

/* Servers take this much at least, and many end the connection when they get more. */
#define MAX_REQUEST         (UINT64_C(32) << 20)
/* Commands without data are bounded by their 32-bit length only. */
#define MAX_DATALESS        (UINT64_C(1) << 30)
/* What QEMU assumes of a server that does not say. */
#define DEFAULT_MIN_BLOCK   512
#define DEFAULT_CONNECTIONS 4
#define ZERO_CHUNK          (64 * 1024)
/* After this long a server that has one connection of ours is taken to allow no second. */
#define SECOND_TIMEOUT_USEC (5 * G_USEC_PER_SEC)

typedef struct NbdIo {
    Qcow2Io io;
    Qcow2Cache cache;
    unsigned n_wanted;                /* connections asked for */
    Qcow2NbdExport export;
    uint64_t min_block, max_block;
    GMutex mutex;                     /* guards the next field */
    GPtrArray *connections;           /* Qcow2NbdConnection; the first was ready when this was made */
    Qcow2NbdExtents *extents;
    GMutex edge_mutex;                /* held while part of a block is changed */
    gint flush_failed;                /* atomic */
} NbdIo;

/* ---- Requests --------------------------------------------------------------------------------- */

/*
 * Only the server's word that its connections see each other's writes (multi-conn) makes a second one safe;
 * without it a second client may even have to wait for ever. A new one comes up while the others work.
 */
static void add_connection(NbdIo *nbd)
{
    if (nbd->export.multi_conn && nbd->connections->len < nbd->n_wanted) {
        Qcow2NbdConnection *connection = qcow2_nbd_connection_new(nbd->io.name, NULL);
        if (connection) {
            g_ptr_array_add(nbd->connections, connection);
        }
    }
}

/* The connection with the fewest requests; NULL when all are lost. When none is idle, another is added. */
static Qcow2NbdConnection *choose_connection(NbdIo *nbd)
{
    Qcow2NbdConnection *best = NULL;
    unsigned best_load = UINT_MAX;

    g_mutex_lock(&nbd->mutex);
    for (guint i = 0; i < nbd->connections->len && best_load > 0; i++) {
        unsigned load = qcow2_nbd_connection_load(nbd->connections->pdata[i]);
        if (load < best_load) {
            best = nbd->connections->pdata[i];
            best_load = load;
        }
    }
    if (best && best_load > 0) {
        add_connection(nbd);
    }
    if (!best && nbd->connections->len > 0) {
        best = nbd->connections->pdata[0];       /* it tells the reason */
    }
    g_mutex_unlock(&nbd->mutex);
    return best;
}

/* @ret_errnum: as in qcow2_nbd_connection_run() */
static bool run(NbdIo *nbd, Qcow2NbdRequest *request, int *ret_errnum, GError **error)
{
    Qcow2NbdConnection *connection = choose_connection(nbd);

    if (!connection) {
        *ret_errnum = ENOTCONN;
        return qcow2_fail(error, QCOW2_ERROR_IO,
                          "the connection to the NBD server was ended to make a new one");
    }
    return qcow2_nbd_connection_run(connection, request, ret_errnum, error);
}

/* Offset and length are whole blocks, or end with the export. */
static bool read_blocks(NbdIo *nbd, uint64_t offset, void *buffer, uint64_t len_bytes, GError **error)
{
    int errnum;

    while (len_bytes > 0) {
        uint64_t chunk = MIN(len_bytes, nbd->max_block);
        Qcow2NbdRequest request = {
            .kind = QCOW2_NBD_READ, .offset = offset, .len_bytes = chunk, .read_into = buffer,
        };
        if (!run(nbd, &request, &errnum, error)) {
            return false;
        }
        buffer = (uint8_t *) buffer + chunk;
        offset += chunk;
        len_bytes -= chunk;
    }
    return true;
}

/* Without a flush command every write has to be final, unless nobody asks for that. */
static bool wants_fua(const NbdIo *nbd)
{
    bool through = nbd->cache == QCOW2_CACHE_WRITETHROUGH || nbd->cache == QCOW2_CACHE_DIRECTSYNC;

    return nbd->export.can_fua && nbd->cache != QCOW2_CACHE_UNSAFE && (through || !nbd->export.can_flush);
}

static bool flush_export(NbdIo *nbd, GError **error)
{
    Qcow2NbdRequest request = { .kind = QCOW2_NBD_FLUSH };
    int errnum;

    if (nbd->cache == QCOW2_CACHE_UNSAFE || !nbd->export.can_flush) {
        return true;
    }
    if (g_atomic_int_get(&nbd->flush_failed)) {
        return qcow2_fail(error, QCOW2_ERROR_IO, "an earlier flush has failed");
    }
    if (!run(nbd, &request, &errnum, error)) {
        g_atomic_int_set(&nbd->flush_failed, 1);
        return false;
    }
    return true;
}

/* Writethrough on a server without FUA. */
static bool after_write(NbdIo *nbd, GError **error)
{
    bool through = nbd->cache == QCOW2_CACHE_WRITETHROUGH || nbd->cache == QCOW2_CACHE_DIRECTSYNC;

    return !through || wants_fua(nbd) || flush_export(nbd, error);
}

static bool write_blocks(NbdIo *nbd, uint64_t offset, const void *buffer, uint64_t len_bytes, GError **error)
{
    int errnum;

    while (len_bytes > 0) {
        uint64_t chunk = MIN(len_bytes, nbd->max_block);
        Qcow2NbdRequest request = {
            .kind = QCOW2_NBD_WRITE, .offset = offset, .len_bytes = chunk, .write_from = buffer,
            .fua = wants_fua(nbd),
        };
        if (!run(nbd, &request, &errnum, error)) {
            return false;
        }
        buffer = (const uint8_t *) buffer + chunk;
        offset += chunk;
        len_bytes -= chunk;
    }
    return true;
}

/* ---- Reading ---------------------------------------------------------------------------------- */

static uint64_t block_start(const NbdIo *nbd, uint64_t offset)
{
    return qcow2_align_down(offset, nbd->min_block);
}

/* The last block of an export whose server says no block size may be cut short. */
static uint64_t block_end(const NbdIo *nbd, uint64_t offset)
{
    return MIN(qcow2_align_up(offset, nbd->min_block), nbd->export.size);
}

static bool read_inside(NbdIo *nbd, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    uint64_t start = block_start(nbd, offset);
    uint64_t end = block_end(nbd, offset + len_bytes);

    if (start == offset && end == offset + len_bytes) {
        return read_blocks(nbd, offset, buffer, len_bytes, error);
    }
    g_autofree uint8_t *bounce = g_try_malloc(end - start);
    if (!bounce) {
        return qcow2_fail_memory(error, end - start, "blocks of an NBD export");
    }
    if (!read_blocks(nbd, start, bounce, end - start, error)) {
        return false;
    }
    memcpy(buffer, bounce + (offset - start), len_bytes);
    return true;
}

static bool nbd_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    NbdIo *nbd = (NbdIo *) io;
    size_t n_inside = offset < nbd->export.size ? MIN(len_bytes, nbd->export.size - offset) : 0;

    if (n_inside > 0 && !read_inside(nbd, offset, buffer, n_inside, error)) {
        return false;
    }
    memset((uint8_t *) buffer + n_inside, 0, len_bytes - n_inside);
    return true;
}

static bool ask_extents(NbdIo *nbd, uint64_t offset, uint64_t len_bytes, GError **error)
{
    uint64_t start = block_start(nbd, offset);
    uint64_t end = block_end(nbd, offset + MIN(len_bytes, MAX_DATALESS));
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2IoExtent));
    Qcow2NbdRequest request = {
        .kind = QCOW2_NBD_EXTENTS, .offset = start, .len_bytes = end - start, .extents = extents,
    };
    int errnum;

    if (!run(nbd, &request, &errnum, error)) {
        return false;
    }
    qcow2_nbd_extents_put(nbd->extents, start, g_steal_pointer(&extents));
    return true;
}

/* What we write ourselves changes the extents, so only a place for reading looks at an earlier answer. */
static bool nbd_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error)
{
    NbdIo *nbd = (NbdIo *) io;

    if (!qcow2_io_extent_by_size(io, offset, len_bytes, ret, error)) {
        return false;
    }
    if (ret->zero) {
        return true;
    }
    len_bytes = ret->len_bytes;
    if (!nbd->export.can_extents || (!io->writable && qcow2_nbd_extents_find(nbd->extents, offset, ret))) {
        return true;
    }
    if (!ask_extents(nbd, offset, len_bytes, error)) {
        return false;
    }
    /* A server may say less than it was asked: then all is data, as it is for one that says nothing. */
    qcow2_nbd_extents_find(nbd->extents, offset, ret);
    ret->len_bytes = MIN(ret->len_bytes, len_bytes);
    return true;
}

/* ---- Writing ---------------------------------------------------------------------------------- */

static bool check_inside(const NbdIo *nbd, uint64_t end, GError **error)
{
    return end <= nbd->export.size || qcow2_fail(error, QCOW2_ERROR_NO_SPACE, "the export has only %" PRIu64
                                                 " bytes", nbd->export.size);
}

/* Part of one block: read, changed, written. Who changes another part of it waits meanwhile. */
static bool write_edge(NbdIo *nbd, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    uint64_t start = block_start(nbd, offset);
    uint64_t end = block_end(nbd, offset + len_bytes);
    g_autofree uint8_t *block = g_malloc(end - start);

    g_mutex_lock(&nbd->edge_mutex);
    bool written = read_blocks(nbd, start, block, end - start, error);
    if (written) {
        memcpy(block + (offset - start), buffer, len_bytes);
        written = write_blocks(nbd, start, block, end - start, error);
    }
    g_mutex_unlock(&nbd->edge_mutex);
    return written;
}

/*
 *     offset                                            offset + len_bytes
 *     |.. head ..|============ whole blocks ============|.. tail ..|
 */
static bool write_inside(NbdIo *nbd, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    const uint8_t *bytes = buffer;
    uint64_t end = offset + len_bytes;
    uint64_t first = block_end(nbd, offset);
    uint64_t last = end == nbd->export.size ? end : block_start(nbd, end);

    if (first > last) {
        return write_edge(nbd, offset, bytes, len_bytes, error);
    }
    return (first == offset || write_edge(nbd, offset, bytes, first - offset, error))
        && write_blocks(nbd, first, bytes + (first - offset), last - first, error)
        && (last == end || write_edge(nbd, last, bytes + (last - offset), end - last, error));
}

static bool nbd_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    NbdIo *nbd = (NbdIo *) io;

    return check_inside(nbd, offset + len_bytes, error)
        && write_inside(nbd, offset, buffer, len_bytes, error)
        && after_write(nbd, error);
}

static bool write_zeros(NbdIo *nbd, uint64_t offset, uint64_t len_bytes, GError **error)
{
    g_autofree uint8_t *zeros = g_malloc0(ZERO_CHUNK);

    while (len_bytes > 0) {
        size_t chunk = MIN(len_bytes, ZERO_CHUNK - offset % ZERO_CHUNK);
        if (!write_inside(nbd, offset, zeros, chunk, error)) {
            return false;
        }
        offset += chunk;
        len_bytes -= chunk;
    }
    return true;
}

static bool zero_blocks(NbdIo *nbd, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    while (len_bytes > 0 && nbd->export.can_zero) {
        Qcow2NbdRequest request = {
            .kind = QCOW2_NBD_ZERO, .offset = offset, .len_bytes = MIN(len_bytes, MAX_DATALESS),
            .fua = wants_fua(nbd), .keep_allocated = !may_unmap,
        };
        g_autoptr(GError) cause = NULL;
        int errnum;

        if (!run(nbd, &request, &errnum, &cause)) {
            if (errnum == ENOTSUP || errnum == EINVAL) {
                break;      /* offered, but not for this: written instead */
            }
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
        offset += request.len_bytes;
        len_bytes -= request.len_bytes;
    }
    return write_zeros(nbd, offset, len_bytes, error);
}

static bool nbd_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    NbdIo *nbd = (NbdIo *) io;
    uint64_t end = offset + len_bytes;

    if (!check_inside(nbd, end, error)) {
        return false;
    }
    uint64_t first = MIN(block_end(nbd, offset), end);
    uint64_t last = MAX(end == nbd->export.size ? end : block_start(nbd, end), first);
    return write_zeros(nbd, offset, first - offset, error)
        && zero_blocks(nbd, first, last - first, may_unmap, error)
        && write_zeros(nbd, last, end - last, error)
        && after_write(nbd, error);
}

static bool nbd_flush(Qcow2Io *io, GError **error)
{
    return flush_export((NbdIo *) io, error);
}

static bool nbd_get_export_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    (void) error;
    *ret_size = ((NbdIo *) io)->export.size;
    return true;
}

/* As a block device: what does not fit has no place, and nothing is cut off. */
static bool nbd_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    return check_inside((NbdIo *) io, size, error);
}

/* ---- Opening ---------------------------------------------------------------------------------- */

static void nbd_close_io(Qcow2Io *io)
{
    NbdIo *nbd = (NbdIo *) io;

    g_ptr_array_unref(nbd->connections);
    qcow2_nbd_extents_free(nbd->extents);
    g_mutex_clear(&nbd->mutex);
    g_mutex_clear(&nbd->edge_mutex);
}

static bool check_export(const Qcow2NbdExport *export, bool writable, Qcow2Cache cache, GError **error)
{
    if (writable && export->read_only) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "the NBD server exports this for reading only");
    }
    if (writable && !export->can_flush && !export->can_fua && cache != QCOW2_CACHE_UNSAFE) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "the NBD server cannot flush: nothing tells when data is safe (cache mode unsafe "
                          "accepts that)");
    }
    if (export->min_block > 0 && export->size % export->min_block != 0) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "the NBD export has %" PRIu64 " bytes, which is no "
                          "multiple of its block size %" PRIu64, export->size, export->min_block);
    }
    if (!qcow2_range_fits(export->size, DEFAULT_MIN_BLOCK)) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "the NBD export is too large");
    }
    return true;
}

static Qcow2Io *nbd_reopen(Qcow2Io *io, GError **error);

static const Qcow2IoOps nbd_ops = {
    .protocol = "nbd",
    .read = nbd_read,
    .write = nbd_write,
    .flush = nbd_flush,
    .get_size = nbd_get_export_size,
    .truncate = nbd_truncate,
    .zero = nbd_zero,
    .extent = nbd_extent,
    .reopen = nbd_reopen,
    .close = nbd_close_io,
};

/* Takes @first over, which is ready. */
static Qcow2Io *nbd_new(const char *uri, bool writable, Qcow2Cache cache, unsigned n_wanted,
                        Qcow2NbdConnection *first, const Qcow2NbdExport *export)
{
    NbdIo *nbd = g_new0(NbdIo, 1);

    qcow2_io_init(&nbd->io, &nbd_ops, uri, writable);
    nbd->cache = cache;
    nbd->n_wanted = n_wanted;
    nbd->export = *export;
    nbd->min_block = export->min_block ? export->min_block : DEFAULT_MIN_BLOCK;
    nbd->max_block = export->max_block ? MIN(export->max_block, MAX_REQUEST) : MAX_REQUEST;
    nbd->max_block = MAX(qcow2_align_down(nbd->max_block, nbd->min_block), nbd->min_block);
    nbd->connections = g_ptr_array_new_with_free_func((GDestroyNotify) qcow2_nbd_connection_free);
    g_ptr_array_add(nbd->connections, first);
    nbd->extents = qcow2_nbd_extents_new();
    g_mutex_init(&nbd->mutex);
    g_mutex_init(&nbd->edge_mutex);
    return &nbd->io;
}

__attribute__((visibility("default")))
Qcow2Io *qcow2_nbd_module_open(const char *uri, bool writable, Qcow2Cache cache,
                               unsigned n_connections, GError **error)
{
    g_autoptr(Qcow2NbdConnection) first = qcow2_nbd_connection_new(uri, error);
    Qcow2NbdExport export;

    if (!first || !qcow2_nbd_connection_wait(first, -1, &export, error)
        || !check_export(&export, writable, cache, error)) {
        return NULL;
    }
    return nbd_new(uri, writable, cache, n_connections ? n_connections : DEFAULT_CONNECTIONS,
                   g_steal_pointer(&first), &export);
}

/*
 * Some servers take one client at a time and leave a second one waiting. Ending the old connections lets it
 * in; some other servers end with their last client, so that is not done first.
 */
static bool wait_for_second(NbdIo *old, Qcow2NbdConnection *connection, Qcow2NbdExport *ret_export,
                            GError **error)
{
    if (qcow2_nbd_connection_wait(connection, SECOND_TIMEOUT_USEC, ret_export, NULL)) {
        return true;
    }
    g_mutex_lock(&old->mutex);
    g_ptr_array_set_size(old->connections, 0);
    g_mutex_unlock(&old->mutex);
    return qcow2_nbd_connection_wait(connection, SECOND_TIMEOUT_USEC, ret_export, error);
}

static Qcow2Io *nbd_reopen(Qcow2Io *io, GError **error)
{
    NbdIo *old = (NbdIo *) io;
    g_autoptr(Qcow2NbdConnection) first = qcow2_nbd_connection_new(io->name, error);
    Qcow2NbdExport export;

    if (!first || !wait_for_second(old, first, &export, error)
        || !check_export(&export, io->writable, old->cache, error)) {
        g_prefix_error(error, "connect again: ");
        return NULL;
    }
    return nbd_new(io->name, io->writable, old->cache, old->n_wanted, g_steal_pointer(&first), &export);
}
