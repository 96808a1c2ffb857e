/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/check.h"

#include "image/bitmaps.h"
#include "image/check-pass.h"
#include "util/pool.h"

/* Clusters that are counted at a time: their counts take 64 MiB or little more. */
#define MAX_WINDOW BIT(28)

/*
 * Beyond 2 bits for each cluster, counts and the notes about COPIED flags (1 bit for each cluster, 32 MiB at
 * most) may take this much before a window is made smaller.
 */
#define SPARE_MEMORY (UINT64_C(40) << 20)

/* A sparse file may claim any size; each window means another pass over all tables. */
#define MAX_CLUSTERS BIT(33)

/* ---- Findings ------------------------------------------------------------------------------------ */

static void report(Qcow2CheckPass *pass, Qcow2Finding finding, const char *format, va_list args)
{
    g_autofree char *text = g_strdup_vprintf(format, args);

    finding.text = text;
    pass->func(&finding, pass->data);
}

void qcow2_check_found(Qcow2CheckPass *pass, Qcow2FindingKind kind, uint64_t count, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    report(pass, (Qcow2Finding) { .kind = kind, .count = count }, format, args);
    va_end(args);
}

void qcow2_check_corrupt(Qcow2CheckPass *pass, uint64_t count, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    report(pass, (Qcow2Finding) { .kind = QCOW2_FINDING_CORRUPTION, .count = count }, format, args);
    va_end(args);
}

void qcow2_check_found_more(Qcow2CheckPass *pass, Qcow2FindingKind kind, uint64_t count,
                            const char *format, ...)
{
    va_list args;

    va_start(args, format);
    report(pass, (Qcow2Finding) { .kind = kind, .additional = true, .count = count }, format, args);
    va_end(args);
}

/* ---- References ---------------------------------------------------------------------------------- */

void qcow2_check_report_outside(Qcow2CheckPass *pass, uint64_t offset, uint64_t len_bytes,
                                uint64_t weight)
{
    if (pass->first) {
        qcow2_check_corrupt(pass, weight,
                            "ERROR: counting reference for region exceeding the end of the file by one "
                            "cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64, offset, len_bytes);
    }
}

void qcow2_check_refer(Qcow2CheckPass *pass, uint64_t offset, uint64_t len_bytes, uint64_t weight)
{
    unsigned cluster_bits = pass->layout->cluster_bits;

    if (len_bytes == 0) {
        return;
    }
    if (!qcow2_check_is_inside(pass, offset, len_bytes)) {
        if (qcow2_range_fits(offset, len_bytes)) {
            uint64_t end = (offset + len_bytes - pass->layout->cluster_size) >> cluster_bits;
            pass->outside = MIN(pass->outside, end);
        }
        qcow2_check_report_outside(pass, offset, len_bytes, weight);
        return;
    }
    uint64_t first = offset >> cluster_bits, last = (offset + len_bytes - 1) >> cluster_bits;
    pass->n_clusters = MAX(pass->n_clusters, last + 1);
    qcow2_counts_add(pass->counts, first, last - first + 1, weight);
}

/* ---- The pass ------------------------------------------------------------------------------------ */

void qcow2_check_end(Qcow2CheckPass *pass)
{
    g_clear_pointer(&pass->reftable, g_free);
    g_clear_pointer(&pass->bitmaps, g_array_unref);
    g_clear_pointer(&pass->l1_spans, g_array_unref);
    g_clear_pointer(&pass->bitmap_spans, g_array_unref);
    g_clear_pointer(&pass->tables, g_array_unref);
    g_clear_pointer(&pass->counts, qcow2_counts_free);
    g_clear_pointer(&pass->single, g_free);
}

static GArray *read_bitmaps(const Qcow2CheckPass *pass, GError **error)
{
    Qcow2Image image = {
        .kind = QCOW2_IMAGE_QCOW2, .file = pass->file, .header = *pass->header, .size = pass->header->size,
    };

    return qcow2_image_read_bitmaps(&image, error);
}

bool qcow2_check_begin(Qcow2CheckPass *pass, GError **error)
{
    const Qcow2CheckSource *source = pass->source;
    const Qcow2Layout *layout = &source->header->layout;

    pass->file = source->file;
    pass->header = source->header;
    pass->layout = layout;
    pass->n_threads = source->n_threads ? source->n_threads : qcow2_default_threads();
    pass->outside = UINT64_MAX;
    if (!qcow2_io_get_size(pass->file, &pass->file_size, error)) {
        return false;
    }
    pass->file_size = qcow2_align_up(pass->file_size, 512);
    pass->n_clusters = qcow2_div_round_up(pass->file_size, layout->cluster_size);
    if (pass->n_clusters > MAX_CLUSTERS) {
        return qcow2_fail(error, QCOW2_ERROR_FAILED,
                          "the file has %" PRIu64 " clusters of %" PRIu64 " bytes; more than %" PRIu64
                          " are not checked", pass->n_clusters, layout->cluster_size, MAX_CLUSTERS);
    }
    pass->n_in_file = pass->n_clusters;
    pass->limit = pass->n_clusters + 1;
    pass->result.total_clusters = qcow2_div_round_up(qcow2_align_down(pass->header->size, 512),
                                                     layout->cluster_size);
    pass->result.image_end_offset = layout->cluster_size;    /* where nothing else is used, the header is */
    pass->bitmaps = read_bitmaps(pass, error);
    if (!pass->bitmaps || !qcow2_check_read_reftable(pass, error)) {
        return false;
    }
    qcow2_check_find_spans(pass);
    return true;
}

static bool begin_window(Qcow2CheckPass *pass, uint64_t start, GError **error)
{
    uint64_t end = MIN(start + MAX_WINDOW, pass->limit);
    size_t memory = pass->source->memory ? pass->source->memory
                                         : (end - start) / 4 + SPARE_MEMORY - (end - start) / 8;

    g_clear_pointer(&pass->counts, qcow2_counts_free);
    pass->counts = qcow2_counts_new(start, end, memory);
    pass->start = start;
    pass->first = start == 0;
    pass->flags_start = MAX(start, pass->flags_end);
    pass->flags_end = end;
    return qcow2_check_note_single(pass, error);
}

static bool check_window(Qcow2CheckPass *pass, GError **error)
{
    if (!qcow2_check_metadata(pass, error) || !qcow2_check_visit_tables(pass, qcow2_check_tables, error)) {
        return false;
    }
    qcow2_check_refblocks(pass);
    if (qcow2_counts_failed(pass->counts)) {
        return qcow2_fail_memory(error, QCOW2_COUNTS_CHUNK * 8, "the counts of references");
    }
    return qcow2_check_overlaps(pass, error) && qcow2_check_compare(pass, error);
}

bool qcow2_check_windows(Qcow2CheckPass *pass, GError **error)
{
    uint64_t start = 0;

    qcow2_check_snapshots(pass);
    qcow2_check_bitmaps(pass);
    do {
        if (!begin_window(pass, start, error) || !check_window(pass, error)) {
            return false;
        }
        start = qcow2_counts_end(pass->counts);
    } while (start < pass->n_clusters);
    return true;
}

bool qcow2_image_check(const Qcow2CheckSource *source, Qcow2FindingFunc func, void *data,
                       Qcow2CheckResult *ret_result, Qcow2Progress *progress, GError **error)
{
    g_auto(Qcow2CheckPass) pass = { .source = source, .func = func, .data = data, .progress = progress };

    if (!qcow2_check_begin(&pass, error) || !qcow2_check_windows(&pass, error)) {
        return false;
    }
    *ret_result = pass.result;
    return true;
}
