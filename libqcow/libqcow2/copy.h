/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copies of images, states and whole chains. */
#ifndef LIBQCOW2_COPY_H
#define LIBQCOW2_COPY_H

#include "libqcow2/chain.h"

G_BEGIN_DECLS

/**
 * How a copy is made. All zero: raw, as small as it can be, without a look at zeros where extents are shared.
 */
typedef struct Qcow2CopyOptions {
    const char *output_format;      /* "raw" (default) or "qcow2" */
    const char *create_options;     /* those of qemu-img convert -o; or NULL */
    const char *backing_name;       /* recorded; only what differs from it is copied; or NULL */
    const char *backing_format;
    bool compress;
    bool existing;                  /* the target is there, is no smaller, and is written in place */
    bool target_image_opts;         /* with existing: its name is "driver=…,file.filename=…" */
    bool target_is_zero;            /* with existing: it reads as zeros, so that zeros need not be written */
    bool has_sparse_size;
    uint64_t sparse_size;           /* bytes of zeros that are worth a hole, default 4096; 0: everything is
                                       allocated */
    bool salvage;                   /* what cannot be read becomes zeros, with a warning for each */
    bool bitmaps, skip_broken_bitmaps;
    bool resume;                    /* keep what was copied when it is interrupted, and go on with it */
    bool no_reflink;
    bool untrusted;                 /* follow no name found inside the backing file */
    Qcow2Cache cache;               /* of the target */
    const char *trace;              /* as in Qcow2OpenOptions */
    Qcow2WarnFunc warn;             /* may be NULL */
    void *warn_data;
} Qcow2CopyOptions;

typedef struct Qcow2CopyResult {
    uint64_t virtual_size;
    uint64_t output_size;           /* length of the target in bytes; 0 when it was written in place */
    uint64_t bytes_copied, bytes_cloned, bytes_passed_through;
    uint64_t bytes_resumed;         /* guest bytes that an interrupted run had done */
    uint64_t bytes_salvaged;        /* guest bytes that could not be read */
    uint64_t bytes;                 /* guest bytes, as data or as zeros, without those of an interrupted run;
                                       of a chain: bytes of its files */
    uint64_t clusters;              /* that got a new entry in the target; 0 when it has none: raw bytes, or a
                                       file as it is */
} Qcow2CopyResult;

/**
 * qcow2_copy:
 * @sources: states of one chain each, copied one after the other
 * @target: a path or an NBD URI
 *
 * A new file appears under its name, or replaces what has it, when it is whole; a block device, an NBD export
 * and an existing target are written in place.
 */
bool qcow2_copy(Qcow2State *const *sources, size_t n_sources, const char *target,
                const Qcow2CopyOptions *options, Qcow2CopyResult *ret_result, Qcow2Progress *progress,
                GError **error);

/** Qcow2CopyChainFunc: @file, without the folder, is complete. */
typedef void (*Qcow2CopyChainFunc)(const char *layer, const char *file, void *data);

/**
 * qcow2_copy_chain:
 * @folder: made when it is missing; existing files of the needed names are replaced
 * @func: may be NULL
 *
 * Copies each layer, from the lowest on, to a file of the same name in @folder, backed by the copy below it.
 * Internal snapshots, bitmaps and whatever else a layer has are kept.
 */
bool qcow2_copy_chain(Qcow2Chain *chain, const char *folder, const Qcow2CopyOptions *options,
                      Qcow2CopyChainFunc func, void *data, Qcow2CopyResult *ret_result,
                      Qcow2Progress *progress, GError **error);

G_END_DECLS

#endif
