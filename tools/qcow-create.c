/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-create: a new image, as qemu-img create makes it. */
#include <stdio.h>

#include "tool-moved.h"

static char *format, *backing_name, *backing_format;
static char **create_options;
static gboolean backing_unchecked;

static const GOptionEntry entries[] = {
    { "format", 'f', 0, G_OPTION_ARG_FILENAME, &format, "Format of the new image (default: qcow2)", "FMT" },
    { "options", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &create_options,
      "How it is made: cluster_size=...,compat=...,preallocation=...", "OPTIONS" },
    { "backing", 'b', 0, G_OPTION_ARG_FILENAME, &backing_name,
      "The image that the new one is an overlay of", "FILE" },
    { "backing-format", 'F', 0, G_OPTION_ARG_FILENAME, &backing_format,
      "Format of the backing file", "FMT" },
    { "backing-unsafe", 'u', 0, G_OPTION_ARG_NONE, &backing_unchecked,
      "Do not open the backing file; it may be missing, and SIZE must be given", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-create",
    .synopses = (const char *const[]) {
        "[OPTION...] IMAGE SIZE",
        "[OPTION...] -b FILE -F FMT IMAGE [SIZE]",
        NULL,
    },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 2,
    .arguments_error = "Expecting image file name and perhaps a size",
    .description =
        "Makes a new image of SIZE bytes; K, M, G... are powers of 1024. An overlay has the size of its "
        "backing file when none is given.",
    .notes = (const char *const[]) {
        "Options of a qcow2 image, with their defaults: cluster_size=64K, compat=1.1 (or 0.10), "
        "refcount_bits=16, extended_l2=off, lazy_refcounts=off, compression_type=zlib (or zstd), "
        "preallocation=off (or metadata, falloc, full), data_file=NAME (the guest's data is in that file), "
        "data_file_raw=off, backing_file=NAME, backing_fmt=FMT, size=N. Of a raw image: preallocation=off "
        "(or falloc, full), size=N. Of the file of either: nocow=off, extent_size_hint=1M.",
        "IMAGE appears under its name when it is complete and on disk, and then replaces a file that had "
        "this name; one that is in use is not replaced. A block device or NBD export is written in place: "
        "until the command has ended well it holds no image.",
        "A backing file's name is relative to the folder of IMAGE, that of a data file to the working "
        "directory, where QEMU looks for it.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_IMAGE | TOOL_PROGRESS,
    .exit_codes = (const ToolText[]) {
        { "0", "IMAGE is complete." },
        { "1", "Failed; a file that was there before is as it was." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; no IMAGE was made." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-create disk.qcow2 100G", "make an empty disk" },
        { "qcow-create -b base.qcow2 -F qcow2 overlay.qcow2", "make an overlay of the same size" },
        { "qcow-create -o preallocation=falloc,cluster_size=2M disk.qcow2 100G",
          "set the space aside at once" },
        { "qcow-create -f raw disk.raw 100G", "make a raw disk" },
        { NULL },
    },
    .usage_status = 2,
};

static void announce(const char *line, void *data)
{
    const Tool *tool = data;

    if (!tool->quiet && !tool->json) {
        g_autofree char *image = qcow2_escape_name(tool->arguments[0], -1);
        g_autofree char *text = tool_escape_message(line);
        printf("Formatting '%s', %s\n", image, text);
        (void)fflush(stdout);
    }
}

static void warn(const char *message, void *data)
{
    tool_warn(data, message);
}

static int finish(const Tool *tool, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    /* What the new image names was looked at before, or shall not be. */
    Qcow2OpenOptions options = { .format = format ? format : "qcow2", .untrusted = true };
    g_autoptr(Qcow2Chain) chain = tool->json ? qcow2_chain_open(tool->arguments[0], &options, NULL) : NULL;
    Qcow2ImageInfo info;

    tool_json_add(&object, "filename", tool_json_name(tool->arguments[0]));
    tool_json_add_string(&object, "format", options.format);
    if (chain && qcow2_chain_get_info(chain, 0, &info, NULL)) {
        tool_json_add_uint(&object, "virtual-size", info.virtual_size);
    }
    return tool_finish_summary(tool, &object, NULL, seconds);
}

static void read_size(const Tool *tool, Qcow2CreateRequest *request)
{
    g_autoptr(GError) error = NULL;

    request->has_size = tool->n_arguments > 1;
    if (request->has_size && !qcow2_parse_size(tool->arguments[1], &request->size, &error)) {
        tool_usage(tool, "Invalid image size specified: %s", error->message);
    }
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    g_autofree char *options = tool_join_options(create_options);
    Qcow2CreateRequest request = {
        .format = format,
        .options = options,
        .backing_name = backing_name,
        .backing_format = backing_format,
        .backing_unchecked = backing_unchecked,
        .untrusted = tool.untrusted,
        .announce = announce,
        .announce_data = &tool,
        .warn = warn,
        .warn_data = &tool,
        .trace = tool.trace,
    };
    read_size(&tool, &request);

    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    if (!qcow2_create(tool.arguments[0], &request, tool_progress_get(progress), &error)) {
        int interrupted = tool_progress_interrupted(progress, &tool, error,
                                                    "no image was made; the same command starts again");
        return interrupted ? interrupted : tool_fail(&tool, tool.arguments[0], error);
    }
    tool_progress_end(progress);
    return finish(&tool, tool_progress_seconds(progress));
}
