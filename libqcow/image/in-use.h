/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is in use, looked up in the free space of an image that may be damaged. */
#ifndef QCOW2_IMAGE_IN_USE_H
#define QCOW2_IMAGE_IN_USE_H

#include "image/free-space.h"

/**
 * qcow2_image_check_in_use:
 * @ret_known: false where a table cannot be read, so that nobody can know what it names
 *
 * Whether nothing that the L1 tables of all states lead to, and nothing of a bitmap, is in what would be
 * given out. Reads each table once.
 *
 * Errors: QCOW2_ERROR_CORRUPT when there is something.
 */
bool qcow2_image_check_in_use(Qcow2Image *image, const Qcow2FreeSpace *space, bool *ret_known,
                              GError **error);

#endif
