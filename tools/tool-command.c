/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands there are, the options they share, and what the words on their command lines mean. */
#include <string.h>

#include "tool.h"

/* ---- The commands ------------------------------------------------------------------------------ */

static const ToolText looking[] = {
    { "info", "show what an image, or every image of a chain, says about itself" },
    { "map", "list which file of the chain holds each guest range, and where" },
    { "check", "compare refcounts, tables, snapshots and bitmaps with each other" },
    { "compare", "compare what a guest sees in two images or two states" },
    { "measure", "tell how much space a copy would take" },
    { NULL },
};

static const ToolText making[] = {
    { "copy", "copy images and states, convert, compress and concatenate them" },
    { "create", "make a new image" },
    { "resize", "change the virtual size of an image" },
    { "amend", "change features of an image: version, refcount width, data file" },
    { NULL },
};

static const ToolText keeping[] = {
    { "snapshot", "list, take, apply, delete and rename internal snapshots" },
    { "bitmap", "list, make, merge and remove persistent dirty bitmaps" },
    { "export-delta", "write what changed between two states as a small qcow2 overlay" },
    { "import-delta", "apply a delta to an image, and keep the result as a snapshot" },
    { "externalize", "write internal snapshots as a backing chain of files" },
    { "internalize", "write a backing chain as one image with internal snapshots" },
    { "vmstate", "take the saved state of a VM out of a snapshot, or put it back" },
    { NULL },
};

static const ToolText merging[] = {
    { "plan", "tell what dropping points in time from a chain costs, and do it the cheapest way" },
    { "commit", "merge downward: overlays into an image below them" },
    { "pull", "merge upward: make an image independent of layers below it" },
    { "trim", "drop clusters that read the same without them, and give space back" },
    { "rebase", "give an image another backing file, with the same contents" },
    { NULL },
};

static const ToolGroup groups[] = {
    { "Looking at images", looking },
    { "Making and changing images", making },
    { "Backing chains", merging },
    { "Snapshots and what changed", keeping },
    { NULL },
};

const ToolGroup *tool_command_groups(void)
{
    return groups;
}

const char *tool_command_summary(const char *name)
{
    if (!g_str_has_prefix(name, "qcow-")) {
        return "look at qcow2 images, and merge, compare and export them";
    }
    for (const ToolGroup *group = groups; group->heading; group++) {
        for (const ToolText *line = group->commands; line->term; line++) {
            if (strcmp(line->term, name + strlen("qcow-")) == 0) {
                return line->text;
            }
        }
    }
    return NULL;
}

/* ---- Words ------------------------------------------------------------------------------------- */

typedef struct ToolWord {
    const char *metavariable;
    ToolWordKind kind;
    const char *choices;
} ToolWord;

static const ToolWord words[] = {
    { "FMT", TOOL_WORD_CHOICE, "qcow2 raw" },
    { "CACHE", TOOL_WORD_CHOICE, "writeback none writethrough directsync unsafe" },
    { "human|json", TOOL_WORD_CHOICE, "human json" },
    { "FILE", TOOL_WORD_FILE, NULL },
    { "IMAGE", TOOL_WORD_FILE, NULL },
    { "PREALLOC", TOOL_WORD_CHOICE, "off metadata falloc full" },
    { "OUTPUT", TOOL_WORD_FILE, NULL },
    { "DELTA", TOOL_WORD_FILE, NULL },
    { "FOLDER", TOOL_WORD_FILE, NULL },
    { "LAYER", TOOL_WORD_FILE, NULL },
    { "TOP", TOOL_WORD_FILE, NULL },
    { "TARGET", TOOL_WORD_FILE, NULL },
    { "A", TOOL_WORD_FILE, NULL },
    { "B", TOOL_WORD_FILE, NULL },
    { "STATE", TOOL_WORD_STATE, NULL },
    { "FROM", TOOL_WORD_STATE, NULL },
    { "TO", TOOL_WORD_STATE, NULL },
};

ToolWordKind tool_word_kind(const char *metavariable, const char **ret_choices)
{
    for (size_t i = 0; metavariable && i < G_N_ELEMENTS(words); i++) {
        if (strcmp(words[i].metavariable, metavariable) == 0) {
            *ret_choices = words[i].choices;
            return words[i].kind;
        }
    }
    return TOOL_WORD_OTHER;
}

bool tool_command_takes_states(const ToolCommand *command)
{
    const char *choices;

    for (const char *const *argument = command->arguments; argument && *argument; argument++) {
        if (tool_word_kind(*argument, &choices) == TOOL_WORD_STATE) {
            return true;
        }
    }
    for (const GOptionEntry *entry = command->entries; entry && entry->long_name; entry++) {
        if (tool_word_kind(entry->arg_description, &choices) == TOOL_WORD_STATE) {
            return true;
        }
    }
    return false;
}

/* ---- Shared options ---------------------------------------------------------------------------- */

/* arg_data of a shared option is where its value lies in a Tool; tool_start() adds the Tool's address. */
#define MEMBER(member) ((void *)offsetof(Tool, member))

typedef struct ToolSharedOption {
    ToolShared shared;            /* 0: every command has it */
    ToolSection section;
    GOptionEntry entry;
} ToolSharedOption;

static const ToolSharedOption shared_options[] = {
    { TOOL_FORMAT, TOOL_SECTION_IMAGE,
      { "format", 'f', 0, G_OPTION_ARG_FILENAME, MEMBER(format),
        "Format of the image; probed from its first bytes when not given", "FMT" } },
    { TOOL_IMAGE_OPTS, TOOL_SECTION_IMAGE,
      { "image-opts", 0, 0, G_OPTION_ARG_NONE, MEMBER(image_opts),
        "Image names are written driver=qcow2,file.filename=NAME,... as in QEMU", NULL } },
    { TOOL_FORCE_SHARE, TOOL_SECTION_IMAGE,
      { "force-share", 'U', 0, G_OPTION_ARG_NONE, MEMBER(force_share),
        "Read although a running VM holds the image's locks: snapshots are exact, the active state is "
        "read as it comes", NULL } },
    { TOOL_SOURCE_CACHE, TOOL_SECTION_IMAGE,
      { "source-cache", 'T', 0, G_OPTION_ARG_FILENAME, MEMBER(cache_texts[0]),
        "How images are read: writeback (default), none (direct I/O), ...", "CACHE" } },
    { TOOL_IMAGE, TOOL_SECTION_IMAGE,
      { "object", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, MEMBER(objects),
        "Key material: secret,id=ID,file=PATH or secret,id=ID,data=TEXT", "OBJECT" } },
    { TOOL_IMAGE, TOOL_SECTION_IMAGE,
      { "untrusted", 0, 0, G_OPTION_ARG_NONE, MEMBER(untrusted),
        "Follow no name found inside an image; fail where that would be needed", NULL } },
    { TOOL_TARGET_CACHE, TOOL_SECTION_RUN,
      { "cache", 't', 0, G_OPTION_ARG_FILENAME, MEMBER(cache_texts[1]),
        "How OUTPUT is written: writeback (default), none (direct I/O), writethrough, directsync, "
        "unsafe (no flushes)", "CACHE" } },
    { TOOL_NO_REFLINK, TOOL_SECTION_RUN,
      { "no-reflink", 0, 0, G_OPTION_ARG_NONE, MEMBER(no_reflink),
        "Copy bytes even where the file system could share them", NULL } },
    { TOOL_IMAGE, TOOL_SECTION_RUN,
      { "parallel", 'm', 0, G_OPTION_ARG_FILENAME, MEMBER(threads_text),
        "Worker threads (default: the processors it may use, 16 at most)", "N" } },
    { TOOL_DRY_RUN, TOOL_SECTION_RUN,
      { "dry-run", 0, 0, G_OPTION_ARG_NONE, MEMBER(dry_run),
        "Change nothing; print what would be moved, grown and freed, and whether the space is there",
        NULL } },
    { TOOL_RATE, TOOL_SECTION_RUN,
      { "rate", 0, 0, G_OPTION_ARG_FILENAME, MEMBER(rate_text),
        "Move at most so much a second; K, M, G... are powers of 1024", "BYTES" } },
    { TOOL_PROGRESS, TOOL_SECTION_RUN,
      { "progress", 'p', 0, G_OPTION_ARG_NONE, MEMBER(progress), "Show how far it is", NULL } },
    { TOOL_IMAGE, TOOL_SECTION_RUN,
      { "quiet", 'q', 0, G_OPTION_ARG_NONE, MEMBER(quiet),
        "Print nothing but errors and the data that was asked for", NULL } },
    { TOOL_IMAGE, TOOL_SECTION_RUN,
      { "output", 0, 0, G_OPTION_ARG_FILENAME, MEMBER(output_text),
        "What to print: text for people (default), or JSON", "human|json" } },
    { 0, TOOL_SECTION_RUN,
      { "trace", 0, 0, G_OPTION_ARG_FILENAME, MEMBER(trace),
        "Write one JSON line for each write and flush of an image to FILE", "FILE" } },
    { 0, TOOL_SECTION_RUN,
      { "help", 'h', 0, G_OPTION_ARG_NONE, MEMBER(help), "Show this help", NULL } },
    { 0, TOOL_SECTION_RUN,
      { "version", 0, 0, G_OPTION_ARG_NONE, MEMBER(version), "Show the version", NULL } },
    { 0, TOOL_SECTION_RUN,
      { "generate", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_FILENAME, MEMBER(generate), NULL, NULL } },
};

const char *tool_section_heading(ToolSection section)
{
    static const char *const headings[TOOL_N_SECTIONS] = {
        [TOOL_SECTION_OWN] = "Options",
        [TOOL_SECTION_IMAGE] = "How images are opened",
        [TOOL_SECTION_RUN] = "How the command runs and what it prints",
    };

    return headings[section];
}

GArray *tool_section_entries(const ToolCommand *command, ToolSection section)
{
    GArray *entries = g_array_new(TRUE, TRUE, sizeof(GOptionEntry));

    if (section == TOOL_SECTION_OWN) {
        for (const GOptionEntry *entry = command->entries; entry && entry->long_name; entry++) {
            g_array_append_val(entries, *entry);
        }
        return entries;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(shared_options); i++) {
        const ToolSharedOption *option = &shared_options[i];
        if (option->section == section && (!option->shared || (option->shared & command->shared))) {
            g_array_append_val(entries, option->entry);
        }
    }
    return entries;
}
