/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/cluster-runs.h"

#include "move/holes.h"

/* Streams are made in batches that are kept in memory. */
#define MAX_STREAM_BYTES (UINT64_C(4) << 20)

static const Qcow2Extent *extent_at(const GArray *extents, guint index)
{
    return index < extents->len ? &g_array_index(extents, Qcow2Extent, index) : NULL;
}

static bool reads_zero(const Qcow2Extent *extent)
{
    return extent->kind == QCOW2_EXTENT_ZERO || extent->kind == QCOW2_EXTENT_UNALLOCATED;
}

/* The same clusters and the same compression: the stream means the same in the target. */
static bool can_pass_through(const Qcow2RunRules *rules, const Qcow2Extent *extent)
{
    const Qcow2Image *image = qcow2_chain_image(rules->state->chain, extent->layer);

    return !rules->unpack && image->header.layout.cluster_size == rules->layout->cluster_size
        && image->header.compression == rules->compression && image->header.crypt == QCOW2_CRYPT_NONE;
}

/* How many whole clusters from @start on lie in @extent; the state's last one may be short. */
static uint64_t whole_clusters(const Qcow2RunRules *rules, const Qcow2Extent *extent, uint64_t start)
{
    uint64_t cluster_size = rules->layout->cluster_size;
    uint64_t end = qcow2_extent_end(extent);

    if (start % cluster_size != 0) {
        return 0;
    }
    return end >= rules->state->size ? qcow2_div_round_up(end - start, cluster_size)
                                     : (end - start) / cluster_size;
}

static uint32_t low_bits(unsigned n)
{
    return n >= 32 ? UINT32_MAX : (UINT32_C(1) << n) - 1;
}

/* The bits of the subclusters that [start, end) touches, in a cluster that begins at @base. */
static uint32_t subcluster_bits(const Qcow2Layout *layout, uint64_t base, uint64_t start, uint64_t end)
{
    unsigned first = (unsigned)((start - base) / layout->subcluster_size);
    unsigned last = (unsigned)qcow2_div_round_up(end - base, layout->subcluster_size);

    return low_bits(last) & ~low_bits(first);
}

static Qcow2RunKind kind_of_data(const Qcow2RunRules *rules, bool is_cheap)
{
    return rules->compress || (rules->read_first && !is_cheap) ? QCOW2_RUN_STREAM : QCOW2_RUN_DATA;
}

static void run_of_one_extent(const Qcow2RunRules *rules, const Qcow2Extent *extent, uint64_t n,
                              Qcow2ClusterRun *run)
{
    uint64_t cluster_size = rules->layout->cluster_size;

    if (extent->kind == QCOW2_EXTENT_COMPRESSED && can_pass_through(rules, extent)) {
        run->kind = QCOW2_RUN_STREAM;
        /* Past the state's end it may hold what was there before the disk shrank: made anew, it holds zeros.
         */
        run->pass_through = rules->state->size - run->guest_start >= cluster_size;
        n = 1;
    } else if (reads_zero(extent) && !rules->zeros_need_data) {
        run->kind = QCOW2_RUN_ZERO;
        run->zero_mask = UINT32_MAX;
    } else {
        run->kind = kind_of_data(rules, reads_zero(extent) || qcow2_is_cheap_to_read(rules->state, extent));
        run->data_mask = UINT32_MAX;
    }
    if (run->kind == QCOW2_RUN_STREAM) {
        n = MIN(n, MAX(1, MAX_STREAM_BYTES / cluster_size));
    }
    run->n_clusters = n;
    run->guest_end = MIN(run->guest_start + n * cluster_size, rules->state->size);
}

/* One cluster of several extents, or with parts that are not carried (extended L2). */
static void run_of_mixed_cluster(const Qcow2RunRules *rules, const GArray *extents, guint index,
                                 Qcow2ClusterRun *run)
{
    const Qcow2Layout *layout = rules->layout;
    uint64_t base = run->first_cluster << layout->cluster_bits;
    uint64_t end = MIN(base + layout->cluster_size, rules->state->size);
    uint64_t carried = 0;
    bool any_data = rules->zeros_need_data, all_cheap = true;
    const Qcow2Extent *extent;

    run->n_clusters = 1;
    for (; (extent = extent_at(extents, index)) && extent->guest_offset < end; index++) {
        uint64_t piece_start = MAX(extent->guest_offset, run->guest_start);
        uint64_t piece_end = MIN(qcow2_extent_end(extent), end);
        uint32_t bits = subcluster_bits(layout, base, piece_start, piece_end);
        if (reads_zero(extent)) {
            run->zero_mask |= bits;
        } else {
            run->data_mask |= bits;
            any_data = true;
            all_cheap = all_cheap && qcow2_is_cheap_to_read(rules->state, extent);
        }
        carried += piece_end - piece_start;
        run->guest_end = piece_end;
    }
    run->zero_mask &= ~run->data_mask;
    /* A stream is always a whole cluster. */
    run->kind = !any_data             ? QCOW2_RUN_ZERO
              : carried == end - base ? kind_of_data(rules, all_cheap)
                                      : QCOW2_RUN_DATA;
}

Qcow2Extent qcow2_slice_of_run(const Qcow2ClusterRun *run, const Qcow2Extent *extent)
{
    return qcow2_extent_slice(extent, MAX(extent->guest_offset, run->guest_start),
                              MIN(qcow2_extent_end(extent), run->guest_end));
}

bool qcow2_gap_run(const Qcow2Layout *layout, uint64_t start, uint64_t end, Qcow2ClusterRun *ret)
{
    uint64_t guest_end = end << layout->cluster_bits;

    *ret = (Qcow2ClusterRun) {
        .kind = QCOW2_RUN_DATA,
        .first_cluster = start,
        .n_clusters = start < end ? end - start : 0,
        .guest_start = guest_end,
        .guest_end = guest_end,
        .first_extent = G_MAXUINT,
    };
    return start < end;
}

bool qcow2_next_run(const Qcow2RunRules *rules, const GArray *extents, Qcow2RunCursor *cursor,
                    Qcow2ClusterRun *ret)
{
    const Qcow2Extent *extent = extent_at(extents, cursor->extent);

    if (!extent) {
        return false;
    }
    uint64_t start = MAX(cursor->offset, extent->guest_offset);
    uint64_t n = whole_clusters(rules, extent, start);
    *ret = (Qcow2ClusterRun) {
        .first_cluster = start >> rules->layout->cluster_bits,
        .guest_start = start,
        .first_extent = cursor->extent,
    };
    if (n > 0) {
        run_of_one_extent(rules, extent, n, ret);
    } else {
        run_of_mixed_cluster(rules, extents, cursor->extent, ret);
    }

    cursor->offset = ret->guest_end;
    while ((extent = extent_at(extents, cursor->extent)) && qcow2_extent_end(extent) <= cursor->offset) {
        cursor->extent++;
    }
    return true;
}
