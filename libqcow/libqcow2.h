/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libqcow2: read qcow2 images, the states that they hold, and what differs between states.
 *
 * The whole public interface. Three nouns carry it:
 *
 *   Qcow2Chain   an image and, opened only when something needs them, the images below it
 *   Qcow2State   what a guest saw at one moment: the active layer, a snapshot, or nothing at all
 *   Qcow2Progress  how far a long operation is, and the way to stop it
 *
 * Conventions: offsets and lengths are bytes unless a name says clusters. A function that takes a
 * GError returns false or NULL exactly when it sets it. Objects are freed by their _free function, or
 * by g_autoptr. Names from images are raw bytes, not UTF-8: print them through qcow2_escape_name().
 * A chain and its states belong to one thread at a time; the library makes its own worker threads.
 */
#ifndef LIBQCOW2_H
#define LIBQCOW2_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

/* ---- Errors ------------------------------------------------------------------------------------ */

#define QCOW2_ERROR (qcow2_error_quark())
GQuark qcow2_error_quark(void);

/** What a caller can act on; the message tells the rest. */
typedef enum {
    QCOW2_ERROR_FAILED,      /* anything without a code of its own */
    QCOW2_ERROR_IO,          /* the system or the server failed a read, write or flush */
    QCOW2_ERROR_NO_SPACE,    /* the place that is written to is full */
    QCOW2_ERROR_CORRUPT,     /* a structure in the image contradicts the specification */
    QCOW2_ERROR_UNSUPPORTED, /* a feature or format that this library does not know */
    QCOW2_ERROR_NOT_FOUND,   /* no file, snapshot, bitmap or layer of that name */
    QCOW2_ERROR_EXISTS,      /* the name is taken, or the result is already there */
    QCOW2_ERROR_AMBIGUOUS,   /* a name that fits two things */
    QCOW2_ERROR_IN_USE,      /* locked by another process */
    QCOW2_ERROR_CHANGED,     /* the source changed while it was read */
    QCOW2_ERROR_ENCRYPTED,   /* guest data that needs a key */
    QCOW2_ERROR_UNTRUSTED,   /* a name inside an untrusted image would have to be followed */
    QCOW2_ERROR_INVALID,     /* an argument that cannot be right */
    QCOW2_ERROR_CANCELLED,   /* stopped by qcow2_progress_cancel() */
} Qcow2Error;

/* ---- Words ------------------------------------------------------------------------------------- */

/** qcow2_version: the library's version, such as "0.1.0"; static. */
const char *qcow2_version(void);

/**
 * qcow2_escape_name:
 * @name: any bytes, @len of them (-1: up to the first NUL)
 *
 * A name from an image, fit for a terminal and for JSON: valid UTF-8 stays, control characters and
 * bytes that are not UTF-8 become \xNN, a backslash becomes \\.
 *
 * Returns: a new string; free it with g_free().
 */
char *qcow2_escape_name(const char *name, gssize len);

/**
 * qcow2_parse_size:
 * @text: digits with an optional suffix b, k, K, M, G, T, P or E (powers of 1024), fractions allowed
 *        before a suffix, as qemu-img reads them
 *
 * Errors: QCOW2_ERROR_INVALID when it is no size or does not fit 63 bits.
 */
bool qcow2_parse_size(const char *text, uint64_t *ret_bytes, GError **error);

/** qcow2_format_size: "512 B", "1.5 MiB", in the form of qemu-img; free it with g_free(). */
char *qcow2_format_size(uint64_t bytes);

/**
 * qcow2_json_print:
 * @value: a GVariant of a{sv}, av, strings, numbers and booleans; a floating reference is consumed
 *
 * Returns: @value as JSON text, indented by four spaces, without a final newline; NULL on error.
 * Errors: QCOW2_ERROR_INVALID for a type or a number that JSON cannot say.
 */
char *qcow2_json_print(GVariant *value, GError **error);

/* ---- Progress ---------------------------------------------------------------------------------- */

typedef struct Qcow2Progress Qcow2Progress;

/**
 * Qcow2ProgressFunc: called from any worker thread, never from two at a time, at most some times a
 * second, and at the end. @total_bytes may grow while an operation finds more to do.
 */
typedef void (*Qcow2ProgressFunc)(uint64_t done_bytes, uint64_t total_bytes, void *data);

Qcow2Progress *qcow2_progress_new(Qcow2ProgressFunc func, void *data);
void qcow2_progress_free(Qcow2Progress *progress);

/** qcow2_progress_cancel: stop at the next safe point; may be called from a signal handler. */
void qcow2_progress_cancel(Qcow2Progress *progress);

/** qcow2_progress_set_rate: move at most this many bytes a second; 0 removes the limit. */
void qcow2_progress_set_rate(Qcow2Progress *progress, uint64_t bytes_per_second);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Progress, qcow2_progress_free)

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
    uint64_t disk_size;        /* bytes; the virtual size when it was taken */
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

/* ---- Operations -------------------------------------------------------------------------------- */

/** What a differing range is in TO. */
typedef struct Qcow2DiffExtent {
    uint64_t start, length;
    bool data, zero, compressed;
} Qcow2DiffExtent;
typedef bool (*Qcow2DiffFunc)(const Qcow2DiffExtent *extent, void *data);

/** How a delta is written. All zero: qcow2 with the cluster size and compression type of the source. */
typedef struct Qcow2ExportOptions {
    const char *output_format;      /* "qcow2" (default) or "raw": patch OUTPUT in place */
    const char *create_options;     /* "cluster_size=…,compression_type=…,extended_l2=on", or NULL */
    const char *backing_name;       /* recorded, not opened; NULL for none */
    const char *backing_format;
    bool compress;
    bool compare_data;              /* leave out what was rewritten with the same bytes */
    bool overwrite;                 /* replace OUTPUT if it exists */
    bool no_reflink;
    Qcow2Cache cache;               /* of OUTPUT */
    const char *trace;              /* as in Qcow2OpenOptions, of what is written to OUTPUT */
} Qcow2ExportOptions;

typedef struct Qcow2ExportResult {
    uint64_t bytes;                 /* guest bytes carried, as data or as zeros */
    uint64_t clusters;              /* clusters of OUTPUT that the delta maps */
    uint64_t data_clusters, zero_clusters, compressed_clusters;
    uint64_t bytes_copied, bytes_cloned, bytes_passed_through;
    uint64_t output_size;           /* length of OUTPUT in bytes */
    uint64_t virtual_size;
} Qcow2ExportResult;

/**
 * qcow2_export_delta:
 * @from, @to: two states of one chain
 * @output: a new file; "-" for standard output; with output_format "raw" an existing file or NBD URI
 *
 * Writes what turns @from into @to: over @from, the new overlay reads byte for byte as @to, and it
 * holds nothing else. A state that turns out to have changed under the export makes it fail
 * (QCOW2_ERROR_CHANGED), and no output file is left.
 */
bool qcow2_export_delta(Qcow2State *from, Qcow2State *to, const char *output,
                        const Qcow2ExportOptions *options, Qcow2ExportResult *ret_result,
                        Qcow2Progress *progress, GError **error);

/** qcow2_export_map: the ranges that qcow2_export_delta() would carry; writes nothing. */
bool qcow2_export_map(Qcow2State *from, Qcow2State *to, const Qcow2ExportOptions *options,
                      Qcow2DiffFunc func, void *data, Qcow2Progress *progress, GError **error);

typedef struct Qcow2ImportOptions {
    const char *name;               /* make the imported state an internal snapshot of this name; or NULL */
    bool force;                     /* although the active layer is not what the delta starts from */
    bool no_reflink;
} Qcow2ImportOptions;

typedef struct Qcow2ImportResult {
    uint64_t bytes, clusters, data_clusters, zero_clusters, compressed_clusters;
    uint64_t bytes_copied, bytes_cloned;
    uint64_t virtual_size;
} Qcow2ImportResult;

/**
 * qcow2_import_delta:
 * @chain: opened writable
 * @delta: a file written by qcow2_export_delta(), or "-" for standard input
 *
 * Applies a delta on top of the active layer, which gets the delta's size. All or nothing, also across a
 * crash.
 *
 * Errors: QCOW2_ERROR_INVALID when the delta does not start from the active layer as it is, or a stream is
 * cut or damaged; QCOW2_ERROR_EXISTS when the name is taken, "… already" when the same import was done
 * before.
 */
bool qcow2_import_delta(Qcow2Chain *chain, const char *delta, const Qcow2ImportOptions *options,
                        Qcow2ImportResult *ret_result, Qcow2Progress *progress, GError **error);

/* ---- Chains ------------------------------------------------------------------------------------ */

/** What an operation moved. */
typedef struct Qcow2MoveResult {
    uint64_t bytes;                 /* guest bytes, as data or as zeros */
    uint64_t clusters, data_clusters, zero_clusters, compressed_clusters;    /* that got a new entry */
    uint64_t bytes_overwritten;     /* of the bytes: into clusters that were there */
    uint64_t bytes_copied, bytes_cloned;
} Qcow2MoveResult;

typedef struct Qcow2PullOptions {
    const char *base;               /* "[2]" or a layer's name; NULL: no backing file at all */
    const char *base_format;        /* NULL: what is recorded */
    bool bitmaps;                   /* merge those of the pulled layers into those of the image, by name */
    bool no_reflink;
} Qcow2PullOptions;

/**
 * qcow2_pull:
 * @chain: opened writable and exclusive; its image may be any layer of a longer chain
 *
 * Merges upward: what the image and its snapshots read from the layers above the base moves into it, and the
 * base becomes its backing file. All or nothing, also across a crash.
 *
 * Errors: QCOW2_ERROR_NOT_FOUND, QCOW2_ERROR_EXISTS when it is so already, QCOW2_ERROR_UNSUPPORTED.
 */
bool qcow2_pull(Qcow2Chain *chain, const Qcow2PullOptions *options, Qcow2MoveResult *ret_result,
                Qcow2Progress *progress, GError **error);

typedef struct Qcow2CommitOptions {
    const char *base;               /* "[2]" or a layer's name; NULL: the backing file of top */
    const char *top;                /* likewise; NULL: the image itself */
    const char *base_format;        /* where the chain does not record it; or NULL */
    bool keep_image;                /* leave the image as it is, instead of emptying it */
    bool bitmaps;                   /* merge the layers' bitmaps into those of base, by name */
    bool force;                     /* although other images or snapshots read otherwise then */
    bool delete_merged;             /* delete the files of layers that dropped out of the chain */
    char **preserve;                /* images that go on reading the same; NULL for none */
    bool no_reflink;
} Qcow2CommitOptions;

typedef struct Qcow2CommitResult {
    Qcow2MoveResult moved;          /* into base */
    uint64_t bytes_preserved;       /* guest bytes copied into images to preserve */
    char *base;                     /* the file that the layers were merged into */
    char **invalid;                 /* layers that are not valid by themselves any more; NULL-terminated */
    char **unmarked;                /* those of them that could not be marked */
    char **deleted;
    char **not_deleted;             /* what was to be deleted and is still there: see qcow2_commit() */
    Qcow2DryRun dry_run;            /* with that open option */
} Qcow2CommitResult;

void qcow2_commit_result_clear(Qcow2CommitResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2CommitResult, qcow2_commit_result_clear)

/**
 * qcow2_commit:
 * @image: the top of the chain, as for qcow2_chain_open()
 * @open_options: writable need not be set
 *
 * Merges downward: what the layers from top down to above base hold moves into base. Through the image and
 * everything that stays valid a guest reads the same at every moment, also after a crash; the same call again
 * completes it. Not deleted are data files, devices, and layers over NBD.
 *
 * Also a call that fails fills @ret_result: what an interrupted one had left may have been finished.
 *
 * Errors: QCOW2_ERROR_IN_USE when an image or snapshot would read otherwise, a snapshot would be deleted, or
 * a file is locked;
 * QCOW2_ERROR_NOT_FOUND; QCOW2_ERROR_UNSUPPORTED; QCOW2_ERROR_NO_SPACE.
 */
bool qcow2_commit(const char *image, const Qcow2OpenOptions *open_options, const Qcow2CommitOptions *options,
                  Qcow2CommitResult *ret_result, Qcow2Progress *progress, GError **error);

/** qcow2_unmark: removes the mark that qcow2_commit() left on an image. Errors: QCOW2_ERROR_EXISTS. */
bool qcow2_unmark(const char *image, GError **error);

typedef enum { QCOW2_PLAN_COMMIT, QCOW2_PLAN_PULL } Qcow2PlanKind;

/** One command of a way. */
typedef struct Qcow2PlanStep {
    Qcow2PlanKind kind;
    unsigned layer;                 /* COMMIT: the top that is merged; PULL: the image that is pulled into */
    unsigned other;                 /* COMMIT: the base; PULL: the new backing file; past the last: none */
    uint64_t bytes, clusters;       /* as the operation will count them */
    uint64_t bytes_read, bytes_written;
    uint64_t metadata_written;      /* to the file that gets the data; with compressed clusters */
    double seconds;                 /* an estimate, from the bytes */
} Qcow2PlanStep;

/** One way to drop a group. */
typedef struct Qcow2PlanWay {
    unsigned target;                /* the layer whose file holds it all then */
    Qcow2PlanStep *steps;
    unsigned n_steps;
    unsigned *invalid;              /* layers whose file does not hold its point in time any more */
    unsigned n_invalid;
    uint64_t bytes_read, bytes_written, metadata_written;
    double seconds;
} Qcow2PlanWay;

/** Neighbouring layers that are dropped, and the ways to do it, the cheapest first. */
typedef struct Qcow2PlanGroup {
    unsigned first, last;
    Qcow2PlanWay *ways;
    unsigned n_ways;
} Qcow2PlanGroup;

typedef struct Qcow2Plan {
    Qcow2PlanGroup *groups;         /* from the top down */
    unsigned n_groups;
} Qcow2Plan;

/**
 * qcow2_plan_new:
 * @drop: layers of @chain, by name or "[2]"; NULL-terminated
 *
 * What each way to drop these points in time costs, from metadata alone.
 */
Qcow2Plan *qcow2_plan_new(Qcow2Chain *chain, char *const *drop, GError **error);
void qcow2_plan_free(Qcow2Plan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Plan, qcow2_plan_free)

typedef struct Qcow2TrimOptions {
    bool shrink;                    /* also move data down, and give free space back to the file system */
} Qcow2TrimOptions;

typedef struct Qcow2TrimResult {
    uint64_t clusters;              /* table entries that were dropped or became zeros */
    uint64_t clusters_moved, bytes_moved;    /* by shrink */
    uint64_t bytes_punched;         /* by shrink: free space inside the file */
    uint64_t bytes_freed;           /* of clusters that nothing uses any more, those of a data file too */
    uint64_t file_size_before, file_size;
    uint64_t bytes;                 /* guest bytes of the clusters */
} Qcow2TrimResult;

/**
 * qcow2_trim:
 * @chain: opened writable and exclusive
 *
 * Drops what the active layer and the snapshots read the same without: clusters equal to what the layers
 * below give, and zeros. Dirty bitmaps stay as they are: no guest reads anything else. All or nothing;
 * shrinking is a second such step.
 */
bool qcow2_trim(Qcow2Chain *chain, const Qcow2TrimOptions *options, Qcow2TrimResult *ret_result,
                Qcow2Progress *progress, GError **error);

typedef struct Qcow2RebaseOptions {
    const char *backing_name;       /* relative to the image's folder; NULL or "": none */
    const char *backing_format;
    bool name_only;                 /* only the header's name changes, whatever is read then */
    bool compress;
    bool no_reflink;
} Qcow2RebaseOptions;

/**
 * qcow2_rebase:
 * @chain: opened writable and exclusive
 *
 * Another backing file. The image and its snapshots read the same: where old and new chain differ, what they
 * read moves into the image. All or nothing, also across a crash.
 *
 * Errors: QCOW2_ERROR_INVALID without a format, or over itself; QCOW2_ERROR_NOT_FOUND;
 * QCOW2_ERROR_UNSUPPORTED.
 */
bool qcow2_rebase(Qcow2Chain *chain, const Qcow2RebaseOptions *options, Qcow2MoveResult *ret_result,
                  Qcow2Progress *progress, GError **error);

/** A state and the file that holds it now. */
typedef struct Qcow2ExternalFile {
    const char *state;              /* "@active" or a snapshot's name */
    const char *file;               /* without the folder */
    const char *vmstate_file;       /* NULL: the snapshot has no VM state */
} Qcow2ExternalFile;
typedef void (*Qcow2ExternalizeFunc)(const Qcow2ExternalFile *file, void *data);

typedef struct Qcow2ExternalizeOptions {
    bool overwrite;                 /* replace files in the folder */
    bool no_reflink;
} Qcow2ExternalizeOptions;

/**
 * qcow2_externalize:
 * @folder: made when it is missing
 * @func: may be NULL; called for each file when all are complete
 *
 * Every internal snapshot, in table order, and the active layer as a backing chain: 0001-NAME.qcow2 …
 * active.qcow2, the first backed by the image's own backing file. VM states stand beside, as NAME.vmstate.
 * When anything fails none of the files is left, and none was replaced.
 *
 * Errors: QCOW2_ERROR_EXISTS where a file is there that may not be replaced.
 */
bool qcow2_externalize(Qcow2Chain *chain, const char *folder, const Qcow2ExternalizeOptions *options,
                       Qcow2ExternalizeFunc func, void *data, Qcow2Progress *progress, GError **error);

typedef struct Qcow2InternalizeOptions {
    bool overwrite;                 /* replace OUTPUT if it exists */
    bool no_reflink;
} Qcow2InternalizeOptions;

/**
 * qcow2_internalize:
 * @chain: a backing chain
 * @output: a new file
 *
 * A backing chain as one image: an internal snapshot for each lower file, the top as the active layer.
 */
bool qcow2_internalize(Qcow2Chain *chain, const char *output, const Qcow2InternalizeOptions *options,
                       Qcow2MoveResult *ret_result, Qcow2Progress *progress, GError **error);

/** qcow2_vmstate_export: the VM state of a snapshot into a new file. */
bool qcow2_vmstate_export(Qcow2Chain *chain, const char *state, const char *file, bool overwrite,
                          Qcow2Progress *progress, GError **error);

/** qcow2_vmstate_import: the bytes of a file become the VM state of a snapshot. All or nothing. */
bool qcow2_vmstate_import(Qcow2Chain *chain, const char *state, const char *file, Qcow2Progress *progress,
                          GError **error);

/** qcow2_vmstate_drop: a snapshot loses its VM state. Errors: QCOW2_ERROR_EXISTS when it has none already. */
bool qcow2_vmstate_drop(Qcow2Chain *chain, const char *state, GError **error);

/**
 * How a copy is made. All zero: raw, as small as it can be, without a look at zeros where extents are shared.
 */
typedef struct Qcow2CopyOptions {
    const char *output_format;      /* "raw" (default) or "qcow2" */
    const char *create_options;     /* those of qemu-img convert -o; or NULL */
    const char *backing_name;       /* recorded; only what differs from it is copied; or NULL */
    const char *backing_format;
    bool compress;
    bool existing;                  /* the target is there, is no smaller, and is written in place */
    bool target_image_opts;         /* with existing: its name is "driver=…,file.filename=…" */
    bool target_is_zero;            /* with existing: it reads as zeros, so that zeros need not be written */
    bool has_sparse_size;
    uint64_t sparse_size;           /* bytes of zeros that are worth a hole, default 4096; 0: everything is
                                       allocated */
    bool salvage;                   /* what cannot be read becomes zeros, with a warning for each */
    bool bitmaps, skip_broken_bitmaps;
    bool resume;                    /* keep what was copied when it is interrupted, and go on with it */
    bool no_reflink;
    bool untrusted;                 /* follow no name found inside the backing file */
    Qcow2Cache cache;               /* of the target */
    const char *trace;              /* as in Qcow2OpenOptions */
    Qcow2WarnFunc warn;             /* may be NULL */
    void *warn_data;
} Qcow2CopyOptions;

typedef struct Qcow2CopyResult {
    uint64_t virtual_size;
    uint64_t output_size;           /* length of the target in bytes; 0 when it was written in place */
    uint64_t bytes_copied, bytes_cloned, bytes_passed_through;
    uint64_t bytes_resumed;         /* guest bytes that an interrupted run had done */
    uint64_t bytes_salvaged;        /* guest bytes that could not be read */
    uint64_t bytes;                 /* guest bytes, as data or as zeros, without those of an interrupted run;
                                       of a chain: bytes of its files */
    uint64_t clusters;              /* that got a new entry in the target; 0 when it has none: raw bytes, or a
                                       file as it is */
} Qcow2CopyResult;

/**
 * qcow2_copy:
 * @sources: states of one chain each, copied one after the other
 * @target: a path or an NBD URI
 *
 * A new file appears under its name, or replaces what has it, when it is whole; a block device, an NBD export
 * and an existing target are written in place.
 */
bool qcow2_copy(Qcow2State *const *sources, size_t n_sources, const char *target,
                const Qcow2CopyOptions *options, Qcow2CopyResult *ret_result, Qcow2Progress *progress,
                GError **error);

/** Qcow2CopyChainFunc: @file, without the folder, is complete. */
typedef void (*Qcow2CopyChainFunc)(const char *layer, const char *file, void *data);

/**
 * qcow2_copy_chain:
 * @folder: made when it is missing; existing files of the needed names are replaced
 * @func: may be NULL
 *
 * Copies each layer, from the lowest on, to a file of the same name in @folder, backed by the copy below it.
 * Internal snapshots, bitmaps and whatever else a layer has are kept.
 */
bool qcow2_copy_chain(Qcow2Chain *chain, const char *folder, const Qcow2CopyOptions *options,
                      Qcow2CopyChainFunc func, void *data, Qcow2CopyResult *ret_result,
                      Qcow2Progress *progress, GError **error);

typedef struct Qcow2CompareOptions {
    bool strict;                    /* sizes and allocation must agree too */
} Qcow2CompareOptions;

typedef enum {
    QCOW2_COMPARE_SAME,
    QCOW2_COMPARE_CONTENT,          /* contents differ, first at @offset */
    QCOW2_COMPARE_STATUS,           /* strict: one allocates what the other does not, at @offset */
    QCOW2_COMPARE_SIZE,             /* strict: the sizes differ */
} Qcow2CompareVerdict;

/** What a comparison was doing: when it fails, this tells which of qemu-img's exit codes fits. */
typedef enum {
    QCOW2_COMPARE_OPENING,          /* the images below those that were given */
    QCOW2_COMPARE_METADATA,         /* finding out what is where */
    QCOW2_COMPARE_DATA,             /* reading guest data */
} Qcow2CompareStage;

typedef struct Qcow2CompareResult {
    Qcow2CompareVerdict verdict;
    uint64_t offset;                /* as qemu-img tells it: of the first sector that differs */
    bool sizes_differ;              /* without strict this is only worth a warning */
    uint64_t bytes_read;            /* guest bytes that metadata could not decide */
    Qcow2CompareStage stage;        /* of the failure, also set when qcow2_compare() returns false */
} Qcow2CompareResult;

/**
 * qcow2_compare:
 * @func: NULL to stop at the first difference; otherwise gets every differing range, exact to 512 bytes,
 *        with what @b holds there, neighbours of one kind merged; returning false stops
 *
 * Compares the guest contents of two states, of one chain or of two. The shorter reads as zeros past
 * its end. Data is read only where metadata cannot tell. With strict set it must also be the same
 * whether a range is allocated, data or zeros, and plain or compressed; the verdict is what comes first.
 */
bool qcow2_compare(Qcow2State *a, Qcow2State *b, const Qcow2CompareOptions *options,
                   Qcow2DiffFunc func, void *data, Qcow2CompareResult *ret_result,
                   Qcow2Progress *progress, GError **error);

typedef struct Qcow2MeasureResult {
    uint64_t required, fully_allocated, bitmaps;
    bool has_bitmaps;
} Qcow2MeasureResult;

/**
 * qcow2_measure:
 * @state: what would be copied, or NULL with @size bytes of an empty disk
 * @format: of the target: "qcow2" or "raw"
 * @create_options: as qemu-img measure -o, or NULL
 *
 * The size that a copy would take. Reads metadata only.
 */
bool qcow2_measure(Qcow2State *state, uint64_t size, const char *format, const char *create_options,
                   Qcow2MeasureResult *ret_result, GError **error);

typedef struct Qcow2CheckResult {
    uint64_t corruptions, leaks, check_errors;
    uint64_t image_end_offset, total_clusters, allocated_clusters, fragmented_clusters;
    uint64_t compressed_clusters;
    uint64_t additional_corruptions;   /* of the corruptions: what qemu-img check does not look for */
    uint64_t corruptions_fixed, leaks_fixed;   /* by a repair; those above are what is left */
} Qcow2CheckResult;

/** Qcow2CheckFunc: one finding, worded as qemu-img check words it; without a newline. */
typedef void (*Qcow2CheckFunc)(const char *finding, void *data);

/**
 * qcow2_check:
 *
 * Compares the refcounts, tables, snapshots and bitmaps of the image (layer 0) with each other.
 * Changes nothing. On an image in use, only what two passes find alike is reported.
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED for a raw image; what reading reports.
 */
bool qcow2_check(Qcow2Chain *chain, Qcow2CheckFunc func, void *data, Qcow2CheckResult *ret_result,
                 Qcow2Progress *progress, GError **error);

typedef enum {
    QCOW2_REPAIR_NOTHING,
    QCOW2_REPAIR_LEAKS,      /* clusters that nothing refers to any more become free */
    QCOW2_REPAIR_ALL,        /* and all that can be put right without a guess about data */
} Qcow2Repair;

/**
 * qcow2_repair:
 * @chain: opened with the option of the same name
 * @ret_result: what was put right, and what is left
 *
 * All or nothing, also across a crash. A consistent image is not written to. What a guest reads, now and in
 * each snapshot, stays as it is; what cannot be known is reported and left alone.
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED for a raw image; QCOW2_ERROR_CORRUPT when QCOW2_REPAIR_LEAKS cannot be done
 * since the refcounts have to be made anew; what reading and writing report. The image is as it was then.
 */
bool qcow2_repair(Qcow2Chain *chain, Qcow2Repair what, Qcow2CheckFunc func, void *data,
                  Qcow2CheckResult *ret_result, Qcow2Progress *progress, GError **error);

G_END_DECLS

#endif
