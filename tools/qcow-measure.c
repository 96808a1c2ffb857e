/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-measure: the size that a copy of an image would take, as qemu-img measure. */
#include <inttypes.h>
#include <stdio.h>

#include "tool-output.h"

static char *output_format, *state_text, *size_text;
static char **create_options;

static const GOptionEntry entries[] = {
    { "output-format", 'O', 0, G_OPTION_ARG_FILENAME, &output_format,
      "Format of the copy (default: raw)", "FMT" },
    { "options", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &create_options,
      "How the copy would be created: cluster_size=...,preallocation=...", "OPTIONS" },
    { "state", 'l', 0, G_OPTION_ARG_FILENAME, &state_text,
      "Measure this state; snapshot.id=ID and snapshot.name=NAME are understood too", "STATE" },
    { "size", 0, 0, G_OPTION_ARG_FILENAME, &size_text,
      "Measure an empty disk of this size instead of an image", "N" },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-measure",
    .synopses = (const char *const[]) { "[OPTION...] IMAGE", "[OPTION...] --size=N", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 0,
    .max_arguments = 1,
    .arguments_error = "At most one filename argument is allowed.",
    .description =
        "Tells how many bytes a copy of an image would take: with its present data, and with every cluster "
        "allocated. Reads metadata only.",
    .notes = (const char *const[]) {
        "The output is that of qemu-img measure, in both forms.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS,
    .exit_codes = (const ToolText[]) {
        { "0", "The size was printed." },
        { "1", "The image could not be read, or the copy could not be made so." },
        { "2", "Wrong usage." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-measure -O qcow2 disk.qcow2", "learn what a qcow2 copy takes" },
        { "qcow-measure -O qcow2 -l before-update disk.qcow2", "learn what a copy of a snapshot takes" },
        { "qcow-measure -O qcow2 -o cluster_size=2M --size=1T", "learn what an empty disk may grow to" },
        { NULL },
    },
    .usage_status = 2,
};

static bool print_result(const Tool *tool, const Qcow2MeasureResult *result)
{
    if (tool->json) {
        GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
        if (result->has_bitmaps) {
            tool_json_add_uint(&object, "bitmaps", result->bitmaps);
        }
        tool_json_add_uint(&object, "required", result->required);
        tool_json_add_uint(&object, "fully-allocated", result->fully_allocated);
        return tool_print_json(tool, g_variant_builder_end(&object));
    }
    printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
           result->required, result->fully_allocated);
    if (result->has_bitmaps) {
        printf("bitmaps size: %" PRIu64 "\n", result->bitmaps);
    }
    return true;
}

static void check_usage(const Tool *tool)
{
    bool has_image = tool->n_arguments == 1;

    if (!has_image && (tool->image_opts || tool->format || state_text)) {
        tool_usage(tool, "--image-opts, -f, and -l require a filename argument.");
    }
    if (has_image && size_text) {
        tool_usage(tool, "--size N cannot be used together with a filename.");
    }
    if (!has_image && !size_text) {
        tool_usage(tool, "Either --size N or one filename must be specified.");
    }
}

static bool measure_image(const Tool *tool, const char *options, Qcow2MeasureResult *ret, GError **error)
{
    g_autoptr(Qcow2Chain) chain = tool_open(tool, tool->arguments[0], tool->format, error);
    if (!chain) {
        return false;
    }
    g_autofree char *name = tool_snapshot_name(state_text ? state_text : "@active", error);
    g_autoptr(Qcow2State) state = name ? qcow2_state_open(chain, name, error) : NULL;

    return state && qcow2_measure(state, 0, output_format, options, ret, error);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    Qcow2MeasureResult result;
    uint64_t size = 0;

    tool_start(&tool, &command, argc, argv);
    check_usage(&tool);
    if (size_text && !qcow2_parse_size(size_text, &size, &error)) {
        tool_usage(&tool, "--size: %s", error->message);
    }
    if (!output_format) {
        output_format = g_strdup("raw");
    }

    g_autofree char *options = tool_join_options(create_options);
    bool done = size_text ? qcow2_measure(NULL, size, output_format, options, &result, &error)
                          : measure_image(&tool, options, &result, &error);
    if (!done) {
        return tool_fail(&tool, tool.arguments[0], error);
    }
    if (!print_result(&tool, &result)) {
        return 1;
    }
    return tool_finish(&tool, 0);
}
