/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/stream-packer.h"

#include "format/refcount.h"
#include "util/error.h"

/* One more stream in a cluster that was taken already: taking it counted the first. */
static bool count_stream(Qcow2Batch *batch, uint64_t host_offset, GError **error)
{
    return qcow2_batch_add(batch, host_offset, 1, 1, error);
}

uint64_t qcow2_stream_packer_take(Qcow2StreamPacker *packer, Qcow2Batch *batch, uint64_t len_bytes,
                                  GError **error)
{
    const Qcow2Layout *layout = &qcow2_batch_header(batch)->layout;
    uint64_t cluster_size = layout->cluster_size;
    bool open = packer->end % cluster_size != 0 && packer->n_in_cluster < qcow2_refcount_max(layout);
    uint64_t start = packer->end, room = open ? cluster_size - start % cluster_size : 0;

    if (len_bytes > room) {
        uint64_t fresh = qcow2_batch_take(batch, 1, error);
        if (fresh == 0) {
            return 0;
        }
        /* It may go on from the open cluster into a new one only when that is the next. */
        bool crosses = open && fresh == qcow2_align_up(start, cluster_size);
        if (crosses && !count_stream(batch, start, error)) {
            return 0;
        }
        start = crosses ? start : fresh;
        packer->n_in_cluster = 1;
    } else {
        if (!count_stream(batch, start, error)) {
            return 0;
        }
        packer->n_in_cluster++;
    }
    packer->end = start + len_bytes;
    return start;
}
