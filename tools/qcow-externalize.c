/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-externalize: internal snapshots as a backing chain of files. */
#include <stdio.h>

#include "tool-output.h"
#include "tool-progress.h"

static const GOptionEntry entries[] = { { NULL } };

static const ToolCommand command = {
    .name = "qcow-externalize",
    .synopses = (const char *const[]) { "[OPTION...] IMAGE FOLDER", NULL },
    .arguments = (const char *const[]) { "IMAGE", "FOLDER", NULL },
    .min_arguments = 2,
    .max_arguments = 2,
    .arguments_error = "Expecting IMAGE FOLDER",
    .description =
        "Writes every internal snapshot, in the order of the snapshot table, and the active layer as a "
        "backing chain of files: 0001-NAME.qcow2 and so on up to active.qcow2. The image itself is not "
        "changed.",
    .notes = (const char *const[]) {
        "Each file holds what changed since the one before it, and has the size of its state. The first is "
        "backed by the image's own backing file. A VM state stands beside its file as NAME.vmstate.",
        "Characters that have a meaning in file or image names are written as %XX. FOLDER is made when it "
        "is missing, and a file that is there is never replaced. When anything fails none of the files is "
        "left.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_PROGRESS | TOOL_RATE | TOOL_NO_REFLINK,
    .exit_codes = (const ToolText[]) {
        { "0", "The chain is complete." },
        { "1", "Failed; no file was left." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; no file was left." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-externalize disk.qcow2 history", "turn snapshots into files" },
        { NULL },
    },
    .usage_status = 2,
};

typedef struct Report {
    const Tool *tool;
    GVariantBuilder files;
} Report;

static void take_file(const Qcow2ExternalFile *file, void *data)
{
    Report *report = data;

    if (report->tool->json) {
        GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
        tool_json_add(&object, "state", tool_json_name(file->state));
        tool_json_add(&object, "file", tool_json_name(file->file));
        if (file->vmstate_file) {
            tool_json_add(&object, "vmstate-file", tool_json_name(file->vmstate_file));
        }
        g_variant_builder_add(&report->files, "v", g_variant_builder_end(&object));
    } else if (!report->tool->quiet) {
        g_autofree char *state = qcow2_escape_name(file->state, -1);
        printf("%s: %s%s%s\n", state, file->file, file->vmstate_file ? ", " : "",
               file->vmstate_file ? file->vmstate_file : "");
    }
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    const char *image = tool.arguments[0];
    Report report = { &tool, G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av")) };
    g_autoptr(Qcow2Chain) chain = tool_open(&tool, image, tool.format, &error);
    if (!chain) {
        return tool_fail(&tool, image, error);
    }
    g_autoptr(ToolProgress) progress = tool_progress_start(&tool, tool.json);
    const Qcow2ExternalizeOptions options = { .no_reflink = tool.no_reflink };
    bool ok = qcow2_externalize(chain, tool.arguments[1], &options, take_file, &report,
                                tool_progress_get(progress), &error);
    tool_progress_end(progress);
    g_autoptr(GVariant) files = g_variant_ref_sink(g_variant_builder_end(&report.files));
    if (!ok) {
        int status =
            tool_progress_interrupted(progress, &tool, error, "no file was left; run the command again");
        return status ? status : tool_fail(&tool, image, error);
    }
    return !tool.json || tool_print_json(&tool, files) ? tool_finish(&tool, 0) : 1;
}
