/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Internal snapshots: taken, applied, deleted, renamed. image/batch.h says what a crash leaves. */
#include <string.h>

#include "image/bitmap-write.h"
#include "image/snapshot-edit.h"
#include "ops/changes.h"
#include "util/error.h"

static bool fail_named(const Qcow2Chain *chain, GError **error)
{
    g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(chain, 0));
    return false;
}

/* Two snapshots of one name can only be told apart by their ids, and scripts use names. */
static bool check_name_free(Qcow2Image *image, const char *name, guint except, GError **error)
{
    if (strlen(name) > G_MAXUINT16) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "the name has %zu bytes; the limit is %u", strlen(name),
                          G_MAXUINT16);
    }
    if (!qcow2_image_load_snapshots(image, error)) {
        return false;
    }
    for (guint i = 0; i < image->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(image->snapshots, Qcow2SnapshotEntry, i);
        if (i != except && strcmp(entry->name, name) == 0) {
            return qcow2_fail(error, QCOW2_ERROR_EXISTS, "a snapshot named '%s' is there already (id %s)",
                              name, entry->id);
        }
    }
    return true;
}

static bool check_format(const Qcow2Image *image, GError **error)
{
    return image->kind == QCOW2_IMAGE_QCOW2
           || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                         "Operation not supported: a raw image has no internal snapshots");
}

bool qcow2_snapshot_create(Qcow2Chain *chain, const char *name, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    bool ok = check_format(image, error) && check_name_free(image, name, G_MAXUINT, error)
           && qcow2_image_create_snapshot(image, name, g_get_real_time(), error);

    return ok || fail_named(chain, error);
}

/* A bitmap that does not know of the change would be wrong; without one there is nothing to find. */
static bool find_changes(Qcow2Chain *chain, guint index, GArray *ret, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    uint64_t unit;

    if (!qcow2_image_bitmap_unit(image, &unit, error)) {
        return false;
    }
    if (unit == 0) {
        return true;
    }
    g_autoptr(Qcow2State) active = qcow2_state_open(chain, "@active", error);
    g_autoptr(Qcow2State) snapshot = active ? qcow2_state_open_at(chain, index, error) : NULL;
    return snapshot && qcow2_find_changes(active, snapshot, unit, ret, NULL, error);
}

bool qcow2_snapshot_apply(Qcow2Chain *chain, const char *state, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    g_autoptr(GArray) changes = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    guint index;
    bool ok = check_format(image, error) && qcow2_find_snapshot(image, state, &index, error)
           && find_changes(chain, index, changes, error)
           && qcow2_image_apply_snapshot(image, index, changes, error);

    return ok || fail_named(chain, error);
}

bool qcow2_snapshot_delete(Qcow2Chain *chain, const char *state, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    guint index;
    bool ok = check_format(image, error) && qcow2_find_snapshot(image, state, &index, error)
           && qcow2_image_delete_snapshot(image, index, error);

    return ok || fail_named(chain, error);
}

bool qcow2_snapshot_rename(Qcow2Chain *chain, const char *state, const char *new_name, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    guint index;
    bool ok = check_format(image, error) && qcow2_find_snapshot(image, state, &index, error)
           && check_name_free(image, new_name, index, error)
           && qcow2_image_rename_snapshot(image, index, new_name, error);

    return ok || fail_named(chain, error);
}
