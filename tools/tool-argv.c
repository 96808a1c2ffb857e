/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-argv.h"

#include <string.h>

bool tool_takes_value(const GOptionEntry *entry)
{
    return entry->arg != G_OPTION_ARG_NONE && !(entry->flags & G_OPTION_FLAG_NO_ARG);
}

static const GOptionEntry *find_letter(const GArray *entries, char letter)
{
    for (guint i = 0; i < entries->len; i++) {
        const GOptionEntry *entry = &g_array_index(entries, GOptionEntry, i);
        if (entry->short_name == letter) {
            return entry;
        }
    }
    return NULL;
}

static const GOptionEntry *find_long(const GArray *entries, const char *name)
{
    for (guint i = 0; i < entries->len; i++) {
        const GOptionEntry *entry = &g_array_index(entries, GOptionEntry, i);
        if (strcmp(entry->long_name, name) == 0) {
            return entry;
        }
    }
    return NULL;
}

/* Bytes of @word up to and with the first letter that wants a value; all of it when none does. */
static size_t letters_len(const char *word, const GArray *entries, bool *ret_wants_value)
{
    size_t len = strlen(word);

    for (size_t i = 1; i < len; i++) {
        const GOptionEntry *entry = find_letter(entries, word[i]);
        if (entry && tool_takes_value(entry)) {
            *ret_wants_value = true;
            return i + 1;
        }
    }
    *ret_wants_value = false;
    return len;
}

char **tool_split_letters(char **argv, const GArray *entries)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    bool is_value = true;             /* argv[0] is no option */
    bool options_end = false;

    for (; *argv; argv++) {
        const char *word = *argv;

        if (is_value || options_end || word[0] != '-' || !word[1]) {
            g_strv_builder_add(words, word);
            is_value = false;
        } else if (word[1] == '-') {
            const GOptionEntry *entry = find_long(entries, word + 2);
            g_strv_builder_add(words, word);
            options_end = !word[2];
            is_value = entry && tool_takes_value(entry);
        } else {
            size_t len = letters_len(word, entries, &is_value);
            g_autofree char *letters = g_strndup(word, len);
            g_strv_builder_add(words, letters);
            if (word[len]) {
                g_strv_builder_add(words, word + len);
                is_value = false;
            }
        }
    }
    return g_strv_builder_end(words);
}

/* The option that @word is or ends with; NULL for an argument, and for what is no option. */
static const GOptionEntry *find_option(const char *word, const GArray *entries)
{
    if (word[0] != '-' || !word[1]) {
        return NULL;
    }
    if (word[1] != '-') {
        return find_letter(entries, word[strlen(word) - 1]);
    }
    g_autofree char *name = g_strndup(word + 2, strcspn(word + 2, "="));
    return find_long(entries, name);
}

/* Is the word behind @word, which is @entry, its value? */
static bool has_value_behind(const char *word, const GOptionEntry *entry)
{
    return entry && tool_takes_value(entry) && !strchr(word, '=');
}

const char *tool_find_flag_with_value(char **words, const GArray *entries)
{
    for (unsigned i = 1; words[0] && words[i] && strcmp(words[i], "--") != 0; i++) {
        const GOptionEntry *entry = find_option(words[i], entries);
        if (entry && !tool_takes_value(entry) && words[i][1] == '-' && strchr(words[i], '=')) {
            return words[i];
        }
        i += has_value_behind(words[i], entry) && words[i + 1];
    }
    return NULL;
}

ToolOrder tool_find_order(char **words, const GArray *entries)
{
    bool options_end = false, has_argument = false, has_list = false;
    ToolOrder order = TOOL_ARGUMENTS_LAST;

    for (unsigned i = 1; words[0] && words[i]; i++) {
        const GOptionEntry *entry = options_end ? NULL : find_option(words[i], entries);
        if (!options_end && strcmp(words[i], "--") == 0) {
            options_end = true;
        } else if (options_end || words[i][0] != '-' || !words[i][1]) {
            has_argument = true;
        } else if (entry && entry->arg == G_OPTION_ARG_FILENAME_ARRAY) {
            order = !has_argument || order == TOOL_ARGUMENTS_FIRST ? order
                  : has_list                                       ? TOOL_ARGUMENTS_BETWEEN
                                                                   : TOOL_ARGUMENTS_FIRST;
            has_list = true;
        }
        i += has_value_behind(words[i], entry) && words[i + 1];
    }
    return order;
}

char **tool_numbers_last(char **argv)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new(), numbers = g_strv_builder_new();
    bool options_end = false, any = false;

    for (; *argv; argv++) {
        const char *word = *argv;
        bool is_number = !options_end && word[0] == '-' && (g_ascii_isdigit(word[1]) || word[1] == '.');
        options_end |= strcmp(word, "--") == 0;
        any |= is_number;
        g_strv_builder_add(is_number ? numbers : words, word);
    }
    if (any && !options_end) {
        g_strv_builder_add(words, "--");
    }
    g_auto(GStrv) last = g_strv_builder_end(numbers);
    g_strv_builder_addv(words, (const char **)last);
    return g_strv_builder_end(words);
}
