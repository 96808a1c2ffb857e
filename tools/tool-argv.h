/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command lines as getopt reads them. */
#ifndef TOOL_ARGV_H
#define TOOL_ARGV_H

#include <glib.h>
#include <stdbool.h>

/** tool_takes_value: whether the option is followed by a value. */
bool tool_takes_value(const GOptionEntry *entry);

/**
 * tool_split_letters:
 * @entries: a GOptionEntry array
 *
 * GOption wants "-f qcow2"; getopt, and so scripts made for qemu-img, also accept "-fqcow2" and
 * "-pfqcow2". Returns a copy of @argv in which such words are two; free it with g_strfreev().
 */
char **tool_split_letters(char **argv, const GArray *entries);

/**
 * tool_find_flag_with_value:
 * @words: as tool_split_letters() returns them
 *
 * GOption takes "--delete=no" for "--delete". Returns: the first such word, an option that takes no value
 * with one; NULL when there is none.
 */
const char *tool_find_flag_with_value(char **words, const GArray *entries);

/** Where the arguments stand that belong to no option. */
typedef enum {
    TOOL_ARGUMENTS_LAST,      /* behind all options that may be given again, or there is no such option */
    TOOL_ARGUMENTS_FIRST,     /* the first one stands before them all */
    TOOL_ARGUMENTS_BETWEEN,
} ToolOrder;

/** tool_find_order: @words as tool_split_letters() returns them. */
ToolOrder tool_find_order(char **words, const GArray *entries);

/**
 * tool_numbers_last:
 *
 * GOption takes "-5G" for options. Returns a copy of @argv in which such words stand behind all others, after
 * "--"; free it with g_strfreev().
 */
char **tool_numbers_last(char **argv);

#endif
