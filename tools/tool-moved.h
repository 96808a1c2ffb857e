/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a command that moved data says about it. */
#ifndef TOOL_MOVED_H
#define TOOL_MOVED_H

#include "tool-dry-run.h"
#include "tool-output.h"
#include "tool-progress.h"

/** tool_json_add_moved: "bytes", "clusters" and their kinds. */
void tool_json_add_moved(GVariantBuilder *object, const Qcow2MoveResult *result);

/** tool_describe_moved: "1.2 GiB, 19200 clusters (…), in 0.52 seconds"; free with g_free(). */
char *tool_describe_moved(const Qcow2MoveResult *result, double seconds);

/** tool_print_moved: the summary. @done: "Image pulled"; NULL: nothing for people, as qemu-img. */
bool tool_print_moved(const Tool *tool, const char *done, const Qcow2MoveResult *result, double seconds);

/**
 * tool_finish_summary:
 * @more: of type a{sv}: what the command adds; consumed; NULL for nothing
 * @moved: NULL when nothing was
 *
 * What follows a success of a command that has nothing to say to people: the summary, with --output=json.
 * Returns: the exit status.
 */
int tool_finish_summary(const Tool *tool, GVariantBuilder *more, const Qcow2MoveResult *moved,
                        double seconds);

/** tool_moved_of: for --dry-run. */
ToolMoved tool_moved_of(const Qcow2MoveResult *result, double seconds);

/**
 * tool_finish_moved:
 * @failure: of the operation; NULL when it succeeded
 * @done: as for tool_print_moved()
 *
 * What follows an operation that changes one image, all or nothing. Returns: the exit status.
 */
int tool_finish_moved(const Tool *tool, ToolProgress *progress, const Qcow2Chain *chain, const char *done,
                      const Qcow2MoveResult *result, const GError *failure);

#endif
