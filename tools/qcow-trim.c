/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-trim: an image without what it does not need. */
#include <inttypes.h>
#include <stdio.h>

#include "tool-dry-run.h"
#include "tool-output.h"
#include "tool-progress.h"

static gboolean shrink;

static const GOptionEntry entries[] = {
    { "shrink", 0, 0, G_OPTION_ARG_NONE, &shrink,
      "Also move data down, punch holes and cut the file, so that the space is given back", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-trim",
    .synopses = (const char *const[]) { "[OPTION...] [--shrink] IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Drops clusters that read the same without them: equal to what the backing chain gives, or zeros. In "
        "the active layer and in every internal snapshot.",
    .notes = (const char *const[]) {
        "Data is read and compared with the layers below. A guest reads the same bytes before and after, so "
        "that dirty bitmaps stay as they are.",
        "Without --shrink the space becomes free inside the file, for later writes. With it, clusters "
        "from the end move into free ones before it, those of snapshots and dirty bitmaps too, holes are "
        "punched into what is still free, and the file is cut. In a data file holes are punched.",
        "Whatever can go does, be it one cluster. New tables need some room meanwhile; in the end the file "
        "is no longer than before.",
        "The backing file is the one that the image names: an image name that gives another one, or none, is "
        "refused.",
        "All or nothing, also across a crash: one write of the header switches to the new tables. Readers "
        "with -U are kept out meanwhile.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_IMAGE | TOOL_TARGET_CACHE | TOOL_PROGRESS
              | TOOL_RATE | TOOL_DRY_RUN,
    .exit_codes = (const ToolText[]) {
        { "0", "Nothing is left to drop." },
        { "1", "Failed; the image reads as it did." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image reads as it did." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-trim --shrink disk.qcow2", "make an image file as small as it can be" },
        { NULL },
    },
    .usage_status = 2,
};

static bool print_result(const Tool *tool, const Qcow2TrimResult *result, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    if (tool->quiet) {
        return true;
    }
    if (!tool->json) {
        g_autofree char *before = qcow2_format_size(result->file_size_before);
        g_autofree char *after = qcow2_format_size(result->file_size);
        printf("Image trimmed: %" PRIu64 " clusters dropped, file of %s (was %s), in %.2f seconds\n",
               result->clusters, after, before, seconds);
        return true;
    }
    tool_json_add_uint(&object, "bytes", result->bytes);
    tool_json_add_uint(&object, "clusters", result->clusters);
    tool_json_add_uint(&object, "clusters-moved", result->clusters_moved);
    tool_json_add_uint(&object, "bytes-punched", result->bytes_punched);
    tool_json_add_uint(&object, "file-size-before", result->file_size_before);
    tool_json_add_uint(&object, "file-size", result->file_size);
    tool_json_add(&object, "seconds", g_variant_new_double(seconds));
    return tool_print_json(tool, g_variant_builder_end(&object));
}

/* One step after the other frees what the next one uses again: what counts is what is free in the end. */
static int finish_dry_run(const Tool *tool, const Qcow2Chain *chain, const Qcow2TrimResult *result,
                          double seconds)
{
    const ToolMoved moved = {
        .bytes = result->bytes_moved,
        .data_clusters = result->clusters_moved,
        .cuts = shrink,
        .file_size_before = result->file_size_before,
        .file_size = result->file_size,
        .seconds = seconds,
    };
    Qcow2DryRun run;

    qcow2_chain_get_dry_run(chain, &run);
    run.freed = result->bytes_freed;
    return tool_print_dry_run(tool, &run, tool->arguments[0], &moved);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    Qcow2TrimResult result;

    tool_start(&tool, &command, argc, argv);
    const char *image = tool.arguments[0];
    const Qcow2TrimOptions options = { .shrink = shrink };
    g_autoptr(Qcow2Chain) chain = tool_open_exclusive(&tool, image, tool.format, &error);
    if (!chain) {
        return tool_fail(&tool, image, error);
    }
    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    bool ok = qcow2_trim(chain, &options, &result, tool_progress_get(progress), &error);
    tool_progress_end(progress);
    if (!ok) {
        int status = tool_progress_interrupted(progress, &tool, error,
                                               "the image reads as it did; the same command starts again");
        return status ? status : tool_fail(&tool, image, error);
    }
    double seconds = tool_progress_seconds(progress);
    if (tool.dry_run) {
        return finish_dry_run(&tool, chain, &result, seconds);
    }
    return print_result(&tool, &result, seconds) ? tool_finish(&tool, 0) : 1;
}
