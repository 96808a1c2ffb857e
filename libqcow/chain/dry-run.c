/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the places of a chain, all of which are on trial, were asked for. */
#include "chain/chain.h"
#include "io/trial.h"

static void add_trial(Qcow2Io *io, Qcow2Room *room, Qcow2DryRun *ret)
{
    Qcow2TrialSums sums;

    if (!qcow2_io_trial_get(io, &sums)) {
        return;
    }
    ret->growth += sums.growth;
    ret->freed += sums.freed;
    ret->needed += sums.needed;
    qcow2_room_need(room, sums.below, sums.needed);
    if (sums.has_available) {
        ret->available = ret->has_available ? MIN(ret->available, sums.available) : sums.available;
        ret->has_available = true;
    }
}

void qcow2_chain_add_dry_run(const Qcow2Chain *chain, Qcow2Room *room, Qcow2DryRun *ret)
{
    for (unsigned i = 0; i < chain->layers->len; i++) {
        const Qcow2Image *image = qcow2_chain_image(chain, i);
        add_trial(image->file, room, ret);
        if (image->data && image->data != image->file) {
            add_trial(image->data, room, ret);
        }
    }
    ret->fits = qcow2_room_check(room, NULL);
}

void qcow2_chain_get_dry_run(const Qcow2Chain *chain, Qcow2DryRun *ret)
{
    g_autoptr(Qcow2Room) room = qcow2_room_new();

    *ret = (Qcow2DryRun) { 0 };
    qcow2_chain_add_dry_run(chain, room, ret);
}
