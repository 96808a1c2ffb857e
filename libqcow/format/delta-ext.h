/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header extension of a delta: between which states it leads. Described in docs/delta-extension.md. */
#ifndef QCOW2_FORMAT_DELTA_EXT_H
#define QCOW2_FORMAT_DELTA_EXT_H

#include "format/header.h"

typedef enum {
    QCOW2_DELTA_ACTIVE = 0,
    QCOW2_DELTA_SNAPSHOT = 1,
    QCOW2_DELTA_BACKING = 2,
    QCOW2_DELTA_EMPTY = 3,
} Qcow2DeltaKind;

#define QCOW2_DELTA_HAS_DIGEST BIT(0)     /* the last cluster of the file holds a SHA-256 of all before it */
#define QCOW2_DELTA_NAMES_CUT  BIT(1)     /* ids and names did not fit */

/** One end of a delta. Strings are raw bytes, NUL-terminated. */
typedef struct Qcow2DeltaState {
    Qcow2DeltaKind kind;
    char *id, *name;                      /* empty unless a snapshot */
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t size;                        /* bytes */
} Qcow2DeltaState;

typedef struct Qcow2DeltaExt {
    uint32_t flags;
    Qcow2DeltaState from, to;
} Qcow2DeltaExt;

/** qcow2_delta_ext_encode: the extension's data. */
GBytes *qcow2_delta_ext_encode(const Qcow2DeltaExt *ext);

/** qcow2_delta_ext_decode: Errors: QCOW2_ERROR_CORRUPT, QCOW2_ERROR_UNSUPPORTED for a later version. */
bool qcow2_delta_ext_decode(const uint8_t *bytes, size_t len_bytes, Qcow2DeltaExt *ret, GError **error);
void qcow2_delta_ext_clear(Qcow2DeltaExt *ext);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2DeltaExt, qcow2_delta_ext_clear)

#endif
