/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors, words and progress: what all of libqcow2 speaks with. */
#ifndef LIBQCOW2_BASE_H
#define LIBQCOW2_BASE_H

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

/** What an operation moved. */
typedef struct Qcow2MoveResult {
    uint64_t bytes;                 /* guest bytes, as data or as zeros */
    uint64_t clusters, data_clusters, zero_clusters, compressed_clusters;    /* that got a new entry */
    uint64_t bytes_overwritten;     /* of the bytes: into clusters that were there */
    uint64_t bytes_copied, bytes_cloned;
} Qcow2MoveResult;

G_END_DECLS

#endif
