/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What comes before the first byte of a new image: what is asked for, names, the backing file. Internal to
 * ops/.
 */
#ifndef QCOW2_OPS_CREATE_H
#define QCOW2_OPS_CREATE_H

#include "chain/chain.h"
#include "image/create-options.h"
#include "move/target.h"

typedef struct Qcow2Creation {
    const Qcow2CreateRequest *request;
    const char *name;
    bool raw;
    Qcow2CreateOptions options;
    Qcow2Place *place, *data_place;
    Qcow2Chain *backing;              /* NULL: none, or it shall not be looked at */
    Qcow2Cache cache;                 /* of the new files */
    bool resume;                      /* Qcow2Output keeps what is written, and goes on with it */
    bool is_copy;                     /* the request's size is the source's: -o size does not count */
} Qcow2Creation;

/**
 * qcow2_creation_begin:
 * @ret: all zero but for cache, resume and is_copy; clear it also when this fails
 *
 * Finds all that can be wrong before anything is written. The size is in whole sectors then.
 */
bool qcow2_creation_begin(Qcow2Creation *ret, const char *name, const Qcow2CreateRequest *request,
                          GError **error);
void qcow2_creation_clear(Qcow2Creation *creation);

/** qcow2_creation_target: @place is one of the creation's. */
Qcow2Target *qcow2_creation_target(const Qcow2Creation *creation, const Qcow2Place *place, GError **error);

#endif
