/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of a commit: the merged layers leave the chain. */
#include "chain/naming.h"
#include "image/editor.h"
#include "image/mark.h"
#include "image/resize.h"
#include "io/backends.h"
#include "ops/merge.h"
#include "ops/shrink.h"
#include "util/error.h"

static bool name_file(const Qcow2Merge *merge, unsigned index, bool ok, GError **error)
{
    if (!ok) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(merge->chain, index));
    }
    return ok;
}

static bool set_name(const Qcow2Merge *merge, unsigned index, Qcow2Batch *batch, GError **error)
{
    if (!qcow2_merge_renames(merge, index)) {
        return true;
    }
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, index, merge->base, error);
    if (name) {
        qcow2_batch_set_backing(batch, name, merge->base_format);
    }
    return name != NULL;
}

/* ---- The image itself, emptied ----------------------------------------------------------------- */

static bool drop_everything(Qcow2Batch *batch, Qcow2Image *image, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    Qcow2View view = qcow2_image_active_view(image);
    Qcow2Header *header = qcow2_batch_header(batch);
    g_autoptr(Qcow2Editor) editor = qcow2_editor_new(batch, image, &view, image->size, error);

    return editor
        && qcow2_editor_drop(editor, 0, (uint64_t)image->header.l1_entries << layout->l2_bits, error)
        && qcow2_editor_finish(editor, &header->l1_offset, &header->l1_entries, error);
}

/* What a guest wrote there nobody reads any more. */
static bool empty_data_file(Qcow2Image *image, GError **error)
{
    uint64_t given_back = 0;

    return !image->header.layout.has_data_file || qcow2_punch_data_file(image, &given_back, error);
}

static bool empty_image(Qcow2Image *image, const Qcow2Merge *merge, GError **error)
{
    GBytes *note = merge->note;
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);

    bool ok = batch && drop_everything(batch, image, error) && set_name(merge, 0, batch, error);

    if (ok && note) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_MERGED, g_bytes_get_data(note, NULL), g_bytes_get_size(note));
    }
    return ok && qcow2_batch_commit(batch, error) && qcow2_batch_cut_end(batch, error)
        && qcow2_image_trim_end(image, false, error) && empty_data_file(image, error);
}

static bool empty_top(const Qcow2Merge *merge, GError **error)
{
    return name_file(merge, 0, empty_image(qcow2_chain_image(merge->chain, 0), merge, error), error);
}

/* ---- Layers that go on, over base -------------------------------------------------------------- */

static bool repoint(Qcow2Image *image, const Qcow2Merge *merge, unsigned index, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);
    bool ok = batch && set_name(merge, index, batch, error);

    /* What says that the note means it is needed until it is deleted. */
    if (ok && !qcow2_merge_is_deleted(merge, index)) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_MERGED, NULL, 0);
    }
    return ok && qcow2_batch_commit(batch, error);
}

bool qcow2_merge_is_repointed(const Qcow2Merge *merge, unsigned index)
{
    if (merge->top == 0 && merge->options->keep_image) {
        return false;
    }
    if (index == merge->top) {
        return index > 0 && qcow2_merge_renames(merge, index);
    }
    const Qcow2Dependent *kept = qcow2_merge_find_kept_layer(merge, index);
    return kept && kept->after && kept->backing_name;
}

/* They are valid over base as well, and must not lead through layers that are not. */
static bool repoint_merged(const Qcow2Merge *merge, GError **error)
{
    for (unsigned i = merge->top; i < merge->base; i++) {
        if (qcow2_merge_is_repointed(merge, i)
            && !repoint(qcow2_chain_image(merge->chain, i), merge, i, error)) {
            return name_file(merge, i, false, error);
        }
    }
    return true;
}

static Qcow2Keep keep_above(const Qcow2Merge *merge, Qcow2Chain *chain, const char *name)
{
    return (Qcow2Keep) {
        .chain = chain,
        .below = merge->top_chain,
        .below_past = merge->base_chain,
        .past_from = qcow2_chain_image(merge->chain, merge->top)->size,
        .no_reflink = merge->options->no_reflink,
        .set_backing = true,
        .backing_name = name,
        .backing_format = merge->base_format,
        .merge_note = merge->note,
    };
}

/*
 * The layer above top reads past top's end what base has there, unless it keeps its zeros: that is found by
 * ops/keep.c, which re-points in the same step.
 */
static bool repoint_above(Qcow2Merge *merge, GError **error)
{
    unsigned above = merge->top - 1;
    g_autoptr(Qcow2Chain) chain = qcow2_chain_tail(merge->chain, above, error);
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, above, merge->base, error);
    Qcow2Keep keep = keep_above(merge, chain, name);

    return chain && name && qcow2_keep(&keep, NULL, merge->progress, error);
}

/* ---- Layers that are no longer valid ----------------------------------------------------------- */

bool qcow2_merge_is_retired(const Qcow2Merge *merge, unsigned index)
{
    if (index <= merge->top || index >= merge->base) {
        return false;
    }
    /* What is above one that is kept reads the same through it. */
    for (unsigned i = index; i < merge->base; i++) {
        const Qcow2Dependent *preserved = qcow2_merge_find_kept_layer(merge, i);
        if (preserved && !preserved->snapshots_only) {
            return false;
        }
    }
    return true;
}

/* An image left as it was still reads through them. */
static bool is_marked(const Qcow2Merge *merge, unsigned index)
{
    return qcow2_merge_is_retired(merge, index) && (!merge->options->keep_image || merge->top > 0);
}

static bool mark(Qcow2Image *image, const Qcow2Merge *merge, bool *ret_marked, GError **error)
{
    const Qcow2Layer *base = qcow2_chain_layer(merge->chain, merge->base);
    g_autofree char *name = g_path_get_basename(base->place->target);

    return qcow2_image_mark_merged(image, name, ret_marked, error);
}

static bool mark_layers(Qcow2Merge *merge, GError **error)
{
    for (unsigned i = merge->top + 1; i < merge->base; i++) {
        const char *name = qcow2_chain_layer_name(merge->chain, i);
        bool marked = false;
        if (!qcow2_merge_is_retired(merge, i)) {
            continue;
        }
        g_ptr_array_add(merge->invalid, g_strdup(name));
        if (is_marked(merge, i) && !mark(qcow2_chain_image(merge->chain, i), merge, &marked, error)) {
            return name_file(merge, i, false, error);
        }
        if (!marked) {
            g_ptr_array_add(merge->unmarked, g_strdup(name));
        }
    }
    return true;
}

/* From the lowest one up: those that are left then still lead to each other. */
static bool delete_layers(Qcow2Merge *merge, GError **error)
{
    for (unsigned i = merge->base - 1; i >= MAX(merge->top, 1); i--) {
        const Qcow2Layer *layer = qcow2_chain_layer(merge->chain, i);
        if (merge->options->delete_merged && merge->options->keep_image) {
            g_ptr_array_add(merge->not_deleted, g_strdup(layer->place->shown));
        } else if (qcow2_merge_is_deleted(merge, i) && !merge->chain->options.dry_run
                   && !qcow2_merge_delete(merge, layer->place, &layer->identity, &layer->image->header,
                                          error)) {
            return false;
        }
    }
    return true;
}

static bool retire_layers(Qcow2Merge *merge, unsigned above, GError **error)
{
    return mark_layers(merge, error)
        && delete_layers(merge, error)
        && (!merge->note || qcow2_merge_clear_note(merge->chain, above, error));
}

bool qcow2_merge_drop_layers(Qcow2Merge *merge, GError **error)
{
    unsigned above = merge->top > 0 ? merge->top - 1 : 0;
    bool ok = merge->top > 0                ? repoint_above(merge, error)
            : merge->options->keep_image    ? true
                                            : empty_top(merge, error);

    ok = ok && repoint_merged(merge, error);
    if (!ok) {
        g_prefix_error(error, "the data is in '%s', run the same command again: ",
                       qcow2_chain_layer_name(merge->chain, merge->base));
        return false;
    }
    return retire_layers(merge, above, error);
}

/* ---- Before base is written -------------------------------------------------------------------- */

static bool rehearse_empty(Qcow2Image *image, void *data, GError **error)
{
    return empty_image(image, data, error);
}

typedef struct Leaving {
    const Qcow2Merge *merge;
    unsigned index;
} Leaving;

static bool rehearse_leaving(Qcow2Image *image, void *data, GError **error)
{
    const Leaving *self = data;
    bool unused;

    return (!qcow2_merge_is_tagged(self->merge, self->index)
            || qcow2_merge_tag_image(image, self->merge, error))
        && (!qcow2_merge_is_repointed(self->merge, self->index)
            || repoint(image, self->merge, self->index, error))
        && (!is_marked(self->merge, self->index) || mark(image, self->merge, &unused, error));
}

static bool need_of_leaving(const Qcow2Merge *merge, Qcow2Room *room, GError **error)
{
    for (unsigned i = MAX(merge->top, 1); i < merge->base; i++) {
        Leaving leaving = { merge, i };
        bool is_written = qcow2_merge_is_tagged(merge, i) || qcow2_merge_is_repointed(merge, i)
                       || is_marked(merge, i);
        if (is_written && !qcow2_rehearse_alone(qcow2_chain_image(merge->chain, i), rehearse_leaving,
                                                &leaving, room, error)) {
            return name_file(merge, i, false, error);
        }
    }
    return true;
}

static bool need_above(const Qcow2Merge *merge, Qcow2Room *room, GError **error)
{
    g_autoptr(Qcow2Chain) chain = qcow2_chain_tail(merge->chain, merge->top - 1, error);
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, merge->top - 1, merge->base, error);
    Qcow2Keep keep = keep_above(merge, chain, name);

    return chain && name
        && name_file(merge, merge->top - 1, qcow2_keep_need(&keep, QCOW2_NEED_BY_REHEARSAL, room, error),
                     error);
}

static bool need_of_top(const Qcow2Merge *merge, Qcow2Room *room, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(merge->chain, 0);

    return name_file(merge, 0, qcow2_rehearse_alone(image, rehearse_empty, (gpointer)merge, room, error),
                     error);
}

/* Only metadata: all of it is tried, so that what cannot be is known while base is as it was. */
bool qcow2_merge_drop_need(const Qcow2Merge *merge, Qcow2Room *room, GError **error)
{
    if (merge->top == 0 && merge->options->keep_image) {
        return true;
    }
    bool ok = (merge->top > 0 ? need_above(merge, room, error) : need_of_top(merge, room, error))
           && need_of_leaving(merge, room, error);

    if (!ok && error && *error && !g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE)) {
        g_autofree char *cause = g_steal_pointer(&(*error)->message);
        (*error)->message = g_strconcat(cause, "; nothing was written", NULL);
    }
    return ok;
}

/* ---- The user's own word ----------------------------------------------------------------------- */

bool qcow2_unmark(const char *image, GError **error)
{
    const Qcow2FileOptions options = {
        .writable = true,
        .lock = true,
        .used = QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE,
        .shared = QCOW2_PERM_WRITE_UNCHANGED,
    };
    g_autoptr(Qcow2Place) place = qcow2_place_parse(image, NULL, false, error);

    if (!place) {
        return false;
    }
    if (place->kind != QCOW2_PLACE_FILE) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "'%s': only files are marked", image);
    }
    g_autoptr(Qcow2Io) io = qcow2_io_file_open(place->target, &options, error);
    if (!io || !qcow2_image_unmark(io, error)) {
        g_prefix_error(error, "'%s': ", image);
        return false;
    }
    return true;
}
