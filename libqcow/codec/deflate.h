/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Raw deflate streams (QEMU's compression type "zlib"). The calls are those of codec/codec.h. */
#ifndef QCOW2_CODEC_DEFLATE_H
#define QCOW2_CODEC_DEFLATE_H

#include "libqcow2.h"

typedef struct Qcow2Deflate Qcow2Deflate;

Qcow2Deflate *qcow2_deflate_new(void);
void qcow2_deflate_free(Qcow2Deflate *deflate);

bool qcow2_deflate_decompress(Qcow2Deflate *deflate, const uint8_t *stream, size_t stream_len,
                              uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error);
bool qcow2_deflate_compress(Qcow2Deflate *deflate, const uint8_t *cluster, size_t cluster_size,
                            uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error);

#endif
