/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The structures that the header names, looked at before an image is written to. */
#ifndef QCOW2_IMAGE_ROOTS_H
#define QCOW2_IMAGE_ROOTS_H

#include "image/free-space.h"

/**
 * qcow2_image_check_roots:
 *
 * Whether each of them has clusters of its own, which are counted. Where one is not, a writer could take its
 * clusters for free ones, or change two things at once.
 *
 * Errors: QCOW2_ERROR_CORRUPT.
 */
bool qcow2_image_check_roots(Qcow2Image *image, Qcow2CountsCache *counts, GError **error);

/** qcow2_image_check_tables: whether no L2 table of the active layer is in what would be given out. */
bool qcow2_image_check_tables(Qcow2Image *image, const Qcow2FreeSpace *space, GError **error);

#endif
