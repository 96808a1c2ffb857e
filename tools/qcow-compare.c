/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-compare: does a guest see the same in two states? As qemu-img compare. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tool-output.h"
#include "tool-progress.h"
#include "tool-ranges.h"

enum { EXIT_SAME = 0, EXIT_DIFFERENT = 1, EXIT_NOT_OPENED = 2, EXIT_NO_METADATA = 3, EXIT_NOT_READ = 4 };

static gboolean strict, print_ranges;
static char *second_format, *state_names[2];

static const GOptionEntry entries[] = {
    { "strict", 's', 0, G_OPTION_ARG_NONE, &strict,
      "Sizes, and what is allocated, must be the same too", NULL },
    { "second-format", 'F', 0, G_OPTION_ARG_FILENAME, &second_format,
      "Format of B; -f is that of A", "FMT" },
    { "state-a", 0, 0, G_OPTION_ARG_FILENAME, &state_names[0],
      "Compare this state of A instead of the active one", "STATE" },
    { "state-b", 0, 0, G_OPTION_ARG_FILENAME, &state_names[1], "The same for B", "STATE" },
    { "map", 0, 0, G_OPTION_ARG_NONE, &print_ranges,
      "List every range that differs, instead of stopping at the first", NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-compare",
    .synopses = (const char *const[]) { "[OPTION...] A B", NULL },
    .arguments = (const char *const[]) { "A", "B", NULL },
    .min_arguments = 2,
    .max_arguments = 2,
    .arguments_error = "Expecting two image file names",
    .description =
        "Compares what a guest reads from two images, or from two states of one. Metadata is compared first; "
        "data is read only where metadata cannot tell. The shorter reads as zeros past its end.",
    .notes = (const char *const[]) {
        "The messages and exit codes are those of qemu-img compare. Images of different size whose contents "
        "are the same count as identical, with a warning, unless -s is given.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_SOURCE_CACHE | TOOL_PROGRESS,
    .exit_codes = (const ToolText[]) {
        { "0", "The same." },
        { "1", "Different, or wrong usage." },
        { "2", "An image or a state could not be opened." },
        { "3", "The metadata of an image could not be read." },
        { "4", "The data of an image could not be read, or the result could not be printed." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-compare disk.qcow2 copy.qcow2", "compare two images" },
        { "qcow-compare --map --state-a monday --state-b tuesday disk.qcow2 disk.qcow2",
          "see what changed between two snapshots" },
        { NULL },
    },
    .usage_status = EXIT_DIFFERENT,
};

typedef struct Comparison {
    const Tool *tool;
    Qcow2Chain *chains[2];        /* the same one twice when both names are the same */
    Qcow2State *states[2];
    ToolRanges ranges;
} Comparison;

static void comparison_clear(Comparison *self)
{
    qcow2_state_free(self->states[0]);
    qcow2_state_free(self->states[1]);
    if (self->chains[1] != self->chains[0]) {
        qcow2_chain_free(self->chains[1]);
    }
    qcow2_chain_free(self->chains[0]);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Comparison, comparison_clear)

/* Without its key an encrypted image is not open for qemu-img. */
static int exit_code_of(Qcow2CompareStage stage, const GError *error)
{
    if (stage == QCOW2_COMPARE_OPENING || g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_ENCRYPTED)) {
        return EXIT_NOT_OPENED;
    }
    return stage == QCOW2_COMPARE_METADATA ? EXIT_NO_METADATA : EXIT_NOT_READ;
}

static int fail(const Tool *tool, const char *image, Qcow2CompareStage stage, const GError *error)
{
    tool_fail(tool, image, error);
    return exit_code_of(stage, error);
}

/* Opened once, two states of one image share tables, which then need no comparison. */
static bool is_same_image(const Tool *tool)
{
    return strcmp(tool->arguments[0], tool->arguments[1]) == 0
        && g_strcmp0(tool->format, second_format) == 0;
}

static bool open_side(Comparison *self, unsigned side, GError **error)
{
    const Tool *tool = self->tool;
    const char *format = side == 0 ? tool->format : second_format;
    const char *state_name = state_names[side] ? state_names[side] : "@active";

    self->chains[side] = side == 1 && is_same_image(tool)
                       ? self->chains[0] : tool_open(tool, tool->arguments[side], format, error);
    if (!self->chains[side]) {
        return false;
    }
    self->states[side] = qcow2_state_open(self->chains[side], state_name, error);
    return self->states[side] != NULL;
}

static bool put_range(const Qcow2DiffExtent *extent, void *data)
{
    return tool_ranges_put_diff(data, extent);
}

static bool compare(Comparison *self, Qcow2CompareResult *ret, ToolProgress *progress, GError **error)
{
    const Qcow2CompareOptions options = { .strict = strict };
    Qcow2Progress *steps = tool_progress_get(progress);

    if (!print_ranges) {
        return qcow2_compare(self->states[0], self->states[1], &options, NULL, NULL, ret, steps, error);
    }
    tool_ranges_begin(&self->ranges, self->tool->json, "Offset          Length          B holds\n");
    if (!qcow2_compare(self->states[0], self->states[1], &options, put_range, &self->ranges, ret, steps,
                       error)) {
        return false;
    }
    tool_ranges_end(&self->ranges);
    return true;
}

/* Messages of qemu-img: the sizes are mentioned once the part that both have was found equal. */
static void print_verdict(const Comparison *self, const Qcow2CompareResult *result)
{
    uint64_t common = MIN(qcow2_state_get_size(self->states[0]), qcow2_state_get_size(self->states[1]));
    bool common_part_differs = result->verdict == QCOW2_COMPARE_CONTENT && result->offset < common;

    if (!strict && result->sizes_differ && !common_part_differs) {
        printf("Warning: Image size mismatch!\n");
    }
    switch (result->verdict) {
    case QCOW2_COMPARE_SAME:
        printf("Images are identical.\n");
        break;
    case QCOW2_COMPARE_CONTENT:
        printf("Content mismatch at offset %" PRIu64 "!\n", result->offset);
        break;
    case QCOW2_COMPARE_STATUS:
        printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", result->offset);
        break;
    case QCOW2_COMPARE_SIZE:
        printf("Strict mode: Image size mismatch!\n");
        break;
    }
}

/* Clusters in which the disk would be kept by the image that has the smaller ones; 0 when both are raw. */
static uint64_t count_clusters(const Comparison *self, uint64_t bytes)
{
    uint64_t size = 0;

    for (unsigned side = 0; side < 2; side++) {
        Qcow2ImageInfo info;
        if (qcow2_chain_get_info(self->chains[side], 0, &info, NULL) && info.cluster_size > 0) {
            size = size ? MIN(size, info.cluster_size) : info.cluster_size;
        }
    }
    return size ? bytes / size + (bytes % size != 0) : 0;
}

static bool print_json(const Comparison *self, const Qcow2CompareResult *result, double seconds)
{
    static const char *const verdicts[] = {
        [QCOW2_COMPARE_SAME] = "identical",
        [QCOW2_COMPARE_CONTENT] = "content-mismatch",
        [QCOW2_COMPARE_STATUS] = "status-mismatch",
        [QCOW2_COMPARE_SIZE] = "size-mismatch",
    };
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    uint64_t bytes = MAX(qcow2_state_get_size(self->states[0]), qcow2_state_get_size(self->states[1]));

    tool_json_add_string(&object, "verdict", verdicts[result->verdict]);
    if (result->verdict == QCOW2_COMPARE_CONTENT || result->verdict == QCOW2_COMPARE_STATUS) {
        tool_json_add_uint(&object, "offset", result->offset);
    }
    tool_json_add_bool(&object, "sizes-differ", result->sizes_differ);
    tool_json_add_uint(&object, "bytes", bytes);
    tool_json_add_uint(&object, "clusters", count_clusters(self, bytes));
    tool_json_add_uint(&object, "bytes-read", result->bytes_read);
    tool_json_add(&object, "seconds", g_variant_new_double(seconds));
    return tool_print_json(self->tool, g_variant_builder_end(&object));
}

static int run(Comparison *self)
{
    const Tool *tool = self->tool;
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json || print_ranges);
    g_autoptr(GError) error = NULL;
    Qcow2CompareResult result;

    if (!compare(self, &result, progress, &error)) {
        int interrupted = tool_progress_interrupted(progress, tool, error,
                                                    "nothing was decided; compare again");
        return interrupted ? interrupted : fail(tool, NULL, result.stage, error);
    }
    tool_progress_end(progress);
    if (print_ranges) {
        if (result.sizes_differ) {
            tool_warn(tool, "Image size mismatch!");
        }
    } else if (tool->json) {
        if (!print_json(self, &result, tool_progress_seconds(progress))) {
            return EXIT_NOT_READ;
        }
    } else if (!tool->quiet) {
        print_verdict(self, &result);
    }
    if (tool_finish(tool, 0) != 0) {
        return EXIT_NOT_READ;
    }
    return result.verdict == QCOW2_COMPARE_SAME ? EXIT_SAME : EXIT_DIFFERENT;
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_auto(Comparison) comparison = { .tool = &tool };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    for (unsigned side = 0; side < 2; side++) {
        if (!open_side(&comparison, side, &error)) {
            return fail(&tool, tool.arguments[side], QCOW2_COMPARE_OPENING, error);
        }
    }
    return run(&comparison);
}
