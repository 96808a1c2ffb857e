/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

char *tool_escape_message(const char *message)
{
    /* Names inside were escaped by whoever put them there, so the backslashes stay as they are. */
    g_auto(GStrv) parts = g_strsplit(message, "\\", -1);

    for (char **part = parts; *part; part++) {
        char *escaped = qcow2_escape_name(*part, -1);
        g_free(*part);
        *part = escaped;
    }
    return g_strjoinv("\\", parts);
}

/* Progress and data may stand on a line that has not ended; what is on stdout comes first. */
static void print_line(const Tool *tool, const char *kind, const char *image, const char *message)
{
    g_autofree char *text = image ? g_strdup_printf("'%s': %s", image, message) : g_strdup(message);
    g_autofree char *escaped = tool_escape_message(text);

    (void)fflush(stdout);
    fprintf(stderr, "%s: %s%s\n", tool->command->name, kind, escaped);
}

/* Does the message begin with a file's name, as "'FILE': …" or as "IMAGE: …"? */
static bool begins_with_name(const char *message, const char *image)
{
    size_t len = strlen(image);

    return (message[0] == '\'' && strstr(message, "': "))
        || (strncmp(message, image, len) == 0 && message[len] == ':');
}

int tool_fail(const Tool *tool, const char *image, const GError *error)
{
    if (image && begins_with_name(error->message, image)) {
        image = NULL;
    }
    print_line(tool, "", image, error->message);
    return 1;
}

int tool_fail_message(const Tool *tool, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    print_line(tool, "", NULL, message);
    return 1;
}

void tool_warn(const Tool *tool, const char *message)
{
    if (!tool->quiet) {
        print_line(tool, "warning: ", NULL, message);
    }
}

int tool_finish(const Tool *tool, int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return status;
    }
    if (errno) {
        tool_fail_message(tool, "standard output: %s", g_strerror(errno));
    } else {
        tool_fail_message(tool, "standard output: some of it could not be written");
    }
    return 1;
}

bool tool_print_json(const Tool *tool, GVariant *value)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = qcow2_json_print(value, &error);

    if (!text) {
        tool_fail(tool, NULL, error);
        return false;
    }
    puts(text);
    return true;
}

GVariant *tool_json_name(const char *name)
{
    if (g_utf8_validate(name, -1, NULL)) {
        return g_variant_new_string(name);
    }
    return g_variant_new_take_string(qcow2_escape_name(name, -1));
}

void tool_json_add(GVariantBuilder *object, const char *key, GVariant *value)
{
    g_variant_builder_add(object, "{sv}", key, value);
}

void tool_json_add_uint(GVariantBuilder *object, const char *key, uint64_t value)
{
    tool_json_add(object, key, g_variant_new_uint64(value));
}

void tool_json_add_bool(GVariantBuilder *object, const char *key, bool value)
{
    tool_json_add(object, key, g_variant_new_boolean(value));
}

void tool_json_add_string(GVariantBuilder *object, const char *key, const char *value)
{
    tool_json_add(object, key, tool_json_name(value));
}
