/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tables of an image that is written once, in order, and never read while it is made:
 *
 *   header | refcount table | refcount blocks | L1 table | L2 tables | data
 *
 * First everything is counted, so that the places of all tables are known before a byte is written. Then L2
 * tables and data follow in guest order; the head is written last, or first when no stream makes the amount
 * of data a matter of reading it.
 */
#ifndef QCOW2_IMAGE_NEW_IMAGE_H
#define QCOW2_IMAGE_NEW_IMAGE_H

#include "format/header.h"
#include "image/extent.h"
#include "io/io.h"

typedef struct Qcow2NewImage Qcow2NewImage;

/** qcow2_new_image_new: takes over the contents of @header: layout, size, names, extensions. */
Qcow2NewImage *qcow2_new_image_new(Qcow2Header *header, GError **error);
void qcow2_new_image_free(Qcow2NewImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2NewImage, qcow2_new_image_free)

const Qcow2Layout *qcow2_new_image_layout(const Qcow2NewImage *image);

/** qcow2_new_image_expect: guest clusters [first, first + n) will be mapped, with @n_data host clusters at
 * most; these are not counted where a data file holds them. */
void qcow2_new_image_expect(Qcow2NewImage *image, uint64_t first_cluster, uint64_t n_clusters,
                            uint64_t n_data);

/** qcow2_new_image_lay_out: ends the counting; decides where everything is. */
bool qcow2_new_image_lay_out(Qcow2NewImage *image, GError **error);

/** qcow2_new_image_data: where all data is that was expected, once that is laid out. */
Qcow2Range qcow2_new_image_data(const Qcow2NewImage *image);

/** qcow2_new_image_take: the next @n host clusters for data; returns the host offset of the first. */
uint64_t qcow2_new_image_take(Qcow2NewImage *image, uint64_t n_clusters);

/**
 * qcow2_new_image_take_stream: room for a compressed stream, packed behind the last one.
 * Takes at most one host cluster that was not taken before.
 */
uint64_t qcow2_new_image_take_stream(Qcow2NewImage *image, uint64_t len_bytes);

/**
 * qcow2_new_image_map:
 * @io: gets the table before this one when it is complete
 * @raw, @bitmap: of the first cluster, in host order; @step is added to @raw for each next one
 *
 * Maps guest clusters; they must come in rising order.
 */
bool qcow2_new_image_map(Qcow2NewImage *image, Qcow2Io *io, uint64_t first_cluster, uint64_t n_clusters,
                         uint64_t raw, uint64_t bitmap, uint64_t step, GError **error);

/** qcow2_new_image_end_tables: writes the last L2 table. */
bool qcow2_new_image_end_tables(Qcow2NewImage *image, Qcow2Io *io, GError **error);

/**
 * qcow2_new_image_write_head: header, refcounts and L1 table, in file order.
 * @all_expected: count every cluster that was expected as used, since the data comes later
 */
bool qcow2_new_image_write_head(Qcow2NewImage *image, Qcow2Io *io, bool all_expected, GError **error);

/** How far the writing of an image is, for going on in another process. */
typedef struct Qcow2NewImagePosition {
    uint64_t data_start;      /* host cluster: tells that the image is laid out in the same way */
    uint64_t next_data, stream_end;
    uint64_t file_size;       /* a file that is shorter now has lost what was written */
} Qcow2NewImagePosition;

/**
 * qcow2_new_image_position: as it is now. Another process can go on from there when the image was saved, at
 * that time or later, and is flushed.
 */
bool qcow2_new_image_position(const Qcow2NewImage *image, Qcow2Io *io, Qcow2NewImagePosition *ret,
                              GError **error);

/** qcow2_new_image_save: writes the L2 table that is being filled as it is now. */
bool qcow2_new_image_save(const Qcow2NewImage *image, Qcow2Io *io, GError **error);

/**
 * qcow2_new_image_restore:
 * @image: laid out, nothing mapped
 * @n_clusters: guest clusters that were mapped, or not, when it was saved
 * @ret_fits: false: it was saved of another image, or of a file that is no longer whole
 *
 * Goes on where that position was. What was written to @io later is cut off.
 */
bool qcow2_new_image_restore(Qcow2NewImage *image, Qcow2Io *io, const Qcow2NewImagePosition *position,
                             uint64_t n_clusters, bool *ret_fits, GError **error);

/** qcow2_new_image_end: the length of the file, a multiple of the cluster size. */
uint64_t qcow2_new_image_end(const Qcow2NewImage *image);

/** qcow2_new_image_restart_data: the next cluster taken is the first one again, for writing data later than
 * tables. */
void qcow2_new_image_restart_data(Qcow2NewImage *image);

#endif
