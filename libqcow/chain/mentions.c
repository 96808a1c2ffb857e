/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain/mentions.h"

#include <string.h>

typedef struct Mentions {
    GHashTable *options;
    const char *folder;
    GPtrArray *places;
    bool is_clear;
} Mentions;

static void free_place(gpointer place)
{
    qcow2_place_free(place);
}

static void add_name(Mentions *self, const char *name)
{
    g_autoptr(Qcow2Place) place = *name ? qcow2_place_parse(name, self->folder, false, NULL) : NULL;

    if (place && (place->kind == QCOW2_PLACE_NBD || g_file_test(place->target, G_FILE_TEST_EXISTS))) {
        g_ptr_array_add(self->places, g_steal_pointer(&place));
    }
}

/* Drivers whose bytes are on other machines, or nowhere: no file of a chain, and no NBD export. */
static bool is_elsewhere(const char *driver)
{
    static const char *const drivers[] = {
        "ftp", "ftps", "gluster", "http", "https", "iscsi", "iser", "nfs", "null-aio", "null-co", "rbd",
        "ssh", NULL,
    };

    return g_strv_contains(drivers, driver);
}

static void add_driver(Mentions *self, const char *key, const char *driver)
{
    g_autofree char *prefix = g_strndup(key, strlen(key) - strlen("driver"));

    if (strcmp(driver, "nbd") == 0) {
        Qcow2Place *place = qcow2_place_of_options(self->options, prefix, self->folder, NULL);
        if (place) {
            g_ptr_array_add(self->places, place);
            self->is_clear = true;
        }
    }
    self->is_clear = self->is_clear || is_elsewhere(driver);
}

static void add_options(Mentions *self)
{
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, self->options);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        const char *dot = strrchr(key, '.'), *word = dot ? dot + 1 : key;
        if (!value) {
            continue;
        }
        if (strcmp(word, "driver") == 0) {
            add_driver(self, key, value);
            continue;
        }
        self->is_clear = self->is_clear || strcmp(word, "filename") == 0;
        add_name(self, value);
    }
}

GPtrArray *qcow2_places_mentioned(const char *name, const char *folder, bool *ret_is_clear)
{
    Mentions self = { .folder = folder, .places = g_ptr_array_new_with_free_func(free_place) };

    if (g_str_has_prefix(name, "json:")) {
        self.options = qcow2_flatten_json(name + strlen("json:"), NULL);
        if (self.options) {
            add_options(&self);
            g_hash_table_unref(self.options);
        }
        *ret_is_clear = self.is_clear;
        return self.places;
    }
    for (const char *colon = strchr(name, ':'); colon; colon = strchr(colon + 1, ':')) {
        add_name(&self, colon + 1);
    }
    *ret_is_clear = true;
    return self.places;
}
