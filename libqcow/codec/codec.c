/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec/codec.h"

#include "codec/deflate.h"
#include "codec/zstd.h"

/* Exactly one of them is there. */
struct Qcow2Codec {
    Qcow2Deflate *deflate;
    Qcow2Zstd *zstd;
};

Qcow2Codec *qcow2_codec_new(Qcow2Compression type)
{
    Qcow2Codec *codec = g_new0(Qcow2Codec, 1);

    if (type == QCOW2_COMPRESSION_ZSTD) {
        codec->zstd = qcow2_zstd_new();
    } else {
        codec->deflate = qcow2_deflate_new();
    }
    return codec;
}

void qcow2_codec_free(Qcow2Codec *codec)
{
    if (codec) {
        qcow2_deflate_free(codec->deflate);
        qcow2_zstd_free(codec->zstd);
        g_free(codec);
    }
}

bool qcow2_codec_decompress(Qcow2Codec *codec, const uint8_t *stream, size_t stream_len,
                            uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error)
{
    if (codec->zstd) {
        return qcow2_zstd_decompress(codec->zstd, stream, stream_len, cluster, cluster_size, ret_used, error);
    }
    return qcow2_deflate_decompress(codec->deflate, stream, stream_len, cluster, cluster_size, ret_used,
                                    error);
}

bool qcow2_codec_compress(Qcow2Codec *codec, const uint8_t *cluster, size_t cluster_size,
                          uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error)
{
    if (codec->zstd) {
        return qcow2_zstd_compress(codec->zstd, cluster, cluster_size, stream, stream_room, ret_len, error);
    }
    return qcow2_deflate_compress(codec->deflate, cluster, cluster_size, stream, stream_room, ret_len, error);
}
