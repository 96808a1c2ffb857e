/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Other features for a qcow2 image: its version, the width of its counts, flags, the data file's name. */
#ifndef QCOW2_IMAGE_AMEND_H
#define QCOW2_IMAGE_AMEND_H

#include "image/batch.h"
#include "image/resize.h"

/** The image as it shall be. */
typedef struct Qcow2Amendment {
    unsigned version;             /* 2 or 3 */
    unsigned refcount_order;
    bool lazy_refcounts, raw_data_file;
    const char *data_file;        /* NULL: no name is recorded */

    /* For version 2, which has no zero clusters: where these hide something. NULL: nothing is below. */
    Qcow2ShownFunc shown;
    void *shown_data;
} Qcow2Amendment;

/** qcow2_amendment_init: the image as it is. */
void qcow2_amendment_init(const Qcow2Image *image, Qcow2Amendment *ret);

/** qcow2_image_check_amendment: whether the image can be so; reads tables where it must, writes nothing. */
bool qcow2_image_check_amendment(Qcow2Image *image, const Qcow2Amendment *amendment, GError **error);

/** qcow2_image_amend: checked before. One batch: a crash leaves the image as it was or as it shall be. */
bool qcow2_image_amend(Qcow2Image *image, const Qcow2Amendment *amendment, Qcow2Progress *progress,
                       GError **error);

/**
 * qcow2_batch_expand_zeros: zero clusters of the active layer and of the snapshots become unallocated, or
 * data where a layer below would show. Internal to image/.
 */
bool qcow2_batch_expand_zeros(Qcow2Batch *batch, Qcow2Image *image, const Qcow2Amendment *amendment,
                              Qcow2Progress *progress, GError **error);

#endif
