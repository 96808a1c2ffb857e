/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An overlay in file order, for pipes: the head, all tables, then all data. */
#include "move/overlay-parts.h"
#include "util/progress.h"

#define BUFFER_SIZE (UINT64_C(128) << 10)

bool qcow2_overlay_write_head(Qcow2Overlay *overlay, Qcow2Io *io, GError **error)
{
    return qcow2_new_image_write_head(overlay->image, io, true, error);
}

bool qcow2_overlay_write_tables(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error)
{
    Qcow2RunCursor cursor = { 0 };
    Qcow2ClusterRun run;

    while (qcow2_next_run(&overlay->rules, extents, &cursor, &run)) {
        bool is_zero = run.kind == QCOW2_RUN_ZERO;
        uint64_t host_offset = is_zero ? 0 : qcow2_new_image_take(overlay->image, run.n_clusters);
        if (!(is_zero ? qcow2_overlay_map_zero(overlay, io, &run, error)
                      : qcow2_overlay_map_data(overlay, io, &run, host_offset, error))) {
            return false;
        }
    }
    return true;
}

bool qcow2_overlay_end_tables(Qcow2Overlay *overlay, Qcow2Io *io, GError **error)
{
    bool ok = qcow2_new_image_end_tables(overlay->image, io, error);

    qcow2_new_image_restart_data(overlay->image);
    return ok;
}

/* The bytes of one extent's part of a run, at their place; the target fills the gaps with zeros. */
static bool write_slice(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2Extent *slice, uint64_t target_offset,
                        uint8_t *buffer, GError **error)
{
    Qcow2Reader *reader = qcow2_reader_pool_take(overlay->readers);
    bool ok = true;

    for (uint64_t done = 0; ok && done < slice->len_bytes;) {
        size_t len = MIN(BUFFER_SIZE, slice->len_bytes - done);
        ok = qcow2_state_read_extent(overlay->state, reader, slice, slice->guest_offset + done, buffer, len,
                                     error)
             && qcow2_io_write_named(io, target_offset + done, buffer, len, error)
             && qcow2_progress_advance(overlay->progress, len, error);
        done += len;
    }
    overlay->stats.moved.bytes_copied += slice->len_bytes;
    qcow2_reader_pool_give(overlay->readers, reader);
    return ok;
}

bool qcow2_overlay_write_data(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(BUFFER_SIZE);
    Qcow2RunCursor cursor = { 0 };
    Qcow2ClusterRun run;

    while (qcow2_next_run(&overlay->rules, extents, &cursor, &run)) {
        if (run.kind == QCOW2_RUN_ZERO) {
            continue;
        }
        uint64_t host_offset = qcow2_new_image_take(overlay->image, run.n_clusters);
        uint64_t base = run.first_cluster << overlay->rules.layout->cluster_bits;
        for (guint i = run.first_extent; i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            if (extent->guest_offset >= run.guest_end) {
                break;
            }
            Qcow2Extent slice = qcow2_slice_of_run(&run, extent);
            if (!write_slice(overlay, io, &slice, host_offset + (slice.guest_offset - base), buffer, error)) {
                return false;
            }
        }
    }
    return true;
}

uint64_t qcow2_overlay_end(const Qcow2Overlay *overlay)
{
    return qcow2_new_image_end(overlay->image);
}
