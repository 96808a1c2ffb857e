/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A copy whose data is in an external data file: an empty image is made, and changed in place.
 *
 *   step                                             a crash afterwards leaves
 *   1  make both under other names, fill them        what was there before, and temporary files
 *   2  flush; the data file gets its name            the same, with the new data file
 *   3  flush; the image gets its name                the copy
 */
#include "image/create-image.h"
#include "move/in-place.h"
#include "ops/copy.h"
#include "util/error.h"

static bool apply(Qcow2Copy *copy, Qcow2Image *image, Qcow2State *from, GError **error)
{
    Qcow2ChoiceOptions choice_options = {
        .unit = qcow2_in_place_unit(image),
        .compare_data = image->header.backing_name != NULL,
        .n_threads = copy->first->options.n_threads,
    };
    Qcow2InPlaceOptions options = {
        .n_threads = copy->first->options.n_threads,
        .no_reflink = copy->options->no_reflink,
    };
    Qcow2InPlaceResult result;
    uint64_t old_size = copy->source->size;

    copy->source->size = copy->size;
    g_autoptr(Qcow2Choice) choice = qcow2_choice_new(from, copy->source, &choice_options, error);
    g_autoptr(Qcow2Batch) batch = choice ? qcow2_batch_begin(image, error) : NULL;
    bool ok = batch
           && qcow2_in_place_apply(batch, image, copy->source, choice, &options, &result, copy->progress,
                                   error)
           && qcow2_copy_bitmaps(copy, batch, image, error) && qcow2_batch_commit(batch, error);
    copy->source->size = old_size;
    if (ok) {
        copy->result.bytes_copied = result.stats.moved.bytes_copied;
        copy->result.bytes_cloned = result.stats.moved.bytes_cloned;
    }
    return ok;
}

static bool fill(Qcow2Copy *copy, Qcow2Io *io, Qcow2Io *data, Qcow2State *from, GError **error)
{
    Qcow2OpenOptions options = { .format = "qcow2", .writable = true, .untrusted = true };
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open_io(io, &options, error);

    if (!chain) {
        return false;
    }
    qcow2_image_attach_data(qcow2_chain_image(chain, 0), data);
    return apply(copy, qcow2_chain_image(chain, 0), from, error)
        && qcow2_io_get_size(io, &copy->result.output_size, error);
}

/* The data file is the disk, byte for byte, and all of it is mapped already. */
static bool fill_raw(Qcow2Copy *copy, Qcow2Io *io, Qcow2Io *data, GError **error)
{
    return qcow2_copy_bytes(copy, data, true, error)
        && qcow2_copy_bitmaps_to_new(copy, io, &copy->result.output_size, error);
}

bool qcow2_copy_with_data_file(Qcow2Copy *copy, const Qcow2Creation *creation, Qcow2State *from,
                               GError **error)
{
    if (copy->options->compress || copy->options->resume) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "a copy with an external data file cannot be compressed, nor resumed");
    }
    g_autoptr(Qcow2Target) data = qcow2_creation_target(creation, creation->data_place, error);
    g_autoptr(Qcow2Target) target = data ? qcow2_creation_target(creation, creation->place, error) : NULL;
    Qcow2Io *io = target ? qcow2_target_io(target) : NULL;

    return io
        && qcow2_create_image(io, qcow2_target_io(data), &creation->options, copy->progress, error)
        && (creation->options.data_file_raw ? fill_raw(copy, io, qcow2_target_io(data), error)
                                            : fill(copy, io, qcow2_target_io(data), from, error))
        && qcow2_copy_end(copy, error) && qcow2_target_publish(data, error)
        && qcow2_target_publish(target, error);
}
