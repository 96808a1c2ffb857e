/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libqcow2: read qcow2 images, the states that they hold, and what differs between states.
 *
 * The whole public interface; who uses the library includes this header. Three nouns carry it:
 *
 *   Qcow2Chain   an image and, opened only when something needs them, the images below it
 *   Qcow2State   what a guest saw at one moment: the active layer, a snapshot, or nothing at all
 *   Qcow2Progress  how far a long operation is, and the way to stop it
 *
 * Conventions: offsets and lengths are bytes unless a name says clusters. A function that takes a
 * GError returns false or NULL exactly when it sets it. Objects are freed by their _free function, or
 * by g_autoptr. Names from images are raw bytes, not UTF-8: print them through qcow2_escape_name().
 * A chain and its states belong to one thread at a time; the library makes its own worker threads.
 */
#ifndef LIBQCOW2_H
#define LIBQCOW2_H

#include "libqcow2/base.h"
#include "libqcow2/chain.h"
#include "libqcow2/change.h"
#include "libqcow2/check.h"
#include "libqcow2/copy.h"
#include "libqcow2/delta.h"
#include "libqcow2/merge.h"

#endif
