/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bitmap directory and bitmap tables. Spec: "Bitmaps extension", "Bitmap directory", "Bitmap table". */
#ifndef QCOW2_FORMAT_BITMAP_DIRECTORY_H
#define QCOW2_FORMAT_BITMAP_DIRECTORY_H

#include "format/header.h"

#define QCOW2_BITMAP_IN_USE BIT(0)
#define QCOW2_BITMAP_AUTO   BIT(1)
#define QCOW2_BITMAP_EXTRA_DATA_COMPATIBLE BIT(2)

#define QCOW2_BITMAPS_EXT_LEN 24u

typedef struct Qcow2BitmapEntry {
    char *name;               /* raw bytes, NUL-terminated */
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;
    unsigned granularity_bits;
    uint32_t extra_data_len;  /* unknown data: without the compatible flag the bitmap must not be used */
} Qcow2BitmapEntry;

/**
 * qcow2_bitmap_directory_decode:
 * @bytes: the whole directory of header->bitmap_directory_size bytes
 *
 * Returns: an array of Qcow2BitmapEntry that owns its entries.
 * Errors: QCOW2_ERROR_CORRUPT, with entry and offset.
 */
GArray *qcow2_bitmap_directory_decode(const Qcow2Header *header, const uint8_t *bytes, size_t len_bytes,
                                      GError **error);

/** qcow2_bitmap_directory_new: an empty array of Qcow2BitmapEntry that owns the names in it. */
GArray *qcow2_bitmap_directory_new(void);

/**
 * qcow2_bitmap_directory_encode: the directory of such an array, without extra data.
 * Errors: QCOW2_ERROR_UNSUPPORTED when it would be larger than QEMU reads.
 */
GByteArray *qcow2_bitmap_directory_encode(const GArray *entries, GError **error);

/**
 * qcow2_bitmap_directory_set_tables: other table offsets in a directory; all else stays.
 * Errors: QCOW2_ERROR_CORRUPT when it holds less than @n_bitmaps entries.
 */
bool qcow2_bitmap_directory_set_tables(uint8_t *bytes, size_t len_bytes, const uint64_t *table_offsets,
                                       size_t n_bitmaps, GError **error);

/** qcow2_bitmaps_ext_encode: the header extension that names a directory. */
void qcow2_bitmaps_ext_encode(uint32_t n_bitmaps, uint64_t directory_offset, uint64_t directory_size,
                              uint8_t ret[QCOW2_BITMAPS_EXT_LEN]);

/* QEMU's limits. */
#define QCOW2_MAX_BITMAP_NAME 1023u
#define QCOW2_MAX_BITMAP_BYTES (UINT64_C(512) << 20)
#define QCOW2_MIN_GRANULARITY_BITS 9
#define QCOW2_MAX_GRANULARITY_BITS 31

/* A bitmap table entry. Bits 9-55 are the offset of a cluster of bits; without one bit 0 is their value. */
#define QCOW2_BITMAP_TABLE_OFFSET   UINT64_C(0x00fffffffffffe00)
#define QCOW2_BITMAP_TABLE_ONES     BIT(0)
#define QCOW2_BITMAP_TABLE_RESERVED (~(QCOW2_BITMAP_TABLE_OFFSET | QCOW2_BITMAP_TABLE_ONES))

#endif
