/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-map: which file of the chain holds each guest range, and where; as qemu-img map. */
#include "tool-output.h"
#include "tool-ranges.h"

static char *state_name, *start_text, *length_text;

static const GOptionEntry entries[] = {
    { "state", 0, 0, G_OPTION_ARG_FILENAME, &state_name,
      "Map this state instead of the active one", "STATE" },
    { "start-offset", 's', 0, G_OPTION_ARG_FILENAME, &start_text, "Begin at this guest offset", "OFFSET" },
    { "max-length", 'l', 0, G_OPTION_ARG_FILENAME, &length_text, "Map so many bytes at most", "LEN" },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-map",
    .synopses = (const char *const[]) { "[OPTION...] IMAGE", NULL },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments_error = "Expecting one image file name",
    .description =
        "Lists the ranges of the guest's disk with the file of the chain that holds each, and the offset "
        "there. Reads metadata only. The text form shows ranges that hold data; JSON shows all, with what "
        "reads as zeros, what is compressed and what no file allocates.",
    .notes = (const char *const[]) {
        "The output is that of qemu-img map, in both forms. In the text form a range that has no plain "
        "offset, because it is compressed or encrypted, ends the list with an error.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS,
    .exit_codes = (const ToolText[]) {
        { "0", "The whole range was listed." },
        { "1", "An image could not be read, or a range has no plain offset and the form is text." },
        { "2", "Wrong usage." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-map disk.qcow2", "see where the data of a disk lies" },
        { "qcow-map --output=json --state=before-update disk.qcow2", "map an internal snapshot" },
        { "qcow-map --output=json -s 1G -l 64M disk.qcow2", "map 64 MiB from 1 GiB on" },
        { NULL },
    },
    .usage_status = 2,
};

typedef struct MapRun {
    const Tool *tool;
    ToolRanges ranges;
    bool no_offset;               /* the text form met a range that it cannot show */
} MapRun;

static bool put_extent(const Qcow2MapExtent *extent, void *data)
{
    MapRun *run = data;

    if (run->tool->json) {
        return tool_ranges_put_map(&run->ranges, extent);
    }
    if (!extent->data) {
        return true;
    }
    if (!extent->has_offset) {
        run->no_offset = true;
        return false;
    }
    return extent->zero || tool_ranges_put_map(&run->ranges, extent);
}

static uint64_t read_size(const Tool *tool, const char *option, const char *text, uint64_t otherwise)
{
    g_autoptr(GError) error = NULL;
    uint64_t value = otherwise;

    if (text && !qcow2_parse_size(text, &value, &error)) {
        tool_usage(tool, "--%s: %s", option, error->message);
    }
    return value;
}

static bool print_map(MapRun *run, Qcow2Chain *chain, uint64_t start, uint64_t length, GError **error)
{
    g_autoptr(Qcow2State) state = qcow2_state_open(chain, state_name ? state_name : "@active", error);

    if (!state) {
        return false;
    }
    tool_ranges_begin(&run->ranges, run->tool->json,
                      "Offset          Length          Mapped to       File\n");
    if (!qcow2_state_map(state, start, length, put_extent, run, NULL, error)) {
        return false;
    }
    if (run->tool->json && run->ranges.n_printed == 0) {
        /* qemu-img describes an empty range by an empty extent. */
        const Qcow2MapExtent nothing = { .start = start };
        tool_ranges_put_map(&run->ranges, &nothing);
    }
    tool_ranges_end(&run->ranges);
    return true;
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;
    MapRun run = { .tool = &tool };

    tool_start(&tool, &command, argc, argv);
    const char *image = tool.arguments[0];
    uint64_t start = read_size(&tool, "start-offset", start_text, 0);
    uint64_t length = read_size(&tool, "max-length", length_text, INT64_MAX - start);

    g_autoptr(Qcow2Chain) chain = tool_open(&tool, image, tool.format, &error);
    if (!chain || !print_map(&run, chain, start, length, &error)) {
        return tool_fail(&tool, image, error);
    }
    if (run.no_offset) {
        return tool_fail_message(&tool, "File contains external, encrypted or compressed clusters.");
    }
    return tool_finish(&tool, 0);
}
