/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-snapshot: the internal snapshots of an image. */
#include "tool-dry-run.h"
#include "tool-image.h"
#include "tool-moved.h"

static gboolean list;
static char *create_name, *apply_state, *delete_state, *rename_state, *new_name;

static const GOptionEntry entries[] = {
    { "list", 'l', 0, G_OPTION_ARG_NONE, &list, "List the snapshots; this is also the default", NULL },
    { "create", 'c', 0, G_OPTION_ARG_FILENAME, &create_name, "Take a snapshot of that name", "NAME" },
    { "apply", 'a', 0, G_OPTION_ARG_FILENAME, &apply_state, "Make the active layer what the snapshot is",
      "STATE" },
    { "delete", 'd', 0, G_OPTION_ARG_FILENAME, &delete_state, "Delete the snapshot", "STATE" },
    { "rename", 'r', 0, G_OPTION_ARG_FILENAME, &rename_state, "Give the snapshot another name; needs -n",
      "STATE" },
    { "new-name", 'n', 0, G_OPTION_ARG_FILENAME, &new_name, "The other name", "NAME" },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-snapshot",
    .synopses = (const char *const[]) {
        "[OPTION...] -l IMAGE",
        "[OPTION...] -c NAME | -a STATE | -d STATE IMAGE",
        "[OPTION...] -r STATE -n NAME IMAGE",
        NULL,
    },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Lists the internal snapshots of an image: id, name, size of the saved VM state, date, and the "
        "clock of the VM; prints nothing when there are none. Or takes, applies, deletes or renames one.",
    .notes = (const char *const[]) {
        "A change is all or nothing: whenever the process or the machine stops, the image is as it was or "
        "as it should be, and qemu-img check finds nothing wrong with it.",
        "When a snapshot is applied, dirty bitmaps that are enabled get what the guest reads otherwise then; "
        "the others stay as they are.",
        "STATE is a snapshot's name or id; a word that fits two snapshots is an error, and name:NAME or "
        "id:ID decide. A name that is there already is refused.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_DRY_RUN,
    .exit_codes = (const ToolText[]) {
        { "0", "Done. Listed: there may be no snapshots." },
        { "1", "Failed; the image is as it was." },
        { "2", "Wrong usage." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-snapshot -l disk.qcow2", "list snapshots" },
        { "qcow-snapshot -l -U --output=json disk.qcow2", "list those of a running VM's image as JSON" },
        { "qcow-snapshot -c monday disk.qcow2", "take a snapshot" },
        { "qcow-snapshot --dry-run -d monday disk.qcow2", "learn how much deleting it would free" },
        { NULL },
    },
    .usage_status = 2,
};

static bool print_list(const Tool *tool, const char *image, GError **error)
{
    g_autoptr(Qcow2Chain) chain = tool_open(tool, image, tool->format, error);
    Qcow2ImageInfo info;

    if (!chain || !qcow2_chain_get_info(chain, 0, &info, error)) {
        return false;
    }
    if (!tool->json) {
        tool_print_snapshots(&info);
        return true;
    }
    return tool_print_json(tool, tool_snapshots_to_json(&info));
}

static bool change(Qcow2Chain *chain, GError **error)
{
    return create_name  ? qcow2_snapshot_create(chain, create_name, error)
         : apply_state  ? qcow2_snapshot_apply(chain, apply_state, error)
         : delete_state ? qcow2_snapshot_delete(chain, delete_state, error)
                        : qcow2_snapshot_rename(chain, rename_state, new_name, error);
}

static int run_change(const Tool *tool, const char *image)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Chain) chain = tool_open_writable(tool, image, tool->format, &error);
    gint64 start = g_get_monotonic_time();

    if (!chain || !change(chain, &error)) {
        return tool_fail(tool, image, error);
    }
    double seconds = (double)(g_get_monotonic_time() - start) / G_USEC_PER_SEC;
    if (tool->dry_run) {
        ToolMoved nothing = { .seconds = seconds };
        return tool_finish_dry_run(tool, chain, image, &nothing);
    }
    return tool_finish_summary(tool, NULL, NULL, seconds);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    unsigned n_changes = !!create_name + !!apply_state + !!delete_state + !!rename_state;
    if (n_changes + (list ? 1 : 0) > 1) {
        tool_usage(&tool, "Cannot mix '-l', '-a', '-c', '-d', '-r'");
    }
    if (!rename_state != !new_name) {
        tool_usage(&tool, "-r names the snapshot and -n its new name: both are needed");
    }
    if (n_changes > 0) {
        return run_change(&tool, tool.arguments[0]);
    }
    bool ok = print_list(&tool, tool.arguments[0], &error);
    if (error) {
        return tool_fail(&tool, tool.arguments[0], error);
    }
    return ok ? tool_finish(&tool, 0) : 1;
}
