/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/repair.h"

#include "format/header-switch.h"
#include "format/refcount.h"
#include "image/repair-job.h"
#include "util/error.h"
#include "util/pool.h"
#include "util/progress.h"

#define MAX_OFFSET BIT(56)

/* Room for counts of clusters that are taken, beside as many as the file has. */
#define SPARE_CLUSTERS BIT(20)

/* ---- Findings ------------------------------------------------------------------------------------ */

/* Counts what is found, and hands it on unless func is NULL. */
typedef struct Tally {
    Qcow2CheckResult sum;
    Qcow2FindingFunc func;
    void *data;
} Tally;

static void count_finding(const Qcow2Finding *finding, void *data)
{
    Tally *tally = data;

    switch (finding->kind) {
    case QCOW2_FINDING_CORRUPTION:
        tally->sum.corruptions += finding->count;
        tally->sum.additional_corruptions += finding->additional ? finding->count : 0;
        break;
    case QCOW2_FINDING_LEAK:
        tally->sum.leaks += finding->count;
        break;
    case QCOW2_FINDING_CHECK_ERROR:
        tally->sum.check_errors += finding->count;
        break;
    case QCOW2_FINDING_EXPLANATION:
        break;
    }
    if (tally->func) {
        tally->func(finding, tally->data);
    }
}

static void ignore_finding(const Qcow2Finding *finding, void *data)
{
    (void)finding;
    (void)data;
}

void qcow2_repair_say(const Qcow2RepairJob *job, Qcow2FindingKind kind, uint64_t count, const char *format,
                      ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    Qcow2Finding finding = { .kind = kind, .count = count, .text = text };
    job->func(&finding, job->data);
}

/* ---- New clusters -------------------------------------------------------------------------------- */

uint64_t qcow2_repair_take(Qcow2RepairJob *job, uint64_t n, GError **error)
{
    unsigned bits = job->header.layout.cluster_bits;
    uint64_t first = job->next, end = first + n;

    if (end > job->count.outside) {
        job->blocked = true;
        qcow2_corrupt(error, "something past the end of the file is referred to, at 0x%" PRIx64 ","
                      " where the repair would have to write", job->count.outside << bits);
        return 0;
    }
    if (end > MAX_OFFSET >> bits || end > qcow2_counts_end(job->counts)
        || (!job->can_grow && end << bits > job->old_size)) {
        qcow2_fail(error, QCOW2_ERROR_NO_SPACE, "no room for %" PRIu64 " clusters at 0x%" PRIx64, n,
                   first << bits);
        return 0;
    }
    job->next = end;
    return first << bits;
}

uint64_t qcow2_repair_take_for(Qcow2RepairJob *job, uint64_t len_bytes, GError **error)
{
    return qcow2_repair_take(job, qcow2_div_round_up(len_bytes, job->header.layout.cluster_size), error);
}

bool qcow2_repair_write(Qcow2RepairJob *job, uint64_t host_offset, const void *bytes, size_t len_bytes,
                        GError **error)
{
    job->changed = true;
    return qcow2_io_write(job->file, host_offset, bytes, len_bytes, error);
}

/* The last cluster whole, so that it counts as inside, and a later write to it needs no longer file. */
static bool fill_last_cluster(const Qcow2RepairJob *job, GError **error)
{
    uint64_t size, end = job->next << job->header.layout.cluster_bits;

    return qcow2_io_get_size(job->file, &size, error)
        && (!job->changed || size >= end || qcow2_io_truncate(job->file, end, error));
}

/* ---- References ---------------------------------------------------------------------------------- */

void qcow2_repair_add(Qcow2RepairJob *job, uint64_t host_offset, uint64_t len_bytes, int64_t delta)
{
    unsigned bits = job->header.layout.cluster_bits;
    uint64_t end = len_bytes > 0 ? ((host_offset + len_bytes - 1) >> bits) + 1 : 0;

    for (uint64_t at = host_offset >> bits; at < end; at++) {
        uint64_t count = qcow2_counts_get(job->counts, at);
        bool fits = delta >= 0 || count >= (uint64_t)-delta;
        qcow2_counts_set(job->counts, at, fits ? count + (uint64_t)delta : 0);
    }
}

bool qcow2_repair_count(Qcow2RepairJob *job, GError **error)
{
    Qcow2CheckPass *pass = &job->count;

    qcow2_check_end(pass);
    g_array_set_size(job->unhealthy, 0);
    job->counted = job->header;
    job->counted.reftable_offset = job->counted.reftable_clusters = 0;
    job->source = (Qcow2CheckSource) {
        .file = job->file, .header = &job->counted, .snapshots = job->snapshots,
        .n_threads = job->image->n_threads, .repair = job->what,
    };
    *pass = (Qcow2CheckPass) {
        .source = &job->source, .func = ignore_finding, .progress = job->progress, .first = true,
        .unhealthy = job->unhealthy,
    };
    if (!fill_last_cluster(job, error) || !qcow2_check_begin(pass, error)) {
        return false;
    }
    uint64_t end = qcow2_align_up(2 * pass->n_in_file + SPARE_CLUSTERS, QCOW2_COUNTS_CHUNK);
    pass->counts = job->counts = qcow2_counts_new(0, end, SIZE_MAX);
    if (!qcow2_check_metadata(pass, error) || !qcow2_check_visit_tables(pass, qcow2_check_tables, error)) {
        return false;
    }
    return (!qcow2_counts_failed(job->counts) && qcow2_counts_end(job->counts) == end)
        || qcow2_fail_memory(error, end / 4, "a count for each cluster");
}

/* ---- What is wrong ------------------------------------------------------------------------------- */

static bool look(Qcow2RepairJob *job, Qcow2CheckPass *pass, GError **error)
{
    if (!qcow2_check_begin(pass, error) || !qcow2_check_windows(pass, error)) {
        return false;
    }
    uint64_t end = pass->result.image_end_offset >> job->header.layout.cluster_bits;
    job->next = job->can_grow ? pass->n_clusters : end;
    g_clear_pointer(&pass->counts, qcow2_counts_free);
    g_clear_pointer(&pass->single, g_free);
    return true;
}

/* Counts that are too low are not raised when only leaks are to be repaired. */
static bool lower_chunk(Qcow2RepairJob *job, const Qcow2CheckPass *pass, uint64_t first, uint8_t *room,
                        GError **error)
{
    bool unreadable;

    if (!qcow2_check_read_chunk(pass, first, room, &unreadable, error)) {
        return false;
    }
    for (uint64_t i = 0; i < MIN(QCOW2_COUNTS_CHUNK, pass->n_in_file - first); i++) {
        uint64_t count = qcow2_refcount_get(pass->layout, room, i);
        if (qcow2_counts_get(job->counts, first + i) > count) {
            qcow2_counts_set(job->counts, first + i, count);
        }
    }
    return true;
}

static bool lower_counts(Qcow2RepairJob *job, const Qcow2CheckPass *pass, GError **error)
{
    g_autofree uint8_t *room = g_try_malloc(qcow2_check_chunk_len(pass));

    if (!room) {
        return qcow2_fail_memory(error, qcow2_check_chunk_len(pass), "refcounts");
    }
    for (uint64_t first = 0; first < pass->n_in_file; first += QCOW2_COUNTS_CHUNK) {
        if (!lower_chunk(job, pass, first, room, error)) {
            return false;
        }
    }
    return true;
}

/* ---- What is done about it ----------------------------------------------------------------------- */

static bool note_table_in_header(Qcow2CheckPass *pass, const Qcow2TableRef *tables, size_t n, GError **error)
{
    bool *found = pass->data;

    (void)error;
    *found |= n > 0 && tables[0].offset < QCOW2_HEADER_SECTOR;    /* they are in host order */
    return true;
}

/* A table in the header, which is about to change, would refer to other clusters afterwards. */
static bool check_header_is_no_table(Qcow2RepairJob *job, GError **error)
{
    const GArray *spans[] = { job->count.l1_spans, job->count.bitmap_spans };
    bool found = false;

    for (size_t i = 0; i < G_N_ELEMENTS(spans); i++) {
        found |= spans[i]->len > 0 && g_array_index(spans[i], Qcow2Span, 0).start < QCOW2_HEADER_SECTOR;
    }
    job->count.data = &found;
    if (!qcow2_check_visit_tables(&job->count, note_table_in_header, error)) {
        return false;
    }
    job->blocked |= found;
    return !found || qcow2_corrupt(error, "the header is named as a table, and would change");
}

/* Version 3 can give refcounts more bits where there are more references than they can hold. */
static void widen_refcounts(Qcow2RepairJob *job)
{
    Qcow2Layout *layout = &job->header.layout;
    uint64_t max = qcow2_counts_max(job->counts);
    unsigned order = layout->refcount_order;

    while (layout->version >= 3 && max > qcow2_refcount_max(layout)) {
        *layout = qcow2_layout(layout->version, layout->cluster_bits, layout->extended_l2,
                               layout->refcount_order + 1, layout->has_data_file);
    }
    if (layout->refcount_order != order) {
        qcow2_repair_say(job, QCOW2_FINDING_EXPLANATION, 0, "Rebuilding refcount structure with %u bits each",
                         1u << layout->refcount_order);
    }
    qcow2_counts_cap(job->counts, qcow2_refcount_max(layout));
}

static bool repair_all(Qcow2RepairJob *job, GError **error)
{
    bool changed;

    if (!qcow2_repair_count(job, error) || !qcow2_repair_tables(job, &changed, error)
        || (changed && !qcow2_repair_count(job, error))) {
        return false;
    }
    widen_refcounts(job);
    return check_header_is_no_table(job, error)
        && qcow2_repair_flags(job, true, error)
        && qcow2_repair_refcounts(job, error);
}

static bool repair_leaks(Qcow2RepairJob *job, const Qcow2CheckPass *pass, const Qcow2CheckResult *found,
                         GError **error)
{
    bool only_leaks = found->corruptions == 0 && found->check_errors == 0;

    if (!qcow2_repair_count(job, error) || (!only_leaks && !lower_counts(job, pass, error))) {
        return false;
    }
    qcow2_counts_cap(job->counts, qcow2_refcount_max(&job->header.layout));
    return check_header_is_no_table(job, error)
        && qcow2_repair_flags(job, only_leaks, error)
        && ((found->leaks == 0 && !job->changed) || qcow2_repair_refcounts(job, error));
}

static bool repair(Qcow2RepairJob *job, const Qcow2CheckPass *pass, const Qcow2CheckResult *found,
                   GError **error)
{
    if (pass->needs_rebuild && job->what == QCOW2_REPAIR_LEAKS) {
        qcow2_repair_say(job, QCOW2_FINDING_EXPLANATION, 0, "ERROR need to rebuild refcount structures");
        return qcow2_corrupt(error, "Check failed: refcount blocks have to be made anew, which -r all does");
    }
    if (pass->needs_rebuild) {
        qcow2_repair_say(job, QCOW2_FINDING_EXPLANATION, 0, "Rebuilding refcount structure");
    }
    return job->what == QCOW2_REPAIR_LEAKS ? repair_leaks(job, pass, found, error) : repair_all(job, error);
}

/* What the check finds through a header, which need not be the one in the file. */
static bool look_through(const Qcow2RepairJob *job, const Qcow2Header *header, const GArray *snapshots,
                         Qcow2CheckResult *ret, GError **error)
{
    Qcow2CheckResult numbers;
    Tally tally = { .func = NULL };
    Qcow2CheckSource source = {
        .file = job->file, .header = header, .snapshots = snapshots, .n_threads = job->image->n_threads,
    };

    if (!qcow2_image_check(&source, count_finding, &tally, &numbers, job->progress, error)) {
        return false;
    }
    *ret = numbers;
    ret->corruptions = tally.sum.corruptions;
    ret->additional_corruptions = tally.sum.additional_corruptions;
    ret->leaks = tally.sum.leaks;
    ret->check_errors = tally.sum.check_errors;
    return true;
}

static bool is_better(const Qcow2CheckResult *before, const Qcow2CheckResult *after)
{
    return after->corruptions <= before->corruptions && after->leaks <= before->leaks
        && after->check_errors <= before->check_errors
        && after->corruptions + after->leaks + after->check_errors
            < before->corruptions + before->leaks + before->check_errors;
}

/* ---- The switch ---------------------------------------------------------------------------------- */

static void take_header_over(const Qcow2RepairJob *job)
{
    Qcow2Header *header = &job->image->header;

    header->layout = job->header.layout;
    header->l1_offset = job->header.l1_offset;
    header->reftable_offset = job->header.reftable_offset;
    header->reftable_clusters = job->header.reftable_clusters;
    header->n_snapshots = job->header.n_snapshots;
    header->snapshots_offset = job->header.snapshots_offset;
    header->incompatible = job->header.incompatible;
    header->autoclear = job->header.autoclear;
    g_clear_pointer(&job->image->snapshots, g_array_unref);
}

static bool publish(Qcow2RepairJob *job, GError **error)
{
    uint8_t sector[QCOW2_HEADER_SECTOR];

    /* Who writes clears what it does not know. */
    job->header.autoclear &= QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA;
    if (!qcow2_io_flush(job->file, error) || !qcow2_io_read(job->file, 0, sector, sizeof(sector), error)) {
        return false;
    }
    qcow2_header_patch_roots(&job->header, sector);
    /* Also after a failure it may be on disk: nothing that it names may be cut off. */
    job->changed = false;
    if (!qcow2_image_publish_header(job->file, sector, error)) {
        g_prefix_error(error, "header: ");
        return false;
    }
    take_header_over(job);
    return true;
}

/* Best effort: what is past the old end is unused in any case. */
static void give_up(Qcow2RepairJob *job)
{
    uint64_t size;

    if (job->changed && job->can_grow && qcow2_io_get_size(job->file, &size, NULL) && size > job->old_size) {
        qcow2_io_truncate(job->file, job->old_size, NULL);
    }
    job->changed = false;
    qcow2_header_clear(&job->header);
    qcow2_header_copy(&job->image->header, &job->header);
}

/* ---- All of it ----------------------------------------------------------------------------------- */

/* Nothing is repaired: what was found until then does not count, but what is there. */
static bool look_as_it_is(Qcow2RepairJob *job, Qcow2CheckResult *left, GError **error)
{
    const Qcow2Header *header = &job->image->header;

    give_up(job);
    g_autoptr(GArray) snapshots = qcow2_image_read_snapshot_table(job->file, header, NULL, error);
    return snapshots && look_through(job, header, snapshots, left, error);
}

static bool look_as_it_will_be(Qcow2RepairJob *job, Qcow2CheckResult *left, GError **error)
{
    if (!fill_last_cluster(job, error)
        || !look_through(job, &job->header, job->snapshots, left, error)) {
        g_prefix_error(error, "the image as it would be repaired: ");
        return false;
    }
    return true;
}

static bool clear_bits(Qcow2RepairJob *job, const Qcow2CheckResult *left)
{
    uint64_t bits = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;

    if (left->corruptions > 0 || left->check_errors > 0 || !(job->header.incompatible & bits)) {
        return false;
    }
    job->header.incompatible &= ~bits;
    return true;
}

/* Where the repair is blocked the image stays as it is, and the rest of what was found is said. */
static bool work(Qcow2RepairJob *job, const Qcow2CheckPass *pass, const Tally *tally, Qcow2CheckResult *left,
                 GError **error)
{
    const Qcow2CheckResult found = tally->sum;
    g_autoptr(GError) cause = NULL;

    if (!repair(job, pass, &found, &cause)) {
        if (!job->blocked) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
        qcow2_repair_say(job, QCOW2_FINDING_EXPLANATION, 0, "ERROR nothing is repaired: %s", cause->message);
        return look_as_it_is(job, left, error);
    }
    if (job->changed && !look_as_it_will_be(job, left, error)) {
        return false;
    }
    /* Flags were found meanwhile. */
    return (job->changed && is_better(&tally->sum, left)) || look_as_it_is(job, left, error);
}

static bool run(Qcow2RepairJob *job, Tally *tally, Qcow2CheckResult *ret, GError **error)
{
    if (!qcow2_io_get_size(job->file, &job->old_size, error) || !qcow2_repair_read_snapshots(job, error)) {
        return false;
    }
    Qcow2CheckSource source = {
        .file = job->file, .header = &job->image->header, .snapshots = job->snapshots,
        .n_threads = job->image->n_threads, .repair = job->what,
    };
    g_auto(Qcow2CheckPass) pass = {
        .source = &source, .func = count_finding, .data = tally, .progress = job->progress,
    };
    if (!look(job, &pass, error)) {
        return false;
    }
    Qcow2CheckResult left = tally->sum;
    bool found = left.corruptions || left.leaks || left.check_errors || pass.n_flags;
    if (found && !work(job, &pass, tally, &left, error)) {
        return false;
    }
    bool worked = job->changed;
    bool cleared = clear_bits(job, &left);
    if ((worked || cleared) && !publish(job, error)) {
        return false;
    }
    *ret = found ? left : pass.result;
    if (worked) {
        ret->corruptions_fixed = tally->sum.corruptions - left.corruptions;
        ret->leaks_fixed = tally->sum.leaks - left.leaks;
    }
    return true;
}

bool qcow2_image_repair(Qcow2Image *image, Qcow2Repair what, Qcow2FindingFunc func, void *data,
                        Qcow2CheckResult *ret, Qcow2Progress *progress, GError **error)
{
    Tally tally = { .func = func, .data = data };
    Qcow2RepairJob job = {
        .image = image,
        .file = image->file,
        .what = what,
        .unhealthy = g_array_new(FALSE, FALSE, sizeof(Qcow2TableRef)),
        .can_grow = qcow2_io_can_grow(image->file),
        .func = count_finding,
        .data = &tally,
        .progress = progress,
    };

    qcow2_header_copy(&image->header, &job.header);
    bool ok = run(&job, &tally, ret, error);
    give_up(&job);
    qcow2_check_end(&job.count);
    g_clear_pointer(&job.snapshots, g_array_unref);
    g_array_unref(job.unhealthy);
    qcow2_header_clear(&job.header);
    return ok;
}
