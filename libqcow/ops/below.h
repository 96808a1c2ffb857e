/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the layers below an image hold. Internal to ops/. */
#ifndef QCOW2_OPS_BELOW_H
#define QCOW2_OPS_BELOW_H

#include "state/state.h"

typedef struct Qcow2Below {
    bool exists;
    Qcow2Chain *chain;
    Qcow2State state;         /* as the layers below read by themselves */
} Qcow2Below;

/** qcow2_below_open: opens what is below layer 0 of @chain; the chain must live longer. */
bool qcow2_below_open(Qcow2Chain *chain, Qcow2Below *ret, GError **error);

/** qcow2_below_shown: a Qcow2ShownFunc; @data is a Qcow2Below that exists. */
bool qcow2_below_shown(const Qcow2Range *range, GArray *ret_ranges, void *data, GError **error);

/** qcow2_below_read: guest bytes; zeros where there is nothing. */
bool qcow2_below_read(Qcow2Below *below, Qcow2Reader *reader, const Qcow2Range *range, uint8_t *buffer,
                      GError **error);

#endif
