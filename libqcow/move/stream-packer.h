/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Room for compressed streams in an image that is changed: several in one host cluster. */
#ifndef QCOW2_MOVE_STREAM_PACKER_H
#define QCOW2_MOVE_STREAM_PACKER_H

#include "image/batch.h"

/** Where the next stream may go; zeroed to begin with. */
typedef struct Qcow2StreamPacker {
    uint64_t end;             /* host offset behind the last stream; 0: no cluster is open */
    uint64_t n_in_cluster;    /* streams that touch the cluster that is open */
} Qcow2StreamPacker;

/** qcow2_stream_packer_take: room for @len_bytes, less than a cluster; its host offset, or 0 with an error.
 */
uint64_t qcow2_stream_packer_take(Qcow2StreamPacker *packer, Qcow2Batch *batch, uint64_t len_bytes,
                                  GError **error);

#endif
