/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/image.h"

#include "format/header-switch.h"
#include "image/extent.h"
#include "util/error.h"

typedef bool (*DecodeFunc)(const uint8_t *bytes, size_t len_bytes, Qcow2Header *ret, GError **error);

static bool read_header(Qcow2Io *file, DecodeFunc decode, Qcow2Header *ret, GByteArray *raw, GError **error)
{
    uint64_t file_size, cluster_size;
    uint8_t start[128] = { 0 };

    if (!qcow2_io_get_size(file, &file_size, error) || !qcow2_io_read(file, 0, start, sizeof(start), error)
        || !qcow2_header_cluster_size(start, MIN(file_size, sizeof(start)), &cluster_size, error)) {
        return false;
    }

    size_t len_bytes = MIN(file_size, cluster_size);
    g_autofree uint8_t *bytes = g_try_malloc(len_bytes);
    if (!bytes) {
        return qcow2_fail_memory(error, len_bytes, "the header");
    }
    if (!qcow2_io_read(file, 0, bytes, len_bytes, error)) {
        return false;
    }
    if (raw) {
        g_byte_array_append(raw, bytes, (guint)len_bytes);
    }
    return decode(bytes, len_bytes, ret, error);
}

bool qcow2_image_read_header(Qcow2Io *file, Qcow2Header *ret, GByteArray *raw, GError **error)
{
    return read_header(file, qcow2_header_decode, ret, raw, error);
}

bool qcow2_image_publish_header(Qcow2Io *file, const uint8_t *sector, GError **error)
{
    uint8_t old[QCOW2_HEADER_SECTOR];

    if (!qcow2_io_read(file, 0, old, sizeof(old), error)) {
        return false;
    }
    if (!qcow2_io_write(file, 0, sector, sizeof(old), error)) {
        /* When this fails as well there is nothing left to try; the first error is the one to tell. */
        (void)qcow2_io_write(file, 0, old, sizeof(old), NULL);
        return false;
    }
    return qcow2_io_flush(file, error);
}

static Qcow2Image *open_qcow2(Qcow2Io *file, DecodeFunc decode, GError **error)
{
    g_autoptr(Qcow2Image) image = g_new0(Qcow2Image, 1);

    image->kind = QCOW2_IMAGE_QCOW2;
    image->file = qcow2_io_ref(file);
    if (!read_header(file, decode, &image->header, NULL, error)) {
        return NULL;
    }
    image->size = qcow2_align_down(image->header.size, QCOW2_SECTOR_SIZE);
    if (!image->header.layout.has_data_file) {
        image->data = qcow2_io_ref(file);
    }
    return g_steal_pointer(&image);
}

Qcow2Image *qcow2_image_open(Qcow2Io *file, GError **error)
{
    return open_qcow2(file, qcow2_header_decode, error);
}

Qcow2Image *qcow2_image_open_for_repair(Qcow2Io *file, GError **error)
{
    return open_qcow2(file, qcow2_header_decode_for_repair, error);
}

Qcow2Image *qcow2_image_open_raw(Qcow2Io *file, uint64_t offset, uint64_t size, GError **error)
{
    uint64_t file_size;

    if (!qcow2_io_get_size(file, &file_size, error)) {
        return NULL;
    }
    if (offset > file_size) {
        qcow2_fail(error, QCOW2_ERROR_INVALID,
                   "the raw image starts at 0x%" PRIx64 ", past the end of the file at"
                   " 0x%" PRIx64,
                   offset, file_size);
        return NULL;
    }
    if (size != UINT64_MAX && size > file_size - offset) {
        qcow2_fail(error, QCOW2_ERROR_INVALID,
                   "a raw image of %" PRIu64 " bytes from 0x%" PRIx64 " on does not fit the"
                   " file of %" PRIu64 " bytes",
                   size, offset, file_size);
        return NULL;
    }

    Qcow2Image *image = g_new0(Qcow2Image, 1);
    image->kind = QCOW2_IMAGE_RAW;
    image->file = qcow2_io_ref(file);
    image->data = qcow2_io_ref(file);
    image->raw_offset = offset;
    image->size = size != UINT64_MAX ? size : qcow2_align_up(file_size - offset, QCOW2_SECTOR_SIZE);
    return image;
}

void qcow2_image_free(Qcow2Image *image)
{
    if (!image) {
        return;
    }
    g_clear_pointer(&image->file, qcow2_io_unref);
    g_clear_pointer(&image->data, qcow2_io_unref);
    g_clear_pointer(&image->snapshots, g_array_unref);
    qcow2_header_clear(&image->header);
    g_free(image);
}

void qcow2_image_attach_data(Qcow2Image *image, Qcow2Io *data)
{
    Qcow2Io *before = image->data;

    image->data = qcow2_io_ref(data);
    g_clear_pointer(&before, qcow2_io_unref);
}

bool qcow2_image_needs_data_file(const Qcow2Image *image)
{
    return image->data == NULL;
}

void qcow2_image_cut_data(const Qcow2Image *image)
{
    uint64_t len;

    if (image->kind == QCOW2_IMAGE_QCOW2 && image->header.layout.has_data_file && image->data
        && image->data->writable && qcow2_io_get_size(image->data, &len, NULL) && len > image->size) {
        qcow2_io_truncate(image->data, image->size, NULL);
    }
}

static bool peek_data_file(Qcow2Io *file, const Qcow2Peek *peek, char **ret, GError **error)
{
    g_autofree uint8_t *area = g_malloc(peek->area_len);

    if (!qcow2_io_read(file, 0, area, peek->area_len, error)) {
        return false;
    }
    *ret = qcow2_peek_data_file(area, peek);
    return true;
}

bool qcow2_image_peek(Qcow2Io *file, Qcow2Peek *ret, char **ret_backing, char **ret_data_file,
                      GError **error)
{
    uint8_t bytes[QCOW2_HEADER_PEEK];
    g_autofree char *name = NULL;

    *ret_backing = *ret_data_file = NULL;
    if (!qcow2_io_read(file, 0, bytes, sizeof(bytes), error)) {
        return false;
    }
    if (qcow2_peek_header(bytes, ret)) {
        name = g_malloc0(ret->name_len + 1);
        if (!qcow2_io_read(file, ret->name_offset, name, ret->name_len, error)) {
            return false;
        }
    }
    if (ret->area_len > 0 && !peek_data_file(file, ret, ret_data_file, error)) {
        return false;
    }
    *ret_backing = g_steal_pointer(&name);
    return true;
}
