/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-moved.h"

#include <inttypes.h>
#include <stdio.h>

void tool_json_add_moved(GVariantBuilder *object, const Qcow2MoveResult *result)
{
    tool_json_add_uint(object, "bytes", result->bytes);
    tool_json_add_uint(object, "clusters", result->clusters);
    tool_json_add_uint(object, "data-clusters", result->data_clusters);
    tool_json_add_uint(object, "zero-clusters", result->zero_clusters);
    tool_json_add_uint(object, "compressed-clusters", result->compressed_clusters);
    tool_json_add_uint(object, "bytes-copied", result->bytes_copied);
    tool_json_add_uint(object, "bytes-cloned", result->bytes_cloned);
}

char *tool_describe_moved(const Qcow2MoveResult *result, double seconds)
{
    g_autofree char *bytes = qcow2_format_size(result->bytes);

    return g_strdup_printf("%s, %" PRIu64 " clusters (%" PRIu64 " data, %" PRIu64 " zero, %" PRIu64
                           " compressed), in %.2f seconds", bytes, result->clusters, result->data_clusters,
                           result->zero_clusters, result->compressed_clusters, seconds);
}

static bool print_summary(const Tool *tool, GVariantBuilder *object, const Qcow2MoveResult *result,
                          double seconds)
{
    if (result) {
        tool_json_add_moved(object, result);
    } else {
        tool_json_add_uint(object, "bytes", 0);
        tool_json_add_uint(object, "clusters", 0);
    }
    tool_json_add(object, "seconds", g_variant_new_double(seconds));
    return tool_print_json(tool, g_variant_builder_end(object));
}

int tool_finish_summary(const Tool *tool, GVariantBuilder *more, const Qcow2MoveResult *moved,
                        double seconds)
{
    GVariantBuilder empty = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT), *object = more ? more : &empty;
    bool ok = true;

    if (tool->json && !tool->quiet) {
        ok = print_summary(tool, object, moved, seconds);
    } else {
        g_variant_builder_clear(object);
    }
    return ok ? tool_finish(tool, 0) : 1;
}

bool tool_print_moved(const Tool *tool, const char *done, const Qcow2MoveResult *result, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    if (tool->quiet) {
        return true;
    }
    if (!tool->json) {
        g_autofree char *moved = tool_describe_moved(result, seconds);
        if (done) {
            printf("%s: %s\n", done, moved);
        }
        return true;
    }
    return print_summary(tool, &object, result, seconds);
}

ToolMoved tool_moved_of(const Qcow2MoveResult *result, double seconds)
{
    return (ToolMoved) {
        .bytes = result->bytes,
        .data_clusters = result->data_clusters,
        .zero_clusters = result->zero_clusters,
        .compressed_clusters = result->compressed_clusters,
        .seconds = seconds,
    };
}

int tool_finish_moved(const Tool *tool, ToolProgress *progress, const Qcow2Chain *chain, const char *done,
                      const Qcow2MoveResult *result, const GError *failure)
{
    const char *image = tool->arguments[0];
    double seconds = tool_progress_seconds(progress);

    tool_progress_end(progress);
    if (failure) {
        int status = tool_progress_interrupted(progress, tool, failure,
                                               "the image is as it was; the same command starts again");
        return status ? status : tool_fail(tool, image, failure);
    }
    if (tool->dry_run) {
        ToolMoved moved = tool_moved_of(result, seconds);
        return tool_finish_dry_run(tool, chain, image, &moved);
    }
    return tool_print_moved(tool, done, result, seconds) ? tool_finish(tool, 0) : 1;
}
