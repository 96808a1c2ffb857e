/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each direction has the library that is fastest at it: libdeflate inflates twice as fast as zlib, ISA-L
 * deflates seven times as fast. zlib itself, which QEMU uses, decides on streams that libdeflate refuses.
 */
#include "codec/deflate.h"

#include <isa-l/igzip_lib.h>
#include <libdeflate.h>
#include <zlib.h>

#include "util/error.h"

#define WINDOW_BITS 12           /* of QEMU's streams, and what every reader of them must have */
#define ISAL_LEVEL 3

struct Qcow2Deflate {
    struct libdeflate_decompressor *fast_inflate;
    z_stream *inflate;
    struct isal_zstream *deflate;
    uint8_t *deflate_tables;     /* work space of ISA-L's level */
};

Qcow2Deflate *qcow2_deflate_new(void)
{
    return g_new0(Qcow2Deflate, 1);
}

void qcow2_deflate_free(Qcow2Deflate *deflate)
{
    if (!deflate) {
        return;
    }
    if (deflate->fast_inflate) {
        libdeflate_free_decompressor(deflate->fast_inflate);
    }
    if (deflate->inflate) {
        inflateEnd(deflate->inflate);
        g_free(deflate->inflate);
    }
    g_free(deflate->deflate);
    g_free(deflate->deflate_tables);
    g_free(deflate);
}

/* ---- Decompression ------------------------------------------------------------------------------- */

static bool prepare_zlib(Qcow2Deflate *deflate, GError **error)
{
    if (deflate->inflate) {
        return inflateReset(deflate->inflate) == Z_OK
            || qcow2_fail(error, QCOW2_ERROR_FAILED, "zlib cannot start a stream");
    }

    z_stream *inflate = g_new0(z_stream, 1);
    if (inflateInit2(inflate, -WINDOW_BITS) != Z_OK) {
        g_free(inflate);
        return qcow2_fail_memory(error, sizeof(*inflate), "zlib");
    }
    deflate->inflate = inflate;
    return true;
}

/*
 * As QEMU does it, which accepts more than a whole stream: one that fills the cluster before its end. Where
 * such a stream ends cannot be told: zlib has already looked at bits past the last byte it could write.
 */
static bool decompress_zlib(Qcow2Deflate *deflate, const uint8_t *stream, size_t stream_len,
                            uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error)
{
    if (!prepare_zlib(deflate, error)) {
        return false;
    }

    z_stream *inflate_stream = deflate->inflate;
    inflate_stream->next_in = (Bytef *) stream;    /* only read; const under ZLIB_CONST alone */
    inflate_stream->avail_in = (uInt) stream_len;
    inflate_stream->next_out = cluster;
    inflate_stream->avail_out = (uInt) cluster_size;

    int result = inflate(inflate_stream, Z_FINISH);
    size_t n_missing = inflate_stream->avail_out;
    bool ended = result == Z_STREAM_END;

    if (!ended && result != Z_BUF_ERROR) {
        return qcow2_corrupt(error, "zlib stream is damaged after 0x%zx of its %zu bytes%s%s",
                             stream_len - inflate_stream->avail_in, stream_len,
                             inflate_stream->msg ? ": " : "", inflate_stream->msg ? inflate_stream->msg : "");
    }
    if (n_missing > 0) {
        return qcow2_corrupt(error, "zlib stream gives %zu bytes, not a cluster of %zu",
                             cluster_size - n_missing, cluster_size);
    }
    *ret_used = ended ? stream_len - inflate_stream->avail_in : 0;
    return true;
}

bool qcow2_deflate_decompress(Qcow2Deflate *deflate, const uint8_t *stream, size_t stream_len,
                              uint8_t *cluster, size_t cluster_size, size_t *ret_used, GError **error)
{
    size_t used;

    if (!deflate->fast_inflate) {
        deflate->fast_inflate = libdeflate_alloc_decompressor();
    }

    /* Without a place for the true output length, libdeflate takes a short output for a failure. */
    bool done = deflate->fast_inflate
             && libdeflate_deflate_decompress_ex(deflate->fast_inflate, stream, stream_len,
                                                 cluster, cluster_size, &used, NULL) == LIBDEFLATE_SUCCESS;
    if (!done && !decompress_zlib(deflate, stream, stream_len, cluster, cluster_size, &used, error)) {
        return false;
    }
    if (ret_used) {
        *ret_used = used;
    }
    return true;
}

/* ---- Compression --------------------------------------------------------------------------------- */

static struct isal_zstream *start_isal(Qcow2Deflate *deflate)
{
    if (!deflate->deflate) {
        deflate->deflate = g_new(struct isal_zstream, 1);
        deflate->deflate_tables = g_malloc(ISAL_DEF_LVL3_DEFAULT);
        isal_deflate_init(deflate->deflate);
    } else {
        isal_deflate_reset(deflate->deflate);
    }

    struct isal_zstream *isal = deflate->deflate;
    isal->level = ISAL_LEVEL;
    isal->level_buf = deflate->deflate_tables;
    isal->level_buf_size = ISAL_DEF_LVL3_DEFAULT;
    isal->hist_bits = WINDOW_BITS;
    isal->gzip_flag = IGZIP_DEFLATE;
    isal->flush = NO_FLUSH;
    isal->end_of_stream = 1;
    return isal;
}

bool qcow2_deflate_compress(Qcow2Deflate *deflate, const uint8_t *cluster, size_t cluster_size,
                            uint8_t *stream, size_t stream_room, size_t *ret_len, GError **error)
{
    struct isal_zstream *isal = start_isal(deflate);

    *ret_len = 0;
    if (stream_room == 0) {
        return true;
    }
    isal->next_in = (uint8_t *) cluster;           /* only read */
    isal->avail_in = (uint32_t) cluster_size;
    isal->next_out = stream;
    isal->avail_out = (uint32_t) (stream_room - 1);

    int result = isal_deflate(isal);
    if (result != COMP_OK) {
        return qcow2_fail(error, QCOW2_ERROR_FAILED, "ISA-L refuses to compress %zu bytes: error %d",
                          cluster_size, result);
    }
    if (isal->internal_state.state == ZSTATE_END) {
        *ret_len = isal->total_out;
    }
    return true;
}
