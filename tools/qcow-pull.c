/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-pull: an image without the layers between it and a lower one. */
#include "tool-moved.h"

static char *base, *base_format;
static gboolean bitmaps;

static const GOptionEntry entries[] = {
    { "base", 'b', 0, G_OPTION_ARG_FILENAME, &base,
      "The lower layer that becomes the backing file: its name or [INDEX]; none without this", "LAYER" },
    { "backing-format", 'F', 0, G_OPTION_ARG_STRING, &base_format,
      "Format of that layer, where the chain does not record it", "FMT" },
    { "bitmaps", 0, 0, G_OPTION_ARG_NONE, &bitmaps,
      "Merge dirty bitmaps of the pulled layers into those of IMAGE, by name", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-pull",
    .synopses = (const char *const[]) { "[OPTION...] [-b LAYER] IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Merges upward: copies into an image what it reads from the layers above a lower one, and makes that "
        "its backing file; without -b it needs no backing file any more.",
    .notes = (const char *const[]) {
        "IMAGE may be any layer of a chain: the images backed by it read the same afterwards. So do its "
        "internal snapshots: what they read from the layers that go is copied too, once for all of them.",
        "No other image is changed. The layers that were pulled are left as they are, since others may be "
        "backed by them.",
        "Dirty bitmaps of IMAGE stay as they are, since it reads the same. With --bitmaps those of the "
        "layers that were pulled are merged into them: what was dirty in a layer is dirty in the bitmap of "
        "the same name in IMAGE, which gets one where it has none.",
        "LAYER is named as qcow-info --backing-chain prints it, by another path to its file, as the image "
        "above it records it, or by its index: [1] is the present backing file.",
        "All or nothing, also across a crash: one write of the header switches to the new tables and the new "
        "backing file. Readers with -U are kept out meanwhile.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_IMAGE | TOOL_TARGET_CACHE | TOOL_PROGRESS
              | TOOL_RATE | TOOL_NO_REFLINK | TOOL_DRY_RUN,
    .exit_codes = (const ToolText[]) {
        { "0", "The image has the new backing file." },
        { "1", "Failed, or it was so already; the image is as it was." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image is as it was." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-pull overlay.qcow2", "make an overlay independent of its backing chain" },
        { "qcow-pull -b base.qcow2 top.qcow2", "drop the layers between top and base" },
        { NULL },
    },
    .usage_status = 2,
};

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    Qcow2MoveResult result;

    tool_start(&tool, &command, argc, argv);
    const char *image = tool.arguments[0];
    const Qcow2PullOptions options = {
        .base = base, .base_format = base_format, .bitmaps = bitmaps, .no_reflink = tool.no_reflink,
    };
    g_autoptr(Qcow2Chain) chain = tool_open_exclusive(&tool, image, tool.format, &error);
    if (!chain) {
        return tool_fail(&tool, image, error);
    }
    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    qcow2_pull(chain, &options, &result, tool_progress_get(progress), &error);
    return tool_finish_moved(&tool, progress, chain, "Image pulled", &result, error);
}
