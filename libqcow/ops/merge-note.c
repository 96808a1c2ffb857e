/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Layers that a commit leaves behind are marked, or deleted, when nobody reads through them any more. A
 * crash before that must not make them forgotten: the header write that takes them out of the chain adds an
 * extension that names them, and the next commit of the image goes on from it (ops/merge-finish.c).
 *
 * An image from elsewhere could name any file there, and a name may lead to another file by now. So each
 * layer that will leave gets an extension of the same type first, with 16 random digits, and the note begins
 * with these: a file is what the note means when it has them as well.
 *
 *   of a layer   "0123456789abcdef"
 *   the note     the same, then "KIND NAME" for each file; each of these ends with a zero byte
 *
 *   top          the highest merged layer: it stays valid, but has to name base as well
 *   kept         one that is preserved: the same
 *   between      not valid any more; nor is what that file names as its backing file, down to base, so that
 *                these lines can be left out where there is no room
 *   dropped      valid as well; only to be deleted
 *
 * Before a kind "delete-" says that the commit was to delete the file.
 */
#include <string.h>

#include "chain/naming.h"
#include "ops/merge.h"
#include "util/error.h"

bool qcow2_merge_is_noted(const Qcow2Merge *merge, unsigned index)
{
    if (merge->top == 0 && merge->options->keep_image) {
        return false;
    }
    return qcow2_merge_is_retired(merge, index) || qcow2_merge_is_deleted(merge, index)
        || qcow2_merge_is_repointed(merge, index);
}

/* ---- Writing ----------------------------------------------------------------------------------- */

/* A layer that was opened with options that no name has can be found by its path all the same. */
static char *name_of(const Qcow2Merge *merge, unsigned above, unsigned index)
{
    const Qcow2Place *place = qcow2_chain_layer(merge->chain, index)->place;
    char *name = qcow2_chain_backing_name(merge->chain, above, index, NULL);

    return name || place->kind != QCOW2_PLACE_FILE ? name : g_canonicalize_filename(place->target, NULL);
}

static void add_line(const Qcow2Merge *merge, unsigned above, const char *kind, unsigned index, GString *note)
{
    g_autofree char *name = name_of(merge, above, index);

    const char *goes = qcow2_merge_is_deleted(merge, index) ? QCOW2_MERGE_DELETE : "";

    if (name) {
        g_string_append_printf(note, "%s%s %s", goes, kind, name);
        g_string_append_c(note, '\0');
    }
}

/* Whether a line says where this one is: what is above it names it, and that is found first. */
static bool is_named_by_next(const Qcow2Merge *merge, unsigned index)
{
    return index > merge->top + 1 && qcow2_merge_is_retired(merge, index - 1)
        && !qcow2_chain_layer(merge->chain, index - 1)->below_was_given;
}

static void add_lines(const Qcow2Merge *merge, unsigned above, bool is_short, GString *note)
{
    for (unsigned i = merge->top; i < merge->base; i++) {
        if (!qcow2_merge_is_noted(merge, i) || (is_short && is_named_by_next(merge, i))) {
            continue;
        }
        const char *kind = i == merge->top                      ? "top"
                         : qcow2_merge_is_retired(merge, i)   ? "between"
                         : qcow2_merge_is_repointed(merge, i) ? "kept"
                                                              : "dropped";
        add_line(merge, above, kind, i, note);
    }
}

static void make_id(char ret_id[QCOW2_MERGE_ID_LEN + 1])
{
    g_autofree char *uuid = g_uuid_string_random();
    size_t n = 0;

    /* From its end: the version is before that, and the same in all of them. */
    for (size_t i = strlen(uuid); i > 0 && n < QCOW2_MERGE_ID_LEN; i--) {
        if (uuid[i - 1] != '-') {
            ret_id[n++] = uuid[i - 1];
        }
    }
    ret_id[n] = '\0';
}

void qcow2_merge_make_note(Qcow2Merge *merge, bool is_short)
{
    g_autoptr(GString) note = g_string_new(NULL);

    g_clear_pointer(&merge->note, g_bytes_unref);
    make_id(merge->id);
    g_string_append_len(note, merge->id, QCOW2_MERGE_ID_LEN + 1);
    add_lines(merge, MAX(merge->top, 1) - 1, is_short, note);
    if (note->len > QCOW2_MERGE_ID_LEN + 1) {
        merge->note = g_string_free_to_bytes(g_steal_pointer(&note));
    }
}

bool qcow2_merge_is_tagged(const Qcow2Merge *merge, unsigned index)
{
    return merge->note && qcow2_merge_is_noted(merge, index);
}

bool qcow2_merge_tag_image(Qcow2Image *image, const Qcow2Merge *merge, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);

    if (batch) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_MERGED, merge->id, QCOW2_MERGE_ID_LEN);
    }
    return batch && qcow2_batch_commit(batch, error);
}

bool qcow2_merge_tag_layers(const Qcow2Merge *merge, GError **error)
{
    for (unsigned i = merge->top; i < merge->base; i++) {
        if (qcow2_merge_is_tagged(merge, i)
            && !qcow2_merge_tag_image(qcow2_chain_image(merge->chain, i), merge, error)) {
            g_prefix_error(error, "the data is in '%s', run the same command again: '%s': ",
                           qcow2_chain_layer_name(merge->chain, merge->base),
                           qcow2_chain_layer_name(merge->chain, i));
            return false;
        }
    }
    return true;
}

bool qcow2_merge_clear_note(const Qcow2Chain *chain, unsigned index, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, index);
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);

    if (batch) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_MERGED, NULL, 0);
    }
    if (!batch || !qcow2_batch_commit(batch, error)) {
        g_prefix_error(error, "'%s': the merge is done, but its note is not removed: ",
                       qcow2_chain_layer_name(chain, index));
        return false;
    }
    return true;
}
