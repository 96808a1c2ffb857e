/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/merge-left.h"

#include <string.h>
#include <sys/stat.h>

#include "chain/naming.h"
#include "image/mark.h"
#include "io/backends.h"

void qcow2_left_free(gpointer data)
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

/* A line of the note. */
typedef struct Line {
    const Qcow2Place *place;
    bool was_to_go;
} Line;

/* NULL: it is not one of these; not there, perhaps. */
static Left *look_at(const Finish *self, LeftKind kind, const Line *line, const Qcow2Place *place)
{
    g_autoptr(Qcow2Io) io = open_to_look(self, place);
    Left *left = g_new0(Left, 1);

    left->kind = kind;
    left->was_to_go = line->was_to_go;
    left->place = qcow2_place_copy(place);
    if (io && qcow2_image_read_marked(io, &left->header, &left->is_marked, NULL)
        && has_id(&left->header, self->id) && qcow2_io_identify(io, &left->identity, NULL)) {
        return left;
    }
    qcow2_left_free(left);
    return NULL;
}

unsigned qcow2_merge_find_in_chain(const Qcow2Chain *chain, const Qcow2Place *place)
{
    struct stat st = { 0 };
    bool exists = place->kind == QCOW2_PLACE_FILE && stat(place->target, &st) == 0;

    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(chain, i);
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
static void note_missing(const Finish *self, const Line *line)
{
    const Qcow2Merge *merge = self->merge;
    const Qcow2Place *place = line->place;
    struct stat st;

    if (merge->options->delete_merged && line->was_to_go && is_missing(place)) {
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

static bool is_base(const Finish *self, const Qcow2Place *place)
{
    return place && qcow2_merge_find_in_chain(self->chain, place) == self->index + 1;
}

/* From the file that is named down; whether that ends at base. */
static void find_between(Finish *self, const Line *line)
{
    g_autoptr(Qcow2Place) place = qcow2_place_copy(line->place);
    guint from = self->left->len;
    Left *left;

    while (place && qcow2_merge_find_in_chain(self->chain, place) == UINT_MAX
           && (left = look_at(self, LEFT_BETWEEN, line, place)) != NULL) {
        g_clear_pointer(&place, qcow2_place_free);
        if (is_known(self, left)) {
            qcow2_left_free(left);
            break;
        }
        g_ptr_array_add(self->left, left);
        place = place_below(left);
    }
    bool is_whole = place && (is_missing(place) || is_base(self, place));

    for (guint i = from; i < self->left->len; i++) {
        left = g_ptr_array_index(self->left, i);
        /* The mark came from that commit as well. */
        left->is_certain = is_whole || left->is_marked;
    }
}

/* The file that a line names, unless it is in the chain; or NULL. */
static Left *look_at_named(const Finish *self, LeftKind kind, const Line *line)
{
    bool is_out = qcow2_merge_find_in_chain(self->chain, line->place) == UINT_MAX;

    return is_out ? look_at(self, kind, line, line->place) : NULL;
}

/* It is valid, whatever happens, but may still be over what is not. */
static void find_valid(Finish *self, const Line *line)
{
    Left *left = look_at_named(self, LEFT_VALID, line);

    if (!left) {
        return;
    }
    g_autoptr(Qcow2Place) below = place_below(left);
    Left *next = below ? look_at(self, LEFT_BETWEEN, line, below) : NULL;
    left->leads_to_base = is_base(self, below);
    left->is_certain = left->leads_to_base || next || (below && is_missing(below));
    g_clear_pointer(&next, qcow2_left_free);
    g_ptr_array_add(self->left, left);
}

/* One over an image that stays valid, which is over base. */
static void find_dropped(Finish *self, const Line *line)
{
    Left *left = look_at_named(self, LEFT_DROPPED, line);

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

static void read_line(Finish *self, const char *text)
{
    const char *space = strchr(text, ' '), *top = self->merge->options->top;
    g_autoptr(Qcow2Place) place = space ? qcow2_place_parse(space + 1, self->folder, false, NULL) : NULL;
    bool was_to_go = g_str_has_prefix(text, QCOW2_MERGE_DELETE);
    const char *kind = was_to_go ? text + strlen(QCOW2_MERGE_DELETE) : text;
    const Line line = { .place = place, .was_to_go = was_to_go };

    if (!place) {
        return;
    }
    note_missing(self, &line);
    if (g_str_has_prefix(kind, "between ")) {
        find_between(self, &line);
    } else if (g_str_has_prefix(kind, "dropped ")) {
        find_dropped(self, &line);
    } else if (g_str_has_prefix(kind, "kept ")) {
        find_valid(self, &line);
    } else if (g_str_has_prefix(kind, "top ")) {
        self->has_top = true;
        self->is_asked_for = top && is_named(top, space + 1, place);
        find_valid(self, &line);
    }
}

/* A layer's own digits have no line behind them. */
GBytes *qcow2_merge_note_of(const Qcow2Chain *chain, unsigned index)
{
    GBytes *note = qcow2_header_find_ext(&qcow2_chain_image(chain, index)->header, QCOW2_EXT_MERGED);
    gsize len = note ? g_bytes_get_size(note) : 0;
    const char *text = note ? g_bytes_get_data(note, NULL) : NULL;

    bool is_note = len > QCOW2_MERGE_ID_LEN + 1 && text[QCOW2_MERGE_ID_LEN] == '\0' && text[len - 1] == '\0';
    return is_note ? note : NULL;
}

void qcow2_merge_read_note(Finish *self, GBytes *note)
{
    gsize len;
    const char *text = g_bytes_get_data(note, &len), *end = text + len;

    self->id = text;
    for (const char *line = text + QCOW2_MERGE_ID_LEN + 1; line < end; line += strlen(line) + 1) {
        read_line(self, line);
    }
}
