/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec/backend.h"

#include "codec/deflate.h"
#include "codec/zstd.h"

/* Exactly one of them is there. */
struct Qcow2CodecState {
    Qcow2Deflate *deflate;
    Qcow2Zstd *zstd;
};

static Qcow2CodecState *state_new(Qcow2Compression type)
{
    Qcow2CodecState *state = g_new0(Qcow2CodecState, 1);

    if (type == QCOW2_COMPRESSION_ZSTD) {
        state->zstd = qcow2_zstd_new();
    } else {
        state->deflate = qcow2_deflate_new();
    }
    return state;
}

static void state_free(Qcow2CodecState *state)
{
    qcow2_deflate_free(state->deflate);
    qcow2_zstd_free(state->zstd);
    g_free(state);
}

static bool decompress(Qcow2CodecState *state, const uint8_t *stream, size_t stream_len,
                       uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error)
{
    if (state->zstd) {
        return qcow2_zstd_decompress(state->zstd, stream, stream_len, cluster, cluster_size, ret_used, error);
    }
    return qcow2_deflate_decompress(state->deflate, stream, stream_len, cluster, cluster_size, ret_used,
                                    error);
}

static bool compress(Qcow2CodecState *state, const uint8_t *cluster, size_t cluster_size,
                     uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error)
{
    if (state->zstd) {
        return qcow2_zstd_compress(state->zstd, cluster, cluster_size, stream, stream_room, ret_len, error);
    }
    return qcow2_deflate_compress(state->deflate, cluster, cluster_size, stream, stream_room, ret_len, error);
}

__attribute__((visibility("default")))
const Qcow2CodecBackend qcow2_codec_module_backend = {
    .new = state_new,
    .free = state_free,
    .decompress = decompress,
    .compress = compress,
};
