/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-rebase: another backing file for an image. */
#include "tool-moved.h"

static char *backing, *backing_format;
static gboolean name_only, compress;

static const GOptionEntry entries[] = {
    { "backing", 'b', 0, G_OPTION_ARG_FILENAME, &backing, "The new backing file; '' for none", "FILE" },
    { "backing-format", 'F', 0, G_OPTION_ARG_STRING, &backing_format, "Its format", "FMT" },
    { "unsafe", 'u', 0, G_OPTION_ARG_NONE, &name_only,
      "Only write the name into the header, whatever the image reads then", NULL },
    { "compress", 'c', 0, G_OPTION_ARG_NONE, &compress, "Compress what is copied into the image", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-rebase",
    .synopses = (const char *const[]) {
        "[OPTION...] -b FILE [-F FMT] IMAGE", "[OPTION...] -u [-b FILE] [-F FMT] IMAGE", NULL,
    },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Gives an image another backing file. It reads the same as before: what differs between the old and "
        "the new chain is copied into the image, for its internal snapshots too.",
    .notes = (const char *const[]) {
        "Layers that both chains share are not read. Where metadata cannot tell whether the chains differ, "
        "their bytes are compared.",
        "With -u nothing is opened, compared or copied, and only the header changes: right after a backing "
        "file was moved or renamed, and wrong for anything else. With -u and without -b there is no backing "
        "file afterwards.",
        "A relative FILE is relative to the image's folder, as always inside an image.",
        "All or nothing, also across a crash. Readers with -U are kept out meanwhile.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_FORCE_SHARE | TOOL_IMAGE | TOOL_SOURCE_CACHE
              | TOOL_TARGET_CACHE | TOOL_PROGRESS | TOOL_RATE | TOOL_NO_REFLINK | TOOL_DRY_RUN,
    .exit_codes = (const ToolText[]) {
        { "0", "The image has the new backing file." },
        { "1", "Failed; the image is as it was." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image is as it was." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-rebase -b other.qcow2 -F qcow2 disk.qcow2",
          "put an image over another base, with the same contents" },
        { "qcow-rebase -u -b /new/place/base.qcow2 -F qcow2 disk.qcow2",
          "tell where the base has moved" },
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
    const Qcow2RebaseOptions options = {
        .backing_name = backing,
        .backing_format = backing_format,
        .name_only = name_only,
        .compress = compress,
        .no_reflink = tool.no_reflink,
    };
    if (!backing && !name_only) {
        tool_usage(&tool, "Must specify backing file (-b) or use unsafe mode (-u)");
    }
    g_autoptr(Qcow2Chain) chain = tool_open_exclusive(&tool, image, tool.format, &error);
    if (!chain) {
        return tool_fail(&tool, image, error);
    }
    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    qcow2_rebase(chain, &options, &result, tool_progress_get(progress), &error);
    return tool_finish_moved(&tool, progress, chain, NULL, &result, error);
}
