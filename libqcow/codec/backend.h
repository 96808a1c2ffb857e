/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What does the work of codec/codec.h: the compression libraries. Linking them costs every command a fifth
 * of its start, and few commands use them: libqcow2.so has them in a module and loads it at their first use.
 */
#ifndef QCOW2_CODEC_BACKEND_H
#define QCOW2_CODEC_BACKEND_H

#include "codec/codec.h"

typedef struct Qcow2CodecState Qcow2CodecState;

/** The calls are those of codec/codec.h. */
typedef struct Qcow2CodecBackend {
    Qcow2CodecState *(*new)(Qcow2Compression type);
    void (*free)(Qcow2CodecState *state);
    bool (*decompress)(Qcow2CodecState *state, const uint8_t *stream, size_t stream_len, uint8_t *cluster,
                       size_t cluster_size, size_t *ret_used, GError **error);
    bool (*compress)(Qcow2CodecState *state, const uint8_t *cluster, size_t cluster_size, uint8_t *stream,
                     size_t stream_room, size_t *ret_len, GError **error);
} Qcow2CodecBackend;

/** What the module exports, under this name. */
#define QCOW2_CODEC_MODULE_BACKEND "qcow2_codec_module_backend"
extern const Qcow2CodecBackend qcow2_codec_module_backend;

/**
 * qcow2_codec_find_backend: there are two of them. That of backend-load.c loads the module; that of
 * backend-link.c is for programs into which all of the library is linked.
 */
const Qcow2CodecBackend *qcow2_codec_find_backend(GError **error);

#endif
