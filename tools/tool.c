/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The start of a command: its surroundings and its command line. */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tool-argv.h"
#include "tool-output.h"
#include "tool-progress.h"

void tool_clear(Tool *tool)
{
    g_strfreev(tool->arguments);
    g_strfreev(tool->objects);
    g_free(tool->format);
    g_free(tool->cache_texts[0]);
    g_free(tool->cache_texts[1]);
    g_free(tool->rate_text);
    g_free(tool->threads_text);
    g_free(tool->output_text);
    g_free(tool->generate);
    g_free(tool->trace);
}

/* ---- Surroundings ------------------------------------------------------------------------------ */

/*
 * A descriptor from 0 to 2 that is closed would be given to the next file opened, perhaps an image, and
 * the first word printed would land in it. They are filled the wrong way round, so that using them fails.
 */
static void fill_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF &&
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) {
            _exit(1);
        }
    }
}

/* Chains of a thousand images are legal, and the usual soft limit is 1024 descriptors. */
static void allow_many_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/*
 * Tables, clusters and streams of some hundred KiB come and go, and malloc() gives their pages back to the
 * system each time: getting them again took a tenth of the time of compressing.
 */
static void keep_freed_memory(void)
{
    mallopt(M_TRIM_THRESHOLD, 16 << 20);
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
}

/* ---- Command line ------------------------------------------------------------------------------ */

static void print_usage_error(const Tool *tool, const char *format, va_list args) G_GNUC_PRINTF(2, 0);
static void print_usage_error(const Tool *tool, const char *format, va_list args)
{
    g_autofree char *message = g_strdup_vprintf(format, args);
    g_autofree char *escaped = tool_escape_message(message);
    const char *name = tool->command->name;

    fprintf(stderr, "%s: %s\nTry '%s --help' for more information.\n", name, escaped, name);
}

void tool_usage(const Tool *tool, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    print_usage_error(tool, format, args);
    va_end(args);
    exit(tool->command->usage_status);
}

/* Only key material can be given, as a secret; it is kept for the images that need it. */
static void check_object(const Tool *tool, const char *object)
{
    g_auto(GStrv) pairs = g_strsplit(object, ",", -1);
    const char *type = pairs[0] ? pairs[0] : "";
    bool has_id = false;

    if (g_str_has_prefix(type, "qom-type=")) {
        type += strlen("qom-type=");
    }
    if (strcmp(type, "secret") != 0) {
        tool_usage(tool, "--object: only objects of type secret can be given, not '%s'", type);
    }
    for (char **pair = pairs + 1; *pair; pair++) {
        has_id |= g_str_has_prefix(*pair, "id=");
    }
    if (!has_id) {
        tool_usage(tool, "--object: the secret has no id");
    }
}

static void read_threads(Tool *tool)
{
    guint64 n;

    if (!tool->threads_text) {
        return;
    }
    if (!g_ascii_string_to_unsigned(tool->threads_text, 10, 1, 1024, &n, NULL)) {
        tool_usage(tool, "--parallel wants a number from 1 to 1024, not '%s'", tool->threads_text);
    }
    tool->n_threads = n;
}

/* The library appends to it, as many places write to one trace. */
static void empty_trace(const Tool *tool)
{
    int fd = open(tool->trace, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

    if (fd < 0) {
        exit(tool_fail_message(tool, "'%s': trace file: %s", tool->trace, g_strerror(errno)));
    }
    close(fd);
}

static void read_shared_options(Tool *tool)
{
    g_autoptr(GError) error = NULL;

    if (tool->output_text && strcmp(tool->output_text, "json") != 0 &&
        strcmp(tool->output_text, "human") != 0) {
        tool_usage(tool, "--output must be used with human or json as argument.");
    }
    tool->json = g_strcmp0(tool->output_text, "json") == 0;

    if (tool->image_opts && tool->format) {
        tool_usage(tool, "--image-opts and --format are mutually exclusive");
    }
    if (tool->cache_texts[0] && !qcow2_parse_cache(tool->cache_texts[0], &tool->source_cache, &error)) {
        tool_usage(tool, "--source-cache: %s", error->message);
    }
    if (tool->cache_texts[1] && !qcow2_parse_cache(tool->cache_texts[1], &tool->target_cache, &error)) {
        tool_usage(tool, "--cache: %s", error->message);
    }
    if (tool->rate_text && !qcow2_parse_size(tool->rate_text, &tool->rate, &error)) {
        tool_usage(tool, "--rate: %s", error->message);
    }
    read_threads(tool);
    for (char **object = tool->objects; object && *object; object++) {
        check_object(tool, *object);
    }
    if (tool->trace) {
        empty_trace(tool);
    }
}

static void refuse_flag_with_value(const Tool *tool, char **words, const GArray *entries)
{
    const char *word = tool_find_flag_with_value(words, entries);

    if (word) {
        size_t name_len = strcspn(word, "=");
        tool_usage(tool, "%.*s takes no value: give it without '%s', or leave it out", (int)name_len, word,
                   word + name_len);
    }
}

/* What can be answered without an image; ends the process. */
static void answer_and_exit(Tool *tool)
{
    if (tool->help) {
        tool_print_help(tool->command);
    } else if (tool->version) {
        printf("%s (qcow-tools) %s\n", tool->command->name, qcow2_version());
    } else if (strcmp(tool->generate, "man") == 0) {
        tool_print_man(tool->command);
    } else if (strcmp(tool->generate, "completion") == 0) {
        tool_print_completion(tool->command);
    } else {
        tool_usage(tool, "--generate makes 'man' or 'completion', not '%s'", tool->generate);
    }
    exit(tool_finish(tool, 0));
}

/* All options of the command, with addresses in @tool for the shared ones. */
static GArray *collect_entries(Tool *tool)
{
    GArray *all = g_array_new(TRUE, TRUE, sizeof(GOptionEntry));

    for (ToolSection section = 0; section < TOOL_N_SECTIONS; section++) {
        g_autoptr(GArray) entries = tool_section_entries(tool->command, section);
        for (guint i = 0; i < entries->len; i++) {
            GOptionEntry entry = g_array_index(entries, GOptionEntry, i);
            if (section != TOOL_SECTION_OWN) {
                entry.arg_data = (char *)tool + GPOINTER_TO_SIZE(entry.arg_data);
            }
            g_array_append_val(all, entry);
        }
    }
    return all;
}

void tool_start(Tool *tool, const ToolCommand *command, int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    tool->command = command;
    fill_standard_descriptors();
    allow_many_files();
    keep_freed_memory();
    tool_progress_catch_early();

    g_autoptr(GArray) entries = collect_entries(tool);
    const GOptionEntry remaining = {
        G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &tool->arguments, NULL, NULL,
    };
    g_auto(GStrv) words = argc > 0 ? tool_split_letters(argv, entries) : g_new0(char *, 1);
    refuse_flag_with_value(tool, words, entries);
    tool->order = tool_find_order(words, entries);
    g_array_append_val(entries, remaining);
    g_option_context_set_help_enabled(context, FALSE);
    g_option_context_add_main_entries(context, (const GOptionEntry *)entries->data, NULL);
    if (!g_option_context_parse_strv(context, &words, &error)) {
        tool_usage(tool, "%s", error->message);
    }

    if (tool->help || tool->version || tool->generate) {
        answer_and_exit(tool);
    }
    if (!tool->arguments) {
        tool->arguments = g_new0(char *, 1);
    }
    tool->n_arguments = g_strv_length(tool->arguments);
    if (tool->n_arguments < command->min_arguments || tool->n_arguments > command->max_arguments) {
        tool_usage(tool, "%s", command->arguments_error);
    }
    read_shared_options(tool);
}

void tool_gather_list(Tool *tool, char ***list)
{
    unsigned n_old = *list ? g_strv_length(*list) : 0, n_more = tool->n_arguments - 1;

    bool is_first = tool->order == TOOL_ARGUMENTS_FIRST;
    char *image = tool->arguments[is_first ? 0 : n_more];

    if (n_more == 0) {
        return;
    }
    if (n_old == 0 || tool->order == TOOL_ARGUMENTS_BETWEEN) {
        tool_usage(tool, "%s", tool->command->arguments_error);
    }
    *list = g_renew(char *, *list, n_old + n_more + 1);
    memcpy(*list + n_old, tool->arguments + (is_first ? 1 : 0), n_more * sizeof(char *));
    (*list)[n_old + n_more] = NULL;
    tool->arguments[0] = image;
    tool->arguments[1] = NULL;
    tool->n_arguments = 1;
}

char *tool_join_options(char **values)
{
    return values ? g_strjoinv(",", values) : NULL;
}
