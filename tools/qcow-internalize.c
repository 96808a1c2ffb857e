/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-internalize: a backing chain as one image with internal snapshots. */
#include "tool-moved.h"

static gboolean overwrite;

static const GOptionEntry entries[] = {
    { "overwrite", 0, 0, G_OPTION_ARG_NONE, &overwrite, "Replace OUTPUT if it exists", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-internalize",
    .synopses = (const char *const[]) { "[OPTION...] TOP OUTPUT", NULL },
    .arguments = (const char *const[]) { "TOP", "OUTPUT", NULL },
    .min_arguments = 2,
    .max_arguments = 2,
    .arguments_error = "Expecting TOP OUTPUT",
    .description =
        "Writes a backing chain as one image: an internal snapshot for each lower file, with the file's "
        "name and date, and TOP as the active layer. The chain itself is not changed.",
    .notes = (const char *const[]) {
        "A snapshot is named after its file, without folder and suffix; a name that is there already gets "
        "-2, -3 and so on. Each state keeps its size. OUTPUT has the layout of TOP and appears when it is "
        "complete.",
        "Internal snapshots of the chain's own files are not taken over.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_PROGRESS | TOOL_RATE | TOOL_NO_REFLINK,
    .exit_codes = (const ToolText[]) {
        { "0", "OUTPUT is complete." },
        { "1", "Failed; no OUTPUT was left." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; no OUTPUT was left." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-internalize history/active.qcow2 disk.qcow2", "turn a chain of files into snapshots" },
        { NULL },
    },
    .usage_status = 2,
};

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    const char *top = tool.arguments[0];
    g_autoptr(Qcow2Chain) chain = tool_open(&tool, top, tool.format, &error);
    if (!chain) {
        return tool_fail(&tool, top, error);
    }
    const Qcow2InternalizeOptions options = { .overwrite = overwrite, .no_reflink = tool.no_reflink };
    Qcow2MoveResult result;
    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    bool ok = qcow2_internalize(chain, tool.arguments[1], &options, &result, tool_progress_get(progress),
                                &error);
    tool_progress_end(progress);
    if (!ok) {
        int status =
            tool_progress_interrupted(progress, &tool, error, "no OUTPUT was left; run the command again");
        return status ? status : tool_fail(&tool, top, error);
    }
    return tool_finish_summary(&tool, NULL, &result, tool_progress_seconds(progress));
}
