/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain/open.h"

#include <sys/stat.h>

#include "io/backends.h"
#include "io/trial.h"
#include "util/bits.h"
#include "util/error.h"

/* Formats that QEMU would recognise: reading them as raw would show garbage to whoever trusts it. */
typedef struct Magic {
    const char *format;
    size_t offset;
    const char *bytes;
    size_t len;
} Magic;

static const Magic other_formats[] = {
    { "qcow", 0, "QFI\xfb\0\0\0\1", 8 },
    { "qed", 0, "QED\0", 4 },
    { "vmdk", 0, "KDMV", 4 },
    { "vmdk", 0, "COWD", 4 },
    { "vhdx", 0, "vhdxfile", 8 },
    { "vdi", 64, "\x7f\x10\xda\xbe", 4 },
    { "vpc", 0, "conectix", 8 },
    { "luks", 0, "LUKS\xba\xbe", 6 },
    { "parallels", 0, "WithoutFreeSpace", 16 },
    { "parallels", 0, "WithouFreSpacExt", 16 },
    { "bochs", 0, "Bochs Virtual HD Image", 22 },
};

#define PROBE_LEN 512u

static const char *probe_format(const uint8_t *start)
{
    /* Version 1 is another format with the same first four bytes. */
    if (qcow2_load_be32(start) == QCOW2_MAGIC && qcow2_load_be32(start + 4) >= 2) {
        return "qcow2";
    }
    for (size_t i = 0; i < G_N_ELEMENTS(other_formats); i++) {
        const Magic *magic = &other_formats[i];
        if (memcmp(start + magic->offset, magic->bytes, magic->len) == 0) {
            return magic->format;
        }
    }
    return "raw";
}

/* On trial an image that is written is only read. */
static Qcow2Io *open_io(const Qcow2Place *place, const Qcow2OpenOptions *options, bool is_written,
                        bool on_trial, GError **error)
{
    Qcow2Cache cache = options->writable && !is_written ? options->below_cache : options->cache;
    bool writable = is_written && !on_trial;

    if (place->kind == QCOW2_PLACE_NBD) {
        return qcow2_io_nbd_open(place->target, writable, cache, options->n_threads, error);
    }
    Qcow2FileOptions file_options = { .writable = writable, .cache = cache };
    return qcow2_io_file_open(place->target, &file_options, error);
}

/* To who wants to change something; for those who read QEMU's words are enough. */
static bool say_what_to_do(const Qcow2OpenOptions *options, GError **error)
{
    bool changes = options->writable || options->exclusive;

    if (changes && error && g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_IN_USE)) {
        g_autofree char *cause = g_steal_pointer(&(*error)->message);
        (*error)->message = g_strconcat(cause, " End it first, or let the running VM do this itself (QMP)",
                                        NULL);
    }
    return false;
}

/*
 * What qemu-img holds: while an image is read nobody may write to it or resize it, raw ones included (byte
 * 100, 201 and 203); who writes holds 101 and 103 as well, and byte 200 when even readers with -U must stay
 * away. With -U nothing is asked of others.
 */
static bool lock_image(Qcow2Io *io, const Qcow2OpenOptions *options, GError **error)
{
    Qcow2Perm used = QCOW2_PERM_CONSISTENT_READ;
    Qcow2Perm shared = QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE_UNCHANGED;

    if (io->writable) {
        used |= QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE;
        shared = options->exclusive ? QCOW2_PERM_WRITE_UNCHANGED : shared;
    } else if (options->force_share) {
        shared = QCOW2_PERM_ALL;
    }
    return qcow2_io_file_lock(io, used, shared, error) || say_what_to_do(options, error);
}

static bool decide_format(Qcow2Layer *layer, Qcow2Io *io, const char **ret_format, GError **error)
{
    uint8_t start[PROBE_LEN] = { 0 };

    *ret_format = layer->place->format;
    if (!*ret_format) {
        if (!qcow2_io_read(io, 0, start, sizeof(start), error)) {
            return false;
        }
        *ret_format = probe_format(start);
        layer->format_was_probed = true;
    }
    if (strcmp(*ret_format, "raw") != 0 && strcmp(*ret_format, "qcow2") != 0) {
        return qcow2_fail(
            error, QCOW2_ERROR_UNSUPPORTED, "format '%s' is not supported; qcow2 and raw are%s", *ret_format,
            layer->format_was_probed ? " (-f raw reads the bytes of the file as they are)" : "");
    }
    return true;
}

/* The place itself, or one on trial above it; told of when it is written. */
static Qcow2Io *place_to_change(Qcow2Io *io, const Qcow2OpenOptions *options, bool on_trial, GError **error)
{
    return on_trial ? qcow2_io_trial_new(io, error)
                    : qcow2_io_trace_new(io, io->writable ? options->trace : NULL, error);
}

static bool open_image(Qcow2Layer *layer, Qcow2Io *file, const Qcow2OpenOptions *options, bool on_trial,
                       GError **error)
{
    const char *format;

    if (!decide_format(layer, file, &format, error) || !lock_image(file, options, error)
        || !qcow2_io_identify(file, &layer->identity, error)) {
        return false;
    }
    g_autoptr(Qcow2Io) io = place_to_change(file, options, on_trial, error);
    if (!io) {
        return false;
    }
    if (strcmp(format, "qcow2") != 0) {
        layer->image = qcow2_image_open_raw(io, layer->place->raw_offset, layer->place->raw_size, error);
    } else if (options->repair && io->writable) {
        layer->image = qcow2_image_open_for_repair(io, error);
    } else {
        layer->image = qcow2_image_open(io, error);
    }
    if (layer->image) {
        layer->image->n_threads = options->n_threads;
    }
    return layer->image != NULL;
}

static Qcow2Layer *open_layer(Qcow2Place *place, Qcow2Io *io, const Qcow2OpenOptions *options, bool on_trial,
                              GError **error)
{
    Qcow2Layer *layer = g_new0(Qcow2Layer, 1);

    layer->place = place;
    if (!open_image(layer, io, options, on_trial, error)) {
        g_prefix_error(error, "'%s': ", place->shown);
        qcow2_layer_free(layer);
        return NULL;
    }
    return layer;
}

Qcow2Layer *qcow2_layer_open_io(Qcow2Place *place, Qcow2Io *io, const Qcow2OpenOptions *options,
                                GError **error)
{
    return open_layer(place, io, options, false, error);
}

Qcow2Layer *qcow2_layer_open(Qcow2Place *place, const Qcow2OpenOptions *options, bool writable,
                             GError **error)
{
    bool on_trial = writable && options->dry_run;
    g_autoptr(Qcow2Io) io = open_io(place, options, writable, on_trial, error);

    if (!io) {
        g_prefix_error(error, "'%s': ", place->shown);
        qcow2_place_free(place);
        return NULL;
    }
    return open_layer(place, io, options, on_trial, error);
}

/* The same image, of these places. */
static Qcow2Image *open_again(const Qcow2Layer *layer, Qcow2Io *file, Qcow2Io *data, GError **error)
{
    const Qcow2Place *place = layer->place;
    Qcow2Image *image = layer->image->kind == QCOW2_IMAGE_RAW
                      ? qcow2_image_open_raw(file, place->raw_offset, place->raw_size, error)
                      : qcow2_image_open(file, error);

    if (image) {
        image->n_threads = layer->image->n_threads;
    }
    if (image && data) {
        qcow2_image_attach_data(image, data);
    }
    return image;
}

Qcow2Layer *qcow2_layer_on_trial(const Qcow2Layer *layer, GError **error)
{
    const Qcow2Image *image = layer->image;
    bool has_data_file = image->data && image->data != image->file;
    g_autoptr(Qcow2Io) file = qcow2_io_trial_new(image->file, error);
    g_autoptr(Qcow2Io) data = file && has_data_file ? qcow2_io_trial_new(image->data, error) : NULL;
    Qcow2Image *again = file && (data || !has_data_file) ? open_again(layer, file, data, error) : NULL;

    if (!again) {
        g_prefix_error(error, "'%s': ", layer->place->shown);
        return NULL;
    }
    Qcow2Layer *result = g_new0(Qcow2Layer, 1);
    result->image = again;
    result->place = qcow2_place_copy(layer->place);
    result->format_was_probed = layer->format_was_probed;
    result->below_was_given = layer->below_was_given;
    result->identity = layer->identity;
    result->has_data_identity = layer->has_data_identity;
    result->data_identity = layer->data_identity;
    return result;
}

void qcow2_layer_free(Qcow2Layer *layer)
{
    if (!layer) {
        return;
    }
    qcow2_image_free(layer->image);
    qcow2_place_free(layer->place);
    g_free(layer->full_backing_name);
    g_clear_pointer(&layer->snapshot_infos, g_array_unref);
    g_clear_pointer(&layer->snapshot_entries, g_array_unref);
    g_clear_pointer(&layer->bitmap_entries, g_array_unref);
    g_clear_pointer(&layer->bitmap_infos, g_array_unref);
    g_free(layer->luks);
    g_free(layer);
}

/* ---- Data files -------------------------------------------------------------------------------- */

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/*
 * The recorded name is always a path: taking json: or a protocol from it let images open any file of the
 * host (CVE-2024-4467). QEMU looks in the working directory, users expect the image's folder.
 */
static Qcow2Place *data_file_place(const Qcow2Layer *layer, GError **error)
{
    const char *name = layer->image->header.data_file;
    g_autofree char *folder = qcow2_place_folder(layer->place);

    if (!name || !*name) {
        qcow2_corrupt(error, "the image keeps its data in another file, but records no name for it");
        return NULL;
    }
    Qcow2Place *place = g_new0(Qcow2Place, 1);
    place->raw_size = UINT64_MAX;
    place->shown = g_strdup(name);
    if (g_path_is_absolute(name) || !folder) {
        place->target = g_strdup(name);
        return place;
    }

    place->target = g_build_filename(folder, name, NULL);
    bool in_folder = g_file_test(place->target, G_FILE_TEST_EXISTS);
    bool in_cwd = g_file_test(name, G_FILE_TEST_EXISTS);
    if (in_folder && in_cwd && !same_file(place->target, name)) {
        qcow2_fail(error, QCOW2_ERROR_AMBIGUOUS,
                   "the data file '%s' exists in the image's folder and, as another file, in"
                   " the working directory; remove or rename one, or change the working directory",
                   name);
        qcow2_place_free(place);
        return NULL;
    }
    if (in_cwd) {    /* as QEMU names it */
        g_free(place->target);
        place->target = g_strdup(name);
    }
    return place;
}

/*
 * What is written goes by what the header names: with another data file the image, opened by its name, would
 * read otherwise than it did.
 */
static bool refuse_other_data_file(const Qcow2Layer *layer, GError **error)
{
    const Qcow2Place *given = layer->place->data_file;

    if (!given || !layer->image->file->writable || !layer->image->header.data_file) {
        return true;
    }
    g_autoptr(Qcow2Place) recorded = data_file_place(layer, error);
    return recorded
        && ((given->kind == QCOW2_PLACE_FILE && same_file(given->target, recorded->target))
            || !g_file_test(recorded->target, G_FILE_TEST_EXISTS)    /* by its name it reads as nothing */
            || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "an image is written with the data file that it records, '%s', not with '%s'; leave"
                          " \"data-file\" out of the image name, or record the other one first (qcow-amend -o"
                          " data_file=...)", recorded->shown, given->shown));
}

Qcow2Io *qcow2_layer_find_data(const Qcow2Layer *layer, const Qcow2OpenOptions *options, GError **error)
{
    g_autoptr(Qcow2Place) found = NULL;
    const Qcow2Place *place = layer->place->data_file;

    if (options->untrusted) {
        qcow2_fail(error, QCOW2_ERROR_UNTRUSTED,
                   "its data is in another file, which --untrusted does not open");
        return NULL;
    }
    if (!refuse_other_data_file(layer, error)) {
        return NULL;
    }
    if (!place) {
        place = found = data_file_place(layer, error);
    }
    /* Whoever writes to the image writes to its data file. */
    bool writable = layer->image->file->writable, on_trial = writable && options->dry_run;
    g_autoptr(Qcow2Io) io = place ? open_io(place, options, writable, on_trial, error) : NULL;
    if (!io) {
        g_prefix_error(error, "data file: ");
        return NULL;
    }
    if (same_file(place->target, layer->place->target)) {
        qcow2_corrupt(error, "the image names itself as its data file");
        return NULL;
    }
    return lock_image(io, options, error) ? place_to_change(io, options, on_trial, error) : NULL;
}
