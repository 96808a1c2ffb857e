/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a command speaks: errors, warnings, JSON, and the names of images and snapshots. */
#ifndef TOOL_OUTPUT_H
#define TOOL_OUTPUT_H

#include "tool.h"

/**
 * tool_fail:
 * @image: the image in question, or NULL; named in front of the message unless that begins with a name
 *
 * Prints one line on standard error. Returns: 1, the exit status of a failure.
 */
int tool_fail(const Tool *tool, const char *image, const GError *error);

/** tool_fail_message: the same without a GError. */
int tool_fail_message(const Tool *tool, const char *format, ...) G_GNUC_PRINTF(2, 3);

void tool_warn(const Tool *tool, const char *message);

/**
 * tool_finish:
 * @status: what the command wants to exit with
 *
 * Flushes standard output. Returns: @status, or 1 after a message when output was lost.
 */
int tool_finish(const Tool *tool, int status);

/** tool_print_json: @value is consumed if floating. False after a message. */
bool tool_print_json(const Tool *tool, GVariant *value);

/** tool_json_name: a name from an image as a JSON string: valid UTF-8 as it is, other bytes escaped. */
GVariant *tool_json_name(const char *name);

/* For a GVariantBuilder of type a{sv}. */
void tool_json_add(GVariantBuilder *object, const char *key, GVariant *value);
void tool_json_add_uint(GVariantBuilder *object, const char *key, uint64_t value);
void tool_json_add_bool(GVariantBuilder *object, const char *key, bool value);
void tool_json_add_string(GVariantBuilder *object, const char *key, const char *value);

/** tool_escape_message: control characters and bytes that are not UTF-8 as \xNN; the rest stays. */
char *tool_escape_message(const char *message);

#endif
