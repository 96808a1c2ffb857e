/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header and its extensions. Spec: "Header", "Feature bits", "Header Extensions". */
#ifndef QCOW2_FORMAT_HEADER_H
#define QCOW2_FORMAT_HEADER_H

#include "format/layout.h"
#include "libqcow2.h"

#define QCOW2_MAGIC UINT32_C(0x514649fb)              /* "QFI\xfb" */

#define QCOW2_INCOMPAT_DIRTY        BIT(0)
#define QCOW2_INCOMPAT_CORRUPT      BIT(1)
#define QCOW2_INCOMPAT_DATA_FILE    BIT(2)
#define QCOW2_INCOMPAT_COMPRESSION  BIT(3)
#define QCOW2_INCOMPAT_EXTENDED_L2  BIT(4)
#define QCOW2_INCOMPAT_MERGED       BIT(61)   /* this project's own: see image/mark.h; refused by its name */
#define QCOW2_COMPAT_LAZY_REFCOUNTS BIT(0)
#define QCOW2_AUTOCLEAR_BITMAPS     BIT(0)
#define QCOW2_AUTOCLEAR_RAW_DATA    BIT(1)

#define QCOW2_EXT_END            UINT32_C(0x00000000)
#define QCOW2_EXT_BACKING_FORMAT UINT32_C(0xe2792aca)
#define QCOW2_EXT_FEATURE_NAMES  UINT32_C(0x6803f857)
#define QCOW2_EXT_BITMAPS        UINT32_C(0x23852875)
#define QCOW2_EXT_ENCRYPTION     UINT32_C(0x0537be77)
#define QCOW2_EXT_DATA_FILE      UINT32_C(0x44415441)
#define QCOW2_EXT_MERGED         UINT32_C(0x514d5247) /* "QMRG": ours, see ops/merge-note.c */
#define QCOW2_EXT_DELTA          UINT32_C(0x51444c54) /* "QDLT": ours, see docs/delta-extension.md */

/* QEMU's own limits: what it opens, this library opens. */
#define QCOW2_MAX_L1_BYTES       (UINT64_C(32) << 20)
#define QCOW2_MAX_REFTABLE_BYTES (UINT64_C(8) << 20)
#define QCOW2_MAX_SNAPSHOTS      65536u
#define QCOW2_MAX_BACKING_NAME   1023u
#define QCOW2_MAX_BACKING_FORMAT 15u
#define QCOW2_MAX_BITMAPS        65535u
#define QCOW2_MAX_BITMAP_DIRECTORY_BYTES (UINT64_C(1024) * QCOW2_MAX_BITMAPS)

#define QCOW2_HEADER_MIN 24u                          /* bytes that tell version and cluster size */
#define QCOW2_HEADER_PEEK 80u                         /* and the incompatible features */

typedef enum { QCOW2_CRYPT_NONE = 0, QCOW2_CRYPT_AES = 1, QCOW2_CRYPT_LUKS = 2 } Qcow2Crypt;

/** The values of the header's compression_type. */
typedef enum {
    QCOW2_COMPRESSION_ZLIB = 0,   /* a raw deflate stream with a 4 KiB window */
    QCOW2_COMPRESSION_ZSTD = 1,
} Qcow2Compression;

/** An extension as it stands in the header; unknown ones are kept. */
typedef struct Qcow2HeaderExt {
    uint32_t type;
    GBytes *data;
} Qcow2HeaderExt;

/** A decoded and checked header. */
typedef struct Qcow2Header {
    Qcow2Layout layout;
    uint64_t size;                    /* virtual size, bytes; any number: QEMU cuts it to whole sectors */
    uint32_t header_length;           /* 72 in version 2 */
    GBytes *unknown_fields;           /* what the header has past the fields known here; NULL for none */
    uint64_t incompatible, compatible, autoclear;
    Qcow2Crypt crypt;
    Qcow2Compression compression;
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint64_t snapshots_offset;
    uint32_t n_snapshots;
    uint64_t backing_offset;          /* of the name, in the file; 0 without one */
    uint32_t backing_len;
    char *backing_name;               /* raw bytes, NUL-terminated; NULL without one */

    GArray *extensions;               /* Qcow2HeaderExt, in file order, all of them; NULL for none */
    /* Taken from the extensions; of a type that appears twice the last one counts, as in QEMU: */
    char *backing_format, *data_file; /* NULL when not recorded */
    bool has_bitmaps;                 /* the extension is there and its autoclear bit vouches for it */
    uint32_t n_bitmaps;
    uint64_t bitmap_directory_offset, bitmap_directory_size;
    uint64_t crypt_offset, crypt_len; /* LUKS header inside the file */
} Qcow2Header;

/**
 * qcow2_header_decode:
 * @bytes: the first bytes of the file, at least @len_bytes; pass min(file size, 2 MiB) or what is there.
 *         QCOW2_HEADER_MIN bytes tell the cluster size; the whole first cluster is wanted
 * @ret: free it with qcow2_header_clear(); cleared already when this fails
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED for another format, version or unknown incompatible bits (by the names
 * of the feature name table); QCOW2_ERROR_CORRUPT for a value outside the specification or QEMU's limits.
 */
bool qcow2_header_decode(const uint8_t *bytes, size_t len_bytes, Qcow2Header *ret, GError **error);

/**
 * qcow2_header_decode_for_repair: the same, but a refcount table that cannot be is not there (its length is
 * 0), and of too many snapshots the last ones are not there.
 */
bool qcow2_header_decode_for_repair(const uint8_t *bytes, size_t len_bytes, Qcow2Header *ret, GError **error);
void qcow2_header_clear(Qcow2Header *header);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2Header, qcow2_header_clear)

/** qcow2_header_copy: a header of its own; free it with qcow2_header_clear(). */
void qcow2_header_copy(const Qcow2Header *header, Qcow2Header *ret);

/** qcow2_header_cluster_size: how many bytes to read for the whole header: the cluster size, checked. */
bool qcow2_header_cluster_size(const uint8_t *bytes, size_t len_bytes, uint64_t *ret_size, GError **error);

/**
 * qcow2_header_encode:
 * @room: the cluster that holds the header; zeroed first
 *
 * Writes header, extensions and backing name; header_length, backing_offset and backing_len are computed.
 * First come the extensions that are roots (backing format, bitmaps, encryption, data file), so that they
 * lie in the part that one sector write replaces, then the others; in each group in the order that
 * header->extensions has. The feature name table comes last, and is left out where it does not fit.
 *
 * Errors: QCOW2_ERROR_NO_SPACE when the rest does not fit @room_len bytes; QCOW2_ERROR_INVALID for a
 * backing name longer than QCOW2_MAX_BACKING_NAME.
 */
bool qcow2_header_encode(Qcow2Header *header, uint8_t *room, size_t room_len, GError **error);

/**
 * qcow2_header_set_ext: replaces or adds an extension; NULL data removes it. The fields taken from it
 * follow; set the autoclear bit before the bitmaps extension.
 */
void qcow2_header_set_ext(Qcow2Header *header, uint32_t type, const void *data, size_t len_bytes);

/** qcow2_header_set_feature_names: adds the table that tells other readers what features are called. */
void qcow2_header_set_feature_names(Qcow2Header *header);

#define QCOW2_FEATURE_NAME_MAX 46u     /* bytes; a name of this length has no zero byte behind it */

/**
 * qcow2_header_name_feature: what other readers call an incompatible feature.
 * @mask: its one bit
 * @name: NULL takes it out of the table; of at most QCOW2_FEATURE_NAME_MAX bytes, what is longer is cut
 */
void qcow2_header_name_feature(Qcow2Header *header, uint64_t mask, const char *name);

/** qcow2_header_find_ext: the last one of this type, NULL when there is none; owned by the header. */
GBytes *qcow2_header_find_ext(const Qcow2Header *header, uint32_t type);

#endif
