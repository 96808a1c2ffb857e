/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec/codec.h"

#include "codec/backend.h"

struct Qcow2Codec {
    Qcow2Compression type;
    const Qcow2CodecBackend *backend;    /* NULL before the first use */
    Qcow2CodecState *state;
};

Qcow2Codec *qcow2_codec_new(Qcow2Compression type)
{
    Qcow2Codec *codec = g_new0(Qcow2Codec, 1);

    codec->type = type;
    return codec;
}

void qcow2_codec_free(Qcow2Codec *codec)
{
    if (codec) {
        if (codec->state) {
            codec->backend->free(codec->state);
        }
        g_free(codec);
    }
}

static bool prepare(Qcow2Codec *codec, GError **error)
{
    if (codec->state) {
        return true;
    }
    codec->backend = qcow2_codec_find_backend(error);
    codec->state = codec->backend ? codec->backend->new(codec->type) : NULL;
    return codec->state != NULL;
}

bool qcow2_codec_decompress(Qcow2Codec *codec, const uint8_t *stream, size_t stream_len,
                            uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error)
{
    return prepare(codec, error)
           && codec->backend->decompress(codec->state, stream, stream_len, cluster, cluster_size, ret_used,
                                         error);
}

bool qcow2_codec_compress(Qcow2Codec *codec, const uint8_t *cluster, size_t cluster_size,
                          uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error)
{
    return prepare(codec, error)
        && codec->backend->compress(codec->state, cluster, cluster_size, stream, stream_room, ret_len, error);
}
