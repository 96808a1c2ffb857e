/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-bitmap: the persistent dirty bitmaps of an image. */
#include <stdio.h>

#include "tool-image.h"
#include "tool-output.h"

static gboolean list;

static const GOptionEntry entries[] = {
    { "list", 0, 0, G_OPTION_ARG_NONE, &list, "List the bitmaps; this is also the default", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-bitmap",
    .synopses = (const char *const[]) { "[OPTION...] --list IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Lists the persistent dirty bitmaps of an image: name, granularity, flags, and how much of the disk "
        "each calls dirty. Prints nothing when there are none.",
    .notes = (const char *const[]) {
        "The flag auto says that the bitmap records what a guest writes; in-use, that it was not closed "
        "properly, so that its contents must not be believed. While a VM runs its bitmaps are in use: what "
        "they hold is then in the VM's memory and is not counted here.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS,
    .exit_codes = (const ToolText[]) {
        { "0", "The bitmaps were listed; there may be none." },
        { "1", "The image could not be read." },
        { "2", "Wrong usage." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-bitmap --list disk.qcow2", "list bitmaps" },
        { "qcow-bitmap --list -U --output=json disk.qcow2", "list those of a running VM's image as JSON" },
        { NULL },
    },
    .usage_status = 2,
};

static bool is_counted(const Qcow2BitmapInfo *bitmap)
{
    return !bitmap->in_use;
}

static void print_bitmap(const Qcow2BitmapInfo *bitmap)
{
    g_autofree char *name = qcow2_escape_name(bitmap->name, -1);
    g_autofree char *granularity = qcow2_format_size(bitmap->granularity);
    g_autofree char *dirty = is_counted(bitmap) ? qcow2_format_size(bitmap->dirty_bytes) : g_strdup("--");
    const char *flags = bitmap->in_use ? (bitmap->enabled ? "in-use,auto" : "in-use")
                                       : (bitmap->enabled ? "auto" : "-");

    printf("%11s %11s %-12s %s\n", granularity, dirty, flags, name);
}

static void print_table(const Qcow2ImageInfo *info)
{
    if (info->n_bitmaps == 0) {
        return;
    }
    printf("Bitmap list:\n%11s %11s %-12s %s\n", "GRANULARITY", "DIRTY", "FLAGS", "NAME");
    for (unsigned i = 0; i < info->n_bitmaps; i++) {
        print_bitmap(&info->bitmaps[i]);
    }
}

static bool print_json(const Tool *tool, const Qcow2ImageInfo *info)
{
    GVariantBuilder array = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));

    for (unsigned i = 0; i < info->n_bitmaps; i++) {
        GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
        tool_bitmap_to_json(&info->bitmaps[i], &object);
        if (is_counted(&info->bitmaps[i])) {
            tool_json_add_uint(&object, "dirty-bytes", info->bitmaps[i].dirty_bytes);
        }
        g_variant_builder_add_value(&array, g_variant_builder_end(&object));
    }
    return tool_print_json(tool, g_variant_builder_end(&array));
}

static bool load(Qcow2Chain *chain, Qcow2ImageInfo *ret_info, GError **error)
{
    return qcow2_chain_load_bitmap_counts(chain, 0, error)
        && qcow2_chain_get_info(chain, 0, ret_info, error);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    Qcow2ImageInfo info;

    tool_start(&tool, &command, argc, argv);
    const char *image = tool.arguments[0];
    g_autoptr(Qcow2Chain) chain = tool_open(&tool, image, tool.format, &error);
    if (!chain || !load(chain, &info, &error)) {
        return tool_fail(&tool, image, error);
    }
    if (!tool.json) {
        print_table(&info);
    } else if (!print_json(&tool, &info)) {
        return 1;
    }
    return tool_finish(&tool, 0);
}
