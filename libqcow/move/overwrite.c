/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that are written where they are. Only what nobody else refers to may be: a COPIED entry whose
 * count is exactly one. A compressed cluster never is: others share its host cluster.
 */
#include <string.h>

#include "format/l2.h"
#include "move/in-place-job.h"
#include "util/error.h"
#include "util/progress.h"

static bool check_count(const Qcow2InPlaceJob *job, uint64_t cluster, uint64_t raw, bool *ret_own,
                        GError **error)
{
    uint64_t host_offset = raw & L2E_HOST_OFFSET, count;
    bool copied = raw & L2E_COPIED;

    if (!qcow2_counts_cache_get(qcow2_batch_counts(job->batch),
                                host_offset >> job->rules.layout->cluster_bits, &count, error)) {
        return false;
    }
    *ret_own = copied;
    return copied == (count == 1)
        || qcow2_corrupt(error,
                         "L2 entry 0x%016" PRIx64 " for guest offset 0x%" PRIx64 " is %s, but the refcount of"
                         " its cluster is %" PRIu64 "; run qcow-check -r all", raw,
                         cluster << job->rules.layout->cluster_bits,
                         copied ? "marked as the only one (COPIED)" : "not marked as the only one (COPIED)",
                         count);
}

/* @ret_offset: where the cluster is in the data file; UINT64_MAX when it needs a new one. */
static bool find_own_cluster(Qcow2InPlaceJob *job, uint64_t cluster, uint64_t *ret_offset, GError **error)
{
    const Qcow2Layout *layout = job->rules.layout;
    uint64_t raw, bitmap;
    Qcow2L2Entry entry;
    bool own = true;

    *ret_offset = UINT64_MAX;
    if (!qcow2_editor_get(job->editor, cluster, &raw, &bitmap, error)
        || !qcow2_l2_decode(layout, raw, bitmap, &entry, error)) {
        return false;
    }
    if (entry.kind != QCOW2_CLUSTER_DATA || (layout->extended_l2 && (uint32_t)bitmap != UINT32_MAX)) {
        return true;
    }
    if (!layout->has_data_file && !check_count(job, cluster, raw, &own, error)) {
        return false;
    }
    if (own) {
        *ret_offset = entry.host_offset;
    }
    return true;
}

static bool is_zero(const Qcow2Extent *extent)
{
    return extent->kind == QCOW2_EXTENT_ZERO || extent->kind == QCOW2_EXTENT_UNALLOCATED;
}

/* A cluster that becomes zeros whole needs no bytes, only an entry, where entries can say so. */
static bool becomes_zero(const Qcow2InPlaceJob *job, const Qcow2Extent *extent, uint64_t start, uint64_t end)
{
    return is_zero(extent) && !job->rules.zeros_need_data && end - start == job->rules.layout->cluster_size;
}

static bool overwrite_piece(Qcow2InPlaceJob *job, const Qcow2Extent *extent, uint64_t start, uint64_t end,
                            uint64_t host_offset, GError **error)
{
    Qcow2Extent piece = qcow2_extent_slice(extent, start, end);

    job->stats.bytes += piece.len_bytes;
    job->stats.bytes_overwritten += piece.len_bytes;
    return job->planning
        || qcow2_mover_add(job->mover, &piece, host_offset + start % job->rules.layout->cluster_size, error);
}

static bool split_extent(Qcow2InPlaceJob *job, const Qcow2Extent *extent, GArray *ret_ranges, GError **error)
{
    const Qcow2Layout *layout = job->rules.layout;
    uint64_t start = extent->guest_offset, extent_end = qcow2_extent_end(extent);

    while (start < extent_end) {
        uint64_t cluster = start >> layout->cluster_bits, host_offset;
        uint64_t cluster_end = (cluster + 1) << layout->cluster_bits, end = MIN(extent_end, cluster_end);
        if (start >= job->limit) {
            job->last_differs = true;
            return true;
        }
        if (!find_own_cluster(job, cluster, &host_offset, error)) {
            return false;
        }
        if (host_offset == UINT64_MAX || becomes_zero(job, extent, start, end)) {
            qcow2_ranges_push(ret_ranges, cluster << layout->cluster_bits, MIN(cluster_end, job->to->size));
        } else if (!overwrite_piece(job, extent, start, end, host_offset, error)) {
            return false;
        }
        start = end;
    }
    return true;
}

bool qcow2_in_place_overwrite(Qcow2InPlaceJob *job, const GArray *extents, GArray *ret_ranges, GError **error)
{
    g_array_set_size(ret_ranges, 0);
    for (guint i = 0; i < extents->len; i++) {
        if (!split_extent(job, &g_array_index(extents, Qcow2Extent, i), ret_ranges, error)) {
            return false;
        }
    }
    return true;
}

/* ---- The last cluster -------------------------------------------------------------------------- */

/* What the image reads as there, with the state's bytes before its end. */
static bool read_last_cluster(Qcow2InPlaceJob *job, uint8_t *buffer, uint64_t len_bytes, GError **error)
{
    g_autoptr(Qcow2State) before = qcow2_state_open(job->options.before, "@active", error);
    uint64_t own = MIN(len_bytes, before ? before->size - job->limit : 0);

    memset(buffer, 0, len_bytes);
    return before
        && qcow2_state_read(before, job->limit, buffer, own, error)
        && qcow2_state_read(job->to, job->limit, buffer, job->to->size - job->limit, error);
}

static bool write_last_cluster(Qcow2InPlaceJob *job, const uint8_t *buffer, GError **error)
{
    const Qcow2Layout *layout = job->rules.layout;
    uint64_t cluster = job->limit >> layout->cluster_bits, host_offset;
    uint64_t bitmap = layout->extended_l2 ? UINT32_MAX : 0;

    host_offset = layout->has_data_file ? job->limit : qcow2_batch_take(job->batch, 1, error);
    return (host_offset != 0 || layout->has_data_file)
        && qcow2_io_write_named(job->image->data, host_offset, buffer, layout->cluster_size, error)
        && qcow2_editor_set(job->editor, cluster, 1, host_offset | L2E_COPIED, bitmap, 0, error);
}

bool qcow2_in_place_last_cluster(Qcow2InPlaceJob *job, GError **error)
{
    uint64_t cluster_size = job->rules.layout->cluster_size, host_offset;
    uint64_t own = job->to->size - job->limit;
    g_autofree uint8_t *buffer = g_try_malloc(cluster_size);

    if (!buffer) {
        return qcow2_fail_memory(error, cluster_size, "a cluster");
    }
    if (!find_own_cluster(job, job->limit >> job->rules.layout->cluster_bits, &host_offset, error)) {
        return false;
    }
    job->stats.bytes += own;
    job->stats.data_clusters += host_offset == UINT64_MAX;
    job->stats.bytes_overwritten += host_offset == UINT64_MAX ? 0 : own;
    if (job->planning) {
        return true;
    }
    bool written = read_last_cluster(job, buffer, cluster_size, error)
                && (host_offset == UINT64_MAX
                        ? write_last_cluster(job, buffer, error)
                        : qcow2_io_write_named(job->image->data, host_offset, buffer, own, error));
    return written && qcow2_progress_advance(job->progress, own, error);
}
