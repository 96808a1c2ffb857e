/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Layers that a commit leaves behind are marked, or deleted, when nobody reads through them any more. A
 * crash before that must not make them forgotten: the header write that takes them out of the chain adds an
 * extension that names them, and the next commit of the image says what they are.
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
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, index, merge->base, NULL);
    g_autoptr(GByteArray) old = g_byte_array_new();
    g_auto(Qcow2Header) header = { 0 };

    if (!name || !qcow2_image_read_header(qcow2_chain_image(merge->chain, index)->file, &header, old, NULL)) {
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
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, index, layer, NULL);
    bool is_file = qcow2_chain_layer(merge->chain, layer)->place->kind == QCOW2_PLACE_FILE;

    if (name && is_file && !strchr(name, '\n')) {
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

/*
 * The note is only believed as far as words go: an image from elsewhere could name any file in it. So what it
 * names is said, and nothing is written to it.
 */
static void name_line(Qcow2Merge *merge, const Qcow2Chain *chain, unsigned index, const char *line)
{
    g_autofree char *folder = qcow2_place_folder(qcow2_chain_layer(chain, index)->place);
    const char *name = g_str_has_prefix(line, "between ") ? strchr(line, ' ') + 1 : NULL;
    g_autoptr(Qcow2Place) place = name ? qcow2_place_parse(name, folder, false, NULL) : NULL;
    struct stat st;

    if (place && place->kind == QCOW2_PLACE_FILE && stat(place->target, &st) == 0 && S_ISREG(st.st_mode)
        && !is_in_chain(chain, &st)) {
        g_ptr_array_add(merge->invalid, g_strdup(place->shown));
        g_ptr_array_add(merge->unmarked, g_strdup(place->shown));
    }
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
        name_line(merge, chain, index, lines[i]);
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
