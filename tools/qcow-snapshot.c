/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-snapshot: the internal snapshots of an image. */
#include "tool-image.h"
#include "tool-output.h"

static gboolean list;

static const GOptionEntry entries[] = {
    { "list", 'l', 0, G_OPTION_ARG_NONE, &list, "List the snapshots; this is also the default", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-snapshot",
    .synopses = (const char *const[]) { "[OPTION...] -l IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Lists the internal snapshots of an image: id, name, size of the saved VM state, date, and the "
        "clock of the VM. Prints nothing when there are none.",
    .entries = entries,
    .shared = TOOL_LOOKS,
    .exit_codes = (const ToolText[]) {
        { "0", "The snapshots were listed; there may be none." },
        { "1", "The image could not be read." },
        { "2", "Wrong usage." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-snapshot -l disk.qcow2", "list snapshots" },
        { "qcow-snapshot -l -U --output=json disk.qcow2", "list those of a running VM's image as JSON" },
        { NULL },
    },
    .usage_status = 2,
};

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    Qcow2ImageInfo info;

    tool_start(&tool, &command, argc, argv);
    const char *image = tool.arguments[0];
    g_autoptr(Qcow2Chain) chain = tool_open(&tool, image, tool.format, &error);
    if (!chain || !qcow2_chain_get_info(chain, 0, &info, &error)) {
        return tool_fail(&tool, image, error);
    }
    if (!tool.json) {
        tool_print_snapshots(&info);
    } else if (!tool_print_json(&tool, tool_snapshots_to_json(&info))) {
        return 1;
    }
    return tool_finish(&tool, 0);
}
