/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Export the change between two states.
 *
 *   step                                                a crash afterwards leaves
 *   1  note what must not change (witness)              nothing
 *   2  choose the ranges that differ, from metadata     nothing
 *   3  move them into a new file under another name     a temporary file
 *   4  prove that nothing changed meanwhile             a temporary file
 *   5  flush, rename, flush the folder                  the delta, whole
 */
#include <string.h>

#include "io/backends.h"
#include "ops/export.h"
#include "util/error.h"
#include "util/progress.h"

Qcow2Choice *qcow2_export_choice(const Qcow2Export *job, uint64_t unit, bool aligned, GError **error)
{
    Qcow2ChoiceOptions options = {
        .unit = unit,
        .compare_data = job->options->compare_data,
        .n_threads = job->to->chain->options.n_threads,
        .not_aligned = !aligned,
        .progress = job->progress,
    };

    return qcow2_choice_new(job->from, job->to, &options, error);
}

static bool begin(Qcow2Export *job, GError **error)
{
    Qcow2State *states[] = { job->from, job->to };

    if (job->from->chain != job->to->chain) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "the two states are of different images");
    }
    qcow2_states_share_size(job->from, job->to);
    job->witness = qcow2_witness_begin(states, G_N_ELEMENTS(states), error);
    return job->witness != NULL;
}

static bool dispatch(Qcow2Export *job, GError **error)
{
    const char *format = job->options->output_format;

    if (format && strcmp(format, "raw") == 0) {
        return qcow2_export_to_raw(job, error);
    }
    if (format && strcmp(format, "qcow2") != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "output format '%s' is not supported; qcow2 and raw are", format);
    }
    return strcmp(job->output, "-") == 0 ? qcow2_export_to_pipe(job, error)
                                         : qcow2_export_to_file(job, error);
}

bool qcow2_export_delta(Qcow2State *from, Qcow2State *to, const char *output,
                        const Qcow2ExportOptions *options, Qcow2ExportResult *ret_result,
                        Qcow2Progress *progress, GError **error)
{
    static const Qcow2ExportOptions defaults = { 0 };
    Qcow2Export job = {
        .from = from,
        .to = to,
        .options = options ? options : &defaults,
        .output = output,
        .progress = progress,
    };

    if (!begin(&job, error)) {
        return false;
    }
    bool ok = dispatch(&job, error);
    if (ok) {
        qcow2_progress_finish(progress);
    } else {
        qcow2_witness_explain(job.witness, error);
    }
    qcow2_witness_free(job.witness);
    if (ok && ret_result) {
        *ret_result = job.result;
    }
    return ok;
}

/* ---- Only the ranges --------------------------------------------------------------------------- */

static bool reads_zero(const Qcow2Extent *extent)
{
    return extent->kind == QCOW2_EXTENT_ZERO || extent->kind == QCOW2_EXTENT_UNALLOCATED;
}

/* Gives the extents of a window, those of one kind joined across host borders. */
static bool report(const GArray *extents, Qcow2DiffExtent *pending, Qcow2DiffFunc func, void *data)
{
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        bool zero = reads_zero(extent), compressed = extent->kind == QCOW2_EXTENT_COMPRESSED;
        if (pending->length > 0 && pending->start + pending->length == extent->guest_offset
            && pending->zero == zero && pending->compressed == compressed) {
            pending->length += extent->len_bytes;
            continue;
        }
        if (pending->length > 0 && !func(pending, data)) {
            return false;
        }
        *pending = (Qcow2DiffExtent){
            .start = extent->guest_offset,
            .length = extent->len_bytes,
            .data = !zero,
            .zero = zero,
            .compressed = compressed,
        };
    }
    return true;
}

static bool map_windows(Qcow2Choice *choice, Qcow2DiffFunc func, void *data, Qcow2Progress *progress,
                        GError **error)
{
    Qcow2DiffExtent pending = { 0 };
    const GArray *extents = NULL;

    do {
        if (!qcow2_progress_check(progress, error) || !qcow2_choice_next(choice, &extents, error)) {
            return false;
        }
        if (extents && !report(extents, &pending, func, data)) {
            return true;    /* the caller has seen enough */
        }
    } while (extents);
    if (pending.length > 0) {
        func(&pending, data);
    }
    return true;
}

bool qcow2_export_map(Qcow2State *from, Qcow2State *to, const Qcow2ExportOptions *options,
                      Qcow2DiffFunc func, void *data, Qcow2Progress *progress, GError **error)
{
    static const Qcow2ExportOptions defaults = { 0 };
    Qcow2Export job = {
        .from = from, .to = to, .options = options ? options : &defaults, .progress = progress
    };
    g_auto(Qcow2Header) header = { 0 };

    if (!begin(&job, error)) {
        return false;
    }
    g_autoptr(Qcow2Choice) choice = NULL;
    bool ok = qcow2_export_header(&job, false, &header, error)
           && (choice = qcow2_export_choice(&job, qcow2_overlay_unit(&header), true, error))
           && map_windows(choice, func, data, progress, error)
           && qcow2_witness_end(job.witness, error);
    if (ok) {
        qcow2_progress_finish(progress);
    } else {
        qcow2_witness_explain(job.witness, error);
    }
    qcow2_witness_free(job.witness);
    return ok;
}
