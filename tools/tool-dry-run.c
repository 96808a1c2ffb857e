/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-dry-run.h"

#include <inttypes.h>
#include <stdio.h>

#include "tool-output.h"

static void print_for_people(const Qcow2DryRun *run, const ToolMoved *moved)
{
    g_autofree char *bytes = qcow2_format_size(moved->bytes), *growth = qcow2_format_size(run->growth);
    g_autofree char *freed = qcow2_format_size(run->freed), *needed = qcow2_format_size(run->needed);
    g_autofree char *available = qcow2_format_size(run->available);

    if (moved->bytes == 0) {
        printf("would move nothing");
    } else {
        printf("would move %s (clusters: %" PRIu64 " data, %" PRIu64 " zero, %" PRIu64 " compressed)", bytes,
               moved->data_clusters, moved->zero_clusters, moved->compressed_clusters);
    }
    if (moved->bytes_preserved > 0) {
        g_autofree char *preserved = qcow2_format_size(moved->bytes_preserved);
        printf(", copy %s into images to preserve", preserved);
    }
    printf(", grow by %s, free %s in the image", growth, freed);
    if (moved->cuts) {
        g_autofree char *cut = qcow2_format_size(moved->file_size_before
                                                 - MIN(moved->file_size, moved->file_size_before));
        printf(", cut %s off the file", cut);
    }
    printf("; needs %s", needed);
    if (run->has_available) {
        printf(", %s are available", available);
    }
    putchar('\n');
}

static bool print_json(const Tool *tool, const Qcow2DryRun *run, const ToolMoved *moved)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add_bool(&object, "dry-run", true);
    tool_json_add_uint(&object, "bytes", moved->bytes);
    tool_json_add_uint(&object, "clusters",
                       moved->data_clusters + moved->zero_clusters + moved->compressed_clusters);
    tool_json_add_uint(&object, "data-clusters", moved->data_clusters);
    tool_json_add_uint(&object, "zero-clusters", moved->zero_clusters);
    tool_json_add_uint(&object, "compressed-clusters", moved->compressed_clusters);
    if (moved->may_preserve) {
        tool_json_add_uint(&object, "bytes-preserved", moved->bytes_preserved);
    }
    tool_json_add_uint(&object, "growth", run->growth);
    tool_json_add_uint(&object, "freed", run->freed);
    if (moved->cuts) {
        tool_json_add_uint(&object, "file-size-before", moved->file_size_before);
        tool_json_add_uint(&object, "file-size", moved->file_size);
    }
    tool_json_add_uint(&object, "needed", run->needed);
    if (run->has_available) {
        tool_json_add_uint(&object, "available", run->available);
    }
    tool_json_add_bool(&object, "fits", run->fits);
    tool_json_add(&object, "seconds", g_variant_new_double(moved->seconds));
    return tool_print_json(tool, g_variant_builder_end(&object));
}

int tool_finish_dry_run(const Tool *tool, const Qcow2Chain *chain, const char *image, const ToolMoved *moved)
{
    Qcow2DryRun run;

    qcow2_chain_get_dry_run(chain, &run);
    return tool_print_dry_run(tool, &run, image, moved);
}

int tool_print_dry_run(const Tool *tool, const Qcow2DryRun *run, const char *image, const ToolMoved *moved)
{
    if (tool->json && !print_json(tool, run, moved)) {
        return 1;
    }
    if (!tool->json && !tool->quiet) {
        print_for_people(run, moved);
    }
    if (run->fits) {
        return tool_finish(tool, 0);
    }
    g_autofree char *needed = qcow2_format_size(run->needed), *available = qcow2_format_size(run->available);
    tool_fail_message(tool, "'%s': not enough space: %s are needed and %s available", image, needed,
                      available);
    return tool_finish(tool, 1);
}
