/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What -o says about a new image. */
#ifndef QCOW2_IMAGE_CREATE_OPTIONS_H
#define QCOW2_IMAGE_CREATE_OPTIONS_H

#include "format/header.h"

typedef enum {
    QCOW2_PREALLOCATION_OFF,
    QCOW2_PREALLOCATION_METADATA,
    QCOW2_PREALLOCATION_FALLOC,
    QCOW2_PREALLOCATION_FULL,
} Qcow2Preallocation;

/** Each has_… tells that the option was named; its value is otherwise the default that was there before. */
typedef struct Qcow2CreateOptions {
    bool has_size, has_cluster_size, has_version, has_refcount_bits, has_extended_l2, has_lazy_refcounts;
    bool has_compression, has_preallocation, has_data_file_raw, has_nocow, has_extent_size_hint;

    uint64_t size;                  /* bytes */
    uint64_t cluster_size;          /* bytes */
    unsigned version;               /* 2 or 3, from "compat" */
    unsigned refcount_bits;
    bool extended_l2, lazy_refcounts, data_file_raw;
    Qcow2Compression compression;
    Qcow2Preallocation preallocation;
    char *backing_file, *backing_format, *data_file;    /* NULL when not named */
    bool nocow;                     /* of the file: no copy on write, on a file system that has that */
    uint64_t extent_size_hint;      /* of the file: bytes in which XFS shall allocate it */
    GHashTable *given;              /* name -> value as it was given last; NULL when nothing was */
} Qcow2CreateOptions;

/** qcow2_create_options_init: QEMU's defaults; a caller may set its own before it parses. */
void qcow2_create_options_init(Qcow2CreateOptions *options);
void qcow2_create_options_clear(Qcow2CreateOptions *options);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2CreateOptions, qcow2_create_options_clear)

/** Which options there are. */
typedef enum {
    QCOW2_OPTIONS_CREATE,           /* of a new qcow2 image */
    QCOW2_OPTIONS_CREATE_RAW,       /* of a new raw image: a size and how its file is made */
    QCOW2_OPTIONS_AMEND,            /* what can be changed in a qcow2 image */
} Qcow2OptionSet;

/** qcow2_create_options_read: only reads @text, for a caller that has more to say before it checks. */
bool qcow2_create_options_read(const char *text, Qcow2OptionSet set, Qcow2CreateOptions *options,
                               GError **error);

/**
 * qcow2_create_options_parse:
 * @text: "NAME=VALUE,…" as qemu-img reads it: a comma in a value is doubled, of a name that comes twice the
 *        last one counts, a name alone means "on"; NULL for none
 * @options: initialized
 *
 * Options for a qcow2 image, each checked by itself and all of them, with the defaults, against each other.
 *
 * Errors: QCOW2_ERROR_INVALID, for an unknown name with the names that there are; QCOW2_ERROR_UNSUPPORTED for
 * encryption.
 */
bool qcow2_create_options_parse(const char *text, Qcow2CreateOptions *options, GError **error);

/** qcow2_create_options_parse_raw: the same for a raw image, which has a size and preallocation only. */
bool qcow2_create_options_parse_raw(const char *text, Qcow2CreateOptions *options, GError **error);

/** qcow2_create_options_check: whether the values fit each other, for a caller that changed some of them. */
bool qcow2_create_options_check(const Qcow2CreateOptions *options, GError **error);

/** qcow2_create_options_print: "cluster_size=65536 size=…", as qemu-img create shows them; a new string. */
char *qcow2_create_options_print(const Qcow2CreateOptions *options, Qcow2OptionSet set);

/** qcow2_create_options_header: the header of a new image; clear it with qcow2_header_clear(). */
void qcow2_create_options_header(const Qcow2CreateOptions *options, Qcow2Header *ret);

#endif
