/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compressed clusters: bytes in, bytes out. Spec: "Compressed Clusters Descriptor". */
#ifndef QCOW2_CODEC_CODEC_H
#define QCOW2_CODEC_CODEC_H

#include "format/header.h"
#include "libqcow2.h"

/**
 * A worker's compression state; one for each thread. Making one is cheap; its parts are made at their
 * first use.
 */
typedef struct Qcow2Codec Qcow2Codec;
Qcow2Codec *qcow2_codec_new(Qcow2Compression type);
void qcow2_codec_free(Qcow2Codec *codec);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Codec, qcow2_codec_free)

/**
 * qcow2_codec_decompress:
 * @stream: at most @stream_len bytes, of which the stream may use fewer: the rest belongs to a neighbour
 * @cluster: @cluster_size bytes, all of them written
 * @ret_used: NULL, or the true length of the stream; 0 when the stream fills the cluster but has no end
 *            of its own, so that what follows it decides how it is read: it must not be moved as it is
 *
 * Accepts what QEMU accepts.
 *
 * Errors: QCOW2_ERROR_CORRUPT when the stream is damaged or does not fill the cluster.
 */
bool qcow2_codec_decompress(Qcow2Codec *codec, const uint8_t *stream, size_t stream_len,
                            uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error);

/**
 * qcow2_codec_compress:
 * @stream: room for @stream_room bytes
 * @ret_len: the stream's length; 0 when it would not be smaller than @stream_room by some bytes: the
 *           cluster is better stored as it is
 *
 * What it makes, QEMU inflates (window of 4 KiB, one finished stream or frame).
 */
bool qcow2_codec_compress(Qcow2Codec *codec, const uint8_t *cluster, size_t cluster_size,
                          uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error);

#endif
