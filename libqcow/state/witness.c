/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/witness.h"

#include <string.h>

#include "image/stable.h"
#include "state/table-digest.h"
#include "util/error.h"

/* What must stay as it is for one state. */
typedef struct Evidence {
    Qcow2State *state;
    GBytes *l1;               /* raw L1 table */
    char *tables;             /* ACTIVE of an image that no lock protects: digest of all its L2 tables */
} Evidence;

struct Qcow2Witness {
    Qcow2Chain *chain;
    bool may_change;          /* no lock of ours keeps writers away */
    GArray *evidence;
    GBytes *header;           /* its raw cluster, when the active layer is read */
    char *backing_name, *backing_format;
    bool warned;
};

static void clear_evidence(gpointer data)
{
    Evidence *evidence = data;

    g_clear_pointer(&evidence->l1, g_bytes_unref);
    g_clear_pointer(&evidence->tables, g_free);
}

void qcow2_witness_free(Qcow2Witness *witness)
{
    if (!witness) {
        return;
    }
    g_array_unref(witness->evidence);
    g_clear_pointer(&witness->header, g_bytes_unref);
    g_free(witness->backing_name);
    g_free(witness->backing_format);
    g_free(witness);
}

static bool reads_tables(const Qcow2State *state)
{
    return (state->kind == QCOW2_STATE_ACTIVE || state->kind == QCOW2_STATE_SNAPSHOT)
        && qcow2_chain_image(state->chain, 0)->kind == QCOW2_IMAGE_QCOW2;
}

static GBytes *read_l1(Qcow2Io *file, const Qcow2View *view, GError **error)
{
    size_t len = view->l1_entries * 8;
    g_autofree uint8_t *bytes = g_try_malloc(len);

    if (!bytes && len > 0) {
        qcow2_fail_memory(error, len, "an L1 table");
        return NULL;
    }
    if (!qcow2_io_read(file, view->l1_offset, bytes, len, error)) {
        g_prefix_error(error, "L1 table: ");
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&bytes), len);
}

static bool fail_changed(const Qcow2Witness *witness, GError **error, const char *what)
{
    return qcow2_fail(error, QCOW2_ERROR_CHANGED,
                      "'%s': %s while it was read; nothing that was read can be trusted, run"
                      " the command again",
                      qcow2_chain_layer_name(witness->chain, 0), what);
}

/* ---- Finding changes --------------------------------------------------------------------------- */

static bool entry_is_there(const GArray *snapshots, GBytes *entry)
{
    for (guint i = 0; i < snapshots->len; i++) {
        if (g_bytes_equal(g_array_index(snapshots, Qcow2SnapshotEntry, i).raw, entry)) {
            return true;
        }
    }
    return false;
}

static bool check_entries(const Qcow2Witness *witness, const Qcow2StableRead *now, GError **error)
{
    for (guint i = 0; i < witness->evidence->len; i++) {
        const Qcow2State *state = g_array_index(witness->evidence, Evidence, i).state;
        if (state->kind == QCOW2_STATE_SNAPSHOT && !entry_is_there(now->snapshots, state->entry)) {
            g_autofree char *what =
                g_strdup_printf("snapshot '%s' was deleted or replaced", state->snapshot_name);
            return fail_changed(witness, error, what);
        }
    }
    return true;
}

static bool check_tables(const Qcow2Witness *witness, Qcow2Io *file, GError **error)
{
    for (guint i = 0; i < witness->evidence->len; i++) {
        const Evidence *evidence = &g_array_index(witness->evidence, Evidence, i);
        if (!evidence->l1) {
            continue;
        }
        g_autoptr(GBytes) l1 = read_l1(file, &evidence->state->view, error);
        if (!l1) {
            return false;
        }
        if (!g_bytes_equal(l1, evidence->l1)) {
            g_autofree char *what = g_strdup_printf("the L1 table of %s changed", evidence->state->name);
            return fail_changed(witness, error, what);
        }
        if (evidence->tables) {
            g_autofree char *tables = qcow2_digest_tables(evidence->state, file, error);
            if (!tables) {
                return false;
            }
            if (strcmp(tables, evidence->tables) != 0) {
                return fail_changed(witness, error, "its active layer changed");
            }
        }
    }
    return true;
}

static bool check_container(const Qcow2Witness *witness, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(witness->chain, 0);
    g_auto(Qcow2StableRead) now = { 0 };
    g_autoptr(Qcow2Io) file = qcow2_io_reopen(image->file, error);

    if (!file || !qcow2_stable_read(file, &now, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(witness->chain, 0));
        return false;
    }
    if (!check_entries(witness, &now, error) || !check_tables(witness, file, error)) {
        return false;
    }
    if (g_strcmp0(now.header.backing_name, witness->backing_name) != 0
        || g_strcmp0(now.header.backing_format, witness->backing_format) != 0) {
        return fail_changed(witness, error, "its backing file was replaced");
    }
    if (witness->header && (now.bytes->len < g_bytes_get_size(witness->header)
                            || memcmp(now.bytes->data, g_bytes_get_data(witness->header, NULL),
                                      g_bytes_get_size(witness->header)) != 0)) {
        return fail_changed(witness, error, "its header changed");
    }
    return true;
}

static bool same_identity(const Qcow2IoIdentity *a, const Qcow2IoIdentity *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size
           && a->mtime_sec == b->mtime_sec && a->mtime_nsec == b->mtime_nsec && a->ctime_sec == b->ctime_sec
           && a->ctime_nsec == b->ctime_nsec;
}

/* Files without a format's locks of their own: what is on them must not have changed at all. */
static bool check_file(Qcow2Witness *witness, unsigned layer, Qcow2Io *io, const Qcow2IoIdentity *before,
                       GError **error)
{
    const char *name = qcow2_chain_layer_name(witness->chain, layer);
    Qcow2IoIdentity now;
    bool has_writer;

    if (!qcow2_io_identify(io, &now, error) || !qcow2_io_has_writer(io, &has_writer, error)) {
        g_prefix_error(error, "'%s': ", name);
        return false;
    }
    if (!now.known || !before->known) {
        if (witness->may_change && !witness->warned) {
            qcow2_chain_warn(witness->chain,
                             "'%s' is read over NBD: that it did not change meanwhile cannot be proven",
                             name);
            witness->warned = true;
        }
        return true;
    }
    if (has_writer) {
        return qcow2_fail(
            error, QCOW2_ERROR_CHANGED,
            "'%s': another process is writing to it (a commit or a stream?), so"
            " what is read through it cannot be trusted; run the command again when that has ended",
            name);
    }
    if (!same_identity(&now, before)) {
        return qcow2_fail(error, QCOW2_ERROR_CHANGED,
                          "'%s': it was changed while it was read (by a commit or a stream?);"
                          " run the command again",
                          name);
    }
    return true;
}

/* Layers that were opened are those that something was read from. */
static bool check_lower_layers(Qcow2Witness *witness, GError **error)
{
    for (unsigned i = 1; i < qcow2_chain_n_layers(witness->chain); i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(witness->chain, i);
        if (!check_file(witness, i, layer->image->file, &layer->identity, error)) {
            return false;
        }
        if (layer->has_data_identity
            && !check_file(witness, i, layer->image->data, &layer->data_identity, error)) {
            return false;
        }
    }
    return true;
}

static bool reads_active(const Qcow2Witness *witness)
{
    for (guint i = 0; i < witness->evidence->len; i++) {
        if (g_array_index(witness->evidence, Evidence, i).state->kind == QCOW2_STATE_ACTIVE) {
            return true;
        }
    }
    return false;
}

/* A file's active layer: nobody may write to the file at all. */
static bool check_active_file(Qcow2Witness *witness, GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(witness->chain, 0);

    if (!layer->identity.known || !reads_active(witness)) {
        return true;
    }
    return check_file(witness, 0, layer->image->file, &layer->identity, error)
           && (!layer->has_data_identity
               || check_file(witness, 0, layer->image->data, &layer->data_identity, error));
}

bool qcow2_witness_end(Qcow2Witness *witness, GError **error)
{
    return (qcow2_chain_image(witness->chain, 0)->kind == QCOW2_IMAGE_RAW || check_container(witness, error))
        && check_active_file(witness, error) && check_lower_layers(witness, error);
}

void qcow2_witness_explain(Qcow2Witness *witness, GError **error)
{
    g_autoptr(GError) reason = NULL;

    if (!error || !*error || g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_CANCELLED)) {
        return;
    }
    if (!qcow2_witness_end(witness, &reason) && g_error_matches(reason, QCOW2_ERROR, QCOW2_ERROR_CHANGED)) {
        g_clear_error(error);
        *error = g_steal_pointer(&reason);
    }
}

/* ---- Beginning --------------------------------------------------------------------------------- */

static bool refuse_active_in_use(const Qcow2Witness *witness, GError **error)
{
    Qcow2Io *file = qcow2_chain_image(witness->chain, 0)->file;
    bool has_writer;

    if (!qcow2_io_has_writer(file, &has_writer, error)) {
        return false;
    }
    if (has_writer) {
        return qcow2_fail(error, QCOW2_ERROR_IN_USE,
                          "'%s': a running VM writes to the active layer (@active), so that it has"
                          " no single state to be read; take an internal snapshot and use that",
                          qcow2_chain_layer_name(witness->chain, 0));
    }
    return true;
}

static bool collect(Qcow2Witness *witness, Qcow2State *state, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(witness->chain, 0);
    Evidence evidence = { .state = state };
    bool is_remote = !qcow2_chain_layer(witness->chain, 0)->identity.known;

    if (reads_tables(state)) {
        evidence.l1 = read_l1(image->file, &state->view, error);
        if (!evidence.l1) {
            return false;
        }
        if (state->kind == QCOW2_STATE_ACTIVE && is_remote) {
            qcow2_chain_warn(witness->chain,
                             "'%s': @active is read over NBD, where no lock tells whether somebody writes to"
                             " it; the command fails at its end if its tables changed",
                             qcow2_chain_layer_name(witness->chain, 0));
            evidence.tables = qcow2_digest_tables(state, image->file, error);
            if (!evidence.tables) {
                clear_evidence(&evidence);
                return false;
            }
        }
    }
    g_array_append_val(witness->evidence, evidence);
    return true;
}

Qcow2Witness *qcow2_witness_begin(Qcow2State *const *states, size_t n_states, GError **error)
{
    g_autoptr(Qcow2Witness) witness = g_new0(Qcow2Witness, 1);
    Qcow2Chain *chain = states[0]->chain;
    Qcow2Image *image = qcow2_chain_image(chain, 0);

    witness->chain = chain;
    witness->may_change = chain->options.force_share || !qcow2_chain_layer(chain, 0)->identity.known;
    witness->evidence = g_array_new(FALSE, FALSE, sizeof(Evidence));
    g_array_set_clear_func(witness->evidence, clear_evidence);
    witness->backing_name = g_strdup(image->header.backing_name);
    witness->backing_format = g_strdup(image->header.backing_format);
    for (size_t i = 0; i < n_states; i++) {
        if (!collect(witness, states[i], error)) {
            return NULL;
        }
    }
    if (reads_active(witness) && !refuse_active_in_use(witness, error)) {
        return NULL;
    }
    /* The states were opened some moments ago: that they are still there is the same check as at the end. */
    return qcow2_witness_end(witness, error) ? g_steal_pointer(&witness) : NULL;
}
