/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain/chain.h"

#include <string.h>
#include <sys/stat.h>

#include "chain/open.h"
#include "util/error.h"

static void free_layer(gpointer layer)
{
    qcow2_layer_free(layer);
}

const char *qcow2_chain_layer_name(const Qcow2Chain *chain, unsigned index)
{
    return qcow2_chain_layer(chain, index)->place->shown;
}

void qcow2_chain_warn(const Qcow2Chain *chain, const char *format, ...)
{
    va_list args;

    if (!chain->options.warn) {
        return;
    }
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    chain->options.warn(message, chain->options.warn_data);
}

static bool set_format(Qcow2Place *place, const char *format, GError **error)
{
    if (!format) {
        return true;
    }
    if (place->format && strcmp(place->format, format) != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s': the name says %s, the format option %s",
                          place->shown, place->format, format);
    }
    g_free(place->format);
    place->format = g_strdup(format);
    return true;
}

static Qcow2Chain *chain_of_layer(Qcow2Layer *layer, const char *name, const Qcow2OpenOptions *options)
{
    Qcow2Chain *chain = g_new0(Qcow2Chain, 1);

    chain->layers = g_ptr_array_new_with_free_func(free_layer);
    chain->name = g_strdup(name);
    chain->options = *options;
    chain->options.format = NULL;    /* the caller's string; it was for this image only */
    g_ptr_array_add(chain->layers, layer);
    chain->complete = !qcow2_chain_has_below(chain, 0);
    return chain;
}

Qcow2Chain *qcow2_chain_open_place(Qcow2Place *place, const char *name, const Qcow2OpenOptions *options,
                                   GError **error)
{
    if (!set_format(place, options->format, error)) {
        qcow2_place_free(place);
        return NULL;
    }
    if (options->writable && !qcow2_place_check_writable(place, error)) {
        g_prefix_error(error, "'%s': ", place->shown);
        qcow2_place_free(place);
        return NULL;
    }
    Qcow2Layer *layer = qcow2_layer_open(place, options, options->writable, error);
    return layer ? chain_of_layer(layer, name, options) : NULL;
}

Qcow2Chain *qcow2_chain_open_in(const char *folder, const char *name, const Qcow2OpenOptions *options,
                                GError **error)
{
    static const Qcow2OpenOptions defaults = { 0 };
    const Qcow2OpenOptions *how = options ? options : &defaults;
    Qcow2Place *place = qcow2_place_parse(name, folder, how->image_opts, error);

    return place ? qcow2_chain_open_place(place, name, how, error) : NULL;
}

Qcow2Chain *qcow2_chain_open(const char *name, const Qcow2OpenOptions *options, GError **error)
{
    return qcow2_chain_open_in(NULL, name, options, error);
}

Qcow2Chain *qcow2_chain_open_io(Qcow2Io *io, const Qcow2OpenOptions *options, GError **error)
{
    Qcow2Place *place = g_new0(Qcow2Place, 1);

    place->target = g_strdup(io->name);
    place->shown = g_strdup(io->name);
    place->format = g_strdup(options->format);
    place->raw_size = UINT64_MAX;
    Qcow2Layer *layer = qcow2_layer_open_io(place, io, options, error);
    return layer ? chain_of_layer(layer, io->name, options) : NULL;
}

/* A complete chain, as yet without layers, which will belong to others. */
static Qcow2Chain *borrowing_chain(const Qcow2Chain *model)
{
    Qcow2Chain *chain = g_new0(Qcow2Chain, 1);

    chain->layers = g_ptr_array_new();
    chain->name = g_strdup(model->name);
    chain->options = model->options;
    chain->complete = true;
    return chain;
}

Qcow2Chain *qcow2_chain_stack(Qcow2Chain *top, unsigned layer, Qcow2Chain *below, GError **error)
{
    if (!qcow2_chain_open_data(top, layer, error) || (below && !qcow2_chain_open_all(below, error))) {
        return NULL;
    }
    Qcow2Chain *chain = borrowing_chain(top);
    g_ptr_array_add(chain->layers, qcow2_chain_layer(top, layer));
    for (unsigned i = 0; below && i < below->layers->len; i++) {
        g_ptr_array_add(chain->layers, qcow2_chain_layer(below, i));
    }
    return chain;
}

Qcow2Chain *qcow2_chain_tail(Qcow2Chain *chain, unsigned first, GError **error)
{
    if (!qcow2_chain_open_all(chain, error)) {
        return NULL;
    }
    Qcow2Chain *tail = borrowing_chain(chain);
    for (unsigned i = first; i < chain->layers->len; i++) {
        g_ptr_array_add(tail->layers, qcow2_chain_layer(chain, i));
    }
    return tail;
}

Qcow2Chain *qcow2_chain_on_trial(Qcow2Chain *chain, unsigned first, unsigned end, GError **error)
{
    g_autoptr(Qcow2Chain) result = qcow2_chain_tail(chain, 0, error);

    if (!result) {
        return NULL;
    }
    /* Whoever reads this chain reads the other one as well, which has been looked at. */
    result->options.force_share = false;
    result->options.warn = NULL;
    result->on_trial = g_ptr_array_new_with_free_func(free_layer);
    for (unsigned i = first; i < end; i++) {
        Qcow2Layer *layer = qcow2_chain_open_data(chain, i, error)
                          ? qcow2_layer_on_trial(qcow2_chain_layer(chain, i), error) : NULL;
        if (!layer) {
            return NULL;
        }
        g_ptr_array_add(result->on_trial, layer);
        g_ptr_array_index(result->layers, i) = layer;
    }
    return g_steal_pointer(&result);
}

void qcow2_chain_free(Qcow2Chain *chain)
{
    if (!chain) {
        return;
    }
    g_ptr_array_unref(chain->layers);
    g_clear_pointer(&chain->on_trial, g_ptr_array_unref);
    g_free(chain->name);
    g_free(chain);
}

unsigned qcow2_chain_n_layers(const Qcow2Chain *chain)
{
    return chain->layers->len;
}

bool qcow2_chain_has_below(const Qcow2Chain *chain, unsigned index)
{
    const Qcow2Layer *layer = qcow2_chain_layer(chain, index);

    return index + 1 < chain->layers->len
        || (!chain->complete && !layer->place->no_backing
            && (layer->place->backing || layer->image->header.backing_name));
}

Qcow2Place *qcow2_backing_place(const Qcow2Layer *layer, GError **error)
{
    const Qcow2Header *header = &layer->image->header;
    g_autofree char *folder = qcow2_place_folder(layer->place);

    if (!header->backing_name) {
        return NULL;
    }
    g_autoptr(Qcow2Place) place = qcow2_place_parse(header->backing_name, folder, false, error);
    if (!place) {
        return NULL;
    }
    if (!folder && place->kind == QCOW2_PLACE_FILE && !g_path_is_absolute(place->target)) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                   "its backing file '%s' has a relative name, which has no meaning for"
                   " an image read over NBD",
                   header->backing_name);
        return NULL;
    }
    if (header->backing_format && !place->format) {
        /* QEMU also records the protocol as the format of a raw file. */
        bool is_protocol = strcmp(header->backing_format, "file") == 0
                        || strcmp(header->backing_format, "host_device") == 0
                        || strcmp(header->backing_format, "nbd") == 0;
        place->format = g_strdup(is_protocol ? "raw" : header->backing_format);
    }
    return g_steal_pointer(&place);
}

static Qcow2Place *place_below(Qcow2Layer *layer, GError **error)
{
    if (!layer->place->backing) {
        return qcow2_backing_place(layer, error);
    }
    layer->below_was_given = true;
    return g_steal_pointer(&layer->place->backing);
}

static bool is_same_place(const Qcow2Layer *a, const Qcow2Layer *b)
{
    if (a->identity.known && b->identity.known) {
        return a->identity.device == b->identity.device && a->identity.inode == b->identity.inode;
    }
    return a->identity.known == b->identity.known && strcmp(a->place->target, b->place->target) == 0;
}

static bool fail_loop(const Qcow2Chain *chain, const char *shown, unsigned index, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_CORRUPT,
                      "'%s': the backing chain is a loop: '%s' is already layer [%u] of it",
                      qcow2_chain_layer_name(chain, chain->layers->len - 1), shown, index);
}

/* A file of the chain, before it is opened: our own lock on it would be taken for somebody else's. */
static bool refuse_own_file(const Qcow2Chain *chain, const Qcow2Place *place, GError **error)
{
    bool is_raw = place->format && strcmp(place->format, "raw") == 0;
    struct stat st;

    if (is_raw || place->kind != QCOW2_PLACE_FILE || stat(place->target, &st) != 0) {
        return true;
    }
    for (unsigned i = 0; i < chain->layers->len; i++) {
        const Qcow2IoIdentity *identity = &qcow2_chain_layer(chain, i)->identity;
        if (identity->known && identity->device == st.st_dev && identity->inode == st.st_ino) {
            return fail_loop(chain, place->shown, i, error);
        }
    }
    return true;
}

static bool refuse_loop(const Qcow2Chain *chain, const Qcow2Layer *next, GError **error)
{
    if (next->image->kind == QCOW2_IMAGE_RAW) {
        return true;    /* nothing is below it, so it closes no loop */
    }
    for (unsigned i = 0; i < chain->layers->len; i++) {
        if (is_same_place(qcow2_chain_layer(chain, i), next)) {
            return fail_loop(chain, next->place->shown, i, error);
        }
    }
    return true;
}

static bool open_next(Qcow2Chain *chain, GError **error)
{
    unsigned last = chain->layers->len - 1;
    Qcow2Layer *above = qcow2_chain_layer(chain, last);

    /* A name on the command line is the user's own; one in the header is the image's. */
    if (chain->options.untrusted && !above->place->backing) {
        return qcow2_fail(error, QCOW2_ERROR_UNTRUSTED,
                          "'%s': this needs its backing file '%s', which --untrusted does not"
                          " open",
                          above->place->shown, above->image->header.backing_name);
    }
    if (chain->layers->len >= QCOW2_MAX_LAYERS) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "the backing chain has more than %u layers",
                          QCOW2_MAX_LAYERS);
    }
    Qcow2Place *place = place_below(above, error);
    bool writable = last + 1 >= chain->writable_first && last + 1 < chain->writable_end;
    if (place && last + 1 == chain->given_index && !place->format) {
        place->format = g_strdup(chain->given_format);
    }
    if (place && !refuse_own_file(chain, place, error)) {
        qcow2_place_free(place);
        return false;
    }
    Qcow2Layer *layer = place ? qcow2_layer_open(place, &chain->options, writable, error) : NULL;
    if (!layer) {
        g_prefix_error(error, "backing file of '%s': ", above->place->shown);
        return false;
    }
    if (!refuse_loop(chain, layer, error)) {
        qcow2_layer_free(layer);
        return false;
    }
    if (layer->format_was_probed) {
        const char *format = layer->image->kind == QCOW2_IMAGE_RAW ? "raw" : "qcow2";
        qcow2_chain_warn(
            chain,
            "'%s' does not record the format of its backing file '%s'; it was detected as %s, which a"
            " guest can forge in a raw image",
            above->place->shown, layer->place->shown, format);
    }
    g_ptr_array_add(chain->layers, layer);
    chain->complete = !qcow2_chain_has_below(chain, last + 1);
    return true;
}

bool qcow2_chain_open_below(Qcow2Chain *chain, unsigned index, bool *ret_exists, GError **error)
{
    *ret_exists = index + 1 < chain->layers->len;
    if (*ret_exists || chain->complete) {
        return true;
    }
    *ret_exists = open_next(chain, error);
    return *ret_exists;
}

bool qcow2_chain_open_all(Qcow2Chain *chain, GError **error)
{
    while (!chain->complete) {
        if (!open_next(chain, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Layers by name ---------------------------------------------------------------------------- */

static bool is_shown_as(const Qcow2Layer *layer, const char *word)
{
    return strcmp(layer->place->shown, word) == 0;
}

static bool is_file_of(const Qcow2Layer *layer, const struct stat *file)
{
    return layer->identity.inode != 0 && layer->identity.device == file->st_dev
        && layer->identity.inode == file->st_ino;
}

static bool is_recorded_as(const Qcow2Layer *above, const Qcow2Layer *layer, const char *word)
{
    g_autofree char *folder = qcow2_place_folder(above->place);
    g_autoptr(Qcow2Place) place = folder ? qcow2_place_parse(word, folder, false, NULL) : NULL;
    struct stat st;

    if (!above->below_was_given && g_strcmp0(above->image->header.backing_name, word) == 0) {
        return true;
    }
    return place && place->kind == QCOW2_PLACE_FILE && stat(place->target, &st) == 0
        && (is_shown_as(layer, word) || is_file_of(layer, &st));
}

/*
 * As the layer above records it, which QEMU looks for, or as a path from here: @by_path, or UINT_MAX. Unlike
 * QEMU we do not take the first of several. All layers are open.
 */
static bool find_by_other_name(const Qcow2Chain *chain, const char *word, unsigned by_path,
                               unsigned *ret_index, GError **error)
{
    *ret_index = by_path;
    for (unsigned i = 1; i < chain->layers->len; i++) {
        if (i == *ret_index
            || !is_recorded_as(qcow2_chain_layer(chain, i - 1), qcow2_chain_layer(chain, i), word)) {
            continue;
        }
        if (*ret_index != UINT_MAX) {
            return qcow2_fail(error, QCOW2_ERROR_AMBIGUOUS,
                              "'%s': '%s' means layer [%u] of its backing chain, '%s', or [%u], '%s'; their"
                              " indexes name them, too",
                              qcow2_chain_layer_name(chain, 0), word, *ret_index,
                              qcow2_chain_layer_name(chain, *ret_index), i, qcow2_chain_layer_name(chain, i));
        }
        *ret_index = i;
    }
    return *ret_index != UINT_MAX
        || qcow2_fail(error, QCOW2_ERROR_NOT_FOUND,
                      "'%s': '%s' is not a layer of its backing chain%s; qcow-info --backing-chain lists the"
                      " layers", qcow2_chain_layer_name(chain, 0), word,
                      g_file_test(word, G_FILE_TEST_EXISTS) ? " (already merged?)" : "");
}

static bool find_by_name(Qcow2Chain *chain, const char *word, unsigned *ret_index, GError **error)
{
    struct stat st;
    const char *path = g_str_has_prefix(word, "file:") ? word + strlen("file:") : word;
    bool is_file = stat(path, &st) == 0, exists = true;
    unsigned by_path = UINT_MAX;

    for (*ret_index = 0; exists; (*ret_index)++) {
        const Qcow2Layer *layer = qcow2_chain_layer(chain, *ret_index);
        if (is_shown_as(layer, word)) {
            return true;
        }
        if (is_file && by_path == UINT_MAX && is_file_of(layer, &st)) {
            by_path = *ret_index;
        }
        if (!qcow2_chain_open_below(chain, *ret_index, &exists, error)) {
            return false;
        }
    }
    return find_by_other_name(chain, word, by_path, ret_index, error);
}

bool qcow2_chain_find_layer(Qcow2Chain *chain, const char *word, unsigned *ret_index, GError **error)
{
    guint64 index;
    g_autofree char *digits = *word == '[' && g_str_has_suffix(word, "]")
                            ? g_strndup(word + 1, strlen(word) - 2) : NULL;

    if (!digits || !g_ascii_string_to_unsigned(digits, 10, 0, QCOW2_MAX_LAYERS, &index, NULL)) {
        return find_by_name(chain, word, ret_index, error);
    }
    if (!qcow2_chain_open_all(chain, error)) {
        return false;
    }
    *ret_index = (unsigned)index;
    return index < chain->layers->len
        || qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "'%s': there is no layer %s; its backing chain has %u",
                      qcow2_chain_layer_name(chain, 0), word, chain->layers->len);
}

bool qcow2_chain_open_data(Qcow2Chain *chain, unsigned index, GError **error)
{
    Qcow2Layer *layer = qcow2_chain_layer(chain, index);

    if (!qcow2_image_needs_data_file(layer->image)) {
        return true;
    }
    g_autoptr(Qcow2Io) data = qcow2_layer_find_data(layer, &chain->options, error);
    if (!data || !qcow2_io_identify(data, &layer->data_identity, error)) {
        g_prefix_error(error, "'%s': ", layer->place->shown);
        return false;
    }
    layer->has_data_identity = true;
    qcow2_image_attach_data(layer->image, data);
    return true;
}
