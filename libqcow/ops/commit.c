/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit: what the layers above base, up to top, hold moves into base; then they leave the chain.
 *
 *   step                                                   a crash afterwards leaves
 *   1  images to preserve get what base will no longer     everything as it was: they read the same, through
 *      give them, each in one step (ops/keep.c)            the layers that they have now
 *   2  base's bitmaps mark what will be written; flush     base with bits too many, never too few
 *   3  data goes into base, in place where nobody else     the chain as it was: the layers above hide base
 *      refers to it; flush
 *   4  base: one header write with its new tables; flush   both versions of the chain, which read the same
 *   5  images to preserve outside the chain that read      the same
 *      base through layers between name it themselves,
 *      now that it holds what they read
 *   6  layers that are to be re-pointed, marked or         the same
 *      deleted say so in their headers, for the note to
 *      be believed
 *   7  the layer above top names base, or the image        the same; the next commit goes on from the note
 *      itself is emptied, with a note there of the layers
 *      that are left over; then top and layers to preserve
 *      name base, one header write each
 *   8  layers between are marked; deleted if asked for     the same
 *   9  the note is removed                                 done; marked layers are refused by name
 */
#include <string.h>

#include "chain/naming.h"
#include "ops/merge.h"
#include "util/error.h"
#include "util/progress.h"

void qcow2_merge_init(Qcow2Merge *merge, const Qcow2CommitOptions *options, Qcow2CommitResult *result,
                      Qcow2Progress *progress)
{
    *merge = (Qcow2Merge) {
        .options = options,
        .base_word = options->base,
        .kept = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_dependent_free),
        .others = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_chain_free),
        .invalid = g_ptr_array_new(),
        .unmarked = g_ptr_array_new(),
        .deleted = g_ptr_array_new(),
        .not_deleted = g_ptr_array_new(),
        .result = result,
        .progress = progress,
    };
}

static char **take_names(GPtrArray **names)
{
    g_ptr_array_add(*names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(names), FALSE);
}

void qcow2_merge_clear(Qcow2Merge *merge)
{
    merge->result->invalid = take_names(&merge->invalid);
    merge->result->unmarked = take_names(&merge->unmarked);
    merge->result->deleted = take_names(&merge->deleted);
    merge->result->not_deleted = take_names(&merge->not_deleted);
    g_clear_pointer(&merge->note, g_bytes_unref);
    g_clear_pointer(&merge->kept, g_ptr_array_unref);
    g_clear_pointer(&merge->others, g_ptr_array_unref);
    g_clear_pointer(&merge->top_chain, qcow2_chain_free);
    g_clear_pointer(&merge->base_chain, qcow2_chain_free);
    g_clear_pointer(&merge->chain, qcow2_chain_free);
}

void qcow2_commit_result_clear(Qcow2CommitResult *result)
{
    g_clear_pointer(&result->base, g_free);
    g_clear_pointer(&result->invalid, g_strfreev);
    g_clear_pointer(&result->deleted, g_strfreev);
    g_clear_pointer(&result->not_deleted, g_strfreev);
    g_clear_pointer(&result->unmarked, g_strfreev);
}

/* ---- Which layers ------------------------------------------------------------------------------ */

/* The same command again, after it was done: the top has left the chain. */
static bool find_top(Qcow2Chain *chain, const char *word, unsigned *ret_top, GError **error)
{
    if (qcow2_chain_find_layer(chain, word, ret_top, error)) {
        return true;
    }
    if (error && g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_NOT_FOUND)) {
        g_autofree char *cause = g_steal_pointer(&(*error)->message);
        bool said = strstr(cause, "already");
        (*error)->message = g_strconcat(cause, said ? "" : "; it may have been merged already", NULL);
    }
    return false;
}

static bool find_layers(const Qcow2Merge *merge, Qcow2Chain *chain, unsigned *ret_top, unsigned *ret_base,
                        GError **error)
{
    const Qcow2CommitOptions *options = merge->options;

    *ret_top = 0;
    if (options->top && !find_top(chain, options->top, ret_top, error)) {
        return false;
    }
    bool exists;
    if (!qcow2_chain_open_below(chain, *ret_top, &exists, error)) {
        return false;
    }
    if (!exists) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s': Image does not have a backing file",
                          qcow2_chain_layer_name(chain, *ret_top));
    }
    *ret_base = *ret_top + 1;
    if (merge->base_word && !qcow2_chain_find_layer(chain, merge->base_word, ret_base, error)) {
        return false;
    }
    return *ret_base > *ret_top
        || qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s' is not below '%s'",
                      qcow2_chain_layer_name(chain, *ret_base), qcow2_chain_layer_name(chain, *ret_top));
}

/* Without locks and without a write: which files have to be opened for writing. */
static bool scout(Qcow2Merge *merge, const char *image, const Qcow2OpenOptions *open_options, GError **error)
{
    Qcow2OpenOptions options = *open_options;

    options.writable = options.exclusive = options.dry_run = false;
    options.force_share = true;
    options.warn = NULL;
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open(image, &options, error);
    return chain && find_layers(merge, chain, &merge->top, &merge->base, error);
}

/* Of the layers that are written. An image that is left as it was leaves those between as they were, too. */
static unsigned first_writable(const Qcow2Merge *merge)
{
    bool only_base = merge->top == 0 && merge->options->keep_image && !merge->options->preserve;

    return only_base ? merge->base : MAX(merge->top, 1) - 1;
}

/* All locks, before the first write: on the layers that are read as well. */
static bool open_chain(Qcow2Merge *merge, const char *image, const Qcow2OpenOptions *open_options,
                       GError **error)
{
    Qcow2OpenOptions options = *open_options;
    unsigned first = first_writable(merge), top, base;

    options.writable = first == 0;
    options.exclusive = true;
    merge->chain = qcow2_chain_open(image, &options, error);
    if (!merge->chain) {
        return false;
    }
    merge->chain->writable_first = first;
    merge->chain->writable_end = merge->base + 1;
    merge->chain->given_index = merge->base;
    merge->chain->given_format = merge->options->base_format;
    if (!qcow2_chain_open_all(merge->chain, error)
        || !find_layers(merge, merge->chain, &top, &base, error)) {
        return false;
    }
    if (top != merge->top || base != merge->base) {
        return qcow2_fail(error, QCOW2_ERROR_CHANGED, "'%s': its backing chain changed meanwhile; try again",
                          image);
    }
    return true;
}

/* ---- Checks ------------------------------------------------------------------------------------ */

static bool check_written_layer(const Qcow2Chain *chain, unsigned index, GError **error)
{
    const Qcow2Image *image = qcow2_chain_image(chain, index);
    g_autoptr(Qcow2Batch) batch = NULL;

    if (image->kind == QCOW2_IMAGE_RAW || !image->file->writable) {
        return true;
    }
    batch = qcow2_batch_begin(qcow2_chain_image(chain, index), error);
    if (!batch) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(chain, index));
    }
    return batch != NULL;
}

static bool check_layers(Qcow2Merge *merge, GError **error)
{
    merge->base_format = qcow2_chain_format_name(merge->chain, merge->base, merge->options->base_format,
                                                 error);
    if (!merge->base_format) {
        return false;
    }
    for (unsigned i = 0; i <= merge->base; i++) {
        if (!check_written_layer(merge->chain, i, error) || !qcow2_chain_open_data(merge->chain, i, error)) {
            return false;
        }
        if (i >= merge->top && !qcow2_image_check_readable(qcow2_chain_image(merge->chain, i), error)) {
            g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(merge->chain, i));
            return false;
        }
    }
    return true;
}

bool qcow2_merge_renames(const Qcow2Merge *merge, unsigned index)
{
    return merge->base > index + 1 || qcow2_chain_layer(merge->chain, index)->below_was_given;
}

static bool check_name(const Qcow2Merge *merge, unsigned index, GError **error)
{
    g_autofree char *name = qcow2_merge_renames(merge, index)
                          ? qcow2_chain_backing_name(merge->chain, index, merge->base, error) : g_strdup("");

    return name != NULL;
}

/* That base can be named by what will be over it. */
static bool check_names(const Qcow2Merge *merge, GError **error)
{
    if (merge->top == 0) {
        return merge->options->keep_image || check_name(merge, 0, error);
    }
    return check_name(merge, merge->top - 1, error) && check_name(merge, merge->top, error);
}

/* ---- The room for it --------------------------------------------------------------------------- */

/* A Qcow2NeedFunc. What is emptied or deleted comes last, so that none of it makes room for the rest. */
static bool need(void *data, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    Qcow2Merge *merge = data;

    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        Qcow2Keep keep = qcow2_merge_keep_of(merge, dependent);
        if (dependent->after && !qcow2_keep_need(&keep, step, room, error)) {
            return false;
        }
    }
    return qcow2_merge_base_need(merge, step, room, error)
        && qcow2_merge_drop_need(merge, room, error);
}

static bool check_room(Qcow2Merge *merge, GError **error)
{
    return qcow2_check_room(need, merge, error)
        || qcow2_fail_unchanged(error, qcow2_chain_layer_name(merge->chain, merge->base));
}

/* ---- The work ---------------------------------------------------------------------------------- */

static bool keep_dependents(Qcow2Merge *merge, GError **error)
{
    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        Qcow2Keep keep = qcow2_merge_keep_of(merge, dependent);
        Qcow2MoveResult moved;
        if (!dependent->after) {
            continue;
        }
        if (!qcow2_keep(&keep, &moved, merge->progress, error)) {
            return false;
        }
        merge->result->bytes_preserved += moved.bytes;
    }
    return true;
}

/* But for layers that leave the chain: as long as they are in it, it leads to those below them. */
static bool is_repointed_first(const Qcow2Merge *merge, const Qcow2Dependent *dependent)
{
    bool leaves_chain = !dependent->own && (merge->top > 0 || !merge->options->keep_image);

    return dependent->after && dependent->backing_name && !leaves_chain;
}

static bool repoint_dependents(const Qcow2Merge *merge, GError **error)
{
    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (!is_repointed_first(merge, dependent)) {
            continue;
        }
        g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(qcow2_chain_image(dependent->chain, 0), error);
        if (batch) {
            qcow2_batch_set_backing(batch, dependent->backing_name, merge->base_format);
        }
        if (!batch || !qcow2_batch_commit(batch, error)) {
            g_prefix_error(error, "the data is in '%s', run the same command again: '%s': ",
                           qcow2_chain_layer_name(merge->chain, merge->base),
                           qcow2_chain_layer_name(dependent->chain, 0));
            return false;
        }
    }
    return true;
}

bool qcow2_merge_run(Qcow2Merge *merge, GError **error)
{
    merge->top_chain = qcow2_chain_tail(merge->chain, merge->top, error);
    merge->base_chain = merge->top_chain ? qcow2_chain_tail(merge->chain, merge->base, error) : NULL;
    if (!merge->base_chain) {
        return false;
    }
    merge->result->base = g_strdup(qcow2_chain_layer_name(merge->chain, merge->base));
    return check_layers(merge, error)
        && check_names(merge, error)
        && qcow2_merge_check_base(merge, error)
        && qcow2_merge_find_dependents(merge, error)
        && qcow2_merge_check_delete(merge, error)
        && qcow2_merge_lay_out_note(merge, error)
        && check_room(merge, error)
        && keep_dependents(merge, error)
        && qcow2_merge_into_base(merge, error)
        && repoint_dependents(merge, error)
        && qcow2_merge_tag_layers(merge, error)
        && qcow2_merge_drop_layers(merge, error);
}

static void sum_up_dry_run(const Qcow2Merge *merge)
{
    Qcow2DryRun *dry_run = &merge->result->dry_run;
    g_autoptr(Qcow2Room) room = qcow2_room_new();

    qcow2_chain_add_dry_run(merge->chain, room, dry_run);
    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (dependent->own) {
            qcow2_chain_add_dry_run(dependent->own, room, dry_run);
        }
    }
}

static bool merge_layers(Qcow2Merge *merge, const char *image, const Qcow2OpenOptions *open_options,
                         GError **error)
{
    if (!scout(merge, image, open_options, error) || !open_chain(merge, image, open_options, error)
        || !qcow2_merge_run(merge, error)) {
        return false;
    }
    sum_up_dry_run(merge);
    return true;
}

bool qcow2_commit(const char *image, const Qcow2OpenOptions *open_options, const Qcow2CommitOptions *options,
                  Qcow2CommitResult *ret_result, Qcow2Progress *progress, GError **error)
{
    Qcow2Merge merge;

    *ret_result = (Qcow2CommitResult) { 0 };
    qcow2_merge_init(&merge, options, ret_result, progress);
    bool ok = qcow2_merge_finish(&merge, image, open_options, error)
           && (merge.is_completed || merge_layers(&merge, image, open_options, error));
    qcow2_merge_clear(&merge);
    if (ok) {
        qcow2_progress_finish(progress);
    }
    return ok;
}
