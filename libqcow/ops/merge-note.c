/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Layers that a commit leaves behind are marked, or deleted, when nobody reads through them any more. A
 * crash before that must not make them forgotten: the header write that takes them out of the chain adds an
 * extension that names them, and the next commit of the image finishes with them.
 *
 * A line for each file: "top NAME", then "between NAME". The top stays valid, but has to name base as well.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain/naming.h"
#include "format/header-switch.h"
#include "image/mark.h"
#include "io/backends.h"
#include "ops/merge.h"
#include "util/error.h"

/* ---- Writing ----------------------------------------------------------------------------------- */

static bool fits(const Qcow2Merge *merge, unsigned index, GBytes *note)
{
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, index, merge->base);
    g_autoptr(GByteArray) old = g_byte_array_new();
    g_auto(Qcow2Header) header = { 0 };

    if (!qcow2_image_read_header(qcow2_chain_image(merge->chain, index)->file, &header, old, NULL)) {
        return false;
    }
    g_autofree uint8_t *cluster = g_try_malloc(old->len);
    g_free(header.backing_name);
    header.backing_name = g_steal_pointer(&name);
    qcow2_header_set_ext(&header, QCOW2_EXT_BACKING_FORMAT, merge->base_format, strlen(merge->base_format));
    qcow2_header_set_ext(&header, QCOW2_EXT_MERGED, g_bytes_get_data(note, NULL), g_bytes_get_size(note));
    return cluster && qcow2_header_switch(old->data, &header, cluster, old->len, NULL);
}

static void add_line(const Qcow2Merge *merge, unsigned index, const char *kind, unsigned layer, GString *text)
{
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, index, layer);

    if (qcow2_chain_layer(merge->chain, layer)->place->kind == QCOW2_PLACE_FILE && !strchr(name, '\n')) {
        g_string_append_printf(text, "%s %s\n", kind, name);
    }
}

GBytes *qcow2_merge_note(const Qcow2Merge *merge, unsigned index)
{
    g_autoptr(GString) text = g_string_new(NULL);

    if (merge->top == 0 && merge->options->keep_image) {
        return NULL;
    }
    if (merge->top > 0 && (merge->options->delete_merged || merge->base > merge->top + 1)) {
        add_line(merge, index, "top", merge->top, text);
    }
    for (unsigned i = merge->top + 1; i < merge->base; i++) {
        if (qcow2_merge_is_retired(merge, i)) {
            add_line(merge, index, "between", i, text);
        }
    }
    if (text->len == 0) {
        return NULL;
    }
    GBytes *note = g_string_free_to_bytes(g_steal_pointer(&text));
    if (!fits(merge, index, note)) {
        g_clear_pointer(&note, g_bytes_unref);
    }
    return note;
}

static bool clear_note(const Qcow2Chain *chain, unsigned index, GError **error)
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

bool qcow2_merge_clear_note(const Qcow2Merge *merge, unsigned index, GError **error)
{
    return clear_note(merge->chain, index, error);
}

/* ---- Going on from one -------------------------------------------------------------------------- */

static bool is_in_chain(const Qcow2Chain *chain, const struct stat *st)
{
    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        const Qcow2IoIdentity *identity = &qcow2_chain_layer(chain, i)->identity;
        if (!identity->known || (identity->device == st->st_dev && identity->inode == st->st_ino)) {
            return true;
        }
    }
    return false;
}

/* One that is marked already cannot be opened. */
static bool mark_file(Qcow2Merge *merge, const Qcow2Place *place, const char *base, GError **error)
{
    const Qcow2FileOptions options = {
        .writable = true,
        .lock = true,
        .used = QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE,
        .shared = QCOW2_PERM_WRITE_UNCHANGED,
    };
    g_autoptr(Qcow2Io) io = qcow2_io_file_open(place->target, &options, error);
    g_autoptr(Qcow2Image) image = io ? qcow2_image_open(io, NULL) : NULL;
    bool marked = true;

    if (!io || (image && image->kind == QCOW2_IMAGE_QCOW2
                && !qcow2_image_mark_merged(image, base, &marked, error))) {
        g_prefix_error(error, "'%s': ", place->shown);
        return false;
    }
    g_ptr_array_add(merge->invalid, g_strdup(place->shown));
    if (!marked) {
        g_ptr_array_add(merge->unmarked, g_strdup(place->shown));
    }
    return true;
}

/* It leads through the layers between no more. */
static bool repoint_top(const Qcow2Chain *chain, unsigned index, const Qcow2Place *place, GError **error)
{
    const Qcow2Layer *namer = qcow2_chain_layer(chain, index);
    const Qcow2Place *base = qcow2_chain_layer(chain, index + 1)->place;
    g_autofree char *folder = qcow2_place_folder(namer->place), *top_folder = qcow2_place_folder(place);
    g_autofree char *path = base->kind == QCOW2_PLACE_FILE ? g_canonicalize_filename(base->target, NULL)
                                                           : g_strdup(base->target);
    bool same_folder = g_strcmp0(folder, top_folder) == 0;
    Qcow2OpenOptions options = chain->options;

    options.writable = true;
    options.format = "qcow2";
    g_autoptr(Qcow2Chain) top = qcow2_chain_open(place->target, &options, error);
    g_autoptr(Qcow2Batch) batch = top ? qcow2_batch_begin(qcow2_chain_image(top, 0), error) : NULL;
    if (batch) {
        qcow2_batch_set_backing(batch, same_folder ? namer->image->header.backing_name : path,
                                namer->image->header.backing_format);
    }
    return batch && qcow2_batch_commit(batch, error);
}

/* Files that are gone, or used again, are left alone. */
static bool finish_line(Qcow2Merge *merge, const Qcow2Chain *chain, unsigned index, const char *line,
                        GError **error)
{
    g_autofree char *folder = qcow2_place_folder(qcow2_chain_layer(chain, index)->place);
    g_autofree char *base = g_path_get_basename(qcow2_chain_layer(chain, index + 1)->place->target);
    bool is_between = g_str_has_prefix(line, "between "), is_top = g_str_has_prefix(line, "top ");
    const char *name = is_between || is_top ? strchr(line, ' ') + 1 : NULL;
    g_autoptr(Qcow2Place) place = name ? qcow2_place_parse(name, folder, false, NULL) : NULL;
    struct stat st;

    if (!place || place->kind != QCOW2_PLACE_FILE || stat(place->target, &st) != 0 || !S_ISREG(st.st_mode)
        || is_in_chain(chain, &st)) {
        return true;
    }
    if (is_between && !mark_file(merge, place, base, error)) {
        return false;
    }
    if (is_top && !merge->options->delete_merged && !repoint_top(chain, index, place, error)) {
        return false;
    }
    if (merge->options->delete_merged) {
        if (unlink(place->target) != 0) {
            return qcow2_fail_errno(error, errno, "'%s': deleting it failed", place->shown);
        }
        g_ptr_array_add(merge->deleted, g_strdup(place->shown));
    }
    return true;
}

static bool finish_note(Qcow2Merge *merge, Qcow2Chain *chain, unsigned index, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, index);
    GBytes *note = qcow2_header_find_ext(&image->header, QCOW2_EXT_MERGED);
    gsize len;
    const char *bytes = g_bytes_get_data(note, &len);
    g_autofree char *text = g_strndup(bytes, len);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (size_t i = 0; lines[i]; i++) {
        if (!finish_line(merge, chain, index, lines[i], error)) {
            return false;
        }
    }
    return clear_note(chain, index, error);
}

/* UINT_MAX: no layer has one. */
static unsigned find_note(const Qcow2Chain *chain)
{
    for (unsigned i = 0; i + 1 < qcow2_chain_n_layers(chain); i++) {
        if (qcow2_header_find_ext(&qcow2_chain_image(chain, i)->header, QCOW2_EXT_MERGED)) {
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
