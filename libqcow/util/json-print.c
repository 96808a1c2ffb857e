/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/error.h"
#include "util/json.h"

#include <math.h>

static bool print_value(GString *text, GVariant *value, unsigned level, GError **error);

static void start_line(GString *text, unsigned level)
{
    g_string_append_printf(text, "\n%*s", (int) (4 * level), "");
}

/* GVariant strings are UTF-8; JSON asks for escapes of these only. */
static void print_string(GString *text, const char *string)
{
    g_string_append_c(text, '"');
    for (; *string; string++) {
        switch (*string) {
        case '"':
        case '\\':
            g_string_append_c(text, '\\');
            g_string_append_c(text, *string);
            break;
        case '\n':
            g_string_append(text, "\\n");
            break;
        case '\t':
            g_string_append(text, "\\t");
            break;
        default:
            if ((guint8) *string < 0x20 || *string == 0x7f) {
                g_string_append_printf(text, "\\u%04x", (guint8) *string);
            } else {
                g_string_append_c(text, *string);
            }
        }
    }
    g_string_append_c(text, '"');
}

static bool print_double(GString *text, double number, GError **error)
{
    char digits[G_ASCII_DTOSTR_BUF_SIZE];

    if (!isfinite(number)) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "JSON has no infinite number");
    }
    /* 15 digits print 0.1 as such; 17 are needed for some numbers to be read back as they were. */
    g_ascii_formatd(digits, sizeof(digits), "%.15g", number);
    if (g_ascii_strtod(digits, NULL) != number) {
        g_ascii_dtostr(digits, sizeof(digits), number);
    }
    g_string_append(text, digits);
    return true;
}

static bool print_member(GString *text, GVariant *entry, unsigned level, GError **error)
{
    g_autoptr(GVariant) key = g_variant_get_child_value(entry, 0);
    g_autoptr(GVariant) value = g_variant_get_child_value(entry, 1);

    print_string(text, g_variant_get_string(key, NULL));
    g_string_append(text, ": ");
    return print_value(text, value, level, error);
}

static bool print_container(GString *text, GVariant *container, unsigned level, GError **error)
{
    bool is_object = g_variant_is_of_type(container, G_VARIANT_TYPE_DICTIONARY);
    size_t n = g_variant_n_children(container);

    g_string_append_c(text, is_object ? '{' : '[');
    for (size_t i = 0; i < n; i++) {
        g_autoptr(GVariant) child = g_variant_get_child_value(container, i);

        start_line(text, level + 1);
        bool printed = is_object ? print_member(text, child, level + 1, error)
                                 : print_value(text, child, level + 1, error);
        if (!printed) {
            return false;
        }
        if (i + 1 < n) {
            g_string_append_c(text, ',');
        }
    }
    start_line(text, level);
    g_string_append_c(text, is_object ? '}' : ']');
    return true;
}

static bool print_inner(GString *text, GVariant *value, unsigned level, GError **error)
{
    g_autoptr(GVariant) inner = g_variant_n_children(value) ? g_variant_get_child_value(value, 0) : NULL;

    if (!inner) {
        g_string_append(text, "null");
        return true;
    }
    return print_value(text, inner, level, error);
}

static bool is_printable_container(GVariant *value)
{
    return g_variant_is_of_type(value, G_VARIANT_TYPE("a{s*}"))
        || (g_variant_is_of_type(value, G_VARIANT_TYPE_ARRAY)
            && !g_variant_is_of_type(value, G_VARIANT_TYPE_DICTIONARY));
}

static bool print_value(GString *text, GVariant *value, unsigned level, GError **error)
{
    switch (g_variant_classify(value)) {
    case G_VARIANT_CLASS_STRING:
        print_string(text, g_variant_get_string(value, NULL));
        return true;
    case G_VARIANT_CLASS_BOOLEAN:
        g_string_append(text, g_variant_get_boolean(value) ? "true" : "false");
        return true;
    case G_VARIANT_CLASS_INT32:
        g_string_append_printf(text, "%" PRId32, g_variant_get_int32(value));
        return true;
    case G_VARIANT_CLASS_UINT32:
        g_string_append_printf(text, "%" PRIu32, g_variant_get_uint32(value));
        return true;
    case G_VARIANT_CLASS_INT64:
        g_string_append_printf(text, "%" PRId64, g_variant_get_int64(value));
        return true;
    case G_VARIANT_CLASS_UINT64:
        g_string_append_printf(text, "%" PRIu64, g_variant_get_uint64(value));
        return true;
    case G_VARIANT_CLASS_DOUBLE:
        return print_double(text, g_variant_get_double(value), error);
    case G_VARIANT_CLASS_VARIANT:
    case G_VARIANT_CLASS_MAYBE:
        return print_inner(text, value, level, error);
    default:
        if (is_printable_container(value)) {
            return print_container(text, value, level, error);
        }
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "JSON has no value of type %s",
                          g_variant_get_type_string(value));
    }
}

char *qcow2_json_print(GVariant *value, GError **error)
{
    g_autoptr(GVariant) owned = g_variant_ref_sink(value);
    g_autoptr(GString) text = g_string_new(NULL);

    if (!print_value(text, owned, 0, error)) {
        return NULL;
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}
