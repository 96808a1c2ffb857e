/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain/naming.h"

#include <string.h>
#include <sys/stat.h>

#include "io/backends.h"
#include "util/error.h"

static char *absolute_folder(const Qcow2Place *place)
{
    g_autofree char *folder = qcow2_place_folder(place);

    return folder ? g_canonicalize_filename(*folder ? folder : ".", NULL) : NULL;
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
    return g_string_free(g_steal_pointer(&result), FALSE);
}

char *qcow2_chain_backing_name(const Qcow2Chain *chain, unsigned above, unsigned below)
{
    const Qcow2Layer *namer = qcow2_chain_layer(chain, below - 1);
    const char *recorded = namer->image->header.backing_name;
    const Qcow2Place *place = qcow2_chain_layer(chain, below)->place;
    g_autofree char *old_folder = absolute_folder(namer->place);
    g_autofree char *folder = absolute_folder(qcow2_chain_layer(chain, above)->place);

    if (recorded && (place->kind != QCOW2_PLACE_FILE || g_path_is_absolute(recorded)
                     || g_strcmp0(folder, old_folder) == 0)) {
        return g_strdup(recorded);
    }
    if (place->kind != QCOW2_PLACE_FILE) {
        return g_strdup(place->target);
    }
    g_autofree char *path = g_canonicalize_filename(place->target, NULL);
    return folder && recorded ? relative_path(folder, path) : g_steal_pointer(&path);
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

Qcow2Place *qcow2_peek_backing(const char *path, uint64_t *ret_incompatible)
{
    Qcow2FileOptions options = { 0 };
    struct stat st;
    /* Opening a pipe would wait for somebody to write to it. */
    bool can_open = stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
    g_autoptr(Qcow2Io) io = can_open ? qcow2_io_file_open(path, &options, NULL) : NULL;
    g_autofree char *name = io ? qcow2_image_peek_backing(io, ret_incompatible) : NULL;
    g_autofree char *folder = g_path_get_dirname(path);

    return name ? qcow2_place_parse(name, folder, false, NULL) : NULL;
}
