/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The laboratory's operations on dirty bitmaps; the table that names them is in operations.c. */
#include "lab.h"

#define NEW_NAME "made in the laboratory"

/* The first or the last bitmap of the image; one that is not there when it has none. */
static const char *bitmap_name(const LabSubject *subject, bool last)
{
    const GPtrArray *bitmaps = subject->contents->bitmaps;
    guint n = bitmaps->len;

    return n == 0 ? "none" : ((const LabBitmap *)bitmaps->pdata[last ? n - 1 : 0])->name;
}

static bool change(const LabPlaces *places, const char *name, const Qcow2BitmapAction *actions, size_t n,
                   GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);

    return chain && qcow2_bitmap_change(chain, name, actions, n, NULL, NULL, error);
}

static bool change_one(const LabPlaces *places, const LabSubject *subject, Qcow2BitmapVerb verb,
                       GError **error)
{
    const Qcow2BitmapAction action = { .verb = verb };

    return change(places, bitmap_name(subject, false), &action, 1, error);
}

bool lab_bitmap_add(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const Qcow2BitmapAction action = { .verb = QCOW2_BITMAP_ADD };

    (void)subject;
    (void)which;
    return change(places, NEW_NAME, &action, 1, error);
}

bool lab_bitmap_remove(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return change_one(places, subject, QCOW2_BITMAP_REMOVE, error);
}

bool lab_bitmap_clear(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return change_one(places, subject, QCOW2_BITMAP_CLEAR, error);
}

bool lab_bitmap_disable(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return change_one(places, subject, QCOW2_BITMAP_DISABLE, error);
}

/* Everything into the first one. */
bool lab_bitmap_merge(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const Qcow2BitmapAction action = { .verb = QCOW2_BITMAP_MERGE, .source = bitmap_name(subject, true) };

    (void)which;
    return change(places, bitmap_name(subject, false), &action, 1, error);
}

bool lab_bitmap_states(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const Qcow2BitmapAction actions[] = {
        { .verb = QCOW2_BITMAP_ADD_CHANGES, .from = "@empty", .to = "@active" },
        { .verb = QCOW2_BITMAP_ENABLE },
    };

    (void)subject;
    (void)which;
    return change(places, NEW_NAME, actions, G_N_ELEMENTS(actions), error);
}
