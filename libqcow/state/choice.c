/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/choice.h"

#include "util/error.h"
#include "state/same-bytes.h"
#include "util/progress.h"

/* Extents remembered from the first walk; an export that needs more walks through the tables again. */
#define REMEMBERED_EXTENTS (UINT64_C(1) << 20)

/* One window that was looked at. */
typedef struct Window {
    uint64_t start, end;
    GArray *extents;          /* NULL: not remembered; empty: nothing differs */
} Window;

struct Qcow2Choice {
    Qcow2State *from, *to;
    Qcow2ChoiceOptions options;
    Qcow2Diff *diff;
    Qcow2Diff *past;          /* NULL unless options.past is set */
    GArray *windows;          /* Window, without gaps */
    uint64_t n_remembered;
    guint at;                 /* the next window to give */
    GArray *ranges;
    GArray *scratch;          /* Qcow2Extent: of a window that is not remembered */
};

static void clear_window(gpointer window)
{
    g_clear_pointer(&((Window *)window)->extents, g_array_unref);
}

Qcow2Choice *qcow2_choice_new(Qcow2State *from, Qcow2State *to, const Qcow2ChoiceOptions *options,
                              GError **error)
{
    g_autoptr(Qcow2Choice) choice = g_new0(Qcow2Choice, 1);

    choice->from = from;
    choice->to = to;
    choice->options = *options;
    choice->windows = g_array_new(FALSE, FALSE, sizeof(Window));
    g_array_set_clear_func(choice->windows, clear_window);
    choice->ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    choice->scratch = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    choice->diff = qcow2_diff_new(from, to, error);
    if (!choice->diff || (options->past && !(choice->past = qcow2_diff_new(options->past, to, error)))) {
        return NULL;
    }
    return g_steal_pointer(&choice);
}

void qcow2_choice_free(Qcow2Choice *choice)
{
    if (!choice) {
        return;
    }
    qcow2_diff_free(choice->diff);
    qcow2_diff_free(choice->past);
    g_clear_pointer(&choice->windows, g_array_unref);
    g_clear_pointer(&choice->ranges, g_array_unref);
    g_clear_pointer(&choice->scratch, g_array_unref);
    g_free(choice);
}

void qcow2_choice_rewind(Qcow2Choice *choice)
{
    choice->at = 0;
}

static const Qcow2Range *ranges_of(const Qcow2Choice *choice)
{
    return (const Qcow2Range *)(const void *)choice->ranges->data;
}

static uint64_t end_of(const Qcow2Choice *choice)
{
    return choice->options.end > 0 ? choice->options.end : choice->to->size;
}

static bool find_ranges(Qcow2Choice *choice, uint64_t start, uint64_t *ret_end, GError **error)
{
    uint64_t limit = end_of(choice);

    if (!choice->options.everything) {
        return qcow2_diff_next(choice->diff, start, limit, choice->ranges, ret_end, error);
    }
    *ret_end = MIN(start + qcow2_state_window(choice->to), limit);
    g_array_set_size(choice->ranges, 0);
    qcow2_ranges_push(choice->ranges, start, *ret_end);
    return true;
}

static void push_between(GArray *ret, const GArray *ranges, uint64_t start, uint64_t end)
{
    for (guint i = 0; i < ranges->len; i++) {
        const Qcow2Range *range = &g_array_index(ranges, Qcow2Range, i);
        qcow2_ranges_push(ret, MAX(range->start, start), MIN(range->end, end));
    }
}

/* From where the other state counts, in the window that begins at @start. */
static bool replace_past(Qcow2Choice *choice, uint64_t start, uint64_t end, GError **error)
{
    uint64_t from = choice->options.past_from;
    g_autoptr(GArray) kept = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    g_autoptr(GArray) more = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));

    if (!choice->past || end <= from) {
        return true;
    }
    push_between(kept, choice->ranges, 0, from);
    while (start < end) {
        if (!qcow2_diff_next(choice->past, start, end, more, &start, error)) {
            return false;
        }
        push_between(kept, more, from, end);
    }
    g_array_set_size(choice->ranges, 0);
    g_array_append_vals(choice->ranges, kept->data, kept->len);
    return true;
}

/* Puts the extents of one window into choice->scratch. */
static bool find_extents(Qcow2Choice *choice, uint64_t start, uint64_t *ret_end, GError **error)
{
    const Qcow2ChoiceOptions *options = &choice->options;

    g_array_set_size(choice->scratch, 0);
    if (!qcow2_progress_check(options->progress, error) || !find_ranges(choice, start, ret_end, error)
        || !replace_past(choice, start, *ret_end, error)) {
        return false;
    }
    if (!options->not_aligned || options->compare_data) {
        qcow2_ranges_align(choice->ranges, options->unit, end_of(choice));
    }
    if (options->compare_data
        && !qcow2_drop_same_bytes(choice->from, choice->to, options->unit, options->n_threads, choice->ranges,
                                  options->progress, error)) {
        return false;
    }
    return choice->ranges->len == 0
           || qcow2_state_resolve(choice->to, ranges_of(choice), choice->ranges->len, QCOW2_NO_STOP,
                                  choice->scratch, error);
}

/* The next window, looked at for the first time. */
static bool add_window(Qcow2Choice *choice, GError **error)
{
    Window *last =
        choice->windows->len ? &g_array_index(choice->windows, Window, choice->windows->len - 1) : NULL;
    Window window = { .start = last ? last->end : 0 };

    if (!find_extents(choice, window.start, &window.end, error)) {
        return false;
    }
    if (choice->n_remembered + choice->scratch->len <= REMEMBERED_EXTENTS) {
        window.extents = g_array_copy(choice->scratch);
        choice->n_remembered += choice->scratch->len;
    }
    /* Windows without extents, one after the other, are one window that need not be looked at again. */
    if (last && window.extents && window.extents->len == 0 && last->extents && last->extents->len == 0) {
        last->end = window.end;
        g_array_unref(window.extents);
        choice->at--;
    } else {
        g_array_append_val(choice->windows, window);
    }
    return true;
}

/* A window again that was not remembered. Lower layers opened since may have made windows smaller. */
static bool look_again(Qcow2Choice *choice, const Window *window, GError **error)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));

    for (uint64_t at = window->start; at < window->end;) {
        uint64_t end;
        if (!find_extents(choice, at, &end, error)) {
            return false;
        }
        g_array_append_vals(all, choice->scratch->data, choice->scratch->len);
        at = end;
    }
    g_array_set_size(choice->scratch, 0);
    g_array_append_vals(choice->scratch, all->data, all->len);
    return true;
}

bool qcow2_choice_next(Qcow2Choice *choice, const GArray **ret_extents, GError **error)
{
    for (;;) {
        bool is_new = choice->at == choice->windows->len;
        uint64_t end =
            choice->windows->len ? g_array_index(choice->windows, Window, choice->windows->len - 1).end : 0;
        if (is_new && end >= end_of(choice)) {
            *ret_extents = NULL;
            return true;
        }
        if (is_new && !add_window(choice, error)) {
            return false;
        }
        const Window *window = &g_array_index(choice->windows, Window, choice->at);
        choice->at++;
        if (!window->extents && !is_new && !look_again(choice, window, error)) {
            return false;
        }
        *ret_extents = window->extents ? window->extents : choice->scratch;
        if ((*ret_extents)->len > 0) {
            return true;
        }
    }
}

bool qcow2_choice_each(Qcow2Choice *choice, Qcow2ExtentsFunc func, void *data, GError **error)
{
    const GArray *extents;

    do {
        if (!qcow2_choice_next(choice, &extents, error)) {
            return false;
        }
        if (extents) {
            func(extents, data);
        }
    } while (extents);
    qcow2_choice_rewind(choice);
    return true;
}

static void add_bytes(const GArray *extents, void *data)
{
    for (guint i = 0; i < extents->len; i++) {
        *(uint64_t *)data += g_array_index(extents, Qcow2Extent, i).len_bytes;
    }
}

bool qcow2_choice_count(Qcow2Choice *choice, uint64_t *ret_bytes, GError **error)
{
    *ret_bytes = 0;
    qcow2_choice_rewind(choice);
    return qcow2_choice_each(choice, add_bytes, ret_bytes, error);
}
