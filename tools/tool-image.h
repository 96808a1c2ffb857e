/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An image, its snapshots and its bitmaps, in the words and the keys of qemu-img 10. */
#ifndef TOOL_IMAGE_H
#define TOOL_IMAGE_H

#include "libqcow2.h"

/** tool_print_image: as qemu-img info for people. */
void tool_print_image(const Qcow2ImageInfo *info);

/** tool_image_to_json: as qemu-img info --output=json, and more under "qcow"; floating. */
GVariant *tool_image_to_json(const Qcow2ImageInfo *info);

/** tool_print_snapshots: "Snapshot list:" and the table; nothing when there are none. */
void tool_print_snapshots(const Qcow2ImageInfo *info);

/** tool_snapshots_to_json: an array of objects; floating. */
GVariant *tool_snapshots_to_json(const Qcow2ImageInfo *info);

/** tool_bitmap_to_json: a dictionary of name, granularity and flags, still open for more. */
void tool_bitmap_to_json(const Qcow2BitmapInfo *bitmap, GVariantBuilder *object);

#endif
