/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/streams.h"

#include "codec/codec.h"
#include "util/error.h"
#include "util/pool.h"
#include "util/zeros.h"

typedef struct Work {
    const Qcow2StreamRules *rules;
    GArray *streams;
} Work;

/* The bytes of the target cluster. */
static bool read_cluster(const Work *work, Qcow2Reader *reader, const Qcow2Stream *stream, uint8_t *cluster,
                         GError **error)
{
    memset(cluster, 0, work->rules->cluster_size);
    for (guint i = stream->first_extent; i < stream->extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(stream->extents, Qcow2Extent, i);
        uint64_t start = MAX(extent->guest_offset, stream->guest_start);
        uint64_t end = MIN(qcow2_extent_end(extent), stream->guest_end);
        if (start >= end) {
            break;
        }
        if (!qcow2_state_read_extent(work->rules->state, reader, extent, start,
                                     cluster + (start - stream->guest_start), end - start, error)) {
            return false;
        }
    }
    return true;
}

static bool compress(const Work *work, Qcow2Reader *reader, Qcow2Stream *stream, uint8_t *cluster,
                     GError **error)
{
    size_t cluster_size = work->rules->cluster_size;
    g_autofree uint8_t *room = g_try_malloc(cluster_size);
    Qcow2Codec *codec = qcow2_reader_codec(reader, work->rules->compression);
    size_t len;

    if (!room) {
        return qcow2_fail_memory(error, cluster_size, "a compressed cluster");
    }
    if (!qcow2_codec_compress(codec, cluster, cluster_size, room, cluster_size, &len, error)) {
        return false;
    }
    if (len > 0) {
        stream->bytes = g_realloc(g_steal_pointer(&room), len);
        stream->len_bytes = len;
        stream->compressed = true;
    }
    return true;
}

/*
 * The source's own stream. One without an end mark has no length to be cut at, and one that is no smaller
 * than a cluster is not worth its name: these leave no bytes, and the cluster is compressed again.
 */
static bool pass_through(const Work *work, Qcow2Reader *reader, Qcow2Stream *stream, GError **error)
{
    const Qcow2Extent *extent = &g_array_index(stream->extents, Qcow2Extent, stream->first_extent);
    const uint8_t *bytes;
    size_t len;

    bytes = qcow2_reader_stream(reader, qcow2_chain_image(work->rules->state->chain, extent->layer), extent,
                                &len, error);
    if (!bytes) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(work->rules->state->chain, extent->layer));
        return false;
    }
    if (len > 0 && len < work->rules->cluster_size) {
        stream->bytes = g_memdup2(bytes, len);
        stream->len_bytes = len;
        stream->compressed = true;
    }
    return true;
}

static bool make(const Work *work, Qcow2Reader *reader, Qcow2Stream *stream, GError **error)
{
    size_t cluster_size = work->rules->cluster_size;

    if (stream->pass_through && (!pass_through(work, reader, stream, error) || stream->bytes)) {
        return stream->bytes != NULL;
    }
    g_autofree uint8_t *cluster = g_try_malloc(cluster_size);
    if (!cluster) {
        return qcow2_fail_memory(error, cluster_size, "a cluster");
    }
    stream->pass_through = false;
    if (!read_cluster(work, reader, stream, cluster, error)) {
        return false;
    }
    stream->zero = stream->find_zero && qcow2_is_zero(cluster, cluster_size);
    if (!stream->zero && !stream->store && !compress(work, reader, stream, cluster, error)) {
        return false;
    }
    if (!stream->zero && !stream->bytes) {
        stream->bytes = g_steal_pointer(&cluster);
        stream->len_bytes = cluster_size;
    }
    return true;
}

static bool make_one(size_t index, void *data, GError **error)
{
    const Work *work = data;
    Qcow2Reader *reader = qcow2_reader_pool_take(work->rules->readers);
    bool ok = make(work, reader, &g_array_index(work->streams, Qcow2Stream, index), error);

    qcow2_reader_pool_give(work->rules->readers, reader);
    return ok;
}

bool qcow2_streams_make(const Qcow2StreamRules *rules, GArray *streams, GError **error)
{
    Work work = { rules, streams };

    return qcow2_parallel_for(rules->n_threads, streams->len, make_one, &work, error);
}

void qcow2_streams_clear(GArray *streams)
{
    for (guint i = 0; i < streams->len; i++) {
        g_free(g_array_index(streams, Qcow2Stream, i).bytes);
    }
    g_array_set_size(streams, 0);
}
