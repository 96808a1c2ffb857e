/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --help: how to call a command, what it does, its options, exit codes and an example or two. */
#include <stdio.h>
#include <string.h>

#include "tool-command.h"

enum { LINE_WIDTH = 80, TEXT_COLUMN = 26 };

/* Prints @text, which is ASCII, in lines that start at @indent; the cursor is at @column. */
static void print_wrapped(const char *text, int indent, int column)
{
    while (*text) {
        size_t len = strcspn(text, " ");

        if (column > indent && column + 1 + (int)len > LINE_WIDTH) {
            putchar('\n');
            column = 0;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        if (column < indent) {
            printf("%*s", indent - column, "");
            column = indent;
        }
        fwrite(text, 1, len, stdout);
        column += (int)len;
        text += len + (text[len] == ' ');
    }
    putchar('\n');
}

static void print_term(const char *term, const char *text)
{
    int column = 2 + (int)strlen(term);

    printf("  %s", term);
    if (column + 2 > TEXT_COLUMN) {
        putchar('\n');
        column = 0;
    }
    print_wrapped(text, TEXT_COLUMN, column);
}

static void print_section(const ToolCommand *command, ToolSection section)
{
    g_autoptr(GArray) entries = tool_section_entries(command, section);

    if (entries->len == 0) {
        return;
    }
    printf("\n%s:\n", tool_section_heading(section));
    for (guint i = 0; i < entries->len; i++) {
        const GOptionEntry *entry = &g_array_index(entries, GOptionEntry, i);
        if (entry->flags & G_OPTION_FLAG_HIDDEN) {
            continue;
        }
        g_autofree char *letter = entry->short_name ? g_strdup_printf("-%c, ", entry->short_name)
                                                    : g_strdup("    ");
        g_autofree char *term = g_strconcat(letter, "--", entry->long_name,
                                            entry->arg_description ? "=" : NULL,
                                            entry->arg_description, NULL);
        print_term(term, entry->description);
    }
}

static void print_usage(const ToolCommand *command)
{
    for (const char *const *synopsis = command->synopses; *synopsis; synopsis++) {
        printf("%s %s %s\n", synopsis == command->synopses ? "Usage:" : "      ", command->name, *synopsis);
    }
}

void tool_print_help(const ToolCommand *command)
{
    print_usage(command);
    putchar('\n');
    print_wrapped(command->description, 0, 0);
    if (tool_command_takes_states(command)) {
        putchar('\n');
        print_wrapped("A state is what a guest saw at one moment: @active (the image as it is now), an "
                      "internal snapshot by name or id (name:X and id:X say which), @backing (what the "
                      "backing file reads as) or @empty (zeros).", 0, 0);
    }

    for (ToolSection section = 0; section < TOOL_N_SECTIONS; section++) {
        print_section(command, section);
    }

    printf("\nExit status:\n");
    for (const ToolText *line = command->exit_codes; line->term; line++) {
        int indent = 2 + (int)strlen(line->term) + 2;
        printf("  %s", line->term);
        print_wrapped(line->text, indent, indent - 2);
    }
    printf("\nExamples:\n");
    for (const ToolText *line = command->examples; line->term; line++) {
        printf("  # %s\n  %s\n", line->text, line->term);
    }
}
