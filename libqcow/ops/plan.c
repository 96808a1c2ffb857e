/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What it costs to drop points in time from a chain.
 *
 * Neighbours that go are a group. Everything from the layer above it down to its lowest layer ends up in one
 * file of these: what is above that file is committed into it, what is below it is pulled into it. Pulling
 * into the layer above is the way that changes no other file, committing into the lowest one the way that
 * reads least when the layers above are small; both can be done for a file between, in either order. All is
 * counted from tables, by what the two operations themselves would do.
 */
#include <string.h>

#include "move/in-place.h"
#include "ops/keep.h"
#include "ops/merge.h"
#include "util/error.h"

/* For the estimate: copied and flushed bytes a second, and what a step costs whatever it moves. */
#define BYTES_PER_SECOND  (2.0 * 1024 * 1024 * 1024)
#define SECONDS_PER_STEP  0.02

/* What is looked at for one group. */
typedef struct Group {
    Qcow2Chain *chain;
    unsigned above, last;         /* layers: the one above the group, and the lowest of the group */
    GArray *ways;                 /* Qcow2PlanWay */
} Group;

static void clear_way(gpointer way)
{
    g_free(((Qcow2PlanWay *)way)->steps);
    g_free(((Qcow2PlanWay *)way)->invalid);
}

static void clear_group(gpointer group)
{
    Qcow2PlanGroup *self = group;

    for (guint i = 0; i < self->n_ways; i++) {
        clear_way(&self->ways[i]);
    }
    g_free(self->ways);
}

void qcow2_plan_free(Qcow2Plan *plan)
{
    if (!plan) {
        return;
    }
    for (guint i = 0; i < plan->n_groups; i++) {
        clear_group(&plan->groups[i]);
    }
    g_free(plan->groups);
    g_free(plan);
}

/* ---- One step ---------------------------------------------------------------------------------- */

static void add_stats(Qcow2PlanStep *step, const Qcow2Layout *layout, const Qcow2InPlaceStats *stats)
{
    uint64_t n_new = stats->data_clusters + stats->zero_clusters + stats->compressed_clusters;
    uint64_t moved = (stats->data_clusters + stats->compressed_clusters) * layout->cluster_size
                   + stats->bytes_overwritten;

    step->bytes += stats->bytes;
    step->clusters += n_new;
    step->bytes_read += moved;
    step->bytes_written += moved;
    if (n_new > 0) {
        /* Tables full of the new entries, their counts, an L1 table and the tables that lead to them. */
        uint64_t n_tables = qcow2_div_round_up(n_new, BIT(layout->l2_bits));
        uint64_t n_blocks = qcow2_div_round_up(n_new, BIT(layout->refblock_bits));
        step->metadata_written += (n_tables + n_blocks + 2) * layout->cluster_size;
    }
}

/* What a step does to one image, state by state. */
typedef struct Counting {
    Qcow2Image *image;
    Qcow2Chain *from, *to;
    bool merge;                   /* the image is the base of a commit */
    bool to_none;                 /* nothing will be below it */
    bool merged;                  /* its active layer got the layers above in a step before, and their size */
    Qcow2Placed *placed;          /* what its states share then; or NULL */
    Qcow2PlanStep *step;
} Counting;

/* One state, by what the sink would do. */
static bool count_choice(const Counting *self, Qcow2State *to, Qcow2Choice *choice, GError **error)
{
    Qcow2View view = to->kind == QCOW2_STATE_SNAPSHOT ? to->view : qcow2_image_active_view(self->image);
    const Qcow2InPlaceOptions options = {
        .before = self->merge ? self->from : NULL,
        .view = &view,
        .placed = self->placed,
    };
    Qcow2InPlaceStats stats;
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);

    view.size = self->merged ? MAX(view.size, to->size) : view.size;
    if (batch && self->to_none) {
        qcow2_batch_set_backing(batch, NULL, NULL);
    }
    if (!batch || !qcow2_in_place_plan(batch, self->image, to, choice, &options, &stats, error)) {
        return false;
    }
    add_stats(self->step, &self->image->header.layout, &stats);
    if (self->placed) {
        qcow2_placed_next_state(self->placed);
    }
    return true;
}

static bool count_state(const Counting *self, const char *name, GError **error)
{
    g_autoptr(Qcow2State) from = qcow2_state_open(self->from, name, error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(self->to, name, error) : NULL;
    const Qcow2ChoiceOptions options = {
        .unit = self->merge ? QCOW2_SECTOR_SIZE : qcow2_in_place_unit(self->image),
        .not_aligned = self->merge,
    };
    g_autoptr(Qcow2Choice) choice = to ? qcow2_choice_new(from, to, &options, error) : NULL;

    return choice && count_choice(self, to, choice, error);
}

/* A raw image has no entries: the bytes that differ are written. */
static bool count_raw(Qcow2Chain *from_chain, Qcow2Chain *to_chain, Qcow2PlanStep *step, GError **error)
{
    g_autoptr(Qcow2State) from = qcow2_state_open(from_chain, "@active", error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(to_chain, "@active", error) : NULL;
    Qcow2ChoiceOptions options = { .unit = QCOW2_SECTOR_SIZE, .not_aligned = true };
    g_autoptr(Qcow2Choice) choice = to ? qcow2_choice_new(from, to, &options, error) : NULL;
    const GArray *extents = NULL;

    do {
        if (!choice || !qcow2_choice_next(choice, &extents, error)) {
            return false;
        }
        for (guint i = 0; extents && i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            step->bytes += extent->len_bytes;
            step->bytes_read += extent->kind == QCOW2_EXTENT_ZERO ? 0 : extent->len_bytes;
            step->bytes_written += extent->len_bytes;
        }
    } while (extents);
    return true;
}

/* Committing the layers from the one above the group on into layer @target. */
static bool count_commit(const Group *group, unsigned target, Qcow2PlanStep *step, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(group->chain, target);
    g_autoptr(Qcow2Chain) from = qcow2_chain_tail(group->chain, target, error);
    g_autoptr(Qcow2Chain) to = from ? qcow2_chain_tail(group->chain, group->above, error) : NULL;

    const Counting counting = { .image = image, .from = from, .to = to, .merge = true, .step = step };

    *step = (Qcow2PlanStep) { .kind = QCOW2_PLAN_COMMIT, .layer = group->above, .other = target };
    if (!to) {
        return false;
    }
    if (image->kind == QCOW2_IMAGE_RAW) {
        return count_raw(from, to, step, error);
    }
    return qcow2_merge_check_growth(image, qcow2_chain_image(to, 0)->size, error)
        && count_state(&counting, "@active", error);
}

/* Layers [first, last] over what is below the group. */
static Qcow2Chain *without_group(const Group *group, unsigned first, unsigned last, GError **error)
{
    bool has_base = group->last + 1 < qcow2_chain_n_layers(group->chain);
    Qcow2Chain *below = has_base ? qcow2_chain_tail(group->chain, group->last + 1, error) : NULL;

    if (has_base && !below) {
        return NULL;
    }
    for (unsigned i = last + 1; i-- > first;) {
        Qcow2Chain *stack = qcow2_chain_stack(group->chain, i, below, error);
        qcow2_chain_free(below);
        if (!stack) {
            return NULL;
        }
        below = stack;
    }
    return below;
}

static bool count_snapshots(const Counting *self, GError **error)
{
    for (guint i = 0; i < self->image->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(self->image->snapshots, Qcow2SnapshotEntry, i);
        g_autofree char *name = g_strconcat("id:", entry->id, NULL);
        if (!count_state(self, name, error)) {
            return false;
        }
    }
    return true;
}

/* The snapshots come first, as in ops/keep.c: what the active layer shares with them is moved once. */
static bool count_pulled(Counting *self, Qcow2Chain *active_from, Qcow2Chain *active_to, bool merged,
                         GError **error)
{
    Counting active = *self;

    if (!qcow2_image_load_snapshots(self->image, error)) {
        return false;
    }
    g_autoptr(Qcow2Placed) placed = qcow2_keep_placed(self->image);
    self->placed = active.placed = placed;
    active.merged = merged;
    active.from = active_from;
    active.to = active_to;
    return count_snapshots(self, error) && count_state(&active, "@active", error);
}

/* Pulling the rest of the group into @target; @merged: after the layers above were committed into it. */
static bool count_pull(const Group *group, unsigned target, bool merged, Qcow2PlanStep *step, GError **error)
{
    unsigned first = merged ? group->above : target;
    g_autoptr(Qcow2Chain) from = without_group(group, first, target, error);
    g_autoptr(Qcow2Chain) to = from ? qcow2_chain_tail(group->chain, first, error) : NULL;
    g_autoptr(Qcow2Chain) own = to ? without_group(group, target, target, error) : NULL;
    g_autoptr(Qcow2Chain) now = own ? qcow2_chain_tail(group->chain, target, error) : NULL;
    Counting counting = {
        .image = qcow2_chain_image(group->chain, target), .from = own, .to = now, .step = step,
        .to_none = group->last + 1 == qcow2_chain_n_layers(group->chain),
    };

    *step = (Qcow2PlanStep) { .kind = QCOW2_PLAN_PULL, .layer = target, .other = group->last + 1 };
    return now && count_pulled(&counting, from, to, merged, error);
}

/* ---- Ways -------------------------------------------------------------------------------------- */

static void add_way(Group *group, unsigned target, const Qcow2PlanStep *steps, unsigned n_steps)
{
    Qcow2PlanWay way = { .target = target, .steps = g_memdup2(steps, n_steps * sizeof(*steps)),
                         .n_steps = n_steps };
    g_autoptr(GArray) invalid = g_array_new(FALSE, FALSE, sizeof(unsigned));

    for (unsigned i = 0; i < n_steps; i++) {
        way.bytes_read += steps[i].bytes_read;
        way.bytes_written += steps[i].bytes_written;
        way.metadata_written += steps[i].metadata_written;
        uint64_t all = steps[i].bytes_written + steps[i].metadata_written;
        way.steps[i].seconds = SECONDS_PER_STEP + (double)all / BYTES_PER_SECOND;
        way.seconds += way.steps[i].seconds;
    }
    /* What a commit passes over, and the file that another point is in now. */
    for (unsigned i = group->above + 1; i <= target; i++) {
        g_array_append_val(invalid, i);
    }
    way.n_invalid = invalid->len;
    way.invalid = g_memdup2(invalid->data, invalid->len * sizeof(unsigned));
    g_array_append_val(group->ways, way);
}

static bool add_ways_to(Group *group, unsigned target, GError **error)
{
    Qcow2PlanStep steps[2];

    if (target == group->above) {
        if (!count_pull(group, target, false, &steps[0], error)) {
            return false;
        }
        add_way(group, target, steps, 1);
        return true;
    }
    if (!count_commit(group, target, &steps[0], error)) {
        return false;
    }
    if (target == group->last) {
        add_way(group, target, steps, 1);
        return true;
    }
    if (!count_pull(group, target, true, &steps[1], error)) {
        return false;
    }
    add_way(group, target, steps, 2);
    steps[1] = steps[0];
    if (!count_pull(group, target, false, &steps[0], error)) {
        return false;
    }
    add_way(group, target, steps, 2);
    return true;
}

/* @impossible: why the first one cannot be done that is left out. */
static bool add_possible_ways_to(Group *group, unsigned target, GError **impossible, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (add_ways_to(group, target, &cause)) {
        return true;
    }
    if (!g_error_matches(cause, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED)) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    if (!*impossible) {
        *impossible = g_steal_pointer(&cause);
    }
    return true;
}

static gint by_time(gconstpointer a, gconstpointer b)
{
    const Qcow2PlanWay *x = a, *y = b;

    return x->seconds < y->seconds ? -1 : x->seconds > y->seconds;
}

static bool plan_group(Qcow2Chain *chain, unsigned first, unsigned last, GArray *groups, GError **error)
{
    Group group = {
        .chain = chain,
        .above = first - 1,
        .last = last,
        .ways = g_array_new(FALSE, TRUE, sizeof(Qcow2PlanWay)),
    };
    g_autoptr(GError) impossible = NULL;
    bool ok = true;

    for (unsigned target = group.above; ok && target <= last; target++) {
        ok = add_possible_ways_to(&group, target, &impossible, error);
    }
    if (ok && group.ways->len == 0) {
        g_propagate_error(error, g_steal_pointer(&impossible));
        ok = false;
    }
    g_array_sort(group.ways, by_time);
    Qcow2PlanGroup result = { .first = first, .last = last, .n_ways = group.ways->len };
    result.ways = (Qcow2PlanWay *)(void *)g_array_free(group.ways, FALSE);
    g_array_append_val(groups, result);
    return ok;
}

/* ---- The chain --------------------------------------------------------------------------------- */

static bool find_dropped(Qcow2Chain *chain, char *const *words, bool **ret_dropped, GError **error)
{
    unsigned n = qcow2_chain_n_layers(chain), index;

    *ret_dropped = g_new0(bool, n);
    for (guint i = 0; words[i]; i++) {
        if (!qcow2_chain_find_layer(chain, words[i], &index, error)) {
            return false;
        }
        if (index == 0) {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "'%s': the top of the chain is the active state and cannot be dropped",
                              qcow2_chain_layer_name(chain, 0));
        }
        (*ret_dropped)[index] = true;
    }
    return true;
}

static bool plan_groups(Qcow2Chain *chain, const bool *dropped, GArray *groups, GError **error)
{
    unsigned n = qcow2_chain_n_layers(chain);

    for (unsigned first = 1; first < n; first++) {
        unsigned last = first;
        if (!dropped[first]) {
            continue;
        }
        while (last + 1 < n && dropped[last + 1]) {
            last++;
        }
        if (!plan_group(chain, first, last, groups, error)) {
            return false;
        }
        first = last;
    }
    return true;
}

Qcow2Plan *qcow2_plan_new(Qcow2Chain *chain, char *const *drop, GError **error)
{
    g_autofree bool *dropped = NULL;
    GArray *groups = g_array_new(FALSE, TRUE, sizeof(Qcow2PlanGroup));

    bool ok = qcow2_chain_open_all(chain, error) && find_dropped(chain, drop, &dropped, error)
           && plan_groups(chain, dropped, groups, error);
    Qcow2Plan *plan = g_new0(Qcow2Plan, 1);
    plan->n_groups = groups->len;
    plan->groups = (Qcow2PlanGroup *)(void *)g_array_free(groups, FALSE);
    if (!ok) {
        qcow2_plan_free(plan);
        return NULL;
    }
    return plan;
}
