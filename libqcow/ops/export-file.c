/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A delta as a new file. */
#include "move/fill.h"
#include "move/output.h"
#include "ops/export.h"
#include "util/error.h"
#include "util/progress.h"

Qcow2Overlay *qcow2_export_count(Qcow2Export *job, Qcow2Header *header, Qcow2Choice *choice, GError **error)
{
    Qcow2OverlayOptions options = {
        .compress = job->options->compress,
        .n_threads = job->to->chain->options.n_threads,
        .no_reflink = job->options->no_reflink,
        .source_in_use = qcow2_export_source_in_use(job),
    };
    g_autoptr(Qcow2Overlay) overlay = qcow2_overlay_new(job->to, header, &options, job->progress, error);

    Qcow2Fill fill = { .overlay = overlay, .choice = choice, .progress = job->progress };

    return overlay && qcow2_fill_count(&fill, error) ? g_steal_pointer(&overlay) : NULL;
}

bool qcow2_export_write(Qcow2Export *job, Qcow2Overlay *overlay, Qcow2Choice *choice, Qcow2Io *io,
                        GError **error)
{
    Qcow2Fill fill = { .overlay = overlay, .choice = choice, .progress = job->progress };
    uint64_t file_len;

    if (!qcow2_fill_write(&fill, io, &file_len, error)) {
        return false;
    }
    qcow2_export_take_stats(job, overlay, file_len);
    return true;
}

void qcow2_export_take_stats(Qcow2Export *job, const Qcow2Overlay *overlay, uint64_t file_len)
{
    Qcow2OverlayStats stats = qcow2_overlay_get_stats(overlay);

    job->result = (Qcow2ExportResult) {
        .bytes = stats.bytes,
        .clusters = stats.data_clusters + stats.zero_clusters + stats.compressed_clusters,
        .data_clusters = stats.data_clusters,
        .zero_clusters = stats.zero_clusters,
        .compressed_clusters = stats.compressed_clusters,
        .bytes_copied = stats.moved.bytes_copied,
        .bytes_cloned = stats.moved.bytes_cloned,
        .bytes_passed_through = stats.bytes_passed_through,
        .output_size = file_len,
        .virtual_size = job->to->size,
    };
}

bool qcow2_export_fill(Qcow2Export *job, Qcow2Header *header, Qcow2Io *io, GError **error)
{
    g_autoptr(Qcow2Choice) choice = qcow2_export_choice(job, qcow2_overlay_unit(header), true, error);
    g_autoptr(Qcow2Overlay) overlay = choice ? qcow2_export_count(job, header, choice, error) : NULL;

    return overlay && qcow2_export_write(job, overlay, choice, io, error);
}

bool qcow2_export_to_file(Qcow2Export *job, GError **error)
{
    g_auto(Qcow2Header) header = { 0 };

    if (!qcow2_export_header(job, false, &header, error)
        || (job->options->overwrite && !qcow2_refuse_layer(job->to->chain, job->output, error))) {
        return false;
    }
    /* The output first: that it cannot be made should be known before the work. */
    g_autoptr(Qcow2Output) output =
        qcow2_output_new(job->output, job->options->overwrite, job->options->cache, error);
    return output
        && qcow2_output_trace(output, job->options->trace, error)
        && qcow2_export_fill(job, &header, qcow2_output_io(output), error)
        && qcow2_io_flush(qcow2_output_io(output), error)
        && qcow2_witness_end(job->witness, error)
        && qcow2_progress_check(job->progress, error)
        && qcow2_output_publish(output, error);
}
