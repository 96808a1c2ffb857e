/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What reads through the base of a commit and was not named to be preserved: internal snapshots of the merged
 * layers, and images in the folders of the chain, found by reading their headers. What cannot be read there
 * is not taken for harmless.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "chain/mentions.h"
#include "chain/naming.h"
#include "ops/merge.h"
#include "util/error.h"

/* Headers that are read for one image outside the chain: those that are backed by each other end. */
#define MAX_HEADERS 1000u

/* ---- Snapshots of the merged layers ------------------------------------------------------------ */

/* Whether the layers that the image goes through now stay, with what they give. */
static bool keeps_image(const Qcow2Merge *merge)
{
    return merge->top == 0 && merge->options->keep_image;
}

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

/* Whether what a merged layer is over reads as it did: because it, or one below it, is preserved. */
static bool stays_over_kept(const Qcow2Merge *merge, unsigned index)
{
    bool stays = index > merge->top || keeps_image(merge);

    return stays && index + 1 < merge->base && !qcow2_merge_is_retired(merge, index + 1);
}

/* Top's snapshots lose the layers between with it, also where base holds already what is to be merged. */
static bool check_layers(Qcow2Merge *merge, GError **error)
{
    for (unsigned i = merge->top; i < merge->base; i++) {
        bool leaves_layers = i == merge->top && merge->base > merge->top + 1 && !keeps_image(merge);
        if ((merge->changes_base || leaves_layers) && !qcow2_merge_find_kept_layer(merge, i)
            && !stays_over_kept(merge, i) && !check_snapshots(merge, i, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Images ------------------------------------------------------------------------------------ */

/* An image outside the chain. */
typedef struct Sibling {
    const Qcow2Merge *merge;
    const char *path;
    bool is_kept;
    unsigned n_headers;           /* that were read for it */
    const char *unclear;          /* why a name on the way down is not understood; NULL: all are */
} Sibling;

/* Whether what reads this layer, as @place says, would read otherwise; what is marked cannot be read. */
static bool will_change(const Qcow2Merge *merge, unsigned index, const Qcow2Place *place)
{
    if (index > merge->top && index < merge->base) {
        return qcow2_merge_is_retired(merge, index) && (merge->changes_base || !keeps_image(merge));
    }
    if (index == merge->base) {
        return merge->changes_base;
    }
    /* The top reads the same, but not all of it comes from where it came from. */
    return index == merge->top && !keeps_image(merge)
        && !qcow2_place_is_layer(place, merge->chain, index);
}

static bool check_layer(const Sibling *self, unsigned index, const Qcow2Place *place, GError **error)
{
    const Qcow2Merge *merge = self->merge;
    const char *layer = qcow2_chain_layer_name(merge->chain, index);
    bool changes = will_change(merge, index, place);
    /* What is preserved over a layer between that goes, names base instead. */
    bool is_repointed = self->is_kept && index > merge->top;

    if (qcow2_merge_is_deleted(merge, index) && !is_repointed) {
        return qcow2_fail(error, QCOW2_ERROR_IN_USE, "'%s' is backed by '%s', which --delete would delete",
                          self->path, layer);
    }
    if (!changes || self->is_kept || merge->options->force) {
        return true;
    }
    return self->unclear
         ? qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s' is backed by '%s' and would read otherwise; it cannot be preserved (%s), --force"
                      " merges all the same", self->path, layer, self->unclear)
         : qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s' is backed by '%s' and would read otherwise; --preserve %s copies into it what it"
                      " reads, --force merges all the same", self->path, layer, self->path);
}

/* Whether something that cannot be found out about an image matters. */
static bool is_doubt(const Sibling *self)
{
    const Qcow2Merge *merge = self->merge;
    bool leaves_layers = merge->base > merge->top + 1 && !keeps_image(merge);
    bool changes = merge->changes_base || leaves_layers || qcow2_merge_is_deleted(merge, merge->top);

    return changes && !self->is_kept && !merge->options->force;
}

static bool check_doubt(const Sibling *self, const char *name, GError **error)
{
    const Qcow2Merge *merge = self->merge;

    return !is_doubt(self)
        || qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s' may be backed by '%s' and read otherwise then: its backing file '%s' is not"
                      " understood (%s); move it to another folder if it is not, --force merges all the same",
                      self->path, qcow2_chain_layer_name(merge->chain, merge->base), name, self->unclear);
}

static bool check_unreadable(const Sibling *self, const char *path, const char *cause, GError **error)
{
    const Qcow2Merge *merge = self->merge;
    g_autofree char *subject = strcmp(path, self->path) == 0 ? g_strdup("it") : g_strdup_printf("'%s'", path);

    return !is_doubt(self)
        || qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s' may be backed by '%s' and read otherwise then: %s cannot be read (%s); run this"
                      " as a user who may read it, or move it to another folder; --force merges all the same",
                      self->path, qcow2_chain_layer_name(merge->chain, merge->base), subject, cause);
}

/* ---- Their data files -------------------------------------------------------------------------- */

/* Whether data in the layer's file, or in its data file, is overwritten or given back. */
static bool loses_data(const Qcow2Merge *merge, unsigned index)
{
    if (index == merge->base) {
        return merge->changes_base;
    }
    return (index == 0 && merge->top == 0 && !keeps_image(merge))
        || qcow2_merge_find_kept_layer(merge, index);
}

static bool fail_data(const Sibling *self, const char *path, const char *data_file, const Qcow2Layer *layer,
                      GError **error)
{
    bool is_own = strcmp(path, self->path) == 0;
    g_autofree char *through = is_own ? g_strdup("") : g_strdup_printf(" reads '%s', which", path);
    g_autofree char *also = layer->has_data_identity ? g_strdup_printf(", as '%s' does,", layer->place->shown)
                                                     : g_strdup("");

    return qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s'%s keeps its data in '%s'%s and would read otherwise; it cannot be preserved,"
                      " --force merges all the same", self->path, through, data_file, also);
}

static bool check_data_place(const Sibling *self, const Qcow2Place *place, const char *path, GError **error)
{
    const Qcow2Merge *merge = self->merge;
    unsigned index = qcow2_merge_find_layer(merge, place);

    return index == UINT_MAX || !loses_data(merge, index) || merge->options->force
        || fail_data(self, path, place->shown, qcow2_chain_layer(merge->chain, index), error);
}

/* In the image's folder or, as QEMU has it, in the working directory. */
static bool check_data_file(const Sibling *self, const char *name, const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *beside = g_path_is_absolute(name) ? NULL : g_build_filename(folder, name, NULL);
    Qcow2Place here = { .kind = QCOW2_PLACE_FILE, .target = (char *)name, .shown = (char *)name };
    Qcow2Place there = { .kind = QCOW2_PLACE_FILE, .target = beside, .shown = beside };

    return check_data_place(self, &here, path, error)
        && (!beside || check_data_place(self, &there, path, error));
}

/* ---- What they are backed by ------------------------------------------------------------------- */

static bool check_header(Sibling *self, const Qcow2Place *place, GError **error);
static bool check_below(Sibling *self, const Qcow2Place *place, GError **error);

/* What is below @place is looked at as well, until it joins the chain. */
static bool check_place(Sibling *self, const Qcow2Place *place, GError **error)
{
    unsigned index = qcow2_merge_find_layer(self->merge, place);

    if (index != UINT_MAX) {
        return check_layer(self, index, place, error);
    }
    return qcow2_merge_find_kept(self->merge, place) || check_below(self, place, error);
}

/* What the name says goes before what the header says. */
static bool check_below(Sibling *self, const Qcow2Place *place, GError **error)
{
    return (!place->backing || check_place(self, place->backing, error))
        && (!place->data_file || check_data_place(self, place->data_file, place->shown, error))
        && (place->kind != QCOW2_PLACE_FILE || check_header(self, place, error));
}

/* A name that is not understood, or no file: for QEMU it may be one all the same. */
static bool check_mentioned(Sibling *self, const char *name, const char *folder, const char *unclear,
                            GError **error)
{
    const char *unclear_above = self->unclear;
    bool is_clear, ok = true;
    g_autoptr(GPtrArray) places = qcow2_places_mentioned(name, folder, &is_clear);

    self->unclear = unclear;
    for (guint i = 0; ok && i < places->len; i++) {
        ok = check_place(self, g_ptr_array_index(places, i), error);
    }
    ok = ok && (is_clear || check_doubt(self, name, error));
    self->unclear = unclear_above;
    return ok;
}

/* Also where one may not look: reading it fails then. */
static bool exists(const Qcow2Place *place)
{
    struct stat st;

    return place->kind != QCOW2_PLACE_FILE || stat(place->target, &st) == 0
        || (errno != ENOENT && errno != ENOTDIR && errno != ELOOP && errno != ENAMETOOLONG);
}

static bool check_name(Sibling *self, const char *name, const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autoptr(GError) cause = NULL;
    g_autoptr(Qcow2Place) place = qcow2_place_parse(name, folder, false, &cause);

    if (place && exists(place)) {
        return check_place(self, place, error);
    }
    return check_mentioned(self, name, folder, cause ? cause->message : "there is no such file", error);
}

/* What is marked has nothing that could change. */
static bool check_header(Sibling *self, const Qcow2Place *place, GError **error)
{
    const char *path = place->target;
    g_autofree char *name = NULL, *data_file = NULL;
    g_autoptr(GError) cause = NULL;
    Qcow2Peek peek;

    if (self->n_headers++ >= MAX_HEADERS) {
        return true;
    }
    if (!qcow2_peek_names(path, &peek, &name, &data_file, &cause)) {
        return check_unreadable(self, path, cause->message, error);
    }
    if (peek.incompatible & QCOW2_INCOMPAT_MERGED) {
        return true;
    }
    if (data_file && !place->data_file && !check_data_file(self, data_file, path, error)) {
        return false;
    }
    if (!name || place->backing || place->no_backing) {
        return true;
    }
    if (!peek.is_qcow2) {
        self->unclear = "one of its layers is neither qcow2 nor raw";
    }
    return check_name(self, name, path, error);
}

/* ---- Where they are ---------------------------------------------------------------------------- */

static bool check_place_at(const Qcow2Merge *merge, const char *path, const Qcow2Place *place, GError **error)
{
    Sibling sibling = { .merge = merge, .path = path };

    if (qcow2_merge_find_layer(merge, place) != UINT_MAX) {
        return true;
    }
    sibling.is_kept = qcow2_merge_find_kept(merge, place);
    return check_below(&sibling, place, error);
}

static bool check_chain(const Qcow2Merge *merge, const Qcow2Chain *chain, GError **error)
{
    const Qcow2Place *place = qcow2_chain_layer(chain, 0)->place;

    return check_place_at(merge, place->shown, place, error);
}

/* Those to preserve, and images that they are backed by, wherever they are. */
static bool check_opened(const Qcow2Merge *merge, GError **error)
{
    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (dependent->own && !check_chain(merge, dependent->own, error)) {
            return false;
        }
    }
    for (guint i = 0; i < merge->others->len; i++) {
        if (!check_chain(merge, g_ptr_array_index(merge->others, i), error)) {
            return false;
        }
    }
    return true;
}

/* What is known for neither a file nor a device, nor a link to one, need not be looked at. */
static bool may_be_image(const struct dirent *entry)
{
    return entry->d_type == DT_REG || entry->d_type == DT_BLK || entry->d_type == DT_LNK
        || entry->d_type == DT_UNKNOWN;
}

/* Returns 0, or errno when not all of it could be listed. */
static int list_folder(const char *folder, GPtrArray *names)
{
    const struct dirent *entry;
    DIR *dir = opendir(folder);

    if (!dir) {
        return errno;
    }
    while ((errno = 0, entry = readdir(dir))) {
        if (may_be_image(entry)) {
            g_ptr_array_add(names, g_strdup(entry->d_name));
        }
    }
    int errnum = errno;
    closedir(dir);
    return errnum;
}

static bool check_unlisted(const Qcow2Merge *merge, const char *folder, int errnum, GError **error)
{
    Sibling any = { .merge = merge };

    return errnum == ENOENT || !is_doubt(&any)
        || qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s': the folder cannot be listed (%s), and an image in it may be backed by '%s' and"
                      " read otherwise then; run this as a user who may list it, --force merges all the same",
                      folder, g_strerror(errnum), qcow2_chain_layer_name(merge->chain, merge->base));
}

static bool check_folder(const Qcow2Merge *merge, const char *folder, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    int errnum = list_folder(folder, names);

    if (errnum != 0 && !check_unlisted(merge, folder, errnum, error)) {
        return false;
    }
    for (guint i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);
        bool is_here = strcmp(folder, ".") == 0;
        g_autofree char *path = is_here ? g_strdup(name) : g_build_filename(folder, name, NULL);
        Qcow2Place place = { .kind = QCOW2_PLACE_FILE, .target = path, .shown = path };
        if (!check_place_at(merge, path, &place, error)) {
            return false;
        }
    }
    return true;
}

/* @folder: "" for the working directory */
static bool check_folder_once(const Qcow2Merge *merge, const char *folder, GHashTable *seen, GError **error)
{
    const char *opened = *folder ? folder : ".";
    char *real = realpath(opened, NULL);
    const char *known = real ? real : opened;
    /* Volumes have folders of their own; all devices of a machine are nobody's chain. */
    bool skips = strcmp(known, "/dev") == 0 || !g_hash_table_add(seen, g_strdup(known));

    free(real);
    return skips || check_folder(merge, opened, error);
}

/* Also where the file itself is, when a layer's name is a link to it. */
static bool check_folders(const Qcow2Merge *merge, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (unsigned i = 0; i < qcow2_chain_n_layers(merge->chain); i++) {
        const Qcow2Place *place = qcow2_chain_layer(merge->chain, i)->place;
        g_autofree char *folder = qcow2_place_folder(place);
        char *real = folder ? realpath(place->target, NULL) : NULL;
        g_autofree char *real_folder = real ? g_path_get_dirname(real) : NULL;
        free(real);
        if ((folder && !check_folder_once(merge, folder, seen, error))
            || (real_folder && !check_folder_once(merge, real_folder, seen, error))) {
            return false;
        }
    }
    return true;
}

bool qcow2_merge_check_siblings(Qcow2Merge *merge, GError **error)
{
    return (merge->options->force || check_layers(merge, error))
        && check_opened(merge, error) && check_folders(merge, error);
}
