/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/table-diff.h"

#include "util/bits.h"

/* One window is too little work for all processors. In the worst case each of these has 1 MiB of ranges. */
#define WINDOWS_AHEAD 16u

void qcow2_table_diff_clear(Qcow2TableDiff *tables)
{
    qcow2_differing_clear(&tables->found);
    tables->known = (Qcow2Range) { 0, 0 };
}

static bool look_ahead(Qcow2TableDiff *tables, Qcow2Range window, GError **error)
{
    uint64_t len = MAX(window.end - window.start, WINDOWS_AHEAD * qcow2_image_window(tables->image));
    Qcow2Range range = { window.start, MIN(window.start + len, tables->limit) };

    if (window.start >= tables->known.start && window.end <= tables->known.end) {
        return true;
    }
    qcow2_table_diff_clear(tables);
    if (!qcow2_image_differing(tables->image, tables->a, tables->b, range, &tables->found, error)) {
        return false;
    }
    tables->known = range;
    return true;
}

static void push_part(const GArray *found, Qcow2Range window, GArray *ranges)
{
    const Qcow2Range *range = (const Qcow2Range *)(const void *)found->data;
    guint low = 0, high = found->len;

    /* The first that ends in the window or past it. */
    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (range[middle].end <= window.start) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (; low < found->len && range[low].start < window.end; low++) {
        qcow2_ranges_push(ranges, MAX(range[low].start, window.start), MIN(range[low].end, window.end));
    }
}

bool qcow2_table_diff_get(Qcow2TableDiff *tables, Qcow2Range window, GArray *sure, GArray *maybe,
                          GError **error)
{
    if (!look_ahead(tables, window, error)) {
        return false;
    }
    push_part(tables->found.sure, window, sure);
    push_part(tables->found.maybe, window, maybe);
    return true;
}
