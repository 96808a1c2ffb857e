/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebase: another backing file, with the same contents; or only another name for it.
 *
 * Steps and what a crash leaves: ops/keep.c.
 */
#include <string.h>

#include "chain/naming.h"
#include "ops/keep.h"
#include "util/error.h"
#include "util/progress.h"

static bool is_same_file(const Qcow2Layer *a, const Qcow2Layer *b)
{
    return a->identity.known && b->identity.known && a->identity.device == b->identity.device
        && a->identity.inode == b->identity.inode;
}

/* Over a chain that it is part of the image would be its own backing file. */
static bool refuse_loop(const Qcow2Chain *chain, const Qcow2Chain *below, GError **error)
{
    for (unsigned i = 0; i < qcow2_chain_n_layers(below); i++) {
        if (is_same_file(qcow2_chain_layer(chain, 0), qcow2_chain_layer(below, i))) {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "'%s': the new backing file '%s' is the image itself, or is backed by it",
                              qcow2_chain_layer_name(chain, 0), qcow2_chain_layer_name(below, 0));
        }
    }
    return true;
}

static Qcow2Chain *open_new_chain(Qcow2Chain *chain, const Qcow2RebaseOptions *options, GError **error)
{
    g_autofree char *folder = qcow2_place_folder(qcow2_chain_layer(chain, 0)->place);
    Qcow2OpenOptions open_options = chain->options;

    open_options.writable = open_options.image_opts = false;
    open_options.format = options->backing_format;
    g_autoptr(Qcow2Chain) below = qcow2_chain_open_in(folder, options->backing_name, &open_options, error);
    if (!below || !qcow2_chain_open_all(below, error)) {
        g_prefix_error(error, "Could not open new backing file '%s': ", options->backing_name);
        return NULL;
    }
    return refuse_loop(chain, below, error) ? g_steal_pointer(&below) : NULL;
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

static bool check_options(const Qcow2Chain *chain, const Qcow2Keep *keep, GError **error)
{
    const char *name = qcow2_chain_layer_name(chain, 0);
    const Qcow2Image *image = qcow2_chain_image(chain, 0);

    if (image->kind != QCOW2_IMAGE_QCOW2) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "'%s': a raw image has no backing file", name);
    }
    if (keep->backing_name && (image->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA)) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "'%s': Could not change the backing file to '%s': a raw external data file holds"
                          " the whole disk, and QEMU allows nothing below it", name, keep->backing_name);
    }
    return !keep->backing_name || keep->backing_format
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "'%s': Could not change the backing file to '%s': backing format must be specified"
                      " (-F)", name, keep->backing_name);
}

bool qcow2_rebase(Qcow2Chain *chain, const Qcow2RebaseOptions *options, Qcow2MoveResult *ret_result,
                  Qcow2Progress *progress, GError **error)
{
    bool has_name = options->backing_name && *options->backing_name;
    g_autoptr(Qcow2Chain) below = NULL;
    Qcow2Keep keep = {
        .chain = chain,
        .set_backing = true,
        .backing_name = has_name ? options->backing_name : NULL,
        .backing_format = has_name ? options->backing_format : NULL,
        .compare_data = true,
        .compress = options->compress,
        .no_reflink = options->no_reflink,
    };

    *ret_result = (Qcow2MoveResult) { 0 };
    if (!check_options(chain, &keep, error)) {
        return false;
    }
    if (options->name_only) {
        return set_name(chain, &keep, error);
    }
    if (has_name && !(below = open_new_chain(chain, options, error))) {
        return false;
    }
    keep.below = below;
    if (!qcow2_keep(&keep, ret_result, progress, error)) {
        return false;
    }
    qcow2_progress_finish(progress);
    return true;
}
