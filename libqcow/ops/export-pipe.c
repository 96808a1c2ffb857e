/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A delta as a stream: tables first, then data, never seeking, and in the last cluster a SHA-256 of all
 * before it. A stream that breaks off has no digest, so that whoever reads it knows.
 */
#include <unistd.h>

#include "io/backends.h"
#include "move/in-order.h"
#include "move/spool.h"
#include "ops/export.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/progress.h"

#define BUFFER_SIZE (UINT64_C(128) << 10)

typedef bool (*WindowFunc)(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error);

static bool each_window(Qcow2Export *job, Qcow2Overlay *overlay, Qcow2Choice *choice, Qcow2Io *io,
                        WindowFunc func, GError **error)
{
    const GArray *extents = NULL;

    qcow2_choice_rewind(choice);
    do {
        if (!qcow2_progress_check(job->progress, error) || !qcow2_choice_next(choice, &extents, error)
            || (extents && !func(overlay, io, extents, error))) {
            return false;
        }
    } while (extents);
    return true;
}

static bool write_directly(Qcow2Export *job, Qcow2Overlay *overlay, Qcow2Choice *choice, Qcow2Io *io,
                           GError **error)
{
    return qcow2_overlay_write_head(overlay, io, error)
        && each_window(job, overlay, choice, io, qcow2_overlay_write_tables, error)
        && qcow2_overlay_end_tables(overlay, io, error)
        && each_window(job, overlay, choice, io, qcow2_overlay_write_data, error);
}

static bool copy_spool(Qcow2Export *job, Qcow2Io *spool, uint64_t len_bytes, Qcow2Io *io, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(BUFFER_SIZE);

    for (uint64_t at = 0; at < len_bytes;) {
        Qcow2IoExtent extent;
        if (!qcow2_progress_check(job->progress, error)
            || !qcow2_io_extent(spool, at, len_bytes - at, &extent, error)) {
            return false;
        }
        if (extent.zero) {
            at += extent.len_bytes;    /* gaps become zeros */
            continue;
        }
        size_t len = MIN(BUFFER_SIZE, extent.len_bytes);
        if (!qcow2_io_read(spool, at, buffer, len, error)) {
            g_prefix_error(error, "'%s': ", spool->name);
            return false;
        }
        if (!qcow2_io_write_named(io, at, buffer, len, error)) {
            return false;
        }
        at += len;
    }
    return true;
}

static bool write_spooled(Qcow2Export *job, Qcow2Overlay *overlay, Qcow2Choice *choice, Qcow2Io *io,
                          GError **error)
{
    g_autoptr(Qcow2Io) spool = qcow2_spool_new(error);

    return spool && qcow2_export_write(job, overlay, choice, spool, error)
        && copy_spool(job, spool, job->result.output_size, io, error);
}

static bool write_digest(Qcow2Io *io, uint64_t end, size_t cluster_size, GError **error)
{
    g_autofree uint8_t *cluster = g_malloc0(cluster_size);

    return qcow2_io_in_order_finish(io, end, cluster, error)
        && qcow2_io_write_named(io, end, cluster, cluster_size, error);
}

static bool write_stream(Qcow2Export *job, Qcow2Overlay *overlay, Qcow2Choice *choice, size_t cluster_size,
                         GError **error)
{
    g_autoptr(Qcow2Io) pipe = qcow2_io_file_from_fd(dup(STDOUT_FILENO), "standard output", true);
    g_autoptr(Qcow2Io) traced = qcow2_io_trace_new(pipe, job->options->trace, error);
    g_autoptr(Qcow2Io) io = traced ? qcow2_io_in_order_new(traced) : NULL;

    if (!io) {
        return false;
    }
    if (qcow2_overlay_has_streams(overlay)) {
        if (!write_spooled(job, overlay, choice, io, error)) {
            return false;
        }
    } else {
        if (!write_directly(job, overlay, choice, io, error)) {
            return false;
        }
        qcow2_export_take_stats(job, overlay, qcow2_overlay_end(overlay));
    }
    /* Without the digest the stream is refused by its reader: it goes out only when all is proven. */
    if (!qcow2_witness_end(job->witness, error)) {
        return false;
    }
    uint64_t end = job->result.output_size;
    job->result.output_size += cluster_size;
    return write_digest(io, end, cluster_size, error) && qcow2_io_flush(io, error);
}

bool qcow2_export_to_pipe(Qcow2Export *job, GError **error)
{
    g_auto(Qcow2Header) header = { 0 };

    if (!qcow2_export_header(job, true, &header, error)) {
        return false;
    }
    size_t cluster_size = header.layout.cluster_size;
    g_autoptr(Qcow2Choice) choice = qcow2_export_choice(job, qcow2_overlay_unit(&header), true, error);
    g_autoptr(Qcow2Overlay) overlay = choice ? qcow2_export_count(job, &header, choice, error) : NULL;

    return overlay && write_stream(job, overlay, choice, cluster_size, error);
}
