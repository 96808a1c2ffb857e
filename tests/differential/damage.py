# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of any shape with bitmaps and snapshots, and random damage to their metadata."""

import struct

import images
from tables import COPIED, OFFSET

IMAGE = "disk.qcow2"


class Patch:
    """Bytes that are written over a file, and what was there."""

    def __init__(self, file):
        self.file = file
        self.size = file.seek(0, 2)
        self.before = []
        self.notes = []

    def write(self, offset, data, note):
        self.file.seek(offset)
        old = self.file.read(len(data))
        self.before.append((offset, old))
        self.file.seek(offset)
        self.file.write(data)
        self.file.flush()
        self.notes.append(f"# {note}: 0x{offset:x}: {old.hex()} -> {data.hex()}")

    def resize(self, size, note):
        """Cuts off only what can be put back."""
        self.file.seek(size)
        self.before.append((size, self.file.read()))
        self.file.truncate(size)
        self.notes.append(f"# {note}: 0x{self.size:x} -> 0x{size:x} bytes")

    def undo(self):
        for offset, old in reversed(self.before):
            self.file.seek(offset)
            self.file.write(old)
        self.file.truncate(self.size)
        self.file.flush()


def random_entry(chooser, tables, old, others):
    """What a table entry could become."""
    cluster = tables.cluster_size
    flags = old & ~OFFSET
    somewhere = chooser.randrange(tables.file_size // cluster + 1) * cluster
    past_the_end = tables.file_size + chooser.choice([-cluster, -512, 0, 512, cluster, 1 << 30, 1 << 50])
    return chooser.choice([
        lambda: old ^ 1 << chooser.randrange(64),
        lambda: old ^ 1 << chooser.choice([0, 9, tables.cluster_bits, 55, 56, 61, 62, 63]),
        lambda: old ^ COPIED,
        lambda: chooser.choice(others),
        lambda: flags | somewhere & OFFSET,
        lambda: COPIED | somewhere & OFFSET,
        lambda: flags | max(past_the_end, 0) & OFFSET,
        lambda: old + 512,
        lambda: 0,
        lambda: chooser.getrandbits(64),
        lambda: 1 << 62 | chooser.getrandbits(60),
    ])() & (1 << 64) - 1


def used_entries(tables, table):
    """Indexes of entries that are not zero, and some that are."""
    data = tables.read(table.offset, table.n_entries * table.width)
    used = [i for i in range(len(data) // table.width) if any(data[i * table.width:(i + 1) * table.width])]
    return used[:2000] + list(range(min(table.n_entries, len(data) // table.width)))[:3]


def damage_entry(chooser, tables, patch, candidates):
    if not candidates:
        return
    table = chooser.choice(candidates)
    indexes = used_entries(tables, table)
    if not indexes:
        return
    index = chooser.choice(indexes)
    at = table.place(index)
    (old,) = struct.unpack(">Q", tables.read(at, 8).ljust(8, b"\0"))
    others = tables.words(table.offset, min(table.n_entries * table.width // 8, 512)) or (0,)
    new = random_entry(chooser, tables, old, others)
    if table.width == 16 and chooser.random() < 0.4:
        at, new = at + 8, chooser.choice([chooser.getrandbits(64), 0, 1, 1 << 32, 1 << 32 | 1, (1 << 64) - 1])
    patch.write(at, struct.pack(">Q", new), f"{table.kind} entry {index}")


def damage_refcount(chooser, tables, patch):
    blocks = tables.refcount_blocks
    if not blocks:
        return
    block = chooser.choice(blocks)
    indexes = used_entries(tables, block)
    index = chooser.choice(indexes)
    old = int.from_bytes(tables.read(block.place(index), block.width), "big")
    limit = 1 << 8 * block.width
    new = chooser.choice([old + 1, old - 1, 0, 1, 2, limit - 1, chooser.randrange(limit)]) % limit
    patch.write(block.place(index), new.to_bytes(block.width, "big"), f"refcount {index}")


def damage_many_refcounts(chooser, tables, patch):
    blocks = tables.refcount_blocks
    if blocks:
        block = chooser.choice(blocks)
        start = chooser.randrange(tables.cluster_size)
        length = chooser.randint(1, min(64, tables.cluster_size - start))
        patch.write(block.offset + start, chooser.choice([bytes(length), chooser.randbytes(length)]), "refcounts")


def damage_header(chooser, tables, patch):
    fields = [(36, 4), (40, 8), (48, 8), (56, 4), (60, 4), (64, 8), (24, 8)]
    field, width = chooser.choice(fields + [(79, 1)] if tables.version >= 3 else fields)
    (old,) = struct.unpack(f">{ {1: 'B', 4: 'I', 8: 'Q'}[width] }", tables.read(field, width))
    cluster = tables.cluster_size
    limit = 1 << 8 * width
    new = chooser.choice([old + 1, old - 1, old ^ 1 << chooser.randrange(8 * width), old + cluster, old + 512, 0,
                          chooser.randrange(tables.file_size // cluster + 2) * cluster, chooser.randrange(limit)])
    new %= limit
    patch.write(field, new.to_bytes(width, "big"), "header")


def damage_snapshot(chooser, tables, patch):
    entries = tables.snapshot_entries
    if not entries:
        return
    offset, entry = chooser.choice(entries)
    if chooser.random() < 0.5:    # the L1 table
        field, width = chooser.choice([(0, 8), (8, 4)])
        old = int.from_bytes(entry[field:field + width], "big")
        limit = 1 << 8 * width
        new = chooser.choice([old + tables.cluster_size, old + 512, old ^ 1 << chooser.randrange(8 * width),
                              old + 1, 0, tables.l1, tables.file_size, chooser.randrange(limit)]) % limit
        if width == 8 and new >= 1 << 63:
            new &= (1 << 55) - 1    # QEMU 7.2 reads memory that is not its own
        patch.write(offset + field, new.to_bytes(width, "big"), "snapshot's L1 table")
    else:
        at = chooser.choice([12, 13, 14, 15, 36, 37, 38, 39, 39, 48, 54])
        patch.write(offset + at, bytes([chooser.choice([0, 8, 16, 255, chooser.randrange(256)])]), "snapshot entry")


def damage_directory(chooser, tables, patch):
    directory = tables.bitmap_directory
    if directory:
        at = directory[0] + chooser.randrange(directory[1])
        patch.write(at, bytes([chooser.randrange(256)]), "bitmap directory")


def damage_length(chooser, tables, patch):
    size = patch.size + chooser.choice([-1, -511, -512, -tables.cluster_size, 1, 511, 512, tables.cluster_size,
                                        5 * tables.cluster_size])
    patch.resize(max(size, 512), "length")


def damage(chooser, tables, patch):
    """One to four kinds of damage."""
    for _ in range(chooser.choice([1, 1, 1, 2, 3, 4])):
        chooser.choices([
            lambda: damage_entry(chooser, tables, patch, tables.l1_tables),
            lambda: damage_entry(chooser, tables, patch, tables.l2_tables),
            lambda: damage_entry(chooser, tables, patch, [tables.refcount_table]),
            lambda: damage_entry(chooser, tables, patch, tables.bitmap_tables),
            lambda: damage_refcount(chooser, tables, patch),
            lambda: damage_many_refcounts(chooser, tables, patch),
            lambda: damage_header(chooser, tables, patch),
            lambda: damage_snapshot(chooser, tables, patch),
            lambda: damage_directory(chooser, tables, patch),
            lambda: damage_length(chooser, tables, patch),
        ], weights=[4, 10, 2, 3, 4, 2, 2, 3, 1, 2])[0]()


# ---- Images to damage --------------------------------------------------------------------------------

def add_bitmaps(shell, chooser, image):
    if image.top.compat == "1.1" and chooser.random() < 0.4:
        for i in range(chooser.randint(1, 3)):
            granularity = str(512 << chooser.randrange(10))
            shell.run("qemu-img", "bitmap", "--add", IMAGE, f"bitmap{i}", "-g", granularity, ok=None)
        images.write_some(shell, chooser, image.top)


def make_case(shell, chooser):
    if chooser.random() < 0.6:
        image = images.make_image(shell, chooser)
    else:    # a plain one, so that nothing hides the damage
        layer = images.Layer(IMAGE, cluster_size=chooser.choice([512, 4096, 65536]), size=4 << 20, compat="1.1")
        shell.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={layer.cluster_size}", IMAGE, "4M")
        images.make_random_files(shell, chooser)
        image = images.Image(layer)
        images.take_snapshots(shell, chooser, image)
        images.write_some(shell, chooser, layer)
    add_bitmaps(shell, chooser, image)
