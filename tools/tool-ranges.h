/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of guest ranges, in the forms of qemu-img map, printed as they come: there may be millions. */
#ifndef TOOL_RANGES_H
#define TOOL_RANGES_H

#include "libqcow2.h"

typedef struct ToolRanges {
    bool json;
    const char *human_head;
    uint64_t n_printed;
} ToolRanges;

/**
 * tool_ranges_begin:
 * @human_head: the head of the table; static
 *
 * Prints nothing yet: what is refused before the first range is found has no output.
 */
void tool_ranges_begin(ToolRanges *ranges, bool json, const char *human_head);

/** tool_ranges_end: the end of the list, which may have no ranges. */
void tool_ranges_end(ToolRanges *ranges);

/* One range each; false when standard output no longer takes any. */
bool tool_ranges_put_map(ToolRanges *ranges, const Qcow2MapExtent *extent);
bool tool_ranges_put_diff(ToolRanges *ranges, const Qcow2DiffExtent *extent);

#endif
