# SPDX-License-Identifier: LGPL-2.1-or-later
"""A chain of images made by QEMU, other overlays of its layers, and what each file and snapshot reads as."""

import hashlib
import json
import os

import images
from shell import Failure

# What cannot be done, and is said so before anything is written.
REFUSALS = ["data file", "dirty bit", "refcount", "marked corrupt", "backing file already", "compat=0.10", "version 2", "raw image"]


def require(condition, what):
    if not condition:
        raise Failure(what)


class Unreadable(Exception):
    """QEMU cannot apply a snapshot of narrow counts, which is how it is read."""


class Chain:
    """Layers, the top first, then other images over them; and what each file reads as."""

    def __init__(self, shell, chooser, image):
        self.shell, self.chooser = shell, chooser
        self.layers = [image.top, *image.lower]
        self.n_made = self.n_refused = 0
        self.backing = dict(zip([layer.name for layer in self.layers], [*self.layers[1:], None]))

    def below(self, layer):
        """The layers below, the nearest first."""
        lower = self.backing.get(layer.name)
        return [lower, *self.below(lower)] if lower else []

    def read_backing(self):
        """As the headers say now; those that a merge has marked cannot be read."""
        names = {one.name: one for one in [*self.layers, *self.backing.values()] if one}
        for one in self.layers:
            code, printed = self.shell.result("qemu-img", "info", "-f", one.format, "--output=json", one.name)
            if code == 0:
                name = json.loads(printed).get("backing-filename", "")
                name = json.loads(name[5:])["file"]["filename"] if name.startswith("json:") else name
                self.backing[one.name] = names[os.path.basename(name)] if name else None

    def image(self, layer):
        snapshots = images.snapshot_list(self.shell, layer.name) if layer.format == "qcow2" else []
        return images.Image(layer, self.below(layer), snapshots)

    def new_name(self, suffix):
        self.n_made += 1
        return f"other{self.n_made}{suffix}"

    def make_over(self, below):
        """Another qcow2 image, over one that is there or none."""
        layer = images.make_qcow2(self.shell, self.chooser, self.new_name(".qcow2"), below, self.chooser.random() < 0.2)
        images.write_some(self.shell, self.chooser, layer, most=4)
        self.backing[layer.name] = below
        return layer

    def forget(self, gone):
        """These files, and what reads through them, are judged no more."""
        self.layers = [one for one in self.layers if one not in gone and not any(g in self.below(one) for g in gone)]

    # ---- Bytes -------------------------------------------------------------------------------------------

    def digest(self, name):
        with open(self.shell.path(name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def bytes_of(self, name):
        """Of the file and its data file."""
        return [self.digest(file) for file in (name, name + ".data") if os.path.exists(self.shell.path(file))]

    def files(self, but=None):
        return {one.name: self.bytes_of(one.name) for one in self.layers if one is not but}

    def raw_bytes(self, layer, snapshot=None):
        if snapshot:
            images.snapshot_to_raw(self.shell, self.image(layer), snapshot, "state.raw")
        else:
            images.convert(self.shell, layer.name, "state.raw", layer.format)
        with open(self.shell.path("state.raw"), "rb") as file:
            return file.read()

    def contents(self, layer):
        """The digest of each state of a file, by QEMU."""
        images.convert(self.shell, layer.name, "state.raw", layer.format)
        result = {"": self.digest("state.raw")}
        image = self.image(layer)
        for snapshot in image.snapshots:
            try:
                images.snapshot_to_raw(self.shell, image, snapshot, "state.raw")
            except Failure:
                if layer.refcount_bits < 16:    # applying a snapshot counts one more reference
                    raise Unreadable from None
                raise
            result[snapshot.name] = self.digest("state.raw")
        os.remove(self.shell.path("state.raw"))
        return result

    def check(self, layer):
        if layer.format == "qcow2":
            self.shell.run("qemu-img", "check", "-q", "-f", "qcow2", layer.name)

    # ---- Commands ----------------------------------------------------------------------------------------

    def attempt(self, command, refusals=()):
        """Runs one of our commands; what it says when it refuses. Now and then a dry run comes first."""
        if self.chooser.random() < 0.15:
            before = self.files()
            self.shell.attempt(command[0], "--dry-run", *command[1:])
            require(self.files() == before, f"a dry run has changed something: {' '.join(command)}")
        code, printed = self.shell.attempt(*command)
        if code == 0:
            return None
        require(code == 1 and any(reason in printed for reason in [*REFUSALS, *refusals]),
                f"exit {code}: {' '.join(command)}\n{printed}")
        self.n_refused += 1
        return printed


# ---- Making --------------------------------------------------------------------------------------------

def take_snapshots(shell, chooser, layer):
    """Of differing sizes: all layers have what only the top of an image has in other tests."""
    for i in range(chooser.choice([1, 1, 2, 3])):
        if shell.attempt("qemu-img", "snapshot", "-c", f"low {i}", layer.name)[0] != 0:
            return
        images.write_some(shell, chooser, layer, most=3)
        if layer.compat == "1.1" and chooser.random() < 0.3:
            images.resize(shell, chooser, layer)


def add_bitmaps(shell, chooser, layer):
    for name in chooser.sample(["bits", "b 2", "off"], chooser.choice([1, 2, 3])):
        granularity = chooser.choice([[], ["-g", "512"], ["-g", "4k"], ["-g", "1M"]])
        shell.run("qemu-img", "bitmap", "--add", *granularity, layer.name, name, ok=None)
    images.write_some(shell, chooser, layer, most=3)
    if chooser.random() < 0.5:
        shell.run("qemu-img", "bitmap", "--disable", layer.name, "off", ok=None)


def add_states(shell, chooser, layer, may_take_snapshots):
    if layer.format != "qcow2" or layer.data_file or layer.refcount_bits <= 8:
        return
    kind = chooser.random()
    if kind < 0.35 and may_take_snapshots:
        take_snapshots(shell, chooser, layer)
    elif 0.35 < kind < 0.6 and layer.compat == "1.1":    # QEMU applies no snapshot beside a bitmap: one or the other
        if not images.snapshot_list(shell, layer.name):
            add_bitmaps(shell, chooser, layer)


def is_sound(shell, layer):
    """What was left dirty is made clean; what QEMU has broken is no case."""
    if layer.format != "qcow2":
        return True
    judges = [["qemu-io", "-c", "flush"], ["qemu-img", "check", "-q"]]
    if layer.lazy_refcounts:
        judges.append(["qemu-img", "compare", "-q", "-F", "qcow2", layer.name])
    return all(shell.result(*judge, "-f", "qcow2", layer.name)[0] == 0 for judge in judges)


def make_chain(shell, chooser):
    """None when QEMU has broken a layer of it."""
    image = images.make_image_or_none(shell, chooser, depths=(1, 2, 2, 3, 4, 5))
    if not image:
        return None
    for layer in image.lower:
        add_states(shell, chooser, layer, True)
    add_states(shell, chooser, image.top, False)
    chain = Chain(shell, chooser, image)
    for _ in range(chooser.choice([0, 0, 0, 1, 2])):
        chain.layers.append(chain.make_over(chooser.choice(chain.layers)))
    return chain if all(is_sound(shell, layer) for layer in chain.layers) else None
