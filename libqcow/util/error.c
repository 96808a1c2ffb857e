/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/error.h"

#include <errno.h>

/* Not cached as G_DEFINE_QUARK would: errors are rare, and the NBD module may hold a second copy of this. */
GQuark qcow2_error_quark(void)
{
    return g_quark_from_static_string("qcow2-error-quark");
}

static bool G_GNUC_PRINTF(3, 0) fail_valist(GError **error, Qcow2Error code, const char *format, va_list args)
{
    if (error) {
        *error = g_error_new_valist(QCOW2_ERROR, (gint) code, format, args);
    }
    return false;
}

bool qcow2_fail(GError **error, Qcow2Error code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail_valist(error, code, format, args);
    va_end(args);
    return false;
}

bool qcow2_corrupt(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail_valist(error, QCOW2_ERROR_CORRUPT, format, args);
    va_end(args);
    return false;
}

static Qcow2Error code_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return QCOW2_ERROR_NO_SPACE;
    case ENOENT:
        return QCOW2_ERROR_NOT_FOUND;
    default:
        return QCOW2_ERROR_IO;
    }
}

bool qcow2_fail_errno(GError **error, int errnum, const char *format, ...)
{
    va_list args;

    if (!error) {
        return false;
    }
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    return qcow2_fail(error, code_of_errno(errnum), "%s: %s", what, g_strerror(errnum));
}

bool qcow2_fail_system(GError **error, int errnum)
{
    return qcow2_fail(error, code_of_errno(errnum), "%s", g_strerror(errnum));
}

bool qcow2_fail_unchanged(GError **error, const char *name)
{
    if (!error || !*error) {
        return false;
    }
    if (!g_str_has_prefix((*error)->message, "'")) {
        g_prefix_error(error, "'%s': ", name);
    }
    if (g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE)) {
        g_autofree char *cause = g_steal_pointer(&(*error)->message);
        (*error)->message = g_strconcat(cause, "; the image is as it was: make room and run the same command"
                                        " again", NULL);
    }
    return false;
}

bool qcow2_fail_memory(GError **error, uint64_t len_bytes, const char *what)
{
    return qcow2_fail(error, QCOW2_ERROR_FAILED, "cannot allocate %" PRIu64 " bytes for %s", len_bytes, what);
}
