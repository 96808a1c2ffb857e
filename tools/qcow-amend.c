/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-amend: other features for an image that is there. */
#include "tool-moved.h"

static char **amend_options;
static gboolean force, unmark;

static const GOptionEntry entries[] = {
    { "options", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &amend_options,
      "What shall be otherwise: compat=...,refcount_bits=...", "OPTIONS" },
    { "force", 0, 0, G_OPTION_ARG_NONE, &force,
      "Allow what may lose the key of an encrypted image; nothing here does", NULL },
    { "unmark", 0, 0, G_OPTION_ARG_NONE, &unmark,
      "Remove the mark of a layer that qcow-commit merged into one below it", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-amend",
    .synopses = (const char *const[]) { "[OPTION...] -o OPTIONS IMAGE", "[OPTION...] --unmark IMAGE",
                                                  NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Changes features of a qcow2 image in place: the version of the format, the width of its refcounts, "
        "lazy refcounts, the name of its data file.",
    .notes = (const char *const[]) {
        "compat=1.1 or compat=0.10: the version. Version 0.10 has no zero clusters: they become unallocated, "
        "or written zeros where a backing file would show. An image is refused that holds what 0.10 cannot: "
        "dirty bitmaps, a data file, extended L2 entries, refcounts of another width than 16 bits (give "
        "refcount_bits=16 as well), zstd-compressed clusters, snapshots of another size. Lazy refcounts are "
        "turned off.",
        "refcount_bits=N, with N from 1 to 64: how often a cluster can be shared. lazy_refcounts=on or off. "
        "data_file=NAME: where the data file is now; it is not moved, and not opened. data_file_raw=off. "
        "size=N: as qcow-resize, for a larger size. backing_file and backing_fmt are accepted where they say "
        "what is so already.",
        "--unmark makes an image readable again that qcow-commit has marked, because the images below it "
        "hold other data now: what it reads then is what it holds itself, over those.",
        "All or nothing, also across a crash; only a size is a second change of that kind. Readers with -U "
        "are kept out meanwhile.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_IMAGE | TOOL_TARGET_CACHE | TOOL_PROGRESS,
    .exit_codes = (const ToolText[]) {
        { "0", "The image is as the options say." },
        { "1", "Failed; the image is as it was." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image is as it was." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-amend -o compat=0.10 disk.qcow2", "make an image that very old programs read" },
        { "qcow-amend -o refcount_bits=32 disk.qcow2", "allow more than 65535 snapshots of a cluster" },
        { "qcow-amend -o data_file=/new/place/disk.raw disk.qcow2", "tell where the data file is now" },
        { NULL },
    },
    .usage_status = 2,
};

static int run(const Tool *tool, Qcow2Chain *chain, const char *options)
{
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(GError) error = NULL;

    if (!qcow2_amend(chain, options, tool_progress_get(progress), &error)) {
        int interrupted = tool_progress_interrupted(progress, tool, error,
                                                    "the image is as it was; the same command starts again");
        return interrupted ? interrupted : tool_fail(tool, tool->arguments[0], error);
    }
    tool_progress_end(progress);
    return tool_finish_summary(tool, NULL, NULL, tool_progress_seconds(progress));
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    if (!amend_options && !unmark) {
        tool_usage(&tool, "Must specify options (-o)");
    }
    if (unmark && !qcow2_unmark(tool.arguments[0], &error)) {
        return tool_fail(&tool, tool.arguments[0], error);
    }
    if (!amend_options) {
        return tool_finish_summary(&tool, NULL, NULL, 0);
    }
    g_autofree char *options = tool_join_options(amend_options);
    g_autoptr(Qcow2Chain) chain = tool_open_exclusive(&tool, tool.arguments[0], tool.format, &error);
    return chain ? run(&tool, chain, options) : tool_fail(&tool, tool.arguments[0], error);
}
