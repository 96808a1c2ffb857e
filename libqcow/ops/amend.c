/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Other features for an image.
 *
 *   step                                                    a crash afterwards leaves
 *   1  refcounts in the new width, tables without zero      the image as it was
 *      clusters, a backing name that moves; flush
 *   2  one header write: version, features, tables; flush   the image as it shall be
 *
 * A size is a second change like this one: after it when the version rises, before it when the version falls,
 * since only version 3 can resize an image with snapshots.
 */
#include "image/amend.h"

#include <string.h>

#include "ops/below.h"
#include "util/error.h"
#include "util/progress.h"

static bool check_format(const Qcow2Image *image, GError **error)
{
    return image->kind == QCOW2_IMAGE_QCOW2
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "Format driver 'raw' does not support option amendment");
}

/* As in qemu-img amend they may be named if nothing about them changes. */
static bool check_backing(const Qcow2Image *image, const Qcow2CreateOptions *options, GError **error)
{
    bool named = options->backing_file || options->backing_format;
    bool same = g_strcmp0(options->backing_file, image->header.backing_name) == 0
             && g_strcmp0(options->backing_format, image->header.backing_format) == 0;

    return !named || same
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "Cannot amend the backing file: that is what 'qemu-img rebase' is for");
}

static bool check_size(const Qcow2Image *image, const Qcow2CreateOptions *options, GError **error)
{
    return !options->has_size || options->size >= image->size
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "a smaller size would lose data: that is what qcow-resize --shrink is for");
}

static bool read_refcount_bits(const Qcow2CreateOptions *options, Qcow2Amendment *amendment, GError **error)
{
    unsigned bits = options->refcount_bits;

    if (!options->has_refcount_bits) {
        return true;
    }
    if (bits == 0 || bits > 64 || (bits & (bits - 1)) != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Refcount width must be a power of two and may not exceed 64 bits");
    }
    amendment->refcount_order = (unsigned)__builtin_ctz(bits);
    return true;
}

static bool read_amendment(const Qcow2Image *image, const Qcow2CreateOptions *options, Qcow2Amendment *ret,
                           GError **error)
{
    qcow2_amendment_init(image, ret);
    if (options->has_version) {
        ret->version = options->version;
    }
    if (options->has_lazy_refcounts) {
        ret->lazy_refcounts = options->lazy_refcounts;
    }
    if (options->has_data_file_raw) {
        ret->raw_data_file = options->data_file_raw;
    }
    if (options->data_file) {
        ret->data_file = *options->data_file ? options->data_file : NULL;
    }
    return read_refcount_bits(options, ret, error);
}

/* Version 2 must know where its zeros hide something. */
static bool look_below(Qcow2Chain *chain, Qcow2Below *below, Qcow2Amendment *amendment, GError **error)
{
    if (amendment->version >= qcow2_chain_image(chain, 0)->header.layout.version) {
        return true;
    }
    if (!qcow2_below_open(chain, below, error)) {
        return false;
    }
    if (below->exists) {
        amendment->shown = qcow2_below_shown;
        amendment->shown_data = below;
    }
    return true;
}

static bool resize(Qcow2Chain *chain, const Qcow2CreateOptions *options, Qcow2Progress *progress,
                   GError **error)
{
    const Qcow2ResizeOptions resize_options = { .size = options->size };

    return !options->has_size || qcow2_resize(chain, &resize_options, progress, error);
}

static bool amend(Qcow2Chain *chain, const Qcow2CreateOptions *options, Qcow2Progress *progress,
                  GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    Qcow2Amendment amendment;
    Qcow2Below below;

    if (!check_backing(image, options, error) || !check_size(image, options, error)
        || !read_amendment(image, options, &amendment, error)
        || !qcow2_image_check_amendment(image, &amendment, error)
        || !look_below(chain, &below, &amendment, error)) {
        return false;
    }
    bool falls = amendment.version < image->header.layout.version;
    return (!falls || resize(chain, options, progress, error))
        && qcow2_image_amend(image, &amendment, progress, error)
        && (falls || resize(chain, options, progress, error));
}

bool qcow2_amend(Qcow2Chain *chain, const char *options, Qcow2Progress *progress, GError **error)
{
    g_auto(Qcow2CreateOptions) parsed = { 0 };

    qcow2_create_options_init(&parsed);
    bool ok = check_format(qcow2_chain_image(chain, 0), error)
           && qcow2_create_options_read(options, QCOW2_OPTIONS_AMEND, &parsed, error)
           && amend(chain, &parsed, progress, error);
    if (!ok) {
        return qcow2_fail_unchanged(error, qcow2_chain_layer_name(chain, 0));
    }
    qcow2_progress_finish(progress);
    return true;
}
