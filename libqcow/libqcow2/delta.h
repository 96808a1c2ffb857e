/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What changed between two states, as a file; snapshots as files, and files as snapshots. */
#ifndef LIBQCOW2_DELTA_H
#define LIBQCOW2_DELTA_H

#include "libqcow2/chain.h"

G_BEGIN_DECLS

/** How a delta is written. All zero: qcow2 with the cluster size and compression type of the source. */
typedef struct Qcow2ExportOptions {
    const char *output_format;      /* "qcow2" (default) or "raw": patch OUTPUT in place */
    const char *create_options;     /* "cluster_size=…,compression_type=…,extended_l2=on", or NULL */
    const char *backing_name;       /* recorded, not opened; NULL for none */
    const char *backing_format;
    bool compress;
    bool compare_data;              /* leave out what was rewritten with the same bytes */
    bool overwrite;                 /* replace OUTPUT if it exists */
    bool no_reflink;
    Qcow2Cache cache;               /* of OUTPUT */
    const char *trace;              /* as in Qcow2OpenOptions, of what is written to OUTPUT */
} Qcow2ExportOptions;

typedef struct Qcow2ExportResult {
    uint64_t bytes;                 /* guest bytes carried, as data or as zeros */
    uint64_t clusters;              /* clusters of OUTPUT that the delta maps */
    uint64_t data_clusters, zero_clusters, compressed_clusters;
    uint64_t bytes_copied, bytes_cloned, bytes_passed_through;
    uint64_t output_size;           /* length of OUTPUT in bytes */
    uint64_t virtual_size;
} Qcow2ExportResult;

/**
 * qcow2_export_delta:
 * @from, @to: two states of one chain
 * @output: a new file; "-" for standard output; with output_format "raw" an existing file or NBD URI
 *
 * Writes what turns @from into @to: over @from, the new overlay reads byte for byte as @to, and it
 * holds nothing else. A state that turns out to have changed under the export makes it fail
 * (QCOW2_ERROR_CHANGED), and no output file is left.
 */
bool qcow2_export_delta(Qcow2State *from, Qcow2State *to, const char *output,
                        const Qcow2ExportOptions *options, Qcow2ExportResult *ret_result,
                        Qcow2Progress *progress, GError **error);

/** qcow2_export_map: the ranges that qcow2_export_delta() would carry; writes nothing. */
bool qcow2_export_map(Qcow2State *from, Qcow2State *to, const Qcow2ExportOptions *options,
                      Qcow2DiffFunc func, void *data, Qcow2Progress *progress, GError **error);

typedef struct Qcow2ImportOptions {
    const char *name;               /* make the imported state an internal snapshot of this name; or NULL */
    bool force;                     /* although the active layer is not what the delta starts from */
    bool no_reflink;
} Qcow2ImportOptions;

typedef struct Qcow2ImportResult {
    uint64_t bytes, clusters, data_clusters, zero_clusters, compressed_clusters;
    uint64_t bytes_copied, bytes_cloned;
    uint64_t virtual_size;
} Qcow2ImportResult;

/**
 * qcow2_import_delta:
 * @chain: opened writable
 * @delta: a file written by qcow2_export_delta(), or "-" for standard input
 *
 * Applies a delta on top of the active layer, which gets the delta's size. All or nothing, also across a
 * crash.
 *
 * Errors: QCOW2_ERROR_INVALID when the delta does not start from the active layer as it is, or a stream is
 * cut or damaged; QCOW2_ERROR_EXISTS when the name is taken, "… already" when the same import was done
 * before.
 */
bool qcow2_import_delta(Qcow2Chain *chain, const char *delta, const Qcow2ImportOptions *options,
                        Qcow2ImportResult *ret_result, Qcow2Progress *progress, GError **error);

/** A state and the file that holds it now. */
typedef struct Qcow2ExternalFile {
    const char *state;              /* "@active" or a snapshot's name */
    const char *file;               /* without the folder */
    const char *vmstate_file;       /* NULL: the snapshot has no VM state */
} Qcow2ExternalFile;
typedef void (*Qcow2ExternalizeFunc)(const Qcow2ExternalFile *file, void *data);

typedef struct Qcow2ExternalizeOptions {
    bool no_reflink;
} Qcow2ExternalizeOptions;

/**
 * qcow2_externalize:
 * @folder: made when it is missing; no file of a name that is needed may be in it
 * @func: may be NULL; called for each file when all are complete
 *
 * Every internal snapshot, in table order, and the active layer as a backing chain: 0001-NAME.qcow2 …
 * active.qcow2, the first backed by the image's own backing file. VM states stand beside, as NAME.vmstate.
 * When anything fails none of the files is left.
 *
 * Errors: QCOW2_ERROR_EXISTS where a file is there.
 */
bool qcow2_externalize(Qcow2Chain *chain, const char *folder, const Qcow2ExternalizeOptions *options,
                       Qcow2ExternalizeFunc func, void *data, Qcow2Progress *progress, GError **error);

typedef struct Qcow2InternalizeOptions {
    bool overwrite;                 /* replace OUTPUT if it exists */
    bool no_reflink;
} Qcow2InternalizeOptions;

/**
 * qcow2_internalize:
 * @chain: a backing chain
 * @output: a new file
 *
 * A backing chain as one image: an internal snapshot for each lower file, the top as the active layer.
 */
bool qcow2_internalize(Qcow2Chain *chain, const char *output, const Qcow2InternalizeOptions *options,
                       Qcow2MoveResult *ret_result, Qcow2Progress *progress, GError **error);

/** qcow2_vmstate_export: the VM state of a snapshot into a new file. */
bool qcow2_vmstate_export(Qcow2Chain *chain, const char *state, const char *file, bool overwrite,
                          Qcow2Progress *progress, GError **error);

/** qcow2_vmstate_import: the bytes of a file become the VM state of a snapshot. All or nothing. */
bool qcow2_vmstate_import(Qcow2Chain *chain, const char *state, const char *file, Qcow2Progress *progress,
                          GError **error);

/** qcow2_vmstate_drop: a snapshot loses its VM state. Errors: QCOW2_ERROR_EXISTS when it has none already. */
bool qcow2_vmstate_drop(Qcow2Chain *chain, const char *state, GError **error);

G_END_DECLS

#endif
