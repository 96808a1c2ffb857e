/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-commit: overlays merged into an image below them. */
#include <stdio.h>

#include "tool-moved.h"
#include "tool-progress.h"

static char *base, *top, *base_format;
static char **preserve;
static char *rate_text;
static gboolean keep_image, bitmaps, delete_merged, force;

static const GOptionEntry entries[] = {
    { "base", 'b', 0, G_OPTION_ARG_FILENAME, &base,
      "The lower layer to merge into: its name or [INDEX]; default: the backing file of the top", "LAYER" },
    { "backing-format", 'F', 0, G_OPTION_ARG_STRING, &base_format,
      "Format of that layer, where the chain does not record it", "FMT" },
    { "top", 0, 0, G_OPTION_ARG_FILENAME, &top,
      "The highest layer that is merged, instead of IMAGE; the one above it is re-pointed", "LAYER" },
    { "keep", 'd', 0, G_OPTION_ARG_NONE, &keep_image, "Leave IMAGE as it is, instead of emptying it", NULL },
    { "rate-limit", 'r', 0, G_OPTION_ARG_FILENAME, &rate_text, "The same as --rate", "BYTES" },
    { "preserve", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &preserve,
      "An image that shall go on reading the same, with its snapshots; more may follow", "FILE" },
    { "bitmaps", 0, 0, G_OPTION_ARG_NONE, &bitmaps,
      "Merge dirty bitmaps into those of the base, by name", NULL },
    { "delete", 0, 0, G_OPTION_ARG_NONE, &delete_merged,
      "Delete the files of merged layers that dropped out of the chain", NULL },
    { "force", 0, 0, G_OPTION_ARG_NONE, &force,
      "Merge although other images or snapshots will read otherwise", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-commit",
    .synopses = (const char *const[]) {
        "[OPTION...] [-b BASE] [--top TOP] [--preserve FILE...] IMAGE", NULL,
    },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1024,
    .arguments_error = "Expecting one image file name",
    .description =
        "Merges downward: what overlays hold moves into an image below them. Without options that is IMAGE "
        "into its backing file; IMAGE is empty then.",
    .notes = (const char *const[]) {
        "With -b several layers are merged, down to that one. IMAGE is then empty and backed by it; with -d "
        "it stays exactly as it was. With --top only the layers from that one down are merged, and the image "
        "above it gets the base as its backing file.",
        "Layers strictly between are not valid by themselves afterwards: their own backing file has changed. "
        "They are named, and marked so that QEMU and these commands refuse them by name (qcow-amend --unmark "
        "takes the mark away). With -d they are only named, since IMAGE still reads through them.",
        "--delete deletes them as the last step, and with --top that layer too: the file itself, and the "
        "symbolic link by which the chain names it. It is refused when one has internal snapshots "
        "(--preserve keeps the file, --force deletes it) or when another image is backed by one. Data "
        "files, devices and layers over NBD are not deleted, but named.",
        "Other images in the folders of the chain that are backed by the base or by a layer between, and "
        "internal snapshots of merged layers, would read otherwise: the merge is refused with their names. "
        "--preserve copies into such an image what the merge would change under it. --force goes on without. "
        "A folder that cannot be listed, or a file in it that cannot be read, may hide such an image, and is "
        "refused as well; so is an image whose data file is the base, which cannot be preserved.",
        "The base gets the size of the top if it is smaller; what a larger base has past that stays. Its "
        "enabled bitmaps record what is written.",
        "A guest that reads through IMAGE sees the same bytes at every moment, also after a crash: the same "
        "command again completes the work, or says that a layer that it merged has left the chain already. "
        "All images of the chain are locked first.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_IMAGE | TOOL_TARGET_CACHE | TOOL_PROGRESS
              | TOOL_RATE | TOOL_NO_REFLINK | TOOL_DRY_RUN,
    .exit_codes = (const ToolText[]) {
        { "0", "The layers were merged." },
        { "1", "Failed; no contents are lost, and the same command again completes it." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the same command again completes it." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-commit overlay.qcow2", "merge an overlay into its backing file" },
        { "qcow-commit --top tuesday.qcow2 -b base.qcow2 --delete active.qcow2",
          "merge the days up to Tuesday into the base, below the active image" },
        { "qcow-commit --preserve other.qcow2 overlay.qcow2",
          "keep another image over the same base valid" },
        { NULL },
    },
    .usage_status = 2,
};

static void print_names(FILE *stream, const char *format, char *const *names)
{
    for (guint i = 0; names && names[i]; i++) {
        g_autofree char *shown = qcow2_escape_name(names[i], -1);
        fprintf(stream, format, shown);
    }
}

static void add_names(GVariantBuilder *object, const char *key, char *const *names)
{
    GVariantBuilder array = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));

    for (guint i = 0; names && names[i]; i++) {
        g_variant_builder_add(&array, "v", tool_json_name(names[i]));
    }
    tool_json_add(object, key, g_variant_builder_end(&array));
}

static bool print_json(const Tool *tool, const Qcow2CommitResult *result, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add_string(&object, "base", result->base);
    tool_json_add_moved(&object, &result->moved);
    tool_json_add_uint(&object, "bytes-overwritten", result->moved.bytes_overwritten);
    tool_json_add_uint(&object, "bytes-preserved", result->bytes_preserved);
    add_names(&object, "invalid", result->invalid);
    add_names(&object, "unmarked", result->unmarked);
    add_names(&object, "deleted", result->deleted);
    add_names(&object, "not-deleted", result->not_deleted);
    tool_json_add(&object, "seconds", g_variant_new_double(seconds));
    return tool_print_json(tool, g_variant_builder_end(&object));
}

static void print_all_names(FILE *stream, const Qcow2CommitResult *result)
{
    print_names(stream, "Not valid by itself any more: %s\n", result->invalid);
    print_names(stream, "Could not be marked as such: %s\n", result->unmarked);
    print_names(stream, "Deleted: %s\n", result->deleted);
    print_names(stream, "Not deleted: %s\n", result->not_deleted);
}

static bool print_result(const Tool *tool, const Qcow2CommitResult *result, double seconds)
{
    if (tool->json) {
        return print_json(tool, result, seconds);
    }
    if (!tool->quiet) {
        printf("Image committed.\n");
        print_all_names(stdout, result);
    }
    return true;
}

/* What an interrupted commit had left may have been finished, and nothing else tells these names again. */
static void print_finished(const Tool *tool, const Qcow2CommitResult *result)
{
    if (!tool->quiet) {
        print_all_names(tool->json ? stderr : stdout, result);
    }
}

static int run(const Tool *tool, const Qcow2OpenOptions *open_options, const Qcow2CommitOptions *options)
{
    const char *image = tool->arguments[0];
    g_auto(Qcow2CommitResult) result = { 0 };
    g_autoptr(GError) error = NULL;
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    bool ok = qcow2_commit(image, open_options, options, &result, tool_progress_get(progress), &error);

    tool_progress_end(progress);
    if (!ok) {
        print_finished(tool, &result);
        int status = tool_progress_interrupted(progress, tool, error,
                                               "the chain reads as before; the same command completes it");
        return status ? status : tool_fail(tool, image, error);
    }
    double seconds = tool_progress_seconds(progress);
    if (tool->dry_run) {
        ToolMoved moved = tool_moved_of(&result.moved, seconds);
        moved.may_preserve = true;
        moved.bytes_preserved = result.bytes_preserved;
        return tool_print_dry_run(tool, &result.dry_run, image, &moved);
    }
    return print_result(tool, &result, seconds) ? tool_finish(tool, 0) : 1;
}

static void check_options(Tool *tool)
{
    g_autoptr(GError) error = NULL;

    if (rate_text && !qcow2_parse_size(rate_text, &tool->rate, &error)) {
        tool_usage(tool, "--rate-limit: %s", error->message);
    }
    if (keep_image && top) {
        tool_usage(tool, "-d keeps IMAGE as it is, and --top does not merge it");
    }
    tool_gather_list(tool, &preserve);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };

    tool_start(&tool, &command, argc, argv);
    check_options(&tool);
    const Qcow2OpenOptions open_options = tool_open_options(&tool, tool.format);
    const Qcow2CommitOptions options = {
        .base = base,
        .top = top,
        .base_format = base_format,
        .keep_image = keep_image,
        .bitmaps = bitmaps,
        .force = force,
        .delete_merged = delete_merged,
        .preserve = preserve,
        .no_reflink = tool.no_reflink,
    };
    return run(&tool, &open_options, &options);
}
