/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file as the disk under it holds it. What was recorded is put onto it record by record, whole or in
 * sectors, and taken off again, so that thousands of states cost no copies.
 */
#ifndef TESTS_CRASH_DISK_H
#define TESTS_CRASH_DISK_H

#include "io/backends.h"

#define LAB_SECTOR 512u

typedef struct LabDisk LabDisk;

/** lab_disk_new: @name as messages will print it; relative names inside the image refer to its folder. */
LabDisk *lab_disk_new(const char *name, GBytes *bytes);
void lab_disk_free(LabDisk *disk);

/** lab_disk_apply: what the record did, whole. */
void lab_disk_apply(LabDisk *disk, const Qcow2Record *record);

/** lab_disk_apply_sectors: of a write, only sectors [first, first + n) of those that it touches. */
void lab_disk_apply_sectors(LabDisk *disk, const Qcow2Record *record, uint64_t first, uint64_t n);

/** lab_disk_mark: for lab_disk_back_to(), which takes off all that was put on since. */
size_t lab_disk_mark(const LabDisk *disk);
void lab_disk_back_to(LabDisk *disk, size_t mark);

/** lab_disk_settle: what is on it stays; there is nothing to go back to. */
void lab_disk_settle(LabDisk *disk);

/** lab_disk_hash: equal for equal bytes, and kept up while they change. */
uint64_t lab_disk_hash(const LabDisk *disk);

/** lab_disk_view: a place for reading the bytes as they are at any time. */
Qcow2Io *lab_disk_view(LabDisk *disk);

/** lab_disk_copy: a writable place in memory with the bytes of now. */
Qcow2Io *lab_disk_copy(const LabDisk *disk);

/** lab_disk_save: the bytes of now as a file; false with an error. */
bool lab_disk_save(const LabDisk *disk, const char *path, GError **error);

/** lab_record_sectors: how many sectors a write touches. */
uint64_t lab_record_sectors(const Qcow2Record *record);

#endif
