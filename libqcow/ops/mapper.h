/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest ranges in the terms of QEMU's block status: depth, present, zero, data, offset. Range for range what
 * qemu-img map prints.
 */
#ifndef QCOW2_OPS_MAPPER_H
#define QCOW2_OPS_MAPPER_H

#include "state/state.h"

/** A state that is ready to be mapped, from any number of threads. */
typedef struct Qcow2Mapper Qcow2Mapper;

/** qcow2_mapper_new: opens all layers; borrows the state. */
Qcow2Mapper *qcow2_mapper_new(Qcow2State *state, GError **error);
void qcow2_mapper_free(Qcow2Mapper *mapper);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Mapper, qcow2_mapper_free)

/** qcow2_mapper_step: guest bytes that one call should be for; a power of two. */
uint64_t qcow2_mapper_step(const Qcow2Mapper *mapper);

/** qcow2_mapper_finds_holes: whether data may be found to be zero, since its file has a hole there. */
bool qcow2_mapper_finds_holes(const Qcow2Mapper *mapper);

/**
 * qcow2_mapper_map:
 * @ranges: sorted; past the end of the state there are zeros
 * @ret_extents: emptied, then gets Qcow2MapExtent in guest order, neighbours merged
 */
bool qcow2_mapper_map(const Qcow2Mapper *mapper, const Qcow2Range *ranges, size_t n_ranges,
                      GArray *ret_extents, GError **error);

/** qcow2_map_continues: whether @next is more of @last, in the guest and on the host. */
bool qcow2_map_continues(const Qcow2MapExtent *last, const Qcow2MapExtent *next);

/** qcow2_map_push: appends to an array of Qcow2MapExtent, joining what continues. */
void qcow2_map_push(GArray *extents, const Qcow2MapExtent *extent);

#endif
