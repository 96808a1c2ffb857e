/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names from images, made fit to print. */
#include "libqcow2.h"

#include <string.h>

/* What moves the cursor, breaks a line or turns the direction of the text around it. */
static bool is_control(gunichar c)
{
    return c < 0x20
        || (c >= 0x7f && c < 0xa0)
        || c == 0x200e || c == 0x200f         /* marks of writing direction */
        || (c >= 0x2028 && c <= 0x202e)       /* line and paragraph separator, embeddings, overrides */
        || (c >= 0x2066 && c <= 0x2069);      /* isolates */
}

char *qcow2_escape_name(const char *name, gssize len)
{
    const char *end = name + (len < 0 ? strlen(name) : (size_t) len);
    GString *text = g_string_sized_new(end - name);

    while (name < end) {
        gunichar c = g_utf8_get_char_validated(name, end - name);
        bool valid = c != (gunichar) -1 && c != (gunichar) -2;
        size_t len_char = valid ? (size_t) (g_utf8_next_char(name) - name) : 1;

        if (!valid || is_control(c)) {
            for (size_t i = 0; i < len_char; i++) {
                g_string_append_printf(text, "\\x%02x", (guint8) name[i]);
            }
        } else if (c == '\\') {
            g_string_append(text, "\\\\");
        } else {
            g_string_append_len(text, name, len_char);
        }
        name += len_char;
    }
    return g_string_free(text, FALSE);
}
