/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/nbd-extents.h"

/* Another client may write to the export: an answer is not used for long after it was given. */
#define MAX_AGE_USEC G_USEC_PER_SEC

struct Qcow2NbdExtents {
    GMutex mutex;
    GArray *answer;           /* of Qcow2IoExtent; NULL before the first */
    gint64 given_at;
    guint index;              /* of the extent that was found last; most callers go on from there */
    uint64_t start;           /* of that extent */
    uint64_t answer_start;
};

Qcow2NbdExtents *qcow2_nbd_extents_new(void)
{
    Qcow2NbdExtents *extents = g_new0(Qcow2NbdExtents, 1);

    g_mutex_init(&extents->mutex);
    return extents;
}

void qcow2_nbd_extents_free(Qcow2NbdExtents *extents)
{
    g_mutex_clear(&extents->mutex);
    g_clear_pointer(&extents->answer, g_array_unref);
    g_free(extents);
}

void qcow2_nbd_extents_put(Qcow2NbdExtents *extents, uint64_t offset, GArray *answer)
{
    g_mutex_lock(&extents->mutex);
    g_clear_pointer(&extents->answer, g_array_unref);
    extents->answer = answer;
    extents->given_at = g_get_monotonic_time();
    extents->answer_start = offset;
    extents->start = offset;
    extents->index = 0;
    g_mutex_unlock(&extents->mutex);
}

/* The caller holds the mutex, and there is an answer. */
static bool find(Qcow2NbdExtents *extents, uint64_t offset, Qcow2IoExtent *ret)
{
    if (offset < extents->start) {
        extents->index = 0;
        extents->start = extents->answer_start;
    }
    for (; extents->index < extents->answer->len && offset >= extents->start; extents->index++) {
        const Qcow2IoExtent *extent = &g_array_index(extents->answer, Qcow2IoExtent, extents->index);
        if (offset - extents->start < extent->len_bytes) {
            *ret = *extent;
            ret->len_bytes -= offset - extents->start;
            return true;
        }
        extents->start += extent->len_bytes;
    }
    return false;
}

bool qcow2_nbd_extents_find(Qcow2NbdExtents *extents, uint64_t offset, Qcow2IoExtent *ret)
{
    g_mutex_lock(&extents->mutex);
    bool fresh = extents->answer && g_get_monotonic_time() - extents->given_at < MAX_AGE_USEC;
    bool found = fresh && find(extents, offset, ret);
    g_mutex_unlock(&extents->mutex);
    return found;
}
