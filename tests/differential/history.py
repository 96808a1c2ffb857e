# SPDX-License-Identifier: LGPL-2.1-or-later
"""A chain of disk models: what every file and snapshot must read as, and what the dirty bitmaps must hold."""

import os

import dirty
import images
from disk_model import SECTOR, MadeByQemu, Model
from shell import Failure


def changed_ranges(before, after):
    """Sectors that differ, joined; past its end a disk reads as zeros."""
    ranges, end = [], max(len(before), len(after))
    for start in range(0, end, SECTOR):
        if before[start:start + SECTOR].ljust(SECTOR, b"\0") != after[start:start + SECTOR].ljust(SECTOR, b"\0"):
            if ranges and ranges[-1][1] == start:
                ranges[-1][1] = start + SECTOR
            else:
                ranges.append([start, start + SECTOR])
    return ranges


class File(Model):
    """One file of the chain. @bitmaps: for each name the ranges that have changed since it was added."""

    def __init__(self, shell, layer, lower):
        super().__init__(shell, images.Image(layer, lower, images.snapshot_list(shell, layer.name)))
        self.bitmaps = {}
        self.inherited = set()      # names of bitmaps that have just come from merged images: they say themselves
        self.old = bytes(self.active)

    def become(self, disk):
        """The base of a merge: its end stays when it is the larger one."""
        if len(disk) > self.size:
            self.resize(len(disk))
        self.write(0, disk)

    def inherit_bitmaps(self, others):
        """One that the base has is merged by name; unless all merged images have it, it also gets what is written."""
        had = set(self.bitmaps)
        for other in others:
            for name, ranges in other.bitmaps.items():
                self.bitmaps.setdefault(name, []).extend(ranges)
        self.inherited = {name for name in self.bitmaps
                          if name not in had or all(name in other.bitmaps for other in others)}

    def note_changes(self):
        for name, ranges in self.bitmaps.items():
            if name not in self.inherited:
                ranges.extend(changed_ranges(self.old, self.active))
        self.inherited = set()

    def require_bitmaps(self):
        found = dirty.bits(self.shell, self.name) if self.bitmaps else {}
        for name, ranges in self.bitmaps.items():
            if name not in found:
                raise Failure(f"{self.name} has lost its bitmap {name!r}")
            for start, end in ranges:
                at = dirty.not_covered([[start, end]], found[name], self.size)
                if at is not None:
                    raise Failure(f"bitmap {name!r} of {self.name} misses what changed at {at}")

    def require_all(self):
        self.require_clean()
        self.require_contents()
        self.require_bitmaps()


class RawFile(File):
    """A raw base: no snapshots, no bitmaps, nothing to check."""

    def __init__(self, shell, layer):    # pylint: disable=super-init-not-called
        self.shell, self.top, self.lower, self.name = shell, layer, [], layer.name
        self.below, self.snapshots, self.bitmaps, self.inherited = b"", [], {}, set()
        self.active = bytearray(self.read_active(format="raw"))
        self.old = bytes(self.active)

    def require_all(self):
        self.require_active(self.read_active(format="raw"))


class Life:
    """The files of the chain, the top first."""

    def __init__(self, shell, files):
        self.shell, self.files, self.n_made = shell, files, 0

    @property
    def top(self):
        return self.files[0]

    def new_name(self):
        self.n_made += 1
        return f"layer{self.n_made}.qcow2"

    def add(self, layer):
        self.files.insert(0, File(self.shell, layer, [file.top for file in self.files]))

    def put_below(self, layer):
        self.files.append(File(self.shell, layer, []))

    def drop(self, first, last):
        """Files that have left the chain."""
        for file in self.files[first:last]:
            os.remove(self.shell.path(file.name))
        del self.files[first:last]

    def step(self, step, chooser, counts_changes):
        """@counts_changes: a resize by QEMU marks nothing."""
        for file in self.files:
            file.old = bytes(file.active)
        step(self, chooser)
        for i, file in enumerate(self.files):
            file.lower = [below.top for below in self.files[i + 1:]]
            file.below = bytes(self.files[i + 1].active) if i + 1 < len(self.files) else b""
            if counts_changes or len(file.active) == len(file.old):
                file.note_changes()
        for file in self.files:
            file.require_all()


def start(shell, chooser):
    """A clean chain made by QEMU."""
    image = images.make_image_or_none(shell, chooser, depths=(0, 0, 1, 1, 2, 3))
    if not image:
        raise MadeByQemu("while it was made")
    layers, files = [image.top, *image.lower], []
    for i, layer in enumerate(layers):
        if layer.format == "raw":
            files.append(RawFile(shell, layer))
            continue
        layer.has_compressed = True
        if any(shell.result(*judge, "-f", "qcow2", layer.name)[0] for judge in (["qemu-io", "-c", "flush"],
                                                                                ["qemu-img", "check", "-q"])):
            raise MadeByQemu("while it was made")
        files.append(File(shell, layer, layers[i + 1:]))
    life = Life(shell, files)
    for file in files:
        file.require_all()
    return life
