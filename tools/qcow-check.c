/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-check: is the metadata of an image consistent, and can it be made so? As qemu-img check. */
#include <inttypes.h>
#include <stdio.h>

#include "tool-output.h"
#include "tool-progress.h"

enum { EXIT_CONSISTENT = 0, EXIT_NOT_CHECKED = 1, EXIT_CORRUPT = 2, EXIT_LEAKS = 3, EXIT_NO_CHECKER = 63 };

static char *repair_text;

static const GOptionEntry entries[] = {
    { "repair", 'r', 0, G_OPTION_ARG_STRING, &repair_text,
      "Repair: 'leaks' frees clusters that nothing refers to, 'all' also puts right what is corrupt",
      "leaks|all" },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-check",
    .synopses = (const char *const[]) { "[OPTION...] [-r leaks|all] IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Compares the reference counts, tables, snapshots and bitmaps of an image with each other. Every "
        "contradiction is one line on standard error; a summary follows. Changes nothing without -r.",
    .notes = (const char *const[]) {
        "The output is that of qemu-img check, in both forms. A leaked cluster wastes space and harms "
        "nothing; everything else that is found is corruption.",
        "Findings of its own are structures that overlap although the reference counts agree, reserved "
        "bits that QEMU does not look at, bitmap tables and L1 tables of snapshots. JSON has their number "
        "under \"qcow\", \"additional-corruptions\"; it is contained in \"corruptions\". What several "
        "tables share and is wrong is counted for each of them, and said once.",
        "A repair is all or nothing, also across a crash: whatever changes is written past the end of the "
        "file, and one sector of the header switches to it, once a check of the result has shown that it is "
        "better. What a guest reads stays as it is, in the snapshots too. A consistent image is not written "
        "to. Readers with -U are kept out meanwhile.",
        "-r leaks lowers refcounts that are too high, and nothing else. -r all makes refcounts, refcount "
        "blocks and the refcount table agree with the references that are there, whatever was wrong with "
        "them, with more bits each if they need them; corrects COPIED flags; clears reserved bits in L1 and "
        "L2 entries; gives tables that share a cluster with something else one of their own; makes plain "
        "zero clusters of preallocated ones at impossible places; completes or cuts extra data in the "
        "snapshot table; and clears the dirty and the corrupt bit when nothing is left.",
        "What only a guess could repair is reported, and the exit code stays 2: data clusters that are not "
        "aligned or lie past the end of the file, subclusters both allocated and zero, L1 tables of "
        "snapshots at impossible places, bitmaps whose tables are wrong. Clusters that only such an entry "
        "referred to are leaks like any other, and become free: copy the image first if they matter. Where "
        "entries point past the end of the file to where the repair would have to write, nothing is "
        "repaired: copy what can be read with qcow-copy. No snapshot and no bitmap is deleted, except "
        "snapshots beyond the 65536 that QEMU reads (-r all).",
        "With -U, beside a running VM, the metadata changes while it is read: nothing counts as corruption "
        "that two passes do not show alike.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_SOURCE_CACHE | TOOL_PROGRESS,
    .exit_codes = (const ToolText[]) {
        { "0", "The image is consistent, perhaps after the repair." },
        { "1", "The image could not be checked or repaired, and is as it was; or wrong usage." },
        { "2", "The image is corrupt, still so with -r." },
        { "3", "The image has leaked clusters, and is consistent otherwise." },
        { "63", "The format of the image has nothing to check." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image is as it was, or repaired." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-check disk.qcow2", "check an image" },
        { "qcow-check -p --output=json disk.qcow2", "check a large image, for a script" },
        { "qcow-check -r all disk.qcow2", "repair an image" },
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
    add_unless_zero(&object, "corruptions-fixed", result->corruptions_fixed);
    add_unless_zero(&object, "leaks-fixed", result->leaks_fixed);
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

static int fail(const Tool *tool, ToolProgress *progress, const GError *error, bool repaired)
{
    const char *state = repaired ? "the image is repaired; check again" : "nothing was changed; check again";
    int interrupted = tool_progress_interrupted(progress, tool, error, state);

    if (interrupted) {
        return interrupted;
    }
    if (g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED)) {
        tool_fail_message(tool, "This image format does not support checks");
        return EXIT_NO_CHECKER;
    }
    return tool_fail(tool, tool->arguments[0], error);
}

static void print_repaired(const Tool *tool, ToolProgress *progress, const Qcow2CheckResult *result)
{
    tool_progress_end(progress);
    if (!tool->quiet && !tool->json) {
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRIu64 " leaked clusters\n"
               "    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               result->leaks_fixed, result->corruptions_fixed);
        fflush(stdout);
    }
}

/* What was repaired is looked at again, as it is on disk now. */
static bool look(const Tool *tool, Qcow2Chain *chain, Qcow2Repair repair, ToolProgress *progress,
                 Qcow2CheckResult *result, bool *repaired, GError **error)
{
    Qcow2Progress *meter = tool_progress_get(progress);

    *repaired = false;
    if (repair == QCOW2_REPAIR_NOTHING) {
        return qcow2_check(chain, print_finding, progress, result, meter, error);
    }
    if (!qcow2_repair(chain, repair, print_finding, progress, result, meter, error)) {
        return false;
    }
    const Qcow2CheckResult fixed = *result;
    *repaired = fixed.corruptions_fixed > 0 || fixed.leaks_fixed > 0;
    if (!*repaired) {
        return true;
    }
    print_repaired(tool, progress, result);
    bool ok = qcow2_check(chain, print_finding, progress, result, meter, error);
    result->corruptions_fixed = fixed.corruptions_fixed;
    result->leaks_fixed = fixed.leaks_fixed;
    return ok;
}

static int check(const Tool *tool, Qcow2Chain *chain, Qcow2Repair repair)
{
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(GError) error = NULL;
    Qcow2CheckResult result;
    bool repaired;

    if (!look(tool, chain, repair, progress, &result, &repaired, &error)) {
        return fail(tool, progress, error, repaired);
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

static Qcow2Repair parse_repair(const Tool *tool)
{
    if (!repair_text) {
        return QCOW2_REPAIR_NOTHING;
    }
    if (g_strcmp0(repair_text, "leaks") == 0) {
        return QCOW2_REPAIR_LEAKS;
    }
    if (g_strcmp0(repair_text, "all") != 0) {
        tool_usage(tool, "Unknown option value for -r (expecting 'leaks' or 'all'): %s", repair_text);
    }
    return QCOW2_REPAIR_ALL;
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    Qcow2Repair repair = parse_repair(&tool);
    g_autoptr(Qcow2Chain) chain = repair == QCOW2_REPAIR_NOTHING
                                ? tool_open(&tool, tool.arguments[0], tool.format, &error)
                                : tool_open_repairable(&tool, tool.arguments[0], tool.format, &error);
    return chain ? check(&tool, chain, repair) : tool_fail(&tool, tool.arguments[0], error);
}
