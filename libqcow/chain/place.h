/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an image is, taken from a name: a path, an NBD address, a json: object or --image-opts. Nothing
 * is opened here.
 */
#ifndef QCOW2_CHAIN_PLACE_H
#define QCOW2_CHAIN_PLACE_H

#include "libqcow2.h"

typedef enum { QCOW2_PLACE_FILE, QCOW2_PLACE_NBD } Qcow2PlaceKind;

typedef struct Qcow2Place Qcow2Place;
struct Qcow2Place {
    Qcow2PlaceKind kind;
    char *target;             /* a path or an NBD URI */
    char *shown;              /* the name as messages and qcow-info print it */
    char *format;             /* "qcow2", "raw" or NULL: to be probed */
    uint64_t raw_offset, raw_size;   /* raw: the part of the file; size UINT64_MAX: up to its end */
    bool read_only;           /* the name says so */
    bool no_backing;          /* "backing": null */
    Qcow2Place *backing;      /* given in the name, instead of what the header says; or NULL */
    Qcow2Place *data_file;    /* likewise */
};

void qcow2_place_free(Qcow2Place *place);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Place, qcow2_place_free)

/** qcow2_place_copy: NULL for NULL. */
Qcow2Place *qcow2_place_copy(const Qcow2Place *place);

/**
 * qcow2_place_parse:
 * @folder: relative names are relative to it; NULL: to the working directory
 * @image_opts: the name is "driver=…,file.filename=…"
 *
 * Errors: QCOW2_ERROR_INVALID for a name that has no meaning; QCOW2_ERROR_UNSUPPORTED for a driver or an
 * option that is not known, by its name.
 */
Qcow2Place *qcow2_place_parse(const char *name, const char *folder, bool image_opts, GError **error);

/** qcow2_place_check_writable: what a name calls read-only is not written. Errors: QCOW2_ERROR_INVALID. */
bool qcow2_place_check_writable(const Qcow2Place *place, GError **error);

/**
 * qcow2_place_of_options:
 * @options: flat keys such as "file.server.path" with string values; those under @prefix are used
 */
Qcow2Place *qcow2_place_of_options(GHashTable *options, const char *prefix, const char *folder,
                                   GError **error);

/**
 * qcow2_place_folder: the folder that relative names inside the image refer to; "" for the working directory
 * when the name of the image has no folder; NULL over NBD.
 */
char *qcow2_place_folder(const Qcow2Place *place);

/** qcow2_flatten_json: the text behind "json:" as flat keys and strings; null becomes a NULL value. */
GHashTable *qcow2_flatten_json(const char *text, GError **error);

/** qcow2_flatten_image_opts: "key=value,…", a comma in a value doubled. */
GHashTable *qcow2_flatten_image_opts(const char *text, GError **error);

/** qcow2_nbd_uri_of_legacy: "nbd:HOST:PORT[:exportname=NAME]" or "nbd:unix:PATH[:exportname=NAME]" as a URI.
 */
char *qcow2_nbd_uri_of_legacy(const char *name, GError **error);

#endif
