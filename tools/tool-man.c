/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The man page of a command, in roff. */
#include <stdio.h>
#include <string.h>

#include "libqcow2.h"
#include "tool-command.h"

/* In roff a backslash starts an escape, a dot or quote at the start of a line a request. */
static void put_text(const char *text)
{
    bool line_start = true;

    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\'')) {
            fputs("\\&", stdout);
        }
        switch (*text) {
        case '\\':
            fputs("\\e", stdout);
            break;
        case '-':
            fputs("\\-", stdout);
            break;
        default:
            putchar(*text);
        }
        line_start = *text == '\n';
    }
}

static void put_line(const char *before, const char *text, const char *after)
{
    fputs(before, stdout);
    put_text(text);
    fputs(after, stdout);
}

static void put_heading(const char *heading)
{
    g_autofree char *upper = g_ascii_strup(heading, -1);

    put_line(".SH ", upper, "\n");
}

static void put_options(const ToolCommand *command, ToolSection section)
{
    g_autoptr(GArray) entries = tool_section_entries(command, section);

    if (entries->len == 0) {
        return;
    }
    if (section != TOOL_SECTION_OWN) {
        put_line(".SS ", tool_section_heading(section), "\n");
    }
    for (guint i = 0; i < entries->len; i++) {
        const GOptionEntry *entry = &g_array_index(entries, GOptionEntry, i);
        if (entry->flags & G_OPTION_FLAG_HIDDEN) {
            continue;
        }
        fputs(".TP\n", stdout);
        if (entry->short_name) {
            printf("\\fB\\-%c\\fR, ", entry->short_name);
        }
        put_line("\\fB\\-\\-", entry->long_name, "\\fR");
        if (entry->arg_description) {
            put_line("=\\fI", entry->arg_description, "\\fR");
        }
        put_line("\n", entry->description, "\n");
    }
}

static void put_states(void)
{
    static const ToolText states[] = {
        { "@active", "The image as it is now." },
        { "NAME", "The internal snapshot of this name or id; name:NAME and id:ID say which. A word that "
                  "fits two snapshots is an error." },
        { "@backing", "What the image's backing file reads as by itself, zeros past its end; zeros "
                      "without one." },
        { "@empty", "Zeros." },
    };

    put_heading("States");
    put_text("A state is what a guest saw at one moment, read through the whole backing chain. A snapshot "
             "has the size that it had when it was taken; @empty and @backing have the size of the state "
             "that they are compared with.\n");
    for (size_t i = 0; i < G_N_ELEMENTS(states); i++) {
        put_line(".TP\n\\fB", states[i].term, "\\fR\n");
        put_line("", states[i].text, "\n");
    }
}

static void put_list(const char *heading, const ToolText *lines)
{
    put_heading(heading);
    for (const ToolText *line = lines; line->term; line++) {
        put_line(".TP\n\\fB", line->term, "\\fR\n");
        put_line("", line->text, "\n");
    }
}

static void put_examples(const ToolCommand *command)
{
    put_heading("Examples");
    for (const ToolText *line = command->examples; line->term; line++) {
        put_line(line == command->examples ? "To " : ".PP\nTo ", line->text, ":\n");
        put_line(".PP\n.RS 4\n.nf\n", line->term, "\n.fi\n.RE\n");
    }
}

static void put_see_also(const ToolCommand *command)
{
    put_heading("See also");
    if (strcmp(command->name, "qcow") != 0) {
        put_line(".BR ", "qcow", " (1),\n");
    }
    for (const ToolGroup *group = tool_command_groups(); group->heading; group++) {
        for (const ToolText *line = group->commands; line->term; line++) {
            g_autofree char *name = g_strconcat("qcow-", line->term, NULL);
            if (strcmp(name, command->name) != 0) {
                put_line(".BR ", name, " (1),\n");
            }
        }
    }
    put_line(".BR ", "qemu-img", " (1)\n");
}

void tool_print_man(const ToolCommand *command)
{
    g_autofree char *title = g_ascii_strup(command->name, -1);

    put_line(".TH ", title, " 1 ");
    printf("\"\" \"qcow\\-tools %s\" \"User Commands\"\n", qcow2_version());
    put_heading("Name");
    put_line("", command->name, " \\- ");
    put_line("", tool_command_summary(command->name), "\n");

    put_heading("Synopsis");
    for (const char *const *synopsis = command->synopses; *synopsis; synopsis++) {
        put_line(synopsis == command->synopses ? ".B " : ".br\n.B ", command->name, "\n");
        put_line("", *synopsis, "\n");
    }

    put_heading("Description");
    put_line("", command->description, "\n");
    for (const char *const *note = command->notes; note && *note; note++) {
        put_line(".PP\n", *note, "\n");
    }
    if (tool_command_takes_states(command)) {
        put_states();
    }

    put_heading("Options");
    for (ToolSection section = 0; section < TOOL_N_SECTIONS; section++) {
        put_options(command, section);
    }
    put_list("Exit status", command->exit_codes);
    put_examples(command);
    put_see_also(command);
}
