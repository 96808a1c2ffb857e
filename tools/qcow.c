/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow: runs qcow-SUB; alone, lists the commands. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool-output.h"

static const GOptionEntry entries[] = {
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow",
    .synopses = (const char *const[]) { "COMMAND [ARGUMENT...]", "help COMMAND", NULL },
    .max_arguments = 0,
    .arguments_error = "Expecting a command",
    .description =
        "Runs qcow-COMMAND with the arguments that follow, and exits as it does. Without a command, lists "
        "the commands there are. A command is looked for beside qcow itself, then in PATH.",
    .entries = entries,
    .exit_codes = (const ToolText[]) {
        { "0", "The commands were listed." },
        { "1", "There is no such command." },
        { "2", "Wrong usage." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow", "list the commands" },
        { "qcow help map", "learn about one of them" },
        { "qcow map --output=json disk.qcow2", "run it" },
        { NULL },
    },
    .usage_status = 2,
};

static void list_commands(void)
{
    printf("Usage: qcow COMMAND [ARGUMENT...]\n\nCommands:\n");
    for (const ToolGroup *group = tool_command_groups(); group->heading; group++) {
        printf("\n  %s\n", group->heading);
        for (const ToolText *line = group->commands; line->term; line++) {
            printf("    %-14s %s\n", line->term, line->text);
        }
    }
    printf("\n'qcow help COMMAND' tells more about one of them.\n");
}

/* The folder that holds this program, with a final slash; NULL when the system does not tell. */
static char *own_folder(void)
{
    g_autofree char *path = g_malloc(PATH_MAX);
    ssize_t len = readlink("/proc/self/exe", path, PATH_MAX - 1);
    const char *slash = len > 0 ? memrchr(path, '/', (size_t)len) : NULL;

    return slash ? g_strndup(path, (gsize)(slash - path) + 1) : NULL;
}

/* Returns only when the command cannot be run. */
static int run(const Tool *tool, const char *sub, char **arguments)
{
    g_autofree char *program = g_strconcat("qcow-", sub, NULL);
    g_autofree char *folder = own_folder();

    arguments[0] = program;
    if (!strchr(sub, '/')) {
        if (folder) {
            g_autofree char *beside = g_strconcat(folder, program, NULL);
            execv(beside, arguments);
        }
        execvp(program, arguments);
        if (errno != ENOENT) {
            return tool_fail_message(tool, "%s: %s", program, g_strerror(errno));
        }
    }
    tool_fail_message(tool, "Command not found: %s", sub);
    fprintf(stderr, "Try 'qcow --help' for more information.\n");
    return 1;
}

static int help(const Tool *tool, char **topics)
{
    char *arguments[] = { NULL, (char *)"--help", NULL };

    if (!topics[0]) {
        tool_print_help(&command);
        return tool_finish(tool, 0);
    }
    return run(tool, topics[0], arguments);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { .command = &command };

    if (argc > 1 && argv[1][0] != '-') {
        return strcmp(argv[1], "help") == 0 ? help(&tool, argv + 2) : run(&tool, argv[1], argv + 1);
    }
    tool_start(&tool, &command, argc, argv);
    list_commands();
    return tool_finish(&tool, 0);
}
