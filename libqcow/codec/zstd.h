/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zstandard frames. The calls are those of codec/codec.h. */
#ifndef QCOW2_CODEC_ZSTD_H
#define QCOW2_CODEC_ZSTD_H

#include "libqcow2.h"

typedef struct Qcow2Zstd Qcow2Zstd;

Qcow2Zstd *qcow2_zstd_new(void);
void qcow2_zstd_free(Qcow2Zstd *zstd);

bool qcow2_zstd_decompress(Qcow2Zstd *zstd, const uint8_t *stream, size_t stream_len,
                           uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error);
bool qcow2_zstd_compress(Qcow2Zstd *zstd, const uint8_t *cluster, size_t cluster_size,
                         uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error);

#endif
