/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebase: another backing file, with the same contents; or only another name for it.
 *
 * Steps and what a crash leaves: ops/keep.c.
 */
#include <string.h>
#include <sys/stat.h>

#include "chain/naming.h"
#include "ops/keep.h"
#include "util/error.h"
#include "util/progress.h"

static bool is_image(const Qcow2Chain *chain, const char *path)
{
    const Qcow2IoIdentity *identity = &qcow2_chain_layer(chain, 0)->identity;
    struct stat st;

    return identity->inode != 0 && stat(path, &st) == 0 && identity->device == st.st_dev
        && identity->inode == st.st_ino;
}

/* Over a chain that it is part of the image would be its own backing file; its own lock would hinder it. */
static bool refuse_loop(const Qcow2Chain *chain, const char *folder, const Qcow2RebaseOptions *options,
                        GError **error)
{
    g_autoptr(Qcow2Place) place = qcow2_place_parse(options->backing_name, folder, false, NULL);
    bool is_raw = strcmp(options->backing_format, "raw") == 0;
    Qcow2Peek peek;

    for (unsigned depth = 0; place && place->kind == QCOW2_PLACE_FILE && depth < QCOW2_MAX_LAYERS; depth++) {
        if (is_image(chain, place->target)) {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "'%s': the new backing file '%s' is the image itself, or is backed by it",
                              qcow2_chain_layer_name(chain, 0), options->backing_name);
        }
        Qcow2Place *next = is_raw ? NULL : qcow2_peek_backing(place->target, &peek);
        g_clear_pointer(&place, qcow2_place_free);
        place = next;
    }
    return true;
}

/*
 * After "file:" and in json: a relative path is taken from the image's folder here, and by QEMU from its own
 * working directory. Where both find a file, QEMU would read another one than this.
 */
static bool refuse_two_files(const Qcow2Chain *chain, const char *folder, const char *name, GError **error)
{
    bool is_plain = !g_str_has_prefix(name, "file:") && !g_str_has_prefix(name, "json:");
    g_autoptr(Qcow2Place) here = is_plain ? NULL : qcow2_place_parse(name, folder, false, NULL);
    g_autoptr(Qcow2Place) there = here ? qcow2_place_parse(name, NULL, false, NULL) : NULL;
    struct stat a, b;

    return !there || here->kind != QCOW2_PLACE_FILE || stat(here->target, &a) != 0
        || stat(there->target, &b) != 0 || (a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        || qcow2_fail(error, QCOW2_ERROR_AMBIGUOUS,
                      "'%s': the new backing file '%s' exists in the image's folder and, as another file, in"
                      " the working directory, where QEMU would look for it; give its absolute path",
                      qcow2_chain_layer_name(chain, 0), name);
}

static Qcow2Chain *open_new_chain(Qcow2Chain *chain, const Qcow2RebaseOptions *options, GError **error)
{
    g_autofree char *folder = qcow2_place_folder(qcow2_chain_layer(chain, 0)->place);
    Qcow2OpenOptions open_options = chain->options;

    if (!refuse_two_files(chain, folder, options->backing_name, error)
        || !refuse_loop(chain, folder, options, error)) {
        return NULL;
    }
    open_options.writable = open_options.image_opts = false;
    open_options.cache = chain->options.below_cache;
    open_options.format = options->backing_format;
    g_autoptr(Qcow2Chain) below = qcow2_chain_open_in(folder, options->backing_name, &open_options, error);
    if (!below || !qcow2_chain_open_all(below, error)) {
        g_prefix_error(error, "Could not open new backing file '%s': ", options->backing_name);
        return NULL;
    }
    return g_steal_pointer(&below);
}

/* Of a name that means a path here as it is: QEMU could take it for something else. NULL for NULL. */
static char *name_to_record(const char *name)
{
    g_autoptr(Qcow2Place) place = name ? qcow2_place_parse(name, NULL, false, NULL) : NULL;
    bool is_path = place && place->kind == QCOW2_PLACE_FILE && strcmp(place->target, name) == 0;

    return is_path ? qcow2_name_of_path(name) : g_strdup(name);
}

static bool set_name(Qcow2Chain *chain, const Qcow2Keep *keep, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(qcow2_chain_image(chain, 0), error);

    if (batch) {
        qcow2_batch_set_backing(batch, keep->backing_name, keep->backing_format);
    }
    return (batch && qcow2_batch_commit(batch, error))
        || qcow2_fail_unchanged(error, qcow2_chain_layer_name(chain, 0));
}

/* With -u any format that QEMU knows can be recorded; but no typing error. */
static bool check_format(const char *format, GError **error)
{
    static const char *const known[] = {
        "raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels", "bochs", "cloop", "dmg",
        "luks", "host_device", "file", "nbd", NULL,
    };

    return !format || g_strv_contains(known, format)
        || qcow2_fail(error, QCOW2_ERROR_INVALID, "Invalid format name: '%s'", format);
}

static bool check_options(const Qcow2Chain *chain, const Qcow2Keep *keep, GError **error)
{
    const char *name = qcow2_chain_layer_name(chain, 0);
    const Qcow2Image *image = qcow2_chain_image(chain, 0);

    if (image->kind != QCOW2_IMAGE_QCOW2) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "'%s': a raw image has no backing file", name);
    }
    if (keep->compress && image->header.layout.has_data_file) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "'%s': clusters of an image with a data file cannot be compressed (-c)", name);
    }
    if (keep->backing_name && (image->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA)) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "'%s': Could not change the backing file to '%s': a raw external data file holds"
                          " the whole disk, and QEMU allows nothing below it", name, keep->backing_name);
    }
    if (keep->backing_name && !keep->backing_format) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "'%s': Could not change the backing file to '%s': backing format must be specified"
                          " (-F)", name, keep->backing_name);
    }
    return check_format(keep->backing_format, error);
}

bool qcow2_rebase(Qcow2Chain *chain, const Qcow2RebaseOptions *options, Qcow2MoveResult *ret_result,
                  Qcow2Progress *progress, GError **error)
{
    bool has_name = options->backing_name && *options->backing_name;
    const char *given = has_name ? options->backing_name : NULL;
    g_autofree char *name = options->name_only ? g_strdup(given) : name_to_record(given);
    g_autoptr(Qcow2Chain) below = NULL;
    Qcow2Keep keep = {
        .chain = chain,
        .set_backing = true,
        .backing_name = name,
        .backing_format = has_name ? options->backing_format : NULL,
        .compare_data = true,
        .compress = options->compress,
        .no_reflink = options->no_reflink,
    };

    *ret_result = (Qcow2MoveResult) { 0 };
    if (!check_options(chain, &keep, error)) {
        return false;
    }
    if (has_name && !options->name_only && !(below = open_new_chain(chain, options, error))) {
        return false;
    }
    keep.below = below;
    bool ok = options->name_only ? set_name(chain, &keep, error)
                                 : qcow2_keep(&keep, ret_result, progress, error);
    if (ok) {
        qcow2_progress_finish(progress);
    }
    return ok;
}
