/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/l2-slices.h"

#include "format/l2.h"
#include "util/error.h"
#include "util/pool.h"

/* Reads across a gap of this size rather than starting another one: some pages read too much cost less. */
#define MAX_GAP  16384u
#define MAX_READ (UINT64_C(4) << 20)

/* Reading is split over threads only when there is enough of it to pay for starting them. */
#define PARALLEL_BYTES (UINT64_C(2) << 20)

void qcow2_l2_slices_clear(Qcow2L2Slices *slices)
{
    g_clear_pointer(&slices->slices, g_array_unref);
    g_clear_pointer(&slices->buffer, g_free);
    slices->buffer_room = 0;
}

bool qcow2_l1_read(Qcow2Image *image, const Qcow2View *view, uint64_t first, size_t n, uint64_t *ret_offsets,
                   GError **error)
{
    size_t present = first < view->l1_entries ? MIN(n, view->l1_entries - first) : 0;

    memset(ret_offsets + present, 0, (n - present) * sizeof(uint64_t));
    if (present > 0
        && !qcow2_io_read(image->file, view->l1_offset + first * 8, ret_offsets, present * 8, error)) {
        g_prefix_error(error, "L1 table: ");
        return false;
    }
    for (size_t i = 0; i < present; i++) {
        ret_offsets[i] = GUINT64_FROM_BE(ret_offsets[i]) & L1E_OFFSET;
        if (!qcow2_is_cluster_aligned(&image->header.layout, ret_offsets[i])) {
            return qcow2_corrupt(error, "L1 entry %" PRIu64 ": L2 table offset 0x%" PRIx64
                                 " is not a multiple of the cluster size; run qcow-check",
                                 first + i, ret_offsets[i]);
        }
    }
    return true;
}

/* Whether an entry of the same table is so close behind a slice that it is read with it. */
static bool is_near(const Qcow2Layout *layout, const Qcow2L2Slice *slice, uint64_t guest_offset)
{
    uint64_t coverage = qcow2_l2_coverage(layout);
    uint64_t index = (guest_offset - slice->guest_start) >> layout->cluster_bits;

    return slice->guest_start / coverage == guest_offset / coverage
        && (index <= slice->n_entries || (index - slice->n_entries) * layout->l2_entry_size <= MAX_GAP);
}

/* For each L2 table that a range touches, the entries that are needed and short gaps between them. */
static void list_slices(const Qcow2Layout *layout, const Qcow2Range *ranges, size_t n_ranges, GArray *slices)
{
    uint64_t coverage = qcow2_l2_coverage(layout);

    for (size_t i = 0; i < n_ranges; i++) {
        uint64_t start = qcow2_align_down(ranges[i].start, layout->cluster_size);
        while (start < ranges[i].end) {
            uint64_t table_end = qcow2_align_down(start, coverage) + coverage;
            uint64_t end = MIN(ranges[i].end, table_end);
            Qcow2L2Slice *last = slices->len ? &g_array_index(slices, Qcow2L2Slice, slices->len - 1) : NULL;
            if (!last || !is_near(layout, last, start)) {
                g_array_set_size(slices, slices->len + 1);
                last = &g_array_index(slices, Qcow2L2Slice, slices->len - 1);
                last->guest_start = start;
            }
            last->n_entries = qcow2_div_round_up(end - last->guest_start, layout->cluster_size);
            start = table_end;
        }
    }
}

/* Where each slice is in the file; slices of unallocated tables keep host offset 0. */
static bool locate_slices(Qcow2Image *image, const Qcow2View *view, GArray *slices, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t coverage = qcow2_l2_coverage(layout);
    Qcow2L2Slice *slice = (Qcow2L2Slice *)(void *)slices->data;
    uint64_t first = slice[0].guest_start / coverage;
    uint64_t n = slice[slices->len - 1].guest_start / coverage - first + 1;
    g_autofree uint64_t *l1 = g_try_new(uint64_t, n);

    if (!l1) {
        return qcow2_fail_memory(error, n * 8, "a part of the L1 table");
    }
    if (!qcow2_l1_read(image, view, first, n, l1, error)) {
        return false;
    }
    for (guint i = 0; i < slices->len; i++) {
        uint64_t table = l1[slice[i].guest_start / coverage - first];
        uint64_t index = (slice[i].guest_start % coverage) >> layout->cluster_bits;
        slice[i].host_offset = table ? table + index * layout->l2_entry_size : 0;
    }
    return true;
}

/* One read: neighbouring slices together. */
typedef struct ReadJob {
    uint64_t host_offset;
    size_t len_bytes;
    size_t buffer_offset;
} ReadJob;

typedef struct SliceOrder {
    uint64_t host_offset;
    size_t len_bytes;
    guint index;
} SliceOrder;

static int compare_host_offset(const void *a, const void *b)
{
    const SliceOrder *x = a, *y = b;
    return x->host_offset < y->host_offset ? -1 : x->host_offset > y->host_offset;
}

static GArray *slices_in_host_order(const Qcow2Layout *layout, const GArray *slices)
{
    GArray *order = g_array_sized_new(FALSE, FALSE, sizeof(SliceOrder), slices->len);

    for (guint i = 0; i < slices->len; i++) {
        const Qcow2L2Slice *slice = &g_array_index(slices, Qcow2L2Slice, i);
        if (slice->host_offset != 0) {
            SliceOrder item = { slice->host_offset, slice->n_entries * layout->l2_entry_size, i };
            g_array_append_val(order, item);
        }
    }
    g_array_sort(order, compare_host_offset);
    return order;
}

typedef struct ReadPlan {
    Qcow2Io *io;
    GArray *jobs;             /* ReadJob */
    uint8_t *buffer;
} ReadPlan;

static bool read_job(size_t index, void *data, GError **error)
{
    const ReadPlan *plan = data;
    const ReadJob *job = &g_array_index(plan->jobs, ReadJob, index);

    if (!qcow2_io_read(plan->io, job->host_offset, plan->buffer + job->buffer_offset, job->len_bytes,
                       error)) {
        g_prefix_error(error, "L2 table: ");
        return false;
    }
    return true;
}

/* Joins neighbours into jobs; slice->raw holds the offset in the buffer until the buffer is there. */
static GArray *plan_jobs(const GArray *order, size_t *buffer_offsets, size_t *ret_total)
{
    GArray *jobs = g_array_new(FALSE, FALSE, sizeof(ReadJob));
    size_t total = 0;

    for (guint i = 0; i < order->len; i++) {
        const SliceOrder *item = &g_array_index(order, SliceOrder, i);
        ReadJob *job = jobs->len ? &g_array_index(jobs, ReadJob, jobs->len - 1) : NULL;
        uint64_t job_end = job ? job->host_offset + job->len_bytes : 0;
        if (job && item->host_offset >= job_end && item->host_offset - job_end <= MAX_GAP
            && item->host_offset + item->len_bytes - job->host_offset <= MAX_READ) {
            total += item->host_offset + item->len_bytes - job_end;
            job->len_bytes = item->host_offset + item->len_bytes - job->host_offset;
        } else {
            ReadJob next = { item->host_offset, item->len_bytes, total };
            g_array_append_val(jobs, next);
            job = &g_array_index(jobs, ReadJob, jobs->len - 1);
            total += item->len_bytes;
        }
        buffer_offsets[item->index] = job->buffer_offset + (item->host_offset - job->host_offset);
    }
    *ret_total = total;
    return jobs;
}

static bool read_slices(Qcow2Image *image, Qcow2L2Slices *slices, GError **error)
{
    GArray *list = slices->slices;
    g_autoptr(GArray) order = slices_in_host_order(&image->header.layout, list);
    g_autofree size_t *buffer_offsets = g_new0(size_t, list->len);
    size_t total;
    g_autoptr(GArray) jobs = plan_jobs(order, buffer_offsets, &total);

    if (total == 0) {
        return true;
    }
    if (slices->buffer_room < total) {
        g_free(slices->buffer);
        slices->buffer = g_try_malloc(total);
        slices->buffer_room = slices->buffer ? total : 0;
    }
    if (!slices->buffer) {
        return qcow2_fail_memory(error, total, "L2 tables");
    }

    ReadPlan plan = { image->file, jobs, slices->buffer };
    /* Over a network each read waits for a round trip, so that any number of them is worth splitting. */
    bool split = total >= PARALLEL_BYTES || qcow2_io_get_fd(image->file) < 0;
    if (!qcow2_parallel_for(split ? image->n_threads : 1, jobs->len, read_job, &plan, error)) {
        return false;
    }
    for (guint i = 0; i < list->len; i++) {
        Qcow2L2Slice *slice = &g_array_index(list, Qcow2L2Slice, i);
        slice->raw = slice->host_offset ? slices->buffer + buffer_offsets[i] : NULL;
    }
    return true;
}

bool qcow2_l2_slices_load(Qcow2Image *image, const Qcow2View *view, const Qcow2Range *ranges, size_t n_ranges,
                          Qcow2L2Slices *ret, GError **error)
{
    if (!ret->slices) {
        ret->slices = g_array_new(FALSE, TRUE, sizeof(Qcow2L2Slice));
    }
    g_array_set_size(ret->slices, 0);
    list_slices(&image->header.layout, ranges, n_ranges, ret->slices);
    return ret->slices->len == 0
        || (locate_slices(image, view, ret->slices, error) && read_slices(image, ret, error));
}
