/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/state.h"

#include <string.h>

#include "image/stable.h"
#include "util/error.h"

void qcow2_state_free(Qcow2State *state)
{
    if (!state) {
        return;
    }
    g_free(state->name);
    g_free(state->id);
    g_free(state->snapshot_name);
    g_clear_pointer(&state->entry, g_bytes_unref);
    g_free(state);
}

uint64_t qcow2_state_get_size(const Qcow2State *state)
{
    return state->size;
}

void qcow2_states_share_size(Qcow2State *a, Qcow2State *b)
{
    bool a_follows = a->kind == QCOW2_STATE_EMPTY || a->kind == QCOW2_STATE_BACKING;
    bool b_follows = b->kind == QCOW2_STATE_EMPTY || b->kind == QCOW2_STATE_BACKING;

    if (a_follows && !b_follows) {
        a->size = b->size;
    } else if (b_follows && !a_follows) {
        b->size = a->size;
    }
}

Qcow2State qcow2_state_below(Qcow2Chain *chain, unsigned first_layer)
{
    return (Qcow2State){
        .chain = chain, .kind = QCOW2_STATE_BACKING, .size = INT64_MAX, .first_layer = first_layer
    };
}

uint64_t qcow2_state_window(const Qcow2State *state)
{
    uint64_t window = UINT64_MAX;

    for (unsigned i = 0; i < qcow2_chain_n_layers(state->chain); i++) {
        window = MIN(window, qcow2_image_window(qcow2_chain_image(state->chain, i)));
    }
    return window;
}

/* ---- Finding a state by its name --------------------------------------------------------------- */

typedef enum { MATCH_ANY, MATCH_NAME, MATCH_ID } MatchBy;

static bool matches(const Qcow2SnapshotEntry *entry, const char *word, MatchBy by)
{
    return (by != MATCH_ID && strcmp(entry->name, word) == 0)
           || (by != MATCH_NAME && strcmp(entry->id, word) == 0);
}

static void list_candidates(const GArray *entries, const char *word, MatchBy by, GString *ret)
{
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(entries, Qcow2SnapshotEntry, i);
        if (matches(entry, word, by)) {
            g_string_append_printf(ret, "%sid '%s' name '%s'", ret->len ? ", " : "", entry->id, entry->name);
        }
    }
}

static bool find_entry(const GArray *entries, const char *word, MatchBy by, guint *ret_index, GError **error)
{
    bool found = false;

    for (guint i = 0; i < entries->len; i++) {
        if (!matches(&g_array_index(entries, Qcow2SnapshotEntry, i), word, by)) {
            continue;
        }
        if (found) {
            g_autoptr(GString) candidates = g_string_new(NULL);
            list_candidates(entries, word, by, candidates);
            return qcow2_fail(error, QCOW2_ERROR_AMBIGUOUS,
                              "'%s' fits more than one snapshot: %s; say name:… or id:…", word,
                              candidates->str);
        }
        found = true;
        *ret_index = i;
    }
    return found
           || qcow2_fail(error, QCOW2_ERROR_NOT_FOUND,
                         "snapshot '%s' not found; qcow-snapshot -l lists what there"
                         " is",
                         word);
}

bool qcow2_find_snapshot(Qcow2Image *image, const char *word, guint *ret_index, GError **error)
{
    MatchBy by = MATCH_ANY;

    if (g_str_has_prefix(word, "name:")) {
        by = MATCH_NAME;
        word += strlen("name:");
    } else if (g_str_has_prefix(word, "id:")) {
        by = MATCH_ID;
        word += strlen("id:");
    }
    return qcow2_image_load_snapshots(image, error)
           && find_entry(image->snapshots, word, by, ret_index, error);
}

static bool open_snapshot(Qcow2State *state, guint index, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(state->chain, 0);

    if (!qcow2_image_load_snapshots(image, error)) {
        return false;
    }
    if (index >= image->snapshots->len) {
        return qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "there is no snapshot [%u]", index);
    }
    const Qcow2SnapshotEntry *entry = &g_array_index(image->snapshots, Qcow2SnapshotEntry, index);
    if (!qcow2_image_snapshot_view(image, entry, &state->view, error)) {
        g_prefix_error(error, "snapshot '%s': ", entry->name);
        return false;
    }
    state->kind = QCOW2_STATE_SNAPSHOT;
    state->size = entry->info.disk_size;
    state->entry = g_bytes_ref(entry->raw);
    state->id = g_strdup(entry->id);
    state->snapshot_name = g_strdup(entry->name);
    state->info = entry->info;
    state->info.id = state->id;
    state->info.name = state->snapshot_name;
    return true;
}

/* A snapshot stays what it is while a VM writes; the active layer does not. */
static bool warn_of_writer(Qcow2Chain *chain, GError **error)
{
    bool has_writer = false;

    if (chain->options.force_share
        && !qcow2_io_has_writer(qcow2_chain_image(chain, 0)->file, &has_writer, error)) {
        return false;
    }
    if (has_writer) {
        qcow2_chain_warn(
            chain, "'%s' is being written: its active state is read as it comes, and may never have been so",
            qcow2_chain_layer_name(chain, 0));
    }
    return true;
}

static bool open_active(Qcow2State *state, GError **error)
{
    state->kind = QCOW2_STATE_ACTIVE;
    state->view = qcow2_image_active_view(qcow2_chain_image(state->chain, 0));
    return warn_of_writer(state->chain, error);
}

static bool open_named(Qcow2State *state, const char *name, GError **error)
{
    guint index;

    if (strcmp(name, "@active") == 0) {
        return open_active(state, error);
    }
    if (strcmp(name, "@backing") == 0) {
        state->kind = QCOW2_STATE_BACKING;
        state->first_layer = 1;
        return true;
    }
    if (strcmp(name, "@empty") == 0) {
        state->kind = QCOW2_STATE_EMPTY;
        return true;
    }
    if (*name == '@') {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "'%s' is no state; @active, @backing and @empty are, and snapshots by"
                          " name or id (name:%s for a snapshot of that name)",
                          name, name);
    }
    return qcow2_find_snapshot(qcow2_chain_image(state->chain, 0), name, &index, error)
        && open_snapshot(state, index, error);
}

/* A writer may be at work: what was read when the image was opened is only believed when it is stable. */
static Qcow2State *begin(Qcow2Chain *chain, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    bool may_change = chain->options.force_share || qcow2_io_get_fd(image->file) < 0;

    if (may_change && !qcow2_image_refresh(image, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(chain, 0));
        return NULL;
    }
    Qcow2State *state = g_new0(Qcow2State, 1);
    state->chain = chain;
    state->size = image->size;
    return state;
}

/* Takes @state over. */
static Qcow2State *end(Qcow2State *state, bool ok, GError **error)
{
    if (!ok) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(state->chain, 0));
        qcow2_state_free(state);
        return NULL;
    }
    return state;
}

Qcow2State *qcow2_state_open(Qcow2Chain *chain, const char *name, GError **error)
{
    Qcow2State *state = begin(chain, error);

    if (!state) {
        return NULL;
    }
    state->name = g_strdup(name);
    return end(state, open_named(state, name, error), error);
}

Qcow2State *qcow2_state_open_at(Qcow2Chain *chain, guint snapshot, GError **error)
{
    Qcow2State *state = begin(chain, error);

    if (!state) {
        return NULL;
    }
    bool ok = snapshot == QCOW2_ACTIVE_LAYER ? open_active(state, error)
                                             : open_snapshot(state, snapshot, error);
    state->name = g_strdup(state->snapshot_name ? state->snapshot_name : "@active");
    return end(state, ok, error);
}
