/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Strict JSON (RFC 8259), and strings in single quotes, which QEMU takes as well. */
#include "util/error.h"
#include "util/json.h"

#include <math.h>
#include <string.h>

typedef struct Parser {
    const char *start;
    const char *p;             /* NUL-terminated: looking one byte ahead is always possible */
    unsigned depth;
} Parser;

/* All parse functions return a floating GVariant, or NULL with an error. */
static GVariant *parse_value(Parser *parser, GError **error);

static bool fail_at(const Parser *parser, const char *what, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "JSON text, offset 0x%zx: %s",
                      (size_t) (parser->p - parser->start), what);
}

static void skip_space(Parser *parser)
{
    parser->p += strspn(parser->p, " \t\r\n");
}

static bool skip_char(Parser *parser, char c)
{
    skip_space(parser);
    bool there = *parser->p == c;
    parser->p += there;
    return there;
}

/* The four digits of \uXXXX; @parser stands on the "u". */
static bool read_unicode_unit(Parser *parser, gunichar *ret_unit)
{
    gunichar unit = 0;

    for (unsigned i = 1; i <= 4; i++) {
        int digit = g_ascii_xdigit_value(parser->p[i]);
        if (digit < 0) {
            return false;
        }
        unit = unit * 16 + (gunichar) digit;
    }
    parser->p += 5;
    *ret_unit = unit;
    return true;
}

static bool read_unicode(Parser *parser, GString *string, GError **error)
{
    gunichar c, low;

    if (!read_unicode_unit(parser, &c)) {
        return fail_at(parser, "\\u needs four hexadecimal digits", error);
    }
    if (c >= 0xd800 && c < 0xdc00 && parser->p[0] == '\\' && parser->p[1] == 'u') {
        parser->p++;
        if (!read_unicode_unit(parser, &low) || low < 0xdc00 || low > 0xdfff) {
            return fail_at(parser, "half a surrogate pair", error);
        }
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    if (c == 0 || !g_unichar_validate(c)) {
        return fail_at(parser, "\\u stands for no character", error);
    }
    g_string_append_unichar(string, c);
    return true;
}

/* @parser stands behind the backslash. */
static bool read_escape(Parser *parser, GString *string, GError **error)
{
    static const char names[] = "\"'\\/bfnrt";
    static const char values[] = "\"'\\/\b\f\n\r\t";
    const char *found;

    if (*parser->p == 'u') {
        return read_unicode(parser, string, error);
    }
    found = *parser->p ? strchr(names, *parser->p) : NULL;
    if (!found) {
        return fail_at(parser, "unknown escape", error);
    }
    g_string_append_c(string, values[found - names]);
    parser->p++;
    return true;
}

/* The whole text was found to be UTF-8, so bytes can be taken one by one. */
static char *parse_string(Parser *parser, GError **error)
{
    char quote = *parser->p++;
    g_autoptr(GString) string = g_string_new(NULL);

    while (*parser->p != quote) {
        if ((guint8) *parser->p < 0x20) {
            fail_at(parser, *parser->p ? "control character in a string" : "string without end", error);
            return NULL;
        }
        if (*parser->p != '\\') {
            g_string_append_c(string, *parser->p++);
            continue;
        }
        parser->p++;
        if (!read_escape(parser, string, error)) {
            return NULL;
        }
    }
    parser->p++;
    return g_string_free(g_steal_pointer(&string), FALSE);
}

static bool at_string(const Parser *parser)
{
    return *parser->p == '"' || *parser->p == '\'';
}

/* The length of the number at @p by JSON's grammar, 0 when there is none. */
static size_t number_length(const char *p, bool *ret_is_integer)
{
    static const char digits[] = "0123456789";
    const char *start = p;

    p += *p == '-';
    size_t n_whole = strspn(p, digits);
    if (n_whole == 0 || (n_whole > 1 && *p == '0')) {
        return 0;
    }
    p += n_whole;
    *ret_is_integer = true;
    if (*p == '.') {
        size_t n_fraction = strspn(++p, digits);
        if (n_fraction == 0) {
            return 0;
        }
        p += n_fraction;
        *ret_is_integer = false;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '+' || *p == '-';
        size_t n_exponent = strspn(p, digits);
        if (n_exponent == 0) {
            return 0;
        }
        p += n_exponent;
        *ret_is_integer = false;
    }
    return (size_t) (p - start);
}

static GVariant *parse_number(Parser *parser, GError **error)
{
    bool is_integer;
    size_t len = number_length(parser->p, &is_integer);

    if (len == 0) {
        fail_at(parser, "no value", error);
        return NULL;
    }
    g_autofree char *number = g_strndup(parser->p, len);
    gint64 integer;
    double real = g_ascii_strtod(number, NULL);
    bool fits = is_integer ? g_ascii_string_to_signed(number, 10, INT64_MIN, INT64_MAX, &integer, NULL)
                           : isfinite(real);
    if (!fits) {
        fail_at(parser, "number out of range", error);
        return NULL;
    }
    parser->p += len;
    return is_integer ? g_variant_new_int64(integer) : g_variant_new_double(real);
}

static GVariant *parse_word(Parser *parser, GError **error)
{
    size_t len = strspn(parser->p, "abcdefghijklmnopqrstuvwxyz");
    g_autofree char *word = g_strndup(parser->p, len);
    bool is_true = strcmp(word, "true") == 0;

    if (is_true || strcmp(word, "false") == 0) {
        parser->p += len;
        return g_variant_new_boolean(is_true);
    }
    if (strcmp(word, "null") == 0) {
        parser->p += len;
        return g_variant_new_maybe(G_VARIANT_TYPE_VARIANT, NULL);
    }
    return parse_number(parser, error);
}

static bool parse_member(Parser *parser, GVariantDict *object, GError **error)
{
    skip_space(parser);
    if (!at_string(parser)) {
        return fail_at(parser, "a key was expected", error);
    }
    g_autofree char *key = parse_string(parser, error);
    if (!key) {
        return false;
    }
    if (g_variant_dict_contains(object, key)) {
        return fail_at(parser, "this key was there before", error);
    }
    if (!skip_char(parser, ':')) {
        return fail_at(parser, "':' was expected", error);
    }
    GVariant *value = parse_value(parser, error);
    if (!value) {
        return false;
    }
    g_variant_dict_insert_value(object, key, value);
    return true;
}

static bool parse_members(Parser *parser, GVariantDict *object, GError **error)
{
    parser->p++;
    if (skip_char(parser, '}')) {
        return true;
    }
    do {
        if (!parse_member(parser, object, error)) {
            return false;
        }
    } while (skip_char(parser, ','));
    return skip_char(parser, '}') || fail_at(parser, "',' or '}' was expected", error);
}

static GVariant *parse_object(Parser *parser, GError **error)
{
    g_auto(GVariantDict) object = G_VARIANT_DICT_INIT(NULL);

    return parse_members(parser, &object, error) ? g_variant_dict_end(&object) : NULL;
}

static bool parse_elements(Parser *parser, GVariantBuilder *array, GError **error)
{
    parser->p++;
    if (skip_char(parser, ']')) {
        return true;
    }
    do {
        GVariant *value = parse_value(parser, error);
        if (!value) {
            return false;
        }
        g_variant_builder_add(array, "v", value);
    } while (skip_char(parser, ','));
    return skip_char(parser, ']') || fail_at(parser, "',' or ']' was expected", error);
}

static GVariant *parse_array(Parser *parser, GError **error)
{
    g_auto(GVariantBuilder) array = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));

    return parse_elements(parser, &array, error) ? g_variant_builder_end(&array) : NULL;
}

static GVariant *parse_container(Parser *parser, GError **error)
{
    if (parser->depth == QCOW2_JSON_MAX_DEPTH) {
        fail_at(parser, "too many levels", error);
        return NULL;
    }
    parser->depth++;
    GVariant *container = *parser->p == '{' ? parse_object(parser, error) : parse_array(parser, error);
    parser->depth--;
    return container;
}

static GVariant *parse_value(Parser *parser, GError **error)
{
    skip_space(parser);
    if (*parser->p == '{' || *parser->p == '[') {
        return parse_container(parser, error);
    }
    if (at_string(parser)) {
        char *string = parse_string(parser, error);
        return string ? g_variant_new_take_string(string) : NULL;
    }
    return parse_word(parser, error);
}

GVariant *qcow2_json_parse(const char *text, GError **error)
{
    Parser parser = { .start = text, .p = text };

    if (strnlen(text, QCOW2_JSON_MAX_TEXT + 1) > QCOW2_JSON_MAX_TEXT) {
        qcow2_fail(error, QCOW2_ERROR_INVALID, "JSON text of more than %u bytes", QCOW2_JSON_MAX_TEXT);
        return NULL;
    }
    if (!g_utf8_validate(text, -1, &parser.p)) {
        fail_at(&parser, "bytes that are not UTF-8", error);
        return NULL;
    }
    parser.p = text;
    skip_space(&parser);
    if (*parser.p != '{') {
        fail_at(&parser, "an object was expected", error);
        return NULL;
    }

    g_autoptr(GVariant) object = parse_container(&parser, error);
    if (!object) {
        return NULL;
    }
    g_variant_ref_sink(object);
    skip_space(&parser);
    if (*parser.p) {
        fail_at(&parser, "more text behind the object", error);
        return NULL;
    }
    return g_steal_pointer(&object);
}
