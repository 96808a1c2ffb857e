/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/overlay.h"

#include "format/l2.h"
#include "image/reserve.h"
#include "move/overlay-parts.h"
#include "move/placement.h"
#include "move/streams.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/progress.h"

/* Runs wait for the streams before them, so that entries come in guest order; this bounds what waits. */
#define BATCH_STREAM_BYTES (UINT64_C(16) << 20)

/* What has to be aligned where extents are shared: a block of every file system that can do it. */
#define PROBE_SIZE UINT64_C(4096)

uint64_t qcow2_overlay_unit(const Qcow2Header *header)
{
    return header->layout.subcluster_size;
}

/* Version 2 cannot say "zeros" where something lies below. */
static bool zeros_need_data(const Qcow2NewImage *image, const Qcow2OverlayOptions *options)
{
    return options->map_zeros
        || (qcow2_new_image_layout(image)->version < 3 && !options->zeros_are_nothing);
}

Qcow2Overlay *qcow2_overlay_new(Qcow2State *state, Qcow2Header *header, const Qcow2OverlayOptions *options,
                                Qcow2Progress *progress, GError **error)
{
    Qcow2Compression compression = header->compression;
    Qcow2NewImage *image = qcow2_new_image_new(header, error);

    if (!image) {
        return NULL;
    }
    Qcow2Overlay *overlay = g_new0(Qcow2Overlay, 1);
    overlay->state = state;
    overlay->options = *options;
    overlay->progress = progress;
    overlay->image = image;
    overlay->rules = (Qcow2RunRules) {
        .state = state,
        .layout = qcow2_new_image_layout(image),
        .compression = compression,
        .compress = options->compress,
        .zeros_need_data = zeros_need_data(image, options),
        .unpack = options->unpack && !options->compress,
        .read_first = options->sparse.block > 0,
    };
    overlay->readers = qcow2_reader_pool_new();
    overlay->runs = g_array_new(FALSE, FALSE, sizeof(Qcow2ClusterRun));
    overlay->streams = g_array_new(FALSE, TRUE, sizeof(Qcow2Stream));
    return overlay;
}

void qcow2_overlay_free(Qcow2Overlay *overlay)
{
    if (!overlay) {
        return;
    }
    qcow2_mover_free(overlay->mover);
    qcow2_new_image_free(overlay->image);
    qcow2_reader_pool_free(overlay->readers);
    qcow2_streams_clear(overlay->streams);
    g_array_unref(overlay->streams);
    g_array_unref(overlay->runs);
    g_free(overlay);
}

bool qcow2_overlay_has_streams(const Qcow2Overlay *overlay)
{
    return overlay->has_streams;
}

Qcow2OverlayStats qcow2_overlay_get_stats(const Qcow2Overlay *overlay)
{
    Qcow2OverlayStats stats = overlay->stats;

    if (overlay->mover) {
        stats.moved = qcow2_mover_get_stats(overlay->mover);
    }
    return stats;
}

/* ---- Counting ---------------------------------------------------------------------------------- */

/* Clusters between the last run and @run, or the end without one; false: none, or they are not mapped. */
static bool next_gap(Qcow2Overlay *overlay, const Qcow2ClusterRun *run, Qcow2ClusterRun *ret)
{
    const Qcow2Layout *layout = overlay->rules.layout;
    uint64_t start = overlay->next_cluster;
    uint64_t end = run ? run->first_cluster
                       : qcow2_div_round_up(overlay->state->size, layout->cluster_size);

    overlay->next_cluster = run ? end + run->n_clusters : 0;
    return overlay->options.map_gaps && qcow2_gap_run(layout, start, end, ret);
}

static void expect_gap(Qcow2Overlay *overlay, const Qcow2ClusterRun *gap)
{
    qcow2_new_image_expect(overlay->image, gap->first_cluster, gap->n_clusters, gap->n_clusters);
}

/* For progress: what an interrupted copy has done comes only when it turns out to be of no use. */
static void expect_bytes(Qcow2Overlay *overlay, const Qcow2ClusterRun *run)
{
    uint64_t resume_end = overlay->options.resume_end;
    uint64_t done_end = MIN(MAX(resume_end, run->guest_start), run->guest_end);

    overlay->done_bytes += done_end - run->guest_start;
    qcow2_progress_expect(overlay->progress, run->guest_end - done_end);
}

void qcow2_overlay_expect(Qcow2Overlay *overlay, const GArray *extents)
{
    Qcow2RunCursor cursor = { 0 };
    Qcow2ClusterRun run, gap;

    while (qcow2_next_run(&overlay->rules, extents, &cursor, &run)) {
        if (next_gap(overlay, &run, &gap)) {
            expect_gap(overlay, &gap);
        }
        bool has_cluster = run.kind != QCOW2_RUN_ZERO || overlay->options.map_gaps;
        uint64_t n_data = has_cluster ? run.n_clusters : 0;
        if (n_data == 0 && overlay->options.zeros_are_nothing) {
            continue;
        }
        qcow2_new_image_expect(overlay->image, run.first_cluster, run.n_clusters, n_data);
        overlay->has_streams |= run.kind == QCOW2_RUN_STREAM;
        overlay->stats.bytes += run.guest_end - run.guest_start;
        if (n_data > 0) {
            expect_bytes(overlay, &run);
        }
    }
}

bool qcow2_overlay_lay_out(Qcow2Overlay *overlay, GError **error)
{
    Qcow2ClusterRun gap;

    if (next_gap(overlay, NULL, &gap)) {
        expect_gap(overlay, &gap);
    }
    return qcow2_new_image_lay_out(overlay->image, error);
}

/* ---- Entries ----------------------------------------------------------------------------------- */

static uint64_t bitmap_of(const Qcow2Overlay *overlay, const Qcow2ClusterRun *run)
{
    return overlay->rules.layout->extended_l2 ? (uint64_t)run->zero_mask << 32 | run->data_mask : 0;
}

/* In a data file every cluster is where the guest has it. */
uint64_t qcow2_overlay_take(Qcow2Overlay *overlay, uint64_t first_cluster, uint64_t n_clusters)
{
    return overlay->options.data ? first_cluster << overlay->rules.layout->cluster_bits
                                 : qcow2_new_image_take(overlay->image, n_clusters);
}

bool qcow2_overlay_map_data(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2ClusterRun *run,
                            uint64_t host_offset, GError **error)
{
    overlay->stats.data_clusters += run->n_clusters;
    return qcow2_new_image_map(overlay->image, io, run->first_cluster, run->n_clusters,
                               host_offset | L2E_COPIED, bitmap_of(overlay, run),
                               overlay->rules.layout->cluster_size, error);
}

bool qcow2_overlay_map_zero(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2ClusterRun *run, GError **error)
{
    uint64_t raw = overlay->rules.layout->extended_l2 ? 0 : L2E_ZERO;

    if (overlay->options.zeros_are_nothing) {
        return true;
    }
    if (overlay->options.map_gaps) {
        uint64_t host_offset = qcow2_overlay_take(overlay, run->first_cluster, run->n_clusters);
        return qcow2_overlay_map_data(overlay, io, run, host_offset, error);
    }
    overlay->stats.zero_clusters += run->n_clusters;
    return qcow2_new_image_map(overlay->image, io, run->first_cluster, run->n_clusters, raw,
                               bitmap_of(overlay, run), 0, error);
}

/* A cluster that was only read to be looked at: with holes where the new file has them already. */
static bool write_plain(Qcow2Overlay *overlay, Qcow2Io *io, uint64_t cluster, const Qcow2Stream *stream,
                        GError **error)
{
    Qcow2ClusterRun run = { .first_cluster = cluster, .n_clusters = 1, .data_mask = UINT32_MAX };
    Qcow2SparseRule sparse = overlay->options.target_is_dirty ? (Qcow2SparseRule) { 0 }
                                                              : overlay->options.sparse;
    uint64_t host_offset = qcow2_overlay_take(overlay, cluster, 1);
    Qcow2Io *data = overlay->options.data ? overlay->options.data : io;
    /* A data file ends with the disk. */
    size_t len_bytes = overlay->options.data ? stream->guest_end - stream->guest_start : stream->len_bytes;
    bool zero;

    for (size_t done = 0, len; done < len_bytes; done += len) {
        len = qcow2_sparse_piece(&sparse, done, stream->bytes + done, len_bytes - done, &zero);
        if (!zero && !qcow2_io_write_named(data, host_offset + done, stream->bytes + done, len, error)) {
            return false;
        }
    }
    return qcow2_overlay_map_data(overlay, io, &run, host_offset, error);
}

static bool write_zero(Qcow2Overlay *overlay, Qcow2Io *io, uint64_t cluster, GError **error)
{
    Qcow2ClusterRun run = { .first_cluster = cluster, .n_clusters = 1, .zero_mask = UINT32_MAX };

    return qcow2_overlay_map_zero(overlay, io, &run, error);
}

static bool write_compressed(Qcow2Overlay *overlay, Qcow2Io *io, uint64_t cluster, const Qcow2Stream *stream,
                             GError **error)
{
    uint64_t host_offset = qcow2_new_image_take_stream(overlay->image, stream->len_bytes), raw;

    if (!qcow2_l2_encode_compressed(overlay->rules.layout, host_offset, stream->len_bytes, &raw)) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "'%s': a compressed cluster at 0x%" PRIx64 " is past what an entry"
                          " can name: choose other clusters",
                          io->name, host_offset);
    }
    overlay->stats.compressed_clusters++;
    overlay->stats.bytes_passed_through += stream->pass_through ? stream->len_bytes : 0;
    return qcow2_new_image_map(overlay->image, io, cluster, 1, raw, 0, 0, error)
        && qcow2_io_write_named(io, host_offset, stream->bytes, stream->len_bytes, error);
}

static bool write_stream(Qcow2Overlay *overlay, Qcow2Io *io, uint64_t cluster, const Qcow2Stream *stream,
                         GError **error)
{
    bool ok = stream->zero         ? write_zero(overlay, io, cluster, error)
              : stream->compressed ? write_compressed(overlay, io, cluster, stream, error)
                                   : write_plain(overlay, io, cluster, stream, error);

    return ok && qcow2_progress_advance(overlay->progress, stream->guest_end - stream->guest_start, error);
}

/* ---- Windows into a file ----------------------------------------------------------------------- */

/* What a cluster holds past the end of the disk would show when the disk grows. */
static bool move_tail(Qcow2Overlay *overlay, const Qcow2ClusterRun *run, uint64_t host_offset, GError **error)
{
    unsigned cluster_bits = overlay->rules.layout->cluster_bits;
    uint64_t base = run->first_cluster << cluster_bits, end = base + (run->n_clusters << cluster_bits);
    Qcow2Extent tail = {
        .guest_offset = run->guest_end, .len_bytes = end - run->guest_end, .kind = QCOW2_EXTENT_ZERO,
    };

    /* A data file ends with the disk. */
    return !overlay->options.target_is_dirty || tail.len_bytes == 0 || overlay->options.data
        || qcow2_mover_add(overlay->mover, &tail, host_offset + (run->guest_end - base), error);
}

/* What reads as zeros is a hole of a new file already. */
static bool move_run(Qcow2Overlay *overlay, const Qcow2ClusterRun *run, const GArray *extents,
                     uint64_t host_offset, GError **error)
{
    uint64_t base = run->first_cluster << overlay->rules.layout->cluster_bits;

    for (guint i = run->first_extent; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->guest_offset >= run->guest_end) {
            break;
        }
        Qcow2Extent slice = qcow2_slice_of_run(run, extent);
        bool zero = extent->kind == QCOW2_EXTENT_ZERO || extent->kind == QCOW2_EXTENT_UNALLOCATED;
        if (zero && !overlay->options.target_is_dirty) {
            if (!qcow2_progress_advance(overlay->progress, slice.len_bytes, error)) {
                return false;
            }
        } else if (!qcow2_mover_add(overlay->mover, &slice, host_offset + (slice.guest_offset - base),
                                    error)) {
            return false;
        }
    }
    return move_tail(overlay, run, host_offset, error);
}

static void queue_streams(Qcow2Overlay *overlay, const Qcow2ClusterRun *run, const GArray *extents)
{
    uint64_t cluster_size = overlay->rules.layout->cluster_size;

    for (uint64_t start = run->guest_start; start < run->guest_end; start += cluster_size) {
        Qcow2Stream stream = {
            .guest_start = start,
            .guest_end = MIN(start + cluster_size, run->guest_end),
            .extents = extents,
            .first_extent = run->first_extent,
            .pass_through = run->pass_through,
            .store = overlay->rules.unpack,
            .find_zero = overlay->options.sparse.block > 0 && !overlay->rules.zeros_need_data,
        };
        g_array_append_val(overlay->streams, stream);
    }
}

/* Tried with what comes first in the order of the source, in which the runs are placed now. */
static bool can_share(Qcow2Overlay *overlay, const Qcow2Placement *placement)
{
    unsigned cluster_bits = overlay->rules.layout->cluster_bits;
    const Qcow2ClusterRun *run = qcow2_placement_run(placement, 0);
    Qcow2Extent extent;

    return qcow2_run_first_data(run, placement->extents, &extent)
        && qcow2_mover_can_share(overlay->mover, &extent, run->host_offset + extent.guest_offset
                                                          - (run->first_cluster << cluster_bits));
}

/* Gives the waiting runs of data their clusters, and fills these. */
static bool place_data(Qcow2Overlay *overlay, const GArray *extents, GError **error)
{
    unsigned cluster_bits = overlay->rules.layout->cluster_bits;
    g_auto(Qcow2Placement) placement = { 0 };

    qcow2_placement_init(&placement, overlay->runs, extents);
    if (placement.n_clusters == 0) {
        return true;
    }
    if (overlay->options.data) {
        qcow2_placement_as_guest(&placement, cluster_bits);
    } else {
        uint64_t host_offset = qcow2_new_image_take(overlay->image, placement.n_clusters);
        qcow2_placement_by_source(&placement, host_offset, cluster_bits);
        if (!can_share(overlay, &placement)) {
            qcow2_placement_by_guest(&placement, host_offset, cluster_bits);
        }
    }
    for (guint i = 0; i < placement.order->len; i++) {
        const Qcow2ClusterRun *run = qcow2_placement_run(&placement, i);
        if (!move_run(overlay, run, extents, run->host_offset, error)) {
            return false;
        }
    }
    return true;
}

static bool write_waiting_run(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2ClusterRun *run, guint *stream,
                              GError **error)
{
    switch (run->kind) {
    case QCOW2_RUN_ZERO:
        return qcow2_overlay_map_zero(overlay, io, run, error)
            && qcow2_progress_advance(overlay->progress, run->guest_end - run->guest_start, error);
    case QCOW2_RUN_DATA:
        return qcow2_overlay_map_data(overlay, io, run, run->host_offset, error);
    case QCOW2_RUN_STREAM:
        for (uint64_t i = 0; i < run->n_clusters; i++) {
            if (!write_stream(overlay, io, run->first_cluster + i,
                              &g_array_index(overlay->streams, Qcow2Stream, *stream), error)) {
                return false;
            }
            (*stream)++;
        }
        break;
    }
    return true;
}

/* The mover does the same for what it moves. */
static void start_writeback(Qcow2Overlay *overlay, Qcow2Io *io)
{
    uint64_t end = qcow2_new_image_end(overlay->image);

    qcow2_io_start_writeback(io, overlay->written_back, end - overlay->written_back);
    overlay->written_back = end;
}

static bool write_waiting_runs(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error)
{
    Qcow2StreamRules rules = {
        overlay->state,
        overlay->rules.layout->cluster_size,
        overlay->rules.compression,
        overlay->options.n_threads,
        overlay->readers,
    };
    bool ok = place_data(overlay, extents, error)
           && (overlay->streams->len == 0 || qcow2_streams_make(&rules, overlay->streams, error));
    guint stream = 0;

    for (guint i = 0; ok && i < overlay->runs->len; i++) {
        ok =
            write_waiting_run(overlay, io, &g_array_index(overlay->runs, Qcow2ClusterRun, i), &stream, error);
    }
    if (stream > 0) {
        start_writeback(overlay, io);
    }
    qcow2_streams_clear(overlay->streams);
    g_array_set_size(overlay->runs, 0);
    return ok;
}

static Qcow2Mover *new_mover(Qcow2Overlay *overlay, Qcow2Io *io)
{
    Qcow2MoverOptions options = {
        .n_threads = overlay->options.n_threads,
        .no_reflink = overlay->options.no_reflink,
        .source_in_use = overlay->options.source_in_use,
        .sparse = overlay->options.sparse,
        .target_is_zero = !overlay->options.target_is_dirty,
    };

    return qcow2_mover_new(overlay->state, overlay->options.data ? overlay->options.data : io, &options,
                           overlay->progress);
}

static void need_mover(Qcow2Overlay *overlay, Qcow2Io *io)
{
    if (!overlay->mover) {
        overlay->mover = new_mover(overlay, io);
    }
}

/* Tried at the beginning of the new file, which is written at the end; in a data file where it belongs. */
bool qcow2_overlay_can_share(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents)
{
    need_mover(overlay, io);
    for (guint i = 0; i < extents->len && overlay->sharing == SHARING_UNKNOWN; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->kind == QCOW2_EXTENT_DATA && extent->len_bytes >= PROBE_SIZE
            && extent->host_offset % PROBE_SIZE == 0) {
            bool works = overlay->options.data
                           ? qcow2_mover_can_share(overlay->mover, extent, extent->guest_offset)
                           : qcow2_mover_can_share(overlay->mover, extent, 0)
                                 && qcow2_io_zero(io, 0, PROBE_SIZE, true, NULL);
            overlay->sharing = works ? SHARING_WORKS : SHARING_FAILS;
        }
    }
    return overlay->sharing == SHARING_WORKS;
}

bool qcow2_overlay_write(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error)
{
    Qcow2RunCursor cursor = { 0 };
    Qcow2ClusterRun run, gap;

    need_mover(overlay, io);
    while (qcow2_next_run(&overlay->rules, extents, &cursor, &run)) {
        if (next_gap(overlay, &run, &gap)) {
            g_array_append_val(overlay->runs, gap);
        }
        g_array_append_val(overlay->runs, run);
        if (run.kind == QCOW2_RUN_STREAM) {
            queue_streams(overlay, &run, extents);
        }
        if (overlay->streams->len * overlay->rules.layout->cluster_size >= BATCH_STREAM_BYTES
            && !write_waiting_runs(overlay, io, extents, error)) {
            return false;
        }
    }
    return write_waiting_runs(overlay, io, extents, error);
}

static bool map_last_gap(Qcow2Overlay *overlay, Qcow2Io *io, GError **error)
{
    Qcow2ClusterRun gap;

    return !next_gap(overlay, NULL, &gap)
        || qcow2_overlay_map_data(overlay, io, &gap,
                                  qcow2_overlay_take(overlay, gap.first_cluster, gap.n_clusters), error);
}

bool qcow2_overlay_finish(Qcow2Overlay *overlay, Qcow2Io *io, uint64_t *ret_len, GError **error)
{
    bool ok = map_last_gap(overlay, io, error);

    *ret_len = qcow2_new_image_end(overlay->image);
    return ok && (!overlay->mover || qcow2_mover_drain(overlay->mover, error))
        && qcow2_new_image_end_tables(overlay->image, io, error)
        && qcow2_new_image_write_head(overlay->image, io, false, error)
        && qcow2_io_truncate(io, *ret_len, error);
}

bool qcow2_overlay_reserve(Qcow2Overlay *overlay, Qcow2Io *io, Qcow2Preallocation mode, GError **error)
{
    Qcow2Range data = overlay->options.data ? (Qcow2Range) { 0, overlay->state->size }
                                            : qcow2_new_image_data(overlay->image);

    return qcow2_reserve(overlay->options.data ? overlay->options.data : io, data.start, data.end, mode,
                         overlay->progress, error);
}

Qcow2Range qcow2_overlay_data(const Qcow2Overlay *overlay)
{
    return qcow2_new_image_data(overlay->image);
}

bool qcow2_overlay_clear_tables(Qcow2Overlay *overlay, Qcow2Io *io, GError **error)
{
    if (!qcow2_io_zero(io, 0, qcow2_new_image_data(overlay->image).start, true, error)) {
        g_prefix_error(error, "'%s': ", io->name);
        return false;
    }
    return true;
}

/* ---- Going on ---------------------------------------------------------------------------------- */

bool qcow2_overlay_settle(Qcow2Overlay *overlay, Qcow2Io *io, Qcow2NewImagePosition *ret, GError **error)
{
    return qcow2_mover_drain(overlay->mover, error)
        && qcow2_new_image_position(overlay->image, io, ret, error);
}

bool qcow2_overlay_save(Qcow2Overlay *overlay, Qcow2Io *io, GError **error)
{
    return (!overlay->options.data || qcow2_io_flush(overlay->options.data, error))
        && qcow2_new_image_save(overlay->image, io, error)
        && qcow2_io_flush(io, error);
}

bool qcow2_overlay_restore(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2NewImagePosition *position,
                           uint64_t guest_end, bool *ret_fits, GError **error)
{
    uint64_t n_clusters = qcow2_div_round_up(guest_end, overlay->rules.layout->cluster_size);

    if (!qcow2_new_image_restore(overlay->image, io, position, n_clusters, ret_fits, error)) {
        return false;
    }
    if (*ret_fits) {
        overlay->stats.bytes -= overlay->done_bytes;
    } else {
        qcow2_progress_expect(overlay->progress, overlay->done_bytes);
    }
    return true;
}
