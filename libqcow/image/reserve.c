/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/reserve.h"

#include "util/bits.h"
#include "util/progress.h"

#define WRITE_CHUNK  (UINT64_C(1) << 20)
#define FALLOC_CHUNK (UINT64_C(1) << 30)    /* a file system that cannot set blocks aside has them written */

/* What was there is zeroed; what is past the end of a place that grows needs no more than the growth. */
static bool leave_hole(Qcow2Io *io, uint64_t start, uint64_t end, GError **error)
{
    uint64_t size;

    if (!qcow2_io_get_size(io, &size, error)) {
        return false;
    }
    return (start >= MIN(size, end) || qcow2_io_zero(io, start, MIN(size, end) - start, true, error))
        && (size >= end || qcow2_io_truncate(io, end, error));
}

bool qcow2_reserve(Qcow2Io *io, uint64_t start, uint64_t end, Qcow2Preallocation mode,
                   Qcow2Progress *progress, GError **error)
{
    bool full = mode == QCOW2_PREALLOCATION_FULL;
    uint64_t chunk = full ? WRITE_CHUNK : FALLOC_CHUNK;

    if (mode == QCOW2_PREALLOCATION_OFF || mode == QCOW2_PREALLOCATION_METADATA) {
        return leave_hole(io, start, end, error);
    }
    g_autofree uint8_t *zeros = full ? g_malloc0(chunk) : NULL;
    qcow2_progress_expect(progress, end - MIN(start, end));
    while (start < end) {
        uint64_t len = MIN(chunk, end - start);
        bool done = full ? qcow2_io_write(io, start, zeros, len, error)
                         : qcow2_io_zero(io, start, len, false, error);
        if (!done || !qcow2_progress_advance(progress, len, error)) {
            return false;
        }
        if (full) {
            qcow2_io_start_writeback(io, start, len);
        }
        start += len;
    }
    return true;
}
