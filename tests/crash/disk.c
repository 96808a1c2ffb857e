/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk.h"

#include <string.h>

#include "util/bits.h"

/* What a change replaced. */
typedef struct Undo {
    size_t offset, n, len_before;
    uint64_t sum_before;
} Undo;

struct LabDisk {
    char *name;
    uint8_t *bytes;           /* @room of them, a multiple of sectors; zero from @len on */
    size_t len, room;
    uint64_t sum;             /* of the hashes of all sectors */
    GArray *undo;             /* Undo */
    GByteArray *replaced;     /* the bytes for them, in the same order */
};

/* ---- Hashing: a sum over sectors, so that a change costs only what it touches --------------------- */

/* Sectors of zeros count nothing: a file's length alone tells how many it has at its end. */
static uint64_t hash_sector(const uint8_t *bytes, uint64_t index)
{
    static const uint8_t zeros[LAB_SECTOR];
    uint64_t hash = 0;

    if (memcmp(bytes, zeros, LAB_SECTOR) == 0) {
        return 0;
    }
    for (size_t i = 0; i < LAB_SECTOR; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 29;
    }
    return (hash ^ index) * UINT64_C(0xbf58476d1ce4e5b9);
}

static uint64_t hash_range(const LabDisk *disk, size_t offset, size_t n)
{
    uint64_t sum = 0;

    for (size_t at = qcow2_align_down(offset, LAB_SECTOR); at < offset + n; at += LAB_SECTOR) {
        sum += hash_sector(disk->bytes + at, at / LAB_SECTOR);
    }
    return sum;
}

uint64_t lab_disk_hash(const LabDisk *disk)
{
    return (disk->sum ^ disk->len) * UINT64_C(0x94d049bb133111eb);
}

/* ---- Changing -------------------------------------------------------------------------------------- */

static void reserve(LabDisk *disk, size_t size)
{
    if (size > disk->room) {
        size_t room = qcow2_align_up(MAX(size, disk->room * 2), LAB_SECTOR);
        disk->bytes = g_realloc(disk->bytes, room);
        memset(disk->bytes + disk->room, 0, room - disk->room);
        disk->room = room;
    }
}

/* @bytes NULL: zeros. The length follows the caller's wish, at least up to what is written. */
static void change(LabDisk *disk, size_t offset, const uint8_t *bytes, size_t n, size_t len_after)
{
    Undo undo = { .offset = offset, .n = n, .len_before = disk->len, .sum_before = disk->sum };

    reserve(disk, MAX(offset + n, len_after));
    g_array_append_val(disk->undo, undo);
    g_byte_array_append(disk->replaced, disk->bytes + offset, (guint)n);
    disk->sum -= hash_range(disk, offset, n);
    if (bytes) {
        memcpy(disk->bytes + offset, bytes, n);
    } else {
        memset(disk->bytes + offset, 0, n);
    }
    disk->sum += hash_range(disk, offset, n);
    disk->len = len_after;
}

static void write_range(LabDisk *disk, const Qcow2Record *record, uint64_t start, uint64_t end)
{
    const uint8_t *bytes = record->bytes ? g_bytes_get_data(record->bytes, NULL) : NULL;

    change(disk, start, bytes ? bytes + (start - record->offset) : NULL, end - start, MAX(disk->len, end));
}

void lab_disk_apply(LabDisk *disk, const Qcow2Record *record)
{
    switch (record->kind) {
    case QCOW2_RECORD_WRITE:
    case QCOW2_RECORD_ZERO:
        write_range(disk, record, record->offset, record->offset + record->len_bytes);
        break;
    case QCOW2_RECORD_TRUNCATE:
        change(disk, record->offset, NULL, disk->len - MIN(disk->len, record->offset), record->offset);
        break;
    case QCOW2_RECORD_FLUSH:
        break;
    }
}

uint64_t lab_record_sectors(const Qcow2Record *record)
{
    uint64_t end = qcow2_align_up(record->offset + record->len_bytes, LAB_SECTOR);

    return (end - qcow2_align_down(record->offset, LAB_SECTOR)) / LAB_SECTOR;
}

void lab_disk_apply_sectors(LabDisk *disk, const Qcow2Record *record, uint64_t first, uint64_t n)
{
    uint64_t start = qcow2_align_down(record->offset, LAB_SECTOR) + first * LAB_SECTOR;
    uint64_t end = MIN(start + n * LAB_SECTOR, record->offset + record->len_bytes);

    start = MAX(start, record->offset);
    if (start < end) {
        write_range(disk, record, start, end);
    }
}

size_t lab_disk_mark(const LabDisk *disk)
{
    return disk->undo->len;
}

void lab_disk_back_to(LabDisk *disk, size_t mark)
{
    while (disk->undo->len > mark) {
        const Undo *undo = &g_array_index(disk->undo, Undo, disk->undo->len - 1);
        if (undo->n > 0) {
            memcpy(disk->bytes + undo->offset, disk->replaced->data + disk->replaced->len - undo->n, undo->n);
        }
        disk->len = undo->len_before;
        disk->sum = undo->sum_before;
        g_byte_array_set_size(disk->replaced, disk->replaced->len - (guint)undo->n);
        g_array_set_size(disk->undo, disk->undo->len - 1);
    }
}

void lab_disk_settle(LabDisk *disk)
{
    g_array_set_size(disk->undo, 0);
    g_byte_array_set_size(disk->replaced, 0);
}

LabDisk *lab_disk_new(const char *name, GBytes *bytes)
{
    LabDisk *disk = g_new0(LabDisk, 1);
    gsize len;
    const uint8_t *data = g_bytes_get_data(bytes, &len);

    disk->name = g_strdup(name);
    disk->undo = g_array_new(FALSE, FALSE, sizeof(Undo));
    disk->replaced = g_byte_array_new();
    change(disk, 0, data, len, len);
    lab_disk_settle(disk);
    return disk;
}

void lab_disk_free(LabDisk *disk)
{
    g_array_unref(disk->undo);
    g_byte_array_unref(disk->replaced);
    g_free(disk->bytes);
    g_free(disk->name);
    g_free(disk);
}

/* ---- Reading --------------------------------------------------------------------------------------- */

typedef struct ViewIo {
    Qcow2Io io;
    const LabDisk *disk;
} ViewIo;

static bool view_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    const LabDisk *disk = ((ViewIo *)io)->disk;
    size_t there = offset < disk->len ? MIN(len_bytes, disk->len - offset) : 0;

    (void)error;
    if (there > 0) {
        memcpy(buffer, disk->bytes + offset, there);
    }
    memset((uint8_t *)buffer + there, 0, len_bytes - there);
    return true;
}

static bool view_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    (void)error;
    *ret_size = ((ViewIo *)io)->disk->len;
    return true;
}

static const Qcow2IoOps view_ops = { .protocol = "memory", .read = view_read, .get_size = view_get_size };

Qcow2Io *lab_disk_view(LabDisk *disk)
{
    ViewIo *view = g_new0(ViewIo, 1);

    qcow2_io_init(&view->io, &view_ops, disk->name, false);
    view->disk = disk;
    return &view->io;
}

Qcow2Io *lab_disk_copy(const LabDisk *disk)
{
    return qcow2_io_memory_new(disk->bytes, disk->len, disk->name, true);
}

bool lab_disk_save(const LabDisk *disk, const char *path, GError **error)
{
    return g_file_set_contents_full(path, (const char *)disk->bytes, (gssize)disk->len,
                                    G_FILE_SET_CONTENTS_NONE, 0644, error);
}
