/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images with what is below them, and the states that they hold: opening, describing, reading. */
#ifndef LIBQCOW2_CHAIN_H
#define LIBQCOW2_CHAIN_H

#include "libqcow2/base.h"

G_BEGIN_DECLS

/* ---- Chains ------------------------------------------------------------------------------------ */

typedef struct Qcow2Chain Qcow2Chain;

/** How files are read and written; the names are those of qemu-img -t and -T. */
typedef enum {
    QCOW2_CACHE_WRITEBACK,
    QCOW2_CACHE_NONE,
    QCOW2_CACHE_WRITETHROUGH,
    QCOW2_CACHE_DIRECTSYNC,
    QCOW2_CACHE_UNSAFE,
} Qcow2Cache;

/** qcow2_parse_cache: a name of qemu-img's -t. Errors: QCOW2_ERROR_INVALID. */
bool qcow2_parse_cache(const char *text, Qcow2Cache *ret_cache, GError **error);

/** Qcow2WarnFunc: something the user should know that is no error; @message has no newline. */
typedef void (*Qcow2WarnFunc)(const char *message, void *data);

/** How to open an image. All zero: read only, format probed, QEMU's locks taken. */
typedef struct Qcow2OpenOptions {
    const char *format;      /* "qcow2", "raw", or NULL to probe */
    bool writable;           /* the image itself is opened for writing; those below it never are */
    bool exclusive;          /* with writable: also readers with force_share are kept out */
    bool dry_run;            /* with writable: no file is changed; see qcow2_chain_get_dry_run() */
    bool repair;             /* with exclusive: also opens what only qcow2_repair() can do something with */
    bool force_share;        /* read although a VM holds the image's locks */
    bool untrusted;          /* follow no name found inside an image */
    bool image_opts;         /* the name is "driver=…,file.filename=…" */
    bool require_key;        /* not used yet: encrypted data is refused when it is read */
    Qcow2Cache cache;
    Qcow2Cache below_cache;   /* when writable: of the layers that are only read */
    const char *trace;       /* a file that gets one more JSON line for each write and flush; or NULL */
    unsigned n_threads;      /* workers; 0: the processors this process may use, 16 at most */
    Qcow2WarnFunc warn;      /* may be NULL */
    void *warn_data;
} Qcow2OpenOptions;

/**
 * qcow2_chain_open:
 * @name: a path, "file:PATH", an NBD URI, or "json:{…}"
 * @options: borrowed for the call; NULL for the defaults
 *
 * Opens one image for reading and takes QEMU's locks on it. The images below it are opened when
 * something needs them, or by qcow2_chain_open_all().
 *
 * Errors: QCOW2_ERROR_NOT_FOUND, _IN_USE, _CORRUPT, _UNSUPPORTED, _IO.
 * Spec: "Header", "Header extensions".
 */
Qcow2Chain *qcow2_chain_open(const char *name, const Qcow2OpenOptions *options, GError **error);
void qcow2_chain_free(Qcow2Chain *chain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Chain, qcow2_chain_free)

/** What an operation would have done to the files of its chain; bytes. */
typedef struct Qcow2DryRun {
    uint64_t growth;           /* by which the files become longer */
    uint64_t freed;            /* of clusters in them that nothing would use any more */
    uint64_t needed;           /* to be allocated by the file system; less where it can share extents */
    bool has_available;
    uint64_t available;        /* on the file system, the fullest one of several */
    bool fits;                 /* as far as that is known */
} Qcow2DryRun;

/**
 * qcow2_chain_get_dry_run:
 * @chain: opened with dry_run
 *
 * An operation on such a chain does all its work but the moving of data. Everything that it writes is kept in
 * an unlinked file in $TMPDIR; the files of the chain are opened for reading only.
 */
void qcow2_chain_get_dry_run(const Qcow2Chain *chain, Qcow2DryRun *ret);

/** qcow2_chain_open_all: opens every image down to the base. Loops are refused by name. */
bool qcow2_chain_open_all(Qcow2Chain *chain, GError **error);

/** qcow2_chain_n_layers: the images opened so far, at least one; [0] is the image itself. */
unsigned qcow2_chain_n_layers(const Qcow2Chain *chain);

/** An internal snapshot. Spec: "Snapshots". Strings are raw bytes from the image, NUL-terminated. */
typedef struct Qcow2Snapshot {
    const char *id;
    const char *name;
    uint64_t disk_size;        /* bytes, whole sectors; the virtual size when it was taken */
    uint64_t vm_state_size;    /* bytes */
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t icount;           /* UINT64_MAX when not recorded */
} Qcow2Snapshot;

/** A persistent dirty bitmap. Spec: "Bitmaps extension". */
typedef struct Qcow2BitmapInfo {
    const char *name;
    uint64_t granularity;      /* bytes a bit stands for */
    bool enabled;              /* the "auto" flag: it records what a guest writes */
    bool in_use;               /* not closed properly: its contents must not be believed */
    uint64_t dirty_bytes;      /* guest bytes under set bits, by qcow2_chain_load_bitmap_counts() */
} Qcow2BitmapInfo;

/** A slot of a LUKS header. */
typedef struct Qcow2LuksSlot {
    bool active;
    uint32_t iterations, stripes;
    uint64_t key_offset;
} Qcow2LuksSlot;

/** The plain-text part of a LUKS1 header. Strings are NUL-terminated. */
typedef struct Qcow2LuksInfo {
    char cipher_alg[33], cipher_mode[33], ivgen_alg[33], ivgen_hash_alg[33], hash_alg[33], uuid[41];
    uint64_t payload_offset;
    uint32_t master_key_iterations;
    Qcow2LuksSlot slots[8];
} Qcow2LuksInfo;

/** What an image says about itself. Strings are owned by the chain; NULL when absent. */
typedef struct Qcow2ImageInfo {
    const char *filename;          /* as QEMU prints it: a path, a URI or json:{…} */
    const char *format;            /* "qcow2" or "raw" */
    const char *protocol;          /* "file", "nbd", "host_device" */
    uint64_t virtual_size;
    uint64_t actual_size;          /* bytes allocated on the host; 0 when not known */
    bool has_actual_size;
    uint64_t file_length;          /* bytes of the file that holds the image */
    uint64_t extent_size_hint;     /* bytes in which XFS was asked to allocate that file; 0 for none */
    uint64_t cluster_size;         /* 0 for raw */
    bool format_was_probed;

    /* qcow2 only */
    unsigned version;              /* 2 or 3 */
    unsigned refcount_bits;
    bool dirty, corrupt, lazy_refcounts, extended_l2, data_file_raw, encrypted;
    bool bitmaps_consistent;       /* the autoclear bit that vouches for the bitmaps is set */
    const char *compression_type;  /* "zlib" or "zstd" */
    const char *encryption;        /* "aes" or "luks" */
    const Qcow2LuksInfo *luks;
    const char *backing_filename;  /* as recorded in the header */
    const char *full_backing_filename;
    const char *backing_format;    /* as recorded, NULL when not */
    const char *data_file;         /* as recorded */
    const Qcow2Snapshot *snapshots;
    unsigned n_snapshots;
    const Qcow2BitmapInfo *bitmaps;
    unsigned n_bitmaps;
} Qcow2ImageInfo;

/**
 * qcow2_chain_get_info:
 * @layer: 0 is the image itself; the layer must be open
 * @ret_info: filled; its strings live as long as @chain
 *
 * Errors: QCOW2_ERROR_CORRUPT for a snapshot table or bitmap directory that cannot be read.
 * Spec: "Header", "Snapshots", "Bitmaps extension".
 */
bool qcow2_chain_get_info(Qcow2Chain *chain, unsigned layer, Qcow2ImageInfo *ret_info, GError **error);

/** qcow2_chain_load_bitmap_counts: reads the bitmaps of a layer, so that dirty_bytes is right. */
bool qcow2_chain_load_bitmap_counts(Qcow2Chain *chain, unsigned layer, GError **error);

/* ---- States ------------------------------------------------------------------------------------ */

typedef struct Qcow2State Qcow2State;

/**
 * qcow2_state_open:
 * @chain: borrowed; must live longer than the state
 * @name: "@active", "@backing", "@empty", a snapshot's name or id, "name:NAME" or "id:ID"
 *
 * Finds a state. Its size is that of the snapshot, or of the active layer.
 *
 * Errors: QCOW2_ERROR_NOT_FOUND; QCOW2_ERROR_AMBIGUOUS with both candidates; QCOW2_ERROR_CORRUPT.
 */
Qcow2State *qcow2_state_open(Qcow2Chain *chain, const char *name, GError **error);
void qcow2_state_free(Qcow2State *state);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2State, qcow2_state_free)

/** qcow2_state_get_size: the virtual size in bytes. */
uint64_t qcow2_state_get_size(const Qcow2State *state);

/** A guest range with a single answer to "where is it, and what is it?" */
typedef struct Qcow2MapExtent {
    uint64_t start, length;    /* guest bytes */
    bool present;              /* some layer of the chain allocates it */
    bool data;                 /* it may hold something other than zeros */
    bool zero;                 /* it reads as zeros */
    bool compressed;
    bool has_offset;
    uint64_t offset;           /* host offset in @filename, when has_offset */
    unsigned depth;            /* index of the layer that answers; 0 is the image itself */
    const char *filename;      /* file that holds the data, when has_offset or compressed */
} Qcow2MapExtent;

/** Qcow2MapFunc: gets extents in guest order, neighbours merged; returning false stops the walk. */
typedef bool (*Qcow2MapFunc)(const Qcow2MapExtent *extent, void *data);

/**
 * qcow2_state_map:
 * @start, @length: guest bytes; the range is cut at the size of the state
 *
 * Says for each guest range which layer provides it. Reads metadata only; asks files that hold raw
 * data where their holes are, as qemu-img map does.
 *
 * Errors: QCOW2_ERROR_CORRUPT for an impossible table entry; what the layers' files report.
 * Spec: "Cluster mapping", "Extended L2 Entries".
 */
bool qcow2_state_map(Qcow2State *state, uint64_t start, uint64_t length,
                     Qcow2MapFunc func, void *data, Qcow2Progress *progress, GError **error);

/**
 * qcow2_state_read:
 *
 * Reads guest bytes. Bytes past the size of the state are an error.
 *
 * Errors: QCOW2_ERROR_INVALID past the end; QCOW2_ERROR_ENCRYPTED; QCOW2_ERROR_CORRUPT; QCOW2_ERROR_IO.
 */
bool qcow2_state_read(Qcow2State *state, uint64_t offset, void *buffer, size_t length, GError **error);

/** What a differing range is in the second one of two states. */
typedef struct Qcow2DiffExtent {
    uint64_t start, length;
    bool data, zero, compressed;
} Qcow2DiffExtent;
typedef bool (*Qcow2DiffFunc)(const Qcow2DiffExtent *extent, void *data);

G_END_DECLS

#endif
