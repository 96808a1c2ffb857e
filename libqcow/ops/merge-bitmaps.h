/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty bitmaps of layers that leave a chain live on in the image that these are merged into. */
#ifndef QCOW2_OPS_MERGE_BITMAPS_H
#define QCOW2_OPS_MERGE_BITMAPS_H

#include "chain/chain.h"
#include "image/bitmap-edit.h"

/** qcow2_bitmap_is_in_layers: whether each of [first, end) has one of this name, which is not in use. */
bool qcow2_bitmap_is_in_layers(Qcow2Chain *chain, unsigned first, unsigned end, const char *name,
                               bool *ret_is, GError **error);

/**
 * qcow2_merge_bitmaps:
 * @batch: of @image, after all else but its commit
 * @chain: layers [top, end) are those that @image holds then; the bitmaps of [first, end) are merged into it
 *
 * By name, see qcow2_batch_merge_bitmaps(). An enabled bitmap that a layer above its own does not have has
 * missed what that layer changed: these ranges are set in it too.
 */
bool qcow2_merge_bitmaps(Qcow2Batch *batch, Qcow2Image *image, Qcow2Chain *chain, unsigned top,
                         unsigned first, unsigned end, GError **error);

/**
 * qcow2_merge_bitmaps_check: the same without writing anything: what would fail, fails.
 * Errors: also QCOW2_ERROR_UNSUPPORTED for bitmaps, of @image too, that no autoclear bit vouches for.
 */
bool qcow2_merge_bitmaps_check(Qcow2Image *image, Qcow2Chain *chain, unsigned top, unsigned first,
                               unsigned end, GError **error);

#endif
