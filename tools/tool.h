/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands share: a Tool is one run of a command, with its options and its way to speak. */
#ifndef TOOL_H
#define TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "libqcow2.h"
#include "tool-argv.h"
#include "tool-command.h"

typedef struct Tool {
    const ToolCommand *command;
    char **arguments;             /* what is left after the options; NULL-terminated */
    unsigned n_arguments;
    ToolOrder order;

    /* The shared options. */
    char *format;
    gboolean image_opts, force_share, untrusted, quiet, progress, no_reflink, dry_run;
    bool json;                    /* --output=json */
    Qcow2Cache source_cache, target_cache;
    uint64_t rate;                /* bytes a second, 0: no limit */
    unsigned n_threads;           /* 0: as many as the processors */

    /* Option texts as given; tool_start() reads them. */
    char *cache_texts[2];         /* -T, -t */
    char *rate_text, *threads_text, *output_text, *generate;
    char *trace;                  /* its file is empty when tool_start() returns */
    char **objects;
    gboolean help, version;
} Tool;

void tool_clear(Tool *tool);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Tool, tool_clear)

/**
 * tool_start:
 * @tool: all zero
 *
 * Parses the command line. Does not return for --help, --version, --generate and wrong usage.
 */
void tool_start(Tool *tool, const ToolCommand *command, int argc, char **argv);

/** tool_usage: ends the process for wrong usage, with a hint to --help. */
void tool_usage(const Tool *tool, const char *format, ...) G_GNUC_PRINTF(2, 3) G_GNUC_NORETURN;

/**
 * tool_open:
 * @format: NULL to probe
 *
 * Opens an image as the shared options say; the library's warnings go to standard error.
 */
Qcow2Chain *tool_open(const Tool *tool, const char *image, const char *format, GError **error);

/** tool_open_writable: the same for a command that changes the image. Errors: QCOW2_ERROR_INVALID with -U. */
Qcow2Chain *tool_open_writable(const Tool *tool, const char *image, const char *format, GError **error);

/** tool_open_exclusive: the same for a command that moves what readers with -U may be reading. */
Qcow2Chain *tool_open_exclusive(const Tool *tool, const char *image, const char *format, GError **error);

/**
 * tool_open_repairable: the same for qcow2_repair(), with the cache mode of -T, as in qemu-img check.
 * Errors: QCOW2_ERROR_INVALID with -U.
 */
Qcow2Chain *tool_open_repairable(const Tool *tool, const char *image, const char *format, GError **error);

/** tool_open_options: the same options for an operation that opens the images itself. */
Qcow2OpenOptions tool_open_options(const Tool *tool, const char *format);

/**
 * tool_snapshot_name:
 * @text: of -l: "snapshot.id=ID", "snapshot.name=NAME" as qemu-img takes them, or a state
 *
 * Returns: a name for qcow2_state_open(); NULL with an error for an unknown key.
 */
char *tool_snapshot_name(const char *text, GError **error);

/**
 * tool_gather_list:
 * @list: the values of an option that may be given again, or NULL
 *
 * In "--option FILE FILE... IMAGE" and "IMAGE --option FILE FILE..." all arguments but IMAGE belong to the
 * option. More than one argument is wrong usage without the option, and where IMAGE is neither.
 */
void tool_gather_list(Tool *tool, char ***list);

/** tool_join_options: the values of a repeated -o as one; NULL when there are none. */
char *tool_join_options(char **values);

#endif
