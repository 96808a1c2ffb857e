/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Going on from the note of an interrupted commit (ops/merge-note.c). A name in it is only a hint where to
 * look: a file is touched when its header has the note's digits, and when it is still over base as the commit
 * left it, directly or through others that have them. What does not, was replaced or given another use.
 */
#include <string.h>
#include <sys/stat.h>

#include "chain/naming.h"
#include "image/mark.h"
#include "io/backends.h"
#include "ops/merge.h"
#include "util/error.h"

typedef enum { LEFT_TOP, LEFT_BETWEEN, LEFT_DROPPED } LeftKind;

/* A layer that was on its way out of the chain. */
typedef struct Left {
    LeftKind kind;
    Qcow2Place *place;
    Qcow2IoIdentity identity;
    Qcow2Header header;           /* but for the mark */
    bool is_marked;
    bool is_certain;              /* it is as the commit left it */
    bool leads_to_base;           /* its backing file is base itself */
    Qcow2Chain *own;              /* opened to be written, or deleted; NULL: not needed, or not possible */
} Left;

typedef struct Finish {
    Qcow2Merge *merge;
    Qcow2Chain *chain;
    unsigned index;               /* of the layer that has the note; base is below it */
    char *folder;                 /* of that layer */
    const char *id;
    GPtrArray *left;              /* Left, in the order of the chain that was */
    bool is_asked_for;            /* the note's top is what is to be merged now */
} Finish;

static void free_left(gpointer data)
{
    Left *left = data;

    g_clear_pointer(&left->own, qcow2_chain_free);
    g_clear_pointer(&left->place, qcow2_place_free);
    qcow2_header_clear(&left->header);
    g_free(left);
}

/* ---- What is there ----------------------------------------------------------------------------- */

static Qcow2Io *open_to_look(const Finish *self, const Qcow2Place *place)
{
    const Qcow2FileOptions options = { 0 };
    struct stat st;

    if (place->kind == QCOW2_PLACE_NBD) {
        return qcow2_io_nbd_open(place->target, false, self->chain->options.cache, 1, NULL);
    }
    /* Opening a pipe would wait for somebody to write to it. */
    return stat(place->target, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
         ? qcow2_io_file_open(place->target, &options, NULL) : NULL;
}

static bool has_id(const Qcow2Header *header, const char *id)
{
    GBytes *tag = qcow2_header_find_ext(header, QCOW2_EXT_MERGED);

    return tag && g_bytes_get_size(tag) == QCOW2_MERGE_ID_LEN
        && memcmp(g_bytes_get_data(tag, NULL), id, QCOW2_MERGE_ID_LEN) == 0;
}

/* NULL: it is not one of these; not there, perhaps. */
static Left *look_at(const Finish *self, LeftKind kind, const Qcow2Place *place)
{
    g_autoptr(Qcow2Io) io = open_to_look(self, place);
    Left *left = g_new0(Left, 1);

    left->kind = kind;
    left->place = qcow2_place_copy(place);
    if (io && qcow2_image_read_marked(io, &left->header, &left->is_marked, NULL)
        && has_id(&left->header, self->id) && qcow2_io_identify(io, &left->identity, NULL)) {
        return left;
    }
    free_left(left);
    return NULL;
}

/* The layer that a place is; UINT_MAX: none. */
static unsigned find_in_chain(const Finish *self, const Qcow2Place *place)
{
    struct stat st = { 0 };
    bool exists = place->kind == QCOW2_PLACE_FILE && stat(place->target, &st) == 0;

    for (unsigned i = 0; i < qcow2_chain_n_layers(self->chain); i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(self->chain, i);
        bool is_same = exists ? layer->identity.inode != 0 && layer->identity.device == st.st_dev
                                    && layer->identity.inode == st.st_ino
                              : layer->place->kind == place->kind
                                    && strcmp(layer->place->target, place->target) == 0;
        if (is_same) {
            return i;
        }
    }
    return UINT_MAX;
}

static bool is_missing(const Qcow2Place *place)
{
    struct stat st;

    return place->kind == QCOW2_PLACE_FILE && stat(place->target, &st) != 0;
}

static Qcow2Place *place_below(const Left *left)
{
    g_autofree char *folder = qcow2_place_folder(left->place);

    return left->header.backing_name ? qcow2_place_parse(left->header.backing_name, folder, false, NULL)
                                     : NULL;
}

/* What was deleted is gone, or a link that leads nowhere: nothing tells any more that the note means that. */
static void note_missing(const Finish *self, const Qcow2Place *place)
{
    const Qcow2Merge *merge = self->merge;
    struct stat st;

    if (merge->options->delete_merged && is_missing(place)) {
        bool is_link = lstat(place->target, &st) == 0;
        g_ptr_array_add(is_link ? merge->not_deleted : merge->deleted, g_strdup(place->shown));
    }
}

/* ---- The note ---------------------------------------------------------------------------------- */

static bool is_known(const Finish *self, const Left *left)
{
    for (guint i = 0; i < self->left->len; i++) {
        const Left *other = g_ptr_array_index(self->left, i);
        bool is_same = left->identity.inode != 0 ? other->identity.device == left->identity.device
                                                       && other->identity.inode == left->identity.inode
                                                 : strcmp(other->place->target, left->place->target) == 0;
        if (is_same) {
            return true;
        }
    }
    return false;
}

/* From the file at @place down; whether that ends at base. */
static void find_between(Finish *self, const Qcow2Place *first)
{
    g_autoptr(Qcow2Place) place = qcow2_place_copy(first);
    guint from = self->left->len;
    Left *left;

    while (place && find_in_chain(self, place) == UINT_MAX
           && (left = look_at(self, LEFT_BETWEEN, place)) != NULL) {
        g_clear_pointer(&place, qcow2_place_free);
        if (is_known(self, left)) {
            free_left(left);
            break;
        }
        g_ptr_array_add(self->left, left);
        place = place_below(left);
    }
    bool is_whole = place && (is_missing(place) || find_in_chain(self, place) == self->index + 1);

    for (guint i = from; i < self->left->len; i++) {
        left = g_ptr_array_index(self->left, i);
        /* The mark came from that commit as well. */
        left->is_certain = is_whole || left->is_marked;
    }
}

static bool is_base(const Finish *self, const Qcow2Place *place)
{
    return place && find_in_chain(self, place) == self->index + 1;
}

/* The top: it is valid, whatever happens, but may still be over what is not. */
static void find_top(Finish *self, const Qcow2Place *place)
{
    Left *left = find_in_chain(self, place) == UINT_MAX ? look_at(self, LEFT_TOP, place) : NULL;

    if (!left) {
        return;
    }
    g_autoptr(Qcow2Place) below = place_below(left);
    Left *next = below ? look_at(self, LEFT_BETWEEN, below) : NULL;
    left->leads_to_base = is_base(self, below);
    left->is_certain = left->leads_to_base || next || (below && is_missing(below));
    g_clear_pointer(&next, free_left);
    g_ptr_array_add(self->left, left);
}

/* One over an image that stays valid, which is over base. */
static void find_dropped(Finish *self, const Qcow2Place *place)
{
    Left *left = find_in_chain(self, place) == UINT_MAX ? look_at(self, LEFT_DROPPED, place) : NULL;

    if (!left) {
        return;
    }
    g_autoptr(Qcow2Place) below = place_below(left);
    for (unsigned i = 0; below && !is_base(self, below) && i < QCOW2_MAX_LAYERS; i++) {
        g_autoptr(Qcow2Place) above = g_steal_pointer(&below);
        Qcow2Peek peek;
        below = above->kind == QCOW2_PLACE_FILE ? qcow2_peek_backing(above->target, &peek) : NULL;
    }
    left->is_certain = is_base(self, below);
    g_ptr_array_add(self->left, left);
}

/* Whether this is the layer that the user names. */
static bool is_named(const char *word, const char *name, const Qcow2Place *place)
{
    g_autofree char *path = g_canonicalize_filename(word, NULL);
    g_autofree char *target = g_canonicalize_filename(place->target, NULL);

    return strcmp(word, name) == 0 || strcmp(word, place->shown) == 0 || strcmp(path, target) == 0;
}

static void read_line(Finish *self, const char *line)
{
    const char *space = strchr(line, ' '), *top = self->merge->options->top;
    g_autoptr(Qcow2Place) place = space ? qcow2_place_parse(space + 1, self->folder, false, NULL) : NULL;

    if (!place) {
        return;
    }
    note_missing(self, place);
    if (g_str_has_prefix(line, "between ")) {
        find_between(self, place);
    } else if (g_str_has_prefix(line, "dropped ")) {
        find_dropped(self, place);
    } else if (g_str_has_prefix(line, "top ")) {
        self->is_asked_for = top && is_named(top, space + 1, place);
        find_top(self, place);
    }
}

/* A layer's own digits have no line behind them. */
static GBytes *note_of(const Qcow2Chain *chain, unsigned index)
{
    GBytes *note = qcow2_header_find_ext(&qcow2_chain_image(chain, index)->header, QCOW2_EXT_MERGED);
    gsize len = note ? g_bytes_get_size(note) : 0;
    const char *text = note ? g_bytes_get_data(note, NULL) : NULL;

    bool is_note = len > QCOW2_MERGE_ID_LEN + 1 && text[QCOW2_MERGE_ID_LEN] == '\0' && text[len - 1] == '\0';
    return is_note ? note : NULL;
}

static void read_note(Finish *self, GBytes *note)
{
    gsize len;
    const char *text = g_bytes_get_data(note, &len), *end = text + len;

    self->id = text;
    for (const char *line = text + QCOW2_MERGE_ID_LEN + 1; line < end; line += strlen(line) + 1) {
        read_line(self, line);
    }
}

/* ---- Before anything is done --------------------------------------------------------------------- */

static bool will_be_deleted(const Finish *self, const Left *left)
{
    return self->merge->options->delete_merged && left->is_certain;
}

static bool needs_writing(const Finish *self, const Left *left)
{
    return left->is_certain && !left->is_marked
        && (left->kind == LEFT_TOP || will_be_deleted(self, left)
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

static const Left *find_deleted(const Finish *self, const struct stat *st)
{
    for (guint i = 0; i < self->left->len; i++) {
        const Left *left = g_ptr_array_index(self->left, i);
        if (will_be_deleted(self, left) && left->identity.device == st->st_dev
            && left->identity.inode == st->st_ino) {
            return left;
        }
    }
    return NULL;
}

/* Somebody may have put an image over a layer that is still valid, or was not marked yet. */
static bool check_user(const Finish *self, const char *path, GError **error)
{
    Qcow2Peek peek;
    struct stat st;

    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode) || find_deleted(self, &st)) {
        return true;
    }
    g_autoptr(Qcow2Place) place = qcow2_peek_backing(path, &peek);
    bool is_marked = place && (peek.incompatible & QCOW2_INCOMPAT_MERGED);
    const Left *left = place && place->kind == QCOW2_PLACE_FILE && !is_marked
                    && stat(place->target, &st) == 0 ? find_deleted(self, &st) : NULL;
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
        ok = !will_be_deleted(self, left) || check_folder(self, left->place, error);
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

static bool repoint_top(const Finish *self, const Left *left, GError **error)
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
        if (will_be_deleted(self, left)
            && !qcow2_merge_delete(self->merge, left->place, &left->identity, &left->header, error)) {
            return false;
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
        if ((left->kind == LEFT_TOP && left->own && !repoint_top(self, left, error))
            || (left->kind == LEFT_BETWEEN && !mark(self, left, error))) {
            return false;
        }
    }
    return delete_left(self, error) && qcow2_merge_clear_note(self->chain, self->index, error);
}

/* An index counted the layers of the chain that was. */
static bool is_index(const char *word)
{
    return word && *word == '[';
}

static bool is_completed(const Finish *self)
{
    const Qcow2CommitOptions *options = self->merge->options;
    unsigned base;

    if (is_index(options->top) || is_index(options->base)) {
        return true;
    }
    return self->is_asked_for
        && (!options->base
            || (qcow2_chain_find_layer(self->chain, options->base, &base, NULL) && base == self->index + 1));
}

/* @chain: locked, and the layer with the note open for writing */
static bool finish_note(Qcow2Merge *merge, Qcow2Chain *chain, unsigned index, GError **error)
{
    Finish self = {
        .merge = merge,
        .chain = chain,
        .index = index,
        .folder = qcow2_place_folder(qcow2_chain_layer(chain, index)->place),
        .left = g_ptr_array_new_with_free_func(free_left),
    };
    g_autoptr(GBytes) note = g_bytes_ref(note_of(chain, index));

    read_note(&self, note);
    bool ok = finish(&self, error);
    if (ok && is_completed(&self)) {
        merge->is_completed = true;
        merge->result->base = g_strdup(qcow2_chain_layer_name(chain, index + 1));
    }
    g_ptr_array_unref(self.left);
    g_free(self.folder);
    return ok;
}

/* UINT_MAX: no layer has one. */
static unsigned find_note(const Qcow2Chain *chain)
{
    for (unsigned i = 0; i + 1 < qcow2_chain_n_layers(chain); i++) {
        if (note_of(chain, i)) {
            return i;
        }
    }
    return UINT_MAX;
}

bool qcow2_merge_finish(Qcow2Merge *merge, const char *image, const Qcow2OpenOptions *open_options,
                        GError **error)
{
    Qcow2OpenOptions options = *open_options;

    options.writable = options.exclusive = options.dry_run = false;
    options.force_share = true;
    options.warn = NULL;
    if (open_options->dry_run || open_options->untrusted) {
        return true;
    }
    g_autoptr(Qcow2Chain) seen = qcow2_chain_open(image, &options, error);
    if (!seen || !qcow2_chain_open_all(seen, error)) {
        return false;
    }
    unsigned index = find_note(seen);
    g_clear_pointer(&seen, qcow2_chain_free);    /* and its locks */
    if (index == UINT_MAX) {
        return true;
    }
    options.force_share = open_options->force_share;
    options.exclusive = true;
    options.writable = index == 0;
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open(image, &options, error);
    if (!chain) {
        return false;
    }
    chain->writable_first = index;
    chain->writable_end = index + 1;
    if (!qcow2_chain_open_all(chain, error)) {
        return false;
    }
    return find_note(chain) != index || finish_note(merge, chain, index, error);
}
