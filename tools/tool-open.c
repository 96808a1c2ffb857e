/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images and states, opened as the shared options say. */
#include <string.h>

#include "tool-output.h"

static void warn(const char *message, void *data)
{
    tool_warn(data, message);
}

typedef enum { READABLE, WRITABLE, EXCLUSIVE, REPAIRABLE } Access;

static Qcow2OpenOptions options_for(const Tool *tool, const char *format, Access access)
{
    bool has_both = tool->command->shared & TOOL_SOURCE_CACHE;

    return (Qcow2OpenOptions) {
        .format = format,
        .writable = access != READABLE,
        .exclusive = access == EXCLUSIVE || access == REPAIRABLE,
        .repair = access == REPAIRABLE,
        .dry_run = access != READABLE && tool->dry_run,
        .force_share = tool->force_share,
        .untrusted = tool->untrusted,
        .image_opts = tool->image_opts,
        .cache = access == READABLE || access == REPAIRABLE ? tool->source_cache : tool->target_cache,
        .below_cache = has_both ? tool->source_cache : tool->target_cache,
        .trace = tool->trace,
        .n_threads = tool->n_threads,
        .warn = warn,
        .warn_data = (void *)tool,
    };
}

static Qcow2Chain *open_chain(const Tool *tool, const char *image, const char *format, Access access,
                              GError **error)
{
    const Qcow2OpenOptions options = options_for(tool, format, access);

    return qcow2_chain_open(image, &options, error);
}

Qcow2OpenOptions tool_open_options(const Tool *tool, const char *format)
{
    return options_for(tool, format, EXCLUSIVE);
}

Qcow2Chain *tool_open(const Tool *tool, const char *image, const char *format, GError **error)
{
    return open_chain(tool, image, format, READABLE, error);
}

static Qcow2Chain *open_to_write(const Tool *tool, const char *image, const char *format, Access access,
                                 GError **error)
{
    if (tool->force_share) {
        g_set_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID,
                    "force-share=on can only be used with read-only images");
        return NULL;
    }
    return open_chain(tool, image, format, access, error);
}

Qcow2Chain *tool_open_writable(const Tool *tool, const char *image, const char *format, GError **error)
{
    return open_to_write(tool, image, format, WRITABLE, error);
}

Qcow2Chain *tool_open_repairable(const Tool *tool, const char *image, const char *format, GError **error)
{
    if (tool->force_share) {
        g_set_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID,
                    "force-share=on can only be used with read-only images");
        return NULL;
    }
    return open_chain(tool, image, format, REPAIRABLE, error);
}

Qcow2Chain *tool_open_exclusive(const Tool *tool, const char *image, const char *format, GError **error)
{
    return open_to_write(tool, image, format, EXCLUSIVE, error);
}

char *tool_snapshot_name(const char *text, GError **error)
{
    static const char id_key[] = "snapshot.id=", name_key[] = "snapshot.name=";

    if (!g_str_has_prefix(text, "snapshot.")) {
        return g_strdup(text);
    }
    if (g_str_has_prefix(text, id_key) && !strchr(text, ',')) {
        return g_strconcat("id:", text + strlen(id_key), NULL);
    }
    if (g_str_has_prefix(text, name_key)) {
        /* A comma inside a name is doubled, as in all of QEMU's option lists. */
        g_auto(GStrv) parts = g_strsplit(text + strlen(name_key), ",,", -1);
        g_autofree char *name = g_strjoinv(",", parts);
        return g_strconcat("name:", name, NULL);
    }
    g_set_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID,
                "Failed in parsing snapshot param '%s': expecting snapshot.id=ID or snapshot.name=NAME",
                text);
    return NULL;
}
