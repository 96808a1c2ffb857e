/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bash completion of a command: its options, what they take, its images, and the states of an image. */
#include <stdio.h>
#include <string.h>

#include "tool-argv.h"
#include "tool-command.h"

/*
 * Each file carries this, so that each works alone. The tables it reads are locals of its caller. Names
 * of snapshots come from an image: they are compared and quoted, never expanded, and those with unusual
 * characters (which JSON writes with a backslash) are left out.
 */
static const char common_part[] =
    "_qcow_offer()\n"
    "{\n"
    "    local word\n"
    "    while IFS= read -r word; do\n"
    "        [[ $word == \"$cur\"* ]] && COMPREPLY+=(\"$(printf '%q' \"$word\")\")\n"
    "    done\n"
    "}\n"
    "\n"
    "_qcow_states()\n"
    "{\n"
    "    local word\n"
    "    printf '%s\\n' @active @backing @empty\n"
    "    for word in \"${COMP_WORDS[@]:1}\"; do\n"
    "        if [[ -f $word ]]; then\n"
    "            qcow-snapshot -l -q -U --output=json -- \"$word\" 2>/dev/null |\n"
    "                sed -n '/\\\\/d; s/^        \"name\": \"\\(.*\\)\",\\{0,1\\}$/\\1/p'\n"
    "            return\n"
    "        fi\n"
    "    done\n"
    "}\n"
    "\n"
    "_qcow_offer_kind()\n"
    "{\n"
    "    local choices\n"
    "    case $1 in\n"
    "        file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\") ;;\n"
    "        state) _qcow_offer < <(_qcow_states) ;;\n"
    "        choice*)\n"
    "            read -ra choices <<<\"${1#choice}\"\n"
    "            _qcow_offer < <(printf '%s\\n' \"${choices[@]}\")\n"
    "            ;;\n"
    "    esac\n"
    "}\n"
    "\n"
    "_qcow_complete()\n"
    "{\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} n=0 i word\n"
    "    COMPREPLY=()\n"
    "\n"
    "    # Bash makes three words of --name=value.\n"
    "    if [[ $cur == = ]]; then\n"
    "        cur=\n"
    "    elif [[ $prev == = ]]; then\n"
    "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
    "    fi\n"
    "    if [[ $prev == -?* && -n ${values[$prev]} ]]; then\n"
    "        _qcow_offer_kind \"${values[$prev]}\"\n"
    "        return\n"
    "    fi\n"
    "    if [[ $cur == -* ]]; then\n"
    "        _qcow_offer < <(printf '%s\\n' \"${options[@]}\")\n"
    "        return\n"
    "    fi\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        if [[ $word == -?* ]]; then\n"
    "            [[ ${COMP_WORDS[i+1]} == = ]] && i=$((i + 1))\n"
    "            [[ -n ${values[$word]} ]] && i=$((i + 1))\n"
    "        else\n"
    "            n=$((n + 1))\n"
    "        fi\n"
    "    done\n"
    "    _qcow_offer_kind \"${arguments[n]}\"\n"
    "}\n"
    "\n";

/* What follows "qcow" is completed by the command that it runs. */
static const char front_part[] =
    "    if ((COMP_CWORD == 1)); then\n"
    "        _qcow_complete\n"
    "        return\n"
    "    fi\n"
    "    local sub=qcow-${COMP_WORDS[1]} function\n"
    "    function=_${sub//-/_}\n"
    "    if ! declare -F \"$function\" >/dev/null; then\n"
    "        __load_completion \"$sub\" 2>/dev/null || _completion_loader \"$sub\" 2>/dev/null\n"
    "    fi\n"
    "    if declare -F \"$function\" >/dev/null; then\n"
    "        COMP_WORDS=(\"$sub\" \"${COMP_WORDS[@]:2}\")\n"
    "        COMP_CWORD=$((COMP_CWORD - 1))\n"
    "        \"$function\"\n"
    "    fi\n";

static void put_kind(const char *metavariable)
{
    const char *choices = NULL;

    switch (tool_word_kind(metavariable, &choices)) {
    case TOOL_WORD_FILE:
        fputs("file", stdout);
        break;
    case TOOL_WORD_STATE:
        fputs("state", stdout);
        break;
    case TOOL_WORD_CHOICE:
        printf("'choice %s'", choices);
        break;
    case TOOL_WORD_OTHER:
        fputs("other", stdout);
        break;
    }
}

static void put_options(const GArray *entries)
{
    for (guint i = 0; i < entries->len; i++) {
        const GOptionEntry *entry = &g_array_index(entries, GOptionEntry, i);
        if (!(entry->flags & G_OPTION_FLAG_HIDDEN)) {
            printf(" --%s", entry->long_name);
        }
    }
}

static void put_values(const GArray *entries)
{
    for (guint i = 0; i < entries->len; i++) {
        const GOptionEntry *entry = &g_array_index(entries, GOptionEntry, i);
        if (!tool_takes_value(entry) || (entry->flags & G_OPTION_FLAG_HIDDEN)) {
            continue;
        }
        printf(" [--%s]=", entry->long_name);
        put_kind(entry->arg_description);
        if (entry->short_name) {
            printf(" [-%c]=", entry->short_name);
            put_kind(entry->arg_description);
        }
    }
}

static void put_commands(void)
{
    fputs("'choice help", stdout);
    for (const ToolGroup *group = tool_command_groups(); group->heading; group++) {
        for (const ToolText *line = group->commands; line->term; line++) {
            printf(" %s", line->term);
        }
    }
    fputs("'", stdout);
}

void tool_print_completion(const ToolCommand *command)
{
    bool is_front = strcmp(command->name, "qcow") == 0;
    g_autofree char *function = g_strdelimit(g_strdup(command->name), "-", '_');

    printf("# Bash completion for %s, made by %s --generate=completion\n\n", command->name, command->name);
    fputs(common_part, stdout);
    printf("_%s()\n{\n    local options=(", function);
    for (ToolSection section = 0; section < TOOL_N_SECTIONS; section++) {
        g_autoptr(GArray) entries = tool_section_entries(command, section);
        put_options(entries);
    }
    printf(" )\n    local -A values=(");
    for (ToolSection section = 0; section < TOOL_N_SECTIONS; section++) {
        g_autoptr(GArray) entries = tool_section_entries(command, section);
        put_values(entries);
    }
    printf(" )\n    local arguments=(");
    if (is_front) {
        put_commands();
    }
    for (const char *const *argument = command->arguments; argument && *argument; argument++) {
        fputs(" ", stdout);
        put_kind(*argument);
    }
    printf(" )\n%s}\ncomplete -F _%s %s\n", is_front ? front_part : "    _qcow_complete\n",
           function, command->name);
}
