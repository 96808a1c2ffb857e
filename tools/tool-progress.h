/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Progress on the screen, and signals: SIGUSR1 asks how far it is, SIGINT and SIGTERM stop. */
#ifndef TOOL_PROGRESS_H
#define TOOL_PROGRESS_H

#include "tool.h"

typedef struct ToolProgress ToolProgress;

/** tool_progress_catch_early: SIGPIPE becomes an error of write(), and an early SIGUSR1 kills nobody. */
void tool_progress_catch_early(void);

/**
 * tool_progress_start:
 * @stdout_taken: standard output carries data or JSON, so progress goes to standard error
 *
 * From here to tool_progress_free() signals cancel the operation instead of killing the process.
 */
ToolProgress *tool_progress_start(const Tool *tool, bool stdout_taken);

/** tool_progress_get: for the library. */
Qcow2Progress *tool_progress_get(ToolProgress *progress);

/** tool_progress_end: ends the progress line; to be called before anything else is printed. */
void tool_progress_end(ToolProgress *progress);

/**
 * tool_progress_interrupted:
 * @how_to_go_on: "the same command starts again", said after "interrupted: "
 *
 * After a failure: when a signal asked for it, says so and returns 130 or 143; else returns 0.
 */
int tool_progress_interrupted(ToolProgress *progress, const Tool *tool, const GError *error,
                              const char *how_to_go_on);

/** tool_progress_seconds: since the start. */
double tool_progress_seconds(const ToolProgress *progress);

void tool_progress_free(ToolProgress *progress);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ToolProgress, tool_progress_free)

#endif
