# SPDX-License-Identifier: LGPL-2.1-or-later
"""qcow-commit on a random part of a chain."""

import os

import dirty
import images
from chain import REFUSALS, require


class Merge:
    """One qcow-commit: the layers from top down to above base, below one image."""

    def __init__(self, chain, layer):
        chooser = chain.chooser
        self.chain, self.layers = chain, [layer, *chain.below(layer)]
        self.top = chooser.choice([0, 0, chooser.randrange(len(self.layers) - 1)])
        self.base = chooser.choice([self.top + 1, chooser.randrange(self.top + 1, len(self.layers))])
        self.keeps_image = self.top == 0 and chooser.random() < 0.3
        self.forces = chooser.random() < 0.2
        self.deletes = chooser.random() < 0.2
        self.merges_bitmaps = chooser.random() < 0.4
        self.preserved = []
        self.outside = [other for other in chain.layers if other not in self.layers and self.join(other) is not None]
        if chooser.random() < 0.6:
            self.preserved = [*self.outside, *[one for one in self.layers[:self.base] if one.format == "qcow2"
                                               and images.snapshot_list(chain.shell, one.name)]]
        elif chooser.random() < 0.3:
            self.preserved = [one for one in self.middle() if chooser.random() < 0.7]

    def join(self, other):
        """The index of the first layer of ours in another image's chain, if it changes or goes."""
        for below in self.chain.below(other):
            if below in self.layers:
                index = self.layers.index(below)
                return index if self.top < index <= self.base else None
        return None

    def name(self, index):
        return self.chain.chooser.choice([self.layers[index].name, f"[{index}]"])

    def command(self):
        base = self.layers[self.base]
        result = ["qcow-commit", "-F", base.format]
        if self.base != self.top + 1 or self.chain.chooser.random() < 0.5:
            result += ["-b", self.name(self.base)]
        if self.top:
            result += ["--top", self.name(self.top)]
        for option, is_given in (("-d", self.keeps_image), ("--force", self.forces), ("--delete", self.deletes),
                                 ("--bitmaps", self.merges_bitmaps)):
            result += [option] if is_given else []
        for other in self.preserved:
            result += ["--preserve", other.name]
        return [*result, self.layers[0].name]

    def middle(self):
        return self.layers[self.top + 1:self.base]

    def deleted(self):
        """Never a file that is to be preserved."""
        if not self.deletes or self.keeps_image:
            return []
        return [one for one in self.layers[max(self.top, 1):self.base] if one not in self.preserved]

    def invalid(self):
        """Images that need not read the same, or at all."""
        gone = [one for one in self.middle() if one not in self.preserved]
        lost = [one for one in self.outside if one not in self.preserved]
        return [*gone, *lost, self.layers[self.base], *[one for one in self.deleted() if one not in gone]]

    def repoint(self):
        backing, base = self.chain.backing, self.layers[self.base]
        if self.top == 0 and not self.keeps_image:
            backing[self.layers[0].name] = base
        elif self.top > 0:
            backing[self.layers[self.top - 1].name] = base
            backing[self.layers[self.top].name] = base
        for one in self.middle():
            if one in self.preserved:
                backing[one.name] = base
        for one in self.outside:
            if one in self.preserved and self.top < self.join(one) < self.base:
                backing[one.name] = base

    def require_deleted(self):
        for one in self.layers:
            is_there = os.path.exists(self.chain.shell.path(one.name))
            require(is_there == (one not in self.deleted()), f"{one.name} was {'not ' if is_there else ''}deleted")


# ---- Bitmaps -----------------------------------------------------------------------------------------

class Bitmaps:
    """Those of the base must have all bits that they had, and those of what was changed or merged."""

    def __init__(self, merge):
        self.merge, self.shell = merge, merge.chain.shell
        self.base = merge.layers[merge.base]
        self.before = self.bits(self.base)
        self.merged = [self.bits(one) for one in merge.layers[merge.top:merge.base]] if merge.merges_bitmaps else []

    def bits(self, layer):
        return dirty.bits(self.shell, layer.name) if layer.format == "qcow2" and layer.compat == "1.1" else {}

    def require(self, old, new):
        after = self.bits(self.base)
        for found in [self.before, *self.merged]:
            for name, ranges in found.items():
                lost = dirty.not_covered(ranges, after[name], min(len(old), len(new)))
                require(lost is None, f"bitmap {name!r} of {self.base.name} has lost its bit at {lost}")
        flags = {name: flags for name, _, flags in dirty.bitmaps(self.shell, self.base.name)} if after else {}
        for name in self.before:
            says_itself = self.merged and all(name in found for found in self.merged)
            if "auto" in flags[name] and not says_itself:
                at = dirty.missing(after[name], old, new, len(new))
                require(at is None, f"bitmap {name!r} of {self.base.name} misses the change at {at}")


# ---- One commit --------------------------------------------------------------------------------------

def require_done(merge, top, base, bitmaps, snapshots):
    """The base reads as the top did, and its snapshots as before."""
    chain, layer = merge.chain, merge.layers[merge.base]
    merge.repoint()
    merge.require_deleted()
    found = chain.raw_bytes(layer)
    require(found == top + base[len(top):], "base does not read as top")
    after = chain.contents(layer)
    require({name: digest for name, digest in after.items() if name} == snapshots, "base's snapshots changed")
    bitmaps.require(base, found)


def commit(chain, layer):
    """The base reads as the top then, and everything that is said to stay valid reads as before."""
    merge = Merge(chain, layer)
    command = merge.command()
    before = {one.name: chain.contents(one) for one in chain.layers if one not in merge.invalid()}
    originals = {one.name: chain.contents(one) for one in merge.invalid()}
    top, base = (chain.raw_bytes(merge.layers[index]) for index in (merge.top, merge.base))
    snapshots = {name: digest for name, digest in originals[merge.layers[merge.base].name].items() if name}
    bitmaps = Bitmaps(merge)
    refused = chain.attempt(command, [*REFUSALS, "would read otherwise", "nothing to preserve", "cannot grow",
                                      "is backed by", "cannot hold bitmaps", "inconsistent", "internal snapshots with it"])
    if refused:
        require("would read otherwise" not in refused or not merge.forces, f"refused by force\n{refused}")
        before.update(originals)
    else:
        require_done(merge, top, base, bitmaps, snapshots)
    for one in [one for one in chain.layers if one.name in before]:
        after = chain.contents(one)
        own = merge.forces and one in merge.layers and one not in merge.preserved    # its snapshots may change
        names = [name for name in before[one.name] if after.get(name) != before[one.name][name] and not (own and name)]
        require(not names, f"{one.name} reads otherwise: {names}")
    base_layer = merge.layers[merge.base]
    if not refused:
        chain.forget([one for one in merge.invalid() if one is not base_layer])
    for one in chain.layers:
        chain.check(one)
