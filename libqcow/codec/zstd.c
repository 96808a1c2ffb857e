/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec/zstd.h"

#include <zstd.h>
#include <zstd_errors.h>

#include "util/error.h"

#define LEVEL ZSTD_CLEVEL_DEFAULT    /* QEMU's */

struct Qcow2Zstd {
    ZSTD_DCtx *decompress;
    ZSTD_CCtx *compress;
};

Qcow2Zstd *qcow2_zstd_new(void)
{
    return g_new0(Qcow2Zstd, 1);
}

void qcow2_zstd_free(Qcow2Zstd *zstd)
{
    if (zstd) {
        ZSTD_freeDCtx(zstd->decompress);
        ZSTD_freeCCtx(zstd->compress);
        g_free(zstd);
    }
}

/*
 * A cluster is usually one frame; QEMU reads more of them until the cluster is full. Going from frame to
 * frame by their sizes tells where the last one ends, and lets each be decompressed in place.
 */
bool qcow2_zstd_decompress(Qcow2Zstd *zstd, const uint8_t *stream, size_t stream_len,
                           uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error)
{
    size_t used = 0, filled = 0;

    if (!zstd->decompress) {
        zstd->decompress = ZSTD_createDCtx();
        if (!zstd->decompress) {
            return qcow2_fail(error, QCOW2_ERROR_FAILED, "cannot allocate a zstd context");
        }
    }

    while (filled < cluster_size) {
        if (used == stream_len) {
            return qcow2_corrupt(error, "zstd stream gives %zu bytes, not a cluster of %zu",
                                 filled, cluster_size);
        }
        size_t frame_len = ZSTD_findFrameCompressedSize(stream + used, stream_len - used);
        if (ZSTD_isError(frame_len)) {
            return qcow2_corrupt(error, "zstd frame at 0x%zx of a stream of %zu bytes: %s",
                                 used, stream_len, ZSTD_getErrorName(frame_len));
        }
        size_t n_bytes = ZSTD_decompressDCtx(zstd->decompress, cluster + filled, cluster_size - filled,
                                             stream + used, frame_len);
        if (ZSTD_isError(n_bytes)) {
            return qcow2_corrupt(error, "zstd frame at 0x%zx of a stream of %zu bytes: %s",
                                 used, stream_len, ZSTD_getErrorName(n_bytes));
        }
        used += frame_len;
        filled += n_bytes;
    }
    if (ret_used) {
        *ret_used = used;
    }
    return true;
}

bool qcow2_zstd_compress(Qcow2Zstd *zstd, const uint8_t *cluster, size_t cluster_size,
                         uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error)
{
    *ret_len = 0;
    if (!zstd->compress) {
        zstd->compress = ZSTD_createCCtx();
        if (!zstd->compress) {
            return qcow2_fail(error, QCOW2_ERROR_FAILED, "cannot allocate a zstd context");
        }
    }
    if (stream_room == 0) {
        return true;
    }

    size_t len = ZSTD_compressCCtx(zstd->compress, stream, stream_room - 1, cluster, cluster_size, LEVEL);
    if (!ZSTD_isError(len)) {
        *ret_len = len;
        return true;
    }
    return ZSTD_getErrorCode(len) == ZSTD_error_dstSize_tooSmall
        || qcow2_fail(error, QCOW2_ERROR_FAILED, "zstd cannot compress %zu bytes: %s",
                      cluster_size, ZSTD_getErrorName(len));
}
