/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists with commas, as QEMU writes options. */
#ifndef QCOW2_UTIL_COMMA_H
#define QCOW2_UTIL_COMMA_H

/**
 * qcow2_next_word:
 * @text: moved behind the comma that ends the word; NULL when none does
 *
 * Returns: the text up to a single comma, a doubled one standing for itself; free it with g_free().
 */
char *qcow2_next_word(const char **text);

#endif
