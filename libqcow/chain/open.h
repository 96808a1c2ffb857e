/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening the files behind a place, and finding out what format they hold. Internal to chain/. */
#ifndef QCOW2_CHAIN_OPEN_H
#define QCOW2_CHAIN_OPEN_H

#include "chain/chain.h"

/**
 * qcow2_layer_open:
 * @place: taken over, also on failure
 * @writable: open it for writing; what lower layers never are
 *
 * Opens the file, probes its format unless @place tells it, takes QEMU's locks, reads the header.
 */
Qcow2Layer *qcow2_layer_open(Qcow2Place *place, const Qcow2OpenOptions *options, bool writable,
                             GError **error);

/** qcow2_layer_open_io: the same for bytes that are open already. */
Qcow2Layer *qcow2_layer_open_io(Qcow2Place *place, Qcow2Io *io, const Qcow2OpenOptions *options,
                                GError **error);

/** qcow2_layer_on_trial: another one of the same places that writes none of them; its data file is open. */
Qcow2Layer *qcow2_layer_on_trial(const Qcow2Layer *layer, GError **error);
void qcow2_layer_free(Qcow2Layer *layer);

/** qcow2_layer_find_data: opens the data file that a layer records. */
Qcow2Io *qcow2_layer_find_data(const Qcow2Layer *layer, const Qcow2OpenOptions *options, GError **error);

#endif
