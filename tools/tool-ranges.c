/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-ranges.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Room for the longest line: keys, and five numbers of 20 digits. */
enum { LINE_ROOM = 320 };

/* A line under construction; printf would take most of the time of a large map. */
typedef struct Line {
    char text[LINE_ROOM];
    size_t len;
} Line;

static void put_text(Line *line, const char *text, size_t len)
{
    memcpy(line->text + line->len, text, len);
    line->len += len;
}

#define PUT(line, literal) put_text(line, literal, sizeof(literal) - 1)

static void put_number(Line *line, uint64_t value)
{
    char digits[20];
    size_t first = sizeof(digits);

    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    put_text(line, digits + first, sizeof(digits) - first);
}

static void put_bool(Line *line, bool value)
{
    if (value) {
        PUT(line, "true");
    } else {
        PUT(line, "false");
    }
}

static void begin_object(ToolRanges *ranges, Line *line, uint64_t start, uint64_t length)
{
    line->len = 0;
    if (ranges->n_printed) {
        PUT(line, ",\n");
    }
    PUT(line, "{ \"start\": ");
    put_number(line, start);
    PUT(line, ", \"length\": ");
    put_number(line, length);
}

/* The table's head, or the array's bracket, stands before the first range. */
static void count_range(ToolRanges *ranges)
{
    if (ranges->n_printed++ == 0) {
        fputs(ranges->json ? "[" : ranges->human_head, stdout);
    }
}

static bool print_line(ToolRanges *ranges, const Line *line)
{
    count_range(ranges);
    return fwrite_unlocked(line->text, 1, line->len, stdout) == line->len;
}

void tool_ranges_begin(ToolRanges *ranges, bool json, const char *human_head)
{
    *ranges = (ToolRanges) { .json = json, .human_head = human_head };

    /* Ignored when it fails: a smaller buffer does as well. */
    (void)setvbuf(stdout, NULL, _IOFBF, 1 << 16);
}

void tool_ranges_end(ToolRanges *ranges)
{
    if (ranges->json) {
        puts(ranges->n_printed ? "]" : "[]");
    } else if (ranges->n_printed == 0) {
        fputs(ranges->human_head, stdout);
    }
}

static bool print_map_human(ToolRanges *ranges, const Qcow2MapExtent *extent)
{
    g_autofree char *filename = qcow2_escape_name(extent->filename ? extent->filename : "", -1);

    count_range(ranges);
    return printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n",
                  extent->start, extent->length, extent->offset, filename) > 0;
}

bool tool_ranges_put_map(ToolRanges *ranges, const Qcow2MapExtent *extent)
{
    Line line;

    if (!ranges->json) {
        return print_map_human(ranges, extent);
    }
    begin_object(ranges, &line, extent->start, extent->length);
    PUT(&line, ", \"depth\": ");
    put_number(&line, extent->depth);
    PUT(&line, ", \"present\": ");
    put_bool(&line, extent->present);
    PUT(&line, ", \"zero\": ");
    put_bool(&line, extent->zero);
    PUT(&line, ", \"data\": ");
    put_bool(&line, extent->data);
    PUT(&line, ", \"compressed\": ");
    put_bool(&line, extent->compressed);
    if (extent->has_offset) {
        PUT(&line, ", \"offset\": ");
        put_number(&line, extent->offset);
    }
    PUT(&line, "}");
    return print_line(ranges, &line);
}

static bool print_diff_human(ToolRanges *ranges, const Qcow2DiffExtent *extent)
{
    const char *kind = extent->compressed ? "compressed data" : extent->zero ? "zeros" : "data";

    count_range(ranges);
    return printf("%#-16" PRIx64 "%#-16" PRIx64 "%s\n", extent->start, extent->length, kind) > 0;
}

bool tool_ranges_put_diff(ToolRanges *ranges, const Qcow2DiffExtent *extent)
{
    Line line;

    if (!ranges->json) {
        return print_diff_human(ranges, extent);
    }
    begin_object(ranges, &line, extent->start, extent->length);
    PUT(&line, ", \"data\": ");
    put_bool(&line, extent->data);
    PUT(&line, ", \"zero\": ");
    put_bool(&line, extent->zero);
    PUT(&line, ", \"compressed\": ");
    put_bool(&line, extent->compressed);
    PUT(&line, "}");
    return print_line(ranges, &line);
}
