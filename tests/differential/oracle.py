# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where two states of an image differ, found without the code under test.

The image's own tables are read here, straight from the specification; what lies below them is asked of
"qemu-img map". A state is a list of runs, [start, end, kind, value], that covers it:

    data        value: host offset minus guest offset, equal along a run
    compressed  value: the table entry, which holds the place of the stream
    zero        reads as zeros
    below       reads what the backing file holds
"""

import json
import struct

L1_OFFSET = L2_OFFSET = 0x00fffffffffffe00
COMPRESSED, COPIED, ZERO = 1 << 62, 1 << 63, 1
INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_EXTENDED_L2 = 1 << 2, 1 << 4
AUTOCLEAR_RAW_DATA = 1 << 1


def push(runs, start, end, kind, value=0):
    if start >= end:
        return
    if runs and runs[-1][2:] == [kind, value] and runs[-1][1] == start and kind != "compressed":
        runs[-1][1] = end
    else:
        runs.append([start, end, kind, value])


def clip(runs, end):
    return [[start, min(stop, end), kind, value] for start, stop, kind, value in runs if start < end]


class Tables:
    """The tables of one qcow2 file."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.version, = self.unpack(">I", 4)
        cluster_bits, self.size = self.unpack(">IQ", 20)
        self.l1_size, self.l1_offset, = self.unpack(">IxxxxxxxxQ", 36)[0], self.unpack(">Q", 40)[0]
        self.n_snapshots, self.snapshots_offset = self.unpack(">IQ", 60)
        self.cluster_size = 1 << cluster_bits
        features = self.unpack(">Q", 72)[0] if self.version > 2 else 0
        self.extended_l2 = bool(features & INCOMPATIBLE_EXTENDED_L2)
        self.data_file = bool(features & INCOMPATIBLE_DATA_FILE)
        self.raw_data = self.version > 2 and bool(self.unpack(">Q", 88)[0] & AUTOCLEAR_RAW_DATA)
        self.subcluster_size = self.cluster_size // 32 if self.extended_l2 else self.cluster_size

    def unpack(self, form, offset):
        size = struct.calcsize(form)
        return struct.unpack(form, self.bytes[offset:offset + size].ljust(size, b"\0"))

    def snapshot_table(self):
        """For each snapshot's id: its L1 table's offset, its number of entries, the disk's size."""
        found, offset = {}, self.snapshots_offset
        for _ in range(self.n_snapshots):
            l1_offset, l1_size, id_len, name_len = self.unpack(">QIHH", offset)
            extra_len, = self.unpack(">I", offset + 36)
            extra = offset + 40
            size = self.unpack(">Q", extra + 8)[0] if extra_len >= 16 else self.size
            ident = self.bytes[extra + extra_len:extra + extra_len + id_len].decode()
            found[ident] = (l1_offset, l1_size, size)
            offset = (extra + extra_len + id_len + name_len + 7) & ~7
        return found

    def push_subclusters(self, runs, start, entry, bitmap):
        unit = self.subcluster_size
        for i in range(32):
            allocated, zero = bitmap >> i & 1, bitmap >> (32 + i) & 1
            kind = "zero" if zero else "data" if allocated else "below"
            value = (entry & L2_OFFSET) - start if kind == "data" else 0
            push(runs, start + i * unit, start + (i + 1) * unit, kind, value)

    def push_entry(self, runs, start, entry, bitmap):
        end = start + self.cluster_size
        offset = entry & L2_OFFSET
        if entry & COMPRESSED:
            push(runs, start, end, "compressed", entry & ~COPIED)
        elif self.extended_l2:
            self.push_subclusters(runs, start, entry, bitmap)
        elif self.version > 2 and entry & ZERO:
            push(runs, start, end, "zero")
        elif offset or (self.data_file and entry & COPIED):
            push(runs, start, end, "data", offset - start)
        else:
            push(runs, start, end, "below")

    def runs(self, l1_offset, l1_size, size):
        entry_size = 16 if self.extended_l2 else 8
        n_entries = self.cluster_size // entry_size
        coverage = n_entries * self.cluster_size
        runs = []
        for i in range(-(-size // coverage)):
            l2_offset = self.unpack(">Q", l1_offset + 8 * i)[0] & L1_OFFSET if i < l1_size else 0
            if not l2_offset:
                push(runs, i * coverage, (i + 1) * coverage, "below")
                continue
            words = self.unpack(f">{self.cluster_size // 8}Q", l2_offset)
            step = entry_size // 8
            for j in range(n_entries):
                self.push_entry(runs, i * coverage + j * self.cluster_size, words[j * step],
                                words[j * step + 1] if step == 2 else 0)
        return clip(runs, size)

    def active_runs(self):
        return self.runs(self.l1_offset, self.l1_size, self.size)


def zero_ranges(shell, name, format):
    """Where a file, with all below it, reads as zeros by its metadata; ends where the file ends."""
    entries = json.loads(shell.run("qemu-img", "map", "-f", format, "--output=json", name))
    zeros, end = [], 0
    for entry in entries:
        end = entry["start"] + entry["length"]
        if entry["zero"] and not entry["data"]:
            push(zeros, entry["start"], end, "zero")
    return zeros, end


# ---- Comparing ---------------------------------------------------------------------------------------

def pieces(a, b):
    """Both lists cut at each other's borders."""
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            yield start, end, a[i], b[j]
        i, j = i + (a[i][1] == end), j + (b[j][1] == end)


def with_zeros_below(runs, zeros, below_end):
    """Runs of kind "below" that read as zeros become "zero"."""
    cover = []
    for start, end, _, _ in zeros:
        push(cover, cover[-1][1] if cover else 0, start, "below")
        push(cover, start, end, "zero")
    push(cover, cover[-1][1] if cover else 0, below_end, "below")
    push(cover, below_end, 1 << 62, "zero")

    result = []
    for start, end, run, below in pieces(runs, cover):
        push(result, start, end, below[2] if run[2] == "below" else run[2], run[3])
    return result


def differing(from_runs, to_runs, smaller, larger_bytes, cluster_size):
    """
    Ranges in which the descriptors of two states say different things, up to the end of the second.

    From its end on, the smaller state is zeros; in the cluster in which it ends, bytes decide.
    """
    end = to_runs[-1][1] if to_runs else 0
    straddle_end = -(-smaller // cluster_size) * cluster_size
    found = []
    if len(from_runs) == 0 or from_runs[-1][1] < end:
        from_runs = from_runs + [[from_runs[-1][1] if from_runs else 0, end, "zero", 0]]
    for start, stop, a, b in pieces(from_runs, to_runs):
        if a[2:] != b[2:]:
            push(found, start, stop, "differs")

    straddle = larger_bytes[smaller:straddle_end]
    if any(straddle):
        return found
    result = []
    for start, stop, _, _ in found:
        push(result, start, min(stop, smaller), "differs")
        push(result, max(start, straddle_end), stop, "differs")
    return result


def clusters_of(ranges, cluster_size):
    """The clusters that ranges touch."""
    touched = set()
    for start, end, *_ in ranges:
        touched.update(range(start // cluster_size, -(-end // cluster_size)))
    return touched
