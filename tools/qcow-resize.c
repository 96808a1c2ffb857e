/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-resize: another virtual size. */
#include <stdio.h>

#include "tool-argv.h"
#include "tool-moved.h"

static gboolean shrink;
static char *preallocation;

static const GOptionEntry entries[] = {
    { "shrink", 0, 0, G_OPTION_ARG_NONE, &shrink,
      "Allow a smaller size; what is past the new end is lost", NULL },
    { "preallocation", 0, 0, G_OPTION_ARG_FILENAME, &preallocation,
      "How space is set aside for what is new", "PREALLOC" },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-resize",
    .synopses = (const char *const[]) { "[OPTION...] IMAGE [+|-]SIZE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 2,
    .max_arguments = 2,
    .arguments_error = "Expecting image file name and size",
    .description =
        "Gives an image another virtual size: SIZE, or so much more or less than now. K, M, G... are powers "
        "of 1024. Internal snapshots keep their sizes.",
    .notes = (const char *const[]) {
        "What is new reads as zeros, also where a backing file is longer than the image was, and where the "
        "image had data when it was larger before.",
        "Dirty bitmaps follow the size. What is new is dirty in those that are enabled: the disk may have "
        "been larger before, and a backup may know its end with other contents.",
        "All or nothing, also across a crash. Shrinking cuts the file only after the smaller image is on "
        "disk.",
        "The guest's partitions and file systems do not follow: shrink these first, grow them afterwards.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_IMAGE | TOOL_PROGRESS,
    .exit_codes = (const ToolText[]) {
        { "0", "The image has that size." },
        { "1", "Failed; the image is as it was." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image is as it was." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-resize disk.qcow2 +10G", "make a disk larger" },
        { "qcow-resize --shrink disk.qcow2 20G", "make it smaller" },
        { "qcow-resize --preallocation=falloc -f raw disk.raw 100G", "set the space aside at once" },
        { NULL },
    },
    .usage_status = 2,
};

static void parse_size(const Tool *tool, const char *text, int *ret_sign, uint64_t *ret_size)
{
    g_autoptr(GError) error = NULL;

    *ret_sign = *text == '+' ? 1 : *text == '-' ? -1 : 0;
    text += *ret_sign != 0;
    if (g_ascii_isspace(*text) || *text == '+' || !qcow2_parse_size(text, ret_size, &error)) {
        tool_usage(tool, "%s", error ? error->message : "the size has two signs");
    }
}

/* What the image shall have; 0 when there would be nothing left. */
static uint64_t new_size(uint64_t old_size, int sign, uint64_t size)
{
    if (sign == 0) {
        return size;
    }
    if (sign > 0) {
        return size > INT64_MAX - old_size ? UINT64_MAX : old_size + size;
    }
    return size < old_size ? old_size - size : 0;
}

static int finish(const Tool *tool, Qcow2Chain *chain, uint64_t old_size, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    g_autoptr(Qcow2State) active = qcow2_state_open(chain, "@active", NULL);

    if (!tool->quiet && !tool->json) {
        puts("Image resized.");
    }
    tool_json_add_uint(&object, "virtual-size-before", old_size);
    if (active) {
        tool_json_add_uint(&object, "virtual-size", qcow2_state_get_size(active));
    }
    return tool_finish_summary(tool, &object, NULL, seconds);
}

static int run(const Tool *tool, Qcow2Chain *chain, int sign, uint64_t size)
{
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2State) active = qcow2_state_open(chain, "@active", &error);

    if (!active) {
        return tool_fail(tool, tool->arguments[0], error);
    }
    uint64_t old_size = qcow2_state_get_size(active);
    const Qcow2ResizeOptions options = {
        .size = new_size(old_size, sign, size),
        .shrink = shrink,
        .preallocation = preallocation,
    };
    if (!qcow2_resize(chain, &options, tool_progress_get(progress), &error)) {
        int interrupted = tool_progress_interrupted(progress, tool, error,
                                                    "the image is as it was; the same command starts again");
        return interrupted ? interrupted : tool_fail(tool, tool->arguments[0], error);
    }
    tool_progress_end(progress);
    return finish(tool, chain, old_size, tool_progress_seconds(progress));
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) words = tool_numbers_last(argv);
    uint64_t size;
    int sign;

    (void)argc;
    tool_start(&tool, &command, (int)g_strv_length(words), words);
    parse_size(&tool, tool.arguments[1], &sign, &size);
    g_autoptr(Qcow2Chain) chain = tool_open_writable(&tool, tool.arguments[0], tool.format, &error);
    return chain ? run(&tool, chain, sign, size) : tool_fail(&tool, tool.arguments[0], error);
}
