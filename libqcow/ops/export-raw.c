/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A delta applied in place to a raw file, device or NBD export that holds FROM.
 *
 *   step                                a crash afterwards leaves
 *   1  give the file TO's size          FROM, cut or with zeros behind it
 *   2  write what differs               a mixture; the same command again completes it
 *   3  flush                            TO
 */
#include <string.h>

#include "chain/place.h"
#include "io/backends.h"
#include "ops/export.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/progress.h"

static Qcow2Io *open_place(const Qcow2Export *job, const Qcow2Place *place, GError **error)
{
    if (place->kind == QCOW2_PLACE_NBD) {
        return qcow2_io_nbd_open(place->target, true, job->options->cache, job->to->chain->options.n_threads,
                                 error);
    }
    Qcow2FileOptions options = {
        .writable = true,
        .cache = job->options->cache,
        .lock = true,
        .used = QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE,
        .shared = QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE_UNCHANGED,
    };
    Qcow2Io *io = qcow2_io_file_open(place->target, &options, error);
    if (!io && error && g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_NOT_FOUND)) {
        g_prefix_error(error, "-O raw changes an existing file that holds %s: ", job->from->name);
    }
    return io;
}

static Qcow2Io *open_target(const Qcow2Export *job, GError **error)
{
    g_autoptr(Qcow2Place) place = qcow2_place_parse(job->output, NULL, false, error);

    if (!place
        || (place->kind == QCOW2_PLACE_FILE && !qcow2_refuse_layer(job->to->chain, place->target, error))) {
        return NULL;
    }
    Qcow2Io *io = open_place(job, place, error);
    if (!io) {
        g_prefix_error(error, "'%s': ", place->shown);
    }
    return io;
}

/* Gives a file TO's size, zeros past FROM's end. @ret_dirty_from: where unknown bytes begin that TO needs. */
static bool resize_target(const Qcow2Export *job, Qcow2Io *target, uint64_t *ret_dirty_from, GError **error)
{
    bool resizable = strcmp(target->ops->protocol, "file") == 0;
    uint64_t size;

    *ret_dirty_from = job->to->size;
    if (!qcow2_io_get_size(target, &size, error)) {
        return false;
    }
    if (!resizable) {
        *ret_dirty_from = MIN(job->from->size, job->to->size);
        return size >= job->to->size
               || qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                             "it has %" PRIu64 " bytes, too few for %s with %" PRIu64
                             " bytes; nothing was written",
                             size, job->to->name, job->to->size);
    }
    if (size > job->from->size && !qcow2_io_truncate(target, job->from->size, error)) {
        return false;
    }
    return qcow2_io_truncate(target, job->to->size, error);
}

/*
 * Past FROM's end a device holds anything, and what TO reads there as zeros is no difference between the
 * states: it is written all the same.
 */
static bool zero_past_from(Qcow2Io *target, uint64_t dirty_from, uint64_t end, GError **error)
{
    return dirty_from >= end || qcow2_io_zero(target, dirty_from, end - dirty_from, true, error);
}

static void count_extent(Qcow2ExportResult *result, const Qcow2Extent *extent)
{
    result->bytes += extent->len_bytes;
    result->output_size = MAX(result->output_size, qcow2_extent_end(extent));
}

static bool move_windows(Qcow2Export *job, Qcow2Choice *choice, Qcow2Mover *mover, GError **error)
{
    const GArray *extents = NULL;

    do {
        if (!qcow2_choice_next(choice, &extents, error)) {
            return false;
        }
        for (guint i = 0; extents && i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            qcow2_progress_expect(job->progress, extent->len_bytes);
            count_extent(&job->result, extent);
            if (!qcow2_mover_add(mover, extent, extent->guest_offset, error)) {
                return false;
            }
        }
        /* Extents live until the next window. */
        if (extents && !qcow2_mover_drain(mover, error)) {
            return false;
        }
    } while (extents);
    return true;
}

static bool patch(Qcow2Export *job, Qcow2Io *target, Qcow2Choice *choice, GError **error)
{
    Qcow2MoverOptions options = {
        .n_threads = job->to->chain->options.n_threads,
        .no_reflink = job->options->no_reflink,
        .source_in_use = qcow2_export_source_in_use(job),
    };
    g_autoptr(Qcow2Mover) mover = qcow2_mover_new(job->to, target, &options, job->progress);

    if (!move_windows(job, choice, mover, error)) {
        return false;
    }
    Qcow2MoverStats stats = qcow2_mover_get_stats(mover);
    job->result.bytes_copied = stats.bytes_copied;
    job->result.bytes_cloned = stats.bytes_cloned;
    job->result.virtual_size = job->to->size;
    job->result.output_size = job->to->size;
    return true;
}

bool qcow2_export_to_raw(Qcow2Export *job, GError **error)
{
    g_autoptr(Qcow2Choice) choice = qcow2_export_choice(job, 4096, false, error);
    g_autoptr(Qcow2Io) opened = choice ? open_target(job, error) : NULL;
    g_autoptr(Qcow2Io) target = opened ? qcow2_io_trace_new(opened, job->options->trace, error) : NULL;
    uint64_t dirty_from;

    if (!target) {
        return false;
    }
    if (!resize_target(job, target, &dirty_from, error)
        || !zero_past_from(target, dirty_from, job->to->size, error)) {
        g_prefix_error(error, "'%s': ", target->name);
        return false;
    }
    if (!patch(job, target, choice, error)) {
        return false;
    }
    if (!qcow2_io_flush(target, error)) {
        g_prefix_error(error, "'%s': ", target->name);
        return false;
    }
    return qcow2_witness_end(job->witness, error);
}
