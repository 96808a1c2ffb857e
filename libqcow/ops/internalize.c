/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backing chain as one image. The lowest layer becomes the new image; then, layer by layer, what is there
 * becomes a snapshot and the next layer is applied, as an import would. All of it happens in a file without a
 * name, which gets one when nothing that was read has changed meanwhile.
 */
#include <string.h>
#include <sys/stat.h>

#include "format/refcount.h"
#include "image/snapshot-write.h"
#include "move/in-place.h"
#include "move/output.h"
#include "ops/export.h"
#include "ops/keep.h"
#include "state/witness.h"
#include "util/error.h"
#include "util/progress.h"

typedef struct Internalize {
    Qcow2Chain *chain;
    const Qcow2InternalizeOptions *options;
    Qcow2MoveResult *moved;
    Qcow2Progress *progress;
    Qcow2Chain *result;           /* over the new file */
    GHashTable *names;            /* of snapshots so far */
} Internalize;

/* The file's name without folder and suffix; -2, -3 … when it is there already. */
static char *snapshot_name(Internalize *self, const Qcow2Layer *layer)
{
    g_autofree char *base = g_path_get_basename(layer->place->target);
    char *dot = strrchr(base, '.');

    if (dot && dot != base) {
        *dot = '\0';
    }
    char *name = g_strdup(base);
    for (unsigned n = 2; g_hash_table_contains(self->names, name); n++) {
        g_free(name);
        name = g_strdup_printf("%s-%u", base, n);
    }
    g_hash_table_add(self->names, g_strdup(name));
    return name;
}

/* The lowest layer, whole, in the layout of the top one. */
static bool write_bottom(Internalize *self, Qcow2Io *io, GError **error)
{
    unsigned bottom = qcow2_chain_n_layers(self->chain) - 1;
    Qcow2State to = qcow2_state_below(self->chain, bottom);
    Qcow2ExportOptions options = { .no_reflink = self->options->no_reflink };
    g_autoptr(Qcow2State) from = qcow2_state_open(self->chain, "@empty", error);
    Qcow2Export job = {
        .from = from, .to = &to, .options = &options, .output = io->name, .progress = self->progress
    };
    g_auto(Qcow2Header) header = { 0 };

    if (!from) {
        return false;
    }
    to.size = from->size = qcow2_chain_image(self->chain, bottom)->size;
    if (!qcow2_export_header(&job, false, &header, error)) {
        return false;
    }
    /* It is an image of its own, not a delta. */
    qcow2_header_set_ext(&header, QCOW2_EXT_DELTA, NULL, 0);
    if (!qcow2_export_fill(&job, &header, io, error)) {
        return false;
    }
    *self->moved = (Qcow2MoveResult) {
        .bytes = job.result.bytes,
        .clusters = job.result.clusters,
        .data_clusters = job.result.data_clusters,
        .zero_clusters = job.result.zero_clusters,
        .compressed_clusters = job.result.compressed_clusters,
        .bytes_copied = job.result.bytes_copied,
        .bytes_cloned = job.result.bytes_cloned,
    };
    return true;
}

static bool add_snapshot(Internalize *self, Qcow2Batch *batch, Qcow2Image *image, const Qcow2Layer *layer,
                         GError **error)
{
    g_autofree char *name = snapshot_name(self, layer);
    Qcow2Snapshot info = {
        .name = name,
        .date_sec = layer->identity.known ? (uint32_t)layer->identity.mtime_sec : 0,
        .date_nsec = layer->identity.known ? (uint32_t)layer->identity.mtime_nsec : 0,
    };

    return qcow2_image_load_snapshots(image, error) && qcow2_batch_add_snapshot(batch, image, &info, error);
}

static bool keep_as_snapshot(Internalize *self, unsigned layer, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(self->result, 0);
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);

    return batch && add_snapshot(self, batch, image, qcow2_chain_layer(self->chain, layer), error)
        && qcow2_batch_commit(batch, error);
}

static bool apply_layer(Internalize *self, unsigned layer, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(self->result, 0);
    g_autoptr(Qcow2Chain) stack = qcow2_chain_stack(self->chain, layer, self->result, error);
    g_autoptr(Qcow2State) from = stack ? qcow2_state_open(stack, "@backing", error) : NULL;
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(stack, "@active", error) : NULL;
    Qcow2ChoiceOptions choice_options = { .unit = qcow2_in_place_unit(image) };
    Qcow2InPlaceOptions options = {
        .n_threads = self->chain->options.n_threads, .no_reflink = self->options->no_reflink,
    };
    Qcow2InPlaceResult result;

    if (!to) {
        return false;
    }
    qcow2_states_share_size(from, to);
    g_autoptr(Qcow2Choice) choice = qcow2_choice_new(from, to, &choice_options, error);
    g_autoptr(Qcow2Batch) batch = choice ? qcow2_batch_begin(image, error) : NULL;
    if (!batch || !qcow2_in_place_apply(batch, image, to, choice, &options, &result, self->progress, error)) {
        return false;
    }
    qcow2_move_result_add(self->moved, &result.stats);
    return qcow2_batch_commit(batch, error);
}

static bool open_result(Internalize *self, Qcow2Io *io, GError **error)
{
    Qcow2OpenOptions options = self->chain->options;

    options.format = "qcow2";
    options.writable = true;
    self->result = qcow2_chain_open_io(io, &options, error);
    return self->result != NULL;
}

static bool check_width(const Internalize *self, GError **error)
{
    uint64_t max = qcow2_refcount_max(&qcow2_chain_image(self->result, 0)->header.layout);
    unsigned n = qcow2_chain_n_layers(self->chain);

    return n <= max
           || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                         "%u layers become %u snapshots, and refcounts of the new"
                         " image hold %" PRIu64 " at most",
                         n, n - 1, max);
}

static bool build(Internalize *self, Qcow2Io *io, GError **error)
{
    if (!write_bottom(self, io, error) || !open_result(self, io, error) || !check_width(self, error)) {
        return false;
    }
    for (unsigned layer = qcow2_chain_n_layers(self->chain) - 1; layer > 0; layer--) {
        if (!qcow2_progress_check(self->progress, error) || !keep_as_snapshot(self, layer, error)
            || !apply_layer(self, layer - 1, error)) {
            g_prefix_error(error, "layer [%u]: ", layer);
            return false;
        }
    }
    return true;
}

static bool write_output(Internalize *self, const char *output, Qcow2Witness *witness, GError **error)
{
    g_autoptr(Qcow2Output) file =
        qcow2_output_new(output, self->options->overwrite, QCOW2_CACHE_WRITEBACK, error);
    bool ok = file && qcow2_output_trace(file, self->chain->options.trace, error)
           && build(self, qcow2_output_io(file), error);

    g_clear_pointer(&self->result, qcow2_chain_free);
    return ok && qcow2_witness_end(witness, error) && qcow2_output_publish(file, error);
}

bool qcow2_internalize(Qcow2Chain *chain, const char *output, const Qcow2InternalizeOptions *options,
                       Qcow2MoveResult *ret_result, Qcow2Progress *progress, GError **error)
{
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Internalize self = {
        .chain = chain, .options = options, .moved = ret_result, .progress = progress, .names = names,
    };

    *ret_result = (Qcow2MoveResult) { 0 };
    if (!qcow2_chain_open_all(chain, error)) {
        return false;
    }
    g_autoptr(Qcow2State) active = qcow2_state_open(chain, "@active", error);
    g_autoptr(Qcow2Witness) witness = active ? qcow2_witness_begin(&active, 1, error) : NULL;
    if (!witness) {
        return false;
    }
    bool ok = write_output(&self, output, witness, error);
    if (ok) {
        qcow2_progress_finish(progress);
    } else {
        qcow2_witness_explain(witness, error);
    }
    return ok;
}
