/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of guest ranges, in the forms of qemu-img map, printed as they come: there may be millions. */
#ifndef TOOL_RANGES_H
#define TOOL_RANGES_H

#include "libqcow2.h"

typedef struct ToolRanges {
    bool json;
    uint64_t n_printed;
} ToolRanges;

/** tool_ranges_begin: prints the table's head, or the array's bracket. */
void tool_ranges_begin(ToolRanges *ranges, bool json, const char *human_head);

/** tool_ranges_end: closes what begin opened. */
void tool_ranges_end(ToolRanges *ranges);

/* One range each; false when standard output no longer takes any. */
bool tool_ranges_put_map(ToolRanges *ranges, const Qcow2MapExtent *extent);
bool tool_ranges_put_diff(ToolRanges *ranges, const Qcow2DiffExtent *extent);

#endif
