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

#include "ops/plan-steps.h"
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

static bool add_pull(Group *group, Qcow2PlanFile *file, GError **error)
{
    Qcow2PlanStep step;

    if (!qcow2_plan_pull(file, &step, error)) {
        return false;
    }
    add_way(group, file->target, &step, 1);
    return true;
}

static bool add_commit(Group *group, Qcow2PlanFile *file, GError **error)
{
    Qcow2PlanStep steps[2];

    if (!qcow2_plan_commit(file, &steps[0], error)) {
        return false;
    }
    if (file->target == group->last) {
        add_way(group, file->target, steps, 1);
        return true;
    }
    if (!qcow2_plan_pull(file, &steps[1], error)) {
        return false;
    }
    add_way(group, file->target, steps, 2);
    return true;
}

static bool add_pull_and_commit(Group *group, Qcow2PlanFile *file, GError **error)
{
    Qcow2PlanStep steps[2];

    if (!qcow2_plan_pull(file, &steps[0], error) || !qcow2_plan_commit(file, &steps[1], error)) {
        return false;
    }
    add_way(group, file->target, steps, 2);
    return true;
}

static bool add_ways_to(Group *group, unsigned target, GError **error)
{
    g_auto(Qcow2PlanFile) file = {
        .chain = group->chain, .above = group->above, .target = target, .last = group->last,
    };
    g_auto(Qcow2PlanFile) again = file;

    if (target == group->above) {
        return add_pull(group, &file, error);
    }
    return add_commit(group, &file, error)
        && (target == group->last || add_pull_and_commit(group, &again, error));
}

/* @impossible: why the first one cannot be done that is left out. */
static bool add_possible_ways_to(Group *group, unsigned target, GError **impossible, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (add_ways_to(group, target, &cause)) {
        return true;
    }
    /* Invalid: a disk that is too large for the tables of the file. */
    if (!g_error_matches(cause, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED)
        && !g_error_matches(cause, QCOW2_ERROR, QCOW2_ERROR_INVALID)
        && !g_error_matches(cause, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE)) {
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

/* That a VM writes the image is said here, once: what is planned with says nothing any more. */
static bool look_at(Qcow2Chain *chain, GError **error)
{
    g_autoptr(Qcow2State) state = qcow2_state_open(chain, "@active", error);

    return state != NULL;
}

Qcow2Plan *qcow2_plan_new(Qcow2Chain *chain, char *const *drop, GError **error)
{
    g_autofree bool *dropped = NULL;
    GArray *groups = g_array_new(FALSE, TRUE, sizeof(Qcow2PlanGroup));

    bool ok = qcow2_chain_open_all(chain, error) && find_dropped(chain, drop, &dropped, error)
           && look_at(chain, error) && plan_groups(chain, dropped, groups, error);
    Qcow2Plan *plan = g_new0(Qcow2Plan, 1);
    plan->n_groups = groups->len;
    plan->groups = (Qcow2PlanGroup *)(void *)g_array_free(groups, FALSE);
    if (!ok) {
        qcow2_plan_free(plan);
        return NULL;
    }
    return plan;
}
