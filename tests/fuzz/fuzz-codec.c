/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decompresses the input as a stream, and compresses it as a cluster. Before it stand a byte whose lowest bit
 * is the compression type and one for the cluster size. zlib, called as QEMU calls it, judges streams.
 */
#include "codec/codec.h"
#include "fuzz/fuzz.h"

#include <zlib.h>

static bool zlib_accepts(const uint8_t *stream, size_t stream_len, uint8_t *cluster, size_t cluster_size)
{
    z_stream z = { .next_in = (Bytef *) stream, .avail_in = (uInt) stream_len,
                   .next_out = cluster, .avail_out = (uInt) cluster_size };

    g_assert_cmpint(inflateInit2(&z, -12), ==, Z_OK);
    int result = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    return (result == Z_STREAM_END || result == Z_BUF_ERROR) && z.avail_out == 0;
}

/* In steps of 16 bytes zlib sees no farther back than its window. */
static bool inflates_with_small_window(const uint8_t *stream, size_t stream_len)
{
    z_stream z = { .next_in = (Bytef *) stream, .avail_in = (uInt) stream_len };
    uint8_t step[16];
    int result = Z_OK;

    g_assert_cmpint(inflateInit2(&z, -12), ==, Z_OK);
    while (result == Z_OK) {
        z.next_out = step;
        z.avail_out = sizeof(step);
        result = inflate(&z, Z_NO_FLUSH);
    }
    inflateEnd(&z);
    return result == Z_STREAM_END && z.avail_in == 0;
}

/*
 * Whatever is accepted reads the same when it is cut at its end, and is not whole when it is cut before that.
 * What zlib accepts reads as zlib has it.
 */
static void try_stream(Qcow2Codec *codec, Qcow2Compression type, const uint8_t *stream, size_t stream_len,
                       size_t cluster_size)
{
    g_autofree uint8_t *cluster = g_malloc(cluster_size), *other = g_malloc(cluster_size);
    g_autoptr(GError) error = NULL;
    size_t used, used_again;
    bool accepted = qcow2_codec_decompress(codec, stream, stream_len, cluster, cluster_size, &used, &error);

    if (accepted) {
        g_assert_cmpuint(used, <=, stream_len);
    } else {
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_CORRUPT);
    }
    if (type == QCOW2_COMPRESSION_ZLIB && zlib_accepts(stream, stream_len, other, cluster_size)) {
        g_assert_true(accepted);
        g_assert_cmpint(memcmp(cluster, other, cluster_size), ==, 0);
    }
    if (accepted && used > 0) {
        g_autofree uint8_t *cut = g_memdup2(stream, used);
        g_assert_true(qcow2_codec_decompress(codec, cut, used, other, cluster_size, &used_again, NULL));
        g_assert_cmpuint(used_again, ==, used);
        g_assert_cmpint(memcmp(cluster, other, cluster_size), ==, 0);
        bool shorter = qcow2_codec_decompress(codec, cut, used - 1, other, cluster_size, &used_again, NULL);
        g_assert_true(!shorter || used_again == 0);
    }
}

static void try_cluster(Qcow2Codec *codec, Qcow2Compression type, const uint8_t *data, size_t size,
                        size_t cluster_size)
{
    g_autofree uint8_t *cluster = g_malloc(cluster_size), *stream = g_malloc(cluster_size);
    g_autofree uint8_t *again = g_malloc(cluster_size);
    size_t len, used;

    for (size_t i = 0; i < cluster_size; i++) {
        cluster[i] = size > 0 ? data[i % size] : 0;
    }
    g_assert_true(qcow2_codec_compress(codec, cluster, cluster_size, stream, cluster_size, &len, NULL));
    if (len > 0) {
        g_assert_cmpuint(len, <, cluster_size);
        g_assert_true(qcow2_codec_decompress(codec, stream, len, again, cluster_size, &used, NULL));
        g_assert_cmpuint(used, ==, len);
        g_assert_cmpint(memcmp(cluster, again, cluster_size), ==, 0);
        g_assert_true(type != QCOW2_COMPRESSION_ZLIB || inflates_with_small_window(stream, len));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    Qcow2Compression type = data[0] & 1 ? QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB;
    size_t cluster_size = (size_t) 512 << data[1] % 8;
    g_autoptr(Qcow2Codec) codec = qcow2_codec_new(type);

    try_stream(codec, type, data + 2, size - 2, cluster_size);
    try_cluster(codec, type, data + 2, size - 2, cluster_size);
    return 0;
}
