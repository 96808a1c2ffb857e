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
    bool has_compression, has_preallocation, has_data_file_raw;

    uint64_t size;                  /* bytes */
    uint64_t cluster_size;          /* bytes */
    unsigned version;               /* 2 or 3, from "compat" */
    unsigned refcount_bits;
    bool extended_l2, lazy_refcounts, data_file_raw;
    Qcow2Compression compression;
    Qcow2Preallocation preallocation;
    char *backing_file, *backing_format, *data_file;    /* NULL when not named */
} Qcow2CreateOptions;

/** qcow2_create_options_init: QEMU's defaults; a caller may set its own before it parses. */
void qcow2_create_options_init(Qcow2CreateOptions *options);
void qcow2_create_options_clear(Qcow2CreateOptions *options);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2CreateOptions, qcow2_create_options_clear)

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

#endif
