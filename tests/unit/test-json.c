/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/json.h"

#include <string.h>

static GVariant *parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    GVariant *object = qcow2_json_parse(text, &error);
    g_assert_no_error(error);
    g_assert_nonnull(object);
    return object;
}

static void check_string(const char *text, const char *expected)
{
    g_autoptr(GVariant) object = parse(text);
    const char *value = NULL;

    g_assert_true(g_variant_lookup(object, "a", "&s", &value));
    g_assert_cmpstr(value, ==, expected);
}

static void test_strings(void)
{
    check_string("{\"a\":\"plain\"}", "plain");
    check_string(" { 'a' : 'it\\'s \"quoted\"' } ", "it's \"quoted\"");
    check_string("{'a':'\\b\\f\\n\\r\\t\\/\\\\\\\"'}", "\b\f\n\r\t/\\\"");
    check_string("{\"a\":\"Z\\u00fcrich \\ud83d\\udcbe\"}", "Zürich \xf0\x9f\x92\xbe");
    check_string("{\"a\":\"}]{[ // /* */\"}", "}]{[ // /* */");
}

static void test_values(void)
{
    g_autoptr(GVariant) object = parse("{'i':-9223372036854775808,'d':1.5e1,'t':true,'f':false,'n':null,"
                                       "'l':[1,'two',[],{}],'o':{'deep':{'er':7}}}");
    gint64 integer;
    double real;
    gboolean yes, no;
    g_autoptr(GVariant) nothing = g_variant_lookup_value(object, "n", G_VARIANT_TYPE("mv"));
    g_autoptr(GVariant) list = g_variant_lookup_value(object, "l", G_VARIANT_TYPE("av"));
    g_autoptr(GVariant) inner = g_variant_lookup_value(object, "o", G_VARIANT_TYPE("a{sv}"));

    g_assert_true(g_variant_lookup(object, "i", "x", &integer));
    g_assert_cmpint(integer, ==, INT64_MIN);
    g_assert_true(g_variant_lookup(object, "d", "d", &real));
    g_assert_cmpfloat(real, ==, 15.0);
    g_assert_true(g_variant_lookup(object, "t", "b", &yes) && yes);
    g_assert_true(g_variant_lookup(object, "f", "b", &no) && !no);
    g_assert_nonnull(nothing);
    g_assert_cmpuint(g_variant_n_children(nothing), ==, 0);
    g_assert_cmpuint(g_variant_n_children(list), ==, 4);
    g_assert_nonnull(inner);
}

static void test_refuses(void)
{
    static const char *const texts[] = {
        "", " ", "[]", "7", "\"a\"", "{", "{'a'", "{'a':", "{'a':1", "{'a':1,}", "{'a' 1}", "{a:1}",
        "{'a':1}}", "{'a':1}{'b':2}", "{'a':[1 2]}", "{'a':[1,]}", "{'a':[1}", "{'a':1]", "{'a':1,'a':2}",
        "var x = {'a':1}", "/* c */{'a':1}", "{'a':1}//", "{'a':tru}", "{'a':True}", "{'a':nulll}",
        "{'a':010}", "{'a':0x10}", "{'a':+1}", "{'a':1.}", "{'a':.5}", "{'a':1e}", "{'a':-}", "{'a':1e999}",
        "{'a':9223372036854775808}", "{'a':18446744073709551615}", "{'a':nan}",
        "{'a':'x\ty'}", "{'a':'x", "{'a':'x\\'}", "{'a':\"x'}", "{'a':'\\x41'}", "{'a':'\\u00'}",
        "{'a':'\\u00g0'}", "{'a':'\\u0000'}", "{'a':'\\ud800'}", "{'a':'\\ud800x'}",
        "{'a':'\\ud800\\u0041'}", "{'a':'\\udc00'}",
        "{'a':'\\ud800\\u", "{'a':'\\", "{'a':'\xff'}", "{'a':'\xed\xa0\x80'}", "\xef\xbb\xbf{}",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GVariant) object = qcow2_json_parse(texts[i], &error);
        g_autofree char *printable = qcow2_escape_name(texts[i], -1);

        g_test_message("%s", printable);
        g_assert_null(object);
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    }
}

static char *nested(unsigned depth)
{
    GString *text = g_string_new("{'a':");
    for (unsigned i = 1; i < depth; i++) {
        g_string_append_c(text, '[');
    }
    for (unsigned i = 1; i < depth; i++) {
        g_string_append_c(text, ']');
    }
    g_string_append_c(text, '}');
    return g_string_free(text, FALSE);
}

static void test_bounds(void)
{
    g_autoptr(GError) depth_error = NULL;
    g_autoptr(GError) size_error = NULL;
    g_autofree char *at_limit = nested(QCOW2_JSON_MAX_DEPTH);
    g_autofree char *too_deep = nested(QCOW2_JSON_MAX_DEPTH + 1);
    g_autofree char *huge = g_malloc(QCOW2_JSON_MAX_TEXT + 2);

    g_variant_unref(parse(at_limit));
    g_assert_null(qcow2_json_parse(too_deep, &depth_error));
    g_assert_error(depth_error, QCOW2_ERROR, QCOW2_ERROR_INVALID);

    memset(huge, ' ', QCOW2_JSON_MAX_TEXT + 1);
    huge[QCOW2_JSON_MAX_TEXT + 1] = '\0';
    memcpy(huge, "{}", 2);
    g_assert_null(qcow2_json_parse(huge, &size_error));
    g_assert_error(size_error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    huge[QCOW2_JSON_MAX_TEXT] = '\0';
    g_variant_unref(parse(huge));
}

static void check_print(const char *variant, const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = qcow2_json_print(g_variant_new_parsed(variant), &error);

    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, expected);
}

static void test_print(void)
{
    check_print("@a{sv} {}", "{\n}");
    check_print("@av []", "[\n]");
    check_print("'say \"hi\"\\n\\\\ \\u001b'", "\"say \\\"hi\\\"\\n\\\\ \\u001b\"");
    check_print("uint64 18446744073709551615", "18446744073709551615");
    check_print("int64 -1", "-1");
    check_print("@mv nothing", "null");
    check_print("{'name': <'s1'>, 'list': <[<1>, <true>, <0.5>]>}",
                "{\n    \"name\": \"s1\",\n    \"list\": [\n        1,\n        true,\n        0.5\n"
                "    ]\n}");
}

static void test_print_refuses(void)
{
    static const char *const variants[] = { "(1, 2)", "[<(1, 2)>]", "{1: 'a'}", "inf", "byte 1" };

    for (size_t i = 0; i < G_N_ELEMENTS(variants); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text = qcow2_json_print(g_variant_new_parsed(variants[i]), &error);

        g_assert_null(text);
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    }
}

static void test_round_trip(void)
{
    static const char text[] = "{\n    \"a\": [\n        {\n            \"b\": \"x\\\\y\"\n        },\n"
                               "        -7,\n        null\n    ]\n}";
    g_autoptr(GError) error = NULL;
    g_autoptr(GVariant) object = parse(text);
    g_autofree char *printed = qcow2_json_print(object, &error);

    g_assert_cmpstr(printed, ==, text);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/strings in both quotes and all escapes are read", test_strings);
    g_test_add_func("/json/every kind of value is read", test_values);
    g_test_add_func("/json/what is not strict JSON is refused", test_refuses);
    g_test_add_func("/json/depth and length are bounded", test_bounds);
    g_test_add_func("/json/values are printed as qemu-img indents them", test_print);
    g_test_add_func("/json/what JSON cannot say is refused", test_print_refuses);
    g_test_add_func("/json/what was printed reads the same", test_round_trip);
    return g_test_run();
}
