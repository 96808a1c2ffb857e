# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the metadata of a qcow2 file is, for tests that damage it. Believes what it reads: QEMU made it."""

import struct
from dataclasses import dataclass

OFFSET = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63
COMPRESSED = 1 << 62


@dataclass
class Table:
    """Entries of @width bytes; @kind is what they are."""
    kind: str
    offset: int
    n_entries: int
    width: int = 8

    def place(self, index):
        return self.offset + index * self.width


class Tables:
    """The tables of one file, found once: what is damaged later is still where it was."""

    def __init__(self, file):
        self.file = file
        header = self.read(0, 112).ljust(112, b"\0")
        (self.version,) = struct.unpack_from(">I", header, 4)
        (self.cluster_bits,) = struct.unpack_from(">I", header, 20)
        self.cluster_size = 1 << self.cluster_bits
        self.size, _, self.n_l1, self.l1 = struct.unpack_from(">QIIQ", header, 24)
        self.reftable, self.reftable_clusters = struct.unpack_from(">QI", header, 48)
        self.n_snapshots, self.snapshots = struct.unpack_from(">IQ", header, 60)
        self.incompatible, self.order, self.header_length = 0, 4, 72
        if self.version >= 3:
            self.incompatible, _, _, self.order, self.header_length = struct.unpack_from(">QQQII", header, 72)
        self.l2_width = 16 if self.incompatible & 16 else 8
        self.file_size = file.seek(0, 2)
        self.snapshot_entries = self._snapshot_entries()
        self.bitmap_directory = self._bitmap_directory()
        self.l1_tables = self._l1_tables()
        self.l2_tables = self._l2_tables()
        self.bitmap_tables = self._bitmap_tables()
        self.refcount_table = Table("reftable", self.reftable, self.reftable_clusters * self.cluster_size // 8)
        self.refcount_blocks = self._refcount_blocks()

    def read(self, offset, length):
        self.file.seek(offset)
        return self.file.read(length)

    def words(self, offset, n):
        data = self.read(offset, n * 8)
        return struct.unpack(f">{len(data) // 8}Q", data[:len(data) // 8 * 8])

    def _l1_tables(self):
        tables = [Table("l1", self.l1, self.n_l1)]
        tables += [Table("l1", struct.unpack_from(">Q", entry)[0], struct.unpack_from(">I", entry, 8)[0])
                   for _, entry in self.snapshot_entries]
        return [table for table in tables if table.n_entries]

    def _l2_tables(self):
        """Each one once."""
        offsets = {word & OFFSET for table in self.l1_tables for word in self.words(table.offset, table.n_entries)}
        n_entries = self.cluster_size // self.l2_width
        return [Table("l2", offset, n_entries, self.l2_width) for offset in sorted(offsets - {0})]

    def _refcount_blocks(self):
        table, bits = self.refcount_table, 1 << self.order
        return [Table("refblock", offset, self.cluster_size * 8 // bits, max(bits // 8, 1))
                for offset in self.words(table.offset, table.n_entries) if offset]

    def _snapshot_entries(self):
        """(offset, bytes) of each entry of the snapshot table."""
        entries, at = [], self.snapshots
        for _ in range(self.n_snapshots):
            fixed = self.read(at, 40)
            id_len, name_len = struct.unpack_from(">HH", fixed, 12)
            (extra,) = struct.unpack_from(">I", fixed, 36)
            length = 40 + extra + id_len + name_len
            entries.append((at, self.read(at, length)))
            at += (length + 7) // 8 * 8
        return entries

    def _bitmap_directory(self):
        """(offset, length) of the directory; None without one."""
        at = self.header_length
        while at + 8 <= self.cluster_size:
            kind, length = struct.unpack(">II", self.read(at, 8))
            if kind == 0:
                return None
            if kind == 0x23852875:
                _, _, size, offset = struct.unpack(">IIQQ", self.read(at + 8, 24))
                return offset, size
            at += 8 + (length + 7) // 8 * 8
        return None

    def _bitmap_tables(self):
        tables = []
        at, end = (self.bitmap_directory[0], sum(self.bitmap_directory)) if self.bitmap_directory else (0, 0)
        while at < end:
            offset, n_entries, _, _, _, name_len, extra = struct.unpack(">QIIBBHI", self.read(at, 24))
            tables.append(Table("bitmap", offset, n_entries))
            at += (24 + extra + name_len + 7) // 8 * 8
        return tables
