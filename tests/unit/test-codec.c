/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compressed clusters. zlib and zstd, called as QEMU calls them, are the judges. */
#include "codec/codec.h"

#include <zlib.h>
#include <zstd.h>

#define MAX_CLUSTER (UINT64_C(2) << 20)
#define CANARY 0xc5
#define CANARY_LEN 64u
#define ROOM_SLACK 17u           /* ISA-L writes 8 bytes at a time and stops before they could not fit */

typedef enum { ZEROS, TEXT, FAR_REPEATS, NOISE, MIXED, N_KINDS } Kind;

static const Qcow2Compression types[] = { QCOW2_COMPRESSION_ZLIB, QCOW2_COMPRESSION_ZSTD };

static void fill_random(GRand *rand, uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t) g_rand_int_range(rand, 0, 256);
    }
}

static void fill_text(GRand *rand, uint8_t *bytes, size_t len)
{
    static const char *const words[] = {
        "cluster ", "the ", "refcount ", "of ", "a ", "table\n", "snapshot ", "is ",
    };

    for (size_t i = 0; i < len;) {
        const char *word = words[g_rand_int_range(rand, 0, G_N_ELEMENTS(words))];
        size_t len_word = MIN(strlen(word), len - i);
        memcpy(bytes + i, word, len_word);
        i += len_word;
    }
}

/* Noise that comes again after more than 4 KiB: worth a match only to who looks back too far. */
static void fill_far_repeats(GRand *rand, uint8_t *bytes, size_t len)
{
    size_t period = (size_t) g_rand_int_range(rand, 4097, 9000);

    fill_random(rand, bytes, MIN(period, len));
    for (size_t i = period; i < len; i++) {
        bytes[i] = bytes[i - period];
    }
}

static void fill(GRand *rand, Kind kind, uint8_t *bytes, size_t len)
{
    switch (kind) {
    case ZEROS:
        memset(bytes, 0, len);
        break;
    case TEXT:
        fill_text(rand, bytes, len);
        break;
    case FAR_REPEATS:
        fill_far_repeats(rand, bytes, len);
        break;
    case NOISE:
        fill_random(rand, bytes, len);
        break;
    default:
        fill_text(rand, bytes, len / 2);
        fill_random(rand, bytes + len / 2, len / 4);
        fill_far_repeats(rand, bytes + len / 2 + len / 4, len - len / 2 - len / 4);
        break;
    }
}

/* Room for @len bytes and a canary behind it. */
static uint8_t *new_room(size_t len)
{
    uint8_t *room = g_malloc(len + CANARY_LEN);

    memset(room, CANARY, len + CANARY_LEN);
    return room;
}

static void check_canary(const uint8_t *room, size_t len)
{
    for (size_t i = 0; i < CANARY_LEN; i++) {
        g_assert_cmphex(room[len + i], ==, CANARY);
    }
}

/* Inflates in steps too small to see more than the window and a little: zlib then refuses what is farther. */
static bool inflates_with_small_window(const uint8_t *stream, size_t stream_len, size_t cluster_size)
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
    bool good = result == Z_STREAM_END && z.total_out == cluster_size && z.total_in == stream_len;
    inflateEnd(&z);
    return good;
}

/* What the codec makes of bytes that can be compressed. */
static size_t compress_whole(Qcow2Codec *codec, const uint8_t *cluster, size_t cluster_size,
                             uint8_t *stream, size_t room)
{
    g_autoptr(GError) error = NULL;
    size_t len;

    qcow2_codec_compress(codec, cluster, cluster_size, stream, room, &len, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(len, >, 0);
    return len;
}

/* What zlib makes of @cluster; @flush says whether the stream gets its end. Returns its length. */
static size_t zlib_compress(const uint8_t *cluster, size_t len, int window_bits, int flush,
                            uint8_t *stream, size_t room)
{
    z_stream z = { 0 };
    int started = deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY);

    g_assert_cmpint(started, ==, Z_OK);
    z.next_in = (Bytef *) cluster;
    z.avail_in = (uInt) len;
    z.next_out = stream;
    z.avail_out = (uInt) room;
    g_assert_cmpint(deflate(&z, flush), ==, flush == Z_FINISH ? Z_STREAM_END : Z_OK);
    size_t stream_len = z.total_out;
    deflateEnd(&z);
    return stream_len;
}

static bool decompresses(Qcow2Codec *codec, const uint8_t *stream, size_t stream_len,
                         const uint8_t *expected, size_t cluster_size, size_t *ret_used)
{
    g_autofree uint8_t *cluster = new_room(cluster_size);
    g_autoptr(GError) error = NULL;
    bool done = qcow2_codec_decompress(codec, stream, stream_len, cluster, cluster_size, ret_used, &error);

    check_canary(cluster, cluster_size);
    if (!done) {
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_CORRUPT);
        return false;
    }
    g_assert_no_error(error);
    g_assert_cmpint(memcmp(cluster, expected, cluster_size), ==, 0);
    return true;
}

/* ---- What we compress ---------------------------------------------------------------------------- */

static void check_round_trip(Qcow2Codec *codec, Qcow2Compression type, GRand *rand, Kind kind,
                             size_t cluster_size)
{
    g_autofree uint8_t *cluster = g_malloc(cluster_size);
    g_autofree uint8_t *stream = new_room(cluster_size + 512);
    size_t len, used;

    fill(rand, kind, cluster, cluster_size);
    g_assert_true(qcow2_codec_compress(codec, cluster, cluster_size, stream, cluster_size, &len, NULL));
    for (size_t i = MAX(len, cluster_size - 1); i < cluster_size + 512; i++) {
        g_assert_cmphex(stream[i], ==, CANARY);
    }
    if (len == 0) {
        g_assert_true(kind == NOISE || kind == FAR_REPEATS || cluster_size <= 1024);
        return;
    }
    g_assert_cmpuint(len, <, cluster_size);

    /* A neighbour follows: its bytes are not taken. */
    fill_random(rand, stream + len, 512);
    g_assert_true(decompresses(codec, stream, len + 512, cluster, cluster_size, &used));
    g_assert_cmpuint(used, ==, len);
    if (type == QCOW2_COMPRESSION_ZLIB) {
        g_assert_true(inflates_with_small_window(stream, len, cluster_size));
    }
}

static void test_round_trip(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (size_t t = 0; t < G_N_ELEMENTS(types); t++) {
        g_autoptr(Qcow2Codec) codec = qcow2_codec_new(types[t]);
        for (size_t size = 512; size <= MAX_CLUSTER; size *= 2) {
            for (int kind = 0; kind < N_KINDS; kind++) {
                check_round_trip(codec, types[t], rand, (Kind) kind, size);
            }
        }
    }
}

static void test_many_small_windows(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    g_autoptr(Qcow2Codec) codec = qcow2_codec_new(QCOW2_COMPRESSION_ZLIB);

    for (int i = 0; i < 3000; i++) {
        size_t size = (size_t) 512 << g_rand_int_range(rand, 0, 8);
        Kind kind = (Kind) g_rand_int_range(rand, 0, N_KINDS);
        check_round_trip(codec, QCOW2_COMPRESSION_ZLIB, rand, kind, size);
    }
}

/* The judge of windows itself: it refuses a stream that looks back too far. */
static void test_small_window_judge(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    uint8_t cluster[65536], stream[70000];

    fill_far_repeats(rand, cluster, sizeof(cluster));
    size_t len = zlib_compress(cluster, sizeof(cluster), -15, Z_FINISH, stream, sizeof(stream));
    g_assert_false(inflates_with_small_window(stream, len, sizeof(cluster)));
    len = zlib_compress(cluster, sizeof(cluster), -12, Z_FINISH, stream, sizeof(stream));
    g_assert_true(inflates_with_small_window(stream, len, sizeof(cluster)));
}

static void test_room(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(4);
    uint8_t cluster[4096];

    fill(rand, TEXT, cluster, sizeof(cluster));
    for (size_t t = 0; t < G_N_ELEMENTS(types); t++) {
        g_autoptr(Qcow2Codec) codec = qcow2_codec_new(types[t]);
        uint8_t whole[4096];
        size_t len_whole = compress_whole(codec, cluster, sizeof(cluster), whole, sizeof(whole)), len;

        for (size_t room_len = 0; room_len <= len_whole + ROOM_SLACK; room_len++) {
            g_autofree uint8_t *room = new_room(room_len);
            g_assert_true(qcow2_codec_compress(codec, cluster, sizeof(cluster), room, room_len, &len, NULL));
            check_canary(room, room_len);
            g_assert_true(len == 0 || (len == len_whole && room_len > len));
            g_assert_true(len > 0 || room_len < len_whole + ROOM_SLACK);
        }
    }
}

/* ---- What we decompress -------------------------------------------------------------------------- */

static void test_no_end_mark(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    g_autoptr(Qcow2Codec) codec = qcow2_codec_new(QCOW2_COMPRESSION_ZLIB);
    uint8_t cluster[8192], stream[10000] = { 0 };
    size_t used = 1;

    fill(rand, TEXT, cluster, sizeof(cluster));
    size_t len = zlib_compress(cluster, sizeof(cluster), -12, Z_SYNC_FLUSH, stream, sizeof(stream));
    g_assert_true(decompresses(codec, stream, len, cluster, sizeof(cluster), &used));
    g_assert_cmpuint(used, ==, 0);

    /* The same when it goes on: QEMU takes the first cluster of it. */
    used = 1;
    len = zlib_compress(cluster, sizeof(cluster), -12, Z_FINISH, stream, sizeof(stream));
    g_assert_true(decompresses(codec, stream, len, cluster, 4096, &used));
    g_assert_cmpuint(used, ==, 0);
}

static void test_truncated(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(6);
    uint8_t cluster[4096], stream[4096];

    fill(rand, MIXED, cluster, sizeof(cluster));
    for (size_t t = 0; t < G_N_ELEMENTS(types); t++) {
        g_autoptr(Qcow2Codec) codec = qcow2_codec_new(types[t]);
        size_t len = compress_whole(codec, cluster, sizeof(cluster), stream, sizeof(stream)), used = 1;

        for (size_t cut = 0; cut < len; cut++) {
            bool whole = decompresses(codec, stream, cut, cluster, sizeof(cluster), &used);
            /* Only the end mark of a deflate stream can be missed, and then it is known to be. */
            g_assert_true(!whole || (types[t] == QCOW2_COMPRESSION_ZLIB && cut + 4 >= len && used == 0));
        }
    }
}

static void test_short_output(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    uint8_t cluster[8192], stream[8192];

    fill(rand, TEXT, cluster, sizeof(cluster));
    for (size_t t = 0; t < G_N_ELEMENTS(types); t++) {
        g_autoptr(Qcow2Codec) codec = qcow2_codec_new(types[t]);
        size_t len = compress_whole(codec, cluster, 8191, stream, sizeof(stream));

        memset(stream + len, 0, sizeof(stream) - len);
        g_assert_true(decompresses(codec, stream, len, cluster, 8191, NULL));
        g_assert_false(decompresses(codec, stream, len, cluster, 8192, NULL));
        g_assert_false(decompresses(codec, stream, sizeof(stream), cluster, 8192, NULL));
    }
}

/* A stream of two megabytes where a cluster of 512 bytes should be. */
static void test_bomb(void)
{
    g_autofree uint8_t *zeros = g_malloc0(MAX_CLUSTER);
    g_autofree uint8_t *stream = g_malloc(MAX_CLUSTER);

    for (size_t t = 0; t < G_N_ELEMENTS(types); t++) {
        g_autoptr(Qcow2Codec) codec = qcow2_codec_new(types[t]);
        size_t len = compress_whole(codec, zeros, MAX_CLUSTER, stream, MAX_CLUSTER);

        bool accepted = decompresses(codec, stream, len, zeros, 512, NULL);
        g_assert_true(accepted == (types[t] == QCOW2_COMPRESSION_ZLIB));    /* as QEMU */
    }
}

/* What QEMU's inflate call says about a stream. */
static bool zlib_accepts(const uint8_t *stream, size_t stream_len, uint8_t *cluster, size_t cluster_size)
{
    z_stream z = { .next_in = (Bytef *) stream, .avail_in = (uInt) stream_len,
                   .next_out = cluster, .avail_out = (uInt) cluster_size };

    g_assert_cmpint(inflateInit2(&z, -12), ==, Z_OK);
    int result = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    return (result == Z_STREAM_END || result == Z_BUF_ERROR) && z.avail_out == 0;
}

/* Whatever QEMU reads from a damaged stream, we read the same bytes. */
static void test_damaged(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(8);
    uint8_t cluster[4096], stream[4096], judged[4096];
    unsigned n_accepted = 0;

    for (size_t t = 0; t < G_N_ELEMENTS(types); t++) {
        g_autoptr(Qcow2Codec) codec = qcow2_codec_new(types[t]);
        for (int i = 0; i < 5000; i++) {
            fill(rand, i % 2 ? TEXT : MIXED, cluster, sizeof(cluster));
            size_t len = compress_whole(codec, cluster, sizeof(cluster), stream, sizeof(stream));
            stream[g_rand_int_range(rand, 0, (gint32) len)] ^= (uint8_t) (1u << g_rand_int_range(rand, 0, 8));

            if (types[t] == QCOW2_COMPRESSION_ZLIB) {
                if (zlib_accepts(stream, len, judged, sizeof(judged))) {
                    g_assert_true(decompresses(codec, stream, len, judged, sizeof(judged), NULL));
                    n_accepted++;
                }
            } else {
                g_autofree uint8_t *room = new_room(sizeof(cluster));
                qcow2_codec_decompress(codec, stream, len, room, sizeof(cluster), NULL, NULL);
                check_canary(room, sizeof(cluster));
            }
        }
    }
    g_assert_cmpuint(n_accepted, >, 0);
}

static size_t add_frame(uint8_t *stream, size_t room, const uint8_t *bytes, size_t len)
{
    size_t frame_len = ZSTD_compress(stream, room, bytes, len, 3);

    g_assert_false(ZSTD_isError(frame_len));
    return frame_len;
}

static void test_zstd_frames(void)
{
    static const uint8_t skippable[] = { 0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c' };
    g_autoptr(GRand) rand = g_rand_new_with_seed(9);
    g_autoptr(Qcow2Codec) codec = qcow2_codec_new(QCOW2_COMPRESSION_ZSTD);
    uint8_t cluster[8192], stream[20000];
    size_t used, len = 0;

    fill(rand, TEXT, cluster, sizeof(cluster));
    len += add_frame(stream, sizeof(stream), cluster, 1000);
    memcpy(stream + len, skippable, sizeof(skippable));
    len += sizeof(skippable);
    len += add_frame(stream + len, sizeof(stream) - len, cluster, 0);
    len += add_frame(stream + len, sizeof(stream) - len, cluster + 1000, 7192);
    size_t len_behind = len + add_frame(stream + len, sizeof(stream) - len, cluster, 100);
    g_assert_true(decompresses(codec, stream, len_behind, cluster, sizeof(cluster), &used));
    g_assert_cmpuint(used, ==, len);

    /* A frame that passes the end of the cluster is damage to QEMU, other than in a deflate stream. */
    g_assert_false(decompresses(codec, stream, len_behind, cluster, 8000, NULL));
    g_assert_false(decompresses(codec, stream, 0, cluster, sizeof(cluster), NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/codec/what is compressed comes back, up to its true end", test_round_trip);
    g_test_add_func("/codec/deflate looks back 4 KiB at most", test_many_small_windows);
    g_test_add_func("/codec/the judge of windows refuses 32 KiB", test_small_window_judge);
    g_test_add_func("/codec/a stream that is not smaller than its room is none", test_room);
    g_test_add_func("/codec/a full cluster without end mark is read, its end unknown", test_no_end_mark);
    g_test_add_func("/codec/a truncated stream is corrupt", test_truncated);
    g_test_add_func("/codec/a stream that does not fill the cluster is corrupt", test_short_output);
    g_test_add_func("/codec/a bomb stays inside the cluster", test_bomb);
    g_test_add_func("/codec/a damaged stream reads as in QEMU", test_damaged);
    g_test_add_func("/codec/zstd frames fill a cluster together", test_zstd_frames);
    return g_test_run();
}
