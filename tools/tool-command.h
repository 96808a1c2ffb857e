/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a command is, as one table. Option parsing, --help, the man page and bash completion are all made
 * from it, so they cannot disagree.
 */
#ifndef TOOL_COMMAND_H
#define TOOL_COMMAND_H

#include <glib.h>
#include <stdbool.h>

/* Options that several commands have; a command names those that mean something for it. */
typedef enum {
    TOOL_FORMAT       = 1 << 0,   /* -f */
    TOOL_IMAGE_OPTS   = 1 << 1,
    TOOL_FORCE_SHARE  = 1 << 2,   /* -U */
    TOOL_SOURCE_CACHE = 1 << 3,   /* -T */
    TOOL_TARGET_CACHE = 1 << 4,   /* -t */
    TOOL_IMAGE        = 1 << 5,   /* --object, --untrusted, -m, -q, --output: whatever opens an image */
    TOOL_PROGRESS     = 1 << 6,   /* -p */
    TOOL_RATE         = 1 << 7,
    TOOL_NO_REFLINK   = 1 << 8,
    TOOL_DRY_RUN      = 1 << 9,

    /* What every command that looks at an image has. */
    TOOL_LOOKS = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_FORCE_SHARE | TOOL_IMAGE,
} ToolShared;

/* A line of a small table in help and man page: an exit code or an example, and what it stands for. */
typedef struct ToolText {
    const char *term, *text;
} ToolText;

typedef struct ToolCommand {
    const char *name;               /* "qcow-map" */
    const char *const *synopses;    /* each without the name: "[OPTION...] IMAGE"; NULL ends the list */
    const char *const *arguments;   /* "IMAGE", "FROM"…: for completion; NULL ends the list */
    unsigned min_arguments, max_arguments;
    const char *arguments_error;    /* said when there are too few or too many */
    const char *description;        /* two or three sentences for --help and the man page */
    const char *const *notes;       /* paragraphs for the man page alone; may be NULL */
    const GOptionEntry *entries;    /* the command's own options; text arguments are raw bytes */
    ToolShared shared;
    const ToolText *exit_codes;     /* a NULL term ends these lists */
    const ToolText *examples;       /* term: the command line; text: what it is for, behind "To " */
    int usage_status;               /* exit code of wrong usage */
} ToolCommand;

/* The commands of one heading of `qcow`, each with one line on what it does. */
typedef struct ToolGroup {
    const char *heading;
    const ToolText *commands;       /* term: without "qcow-" */
} ToolGroup;

/** tool_command_groups: all commands there are, for `qcow` alone; a NULL heading ends the list. */
const ToolGroup *tool_command_groups(void);

/** tool_command_summary: one line on the command @name, such as "qcow-map". */
const char *tool_command_summary(const char *name);

/** tool_command_takes_states: does an option or an argument of @command name a state? */
bool tool_command_takes_states(const ToolCommand *command);

/* What a word on the command line is, told by how help calls it (the metavariable). */
typedef enum {
    TOOL_WORD_OTHER,      /* a number, a name: nothing to offer */
    TOOL_WORD_FILE,
    TOOL_WORD_STATE,
    TOOL_WORD_CHOICE,     /* one of a few words */
} ToolWordKind;

/** tool_word_kind: @ret_choices: the words of a CHOICE, separated by spaces; static */
ToolWordKind tool_word_kind(const char *metavariable, const char **ret_choices);

/* Headings under which help and man page list the shared options. */
typedef enum {
    TOOL_SECTION_OWN,
    TOOL_SECTION_IMAGE,
    TOOL_SECTION_RUN,
    TOOL_N_SECTIONS,
} ToolSection;

const char *tool_section_heading(ToolSection section);

/** tool_section_entries: a GOptionEntry array of what @command has there; free it with g_array_unref(). */
GArray *tool_section_entries(const ToolCommand *command, ToolSection section);

/* What --generate makes; all print to standard output. */
void tool_print_help(const ToolCommand *command);
void tool_print_man(const ToolCommand *command);
void tool_print_completion(const ToolCommand *command);

#endif
