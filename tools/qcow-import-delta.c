/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-import-delta: a delta applied to the active layer of an image. */
#include <inttypes.h>
#include <stdio.h>

#include "tool-dry-run.h"
#include "tool-output.h"
#include "tool-progress.h"

static char *snapshot_name;
static gboolean force;

static const GOptionEntry entries[] = {
    { "name", 0, 0, G_OPTION_ARG_FILENAME, &snapshot_name,
      "Make the imported state an internal snapshot of this name", "NAME" },
    { "force", 0, 0, G_OPTION_ARG_NONE, &force,
      "Apply the delta although the active layer is not what it starts from", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-import-delta",
    .synopses = (const char *const[]) { "[OPTION...] DELTA IMAGE", NULL },
    .arguments = (const char *const[]) { "DELTA", "IMAGE", NULL },
    .min_arguments = 2,
    .max_arguments = 2,
    .arguments_error = "Expecting DELTA IMAGE",
    .description =
        "Applies a delta, written by qcow-export-delta, on top of an image's active layer, and with --name "
        "makes the result an internal snapshot: a whole backup history in one file. DELTA '-' reads a "
        "stream from standard input.",
    .notes = (const char *const[]) {
        "The active layer must be the state that the delta starts from: the snapshot of the same date, "
        "clock and size, not changed since; or nothing at all for a delta from @empty. --force goes on "
        "without that.",
        "The image gets the delta's virtual size. The snapshot gets the date and clock that it had where "
        "it was exported, so that the next delta finds its place.",
        "Dirty bitmaps that are enabled record what the delta changes.",
        "An image with an external data file takes what has no place in that file yet, and no name; a delta "
        "that changes what is there is refused, since it could only be overwritten.",
        "All or nothing, also across a crash: until the end the image is as it was. A stream that was cut "
        "or damaged changes nothing.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_IMAGE | TOOL_TARGET_CACHE | TOOL_PROGRESS
              | TOOL_RATE | TOOL_NO_REFLINK | TOOL_DRY_RUN,
    .exit_codes = (const ToolText[]) {
        { "0", "The delta was applied." },
        { "1", "Failed; the image is as it was." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image is as it was." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-import-delta --name tuesday tuesday-delta.qcow2 history.qcow2", "add a day to a history" },
        { "qcow-export-delta disk.qcow2 monday tuesday - | "
          "ssh backup qcow-import-delta --name tuesday - history.qcow2",
          "do the same on another machine" },
        { NULL },
    },
    .usage_status = 2,
};

static bool print_result(const Tool *tool, const Qcow2ImportResult *result, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    if (tool->quiet) {
        return true;
    }
    if (!tool->json) {
        g_autofree char *bytes = qcow2_format_size(result->bytes);
        printf("Delta imported: %s, %" PRIu64 " clusters (%" PRIu64 " data, %" PRIu64 " zero, %" PRIu64
               " compressed), in %.2f seconds\n",
               bytes, result->clusters, result->data_clusters, result->zero_clusters,
               result->compressed_clusters, seconds);
        return true;
    }
    tool_json_add_uint(&object, "virtual-size", result->virtual_size);
    tool_json_add_uint(&object, "bytes", result->bytes);
    tool_json_add_uint(&object, "clusters", result->clusters);
    tool_json_add_uint(&object, "data-clusters", result->data_clusters);
    tool_json_add_uint(&object, "zero-clusters", result->zero_clusters);
    tool_json_add_uint(&object, "compressed-clusters", result->compressed_clusters);
    tool_json_add_uint(&object, "bytes-copied", result->bytes_copied);
    tool_json_add_uint(&object, "bytes-cloned", result->bytes_cloned);
    tool_json_add(&object, "seconds", g_variant_new_double(seconds));
    return tool_print_json(tool, g_variant_builder_end(&object));
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    Qcow2ImportResult result;

    tool_start(&tool, &command, argc, argv);
    const char *delta = tool.arguments[0], *image = tool.arguments[1];
    const Qcow2ImportOptions options = { .name = snapshot_name,
                                         .force = force,
                                         .no_reflink = tool.no_reflink };
    g_autoptr(Qcow2Chain) chain = tool_open_writable(&tool, image, tool.format, &error);
    if (!chain) {
        return tool_fail(&tool, image, error);
    }
    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    bool ok = qcow2_import_delta(chain, delta, &options, &result, tool_progress_get(progress), &error);
    tool_progress_end(progress);
    if (!ok) {
        int status = tool_progress_interrupted(progress, &tool, error,
                                               "the image is as it was; run the command again");
        return status ? status : tool_fail(&tool, image, error);
    }
    if (tool.dry_run) {
        ToolMoved moved = { result.bytes, result.data_clusters, result.zero_clusters,
                            result.compressed_clusters, tool_progress_seconds(progress) };
        return tool_finish_dry_run(&tool, chain, image, &moved);
    }
    return print_result(&tool, &result, tool_progress_seconds(progress)) ? tool_finish(&tool, 0) : 1;
}
