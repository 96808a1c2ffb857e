/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-check: is the metadata of an image consistent? As qemu-img check, without repair. */
#include <inttypes.h>
#include <stdio.h>

#include "tool-output.h"
#include "tool-progress.h"

enum { EXIT_CONSISTENT = 0, EXIT_NOT_CHECKED = 1, EXIT_CORRUPT = 2, EXIT_LEAKS = 3, EXIT_NO_CHECKER = 63 };

static const GOptionEntry entries[] = {
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-check",
    .synopses = (const char *const[]) { "[OPTION...] IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Compares the reference counts, tables, snapshots and bitmaps of an image with each other. Every "
        "contradiction is one line on standard error; a summary follows. Changes nothing.",
    .notes = (const char *const[]) {
        "The output is that of qemu-img check, in both forms. A leaked cluster wastes space and harms "
        "nothing; everything else that is found is corruption.",
        "Findings of its own are structures that overlap although the reference counts agree, reserved "
        "bits that QEMU does not look at, bitmap tables and L1 tables of snapshots. JSON has their number "
        "under \"qcow\", \"additional-corruptions\"; it is contained in \"corruptions\". What several "
        "tables share and is wrong is counted for each of them, and said once.",
        "With -U, beside a running VM, the metadata changes while it is read: nothing counts as corruption "
        "that two passes do not show alike.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_SOURCE_CACHE | TOOL_THREADS | TOOL_PROGRESS,
    .exit_codes = (const ToolText[]) {
        { "0", "The image is consistent." },
        { "1", "The image could not be checked, or wrong usage." },
        { "2", "The image is corrupt." },
        { "3", "The image has leaked clusters, and is consistent otherwise." },
        { "63", "The format of the image has nothing to check." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-check disk.qcow2", "check an image" },
        { "qcow-check -p --output=json disk.qcow2", "check a large image, for a script" },
        { NULL },
    },
    .usage_status = EXIT_NOT_CHECKED,
};

/* Findings go to standard error in both forms, as qemu-img's do. */
static void print_finding(const char *finding, void *data)
{
    g_autofree char *text = tool_escape_message(finding);

    tool_progress_end(data);
    fprintf(stderr, "%s\n", text);
}

static double percent(uint64_t part, uint64_t whole)
{
    return (double)part * 100.0 / (double)whole;
}

static void print_human(const Qcow2CheckResult *result)
{
    if (!result->corruptions && !result->leaks && !result->check_errors) {
        printf("No errors were found on the image.\n");
    }
    if (result->corruptions) {
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               result->corruptions);
    }
    if (result->leaks) {
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n", result->leaks);
    }
    if (result->check_errors) {
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", result->check_errors);
    }
    if (result->total_clusters && result->allocated_clusters) {
        printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, "
               "%0.2f%% compressed clusters\n",
               result->allocated_clusters, result->total_clusters,
               percent(result->allocated_clusters, result->total_clusters),
               percent(result->fragmented_clusters, result->allocated_clusters),
               percent(result->compressed_clusters, result->allocated_clusters));
    }
    if (result->image_end_offset) {
        printf("Image end offset: %" PRIu64 "\n", result->image_end_offset);
    }
}

static void add_unless_zero(GVariantBuilder *object, const char *key, uint64_t value)
{
    if (value) {
        tool_json_add_uint(object, key, value);
    }
}

static bool print_json(const Tool *tool, const Qcow2CheckResult *result)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    add_unless_zero(&object, "image-end-offset", result->image_end_offset);
    add_unless_zero(&object, "compressed-clusters", result->compressed_clusters);
    add_unless_zero(&object, "total-clusters", result->total_clusters);
    tool_json_add_uint(&object, "check-errors", result->check_errors);
    add_unless_zero(&object, "corruptions", result->corruptions);
    add_unless_zero(&object, "leaks", result->leaks);
    add_unless_zero(&object, "fragmented-clusters", result->fragmented_clusters);
    add_unless_zero(&object, "allocated-clusters", result->allocated_clusters);
    tool_json_add_string(&object, "filename", tool->arguments[0]);
    tool_json_add_string(&object, "format", "qcow2");
    if (result->additional_corruptions) {
        GVariantBuilder more = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
        tool_json_add_uint(&more, "additional-corruptions", result->additional_corruptions);
        tool_json_add(&object, "qcow", g_variant_builder_end(&more));
    }
    return tool_print_json(tool, g_variant_builder_end(&object));
}

static int exit_status(const Tool *tool, const Qcow2CheckResult *result)
{
    if (result->check_errors) {
        tool_fail_message(tool, "Check failed");
        return EXIT_NOT_CHECKED;
    }
    return result->corruptions ? EXIT_CORRUPT : result->leaks ? EXIT_LEAKS : EXIT_CONSISTENT;
}

static int fail(const Tool *tool, ToolProgress *progress, const GError *error)
{
    int interrupted = tool_progress_interrupted(progress, tool, error, "nothing was changed; check again");

    if (interrupted) {
        return interrupted;
    }
    if (g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED)) {
        tool_fail_message(tool, "This image format does not support checks");
        return EXIT_NO_CHECKER;
    }
    return tool_fail(tool, tool->arguments[0], error);
}

static int check(const Tool *tool, Qcow2Chain *chain)
{
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(GError) error = NULL;
    Qcow2CheckResult result;

    if (!qcow2_check(chain, print_finding, progress, &result, tool_progress_get(progress), &error)) {
        return fail(tool, progress, error);
    }

    tool_progress_end(progress);
    if (!tool->quiet) {
        if (!tool->json) {
            print_human(&result);
        } else if (!print_json(tool, &result)) {
            return EXIT_NOT_CHECKED;
        }
    }
    return tool_finish(tool, exit_status(tool, &result));
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    g_autoptr(Qcow2Chain) chain = tool_open(&tool, tool.arguments[0], tool.format, &error);
    return chain ? check(&tool, chain) : tool_fail(&tool, tool.arguments[0], error);
}
