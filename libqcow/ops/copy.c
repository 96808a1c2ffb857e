/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy states into a new image, or into one that is there.
 *
 *   step                                                a crash afterwards leaves
 *   1  note what must not change (witnesses)            nothing
 *   2  choose what the target has to hold               nothing
 *   3  move it into a new file under another name       a temporary file; to resume: one with a known name
 *   4  prove that nothing changed meanwhile             the same
 *   5  flush, rename, flush the folder                  the copy, whole
 *
 * What is written in place is a mixture until the end; the same copy again completes it.
 */
#include "ops/copy.h"

#include <string.h>

#include "ops/export.h"
#include "util/error.h"
#include "util/progress.h"

#define DEFAULT_SPARSE_SIZE UINT64_C(4096)

/* ---- What is asked for ------------------------------------------------------------------------- */

static bool is_raw(const Qcow2CopyOptions *options)
{
    return !options->output_format || strcmp(options->output_format, "raw") == 0;
}

static bool check_sources(const Qcow2CopyOptions *options, size_t n_sources, GError **error)
{
    if (n_sources > 1 && options->backing_name) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Having a backing file for the target makes no sense when concatenating multiple"
                          " input images");
    }
    if (n_sources > 1 && options->bitmaps) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Copying bitmaps only possible with single source");
    }
    return true;
}

static bool check_target(const Qcow2CopyOptions *options, GError **error)
{
    if (options->existing) {
        return true;    /* what it can is known when it is open */
    }
    if (options->compress && is_raw(options)) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Compression not supported for this file format");
    }
    if (options->bitmaps && is_raw(options)) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Format driver 'raw' does not support bitmaps");
    }
    return true;
}

/* ---- The source -------------------------------------------------------------------------------- */

static void free_witness(gpointer witness)
{
    qcow2_witness_free(witness);
}

static bool begin_witnesses(Qcow2Copy *copy, GError **error)
{
    for (size_t i = 0; i < copy->n_sources; i++) {
        Qcow2Witness *witness = qcow2_witness_begin(&copy->sources[i], 1, error);
        if (!witness) {
            return false;
        }
        g_ptr_array_add(copy->witnesses, witness);
    }
    return true;
}

bool qcow2_copy_end(const Qcow2Copy *copy, GError **error)
{
    for (guint i = 0; i < copy->witnesses->len; i++) {
        if (!qcow2_witness_end(g_ptr_array_index(copy->witnesses, i), error)) {
            return false;
        }
    }
    return true;
}

/* All zeros would not be what was salvaged of an image that only lacks its key. */
static bool check_readable(const Qcow2Copy *copy, Qcow2Chain *chain, GError **error)
{
    for (unsigned i = 0; copy->options->salvage && i < qcow2_chain_n_layers(chain); i++) {
        if (!qcow2_image_check_readable(qcow2_chain_image(chain, i), error)) {
            g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(chain, i));
            return false;
        }
    }
    return true;
}

/* A damaged chain is no reason to fail when something is to be salvaged of it. */
static bool open_layers(Qcow2State *state, GError **error)
{
    if (!qcow2_chain_open_all(state->chain, error)) {
        return false;
    }
    for (unsigned i = 0; i < qcow2_chain_n_layers(state->chain); i++) {
        if (!qcow2_chain_open_data(state->chain, i, error)) {
            return false;
        }
    }
    return true;
}

/* Several sources as one, or one that may be damaged. */
static Qcow2Io *join(const Qcow2Copy *copy, GError **error)
{
    g_autofree Qcow2JoinedPart *parts = g_new0(Qcow2JoinedPart, copy->n_sources);
    Qcow2JoinedOptions options = {
        .salvage = copy->options->salvage,
        .warn = copy->options->warn,
        .warn_data = copy->options->warn_data,
    };

    for (size_t i = 0; i < copy->n_sources; i++) {
        Qcow2State *source = copy->sources[i];
        if (!open_layers(source, error) || !check_readable(copy, source->chain, error)) {
            return NULL;
        }
        parts[i].state = source;
        parts[i].len_bytes = qcow2_align_up(source->size, QCOW2_SECTOR_SIZE);
    }
    return qcow2_joined_new(parts, copy->n_sources, &options, error);
}

/* ---- The work ---------------------------------------------------------------------------------- */

bool qcow2_copy_refuse_source(const Qcow2Copy *copy, const Qcow2Place *place, GError **error)
{
    for (size_t i = 0; place && place->kind == QCOW2_PLACE_FILE && i < copy->n_sources; i++) {
        if (!qcow2_refuse_layer(copy->sources[i]->chain, place->target, error)) {
            return false;
        }
    }
    return true;
}

static bool check_places(const Qcow2Copy *copy, const Qcow2Creation *creation, GError **error)
{
    return qcow2_copy_refuse_source(copy, creation->place, error)
        && qcow2_copy_refuse_source(copy, creation->data_place, error);
}

/* Known before the work, not after it. */
static bool check_bitmaps(const Qcow2Copy *copy, const Qcow2Creation *creation, GError **error)
{
    return !copy->options->bitmaps || creation->options.version >= 3
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "Format driver 'qcow2' does not support bitmaps in version 2 (compat=0.10)");
}

static bool copy_to_new(Qcow2Copy *copy, GError **error)
{
    const Qcow2CopyOptions *options = copy->options;
    Qcow2CreateRequest request = {
        .format = is_raw(options) ? "raw" : options->output_format,
        .options = options->create_options,
        .backing_name = options->backing_name,
        .backing_format = options->backing_format,
        .has_size = true,
        .size = copy->source->size,
        .untrusted = options->untrusted,
        .trace = options->trace,
        .warn = options->warn,
        .warn_data = options->warn_data,
    };
    Qcow2Creation creation = { .cache = options->cache, .resume = options->resume, .is_copy = true };
    bool ok = qcow2_creation_begin(&creation, copy->target, &request, error)
           && check_places(copy, &creation, error) && check_bitmaps(copy, &creation, error);

    if (ok) {
        copy->size = creation.options.size;
        ok = creation.raw ? qcow2_copy_to_new_raw(copy, &creation, error)
                          : qcow2_copy_to_new_qcow2(copy, &creation, error);
    }
    qcow2_creation_clear(&creation);
    return ok;
}

static bool run(Qcow2Copy *copy, GError **error)
{
    copy->result.virtual_size = copy->size = qcow2_align_up(copy->source->size, QCOW2_SECTOR_SIZE);
    bool ok = copy->options->existing ? qcow2_copy_to_existing(copy, error) : copy_to_new(copy, error);

    for (guint i = 0; !ok && i < copy->witnesses->len; i++) {
        qcow2_witness_explain(g_ptr_array_index(copy->witnesses, i), error);
    }
    qcow2_copy_forget_bytes(copy);
    return ok;
}

static bool run_joined(Qcow2Copy *copy, GError **error)
{
    g_autoptr(Qcow2Io) io = join(copy, error);
    g_autoptr(Qcow2Chain) chain = io ? qcow2_joined_open(io, &copy->first->options, error) : NULL;
    g_autoptr(Qcow2State) state = chain ? qcow2_state_open(chain, "@active", error) : NULL;

    copy->source = state;
    bool ok = state && run(copy, error);
    copy->result.bytes_salvaged = io ? qcow2_joined_salvaged(io) : 0;
    return ok;
}

static void set_rules(Qcow2Copy *copy)
{
    const Qcow2CopyOptions *options = copy->options;

    copy->sparse =
        qcow2_sparse_rule(options->has_sparse_size ? options->sparse_size : DEFAULT_SPARSE_SIZE);
    copy->share_first = !options->has_sparse_size && !options->no_reflink;
}

bool qcow2_copy(Qcow2State *const *sources, size_t n_sources, const char *target,
                const Qcow2CopyOptions *options, Qcow2CopyResult *ret_result, Qcow2Progress *progress,
                GError **error)
{
    g_autoptr(GPtrArray) witnesses = g_ptr_array_new_with_free_func(free_witness);
    Qcow2Copy copy = {
        .sources = sources,
        .n_sources = n_sources,
        .source = sources[0],
        .first = sources[0]->chain,
        .options = options,
        .target = target,
        .progress = progress,
        .witnesses = witnesses,
    };

    set_rules(&copy);
    if (!check_sources(options, n_sources, error) || !check_target(options, error)
        || !begin_witnesses(&copy, error) || !qcow2_copy_check_bitmaps(&copy, error)) {
        return false;
    }
    bool must_join = n_sources > 1 || options->salvage;
    bool ok = must_join ? run_joined(&copy, error) : run(&copy, error);
    qcow2_journal_free(copy.journal);
    if (ok) {
        qcow2_progress_finish(progress);
        *ret_result = copy.result;
    }
    return ok;
}
