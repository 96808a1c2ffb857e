/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-vmstate: the saved VM state of an internal snapshot. */
#include <glib/gstdio.h>

#include "tool-moved.h"

static char *export_state, *import_state, *drop_state;
static gboolean overwrite;

static const GOptionEntry entries[] = {
    { "export", 'x', 0, G_OPTION_ARG_FILENAME, &export_state, "Write the VM state of this snapshot to FILE",
      "STATE" },
    { "import", 'i', 0, G_OPTION_ARG_FILENAME, &import_state, "Make FILE the VM state of this snapshot",
      "STATE" },
    { "drop", 'd', 0, G_OPTION_ARG_FILENAME, &drop_state, "Remove the VM state of this snapshot", "STATE" },
    { "overwrite", 0, 0, G_OPTION_ARG_NONE, &overwrite, "With -x: replace FILE if it exists", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-vmstate",
    .synopses = (const char *const[]) {
        "[OPTION...] -x STATE FILE IMAGE",
        "[OPTION...] -i STATE FILE IMAGE",
        "[OPTION...] -d STATE IMAGE",
        NULL,
    },
    .arguments = (const char *const[]) { "FILE", "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 2,
    .arguments_error = "Expecting FILE IMAGE, or IMAGE alone with -d",
    .description =
        "Takes the saved state of a VM (its memory and devices, as savevm leaves it) out of an internal "
        "snapshot into a file, puts it back, or drops it to save its space.",
    .notes = (const char *const[]) {
        "The disk of the snapshot is not touched. Changes are all or nothing, also across a crash.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_PROGRESS | TOOL_RATE,
    .exit_codes = (const ToolText[]) {
        { "0", "Done." },
        { "1", "Failed; image and FILE are as they were." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; image and FILE are as they were." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-vmstate -x running running.vmstate disk.qcow2", "keep the memory of a VM in a file" },
        { NULL },
    },
    .usage_status = 2,
};

static void check_usage(const Tool *tool)
{
    if (!!export_state + !!import_state + !!drop_state != 1) {
        tool_usage(tool, "one of -x, -i and -d is needed");
    }
    if (tool->n_arguments != (drop_state ? 1u : 2u) || (overwrite && !export_state)) {
        tool_usage(tool, "%s", command.arguments_error);
    }
}

static bool run(const Tool *tool, const char *file, const char *image, Qcow2Progress *progress,
                GError **error)
{
    g_autoptr(Qcow2Chain) chain = export_state ? tool_open(tool, image, tool->format, error)
                                               : tool_open_exclusive(tool, image, tool->format, error);

    if (!chain) {
        return false;
    }
    return export_state ? qcow2_vmstate_export(chain, export_state, file, overwrite, progress, error)
         : import_state ? qcow2_vmstate_import(chain, import_state, file, progress, error)
                        : qcow2_vmstate_drop(chain, drop_state, error);
}

static int finish(const Tool *tool, const char *file, double seconds)
{
    Qcow2MoveResult moved = { 0 };
    GStatBuf status;

    if (file && g_stat(file, &status) == 0) {
        moved.bytes = moved.bytes_copied = (uint64_t)status.st_size;
    }
    return tool_finish_summary(tool, NULL, &moved, seconds);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    check_usage(&tool);
    const char *file = drop_state ? NULL : tool.arguments[0], *image = tool.arguments[drop_state ? 0 : 1];
    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    bool ok = run(&tool, file, image, tool_progress_get(progress), &error);
    tool_progress_end(progress);
    if (!ok) {
        int status =
            tool_progress_interrupted(progress, &tool, error, "nothing was changed; run the command again");
        return status ? status : tool_fail(&tool, image, error);
    }
    return finish(&tool, file, tool_progress_seconds(progress));
}
