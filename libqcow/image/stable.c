/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/stable.h"

#include "util/error.h"

#define MAX_TRIES 20u
#define PAUSE_USEC 2000u     /* a writer needs less than this from the snapshot table to the header */

void qcow2_stable_read_clear(Qcow2StableRead *read)
{
    qcow2_header_clear(&read->header);
    g_clear_pointer(&read->snapshots, g_array_unref);
    g_clear_pointer(&read->bytes, g_byte_array_unref);
}

static bool read_once(Qcow2Io *file, Qcow2StableRead *ret, GError **error)
{
    ret->bytes = g_byte_array_new();
    if (!qcow2_image_read_header(file, &ret->header, ret->bytes, error)) {
        return false;
    }
    ret->snapshots = qcow2_image_read_snapshot_table(file, &ret->header, ret->bytes, error);
    return ret->snapshots != NULL;
}

static bool same_bytes(const Qcow2StableRead *a, const Qcow2StableRead *b)
{
    guint len = a->bytes->len;

    /* When nothing could be read there is no pointer either. */
    return len == b->bytes->len && (len == 0 || memcmp(a->bytes->data, b->bytes->data, len) == 0);
}

bool qcow2_stable_read(Qcow2Io *file, Qcow2StableRead *ret, GError **error)
{
    g_auto(Qcow2StableRead) before = { 0 };
    bool ok_before = read_once(file, &before, NULL);

    for (unsigned i = 0; i < MAX_TRIES; i++) {
        g_autoptr(GError) cause = NULL;
        bool ok = read_once(file, ret, &cause);
        if (ok == ok_before && same_bytes(&before, ret)) {
            if (!ok) {
                g_propagate_error(error, g_steal_pointer(&cause));
            }
            return ok;
        }
        qcow2_stable_read_clear(&before);
        before = *ret;
        ok_before = ok;
        *ret = (Qcow2StableRead) { 0 };
        g_usleep(PAUSE_USEC);
    }
    return qcow2_fail(error, QCOW2_ERROR_CHANGED,
                      "header and snapshot table changed at each of %u reads; try again when"
                      " less is done to the image's snapshots",
                      MAX_TRIES);
}

bool qcow2_image_refresh(Qcow2Image *image, GError **error)
{
    g_auto(Qcow2StableRead) now = { 0 };

    if (image->kind == QCOW2_IMAGE_RAW) {
        return true;
    }
    if (!qcow2_stable_read(image->file, &now, error)) {
        return false;
    }
    qcow2_header_clear(&image->header);
    g_clear_pointer(&image->snapshots, g_array_unref);
    image->header = now.header;
    now.header = (Qcow2Header) { 0 };
    image->snapshots = g_steal_pointer(&now.snapshots);
    image->size = qcow2_align_down(image->header.size, QCOW2_SECTOR_SIZE);
    return true;
}
