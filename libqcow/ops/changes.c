/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/changes.h"

#include "util/progress.h"

static void push(GArray *ranges, uint64_t start, uint64_t end, uint64_t unit)
{
    qcow2_ranges_push(ranges, qcow2_align_down(start, unit), qcow2_align_up(end, unit));
}

bool qcow2_find_changes(Qcow2State *from, Qcow2State *to, uint64_t unit, GArray *ret,
                        Qcow2Progress *progress, GError **error)
{
    qcow2_states_share_size(from, to);
    g_autoptr(Qcow2Diff) diff = qcow2_diff_new(from, to, error);
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    uint64_t end = MAX(from->size, to->size);

    for (uint64_t start = 0; diff && start < end;) {
        uint64_t next;
        if (!qcow2_progress_check(progress, error)
            || !qcow2_diff_next(diff, start, end, ranges, &next, error)) {
            return false;
        }
        for (guint i = 0; i < ranges->len; i++) {
            const Qcow2Range *range = &g_array_index(ranges, Qcow2Range, i);
            push(ret, range->start, range->end, unit);
        }
        start = next;
    }
    return diff != NULL;
}

bool qcow2_list_choice(Qcow2Choice *choice, uint64_t unit, GArray *ret, GError **error)
{
    const GArray *extents = NULL;

    qcow2_choice_rewind(choice);
    do {
        if (!qcow2_choice_next(choice, &extents, error)) {
            return false;
        }
        for (guint i = 0; extents && i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            push(ret, extent->guest_offset, qcow2_extent_end(extent), unit);
        }
    } while (extents);
    qcow2_choice_rewind(choice);
    return true;
}
