/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What several states of one image get from the layers below: each cluster is moved once, and all of them
 * refer to it.
 */
#ifndef QCOW2_MOVE_PLACED_H
#define QCOW2_MOVE_PLACED_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Qcow2Placed Qcow2Placed;

/** qcow2_placed_new: @cluster_size is the step between the entries of neighbours in a run. */
Qcow2Placed *qcow2_placed_new(uint64_t cluster_size);
void qcow2_placed_free(Qcow2Placed *placed);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Placed, qcow2_placed_free)

/** qcow2_placed_next_state: what is added from here on is in order again. */
void qcow2_placed_next_state(Qcow2Placed *placed);

/**
 * qcow2_placed_add:
 * @raw: the table entry of the first cluster, without COPIED
 *
 * In rising order. Nothing more is remembered when memory would go past some MiB: what is not found again is
 * moved again.
 */
void qcow2_placed_add(Qcow2Placed *placed, uint64_t first_cluster, uint64_t n_clusters, uint64_t raw);

/**
 * qcow2_placed_find:
 * @n_clusters: how many are asked for
 * @ret_raw: the entry of @cluster, 0 when it is not there
 *
 * Returns: how many clusters from @cluster on are as it is: there in one run, or not there.
 */
uint64_t qcow2_placed_find(const Qcow2Placed *placed, uint64_t cluster, uint64_t n_clusters,
                           uint64_t *ret_raw);

#endif
