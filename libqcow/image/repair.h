/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Repair: what the check finds is put right, all of it at once.
 *
 *   step                                                     a crash afterwards leaves
 *   1  tables with other entries or flags, the snapshot      the image as it was, its file perhaps longer
 *      table, refcount blocks and a refcount table: all of
 *      them past the end of the file; flush
 *   2  the check looks at what the new header will reach     the same
 *   3  one sector of the header; flush                       the image as it should be
 *
 * Nothing is believed that may be wrong: new clusters come from past the end of the file, not from those that
 * a refcount calls free, and the refcounts are those of the references that were counted. A structure that
 * shares a cluster with something else gets a cluster of its own, in which it reads as it did.
 */
#ifndef QCOW2_IMAGE_REPAIR_H
#define QCOW2_IMAGE_REPAIR_H

#include "image/check.h"
#include "image/image.h"

/**
 * qcow2_image_repair:
 * @image: open for writing, see qcow2_image_open_for_repair()
 * @what: not QCOW2_REPAIR_NOTHING
 * @func: gets what is found, in the words of qemu-img check -r
 * @ret: numbers of clusters and findings before and after; func's findings are not counted in it
 *
 * Changes nothing where nothing is wrong.
 *
 * Errors: as qcow2_repair(). The image is as it was then.
 */
bool qcow2_image_repair(Qcow2Image *image, Qcow2Repair what, Qcow2FindingFunc func, void *data,
                        Qcow2CheckResult *ret, Qcow2Progress *progress, GError **error);

#endif
