# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an image must hold, as plain bytes: the active layer, each snapshot, and what lies below."""

import hashlib
import json
import os
from dataclasses import dataclass

import images
import oracle
from shell import Failure

SECTOR = 512


class MadeByQemu(Exception):
    """QEMU itself has broken the image: nothing to judge by."""


@dataclass
class Snapshot:
    id: str
    name: str
    bytes: bytes
    vm_state: bytes = b""


def where(wanted, found):
    """Says where two disks differ."""
    if len(wanted) != len(found):
        return f"{len(found)} bytes instead of {len(wanted)}"
    low, high = 0, len(wanted)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wanted[low:middle] != found[low:middle] else (middle, high)
    return f"first at {low}: {found[low]} instead of {wanted[low]}"


class Model:
    """An image file and what its states must read as."""

    def __init__(self, shell, image):
        self.shell, self.top, self.lower = shell, image.top, image.lower    # lower: the nearest first
        self.name = image.top.name
        self.below = self.read_below()
        self.active = bytearray(self.read_active())
        self.snapshots = [Snapshot(entry.id, entry.name, self.read_snapshot(entry)) for entry in image.snapshots]

    # ---- By QEMU ---------------------------------------------------------------------------------------

    def take_file(self, name):
        path = self.shell.path(name)
        with open(path, "rb") as file:
            content = file.read()
        os.remove(path)
        return content

    def read_below(self):
        if not self.lower:
            return b""
        images.convert(self.shell, self.lower[0].name, "below.raw", self.lower[0].format)
        return self.take_file("below.raw")

    def read_active(self, name=None, format="qcow2"):
        images.convert(self.shell, name or self.name, "active.raw", format)
        return self.take_file("active.raw")

    def read_snapshot(self, entry):
        image = images.Image(self.top, self.lower)
        images.snapshot_to_raw(self.shell, image, entry, "snapshot.raw")
        return self.take_file("snapshot.raw")

    def info(self):
        return images.image_info(self.shell, self.name)

    def can_be_applied(self):
        """QEMU raises the counts of what it applies before it lowers those of what goes."""
        return self.refcount_bits() >= 16 or len(self.snapshots) <= images.most_snapshots(self.top)

    # ---- Options of the image as it is now -------------------------------------------------------------

    def refcount_bits(self):
        return self.top.refcount_bits

    @property
    def size(self):
        return len(self.active)

    def below_at(self, start, end):
        return self.below[start:end].ljust(end - start, b"\0")

    # ---- Changes ---------------------------------------------------------------------------------------

    def write(self, start, content):
        self.active[start:start + len(content)] = content

    def resize(self, size):
        del self.active[size:]
        self.active.extend(bytes(size - len(self.active)))
        self.top.size = size

    def apply(self, snapshot):
        self.active = bytearray(snapshot.bytes)
        self.top.size = self.size

    def add_snapshot(self, name, vm_state=b""):
        taken = [entry for entry in self.info()["snapshots"] if entry["id"] not in [s.id for s in self.snapshots]]
        if len(taken) != 1 or taken[0]["name"] != name:
            raise Failure(f"the new snapshot should be {name!r}: {taken}")
        self.snapshots.append(Snapshot(taken[0]["id"], name, bytes(self.active), vm_state))

    def absorb(self, start, end, fresh):
        """
        Between start and end QEMU may have done all, some or nothing: each sector is what it was, or what
        one of the disks of @fresh has there. What it is now is what it must be from here on.
        """
        found = self.read_active()
        if len(found) != self.size:
            raise Failure(f"the disk has {len(found)} bytes instead of {self.size}")
        self.require_active(found, start, end)
        for sector in range(start // SECTOR * SECTOR, end, SECTOR):
            stop = min(sector + SECTOR, self.size)
            part = found[sector:stop]
            if part != self.active[sector:stop] and not any(part == disk(sector, stop) for disk in fresh):
                raise Failure(f"the sector at {sector} is neither old nor new")
        self.active = bytearray(found)

    # ---- Judging ---------------------------------------------------------------------------------------

    def digest(self):
        """Of every file that the image's data is in."""
        digests = []
        for name in sorted(os.listdir(self.shell.folder)):
            if name.startswith(self.name):
                with open(self.shell.path(name), "rb") as file:
                    digests.append((name, hashlib.sha256(file.read()).hexdigest()))
        return digests

    def require_active(self, found, start=0, end=0):
        """All but [start, end) reads as it must."""
        wanted = bytearray(self.active)
        wanted[start:end] = found[start:end]
        if wanted != found:
            raise Failure(f"the active layer differs: {where(wanted, found)}")

    def check_by_qemu(self):
        """What is wrong, or nothing."""
        code, text = self.shell.attempt("qemu-img", "check", "-f", "qcow2", self.name)
        return f"qemu-img check: exit {code}\n{text}" if code else None

    def require_clean(self):
        problem = self.check_by_qemu()
        if problem:
            raise Failure(problem)
        self.shell.run("qcow-check", "-q", self.name)

    def require_list(self):
        wanted = [(s.id, s.name, len(s.vm_state)) for s in self.snapshots]
        found = [(s["id"], s["name"], s["vm-state-size"]) for s in self.info().get("snapshots", [])]
        if wanted != found:
            raise Failure(f"the snapshots should be {wanted}: {found}")

    def require_raw_data(self):
        """A raw data file is the disk."""
        if self.top.data_file and oracle.Tables(self.shell.path(self.name)).raw_data:
            with open(self.shell.path(self.name + ".data"), "rb") as file:
                found = file.read(self.size).ljust(self.size, b"\0")
            if found != self.active:
                raise Failure(f"the raw data file differs: {where(self.active, found)}")

    def require_snapshot(self, snapshot):
        if len(snapshot.bytes) == self.size:
            self.shell.run("qemu-img", "convert", "-f", "qcow2", "-l", f"snapshot.id={snapshot.id}", "-O", "raw",
                           self.name, "snapshot.raw")
            found = self.take_file("snapshot.raw")
        elif self.can_be_applied():
            found = self.read_snapshot(snapshot)
        else:
            return
        if found != snapshot.bytes:
            raise Failure(f"snapshot {snapshot.id} differs: {where(snapshot.bytes, found)}")

    def require_vm_state(self, snapshot):
        self.shell.run("qcow-vmstate", "-q", "-x", f"id:{snapshot.id}", "found.vmstate", self.name)
        if self.take_file("found.vmstate") != snapshot.vm_state:
            raise Failure(f"the VM state of snapshot {snapshot.id} differs")

    def require_contents(self):
        """Everything that can be read."""
        self.require_list()
        self.require_active(self.read_active())
        self.require_raw_data()
        for snapshot in self.snapshots:
            self.require_snapshot(snapshot)
            if snapshot.vm_state:
                self.require_vm_state(snapshot)

    # ---- Deltas ----------------------------------------------------------------------------------------

    def present_ranges(self, name):
        """What an image maps itself, by QEMU."""
        text = self.shell.run("qemu-img", "map", "-f", "qcow2", "--output=json", name)
        return [(e["start"], e["start"] + e["length"]) for e in json.loads(text) if e["depth"] == 0 and e["present"]]
