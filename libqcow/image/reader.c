/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/reader.h"

#include "util/bits.h"
#include "util/error.h"

struct Qcow2Reader {
    Qcow2Codec *codecs[2];            /* by Qcow2Compression */
    uint8_t *stream, *cluster;
    size_t stream_room, cluster_room;
    /* The cluster in the buffer: reading one in several parts inflates it once. */
    const Qcow2Image *cached_image;
    uint64_t cached_stream;
    size_t cached_used;               /* the true length of that stream */
};

Qcow2Reader *qcow2_reader_new(void)
{
    return g_new0(Qcow2Reader, 1);
}

void qcow2_reader_free(Qcow2Reader *reader)
{
    if (!reader) {
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(reader->codecs); i++) {
        g_clear_pointer(&reader->codecs[i], qcow2_codec_free);
    }
    g_free(reader->stream);
    g_free(reader->cluster);
    g_free(reader);
}

bool qcow2_image_check_readable(const Qcow2Image *image, GError **error)
{
    if (image->kind == QCOW2_IMAGE_QCOW2 && image->header.crypt != QCOW2_CRYPT_NONE) {
        return qcow2_fail(
            error, QCOW2_ERROR_ENCRYPTED,
            "the image is encrypted (%s): its guest data cannot be read"
            " without a key, and keys are not supported yet; commands that read metadata only work",
            image->header.crypt == QCOW2_CRYPT_LUKS ? "luks" : "aes");
    }
    return true;
}

static bool ensure_room(uint8_t **buffer, size_t *room, size_t needed, GError **error)
{
    if (*room < needed) {
        g_clear_pointer(buffer, g_free);
        *room = 0;
        *buffer = g_try_malloc(needed);
        if (!*buffer) {
            return qcow2_fail_memory(error, needed, "a compressed cluster");
        }
        *room = needed;
    }
    return true;
}

Qcow2Codec *qcow2_reader_codec(Qcow2Reader *reader, Qcow2Compression type)
{
    if (!reader->codecs[type]) {
        reader->codecs[type] = qcow2_codec_new(type);
    }
    return reader->codecs[type];
}

/* Puts the cluster of @extent, inflated, and its stream into the reader's buffers. */
static bool load_cluster(Qcow2Reader *reader, Qcow2Image *image, const Qcow2Extent *extent, GError **error)
{
    size_t cluster_size = image->header.layout.cluster_size;

    if (reader->cached_image == image && reader->cached_stream == extent->host_offset) {
        return true;
    }
    reader->cached_image = NULL;
    if (!ensure_room(&reader->stream, &reader->stream_room, extent->stream_len, error)
        || !ensure_room(&reader->cluster, &reader->cluster_room, cluster_size, error)
        || !qcow2_io_read(image->data, extent->host_offset, reader->stream, extent->stream_len, error)) {
        return false;
    }
    if (!qcow2_codec_decompress(qcow2_reader_codec(reader, image->header.compression), reader->stream,
                                extent->stream_len, reader->cluster, cluster_size, &reader->cached_used,
                                error)) {
        g_prefix_error(error, "guest offset 0x%" PRIx64 ": compressed cluster at 0x%" PRIx64 ": ",
                       qcow2_align_down(extent->guest_offset, cluster_size), extent->host_offset);
        return false;
    }
    reader->cached_image = image;
    reader->cached_stream = extent->host_offset;
    return true;
}

/* Of the cluster that is loaded. */
static bool copy_part(const Qcow2Reader *reader, const Qcow2Image *image, uint64_t guest_offset, void *buffer,
                      size_t len_bytes, GError **error)
{
    uint64_t cluster_size = image->header.layout.cluster_size, skip = guest_offset & (cluster_size - 1);

    if (len_bytes > cluster_size - skip) {
        return qcow2_fail(error, QCOW2_ERROR_FAILED,
                          "%zu bytes at guest offset 0x%" PRIx64 " go past their compressed cluster",
                          len_bytes, guest_offset);
    }
    memcpy(buffer, reader->cluster + skip, len_bytes);
    return true;
}

bool qcow2_reader_read(Qcow2Reader *reader, Qcow2Image *image, const Qcow2Extent *extent,
                       uint64_t guest_offset, void *buffer, size_t len_bytes, GError **error)
{
    switch ((Qcow2ExtentKind)extent->kind) {
    case QCOW2_EXTENT_UNALLOCATED:
    case QCOW2_EXTENT_ZERO:
        memset(buffer, 0, len_bytes);
        return true;
    case QCOW2_EXTENT_DATA:
        return qcow2_image_check_readable(image, error)
            && qcow2_io_read(image->data, extent->host_offset + (guest_offset - extent->guest_offset), buffer,
                             len_bytes, error);
    case QCOW2_EXTENT_COMPRESSED:
        if (!qcow2_image_check_readable(image, error) || !load_cluster(reader, image, extent, error)) {
            return false;
        }
        return copy_part(reader, image, guest_offset, buffer, len_bytes, error);
    }
    return qcow2_fail(error, QCOW2_ERROR_FAILED, "extent of unknown kind %u", extent->kind);
}

const uint8_t *qcow2_reader_stream(Qcow2Reader *reader, Qcow2Image *image, const Qcow2Extent *extent,
                                   size_t *ret_len, GError **error)
{
    if (!qcow2_image_check_readable(image, error) || !load_cluster(reader, image, extent, error)) {
        return NULL;
    }
    *ret_len = reader->cached_used;
    return reader->stream;
}
