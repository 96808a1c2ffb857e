/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* New images, and changes of one: snapshots, dirty bitmaps, size, features. */
#ifndef LIBQCOW2_CHANGE_H
#define LIBQCOW2_CHANGE_H

#include "libqcow2/chain.h"

G_BEGIN_DECLS

/* ---- Internal snapshots ------------------------------------------------------------------------ */

/*
 * All four need a chain that was opened writable. Each is all or nothing, at every moment: a crash leaves the
 * image as it was or as it should be, and leaks nothing.
 */

/** qcow2_snapshot_create: Errors: QCOW2_ERROR_EXISTS when the name is taken; _UNSUPPORTED; _NO_SPACE. */
bool qcow2_snapshot_create(Qcow2Chain *chain, const char *name, GError **error);

/**
 * qcow2_snapshot_apply: the active layer becomes the snapshot; @state as in qcow2_state_open(). Enabled dirty
 * bitmaps get what the guest reads otherwise then.
 */
bool qcow2_snapshot_apply(Qcow2Chain *chain, const char *state, GError **error);

/** qcow2_snapshot_delete: @state is a snapshot's name or id. */
bool qcow2_snapshot_delete(Qcow2Chain *chain, const char *state, GError **error);

/** qcow2_snapshot_rename: Errors: QCOW2_ERROR_EXISTS when the new name is taken. */
bool qcow2_snapshot_rename(Qcow2Chain *chain, const char *state, const char *new_name, GError **error);

/* ---- Dirty bitmaps ----------------------------------------------------------------------------- */

typedef enum {
    QCOW2_BITMAP_ADD,          /* a new one, clear and enabled */
    QCOW2_BITMAP_ADD_CHANGES,  /* a new one, disabled: where the states @from and @to read differently */
    QCOW2_BITMAP_REMOVE,       /* also one that is in use */
    QCOW2_BITMAP_CLEAR,
    QCOW2_BITMAP_ENABLE,
    QCOW2_BITMAP_DISABLE,
    QCOW2_BITMAP_MERGE,        /* what is dirty in @source becomes dirty; granularities may differ */
} Qcow2BitmapVerb;

typedef struct Qcow2BitmapAction {
    Qcow2BitmapVerb verb;
    const char *source;        /* a bitmap's name */
    const char *from, *to;     /* states, as in qcow2_state_open() */
} Qcow2BitmapAction;

typedef struct Qcow2BitmapOptions {
    uint64_t granularity;      /* of a new one, bytes; 0: the cluster size, but 4 KiB to 64 KiB, as in QEMU */
    Qcow2Chain *source;        /* the image that has the bitmaps to merge; NULL: the same one */
} Qcow2BitmapOptions;

/**
 * qcow2_bitmap_change:
 * @chain: opened writable
 * @name: of the bitmap that all of @actions are about; they are done in their order
 *
 * All or nothing, also across a crash: no bitmap is ever in use.
 *
 * Errors: QCOW2_ERROR_NOT_FOUND, QCOW2_ERROR_EXISTS; QCOW2_ERROR_UNSUPPORTED for a bitmap in use, and where
 * bitmaps cannot be kept; QCOW2_ERROR_INVALID.
 */
bool qcow2_bitmap_change(Qcow2Chain *chain, const char *name, const Qcow2BitmapAction *actions,
                         size_t n_actions, const Qcow2BitmapOptions *options, Qcow2Progress *progress,
                         GError **error);

/* ---- Making images ----------------------------------------------------------------------------- */

/** Qcow2AnnounceFunc: @line is "fmt=qcow2 cluster_size=65536 …", what qemu-img create says that it makes. */
typedef void (*Qcow2AnnounceFunc)(const char *line, void *data);

/** What a new image shall be. All zero but the size: qcow2 as qemu-img makes it. */
typedef struct Qcow2CreateRequest {
    const char *format;             /* "qcow2" (default) or "raw" */
    const char *options;            /* "cluster_size=…,compat=…", those of qemu-img create -o; or NULL */
    const char *backing_name;       /* relative to the folder of the new image; NULL for none */
    const char *backing_format;
    bool backing_unchecked;         /* the backing file is not opened; the size must be given then */
    bool has_size;                  /* otherwise it is that of the backing file */
    uint64_t size;                  /* bytes; grown to whole sectors */
    bool untrusted;                 /* follow no name found inside the backing file */
    const char *trace;              /* as in Qcow2OpenOptions */
    Qcow2AnnounceFunc announce;     /* called once, when nothing is written yet; may be NULL */
    void *announce_data;
    Qcow2WarnFunc warn;             /* may be NULL */
    void *warn_data;
} Qcow2CreateRequest;

/**
 * qcow2_create:
 * @name: a path or an NBD URI
 *
 * Makes an image. A regular file appears under its name, or replaces what has it, when it is whole; a block
 * device or NBD export is written in place, and is no image until this returns.
 *
 * Errors: QCOW2_ERROR_INVALID; QCOW2_ERROR_UNSUPPORTED for encryption and other formats; QCOW2_ERROR_IN_USE.
 */
bool qcow2_create(const char *name, const Qcow2CreateRequest *request, Qcow2Progress *progress,
                  GError **error);

/* ---- Changing images --------------------------------------------------------------------------- */

typedef struct Qcow2ResizeOptions {
    uint64_t size;                  /* bytes */
    bool shrink;                    /* it may be smaller than now: what is past it is lost */
    const char *preallocation;      /* of what is new: "off" (NULL), "metadata", "falloc", "full" */
} Qcow2ResizeOptions;

/**
 * qcow2_resize:
 * @chain: opened writable
 *
 * Gives the image another virtual size; internal snapshots keep theirs. What is new reads as zeros. All or
 * nothing.
 *
 * Errors: QCOW2_ERROR_INVALID; QCOW2_ERROR_UNSUPPORTED for an image that cannot have another size.
 */
bool qcow2_resize(Qcow2Chain *chain, const Qcow2ResizeOptions *options, Qcow2Progress *progress,
                  GError **error);

/**
 * qcow2_amend:
 * @chain: opened writable and exclusive
 * @options: "compat=…,refcount_bits=…", those of qemu-img amend -o
 *
 * Changes features of a qcow2 image. All or nothing, but for a size, which is a change of its own.
 *
 * Errors: QCOW2_ERROR_INVALID; QCOW2_ERROR_UNSUPPORTED for what the image holds and could not hold then.
 */
bool qcow2_amend(Qcow2Chain *chain, const char *options, Qcow2Progress *progress, GError **error);

G_END_DECLS

#endif
