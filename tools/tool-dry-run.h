/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What --dry-run prints. */
#ifndef TOOL_DRY_RUN_H
#define TOOL_DRY_RUN_H

#include "tool.h"

/** What the operation said about itself. */
typedef struct ToolMoved {
    uint64_t bytes;               /* of the guest; all are 0 for a change of metadata alone */
    uint64_t data_clusters, zero_clusters, compressed_clusters;
    bool cuts;                    /* the file may get shorter */
    uint64_t file_size_before, file_size;
    double seconds;               /* that the dry run took */
    bool may_preserve;            /* whether there can be: */
    uint64_t bytes_preserved;     /* of the guest, copied into other images that shall read the same */
} ToolMoved;

/**
 * tool_finish_dry_run:
 * @chain: opened with --dry-run; the operation on it has succeeded
 * @image: for the message when there is too little space
 *
 * Prints the summary. Returns: the exit status, 1 when the space is not there.
 */
int tool_finish_dry_run(const Tool *tool, const Qcow2Chain *chain, const char *image, const ToolMoved *moved);

/** tool_print_dry_run: the same when the operation opened the chain itself. */
int tool_print_dry_run(const Tool *tool, const Qcow2DryRun *run, const char *image, const ToolMoved *moved);

#endif
