/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-info: what an image says about itself, as qemu-img info prints it. */
#include <stdio.h>

#include "tool-image.h"
#include "tool-output.h"

static gboolean backing_chain;

static const GOptionEntry entries[] = {
    { "backing-chain", 0, 0, G_OPTION_ARG_NONE, &backing_chain,
      "Show every image of the chain, down to the base", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-info",
    .synopses = (const char *const[]) { "[OPTION...] IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Shows what an image says about itself: format, sizes, features, snapshots, bitmaps, and the name "
        "of its backing file. Reads the header and the tables that it names, and changes nothing.",
    .notes = (const char *const[]) {
        "The output is that of qemu-img info, in both forms. JSON has further keys under \"qcow\": the "
        "version of the header, how the format was found, and the disk size of each snapshot.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS,
    .exit_codes = (const ToolText[]) {
        { "0", "The image, or every image of the chain, was shown." },
        { "1", "An image could not be opened." },
        { "2", "Wrong usage." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-info disk.qcow2", "show an image" },
        { "qcow-info -U --backing-chain disk.qcow2", "show a chain that a running VM uses" },
        { "qcow-info --output=json disk.qcow2 | jq '.snapshots[].name'", "list the names of snapshots" },
        { NULL },
    },
    .usage_status = 2,
};

static bool print_human(Qcow2Chain *chain, unsigned n_layers, GError **error)
{
    for (unsigned layer = 0; layer < n_layers; layer++) {
        Qcow2ImageInfo info;

        if (!qcow2_chain_get_info(chain, layer, &info, error)) {
            return false;
        }
        if (layer > 0) {
            putchar('\n');
        }
        tool_print_image(&info);
    }
    return true;
}

static bool print_json(const Tool *tool, Qcow2Chain *chain, unsigned n_layers, GError **error)
{
    g_auto(GVariantBuilder) list = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));

    for (unsigned layer = 0; layer < n_layers; layer++) {
        Qcow2ImageInfo info;

        if (!qcow2_chain_get_info(chain, layer, &info, error)) {
            return false;
        }
        g_autoptr(GVariant) image = g_variant_ref_sink(tool_image_to_json(&info));
        if (!backing_chain) {
            tool_print_json(tool, image);
            return true;
        }
        g_variant_builder_add_value(&list, image);
    }
    tool_print_json(tool, g_variant_builder_end(&list));
    return true;
}

static bool print_images(const Tool *tool, Qcow2Chain *chain, GError **error)
{
    if (backing_chain && !qcow2_chain_open_all(chain, error)) {
        return false;
    }
    unsigned n_layers = backing_chain ? qcow2_chain_n_layers(chain) : 1;

    return tool->json ? print_json(tool, chain, n_layers, error) : print_human(chain, n_layers, error);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    const char *image = tool.arguments[0];
    g_autoptr(Qcow2Chain) chain = tool_open(&tool, image, tool.format, &error);
    if (!chain || !print_images(&tool, chain, &error)) {
        return tool_fail(&tool, image, error);
    }
    return tool_finish(&tool, 0);
}
