/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-export-delta: the change from one state of an image to another, as a qcow2 overlay. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool-output.h"
#include "tool-progress.h"
#include "tool-ranges.h"

static char *backing_name, *backing_format, *output_format;
static char **create_options;
static gboolean compress_output, compare_data, overwrite, print_ranges;

static const GOptionEntry entries[] = {
    { "backing", 'b', 0, G_OPTION_ARG_FILENAME, &backing_name,
      "Record this name as the backing file of OUTPUT; it is not opened", "FILE" },
    { "backing-format", 'F', 0, G_OPTION_ARG_FILENAME, &backing_format,
      "Format of the backing file, recorded with its name", "FMT" },
    { "options", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &create_options,
      "How OUTPUT is made, as cluster_size=64K,compression_type=zstd,extended_l2=on", "OPTIONS" },
    { "compress", 'c', 0, G_OPTION_ARG_NONE, &compress_output, "Compress the data", NULL },
    { "compare-data", 0, 0, G_OPTION_ARG_NONE, &compare_data,
      "Leave out clusters that were rewritten with the same bytes", NULL },
    { "map", 0, 0, G_OPTION_ARG_NONE, &print_ranges,
      "List the ranges that would be exported, and write nothing", NULL },
    { "output-format", 'O', 0, G_OPTION_ARG_FILENAME, &output_format,
      "qcow2 (default), or raw: OUTPUT is a raw file or NBD export that holds FROM, and is changed in place "
      "to hold TO", "FMT" },
    { "overwrite", 0, 0, G_OPTION_ARG_NONE, &overwrite, "Replace OUTPUT if it exists", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-export-delta",
    .synopses = (const char *const[]) {
        "[OPTION...] IMAGE FROM TO OUTPUT",
        "[OPTION...] --map IMAGE FROM TO",
        NULL,
    },
    .arguments = (const char *const[]) { "IMAGE", "FROM", "TO", "OUTPUT", NULL },
    .min_arguments = 3,
    .max_arguments = 4,
    .arguments_error = "Expecting IMAGE FROM TO OUTPUT",
    .description =
        "Writes what changed from one state of an image to another as a qcow2 overlay that holds nothing "
        "else: over FROM it reads as TO. FROM @empty exports TO whole, FROM @backing what the image adds to "
        "its backing file. OUTPUT '-' writes the overlay to standard output.",
    .notes = (const char *const[]) {
        "What changed is found by comparing metadata, so the time follows the size of the change. Clusters "
        "that were written again with the same bytes count as changed unless --compare-data is given.",
        "OUTPUT has the virtual size of TO. It appears under its name only when it is complete and on disk; "
        "when anything fails no file is left.",
        "With -U the image may be that of a running VM. Snapshots are read exactly, and the export fails if "
        "one of them, or a backing file, changes meanwhile; @active of an image in use is refused. A VM that "
        "runs with discard-no-unref=on destroys data of its own snapshots when its guest discards, which no "
        "reader can see: do not export from such a VM.",
        "With -O raw, OUTPUT is written in place: until the command has ended well it holds a mixture of "
        "both states, and running the command again completes it. With -t unsafe nothing is known to be on "
        "disk when the command ends.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_SOURCE_CACHE | TOOL_TARGET_CACHE | TOOL_PROGRESS | TOOL_RATE
            | TOOL_NO_REFLINK,
    .exit_codes = (const ToolText[]) {
        { "0", "OUTPUT is complete." },
        { "1", "Failed; no new OUTPUT was left." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; no new OUTPUT was left." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-export-delta disk.qcow2 monday tuesday tuesday-delta.qcow2",
          "export what changed between two snapshots" },
        { "qcow-export-delta -U -b monday.qcow2 -F qcow2 disk.qcow2 monday tuesday tuesday.qcow2",
          "export it from a running VM's image, ready to stand over an earlier full export" },
        { "qcow-export-delta -U disk.qcow2 @empty monday - | ssh backup 'cat > monday.qcow2'",
          "send a whole snapshot to another machine" },
        { "qcow-export-delta --map --output=json disk.qcow2 monday tuesday",
          "see which ranges changed" },
        { NULL },
    },
    .usage_status = 2,
};

typedef struct Export {
    const Tool *tool;
    const char *image, *from_name, *to_name, *output;
    bool to_stdout, to_raw;
    Qcow2ExportOptions options;
} Export;

/* ---- Usage ------------------------------------------------------------------------------------- */

static void check_output(const Export *self)
{
    const Tool *tool = self->tool;

    if (print_ranges && self->output) {
        tool_usage(tool, "--map writes no OUTPUT: expecting IMAGE FROM TO");
    }
    if (!print_ranges && !self->output) {
        tool_usage(tool, "%s", command.arguments_error);
    }
    if (self->to_stdout && tool->json) {
        tool_usage(tool, "--output=json cannot be used when OUTPUT is standard output");
    }
    if (self->to_stdout && self->to_raw) {
        tool_usage(tool, "-O raw changes an existing file or NBD export, not standard output");
    }
    if (self->to_stdout && isatty(STDOUT_FILENO)) {
        tool_usage(tool, "an image is not written to a terminal");
    }
}

static void check_options(const Export *self)
{
    const Tool *tool = self->tool;

    if (output_format && strcmp(output_format, "qcow2") != 0 && !self->to_raw) {
        tool_usage(tool, "-O takes qcow2 or raw, not '%s'", output_format);
    }
    if (self->to_raw && (backing_name || create_options || compress_output || overwrite)) {
        tool_usage(tool, "-O raw changes OUTPUT in place: -b, -o, -c and --overwrite have no meaning there");
    }
    if (backing_name && !backing_format) {
        tool_usage(tool, "backing format must be specified: -b needs -F");
    }
    if (backing_format && !backing_name) {
        tool_usage(tool, "-F is the format of the file that -b names");
    }
}

/* ---- Results ----------------------------------------------------------------------------------- */

static bool print_json(const Export *self, const Qcow2ExportResult *result, double seconds)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add_string(&object, "from", self->from_name);
    tool_json_add_string(&object, "to", self->to_name);
    tool_json_add_string(&object, "output", self->output);
    tool_json_add_uint(&object, "virtual-size", result->virtual_size);
    tool_json_add_uint(&object, "output-size", result->output_size);
    tool_json_add_uint(&object, "bytes", result->bytes);
    tool_json_add_uint(&object, "clusters", result->clusters);
    tool_json_add_uint(&object, "data-clusters", result->data_clusters);
    tool_json_add_uint(&object, "zero-clusters", result->zero_clusters);
    tool_json_add_uint(&object, "compressed-clusters", result->compressed_clusters);
    tool_json_add_uint(&object, "bytes-copied", result->bytes_copied);
    tool_json_add_uint(&object, "bytes-cloned", result->bytes_cloned);
    tool_json_add_uint(&object, "bytes-passed-through", result->bytes_passed_through);
    tool_json_add(&object, "seconds", g_variant_new_double(seconds));
    return tool_print_json(self->tool, g_variant_builder_end(&object));
}

static void print_human(const Export *self, const Qcow2ExportResult *result, double seconds)
{
    FILE *stream = self->to_stdout ? stderr : stdout;
    g_autofree char *from = qcow2_escape_name(self->from_name, -1);
    g_autofree char *to = qcow2_escape_name(self->to_name, -1);
    g_autofree char *output = qcow2_escape_name(self->to_stdout ? "standard output" : self->output, -1);
    g_autofree char *bytes = qcow2_format_size(result->bytes);
    g_autofree char *size = qcow2_format_size(result->output_size);

    fprintf(stream, "%s -> %s: %s changed", from, to, bytes);
    if (!self->to_raw) {
        fprintf(stream, ", %" PRIu64 " clusters (%" PRIu64 " data, %" PRIu64 " zero, %" PRIu64 " compressed)",
                result->clusters, result->data_clusters, result->zero_clusters, result->compressed_clusters);
    }
    fprintf(stream, ", in %.2f seconds\n", seconds);
    fprintf(stream, "%s: %s, virtual size %" PRIu64 " bytes\n", output, size, result->virtual_size);
}

/* ---- The export -------------------------------------------------------------------------------- */

static const char *how_to_go_on(const Export *self)
{
    return print_ranges    ? "the list is not complete"
         : self->to_raw    ? "OUTPUT holds a mixture of both states; the same command completes it"
         : self->to_stdout ? "what was written is not an image; the same command starts again"
                           : "no OUTPUT was left; the same command starts again";
}

static int fail(const Export *self, ToolProgress *progress, const GError *error)
{
    int interrupted = tool_progress_interrupted(progress, self->tool, error, how_to_go_on(self));

    return interrupted ? interrupted : tool_fail(self->tool, self->image, error);
}

static bool put_range(const Qcow2DiffExtent *extent, void *data)
{
    return tool_ranges_put_diff(data, extent);
}

static bool print_map(const Export *self, Qcow2State *from, Qcow2State *to, ToolProgress *progress,
                      GError **error)
{
    ToolRanges ranges;

    tool_ranges_begin(&ranges, self->tool->json, "Offset          Length          TO holds\n");
    if (!qcow2_export_map(from, to, &self->options, put_range, &ranges, tool_progress_get(progress), error)) {
        return false;
    }
    tool_ranges_end(&ranges);
    return true;
}

static bool print_result(const Export *self, const Qcow2ExportResult *result, double seconds)
{
    if (self->tool->json) {
        return print_json(self, result, seconds);
    }
    if (!self->tool->quiet) {
        print_human(self, result, seconds);
    }
    return true;
}

static int run(const Export *self, Qcow2Chain *chain)
{
    bool stdout_taken = self->to_stdout || print_ranges || self->tool->json;
    g_autoptr(ToolProgress) progress = tool_progress_start(self->tool, stdout_taken);
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2State) from = qcow2_state_open(chain, self->from_name, &error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(chain, self->to_name, &error) : NULL;
    Qcow2ExportResult result;

    if (!to) {
        return fail(self, progress, error);
    }
    bool done = print_ranges ? print_map(self, from, to, progress, &error)
                             : qcow2_export_delta(from, to, self->output, &self->options, &result,
                                                  tool_progress_get(progress), &error);
    if (!done) {
        return fail(self, progress, error);
    }
    tool_progress_end(progress);
    if (!print_ranges && !print_result(self, &result, tool_progress_seconds(progress))) {
        return 1;
    }
    return tool_finish(self->tool, 0);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    g_autofree char *options = tool_join_options(create_options);
    const Export self = {
        .tool = &tool,
        .image = tool.arguments[0],
        .from_name = tool.arguments[1],
        .to_name = tool.arguments[2],
        .output = tool.arguments[3],
        .to_stdout = g_strcmp0(tool.arguments[3], "-") == 0,
        .to_raw = g_strcmp0(output_format, "raw") == 0,
        .options = {
            .output_format = output_format,
            .create_options = options,
            .backing_name = backing_name,
            .backing_format = backing_format,
            .compress = compress_output,
            .compare_data = compare_data,
            .overwrite = overwrite,
            .no_reflink = tool.no_reflink,
            .cache = tool.target_cache,
            .trace = tool.trace,
        },
    };
    check_output(&self);
    check_options(&self);

    g_autoptr(Qcow2Chain) chain = tool_open(&tool, self.image, tool.format, &error);
    return chain ? run(&self, chain) : tool_fail(&tool, self.image, error);
}
