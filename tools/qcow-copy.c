/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-copy: images and states into new images, as qemu-img convert. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool-output.h"
#include "tool-progress.h"

#define MAX_SPARSE_SIZE (UINT64_C(16) << 20)
#define SECTOR_SIZE     UINT64_C(512)

static char *output_format, *state_name, *backing_name, *backing_format, *sparse_text, *rate_text, *folder;
static char **create_options;
static gboolean compress_output, existing, offload, out_of_order, salvage, bitmaps, skip_broken, resume;
static gboolean target_image_opts, target_is_zero;

static const GOptionEntry entries[] = {
    { "output-format", 'O', 0, G_OPTION_ARG_FILENAME, &output_format,
      "Format of TARGET: raw (default) or qcow2", "FMT" },
    { "options", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &create_options,
      "How TARGET is made: cluster_size=...,compat=...,preallocation=...", "OPTIONS" },
    { "compress", 'c', 0, G_OPTION_ARG_NONE, &compress_output, "Compress the data (qcow2)", NULL },
    { "state", 'l', 0, G_OPTION_ARG_FILENAME, &state_name,
      "Copy this state instead of @active, with the size that it has", "STATE" },
    { "backing", 'B', 0, G_OPTION_ARG_FILENAME, &backing_name,
      "Make TARGET an overlay of this file: only what differs from it is copied", "FILE" },
    { "backing-format", 'F', 0, G_OPTION_ARG_FILENAME, &backing_format,
      "Format of the backing file", "FMT" },
    { "no-create", 'n', 0, G_OPTION_ARG_NONE, &existing,
      "TARGET is there already and is written in place; it may be larger", NULL },
    { "target-is-zero", 0, 0, G_OPTION_ARG_NONE, &target_is_zero,
      "With -n: TARGET reads as zeros, so that zeros need not be written", NULL },
    { "target-image-opts", 0, 0, G_OPTION_ARG_NONE, &target_image_opts,
      "With -n: TARGET is written driver=qcow2,file.filename=NAME,...", NULL },
    { "sparse-size", 'S', 0, G_OPTION_ARG_FILENAME, &sparse_text,
      "Leave out zeros in data from so many bytes on (default: 4k, where extents are not shared); 0: "
      "TARGET is fully allocated", "SIZE" },
    { "copy-offload", 'C', 0, G_OPTION_ARG_NONE, &offload,
      "Share extents where that is possible, which is the default", NULL },
    { "out-of-order", 'W', 0, G_OPTION_ARG_NONE, &out_of_order, "Accepted; the order is always free", NULL },
    { "salvage", 0, 0, G_OPTION_ARG_NONE, &salvage,
      "Write zeros for what cannot be read, with a warning for each", NULL },
    { "bitmaps", 0, 0, G_OPTION_ARG_NONE, &bitmaps, "Copy persistent dirty bitmaps too", NULL },
    { "skip-broken-bitmaps", 0, 0, G_OPTION_ARG_NONE, &skip_broken,
      "With --bitmaps: leave out those that are in use or damaged", NULL },
    { "resume", 0, 0, G_OPTION_ARG_NONE, &resume,
      "Keep what was copied when the command is interrupted, and go on with it the next time", NULL },
    { "chain", 0, 0, G_OPTION_ARG_FILENAME, &folder,
      "Copy the image and all that is below it, file by file, into this folder", "FOLDER" },
    { "rate-limit", 'r', 0, G_OPTION_ARG_FILENAME, &rate_text, "The same as --rate", "BYTES" },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-copy",
    .synopses = (const char *const[]) {
        "[OPTION...] SOURCE... TARGET",
        "[OPTION...] --chain FOLDER IMAGE",
        NULL,
    },
    .arguments = (const char *const[]) { "IMAGE", "TARGET", NULL },
    .min_arguments = 1,
    .max_arguments = 1024,
    .arguments_error = "Must specify image file name",
    .description =
        "Copies what a guest sees in SOURCE into a new image, raw or qcow2, in a file, on a block device or "
        "over NBD. Several sources become one disk, one after the other.",
    .notes = (const char *const[]) {
        "TARGET appears under its name when it is complete and on disk, and then replaces a file that had "
        "this name, but for one that is in use. A block device, an NBD export and, with -n, a raw file are "
        "written in place: until the command has ended well they hold a mixture, and running it again "
        "completes them. An existing qcow2 image (-n) changes all at once or not at all, but for data in an "
        "external data file, which is written in place.",
        "Where the file system can share extents no data is read or written. Elsewhere zeros in data are "
        "left out of TARGET; -S asks for that everywhere.",
        "With -B the size of TARGET is that of what changed: clusters are compared with the backing file by "
        "metadata, and where that cannot tell by their bytes.",
        "With --resume the copy is made in TARGET.qcow-part, and TARGET.qcow-journal says how far it is; a "
        "data file has a .qcow-part, too. "
        "Both stay when the command is interrupted or killed. They are gone on with only if inode, size and "
        "time of change of every source file and all options are the same; otherwise the copy starts again.",
        "With --chain each file keeps its internal snapshots and bitmaps, and its backing file is then the "
        "copy beside it. A file appears under its name when it is complete, the lowest one first. A layer "
        "over NBD is called as its export; for the default export it is layer-N, N being its index.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_SOURCE_CACHE | TOOL_TARGET_CACHE | TOOL_PROGRESS | TOOL_RATE
            | TOOL_NO_REFLINK,
    .exit_codes = (const ToolText[]) {
        { "0", "TARGET is complete." },
        { "1", "Failed; no new TARGET was left." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; no new TARGET was left." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-copy -O qcow2 disk.raw disk.qcow2", "make a qcow2 image of a raw one" },
        { "qcow-copy -p -c -O qcow2 -o compression_type=zstd top.qcow2 packed.qcow2",
          "pack a whole chain into one compressed image" },
        { "qcow-copy -O qcow2 -l monday -B base.qcow2 -F qcow2 disk.qcow2 monday.qcow2",
          "make an overlay of what a snapshot changed" },
        { "qcow-copy disk.qcow2 nbd://backup/disk", "write a disk to an NBD export" },
        { "qcow-copy --chain /backup top.qcow2", "copy an image and its backing files" },
        { NULL },
    },
    .usage_status = 2,
};

/* ---- Usage ------------------------------------------------------------------------------------- */

/* In qemu-img's words, which tell a number out of range from what is no size at all. */
static uint64_t read_size(const Tool *tool, const char *what, const char *text)
{
    uint64_t size = 0;

    if (text && !qcow2_parse_size(text, &size, NULL)) {
        bool is_number = *text != '\0' && text[strspn(text, "-0123456789")] == '\0' && strcmp(text, "-") != 0;
        if (is_number) {
            tool_usage(tool, "Invalid %s specified. Must be between 0 and %" PRIi64 ".", what, INT64_MAX);
        }
        tool_usage(tool, "Invalid %s specified: '%s'.", what, text);
    }
    return size;
}

static uint64_t read_sparse_size(const Tool *tool)
{
    uint64_t size = read_size(tool, "buffer size for sparse output", sparse_text);

    if (size % SECTOR_SIZE != 0 || size > MAX_SPARSE_SIZE) {
        tool_usage(tool, "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 "
                         "up to 16777216. Select 0 to disable sparse detection (fully allocates output).");
    }
    return size;
}

static void check_pairs(const Tool *tool)
{
    const gboolean has_backing = backing_name != NULL, has_format = output_format != NULL;
    const struct {
        const gboolean *given, *other;
        bool must_have;
        const char *message;
    } rules[] = {
        { &skip_broken, &bitmaps, true, "Use of --skip-broken-bitmaps requires --bitmaps" },
        { &compress_output, &offload, false, "Cannot enable copy offloading when -c is used" },
        { &offload, &salvage, false, "Cannot use copy offloading in salvaging mode" },
        { &target_image_opts, &existing, true, "--target-image-opts requires use of -n flag" },
        { &target_is_zero, &existing, true, "--target-is-zero requires use of -n flag" },
        { &target_is_zero, &has_backing, false,
          "Cannot use --target-is-zero when the destination image has a backing file" },
        { &target_image_opts, &has_format, false, "--target-image-opts and -O are mutually exclusive" },
        { &resume, &existing, false, "--resume is for a new TARGET; with -n the same command completes it" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        if (*rules[i].given && !*rules[i].other == rules[i].must_have) {
            tool_usage(tool, "%s", rules[i].message);
        }
    }
}

static void check_usage(Tool *tool)
{
    check_pairs(tool);
    if (sparse_text && offload) {
        tool_usage(tool, "Cannot enable copy offloading when -S is used");
    }
    if (existing && create_options) {
        tool_usage(tool, "-o has no effect when skipping image creation");
    }
    if (rate_text) {
        tool->rate = read_size(tool, "rate limit", rate_text);
    }
    if (!folder && tool->n_arguments < 2) {
        tool_usage(tool, "%s", command.arguments_error);
    }
    if (state_name && tool->n_arguments > 2) {
        tool_usage(tool, "No support for concatenating multiple snapshot");
    }
}

static void check_chain_usage(const Tool *tool)
{
    if (tool->n_arguments != 1) {
        tool_usage(tool, "--chain FOLDER copies one IMAGE with all that is below it");
    }
    if (output_format || create_options || compress_output || state_name || backing_name || backing_format
        || existing || sparse_text || salvage || bitmaps || resume) {
        tool_usage(tool, "--chain copies files as they are: it takes no other option of a copy");
    }
    if (tool->force_share) {
        tool_usage(tool, "--chain needs images that nobody writes to: it cannot be used with -U");
    }
}

/* ---- Results ----------------------------------------------------------------------------------- */

static bool print_json(const Tool *tool, const char *target, const Qcow2CopyResult *result, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add_string(&object, "output", target);
    tool_json_add_uint(&object, "virtual-size", result->virtual_size);
    tool_json_add_uint(&object, "output-size", result->output_size);
    tool_json_add_uint(&object, "bytes", result->bytes);
    tool_json_add_uint(&object, "clusters", result->clusters);
    tool_json_add_uint(&object, "bytes-copied", result->bytes_copied);
    tool_json_add_uint(&object, "bytes-cloned", result->bytes_cloned);
    tool_json_add_uint(&object, "bytes-passed-through", result->bytes_passed_through);
    tool_json_add_uint(&object, "bytes-resumed", result->bytes_resumed);
    tool_json_add_uint(&object, "bytes-salvaged", result->bytes_salvaged);
    tool_json_add(&object, "seconds", g_variant_new_double(seconds));
    return tool_print_json(tool, g_variant_builder_end(&object));
}

static int end(const Tool *tool, ToolProgress *progress, const char *target, const Qcow2CopyResult *result)
{
    tool_progress_end(progress);
    if (tool->json && !print_json(tool, target, result, tool_progress_seconds(progress))) {
        return 1;
    }
    return tool_finish(tool, 0);
}

static const char *how_to_go_on(void)
{
    return resume   ? "the same command goes on where this one stopped"
         : existing ? "the same command completes TARGET"
         : folder   ? "files that are there are complete; the same command starts again"
                    : "no new TARGET was left; the same command starts again";
}

static int fail(const Tool *tool, ToolProgress *progress, const char *name, const GError *error)
{
    int interrupted = tool_progress_interrupted(progress, tool, error, how_to_go_on());

    return interrupted ? interrupted : tool_fail(tool, name, error);
}

/* ---- The copy ---------------------------------------------------------------------------------- */

static void warn(const char *message, void *data)
{
    const Tool *tool = data;

    if (!tool->quiet) {
        tool_warn(tool, message);
    }
}

static void free_chain(gpointer chain)
{
    qcow2_chain_free(chain);
}

static void free_state(gpointer state)
{
    qcow2_state_free(state);
}

static bool open_source(const Tool *tool, const char *image, GPtrArray *chains, GPtrArray *states,
                        GError **error)
{
    Qcow2Chain *chain = tool_open(tool, image, tool->format, error);

    if (!chain) {
        return false;
    }
    g_ptr_array_add(chains, chain);
    g_autofree char *name = tool_snapshot_name(state_name ? state_name : "@active", error);
    Qcow2State *state = name ? qcow2_state_open(chain, name, error) : NULL;
    if (!state) {
        return false;
    }
    g_ptr_array_add(states, state);
    return true;
}

static int copy_images(const Tool *tool, const Qcow2CopyOptions *options)
{
    g_autoptr(GPtrArray) chains = g_ptr_array_new_with_free_func(free_chain);
    g_autoptr(GPtrArray) states = g_ptr_array_new_with_free_func(free_state);
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(GError) error = NULL;
    const char *target = tool->arguments[tool->n_arguments - 1];
    Qcow2CopyResult result;

    for (unsigned i = 0; i + 1 < tool->n_arguments; i++) {
        if (!open_source(tool, tool->arguments[i], chains, states, &error)) {
            return fail(tool, progress, tool->arguments[i], error);
        }
    }
    if (!qcow2_copy((Qcow2State *const *)states->pdata, states->len, target, options, &result,
                    tool_progress_get(progress), &error)) {
        return fail(tool, progress, target, error);
    }
    return end(tool, progress, target, &result);
}

static int copy_chain(const Tool *tool, const Qcow2CopyOptions *options)
{
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(GError) error = NULL;
    const char *image = tool->arguments[0];
    g_autoptr(Qcow2Chain) chain = tool_open(tool, image, tool->format, &error);
    Qcow2CopyResult result;

    if (!chain || !qcow2_copy_chain(chain, folder, options, NULL, NULL, &result, tool_progress_get(progress),
                                    &error)) {
        return fail(tool, progress, image, error);
    }
    return end(tool, progress, folder, &result);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };

    tool_start(&tool, &command, argc, argv);
    check_usage(&tool);
    g_autofree char *joined_options = tool_join_options(create_options);
    const Qcow2CopyOptions options = {
        .output_format = output_format,
        .create_options = joined_options,
        .backing_name = backing_name,
        .backing_format = backing_format,
        .compress = compress_output,
        .existing = existing,
        .target_image_opts = target_image_opts,
        .target_is_zero = target_is_zero,
        .has_sparse_size = sparse_text != NULL,
        .sparse_size = read_sparse_size(&tool),
        .salvage = salvage,
        .bitmaps = bitmaps,
        .skip_broken_bitmaps = skip_broken,
        .resume = resume,
        .no_reflink = tool.no_reflink,
        .untrusted = tool.untrusted,
        .cache = tool.target_cache,
        .trace = tool.trace,
        .warn = warn,
        .warn_data = &tool,
    };
    if (folder) {
        check_chain_usage(&tool);
        return copy_chain(&tool, &options);
    }
    return copy_images(&tool, &options);
}
