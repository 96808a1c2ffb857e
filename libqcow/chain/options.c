/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image names with structure: json: objects and --image-opts, both as flat keys and strings. */
#include "chain/place.h"
#include "util/comma.h"
#include "util/error.h"
#include "util/json.h"

static GHashTable *new_options(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
}

static bool flatten(GHashTable *options, const char *key, GVariant *value, GError **error);

/* As QEMU does: the elements become "key.0", "key.1"… An empty one would be as if it were not there. */
static bool flatten_array(GHashTable *options, const char *key, GVariant *array, GError **error)
{
    gsize n = g_variant_n_children(array);
    bool ok = n > 0 || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "json: name: '%s' is an empty list", key);

    for (gsize i = 0; ok && i < n; i++) {
        g_autofree char *element_key = g_strdup_printf("%s.%zu", key, i);
        g_autoptr(GVariant) boxed = g_variant_get_child_value(array, i);
        g_autoptr(GVariant) element = g_variant_get_variant(boxed);
        ok = flatten(options, element_key, element, error);
    }
    return ok;
}

static bool flatten(GHashTable *options, const char *key, GVariant *value, GError **error)
{
    if (g_variant_is_of_type(value, G_VARIANT_TYPE_VARDICT)) {
        GVariantIter iter;
        const char *name;
        GVariant *member;
        bool ok = true;
        g_variant_iter_init(&iter, value);
        while (ok && g_variant_iter_next(&iter, "{&sv}", &name, &member)) {
            g_autofree char *member_key = *key ? g_strconcat(key, ".", name, NULL) : g_strdup(name);
            ok = flatten(options, member_key, member, error);
            g_variant_unref(member);
        }
        return ok;
    }
    if (g_variant_is_of_type(value, G_VARIANT_TYPE("av"))) {
        return flatten_array(options, key, value, error);
    }
    if (g_variant_is_of_type(value, G_VARIANT_TYPE_STRING)) {
        g_hash_table_insert(options, g_strdup(key), g_variant_dup_string(value, NULL));
    } else if (g_variant_is_of_type(value, G_VARIANT_TYPE_INT64)) {
        g_hash_table_insert(options, g_strdup(key), g_strdup_printf("%" PRId64, g_variant_get_int64(value)));
    } else if (g_variant_is_of_type(value, G_VARIANT_TYPE_BOOLEAN)) {
        g_hash_table_insert(options, g_strdup(key), g_strdup(g_variant_get_boolean(value) ? "on" : "off"));
    } else if (g_variant_is_of_type(value, G_VARIANT_TYPE_MAYBE)) {
        g_hash_table_insert(options, g_strdup(key), NULL);
    } else {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "json: name: the value of '%s' has a type that image names"
                          " do not use",
                          key);
    }
    return true;
}

GHashTable *qcow2_flatten_json(const char *text, GError **error)
{
    g_autoptr(GHashTable) options = new_options();
    g_autoptr(GVariant) object = qcow2_json_parse(text, error);

    return object && flatten(options, "", object, error) ? g_steal_pointer(&options) : NULL;
}

GHashTable *qcow2_flatten_image_opts(const char *text, GError **error)
{
    g_autoptr(GHashTable) options = new_options();

    while (text && *text) {
        g_autofree char *option = qcow2_next_word(&text);
        char *value = strchr(option, '=');
        if (!value || value == option) {
            qcow2_fail(error, QCOW2_ERROR_INVALID, "image options: expected KEY=VALUE, found '%s'", option);
            return NULL;
        }
        *value++ = '\0';
        g_hash_table_insert(options, g_strdup(option), g_strdup(value));
    }
    return g_steal_pointer(&options);
}
