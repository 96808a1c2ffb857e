/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest bytes from extents of an image. */
#ifndef QCOW2_IMAGE_READER_H
#define QCOW2_IMAGE_READER_H

#include "codec/codec.h"
#include "image/extent.h"
#include "image/image.h"

/** What one thread needs to read extents: buffers and codecs, made at their first use. */
typedef struct Qcow2Reader Qcow2Reader;
Qcow2Reader *qcow2_reader_new(void);
void qcow2_reader_free(Qcow2Reader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Reader, qcow2_reader_free)

/**
 * qcow2_reader_read:
 * @extent: of @image; the range [guest_offset, guest_offset + len_bytes) lies within it
 *
 * The bytes a guest reads there; zeros for ZERO and UNALLOCATED.
 *
 * Errors: QCOW2_ERROR_ENCRYPTED; QCOW2_ERROR_CORRUPT for a damaged stream; what the file reports.
 */
bool qcow2_reader_read(Qcow2Reader *reader, Qcow2Image *image, const Qcow2Extent *extent,
                       uint64_t guest_offset, void *buffer, size_t len_bytes, GError **error);

/**
 * qcow2_reader_stream:
 * @extent: a COMPRESSED extent
 * @ret_len: the true length of the stream, found by inflating it
 *
 * Returns: the stream, owned by the reader, valid until its next use. No byte of a neighbour is in it.
 */
const uint8_t *qcow2_reader_stream(Qcow2Reader *reader, Qcow2Image *image, const Qcow2Extent *extent,
                                   size_t *ret_len, GError **error);

/** qcow2_reader_codec: this reader's codec of a type, for compressing too; owned by the reader. */
Qcow2Codec *qcow2_reader_codec(Qcow2Reader *reader, Qcow2Compression type);

/** qcow2_image_check_readable: guest data of an encrypted image needs a key. */
bool qcow2_image_check_readable(const Qcow2Image *image, GError **error);

#endif
