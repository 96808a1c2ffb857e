/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check: what image/check finds, counted and handed on. Of an image that somebody may be writing to, only
 * what two passes find alike: while a cluster is allocated its count is on disk before the entry that refers
 * to it, which looks like a leak, and a table that is read while it is written looks like anything.
 */
#include "chain/chain.h"
#include "image/check.h"
#include "image/stable.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/progress.h"

/* A table may be torn when it is read; the next pass reads it whole. */
#define MAX_TRIES 3u

/* Findings of the first pass that are remembered: 32 MiB. */
#define MAX_REMEMBERED ((guint)4 << 20)

typedef struct Report {
    Qcow2CheckFunc func;
    void *data;
    Qcow2CheckResult *result;
    GArray *before;           /* uint64_t, sorted: digests of what the first pass found; NULL: report all */
} Report;

static int compare_digests(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* FNV-1a; texts name clusters and entries, so that two findings hardly ever have the same. */
static uint64_t digest(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *text; text++) {
        hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
    }
    return hash;
}

static void remember(const Qcow2Finding *finding, void *data)
{
    GArray *digests = data;
    uint64_t value = digest(finding->text);

    if (digests->len < MAX_REMEMBERED) {
        g_array_append_val(digests, value);
    }
}

static bool was_found_before(const Report *report, const Qcow2Finding *finding)
{
    uint64_t value = digest(finding->text);

    return !report->before || g_array_binary_search(report->before, &value, compare_digests, NULL);
}

static void hand_on(const Qcow2Finding *finding, void *data)
{
    Report *report = data;
    Qcow2CheckResult *result = report->result;

    if (!was_found_before(report, finding)) {
        return;
    }
    switch (finding->kind) {
    case QCOW2_FINDING_CORRUPTION:
        result->corruptions += finding->count;
        result->additional_corruptions += finding->additional ? finding->count : 0;
        break;
    case QCOW2_FINDING_LEAK:
        result->leaks += finding->count;
        break;
    case QCOW2_FINDING_CHECK_ERROR:
        result->check_errors += finding->count;
        break;
    case QCOW2_FINDING_EXPLANATION:
        break;
    }
    if (report->func) {
        report->func(finding->text, report->data);
    }
}

/* The numbers that come with a pass; the findings are counted as they are handed on. */
static void take_numbers(Qcow2CheckResult *result, const Qcow2CheckResult *pass)
{
    result->image_end_offset = pass->image_end_offset;
    result->total_clusters = pass->total_clusters;
    result->allocated_clusters = pass->allocated_clusters;
    result->fragmented_clusters = pass->fragmented_clusters;
    result->compressed_clusters = pass->compressed_clusters;
}

static bool check_at_rest(Qcow2Image *image, Report *report, Qcow2Progress *progress, GError **error)
{
    Qcow2CheckResult numbers;

    if (!qcow2_image_load_snapshots(image, error)) {
        return false;
    }
    Qcow2CheckSource source = {
        .file = image->file,
        .header = &image->header,
        .snapshots = image->snapshots,
        .n_threads = image->n_threads,
    };
    if (!qcow2_image_check(&source, hand_on, report, &numbers, progress, error)) {
        return false;
    }
    take_numbers(report->result, &numbers);
    return true;
}

/* A pass over the image as it is now. Only a new connection to a server knows the size of now. */
static bool check_now(const Qcow2Image *image, Qcow2FindingFunc func, void *data, Qcow2CheckResult *ret,
                      Qcow2Progress *progress, GError **error)
{
    g_autoptr(Qcow2Io) file = qcow2_io_reopen(image->file, error);
    g_auto(Qcow2StableRead) now = { 0 };

    if (!file || !qcow2_stable_read(file, &now, error)) {
        return false;
    }
    Qcow2CheckSource source = {
        .file = file,
        .header = &now.header,
        .snapshots = now.snapshots,
        .n_threads = image->n_threads,
    };
    return qcow2_image_check(&source, func, data, ret, progress, error);
}

static bool first_pass(const Qcow2Image *image, GArray *digests, Qcow2CheckResult *ret,
                       Qcow2Progress *progress, GError **error)
{
    for (unsigned i = 1;; i++) {
        g_autoptr(GError) cause = NULL;
        g_array_set_size(digests, 0);
        if (check_now(image, remember, digests, ret, progress, &cause)) {
            return true;
        }
        if (i == MAX_TRIES || !g_error_matches(cause, QCOW2_ERROR, QCOW2_ERROR_CORRUPT)) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
    }
}

static bool check_in_use(const Qcow2Image *image, Report *report, Qcow2Progress *progress, GError **error)
{
    g_autoptr(GArray) digests = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    Qcow2CheckResult numbers;

    if (!first_pass(image, digests, &numbers, progress, error)) {
        return false;
    }
    take_numbers(report->result, &numbers);
    if (digests->len == 0) {
        return true;
    }
    g_array_sort(digests, compare_digests);
    report->before = digests;
    if (!check_now(image, hand_on, report, &numbers, progress, error)) {
        return false;
    }
    take_numbers(report->result, &numbers);
    return true;
}

static void warn_of_dirty_image(const Qcow2Chain *chain, const Qcow2Image *image,
                                const Qcow2CheckResult *result)
{
    bool found = result->corruptions > 0 || result->leaks > 0;

    if (found && (image->header.incompatible & QCOW2_INCOMPAT_DIRTY)) {
        qcow2_chain_warn(chain, "'%s' was not closed properly while it had lazy refcounts: its refcounts are "
                         "out of date, and are made anew when QEMU opens it for writing",
                         qcow2_chain_layer_name(chain, 0));
    }
}

bool qcow2_check(Qcow2Chain *chain, Qcow2CheckFunc func, void *data, Qcow2CheckResult *ret_result,
                 Qcow2Progress *progress, GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(chain, 0);
    Qcow2Image *image = layer->image;
    Report report = { .func = func, .data = data, .result = ret_result };
    bool may_be_in_use = chain->options.force_share || layer->place->kind == QCOW2_PLACE_NBD;

    *ret_result = (Qcow2CheckResult) { 0 };
    if (image->kind == QCOW2_IMAGE_RAW) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a raw image has no metadata to check");
    }
    if (!(may_be_in_use ? check_in_use(image, &report, progress, error)
                        : check_at_rest(image, &report, progress, error))) {
        return false;
    }
    warn_of_dirty_image(chain, image, ret_result);
    qcow2_progress_finish(progress);
    return true;
}
