/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What recorder, trace and fault injector share: a place that passes every call on to the one below it. */
#ifndef QCOW2_IO_STACK_H
#define QCOW2_IO_STACK_H

#include "io/io.h"

/* The head of a stacked place. It has its own table, since that depends on what @below can do. */
typedef struct Qcow2StackIo {
    Qcow2Io io;
    Qcow2IoOps ops;
    Qcow2Io *below;
} Qcow2StackIo;

/**
 * qcow2_stack_init: takes a reference to @below and passes all its calls on. The caller then puts its own
 * calls into @stack->ops, whose close must call qcow2_stack_close().
 */
void qcow2_stack_init(Qcow2StackIo *stack, Qcow2Io *below);

/** qcow2_stack_close: drops the reference to the place below. */
void qcow2_stack_close(Qcow2Io *io);

static inline Qcow2Io *qcow2_stack_below(Qcow2Io *io)
{
    return ((Qcow2StackIo *) io)->below;
}

#endif
