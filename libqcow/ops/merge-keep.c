/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that read through the base of a commit: those that were named stay valid, and others are found by
 * reading the headers in the folders of the chain.
 */
#include <string.h>
#include <sys/stat.h>

#include "chain/naming.h"
#include "io/backends.h"
#include "ops/merge.h"
#include "util/error.h"

/* Of images that are backed by each other outside the chain. */
#define MAX_SIBLING_DEPTH 256u

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

/* ---- Files by identity ------------------------------------------------------------------------- */

static bool is_layer(const Qcow2Layer *layer, const struct stat *st)
{
    /* Also a device, of which no more is known; what has no inode is remote. */
    return layer->identity.inode != 0 && layer->identity.device == st->st_dev
        && layer->identity.inode == st->st_ino;
}

/* The layer of the merge's chain that a file is; UINT_MAX for none. */
static unsigned index_of_file(const Qcow2Merge *merge, const struct stat *st)
{
    for (unsigned i = 0; i < qcow2_chain_n_layers(merge->chain); i++) {
        if (is_layer(qcow2_chain_layer(merge->chain, i), st)) {
            return i;
        }
    }
    return UINT_MAX;
}

static Qcow2Chain *find_kept(const Qcow2Merge *merge, const struct stat *st)
{
    for (guint i = 0; i < merge->kept->len; i++) {
        Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (dependent->own && is_layer(qcow2_chain_layer(dependent->own, 0), st)) {
            return dependent->own;
        }
    }
    return NULL;
}

static Qcow2Chain *find_opened(const Qcow2Merge *merge, const struct stat *st)
{
    Qcow2Chain *kept = find_kept(merge, st);

    if (kept) {
        return kept;
    }
    for (guint i = 0; i < merge->others->len; i++) {
        Qcow2Chain *other = g_ptr_array_index(merge->others, i);
        if (is_layer(qcow2_chain_layer(other, 0), st)) {
            return other;
        }
    }
    return NULL;
}

/* ---- The chains of an image outside ------------------------------------------------------------ */

/* What is below an image that is opened alone: as it is, and as it will be. */
typedef struct Below {
    unsigned index;               /* where the image's chain joins the merge's; UINT_MAX: nowhere */
    Qcow2Chain *now, *after, *after_past;
    bool through_kept;            /* an image that stays valid itself is between */
} Below;

static bool find_below(Qcow2Merge *merge, Qcow2Chain *own, unsigned depth, Below *ret, GError **error);

static gboolean is_of(gconstpointer dependent, gconstpointer chain)
{
    return ((const Qcow2Dependent *)dependent)->own == chain;
}

/* An image between, which is opened for reading only. */
static bool find_below_other(Qcow2Merge *merge, Qcow2Chain *other, unsigned depth, Below *ret, GError **error)
{
    Below deeper = { 0 };

    if (!find_below(merge, other, depth + 1, &deeper, error)) {
        return false;
    }
    ret->index = deeper.index;
    ret->through_kept = deeper.through_kept
                     || g_ptr_array_find_with_equal_func(merge->kept, other, is_of, NULL);
    ret->now = qcow2_chain_stack(other, 0, deeper.now, error);
    if (ret->now && deeper.index > merge->top && deeper.index < merge->base) {
        /* That image will not be valid, so that the one above it has to name base. */
        ret->after = g_steal_pointer(&deeper.after);
        ret->after_past = g_steal_pointer(&deeper.after_past);
    } else if (ret->now && deeper.after) {
        ret->after = qcow2_chain_stack(other, 0, deeper.after, error);
        ret->after_past = qcow2_chain_stack(other, 0, deeper.after_past, error);
    }
    /* What is opened stays open; only the stacks go. */
    g_clear_pointer(&deeper.now, qcow2_chain_free);
    g_clear_pointer(&deeper.after, qcow2_chain_free);
    g_clear_pointer(&deeper.after_past, qcow2_chain_free);
    return ret->now != NULL;
}

static bool join_chain(const Qcow2Merge *merge, unsigned index, Below *ret, GError **error)
{
    ret->index = index;
    ret->now = qcow2_chain_tail(merge->chain, index, error);
    if (ret->now && index > merge->top && index <= merge->base) {
        ret->after = qcow2_chain_tail(merge->chain, merge->top, error);
        ret->after_past = qcow2_chain_tail(merge->chain, merge->base, error);
    }
    return ret->now != NULL;
}

static Qcow2Chain *open_other(Qcow2Merge *merge, const Qcow2Place *place, GError **error)
{
    Qcow2OpenOptions options = merge->chain->options;

    options.writable = options.image_opts = false;
    options.format = place->format;
    Qcow2Chain *chain = qcow2_chain_open(place->target, &options, error);
    if (chain) {
        g_ptr_array_add(merge->others, chain);
    }
    return chain;
}

static bool find_below(Qcow2Merge *merge, Qcow2Chain *own, unsigned depth, Below *ret, GError **error)
{
    g_autoptr(Qcow2Place) place = qcow2_backing_place(qcow2_chain_layer(own, 0), NULL);
    struct stat st;

    ret->index = UINT_MAX;
    if (!place || place->kind != QCOW2_PLACE_FILE || stat(place->target, &st) != 0) {
        return true;
    }
    unsigned index = index_of_file(merge, &st);
    if (index != UINT_MAX) {
        return join_chain(merge, index, ret, error);
    }
    if (depth >= QCOW2_MAX_LAYERS) {
        return qcow2_fail(error, QCOW2_ERROR_CORRUPT, "'%s': the backing chain is a loop",
                          qcow2_chain_layer_name(own, 0));
    }
    Qcow2Chain *other = find_opened(merge, &st);
    return (other || (other = open_other(merge, place, error)))
        && find_below_other(merge, other, depth, ret, error);
}

/* ---- Images to preserve ------------------------------------------------------------------------ */

static bool set_backing_name(const Qcow2Merge *merge, Qcow2Dependent *dependent, unsigned index,
                             GError **error)
{
    /* Through a layer that will not be valid: it has to name base itself. */
    if (index <= merge->top || index >= merge->base) {
        return true;
    }
    dependent->backing_name = qcow2_backing_name(qcow2_chain_layer(dependent->own, 0), merge->chain,
                                                 merge->base, error);
    return dependent->backing_name != NULL;
}

static bool open_outside(Qcow2Merge *merge, const char *file, GError **error)
{
    Qcow2OpenOptions options = merge->chain->options;
    Qcow2Dependent *dependent = g_new0(Qcow2Dependent, 1);

    options.writable = options.exclusive = true;
    options.image_opts = false;
    options.format = NULL;
    g_ptr_array_add(merge->kept, dependent);
    dependent->own = qcow2_chain_open(file, &options, error);
    return dependent->own != NULL;
}

/* When all are open: one may be backed by another. */
static bool find_chain(Qcow2Merge *merge, Qcow2Dependent *dependent, GError **error)
{
    Below below = { 0 };

    if (!find_below(merge, dependent->own, 0, &below, error)) {
        return false;
    }
    if (below.index == UINT_MAX) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "'%s': it reads nothing through '%s', so there is nothing to preserve",
                          qcow2_chain_layer_name(dependent->own, 0),
                          qcow2_chain_layer_name(merge->chain, merge->base));
    }
    dependent->reads_through_kept = below.through_kept;
    dependent->after = below.after;
    dependent->after_past = below.after_past;
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

static bool add_preserved(Qcow2Merge *merge, const char *file, GError **error)
{
    struct stat st;

    if (stat(file, &st) != 0) {
        return qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "'%s': No such file or directory", file);
    }
    unsigned index = index_of_file(merge, &st);
    return index == UINT_MAX ? open_outside(merge, file, error) : add_layer(merge, index, error);
}

/* Those that others are backed by come first: the others then find them as they will be. */
static gint by_depth(gconstpointer a, gconstpointer b)
{
    const Qcow2Dependent *const *x = a, *const *y = b;

    return (gint)qcow2_chain_n_layers((*x)->chain) - (gint)qcow2_chain_n_layers((*y)->chain);
}

static bool is_covered(const Qcow2Merge *merge, const Qcow2Layer *layer)
{
    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (qcow2_chain_layer(dependent->chain, 0) == layer) {
            return true;
        }
    }
    return false;
}

/* ---- Images that were not named ---------------------------------------------------------------- */

static bool check_snapshots(Qcow2Merge *merge, unsigned index, GError **error)
{
    g_autoptr(Qcow2Chain) chain = qcow2_chain_tail(merge->chain, index, error);
    Qcow2Keep keep = {
        .chain = chain,
        .below = merge->top_chain,
        .below_past = merge->base_chain,
        .past_from = qcow2_chain_image(merge->chain, merge->top)->size,
        .snapshots_only = true,
    };
    g_autofree char *changed = NULL;
    uint64_t bytes;

    if (!chain || !qcow2_keep_count(&keep, &bytes, &changed, error)) {
        return false;
    }
    return bytes == 0
        || qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s': its internal snapshot '%s' would read otherwise; --preserve %s copies into it"
                      " what it reads, --force merges all the same",
                      qcow2_chain_layer_name(merge->chain, index), changed,
                      qcow2_chain_layer_name(merge->chain, index));
}

/*
 * The layer of the merge's chain that the file at @path is backed by, through other images perhaps; UINT_MAX
 * for none. One that is kept and lies between gives what it gave. What cannot be read is no such image.
 */
static unsigned find_named_layer(const Qcow2Merge *merge, const char *path)
{
    g_autofree char *at = g_strdup(path);
    uint64_t incompatible = 0;
    struct stat st;

    for (unsigned depth = 0; depth < MAX_SIBLING_DEPTH; depth++) {
        g_autoptr(Qcow2Place) place = qcow2_peek_backing(at, &incompatible);
        /* What is marked reads garbage anyway. */
        if (!place || place->kind != QCOW2_PLACE_FILE || (incompatible & QCOW2_INCOMPAT_MERGED)
            || stat(place->target, &st) != 0) {
            return UINT_MAX;
        }
        unsigned index = index_of_file(merge, &st);
        if (index != UINT_MAX || find_kept(merge, &st)) {
            return index;
        }
        g_free(at);
        at = g_strdup(place->target);
    }
    return UINT_MAX;
}

static bool will_be_deleted(const Qcow2Merge *merge, unsigned index)
{
    return merge->options->delete_merged && index >= MAX(merge->top, 1) && index < merge->base;
}

static bool check_named_layer(const Qcow2Merge *merge, const char *path, unsigned index, bool is_kept,
                              GError **error)
{
    const char *layer = qcow2_chain_layer_name(merge->chain, index);
    bool is_between = index > merge->top && index < merge->base;
    bool changes = is_between || (index == merge->base && merge->changes_base);

    if (will_be_deleted(merge, index) && !(is_kept && changes)) {
        return qcow2_fail(error, QCOW2_ERROR_IN_USE, "'%s' is backed by '%s', which --delete would delete",
                          path, layer);
    }
    return !changes || is_kept || merge->options->force
        || qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s' is backed by '%s' and would read otherwise; --preserve %s copies into it what it"
                      " reads, --force merges all the same", path, layer, path);
}

static bool check_file(const Qcow2Merge *merge, const char *path, GError **error)
{
    struct stat st;

    if (stat(path, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        || index_of_file(merge, &st) != UINT_MAX) {
        return true;
    }
    unsigned index = find_named_layer(merge, path);
    return index == UINT_MAX || check_named_layer(merge, path, index, find_kept(merge, &st), error);
}

/* Images that those to preserve are backed by, wherever they are. */
static bool check_others(const Qcow2Merge *merge, GError **error)
{
    for (guint i = 0; i < merge->others->len; i++) {
        const Qcow2Place *place = qcow2_chain_layer(g_ptr_array_index(merge->others, i), 0)->place;
        if (!check_file(merge, place->target, error)) {
            return false;
        }
    }
    return true;
}

static bool check_folder(const Qcow2Merge *merge, const char *folder, GError **error)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        bool is_here = strcmp(folder, ".") == 0;
        g_autofree char *path = is_here ? g_strdup(name) : g_build_filename(folder, name, NULL);
        if (!check_file(merge, path, error)) {
            return false;
        }
    }
    return true;
}

static bool check_folders(const Qcow2Merge *merge, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (unsigned i = 0; i < qcow2_chain_n_layers(merge->chain); i++) {
        g_autofree char *folder = qcow2_place_folder(qcow2_chain_layer(merge->chain, i)->place);
        if (!folder) {
            continue;
        }
        const char *opened = *folder ? folder : ".";
        /* Volumes have folders of their own; all devices of a machine are nobody's chain. */
        if (strcmp(opened, "/dev") != 0 && !g_hash_table_contains(seen, opened)) {
            g_hash_table_add(seen, g_strdup(opened));
            if (!check_folder(merge, opened, error)) {
                return false;
            }
        }
    }
    return true;
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
    if (!qcow2_merge_find_changes(merge, error)) {
        return false;
    }
    bool asks = merge->changes_base && !merge->options->force;
    for (unsigned i = merge->top; asks && i < merge->base; i++) {
        if (!is_covered(merge, qcow2_chain_layer(merge->chain, i)) && !check_snapshots(merge, i, error)) {
            return false;
        }
    }
    return check_others(merge, error) && check_folders(merge, error);
}
