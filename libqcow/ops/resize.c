/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another virtual size.
 *
 *   growing   step                                              a crash afterwards leaves
 *   1         new tables, in which the new part reads as        the image as it was
 *             zeros; the data file grows; flush
 *   2         one header write: tables and size; flush          the larger image
 *
 *   shrinking
 *   1         new tables without what is past the end; flush    the image as it was
 *   2         one header write: tables and size; flush          the smaller image
 *   3         the file is cut, and the data file                the same, in a shorter file
 *
 * A raw image has nothing but its file, which is cut or made longer.
 */
#include <string.h>

#include "image/reserve.h"
#include "image/resize.h"
#include "ops/below.h"
#include "util/error.h"
#include "util/progress.h"

typedef struct Resizing {
    Qcow2Chain *chain;
    Qcow2Image *image;
    Qcow2Resize resize;
    uint8_t *tail;
    Qcow2Below below;
    Qcow2Progress *progress;
} Resizing;

/* ---- What is asked for ------------------------------------------------------------------------- */

static bool parse_preallocation(const char *text, Qcow2Preallocation *ret, GError **error)
{
    static const char *const words[] = {
        [QCOW2_PREALLOCATION_OFF] = "off",
        [QCOW2_PREALLOCATION_METADATA] = "metadata",
        [QCOW2_PREALLOCATION_FALLOC] = "falloc",
        [QCOW2_PREALLOCATION_FULL] = "full",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        if (strcmp(text ? text : "off", words[i]) == 0) {
            *ret = (Qcow2Preallocation)i;
            return true;
        }
    }
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "Invalid preallocation mode '%s'", text);
}

static bool check_options(const Resizing *self, const Qcow2ResizeOptions *options, GError **error)
{
    uint64_t old_size = self->image->size;

    if (options->size == 0 || options->size > INT64_MAX - QCOW2_SECTOR_SIZE) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "New image size must be positive%s",
                          options->size == 0 ? "" : " and below 2^63");
    }
    /* So it is also when a crash came after the change, and the command is run again. */
    if (options->size == old_size && self->resize.preallocation != QCOW2_PREALLOCATION_OFF) {
        return qcow2_fail(error, QCOW2_ERROR_EXISTS,
                          "Preallocation can only be used for growing images, and the image has %" PRIu64
                          " bytes already", old_size);
    }
    if (options->size < old_size && self->resize.preallocation != QCOW2_PREALLOCATION_OFF) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Preallocation can only be used for growing images");
    }
    if (options->size < old_size && !options->shrink) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Use the --shrink option to perform a shrink operation. It deletes all data beyond"
                          " the new end of the image.");
    }
    return true;
}

/* ---- A raw image ------------------------------------------------------------------------------- */

static bool check_raw(const Resizing *self, GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(self->chain, 0);

    if (layer->place->raw_size != UINT64_MAX) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "Cannot resize fixed-size raw disks");
    }
    if (!qcow2_io_can_grow(self->image->file)) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "a block device or NBD export has the size that it has");
    }
    if (self->resize.preallocation == QCOW2_PREALLOCATION_METADATA) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Unsupported preallocation mode: metadata");
    }
    if (layer->format_was_probed) {
        qcow2_chain_warn(self->chain,
                         "'%s': its format was not given and detected as raw, which a guest can forge; give"
                         " -f raw", layer->place->shown);
    }
    return true;
}

static bool resize_raw(Resizing *self, GError **error)
{
    Qcow2Io *file = self->image->file;
    uint64_t old_len, len = self->image->raw_offset + self->resize.size;

    if (!check_raw(self, error) || !qcow2_io_get_size(file, &old_len, error)) {
        return false;
    }
    bool reserve = len > old_len && self->resize.preallocation != QCOW2_PREALLOCATION_OFF;
    bool done = reserve ? qcow2_reserve(file, old_len, len, self->resize.preallocation, self->progress, error)
                        : qcow2_io_truncate(file, len, error);
    if (!done || !qcow2_io_flush(file, error)) {
        if (len > old_len) {
            qcow2_io_truncate(file, old_len, NULL);    /* best effort; the new part holds nothing */
        }
        return false;
    }
    self->image->size = qcow2_align_up(self->resize.size, QCOW2_SECTOR_SIZE);
    return true;
}

/* ---- What would show --------------------------------------------------------------------------- */

/* The bytes of a range that crosses the end of the disk, as they would read if only the size changed. */
static bool read_as_larger(Resizing *self, uint64_t start, uint64_t end, uint8_t *buffer, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(Qcow2Reader) reader = qcow2_reader_new();
    Qcow2View view = qcow2_image_active_view(self->image);
    Qcow2Range range = { start, end };

    view.size = end;
    if (!qcow2_image_map(self->image, &view, &range, 1, 0, extents, error)) {
        return false;
    }
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        Qcow2Range part = { extent->guest_offset, qcow2_extent_end(extent) };
        uint8_t *place = buffer + (extent->guest_offset - start);
        bool ok = extent->kind == QCOW2_EXTENT_UNALLOCATED
                ? qcow2_below_read(&self->below, reader, &part, place, error)
                : qcow2_reader_read(reader, self->image, extent, extent->guest_offset, place,
                                    extent->len_bytes, error);
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* What the last cluster would show past the present end; only when that is more than zeros it is written. */
static bool find_tail(Resizing *self, GError **error)
{
    uint64_t cluster_size = self->image->header.layout.cluster_size, old_size = self->image->size;
    uint64_t start = qcow2_align_down(old_size, cluster_size), kept = old_size - start;

    if (kept == 0) {
        return true;
    }
    self->tail = g_try_malloc0(cluster_size);
    if (!self->tail) {
        return qcow2_fail_memory(error, cluster_size, "the last cluster");
    }
    uint64_t end = MIN(start + cluster_size, self->resize.size);
    if (!read_as_larger(self, start, end, self->tail, error)) {
        g_prefix_error(error, "the cluster in which the disk ends: ");
        return false;
    }
    bool shows = false;
    for (uint64_t i = kept; i < end - start; i++) {
        shows |= self->tail[i] != 0;
    }
    memset(self->tail + kept, 0, cluster_size - kept);
    self->resize.tail = shows ? self->tail : NULL;
    return true;
}

/* ---- A qcow2 image ----------------------------------------------------------------------------- */

static bool look_below(Resizing *self, GError **error)
{
    if (!qcow2_below_open(self->chain, &self->below, error)) {
        return false;
    }
    if (self->below.exists) {
        self->resize.shown = qcow2_below_shown;
        self->resize.shown_data = &self->below;
    }
    return true;
}

/* The disk is smaller already; that its file stays long is not worth a failure. */
static void cut_files(Resizing *self)
{
    g_autoptr(GError) failure = NULL;
    bool ok = qcow2_image_trim_end(self->image, false, &failure);

    if (ok && self->image->header.layout.has_data_file) {
        ok = qcow2_io_truncate(self->image->data, self->image->size, &failure);
    }
    if (!ok) {
        qcow2_chain_warn(self->chain, "'%s': Failed to truncate the tail of the image: %s",
                         qcow2_chain_layer_name(self->chain, 0), failure->message);
    }
}

static bool resize_qcow2(Resizing *self, GError **error)
{
    bool grows = self->resize.size > self->image->size;

    if (!qcow2_chain_open_data(self->chain, 0, error) || (grows && !look_below(self, error))
        || !qcow2_image_check_resize(self->image, &self->resize, error)
        || (grows && !find_tail(self, error))) {
        return false;
    }
    if (self->resize.size == self->image->size) {
        return true;
    }
    if (!qcow2_image_resize(self->image, &self->resize, self->progress, error)) {
        return false;
    }
    if (!grows) {
        cut_files(self);
    }
    return true;
}

bool qcow2_resize(Qcow2Chain *chain, const Qcow2ResizeOptions *options, Qcow2Progress *progress,
                  GError **error)
{
    Resizing self = { .chain = chain, .image = qcow2_chain_image(chain, 0), .progress = progress };

    self.resize.size = options->size;
    bool ok = parse_preallocation(options->preallocation, &self.resize.preallocation, error)
           && check_options(&self, options, error)
           && (self.image->kind == QCOW2_IMAGE_RAW ? resize_raw(&self, error) : resize_qcow2(&self, error));
    g_free(self.tail);
    if (!ok) {
        return qcow2_fail_unchanged(error, qcow2_chain_layer_name(chain, 0));
    }
    qcow2_progress_finish(progress);
    return true;
}
