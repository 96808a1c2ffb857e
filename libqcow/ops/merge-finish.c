/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Going on from the note of an interrupted commit: what it left is re-pointed, marked and deleted. */
#include <string.h>
#include <sys/stat.h>

#include "chain/naming.h"
#include "image/mark.h"
#include "ops/merge-left.h"
#include "util/error.h"

/* ---- Before anything is done --------------------------------------------------------------------- */

static bool is_preserved(const Finish *self, const Left *left)
{
    char **names = self->merge->options->preserve;
    struct stat st;

    for (size_t i = 0; names && names[i]; i++) {
        g_autoptr(Qcow2Place) place = qcow2_place_parse(names[i], NULL, false, NULL);
        if (place && place->kind == QCOW2_PLACE_FILE && stat(place->target, &st) == 0
            && left->identity.device == st.st_dev && left->identity.inode == st.st_ino) {
            return true;
        }
    }
    return false;
}

/* Both commits have to want it. */
static bool will_be_deleted(const Finish *self, const Left *left)
{
    return self->merge->options->delete_merged && left->was_to_go && left->is_certain
        && !is_preserved(self, left);
}

static bool needs_writing(const Finish *self, const Left *left)
{
    return left->is_certain && !left->is_marked
        && (left->kind == LEFT_VALID || will_be_deleted(self, left)
            || (left->kind == LEFT_BETWEEN && left->header.layout.version >= 3));
}

static bool open_left(const Finish *self, GError **error)
{
    Qcow2OpenOptions options = self->chain->options;

    options.writable = options.exclusive = true;
    for (guint i = 0; i < self->left->len; i++) {
        Left *left = g_ptr_array_index(self->left, i);
        if (!needs_writing(self, left)) {
            continue;
        }
        left->own = qcow2_chain_open_place(qcow2_place_copy(left->place), left->place->shown, &options,
                                           error);
        if (!left->own) {
            return false;
        }
    }
    return true;
}

/* One of those that are left; or NULL. */
static const Left *find_left(const Finish *self, const struct stat *st)
{
    for (guint i = 0; i < self->left->len; i++) {
        const Left *left = g_ptr_array_index(self->left, i);
        if (left->is_certain && left->identity.device == st->st_dev && left->identity.inode == st->st_ino) {
            return left;
        }
    }
    return NULL;
}

/* What will be deleted and the image at @path is backed by, directly or through others; or NULL. */
static const Left *find_deleted_below(const Finish *self, const char *path)
{
    g_autofree char *above = g_strdup(path);

    for (unsigned i = 0; i < QCOW2_MAX_LAYERS; i++) {
        Qcow2Peek peek;
        struct stat st;
        g_autoptr(Qcow2Place) place = qcow2_peek_backing(above, &peek);
        if (!place || (peek.incompatible & QCOW2_INCOMPAT_MERGED) || place->kind != QCOW2_PLACE_FILE
            || qcow2_merge_find_in_chain(self->chain, place) != UINT_MAX || stat(place->target, &st) != 0) {
            break;
        }
        const Left *left = find_left(self, &st);
        if (left && (will_be_deleted(self, left) || left->kind == LEFT_VALID)) {
            return will_be_deleted(self, left) ? left : NULL;    /* the others are re-pointed first */
        }
        g_free(above);
        above = g_strdup(place->target);
    }
    return NULL;
}

/* Somebody may have put an image over a layer that is still valid, or was not marked yet. */
static bool check_user(const Finish *self, const char *path, GError **error)
{
    struct stat st;

    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
        return true;
    }
    const Left *own = find_left(self, &st);
    if (own && (will_be_deleted(self, own) || own->kind == LEFT_VALID)) {
        return true;
    }
    const Left *left = find_deleted_below(self, path);
    return !left
        || qcow2_fail(error, QCOW2_ERROR_IN_USE, "'%s' is backed by '%s', which --delete would delete", path,
                      left->place->shown);
}

static bool check_folder(const Finish *self, const Qcow2Place *place, GError **error)
{
    g_autofree char *folder = qcow2_place_folder(place);
    g_autoptr(GDir) dir = folder ? g_dir_open(*folder ? folder : ".", 0, NULL) : NULL;
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = *folder ? g_build_filename(folder, name, NULL) : g_strdup(name);
        if (!check_user(self, path, error)) {
            return false;
        }
    }
    return true;
}

static bool check_users(const Finish *self, GError **error)
{
    bool ok = !self->merge->options->delete_merged
           || check_folder(self, qcow2_chain_layer(self->chain, self->index)->place, error);

    for (guint i = 0; ok && i < self->left->len; i++) {
        const Left *left = g_ptr_array_index(self->left, i);
        ok = !will_be_deleted(self, left)
          || (qcow2_merge_check_snapshots(self->merge, left->place->shown, &left->header, error)
              && check_folder(self, left->place, error));
    }
    return ok;
}

/* ---- The work ---------------------------------------------------------------------------------- */

static bool name_left(const Left *left, bool ok, GError **error)
{
    if (!ok) {
        g_prefix_error(error, "'%s': ", left->place->shown);
    }
    return ok;
}

static bool repoint(const Finish *self, const Left *left, GError **error)
{
    bool is_raw = qcow2_chain_image(self->chain, self->index + 1)->kind == QCOW2_IMAGE_RAW;
    const Qcow2Layer *layer = qcow2_chain_layer(left->own, 0);
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(layer->image, error);
    bool ok = batch != NULL;

    if (ok && !left->leads_to_base) {
        g_autofree char *name = qcow2_backing_name(layer, self->chain, self->index + 1, error);
        ok = name != NULL;
        if (ok) {
            qcow2_batch_set_backing(batch, name, is_raw ? "raw" : "qcow2");
        }
    }
    if (ok && !will_be_deleted(self, left)) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_MERGED, NULL, 0);
    }
    return name_left(left, ok && qcow2_batch_commit(batch, error), error);
}

static bool mark(const Finish *self, const Left *left, GError **error)
{
    const Qcow2Place *place = qcow2_chain_layer(self->chain, self->index + 1)->place;
    g_autofree char *base = g_path_get_basename(place->target);
    bool is_marked = left->is_marked;

    if (!is_marked && left->own
        && !qcow2_image_mark_merged(qcow2_chain_image(left->own, 0), base, &is_marked, error)) {
        return name_left(left, false, error);
    }
    g_ptr_array_add(self->merge->invalid, g_strdup(left->place->shown));
    if (!is_marked) {
        g_ptr_array_add(self->merge->unmarked, g_strdup(left->place->shown));
    }
    return true;
}

static bool delete_left(const Finish *self, GError **error)
{
    for (guint i = self->left->len; i-- > 0;) {
        const Left *left = g_ptr_array_index(self->left, i);
        bool goes = will_be_deleted(self, left);
        if (goes && !qcow2_merge_delete(self->merge, left->place, &left->identity, &left->header, error)) {
            return false;
        }
        if (!goes && left->kind == LEFT_BETWEEN && self->merge->options->delete_merged) {
            g_ptr_array_add(self->merge->not_deleted, g_strdup(left->place->shown));
        }
    }
    return true;
}

static bool finish(Finish *self, GError **error)
{
    if (!open_left(self, error) || !check_users(self, error)) {
        return false;
    }
    for (guint i = 0; i < self->left->len; i++) {
        const Left *left = g_ptr_array_index(self->left, i);
        if ((left->kind == LEFT_VALID && left->own && !repoint(self, left, error))
            || (left->kind == LEFT_BETWEEN && !mark(self, left, error))) {
            return false;
        }
    }
    return delete_left(self, error) && qcow2_merge_clear_note(self->chain, self->index, error);
}

/* An index counts the layers of the chain that was, in the same command once more. */
static bool is_index(const char *word)
{
    return word && *word == '[';
}

/* A layer that is in the chain is not the one that left it, whatever its name is. */
static bool asks_for_top(const Finish *self, const char *top)
{
    unsigned index;

    return is_index(top) ? g_ascii_strtoull(top + 1, NULL, 10) == self->index + 1
                         : self->is_asked_for && !qcow2_chain_find_layer(self->chain, top, &index, NULL);
}

/*
 * Nothing is left to be done when the top that is asked for has left the chain. Where the image itself is the
 * top, merging it again is right: what was written meanwhile goes along, or nothing does.
 */
static bool is_completed(const Finish *self)
{
    const char *top = self->merge->options->top, *base = self->merge->options->base;
    unsigned index;

    if (!top || !self->has_top || !asks_for_top(self, top)) {
        return false;
    }
    return !base || is_index(base)
        || (qcow2_chain_find_layer(self->chain, base, &index, NULL) && index == self->index + 1);
}

static void find_out_what_is_left(const Finish *self)
{
    Qcow2Merge *merge = self->merge;

    if (is_completed(self)) {
        merge->is_completed = true;
        merge->result->dry_run.fits = true;
        merge->result->base = g_strdup(qcow2_chain_layer_name(self->chain, self->index + 1));
    } else if (!merge->options->top && !self->has_top && self->index == 0 && is_index(merge->base_word)) {
        merge->base_word = "[1]";
    }
}

/* @chain: locked, and the layer with the note open for writing; or only looked at */
static bool finish_note(Qcow2Merge *merge, Qcow2Chain *chain, unsigned index, bool only_looks, GError **error)
{
    Finish self = {
        .merge = merge,
        .chain = chain,
        .index = index,
        .folder = qcow2_place_folder(qcow2_chain_layer(chain, index)->place),
        .left = g_ptr_array_new_with_free_func(qcow2_left_free),
    };
    g_autoptr(GBytes) note = g_bytes_ref(qcow2_merge_note_of(chain, index));

    qcow2_merge_read_note(&self, note);
    bool ok = only_looks || finish(&self, error);
    if (ok) {
        find_out_what_is_left(&self);
    }
    g_ptr_array_unref(self.left);
    g_free(self.folder);
    return ok;
}

/* UINT_MAX: no layer has one. */
static unsigned find_note(const Qcow2Chain *chain)
{
    for (unsigned i = 0; i + 1 < qcow2_chain_n_layers(chain); i++) {
        if (qcow2_merge_note_of(chain, i)) {
            return i;
        }
    }
    return UINT_MAX;
}

/* NULL: it cannot be opened so. */
static Qcow2Chain *open_for_note(const char *image, const Qcow2OpenOptions *open_options, unsigned index,
                                 GError **error)
{
    Qcow2OpenOptions options = *open_options;

    options.exclusive = true;
    options.writable = index == 0;
    options.warn = NULL;
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open(image, &options, error);
    if (!chain) {
        return NULL;
    }
    chain->writable_first = index;
    chain->writable_end = index + 1;
    return qcow2_chain_open_all(chain, error) ? g_steal_pointer(&chain) : NULL;
}

/*
 * Whether the present command needs what the note of a lower layer is about. It may be in a file that others
 * read, which is their commit's to finish.
 */
static bool is_needed(const Qcow2Merge *merge, Qcow2Chain *seen, unsigned index)
{
    const char *top = merge->options->top;
    unsigned found;

    return index == 0 || (top && (is_index(top) || !qcow2_chain_find_layer(seen, top, &found, NULL)));
}

bool qcow2_merge_finish(Qcow2Merge *merge, const char *image, const Qcow2OpenOptions *open_options,
                        GError **error)
{
    Qcow2OpenOptions options = *open_options;

    options.writable = options.exclusive = options.dry_run = false;
    options.force_share = true;
    options.warn = NULL;
    if (open_options->untrusted) {
        return true;
    }
    g_autoptr(Qcow2Chain) seen = qcow2_chain_open(image, &options, error);
    if (!seen || !qcow2_chain_open_all(seen, error)) {
        return false;
    }
    unsigned index = find_note(seen);
    if (index == UINT_MAX) {
        return true;
    }
    if (open_options->dry_run) {
        return finish_note(merge, seen, index, true, error);
    }
    bool needed = is_needed(merge, seen, index);
    g_clear_pointer(&seen, qcow2_chain_free);    /* and its locks */
    g_autoptr(Qcow2Chain) chain = open_for_note(image, open_options, index, needed ? error : NULL);
    if (!chain) {
        return !needed;
    }
    return find_note(chain) != index || finish_note(merge, chain, index, false, error);
}
