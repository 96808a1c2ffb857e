/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain/nbd-address.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define NBD_PORT 10809

/* A socket is a file: another path may lead to it. */
static char *socket_key(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? g_strdup_printf("socket %" PRIu64 ":%" PRIu64, (uint64_t)st.st_dev,
                                                  (uint64_t)st.st_ino)
                                : g_strdup_printf("unix %s", path);
}

static char *host_key(const char *host, int port)
{
    bool is_here = !*host || strcmp(host, "127.0.0.1") == 0 || strcmp(host, "::1") == 0;
    g_autofree char *name = g_ascii_strdown(is_here ? "localhost" : host, -1);

    return g_strdup_printf("tcp %s %d", name, port > 0 ? port : NBD_PORT);
}

static char *server_key(const char *scheme, GUri *uri)
{
    const char *host = g_uri_get_host(uri) ? g_uri_get_host(uri) : "";
    const char *query = g_uri_get_query(uri) ? g_uri_get_query(uri) : "";
    g_autoptr(GHashTable) params = g_uri_parse_params(query, -1, "&;", G_URI_PARAMS_NONE, NULL);
    const char *socket = params ? g_hash_table_lookup(params, "socket") : NULL;

    if (g_str_has_suffix(scheme, "+unix")) {
        return socket_key(socket ? socket : "");
    }
    if (g_str_has_suffix(scheme, "+vsock")) {
        return g_strdup_printf("vsock %s %d", host, g_uri_get_port(uri) > 0 ? g_uri_get_port(uri) : NBD_PORT);
    }
    return host_key(host, g_uri_get_port(uri));
}

/* With TLS and without it is the same export. */
static char *export_key(const char *text)
{
    g_autoptr(GUri) uri = g_uri_parse(text, G_URI_FLAGS_ENCODED_QUERY, NULL);

    if (!uri) {
        return g_strdup(text);
    }
    g_autofree char *server = server_key(g_uri_get_scheme(uri), uri);
    const char *export_name = g_uri_get_path(uri);
    return g_strdup_printf("%s /%s", server, export_name + (*export_name == '/'));
}

bool qcow2_nbd_is_same_export(const char *a, const char *b)
{
    g_autofree char *key_a = export_key(a);
    g_autofree char *key_b = export_key(b);

    return strcmp(key_a, key_b) == 0;
}
