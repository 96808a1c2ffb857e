/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the decoder of the header needs from that of its extensions. Spec: "Header extensions". */
#ifndef QCOW2_FORMAT_HEADER_EXTENSIONS_H
#define QCOW2_FORMAT_HEADER_EXTENSIONS_H

#include "format/header.h"

/**
 * qcow2_header_decode_extensions:
 * @start, @end: the area of the extensions, offsets into @cluster
 *
 * Fills header->extensions and what is taken from them.
 */
bool qcow2_header_decode_extensions(Qcow2Header *header, const uint8_t *cluster, uint64_t start, uint64_t end,
                                    GError **error);

/**
 * qcow2_header_name_features:
 * @mask: incompatible feature bits, not 0
 *
 * The names that the feature name table of the area has for these bits, then the bits without a name; fit
 * for a terminal. Reads as far as the area makes sense.
 */
char *qcow2_header_name_features(const uint8_t *cluster, uint64_t start, uint64_t end, uint64_t mask);

#endif
