/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/comma.h"

#include <glib.h>

char *qcow2_next_word(const char **text)
{
    GString *word = g_string_new(NULL);
    const char *p = *text;

    for (; *p && (p[0] != ',' || p[1] == ','); p++) {
        p += *p == ',';
        g_string_append_c(word, *p);
    }
    *text = *p ? p + 1 : NULL;
    return g_string_free(word, FALSE);
}
