/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain/place.h"

#include <string.h>

#include "util/error.h"

void qcow2_place_free(Qcow2Place *place)
{
    if (!place) {
        return;
    }
    g_free(place->target);
    g_free(place->shown);
    g_free(place->format);
    qcow2_place_free(place->backing);
    qcow2_place_free(place->data_file);
    g_free(place);
}

Qcow2Place *qcow2_place_copy(const Qcow2Place *place)
{
    if (!place) {
        return NULL;
    }
    Qcow2Place *copy = g_memdup2(place, sizeof(*place));
    copy->target = g_strdup(place->target);
    copy->shown = g_strdup(place->shown);
    copy->format = g_strdup(place->format);
    copy->backing = qcow2_place_copy(place->backing);
    copy->data_file = qcow2_place_copy(place->data_file);
    return copy;
}

static Qcow2Place *new_place(Qcow2PlaceKind kind, char *target)
{
    Qcow2Place *place = g_new0(Qcow2Place, 1);

    place->kind = kind;
    place->target = target;
    place->shown = g_strdup(target);
    place->raw_size = UINT64_MAX;
    return place;
}

static char *path_in_folder(const char *folder, const char *path)
{
    return !folder || g_path_is_absolute(path) ? g_strdup(path) : g_build_filename(folder, path, NULL);
}

static bool is_nbd_uri(const char *name)
{
    static const char *const schemes[] = {
        "nbd://", "nbds://", "nbd+unix://", "nbds+unix://", "nbd+vsock://", "nbds+vsock://", "nbd+tcp://",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(schemes); i++) {
        if (g_str_has_prefix(name, schemes[i])) {
            return true;
        }
    }
    return false;
}

static char *nbd_uri(const char *host, const char *port, const char *export_name)
{
    g_autofree char *export_part = g_uri_escape_string(export_name ? export_name : "", "/", FALSE);
    const char *open = strchr(host, ':') && *host != '[' ? "[" : "";
    const char *close = *open ? "]" : "";

    return g_strdup_printf("nbd://%s%s%s:%s/%s", open, host, close, port ? port : "10809", export_part);
}

static char *nbd_unix_uri(const char *socket, const char *export_name)
{
    g_autofree char *export_part = g_uri_escape_string(export_name ? export_name : "", "/", FALSE);
    g_autofree char *socket_part = g_uri_escape_string(socket, "/", FALSE);

    return g_strdup_printf("nbd+unix:///%s?socket=%s", export_part, socket_part);
}

char *qcow2_nbd_uri_of_legacy(const char *name, GError **error)
{
    g_autofree char *address = g_strdup(name + strlen("nbd:"));
    char *export_name = strstr(address, ":exportname=");

    if (export_name) {
        *export_name = '\0';
        export_name += strlen(":exportname=");
    }
    if (g_str_has_prefix(address, "unix:")) {
        return nbd_unix_uri(address + strlen("unix:"), export_name);
    }
    char *port = strrchr(address, ':');
    if (!port || port == address) {
        qcow2_fail(error, QCOW2_ERROR_INVALID,
                   "'%s' is no NBD address: expected nbd:HOST:PORT or nbd:unix:PATH", name);
        return NULL;
    }
    *port++ = '\0';
    return nbd_uri(address, port, export_name);
}

static Qcow2Place *place_of_json(const char *name, const char *folder, GError **error)
{
    g_autoptr(GHashTable) options = qcow2_flatten_json(name + strlen("json:"), error);
    Qcow2Place *place = options ? qcow2_place_of_options(options, "", folder, error) : NULL;

    /* QEMU shows the object when a plain name would not say all of it. */
    if (place && (place->raw_offset || place->raw_size != UINT64_MAX || place->no_backing || place->backing
                  || place->data_file)) {
        g_free(place->shown);
        place->shown = g_strdup(name);
    }
    return place;
}

static Qcow2Place *place_of_image_opts(const char *name, const char *folder, GError **error)
{
    g_autoptr(GHashTable) options = qcow2_flatten_image_opts(name, error);

    return options ? qcow2_place_of_options(options, "", folder, error) : NULL;
}

Qcow2Place *qcow2_place_parse(const char *name, const char *folder, bool image_opts, GError **error)
{
    if (image_opts) {
        return place_of_image_opts(name, folder, error);
    }
    if (g_str_has_prefix(name, "json:")) {
        return place_of_json(name, folder, error);
    }
    if (is_nbd_uri(name)) {
        return new_place(QCOW2_PLACE_NBD, g_strdup(name));
    }
    /* A path may look like an old NBD address; a file that is there means the path. */
    if (g_str_has_prefix(name, "nbd:") && !g_file_test(name, G_FILE_TEST_EXISTS)) {
        char *uri = qcow2_nbd_uri_of_legacy(name, error);
        return uri ? new_place(QCOW2_PLACE_NBD, uri) : NULL;
    }
    if (g_str_has_prefix(name, "file:")) {
        name += strlen("file:");
        /* file:///path is the URI form of /path */
        name += g_str_has_prefix(name, "///") ? 2 : 0;
    }
    if (!*name) {
        qcow2_fail(error, QCOW2_ERROR_INVALID, "an image name is empty");
        return NULL;
    }
    return new_place(QCOW2_PLACE_FILE, path_in_folder(folder, name));
}

char *qcow2_place_folder(const Qcow2Place *place)
{
    if (place->kind != QCOW2_PLACE_FILE) {
        return NULL;
    }
    return strchr(place->target, '/') ? g_path_get_dirname(place->target) : g_strdup("");
}

/* ---- From flat options ------------------------------------------------------------------------- */

typedef struct Options {
    GHashTable *table;
    const char *prefix;       /* "" or ends with a dot */
    const char *folder;
} Options;

static const char *get(const Options *options, const char *key)
{
    g_autofree char *full_key = g_strconcat(options->prefix, key, NULL);

    return g_hash_table_lookup(options->table, full_key);
}

static bool has_below(const Options *options, const char *key)
{
    g_autofree char *start = g_strconcat(options->prefix, key, ".", NULL);
    GHashTableIter iter;
    gpointer name;

    g_hash_table_iter_init(&iter, options->table);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (g_str_has_prefix(name, start)) {
            return true;
        }
    }
    return false;
}

/* Options that change how QEMU works, not what a guest reads. */
static bool is_tuning(const char *key)
{
    static const char *const names[] = {
        "driver",
        "node-name",
        "read-only",
        "auto-read-only",
        "force-share",
        "discard",
        "detect-zeroes",
        "locking",
        "aio",
        "aio-max-batch",
        "cache",
        "lazy-refcounts",
        "pass-discard-request",
        "pass-discard-snapshot",
        "pass-discard-other",
        "discard-no-unref",
        "overlap-check",
        "cache-size",
        "l2-cache-size",
        "l2-cache-entry-size",
        "refcount-cache-size",
        "cache-clean-interval",
        "drop-cache",
        "x-check-cache-dropped",
        "pr-manager",
        "reconnect-delay",
        "open-timeout",
        "encrypt",
    };
    size_t len = strcspn(key, ".");

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strlen(names[i]) == len && strncmp(names[i], key, len) == 0) {
            return true;
        }
    }
    return false;
}

/* Every option must be one of @known (or below it) or tuning: an unknown one could change what is read. */
static bool check_known(const Options *options, const char *const *known, GError **error)
{
    GHashTableIter iter;
    gpointer name;

    g_hash_table_iter_init(&iter, options->table);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (!g_str_has_prefix(name, options->prefix)) {
            continue;
        }
        const char *key = (const char *)name + strlen(options->prefix);
        bool ok = is_tuning(key);
        for (const char *const *k = known; !ok && *k; k++) {
            size_t len = strlen(*k);
            ok = strncmp(key, *k, len) == 0 && (key[len] == '\0' || key[len] == '.');
        }
        if (!ok) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "image name: option '%s' is not supported",
                              (char *) name);
        }
    }
    return true;
}

static Qcow2Place *place_of_file(const Options *options, GError **error)
{
    static const char *const known[] = { "filename", NULL };
    const char *filename = get(options, "filename");

    if (!check_known(options, known, error)) {
        return NULL;
    }
    if (!filename || !*filename) {
        qcow2_fail(error, QCOW2_ERROR_INVALID, "image name: '%sfilename' is missing", options->prefix);
        return NULL;
    }
    return new_place(QCOW2_PLACE_FILE, path_in_folder(options->folder, filename));
}

static Qcow2Place *place_of_nbd(const Options *options, GError **error)
{
    static const char *const known[] = { "server", "export", "host", "port", "path", NULL };
    const char *type = get(options, "server.type");
    const char *export_name = get(options, "export");
    const char *socket = get(options, "server.path") ? get(options, "server.path") : get(options, "path");
    const char *host = get(options, "server.host") ? get(options, "server.host") : get(options, "host");
    const char *port = get(options, "server.port") ? get(options, "server.port") : get(options, "port");
    const char *cid = get(options, "server.cid");

    if (!check_known(options, known, error)) {
        return NULL;
    }
    if (g_strcmp0(type, "vsock") == 0 && cid && port) {
        g_autofree char *export_part = g_uri_escape_string(export_name ? export_name : "", "/", FALSE);
        return new_place(QCOW2_PLACE_NBD, g_strdup_printf("nbd+vsock://%s:%s/%s", cid, port, export_part));
    }
    if (socket) {
        return new_place(QCOW2_PLACE_NBD, nbd_unix_uri(socket, export_name));
    }
    if (host) {
        return new_place(QCOW2_PLACE_NBD, nbd_uri(host, port, export_name));
    }
    qcow2_fail(error, QCOW2_ERROR_INVALID, "image name: '%sserver' gives neither a host nor a socket path",
               options->prefix);
    return NULL;
}

/* The node below a format: an object, or a plain name. */
static Qcow2Place *child_place(const Options *options, const char *key, GError **error)
{
    const char *name = get(options, key);
    g_autofree char *prefix = g_strconcat(options->prefix, key, ".", NULL);

    if (name) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                   "image name: '%s%s' refers to the node '%s'; only objects are"
                   " supported",
                   options->prefix, key, name);
        return NULL;
    }
    return qcow2_place_of_options(options->table, prefix, options->folder, error);
}

static bool parse_raw_range(const Options *options, Qcow2Place *place, GError **error)
{
    const char *offset = get(options, "offset"), *size = get(options, "size");

    return (!offset || qcow2_parse_size(offset, &place->raw_offset, error))
        && (!size || qcow2_parse_size(size, &place->raw_size, error));
}

static bool parse_overrides(const Options *options, Qcow2Place *place, GError **error)
{
    g_autofree char *backing_key = g_strconcat(options->prefix, "backing", NULL);

    if (has_below(options, "backing")) {
        place->backing = child_place(options, "backing", error);
        if (!place->backing) {
            return false;
        }
    } else {
        gpointer value;
        if (g_hash_table_lookup_extended(options->table, backing_key, NULL, &value)) {
            if (value && *(const char *)value) {
                return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                                  "image name: '%s' refers to the node '%s'; only objects"
                                  " are supported",
                                  backing_key, (char *) value);
            }
            place->no_backing = true;
        }
    }
    if (has_below(options, "data-file")) {
        place->data_file = child_place(options, "data-file", error);
        return place->data_file != NULL;
    }
    return true;
}

static Qcow2Place *place_of_format(const Options *options, const char *format, GError **error)
{
    static const char *const known_qcow2[] = { "file", "backing", "data-file", NULL };
    static const char *const known_raw[] = { "file", "offset", "size", NULL };
    bool raw = g_strcmp0(format, "raw") == 0;

    if (!check_known(options, raw ? known_raw : known_qcow2, error)) {
        return NULL;
    }
    g_autoptr(Qcow2Place) place = child_place(options, "file", error);
    if (!place) {
        return NULL;
    }
    if (g_strcmp0(place->format, "qcow2") == 0) {
        /* A raw node over a qcow2 node passes everything through, unless it shows a part only. */
        if (!raw || get(options, "offset") || get(options, "size")) {
            qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                       "image name: '%sfile' is a qcow2 node: only a raw node without"
                       " offset and size is supported over one",
                       options->prefix);
            return NULL;
        }
        return g_steal_pointer(&place);
    }
    if (place->raw_offset != 0 || place->raw_size != UINT64_MAX) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                   "image name: an image in a part of a raw file is not supported");
        return NULL;
    }
    g_free(place->format);
    place->format = g_strdup(format);
    bool ok = raw ? parse_raw_range(options, place, error) : parse_overrides(options, place, error);
    return ok ? g_steal_pointer(&place) : NULL;
}

static Qcow2Place *place_of_protocol(const Options *options, const char *driver, GError **error)
{
    Qcow2Place *place = NULL;

    if (g_strcmp0(driver, "file") == 0 || g_strcmp0(driver, "host_device") == 0
        || (!driver && get(options, "filename"))) {
        place = place_of_file(options, error);
    } else if (g_strcmp0(driver, "nbd") == 0) {
        place = place_of_nbd(options, error);
    } else if (driver) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                   "image name: driver '%s' is not supported; qcow2, raw, file and nbd"
                   " are",
                   driver);
    } else {
        qcow2_fail(error, QCOW2_ERROR_INVALID, "image name: '%sdriver' is missing", options->prefix);
    }
    /* A protocol as the outermost driver is the bytes themselves: QEMU does not look for a format then. */
    if (place && driver && !*options->prefix) {
        place->format = g_strdup("raw");
    }
    return place;
}

static bool is_on(const char *value)
{
    static const char *const words[] = { "on", "yes", "true", "y", NULL };

    return value && g_strv_contains(words, value);
}

Qcow2Place *qcow2_place_of_options(GHashTable *table, const char *prefix, const char *folder, GError **error)
{
    Options options = { table, prefix, folder };
    const char *driver = get(&options, "driver");
    bool is_format = g_strcmp0(driver, "qcow2") == 0 || g_strcmp0(driver, "raw") == 0
                  || (!driver && has_below(&options, "file"));
    Qcow2Place *place = is_format ? place_of_format(&options, driver, error)
                                  : place_of_protocol(&options, driver, error);

    if (place && is_on(get(&options, "read-only"))) {
        place->read_only = true;
    }
    return place;
}

bool qcow2_place_check_writable(const Qcow2Place *place, GError **error)
{
    return !place->read_only
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "Block node is read-only: the image name says read-only=on, which has to go");
}
