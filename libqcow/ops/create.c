/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new image.
 *
 *   step                                     a crash afterwards leaves
 *   1  write it under a temporary name       what was there before, and the temporary files
 *   2  flush; the data file gets its name    the same, with an empty data file
 *   3  flush; the image gets its name        the new image
 */
#include <string.h>
#include <sys/stat.h>

#include "image/create-image.h"
#include "io/backends.h"
#include "ops/create.h"
#include "util/error.h"
#include "util/progress.h"

/* What QEMU asks XFS for, so that images are not in shreds. */
#define DEFAULT_EXTENT_SIZE_HINT (UINT64_C(1) << 20)

void qcow2_creation_clear(Qcow2Creation *creation)
{
    qcow2_create_options_clear(&creation->options);
    g_clear_pointer(&creation->place, qcow2_place_free);
    g_clear_pointer(&creation->data_place, qcow2_place_free);
    g_clear_pointer(&creation->backing, qcow2_chain_free);
}

/* ---- What is asked for ------------------------------------------------------------------------- */

static bool read_size(Qcow2Creation *creation, GError **error)
{
    const Qcow2CreateRequest *request = creation->request;
    Qcow2CreateOptions *options = &creation->options;

    if (request->has_size && options->has_size && !creation->is_copy) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "The image size must be specified only once");
    }
    if (request->has_size) {
        options->size = request->size;
        options->has_size = true;
    }
    return true;
}

/* -b and -F win over -o backing_file and backing_fmt. */
static bool read_backing(Qcow2Creation *creation, GError **error)
{
    const Qcow2CreateRequest *request = creation->request;
    Qcow2CreateOptions *options = &creation->options;

    if (creation->raw && (request->backing_name || request->backing_format)) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Backing file%s not supported for file format 'raw'",
                          request->backing_name ? "" : " format");
    }
    if (request->backing_name) {
        g_free(options->backing_file);
        options->backing_file = g_strdup(request->backing_name);
    }
    if (request->backing_format) {
        g_free(options->backing_format);
        options->backing_format = g_strdup(request->backing_format);
    }
    if (options->backing_file && !*options->backing_file) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Expected backing file name, got empty string");
    }
    if (g_strcmp0(creation->name, options->backing_file) == 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Trying to create an image with the same filename as the backing file");
    }
    return true;
}

static bool read_request(Qcow2Creation *creation, GError **error)
{
    const Qcow2CreateRequest *request = creation->request;
    const char *format = request->format ? request->format : "qcow2";

    creation->raw = strcmp(format, "raw") == 0;
    if (!creation->raw && strcmp(format, "qcow2") != 0) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "Unknown file format '%s': qcow2 and raw images can be made", format);
    }
    Qcow2OptionSet set = creation->raw ? QCOW2_OPTIONS_CREATE_RAW : QCOW2_OPTIONS_CREATE;
    return qcow2_create_options_read(request->options, set, &creation->options, error)
        && read_size(creation, error)
        && read_backing(creation, error)
        && (creation->raw || qcow2_create_options_check(&creation->options, error));
}

/* ---- Names ------------------------------------------------------------------------------------- */

static bool find_places(Qcow2Creation *creation, GError **error)
{
    const char *data_file = creation->options.data_file;

    if (g_str_has_prefix(creation->name, "json:")) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "a new image is named by a path or an NBD URI, not by json:");
    }
    creation->place = qcow2_place_parse(creation->name, NULL, false, error);
    if (!creation->place || !data_file) {
        return creation->place != NULL;
    }
    if (!*data_file) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "the name of the data file is empty");
    }
    /* Always a path, and where QEMU would make it: relative to the working directory. */
    creation->data_place = g_new0(Qcow2Place, 1);
    creation->data_place->target = g_strdup(data_file);
    creation->data_place->shown = g_strdup(data_file);
    creation->data_place->raw_size = UINT64_MAX;
    return true;
}

static bool is_file(const Qcow2IoIdentity *identity, const struct stat *status)
{
    return identity->known && identity->device == status->st_dev && identity->inode == status->st_ino;
}

/* What the new image reads, under whatever name, must not be what it replaces. */
static bool refuse_layers(const Qcow2Creation *creation, const Qcow2Place *place, GError **error)
{
    struct stat status;

    if (!place || place->kind != QCOW2_PLACE_FILE || stat(place->target, &status) < 0) {
        return true;    /* a new file is none of them */
    }
    for (unsigned i = 0; creation->backing && i < qcow2_chain_n_layers(creation->backing); i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(creation->backing, i);
        if (is_file(&layer->identity, &status)
            || (layer->has_data_identity && is_file(&layer->data_identity, &status))) {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "'%s' is in the backing chain of the new image and cannot be replaced by it",
                              place->shown);
        }
    }
    return true;
}

static bool refuse_same_names(const Qcow2Creation *creation, GError **error)
{
    struct stat image, data;
    const Qcow2Place *data_place = creation->data_place;

    if (data_place && creation->place->kind == QCOW2_PLACE_FILE) {
        bool same_name = strcmp(creation->place->target, data_place->target) == 0;
        bool same_file = stat(creation->place->target, &image) == 0 && stat(data_place->target, &data) == 0
                      && image.st_dev == data.st_dev && image.st_ino == data.st_ino;
        if (same_name || same_file) {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "the data file must be another file than the image");
        }
    }
    return refuse_layers(creation, creation->place, error) && refuse_layers(creation, data_place, error);
}

/* ---- The backing file -------------------------------------------------------------------------- */

static bool fail_without_format(const Qcow2Creation *creation, GError **error)
{
    const char *detected = !creation->backing ? NULL
                         : qcow2_chain_image(creation->backing, 0)->kind == QCOW2_IMAGE_RAW ? "raw" : "qcow2";

    if (creation->is_copy) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Use of backing file requires explicit backing format%s%s",
                          detected ? ": it seems to be " : "", detected ? detected : "");
    }
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "Backing file specified without backing format (-F)%s%s",
                      detected ? ": detected format of " : "", detected ? detected : "");
}

/*
 * That it is there, and what lies below it, should be known now. A VM may run on the backing file of a new
 * image; a copy leaves out what that holds, which has to stay what it is.
 */
static bool open_backing(Qcow2Creation *creation, GError **error)
{
    const Qcow2CreateRequest *request = creation->request;
    Qcow2OpenOptions options = {
        .format = creation->options.backing_format,
        .force_share = !creation->is_copy,
        .untrusted = request->untrusted,
        .warn = request->warn,
        .warn_data = request->warn_data,
    };
    g_autofree char *folder = qcow2_place_folder(creation->place);

    creation->backing = qcow2_chain_open_in(folder, creation->options.backing_file, &options, error);
    if (!creation->backing || (!request->untrusted && !qcow2_chain_open_all(creation->backing, error))) {
        g_prefix_error(error, "Could not open backing image: ");
        return false;
    }
    for (unsigned i = 0; !request->untrusted && i < qcow2_chain_n_layers(creation->backing); i++) {
        (void)qcow2_chain_open_data(creation->backing, i, NULL);    /* only so that it is not replaced */
    }
    return true;
}

static bool find_backing(Qcow2Creation *creation, GError **error)
{
    Qcow2CreateOptions *options = &creation->options;

    if (options->backing_file && !creation->request->backing_unchecked) {
        if (!open_backing(creation, error)) {
            return false;
        }
        if (!options->has_size) {
            options->size = qcow2_chain_image(creation->backing, 0)->size;
            options->has_size = true;
        }
    }
    return !options->backing_file || options->backing_format || fail_without_format(creation, error);
}

/* ---- Writing ----------------------------------------------------------------------------------- */

static bool check_size(const Qcow2Creation *creation, GError **error)
{
    if (!creation->options.has_size) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Image creation needs a size parameter");
    }
    return creation->options.size <= INT64_MAX - QCOW2_SECTOR_SIZE
        || qcow2_fail(error, QCOW2_ERROR_INVALID, "The image size is too large");
}

/* Disks have whole sectors; what is announced is what was asked for, as in QEMU. */
static void announce(Qcow2Creation *creation)
{
    const Qcow2CreateRequest *request = creation->request;
    Qcow2OptionSet set = creation->raw ? QCOW2_OPTIONS_CREATE_RAW : QCOW2_OPTIONS_CREATE;
    g_autofree char *options = qcow2_create_options_print(&creation->options, set);
    g_autofree char *line = g_strdup_printf("fmt=%s %s", creation->raw ? "raw" : "qcow2", options);

    if (request->announce) {
        request->announce(line, request->announce_data);
    }
    creation->options.size = qcow2_align_up(creation->options.size, QCOW2_SECTOR_SIZE);
}

static bool set_hints(const Qcow2Creation *creation, Qcow2Io *io, GError **error)
{
    const Qcow2CreateOptions *options = &creation->options;
    uint64_t hint = options->has_extent_size_hint ? options->extent_size_hint : DEFAULT_EXTENT_SIZE_HINT;
    g_autoptr(GError) refusal = NULL;

    if (hint > UINT32_MAX) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Extent size hint is too large");
    }
    if (options->nocow) {
        qcow2_io_file_set_nocow(io);
    }
    if (!qcow2_io_file_set_extent_size_hint(io, hint, &refusal) && options->has_extent_size_hint
        && hint > 0 && creation->request->warn) {
        g_autofree char *message = g_strdup_printf("Failed to set extent size hint: %s", refusal->message);
        creation->request->warn(message, creation->request->warn_data);
    }
    return true;
}

Qcow2Target *qcow2_creation_target(const Qcow2Creation *creation, const Qcow2Place *place, GError **error)
{
    g_autoptr(Qcow2Target) target =
        creation->resume ? qcow2_target_resume(place, creation->cache, error)
                         : qcow2_target_new(place, creation->cache, error);

    return target && set_hints(creation, qcow2_target_io(target), error)
        && qcow2_target_trace(target, creation->request->trace, error) ? g_steal_pointer(&target) : NULL;
}

bool qcow2_creation_begin(Qcow2Creation *ret, const char *name, const Qcow2CreateRequest *request,
                          GError **error)
{
    ret->request = request;
    ret->name = name;
    qcow2_create_options_init(&ret->options);
    if (!read_request(ret, error) || !find_places(ret, error) || !find_backing(ret, error)
        || !check_size(ret, error) || !refuse_same_names(ret, error)) {
        return false;
    }
    announce(ret);
    return true;
}

static bool write_image(const Qcow2Creation *creation, Qcow2Io *io, Qcow2Io *data, Qcow2Progress *progress,
                        GError **error)
{
    return creation->raw ? qcow2_create_raw_image(io, &creation->options, progress, error)
                         : qcow2_create_image(io, data, &creation->options, progress, error);
}

static bool make_image(const Qcow2Creation *creation, Qcow2Progress *progress, GError **error)
{
    const Qcow2Place *data_place = creation->data_place;
    g_autoptr(Qcow2Target) data = data_place ? qcow2_creation_target(creation, data_place, error) : NULL;
    bool go_on = !data_place || data;
    g_autoptr(Qcow2Target) target =
        go_on ? qcow2_creation_target(creation, creation->place, error) : NULL;
    Qcow2Io *data_io = data ? qcow2_target_io(data) : NULL;

    return target
        && write_image(creation, qcow2_target_io(target), data_io, progress, error)
        && (!data || qcow2_target_publish(data, error))
        && qcow2_target_publish(target, error);
}

bool qcow2_create(const char *name, const Qcow2CreateRequest *request, Qcow2Progress *progress,
                  GError **error)
{
    Qcow2Creation creation = { 0 };
    bool ok = qcow2_creation_begin(&creation, name, request, error)
           && make_image(&creation, progress, error);

    qcow2_creation_clear(&creation);
    if (ok) {
        qcow2_progress_finish(progress);
    }
    return ok;
}
