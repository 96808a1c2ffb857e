/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pull: what an image reads from the layers above the new base moves into it. Its snapshots too.
 *
 * Steps and what a crash leaves: ops/keep.c.
 */
#include <string.h>

#include "chain/naming.h"
#include "ops/keep.h"
#include "ops/merge-bitmaps.h"
#include "util/error.h"
#include "util/progress.h"

static bool find_base(Qcow2Chain *chain, const Qcow2PullOptions *options, unsigned *ret_base, GError **error)
{
    if (!qcow2_chain_has_below(chain, 0)) {
        return qcow2_fail(error, QCOW2_ERROR_EXISTS,
                          "'%s': it has no backing file already; there is nothing to pull",
                          qcow2_chain_layer_name(chain, 0));
    }
    if (!options->base) {
        *ret_base = qcow2_chain_n_layers(chain);
        return true;
    }
    if (!qcow2_chain_find_layer(chain, options->base, ret_base, error)) {
        return false;
    }
    if (*ret_base == 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s': '%s' is the image itself, not a layer below it",
                          qcow2_chain_layer_name(chain, 0), options->base);
    }
    return *ret_base > 1
        || qcow2_fail(error, QCOW2_ERROR_EXISTS, "'%s': '%s' is its backing file already",
                      qcow2_chain_layer_name(chain, 0), qcow2_chain_layer_name(chain, 1));
}

static bool pull_to_base(Qcow2Chain *chain, unsigned base, Qcow2Keep *keep, Qcow2MoveResult *ret_result,
                         const Qcow2PullOptions *options, Qcow2Progress *progress, GError **error)
{
    g_autofree char *name = qcow2_chain_backing_name(chain, 0, base, error);
    g_autoptr(Qcow2Chain) below = name ? qcow2_chain_tail(chain, base, error) : NULL;

    keep->below = below;
    keep->backing_name = name;
    keep->backing_format = below ? qcow2_chain_format_name(chain, base, options->base_format, error) : NULL;
    return keep->backing_format && qcow2_keep(keep, ret_result, progress, error);
}

bool qcow2_pull(Qcow2Chain *chain, const Qcow2PullOptions *options, Qcow2MoveResult *ret_result,
                Qcow2Progress *progress, GError **error)
{
    Qcow2Keep keep = { .chain = chain, .set_backing = true, .no_reflink = options->no_reflink };
    unsigned base;

    if (qcow2_chain_image(chain, 0)->kind != QCOW2_IMAGE_QCOW2) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "'%s': a raw image has no backing file",
                          qcow2_chain_layer_name(chain, 0));
    }
    if (!qcow2_chain_open_all(chain, error) || !find_base(chain, options, &base, error)) {
        return false;
    }
    keep.bitmaps_end = options->bitmaps ? base : 0;
    if (options->bitmaps
        && !qcow2_merge_bitmaps_check(qcow2_chain_image(chain, 0), chain, 0, 1, base, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(chain, 0));
        return false;
    }
    bool ok = options->base ? pull_to_base(chain, base, &keep, ret_result, options, progress, error)
                            : qcow2_keep(&keep, ret_result, progress, error);
    if (ok) {
        qcow2_progress_finish(progress);
    }
    return ok;
}
