/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Data that goes into new clusters. Runs wait until there are many, since their places are chosen together:
 * in guest order, which is best for whoever reads the image later, or, where extents are shared and bytes
 * stay where they are, in the order of the source, in which neighbours are shared by one call (placement.h).
 */
#include "move/in-place-job.h"
#include "move/placement.h"
#include "util/error.h"
#include "util/progress.h"

/* Some MiB of memory; a few GiB of single clusters. */
#define MAX_WAITING 65536u

void qcow2_in_place_start_data(Qcow2InPlaceJob *job)
{
    job->runs = g_array_new(FALSE, FALSE, sizeof(Qcow2ClusterRun));
    job->extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
}

void qcow2_in_place_clear_data(Qcow2InPlaceJob *job)
{
    g_clear_pointer(&job->runs, g_array_unref);
    g_clear_pointer(&job->extents, g_array_unref);
}

bool qcow2_in_place_is_shared(const Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, const GArray *extents)
{
    const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, run->first_extent);

    return job->options.placed && extent->layer >= 1 && qcow2_extent_end(extent) >= run->guest_end
        && run->guest_end - run->guest_start == run->n_clusters << job->rules.layout->cluster_bits;
}

bool qcow2_in_place_is_there(const Qcow2InPlaceJob *job, const Qcow2Extent *extent)
{
    return job->rules.layout->has_data_file && extent->kind == QCOW2_EXTENT_DATA
        && qcow2_chain_image(job->to->chain, extent->layer) == job->image
        && extent->host_offset == extent->guest_offset;
}

/* ---- Entries ----------------------------------------------------------------------------------- */

uint64_t qcow2_in_place_bitmap(const Qcow2InPlaceJob *job, const Qcow2ClusterRun *run)
{
    return job->rules.layout->extended_l2 ? (uint64_t)run->zero_mask << 32 | run->data_mask : 0;
}

bool qcow2_in_place_take(Qcow2InPlaceJob *job, Qcow2ClusterRun *run, GError **error)
{
    bool has_data_file = job->rules.layout->has_data_file;

    /* An external data file holds each cluster where the guest has it. */
    run->host_offset = has_data_file ? run->first_cluster << job->rules.layout->cluster_bits
                                     : qcow2_batch_take(job->batch, run->n_clusters, error);
    return run->host_offset != 0 || has_data_file;
}

bool qcow2_in_place_set(Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, GError **error)
{
    return qcow2_editor_set(job->editor, run->first_cluster, run->n_clusters,
                            run->host_offset | job->copied_flag, qcow2_in_place_bitmap(job, run),
                            job->rules.layout->cluster_size, error);
}

/* ---- Places ------------------------------------------------------------------------------------ */

/* A place for the first run, where sharing is tried. */
static bool take_first(Qcow2InPlaceJob *job, GError **error)
{
    Qcow2ClusterRun *run = &g_array_index(job->runs, Qcow2ClusterRun, 0);
    uint64_t base = run->first_cluster << job->rules.layout->cluster_bits;
    Qcow2Extent extent;

    if (!qcow2_in_place_take(job, run, error)) {
        return false;
    }
    if (!job->shares && !job->rules.layout->has_data_file
        && qcow2_run_first_data(run, job->extents, &extent)) {
        job->shares = qcow2_mover_can_share(job->mover, &extent,
                                            run->host_offset + (extent.guest_offset - base));
    }
    return true;
}

static bool take_by_guest(Qcow2InPlaceJob *job, GError **error)
{
    for (guint i = 1; i < job->runs->len; i++) {
        if (!qcow2_in_place_take(job, &g_array_index(job->runs, Qcow2ClusterRun, i), error)) {
            return false;
        }
    }
    return true;
}

static bool continues(const Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, const Qcow2ClusterRun *next)
{
    uint64_t len_bytes = run->n_clusters << job->rules.layout->cluster_bits;
    Qcow2Extent a, b;

    return qcow2_run_first_data(run, job->extents, &a) && qcow2_run_first_data(next, job->extents, &b)
        && a.layer == b.layer && a.host_offset + len_bytes == b.host_offset;
}

static Qcow2ClusterRun *run_at(const Qcow2Placement *placement, guint index)
{
    return &g_array_index(placement->runs, Qcow2ClusterRun, g_array_index(placement->order, guint, index));
}

/* Where what is one piece in the source ends. */
static guint group_end(const Qcow2InPlaceJob *job, const Qcow2Placement *placement, guint first,
                       uint64_t *ret_clusters)
{
    guint end = first + 1;

    *ret_clusters = run_at(placement, first)->n_clusters;
    while (end < placement->order->len && g_array_index(placement->order, guint, end) != 0
           && continues(job, run_at(placement, end - 1), run_at(placement, end))) {
        *ret_clusters += run_at(placement, end++)->n_clusters;
    }
    return end;
}

/* One place for each piece of the source; the first run, with index 0, has its own already. */
static bool take_by_source(Qcow2InPlaceJob *job, Qcow2Placement *placement, GError **error)
{
    unsigned bits = job->rules.layout->cluster_bits;
    uint64_t host_offset = g_array_index(job->runs, Qcow2ClusterRun, 0).host_offset, n_clusters;

    qcow2_placement_by_source(placement, 0, bits);
    g_array_index(job->runs, Qcow2ClusterRun, 0).host_offset = host_offset;
    for (guint i = 0; i < placement->order->len;) {
        guint end = i + 1;
        if (g_array_index(placement->order, guint, i) == 0) {
            i = end;
            continue;
        }
        end = group_end(job, placement, i, &n_clusters);
        host_offset = qcow2_batch_take(job->batch, n_clusters, error);
        if (host_offset == 0) {
            return false;
        }
        for (; i < end; i++) {
            run_at(placement, i)->host_offset = host_offset;
            host_offset += run_at(placement, i)->n_clusters << bits;
        }
    }
    return true;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

/* A free cluster holds anything: zeros are written like data, also behind the end of the disk. */
static bool fill_run(Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, GError **error)
{
    uint64_t base = run->first_cluster << job->rules.layout->cluster_bits;
    uint64_t end = base + (run->n_clusters << job->rules.layout->cluster_bits);

    for (guint i = run->first_extent; i < job->extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(job->extents, Qcow2Extent, i);
        if (extent->guest_offset >= run->guest_end) {
            break;
        }
        bool ok = qcow2_in_place_is_there(job, extent)
                ? qcow2_progress_advance(job->progress, extent->len_bytes, error)
                : qcow2_mover_add(job->mover, extent, run->host_offset + (extent->guest_offset - base),
                                  error);
        if (!ok) {
            return false;
        }
    }
    Qcow2Extent tail = { .guest_offset = run->guest_end,
                         .len_bytes = end - run->guest_end,
                         .kind = QCOW2_EXTENT_ZERO };
    return tail.len_bytes == 0
        || qcow2_mover_add(job->mover, &tail, run->host_offset + (run->guest_end - base), error);
}

static bool set_entries(Qcow2InPlaceJob *job, GError **error)
{
    for (guint i = 0; i < job->runs->len; i++) {
        const Qcow2ClusterRun *run = &g_array_index(job->runs, Qcow2ClusterRun, i);
        if (!qcow2_in_place_set(job, run, error)) {
            return false;
        }
        if (qcow2_in_place_is_shared(job, run, job->extents)) {
            qcow2_placed_add(job->options.placed, run->first_cluster, run->n_clusters, run->host_offset);
        }
    }
    return true;
}

bool qcow2_in_place_finish_data(Qcow2InPlaceJob *job, GError **error)
{
    g_auto(Qcow2Placement) placement = { 0 };

    if (job->runs->len == 0) {
        return true;
    }
    qcow2_placement_init(&placement, job->runs, job->extents);
    bool ok = take_first(job, error)
           && (job->shares ? take_by_source(job, &placement, error) : take_by_guest(job, error))
           && set_entries(job, error);
    for (guint i = 0; ok && i < placement.order->len; i++) {
        ok = fill_run(job, qcow2_placement_run(&placement, i), error);
    }
    g_array_set_size(job->runs, 0);
    g_array_set_size(job->extents, 0);
    return ok;
}

bool qcow2_in_place_add_data(Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, const GArray *extents,
                             GError **error)
{
    Qcow2ClusterRun waiting = *run;

    waiting.first_extent = job->extents->len;
    for (guint i = run->first_extent; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->guest_offset >= run->guest_end) {
            break;
        }
        Qcow2Extent slice = qcow2_slice_of_run(run, extent);
        g_array_append_val(job->extents, slice);
    }
    g_array_append_val(job->runs, waiting);
    job->stats.data_clusters += run->n_clusters;
    return job->extents->len < MAX_WAITING || qcow2_in_place_finish_data(job, error);
}
