/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One open image, qcow2 or raw. It opens nothing by name: whoever opens it hands in the places that hold
 * its bytes. Code above this layer does not ask which format an image has.
 */
#ifndef QCOW2_IMAGE_IMAGE_H
#define QCOW2_IMAGE_IMAGE_H

#include "format/peek.h"
#include "format/snapshot-table.h"
#include "io/io.h"

/** QCOW2_ACTIVE_LAYER: where an index of the snapshot table says which state is meant. */
#define QCOW2_ACTIVE_LAYER G_MAXUINT

typedef enum { QCOW2_IMAGE_QCOW2, QCOW2_IMAGE_RAW } Qcow2ImageKind;

typedef struct Qcow2Image {
    Qcow2ImageKind kind;
    Qcow2Io *file;            /* the container, or the raw bytes */
    Qcow2Io *data;            /* where data clusters are: file, or the data file once it is attached */
    uint64_t size;            /* virtual size, bytes */
    Qcow2Header header;       /* qcow2 only */
    uint64_t raw_offset;      /* raw only: where guest byte 0 is in the file */
    GArray *snapshots;        /* Qcow2SnapshotEntry; NULL until qcow2_image_load_snapshots() */
    bool was_checked;         /* that free clusters from this one on are free; by image/batch.c */
    uint64_t checked_from;
    unsigned n_threads;       /* for reading tables; 0: the default */
} Qcow2Image;

/** qcow2_image_open: reads and checks the header of a qcow2 image; takes a reference of @file. */
Qcow2Image *qcow2_image_open(Qcow2Io *file, GError **error);

/** qcow2_image_open_for_repair: also one without a usable refcount table; only a repair can work with it. */
Qcow2Image *qcow2_image_open_for_repair(Qcow2Io *file, GError **error);

/** qcow2_image_open_raw: @size bytes from @offset on; @size UINT64_MAX means up to the end. */
Qcow2Image *qcow2_image_open_raw(Qcow2Io *file, uint64_t offset, uint64_t size, GError **error);
void qcow2_image_free(Qcow2Image *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Image, qcow2_image_free)

/**
 * qcow2_image_read_header: reads and decodes the header of a file as it is now.
 * @raw: NULL, or gets the bytes of the header's cluster appended
 */
bool qcow2_image_read_header(Qcow2Io *file, Qcow2Header *ret, GByteArray *raw, GError **error);

/**
 * qcow2_image_publish_header:
 * @sector: QCOW2_HEADER_SECTOR bytes
 *
 * Step 3 of a change: all of the header's roots in one write; flush. A write that fails may have left a part
 * of it; the old bytes, which are right until it has ended well, then go back.
 */
bool qcow2_image_publish_header(Qcow2Io *file, const uint8_t *sector, GError **error);

/**
 * qcow2_image_peek:
 * @ret_backing, @ret_data_file: the names in a file's header, also where nothing else could be done with the
 *                               image; NULL where there is none. Free them with g_free()
 */
bool qcow2_image_peek(Qcow2Io *file, Qcow2Peek *ret, char **ret_backing, char **ret_data_file,
                      GError **error);

/** qcow2_image_attach_data: the external data file; takes a reference. */
void qcow2_image_attach_data(Qcow2Image *image, Qcow2Io *data);

/** qcow2_image_needs_data_file: a data file is recorded and not attached yet. */
bool qcow2_image_needs_data_file(const Qcow2Image *image);

/**
 * qcow2_image_cut_data: a data file gets the length of the disk where it is longer, since whole clusters were
 * written; nothing refers to what is past it. It need not succeed.
 */
void qcow2_image_cut_data(const Qcow2Image *image);

/** qcow2_image_unit: the smallest unit in which this image says where its data is; bytes. */
uint64_t qcow2_image_unit(const Qcow2Image *image);

/** qcow2_image_load_snapshots: reads the snapshot table once; a raw image has an empty one. */
bool qcow2_image_load_snapshots(Qcow2Image *image, GError **error);

/**
 * qcow2_image_read_snapshot_table: the table as it is in the file now, decoded afresh.
 * @raw: NULL, or gets the bytes of the table appended
 */
GArray *qcow2_image_read_snapshot_table(Qcow2Io *file, const Qcow2Header *header, GByteArray *raw,
                                        GError **error);

#endif
