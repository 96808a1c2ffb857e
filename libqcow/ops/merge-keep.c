/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that read through the base of a commit and were named: what each reads now, and what it would read
 * afterwards. Those that were not named: ops/merge-siblings.c.
 */
#include <string.h>
#include <sys/stat.h>

#include "chain/naming.h"
#include "chain/nbd-address.h"
#include "ops/merge.h"
#include "util/error.h"

void qcow2_dependent_free(Qcow2Dependent *dependent)
{
    g_clear_pointer(&dependent->after, qcow2_chain_free);
    g_clear_pointer(&dependent->after_past, qcow2_chain_free);
    g_clear_pointer(&dependent->chain, qcow2_chain_free);
    g_clear_pointer(&dependent->own, qcow2_chain_free);
    g_free(dependent->backing_name);
    g_free(dependent);
}

Qcow2Keep qcow2_merge_keep_of(const Qcow2Merge *merge, const Qcow2Dependent *dependent)
{
    return (Qcow2Keep) {
        .chain = dependent->chain,
        .below = dependent->after,
        .below_past = dependent->after_past,
        .past_from = qcow2_chain_image(merge->chain, merge->top)->size,
        .snapshots_only = dependent->snapshots_only,
        .no_reflink = merge->options->no_reflink,
    };
}

/* ---- Images by identity ------------------------------------------------------------------------ */

static bool is_file(const Qcow2IoIdentity *identity, const struct stat *st)
{
    return identity->inode != 0 && identity->device == st->st_dev && identity->inode == st->st_ino;
}

/*
 * A file by what it is, also a device, of which no more is known; an export by its address. A raw data file
 * is an image as well, and changes with the image whose data is in it.
 */
static bool is_at(const Qcow2Layer *layer, const Qcow2Place *place, const struct stat *st)
{
    if (place->kind == QCOW2_PLACE_NBD) {
        return layer->place->kind == QCOW2_PLACE_NBD
            && qcow2_nbd_is_same_export(layer->place->target, place->target);
    }
    return st && (is_file(&layer->identity, st)
                  || (layer->has_data_identity && is_file(&layer->data_identity, st)));
}

/* NULL: there is no such file, or it is none. */
static const struct stat *look_at(const Qcow2Place *place, struct stat *st)
{
    return place->kind == QCOW2_PLACE_FILE && stat(place->target, st) == 0 ? st : NULL;
}

unsigned qcow2_merge_find_layer(const Qcow2Merge *merge, const Qcow2Place *place)
{
    struct stat buffer;
    const struct stat *st = look_at(place, &buffer);

    for (unsigned i = 0; i < qcow2_chain_n_layers(merge->chain); i++) {
        if (is_at(qcow2_chain_layer(merge->chain, i), place, st)) {
            return i;
        }
    }
    return UINT_MAX;
}

Qcow2Chain *qcow2_merge_find_kept(const Qcow2Merge *merge, const Qcow2Place *place)
{
    struct stat buffer;
    const struct stat *st = look_at(place, &buffer);

    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (dependent->own && is_at(qcow2_chain_layer(dependent->own, 0), place, st)) {
            return dependent->own;
        }
    }
    return NULL;
}

const Qcow2Dependent *qcow2_merge_find_kept_layer(const Qcow2Merge *merge, unsigned index)
{
    const Qcow2Layer *layer = qcow2_chain_layer(merge->chain, index);

    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (!dependent->own && qcow2_chain_layer(dependent->chain, 0) == layer) {
            return dependent;
        }
    }
    return NULL;
}

static Qcow2Chain *find_opened(const Qcow2Merge *merge, const Qcow2Place *place)
{
    struct stat buffer;
    const struct stat *st = look_at(place, &buffer);
    Qcow2Chain *kept = qcow2_merge_find_kept(merge, place);

    for (guint i = 0; !kept && i < merge->others->len; i++) {
        Qcow2Chain *other = g_ptr_array_index(merge->others, i);
        if (is_at(qcow2_chain_layer(other, 0), place, st)) {
            return other;
        }
    }
    return kept;
}

/* ---- The chains of an image outside ------------------------------------------------------------ */

/* What is below an image that is opened alone: as it is, and as it will be. */
typedef struct Below {
    unsigned index;               /* where the image's chain joins the merge's; UINT_MAX: nowhere */
    Qcow2Chain *now, *after, *after_past;    /* after: NULL when nothing changes */
} Below;

static bool find_below(Qcow2Merge *merge, Qcow2Chain *own, unsigned depth, Below *ret, GError **error);

static gboolean is_of(gconstpointer dependent, gconstpointer chain)
{
    return ((const Qcow2Dependent *)dependent)->own == chain;
}

/* An image between, which is opened for reading only. */
static bool find_below_other(Qcow2Merge *merge, Qcow2Chain *other, unsigned depth, Below *ret, GError **error)
{
    bool is_kept = g_ptr_array_find_with_equal_func(merge->kept, other, is_of, NULL);
    Below deeper = { 0 };

    if (!find_below(merge, other, depth + 1, &deeper, error)) {
        return false;
    }
    ret->index = deeper.index;
    ret->now = qcow2_chain_stack(other, 0, deeper.now, error);
    if (ret->now && !is_kept && deeper.index > merge->top && deeper.index < merge->base) {
        /* That image will not be valid, so that the one above it has to name base. */
        ret->after = g_steal_pointer(&deeper.after);
        ret->after_past = g_steal_pointer(&deeper.after_past);
    } else if (ret->now && !is_kept && deeper.after) {
        ret->after = qcow2_chain_stack(other, 0, deeper.after, error);
        ret->after_past = qcow2_chain_stack(other, 0, deeper.after_past, error);
    }
    /* What is opened stays open; only the stacks go. */
    g_clear_pointer(&deeper.now, qcow2_chain_free);
    g_clear_pointer(&deeper.after, qcow2_chain_free);
    g_clear_pointer(&deeper.after_past, qcow2_chain_free);
    return ret->now != NULL;
}

/* A layer between that is kept, or over one that is, goes on giving what it gives as long as it is there. */
static bool join_chain(const Qcow2Merge *merge, unsigned index, Below *ret, GError **error)
{
    bool is_between = index > merge->top && index < merge->base;
    bool changes = index == merge->base || qcow2_merge_is_retired(merge, index)
                || (is_between && qcow2_merge_is_deleted(merge, index));

    ret->index = index;
    ret->now = qcow2_chain_tail(merge->chain, index, error);
    if (ret->now && changes) {
        ret->after = qcow2_chain_tail(merge->chain, merge->top, error);
        ret->after_past = qcow2_chain_tail(merge->chain, merge->base, error);
    }
    return ret->now != NULL;
}

static Qcow2Chain *open_other(Qcow2Merge *merge, const Qcow2Place *place, GError **error)
{
    Qcow2OpenOptions options = merge->chain->options;

    options.writable = options.image_opts = false;
    options.format = NULL;
    Qcow2Chain *chain = qcow2_chain_open_place(qcow2_place_copy(place), place->shown, &options, error);
    if (chain) {
        g_ptr_array_add(merge->others, chain);
    }
    return chain;
}

/* What its name says, or else its header; NULL without error: nothing. */
static Qcow2Place *place_below(const Qcow2Layer *layer, GError **error)
{
    if (layer->place->backing || layer->place->no_backing) {
        return qcow2_place_copy(layer->place->backing);
    }
    Qcow2Place *place = NULL;
    GError *cause = NULL;
    if (layer->image->header.backing_name && !(place = qcow2_backing_place(layer, &cause))) {
        g_propagate_prefixed_error(error, cause, "'%s': its backing file: ", layer->place->shown);
    }
    return place;
}

static bool find_below_place(Qcow2Merge *merge, Qcow2Chain *own, const Qcow2Place *place, unsigned depth,
                             Below *ret, GError **error)
{
    const char *name = qcow2_chain_layer_name(own, 0);
    unsigned index = qcow2_merge_find_layer(merge, place);

    if (index != UINT_MAX && !qcow2_place_is_layer(place, merge->chain, index)) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "'%s': it reads '%s' in another way than the chain does, so it cannot be preserved",
                          name, qcow2_chain_layer_name(merge->chain, index));
    }
    if (index != UINT_MAX) {
        return join_chain(merge, index, ret, error);
    }
    if (depth >= QCOW2_MAX_LAYERS) {
        return qcow2_fail(error, QCOW2_ERROR_CORRUPT, "'%s': the backing chain is a loop", name);
    }
    Qcow2Chain *other = find_opened(merge, place);
    return (other || (other = open_other(merge, place, error)))
        && find_below_other(merge, other, depth, ret, error);
}

static bool find_below(Qcow2Merge *merge, Qcow2Chain *own, unsigned depth, Below *ret, GError **error)
{
    GError *cause = NULL;
    g_autoptr(Qcow2Place) place = place_below(qcow2_chain_layer(own, 0), &cause);

    ret->index = UINT_MAX;
    if (cause) {
        g_propagate_error(error, cause);
        return false;
    }
    return !place || (place->kind == QCOW2_PLACE_FILE && !g_file_test(place->target, G_FILE_TEST_EXISTS))
        || find_below_place(merge, own, place, depth, ret, error);
}

/* ---- Images to preserve ------------------------------------------------------------------------ */

static bool set_backing_name(const Qcow2Merge *merge, Qcow2Dependent *dependent, unsigned index,
                             GError **error)
{
    /* Through a layer that will not be valid: it has to name base itself. */
    if (!dependent->after || index <= merge->top || index >= merge->base) {
        return true;
    }
    dependent->backing_name = qcow2_backing_name(qcow2_chain_layer(dependent->own, 0), merge->chain,
                                                 merge->base, error);
    return dependent->backing_name != NULL;
}

static bool open_outside(Qcow2Merge *merge, const Qcow2Place *place, GError **error)
{
    Qcow2OpenOptions options = merge->chain->options;
    Qcow2Dependent *dependent = g_new0(Qcow2Dependent, 1);

    options.writable = options.exclusive = true;
    options.image_opts = false;
    options.format = NULL;
    g_ptr_array_add(merge->kept, dependent);
    dependent->own = qcow2_chain_open_place(qcow2_place_copy(place), place->shown, &options, error);
    return dependent->own != NULL;
}

static bool refuse_nothing(const Qcow2Merge *merge, const char *name, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "'%s': it reads nothing through '%s', so there is nothing to preserve", name,
                      qcow2_chain_layer_name(merge->chain, merge->base));
}

/* When all are open: one may be backed by another. */
static bool find_chain(Qcow2Merge *merge, Qcow2Dependent *dependent, GError **error)
{
    Below below = { 0 };

    if (!find_below(merge, dependent->own, 0, &below, error)) {
        return false;
    }
    dependent->after = below.after;
    dependent->after_past = below.after_past;
    if (below.index == UINT_MAX || below.index > merge->base) {
        g_clear_pointer(&below.now, qcow2_chain_free);
        return refuse_nothing(merge, qcow2_chain_layer_name(dependent->own, 0), error);
    }
    dependent->chain = qcow2_chain_stack(dependent->own, 0, below.now, error);
    qcow2_chain_free(below.now);
    return dependent->chain && set_backing_name(merge, dependent, below.index, error);
}

static bool find_chains(Qcow2Merge *merge, GError **error)
{
    for (guint i = 0; i < merge->kept->len; i++) {
        Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (dependent->own && !find_chain(merge, dependent, error)) {
            return false;
        }
    }
    return true;
}

/* A layer of the chain: all of a layer between, and the snapshots of the others. */
static bool add_layer(Qcow2Merge *merge, unsigned index, GError **error)
{
    Qcow2Dependent *dependent = g_new0(Qcow2Dependent, 1);

    dependent->chain = qcow2_chain_tail(merge->chain, index, error);
    dependent->snapshots_only = index <= merge->top;
    bool ok = dependent->chain != NULL;
    /* What is above the top reads the same through it. */
    if (index >= merge->top && index < merge->base) {
        dependent->after = qcow2_chain_tail(merge->chain, merge->top, error);
        dependent->after_past = qcow2_chain_tail(merge->chain, merge->base, error);
        if (index > merge->top && qcow2_merge_renames(merge, index)) {
            dependent->backing_name = qcow2_chain_backing_name(merge->chain, index, merge->base, error);
            ok = dependent->backing_name != NULL;
        }
    }
    g_ptr_array_add(merge->kept, dependent);
    return ok;
}

static bool add_preserved_layer(Qcow2Merge *merge, unsigned index, GError **error)
{
    const char *name = qcow2_chain_layer_name(merge->chain, index);

    if (index == merge->base) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "'%s': it is the base, which is to read as '%s' does, so it cannot be preserved;"
                          " a copy of it can stay as it is (qcow-copy)", name,
                          qcow2_chain_layer_name(merge->chain, merge->top));
    }
    if (index > merge->base) {
        return refuse_nothing(merge, name, error);
    }
    return qcow2_merge_find_kept_layer(merge, index) || add_layer(merge, index, error);
}

static bool add_preserved(Qcow2Merge *merge, const char *file, GError **error)
{
    g_autoptr(Qcow2Place) place = qcow2_place_parse(file, NULL, false, error);

    if (!place) {
        return false;
    }
    if (place->kind == QCOW2_PLACE_FILE && !g_file_test(place->target, G_FILE_TEST_EXISTS)) {
        return qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "'%s': No such file or directory", file);
    }
    unsigned index = qcow2_merge_find_layer(merge, place);
    if (index != UINT_MAX) {
        return add_preserved_layer(merge, index, error);
    }
    /* The same image may be named twice. */
    return qcow2_merge_find_kept(merge, place) || open_outside(merge, place, error);
}

/* Those that others are backed by come first: the others then find them as they will be. */
static gint by_depth(gconstpointer a, gconstpointer b)
{
    const Qcow2Dependent *const *x = a, *const *y = b;

    return (gint)qcow2_chain_n_layers((*x)->chain) - (gint)qcow2_chain_n_layers((*y)->chain);
}

bool qcow2_merge_find_dependents(Qcow2Merge *merge, GError **error)
{
    char **files = merge->options->preserve;

    for (guint i = 0; files && files[i]; i++) {
        if (!add_preserved(merge, files[i], error)) {
            return false;
        }
    }
    if (!find_chains(merge, error)) {
        return false;
    }
    g_ptr_array_sort(merge->kept, by_depth);
    return qcow2_merge_find_changes(merge, error) && qcow2_merge_check_siblings(merge, error);
}
