/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain/naming.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "chain/nbd-address.h"
#include "io/backends.h"
#include "util/error.h"

/* Bytes in that of QEMU's oldest format; qcow2's and QED's have more. */
#define SHORTEST_HEADER 48

/* ---- What a name means ------------------------------------------------------------------------- */

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;

    return strcmp(a, b) == 0
        || (stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

static bool is_same_target(const Qcow2Place *a, const Qcow2Place *b)
{
    return a->kind == b->kind
        && (a->kind == QCOW2_PLACE_FILE ? is_same_file(a->target, b->target)
                                        : qcow2_nbd_is_same_export(a->target, b->target));
}

/* Whether @place is the layer's own file, and what it says beyond that. */
static bool is_layer(const Qcow2Place *place, const Qcow2Layer *layer)
{
    const Qcow2Place *own = layer->place;
    const char *format = layer->image->kind == QCOW2_IMAGE_RAW ? "raw" : "qcow2";

    return is_same_target(place, own) && (!place->format || strcmp(place->format, format) == 0)
        && place->raw_offset == own->raw_offset && place->raw_size == own->raw_size
        && (place->data_file && own->data_file ? is_same_target(place->data_file, own->data_file)
                                               : place->data_file == own->data_file);
}

/* What is found below a layer that was opened by @place: the same as the chain has there? */
static bool leads_below(const Qcow2Place *place, const Qcow2Chain *chain, unsigned index)
{
    const Qcow2Layer *layer = qcow2_chain_layer(chain, index);
    bool is_last = index + 1 == qcow2_chain_n_layers(chain);

    if (place->no_backing || (!place->backing && !layer->image->header.backing_name)) {
        return is_last;
    }
    if (place->backing) {
        return !is_last && qcow2_place_is_layer(place->backing, chain, index + 1);
    }
    if (!layer->place->no_backing && !layer->below_was_given) {
        return true;    /* the chain goes on from its header, too */
    }
    g_autoptr(Qcow2Place) next = qcow2_backing_place(layer, NULL);
    return next && !is_last && qcow2_place_is_layer(next, chain, index + 1);
}

bool qcow2_place_is_layer(const Qcow2Place *place, const Qcow2Chain *chain, unsigned index)
{
    return is_layer(place, qcow2_chain_layer(chain, index)) && leads_below(place, chain, index);
}

static bool has_relative_path(const Qcow2Place *place)
{
    return place
        && ((place->kind == QCOW2_PLACE_FILE && !g_path_is_absolute(place->target))
            || has_relative_path(place->backing) || has_relative_path(place->data_file));
}

static bool is_relative(const char *name)
{
    g_autoptr(Qcow2Place) place = name ? qcow2_place_parse(name, NULL, false, NULL) : NULL;

    return has_relative_path(place);
}

/* ---- Where it is read -------------------------------------------------------------------------- */

/* The folder of a path as the kernel finds it: ".." leads out of where a link leads to. */
static char *real_folder(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    char *found = realpath(folder, NULL);
    char *result = g_strdup(found);

    free(found);
    return result;
}

/* The folder that the image was opened in, and that of the file itself where the name is a link to it. */
typedef struct Folders {
    char *opened, *own;           /* own: NULL when it is the same */
} Folders;

static void clear_folders(Folders *self)
{
    g_free(self->opened);
    g_free(self->own);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Folders, clear_folders)

/* A name that led somewhere else from there, or nowhere, need not be valid there now. */
static bool was_valid_in_both(const char *name, const Folders *folders)
{
    g_autoptr(Qcow2Place) a = name ? qcow2_place_parse(name, folders->opened, false, NULL) : NULL;
    g_autoptr(Qcow2Place) b = a ? qcow2_place_parse(name, folders->own, false, NULL) : NULL;

    return !b || is_same_target(a, b);
}

static Folders folders_of(const Qcow2Layer *image)
{
    Folders folders = { 0 };

    if (image->place->kind != QCOW2_PLACE_FILE) {
        return folders;
    }
    char *file = realpath(image->place->target, NULL);
    folders.opened = real_folder(image->place->target);
    folders.own = file ? g_path_get_dirname(file) : NULL;
    free(file);
    if (g_strcmp0(folders.opened, folders.own) == 0
        || !was_valid_in_both(image->image->header.backing_name, &folders)) {
        g_clear_pointer(&folders.own, g_free);
    }
    return folders;
}

static bool means_layer_in(const char *name, const char *folder, const Qcow2Chain *chain, unsigned index)
{
    g_autoptr(Qcow2Place) place = qcow2_place_parse(name, folder, false, NULL);

    return place && (folder || !has_relative_path(place)) && qcow2_place_is_layer(place, chain, index);
}

static bool means_layer(const char *name, const Folders *folders, const Qcow2Chain *chain, unsigned index)
{
    return name && means_layer_in(name, folders->opened, chain, index)
        && (!folders->own || means_layer_in(name, folders->own, chain, index));
}

/* ---- Names ------------------------------------------------------------------------------------- */

char *qcow2_name_of_path(const char *path)
{
    return g_strconcat(path[strcspn(path, ":/")] == ':' ? "./" : "", path, NULL);
}

/* Both are absolute and have no "." or ".." in them. */
static char *relative_path(const char *from_folder, const char *path)
{
    g_auto(GStrv) from = g_strsplit(from_folder, "/", -1);
    g_auto(GStrv) to = g_strsplit(path, "/", -1);
    g_autoptr(GString) result = g_string_new(NULL);
    guint same = 0;

    while (from[same] && to[same] && to[same + 1] && strcmp(from[same], to[same]) == 0) {
        same++;
    }
    for (guint i = same; from[i]; i++) {
        g_string_append(result, *from[i] ? "../" : "");
    }
    for (guint i = same; to[i]; i++) {
        g_string_append_printf(result, "%s%s", i > same ? "/" : "", to[i]);
    }
    return qcow2_name_of_path(result->str);
}

/* The last part stays: it may be a link that means one file today and another tomorrow, as LVM's do. */
static char *real_path(const Qcow2Place *place)
{
    g_autofree char *folder = real_folder(place->target);
    g_autofree char *name = g_path_get_basename(place->target);

    return folder ? g_build_filename(folder, name, NULL) : NULL;
}

/* NULL: there is none from there. */
static char *relative_name(const char *folder, const Qcow2Place *place)
{
    g_autofree char *path = folder && place->kind == QCOW2_PLACE_FILE ? real_path(place) : NULL;

    return path ? relative_path(folder, path) : NULL;
}

static char *absolute_name(const Qcow2Place *place)
{
    if (place->kind != QCOW2_PLACE_FILE) {
        return g_strdup(place->target);
    }
    g_autofree char *path = g_canonicalize_filename(place->target, NULL);
    return is_same_file(path, place->target) ? g_steal_pointer(&path) : real_path(place);
}

char *qcow2_backing_name(const Qcow2Layer *image, const Qcow2Chain *chain, unsigned below, GError **error)
{
    const Qcow2Place *place = qcow2_chain_layer(chain, below)->place;
    const char *recorded = qcow2_chain_image(chain, below - 1)->header.backing_name;
    bool stays_relative = is_relative(image->image->header.backing_name);
    g_auto(Folders) folders = folders_of(image);
    g_autofree char *from_opened = stays_relative ? relative_name(folders.opened, place) : NULL;
    g_autofree char *from_own = stays_relative ? relative_name(folders.own, place) : NULL;
    g_autofree char *absolute = absolute_name(place);
    const char *names[] = {
        stays_relative || !is_relative(recorded) ? recorded : NULL, from_opened, from_own, absolute,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (means_layer(names[i], &folders, chain, below)) {
            return g_strdup(names[i]);
        }
    }
    qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
               "'%s': no name that could be recorded in it means '%s' as it was opened, with its options and"
               " its backing file; a json: name with absolute paths does, once the image above that file"
               " records it (qcow-rebase -u)", image->place->shown, place->shown);
    return NULL;
}

char *qcow2_chain_backing_name(const Qcow2Chain *chain, unsigned above, unsigned below, GError **error)
{
    return qcow2_backing_name(qcow2_chain_layer(chain, above), chain, below, error);
}

const char *qcow2_chain_format_name(const Qcow2Chain *chain, unsigned index, const char *given,
                                    GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(chain, index);
    bool is_raw = layer->image->kind == QCOW2_IMAGE_RAW;

    if (given && strcmp(given, is_raw ? "raw" : "qcow2") != 0) {
        qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s': it is %s, not %s", layer->place->shown,
                   is_raw ? "raw" : "qcow2", given);
        return NULL;
    }
    if (!is_raw) {
        return "qcow2";
    }
    if (layer->format_was_probed && !given) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                   "'%s': nothing records that it is raw, and a guest could have written another format's"
                   " header into it; -F raw says that it is raw", layer->place->shown);
        return NULL;
    }
    return "raw";
}

/* ---- What a file's header names ---------------------------------------------------------------- */

/* Nothing, or a device that nothing is in. */
static bool is_absent(int errnum)
{
    return errnum == ENOENT || errnum == ENOTDIR || errnum == ELOOP || errnum == ESTALE || errnum == ENXIO
        || errnum == ENODEV || errnum == ENOMEDIUM;
}

/* What is shorter is known for none without being read; opening a pipe would wait for somebody to write. */
static bool may_be_image(const struct stat *st)
{
    return S_ISBLK(st->st_mode) || (S_ISREG(st->st_mode) && st->st_size >= SHORTEST_HEADER);
}

/* -1 without error: no image. */
static int open_to_peek(const char *path, GError **error)
{
    struct stat st;
    bool is_there = stat(path, &st) == 0;

    if (is_there && !may_be_image(&st)) {
        return -1;
    }
    int fd = is_there ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0 && !is_absent(errno)) {
        qcow2_fail_system(error, errno);
    }
    return fd;
}

bool qcow2_peek_names(const char *path, Qcow2Peek *ret, char **ret_backing, char **ret_data_file,
                      GError **error)
{
    GError *cause = NULL;
    int fd = open_to_peek(path, &cause);

    *ret = (Qcow2Peek) { 0 };
    *ret_backing = *ret_data_file = NULL;
    if (cause) {
        g_propagate_error(error, cause);
        return false;
    }
    if (fd < 0) {
        return true;
    }
    g_autoptr(Qcow2Io) io = qcow2_io_file_from_fd(fd, path, false);
    return qcow2_image_peek(io, ret, ret_backing, ret_data_file, error);
}

Qcow2Place *qcow2_peek_backing(const char *path, Qcow2Peek *ret)
{
    g_autofree char *name = NULL, *data_file = NULL;
    g_autofree char *folder = g_path_get_dirname(path);

    return qcow2_peek_names(path, ret, &name, &data_file, NULL) && name
         ? qcow2_place_parse(name, folder, false, NULL) : NULL;
}
