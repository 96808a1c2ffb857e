/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-bitmap: the persistent dirty bitmaps of an image. */
#include <stdio.h>
#include <string.h>

#include "tool-argv.h"
#include "tool-image.h"
#include "tool-moved.h"
#include "tool-progress.h"

static gboolean list;
static GArray *actions;       /* Qcow2BitmapAction, in the order of the command line */
static char *source_file, *source_format, *granularity_text, *to_state;
static GPtrArray *texts;      /* owns what the actions point to */

/* ---- Command line ------------------------------------------------------------------------------ */

static const struct {
    const char *option;
    Qcow2BitmapVerb verb;
} verbs[] = {
    { "--add", QCOW2_BITMAP_ADD },
    { "--remove", QCOW2_BITMAP_REMOVE },
    { "--clear", QCOW2_BITMAP_CLEAR },
    { "--enable", QCOW2_BITMAP_ENABLE },
    { "--disable", QCOW2_BITMAP_DISABLE },
    { "--merge", QCOW2_BITMAP_MERGE },
    { "--from-states", QCOW2_BITMAP_ADD_CHANGES },
};

static gboolean add_action(const char *option, const char *value, void *data, GError **error)
{
    (void)data;
    (void)error;
    for (size_t i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (strcmp(verbs[i].option, option) == 0) {
            char *text = g_strdup(value);
            Qcow2BitmapAction action = { .verb = verbs[i].verb, .source = text, .from = text };
            g_ptr_array_add(texts, text);
            g_array_append_val(actions, action);
        }
    }
    return TRUE;
}

/* GOption wants the function as a pointer to data, which ISO C does not know. */
#define VERB(name, help) \
    { name, 0, G_OPTION_FLAG_NO_ARG, G_OPTION_ARG_CALLBACK, __extension__ (void *)add_action, help, NULL }
#define VERB_WITH(name, value, help) \
    { name, 0, G_OPTION_FLAG_FILENAME, G_OPTION_ARG_CALLBACK, __extension__ (void *)add_action, help, value }

static const GOptionEntry entries[] = {
    { "list", 0, 0, G_OPTION_ARG_NONE, &list, "List the bitmaps; this is also the default", NULL },
    VERB("add", "Add the bitmap NAME, clear and enabled"),
    VERB("remove", "Remove it; also one that is in use"),
    VERB("clear", "Forget what it calls dirty"),
    VERB("enable", "Let it record what a guest writes from now on"),
    VERB("disable", "Let it stay as it is"),
    VERB_WITH("merge", "SOURCE", "Add what the bitmap SOURCE, of -b or of the image itself, calls dirty"),
    VERB_WITH("from-states", "FROM",
              "FROM TO: add the bitmap NAME, disabled, with what differs between two states of the image"),
    { "to-state", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_FILENAME, &to_state, NULL, "TO" },
    { "source-file", 'b', 0, G_OPTION_ARG_FILENAME, &source_file, "Image that has the bitmap to merge",
      "FILE" },
    { "source-format", 'F', 0, G_OPTION_ARG_FILENAME, &source_format, "Format of that image", "FMT" },
    { "granularity", 'g', 0, G_OPTION_ARG_FILENAME, &granularity_text,
      "Bytes that a bit of a new bitmap stands for; the cluster size, but 4 KiB to 64 KiB, when not given",
      "SIZE" },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-bitmap",
    .synopses = (const char *const[]) {
        "[OPTION...] --list IMAGE",
        "[OPTION...] --add | --remove | --clear IMAGE NAME",
        "[OPTION...] --enable | --disable | --merge SOURCE IMAGE NAME",
        "[OPTION...] --from-states FROM TO IMAGE NAME",
        NULL,
    },
    .arguments = (const char *const[]) { "IMAGE", NULL },
    .min_arguments = 1,
    .max_arguments = 2,
    .arguments_error = "Expecting filename and bitmap name",
    .description =
        "Lists the persistent dirty bitmaps of an image: name, granularity, flags, and how much of the disk "
        "each calls dirty; prints nothing when there are none. Or adds, changes or removes the bitmap NAME. "
        "Several changes are made in the order of the command line.",
    .notes = (const char *const[]) {
        "The flag auto says that the bitmap is enabled: it records what a guest writes. in-use says that it "
        "was not closed properly, so that its contents must not be believed: it can only be removed. While a "
        "VM runs its bitmaps are in use: what they hold is then in the VM's memory and is not counted here.",
        "A call is all or nothing: whenever the process or the machine stops, all bitmaps are as they were "
        "or as they should be, and none is left in use.",
        "--merge takes any granularity; both disks have the same size. Other bitmaps of the image are not "
        "changed by it.",
        "--from-states compares descriptors, not data: a cluster that was written again with the same bytes "
        "is dirty. The new bitmap has the size of the disk as it is now, and is disabled, since it tells of "
        "two moments; with --enable after it, it goes on recording.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_LOOKS | TOOL_PROGRESS,
    .exit_codes = (const ToolText[]) {
        { "0", "Done. Listed: there may be no bitmaps." },
        { "1", "Failed; the image is as it was." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the image is as it was." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-bitmap --list disk.qcow2", "list bitmaps" },
        { "qcow-bitmap --list -U --output=json disk.qcow2", "list those of a running VM's image as JSON" },
        { "qcow-bitmap --add --disable disk.qcow2 b0", "add one that does not record yet" },
        { "qcow-bitmap --merge b0 -b top.qcow2 disk.qcow2 b0", "take over what an overlay recorded" },
        { "qcow-bitmap --from-states monday tuesday disk.qcow2 tue",
          "make one of what changed between two snapshots" },
        { NULL },
    },
    .usage_status = 2,
};

/* "--from-states FROM TO" has two values, which options cannot have: TO becomes that of another option. */
static char **split_states(char **argv)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    bool options_end = false;

    for (; *argv; argv++) {
        bool is_apart = !options_end && strcmp(*argv, "--from-states") == 0 && argv[1];
        bool is_joined = !options_end && g_str_has_prefix(*argv, "--from-states=");
        options_end |= strcmp(*argv, "--") == 0;
        g_strv_builder_add(words, *argv);
        if (is_apart) {
            g_strv_builder_add(words, *++argv);
        }
        if ((is_apart || is_joined) && argv[1]) {
            g_strv_builder_add(words, "--to-state");
            g_strv_builder_add(words, *++argv);
        }
    }
    return g_strv_builder_end(words);
}

static bool has_verb(Qcow2BitmapVerb verb)
{
    for (guint i = 0; i < actions->len; i++) {
        if (g_array_index(actions, Qcow2BitmapAction, i).verb == verb) {
            return true;
        }
    }
    return false;
}

static void check_usage(const Tool *tool)
{
    bool adds = has_verb(QCOW2_BITMAP_ADD) || has_verb(QCOW2_BITMAP_ADD_CHANGES);

    if (granularity_text && !adds) {
        tool_usage(tool, "granularity only supported with --add");
    }
    if (source_format && !source_file) {
        tool_usage(tool, "-F only supported with -b");
    }
    if (source_file && !has_verb(QCOW2_BITMAP_MERGE)) {
        tool_usage(tool, "Merge bitmap source file only supported with --merge");
    }
    if (has_verb(QCOW2_BITMAP_ADD_CHANGES) && !to_state) {
        tool_usage(tool, "--from-states wants two states");
    }
    if (list && actions->len > 0) {
        tool_usage(tool, "--list cannot be combined with a change");
    }
    if (actions->len == 0 && tool->n_arguments > 1) {
        tool_usage(tool, list ? "Expecting one image file name"
                              : "Need at least one of --add, --remove, --clear, --enable, --disable, "
                                "--merge, or --from-states");
    }
    if (actions->len > 0 && tool->n_arguments != 2) {
        tool_usage(tool, "%s", command.arguments_error);
    }
}

/* ---- Listing ----------------------------------------------------------------------------------- */

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

static int print_bitmaps(const Tool *tool, const char *image)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Chain) chain = tool_open(tool, image, tool->format, &error);
    Qcow2ImageInfo info;

    if (!chain || !qcow2_chain_load_bitmap_counts(chain, 0, &error)
        || !qcow2_chain_get_info(chain, 0, &info, &error)) {
        return tool_fail(tool, image, error);
    }
    if (!tool->json) {
        print_table(&info);
    } else if (!print_json(tool, &info)) {
        return 1;
    }
    return tool_finish(tool, 0);
}

/* ---- Changing ---------------------------------------------------------------------------------- */

static bool open_source(const Tool *tool, Qcow2Chain **ret, GError **error)
{
    Tool other = *tool;

    if (!source_file) {
        return true;
    }
    other.image_opts = false;
    *ret = tool_open(&other, source_file, source_format, error);
    return *ret != NULL;
}

static int change(const Tool *tool, const char *image, uint64_t granularity)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(Qcow2Chain) chain = tool_open_writable(tool, image, tool->format, &error), source = NULL;
    Qcow2BitmapOptions options = { .granularity = granularity };

    if (!chain) {
        return tool_fail(tool, image, error);
    }
    if (!open_source(tool, &source, &error)) {
        return tool_fail(tool, source_file, error);
    }
    options.source = source;
    for (guint i = 0; i < actions->len; i++) {
        g_array_index(actions, Qcow2BitmapAction, i).to = to_state;
    }
    if (!qcow2_bitmap_change(chain, tool->arguments[1],
                             (const Qcow2BitmapAction *)(const void *)actions->data, actions->len, &options,
                             tool_progress_get(progress), &error)) {
        int interrupted = tool_progress_interrupted(progress, tool, error,
                                                    "the image is as it was; the same command starts again");
        return interrupted ? interrupted : tool_fail(tool, image, error);
    }
    tool_progress_end(progress);
    return tool_finish_summary(tool, NULL, NULL, tool_progress_seconds(progress));
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_auto(GStrv) words = split_states(argv);
    g_autoptr(GArray) all_actions = g_array_new(FALSE, TRUE, sizeof(Qcow2BitmapAction));
    g_autoptr(GPtrArray) all_texts = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    uint64_t granularity = 0;

    (void)argc;
    actions = all_actions;
    texts = all_texts;
    tool_start(&tool, &command, (int)g_strv_length(words), words);
    check_usage(&tool);
    if (granularity_text && !qcow2_parse_size(granularity_text, &granularity, &error)) {
        tool_usage(&tool, "%s", error->message);
    }
    return actions->len > 0 ? change(&tool, tool.arguments[0], granularity)
                            : print_bitmaps(&tool, tool.arguments[0]);
}
