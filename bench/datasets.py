# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The images that are measured, made by real QEMU as a guest would: in random order, from a fixed seed.

Each function fills a folder of its own. @size is what cases.SIZES says.
"""

import os
import random
import subprocess

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CLUSTER = 64 * KIB


def run(*command, **options):
    result = subprocess.run(command, stdin=None if "input" in options else subprocess.DEVNULL,
                            capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        text = result.stderr.strip()[-1000:]
        raise RuntimeError(f"{' '.join(command[:4])} …: exit {result.returncode}: {text}")


def create(path, *arguments):
    run("qemu-img", "create", "-q", "-f", "qcow2", *arguments[:-1], path, str(arguments[-1]))


def overlay(path, backing):
    """With a relative name, so that a copy of the folder is a copy of the chain."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", os.path.basename(backing), "-F", "qcow2", path)


def snapshot(path, name):
    run("qemu-img", "snapshot", "-c", name, path)


def write(path, pattern, ranges):
    """Ranges are (offset, length); what they get is flushed once, by finish()."""
    lines = [f"write -q -P {pattern} {offset} {length}" for offset, length in ranges]
    run("qemu-io", "-f", "qcow2", "-t", "unsafe", path, input="\n".join(lines) + "\n")


def finish(folder):
    """On disk and in the page cache, so that nothing of the making is left to do while something is timed."""
    for name in sorted(os.listdir(folder)):
        run("sync", os.path.join(folder, name))


def pieces(start, end, step=32 * MIB):
    return [(offset, min(step, end - offset)) for offset in range(start, end, step)]


def some_clusters(chooser, starts, n):
    return [(start, CLUSTER) for start in chooser.sample(starts, n)]


# ---- The sets ----------------------------------------------------------------------------------------

def snap(folder, size):
    """Half of a disk filled, then three snapshots with single clusters changed between them."""
    path = f"{folder}/disk.qcow2"
    chooser = random.Random("snap")
    filled = pieces(0, size.snap_disk, 64 * MIB)[::2]
    clusters = [start for offset, length in filled for start in range(offset, offset + length, CLUSTER)]

    create(path, size.snap_disk)
    write(path, 1, [piece for offset, length in filled for piece in pieces(offset, offset + length)])
    snapshot(path, "one")
    write(path, 2, some_clusters(chooser, clusters, size.snap_changed // CLUSTER))
    snapshot(path, "two")
    write(path, 3, some_clusters(chooser, clusters, size.snap_changed // CLUSTER // 4))
    snapshot(path, "three")


def meta(folder, size):
    """Every cluster of a large disk allocated and none filled; the changes touch most of its L2 tables."""
    path = f"{folder}/disk.qcow2"
    chooser = random.Random("meta")

    create(path, "-o", "preallocation=metadata", size.meta_disk)
    for pattern, name in ((1, "one"), (2, "two"), (3, None)):
        changed = [CLUSTER * chooser.randrange(size.meta_disk // CLUSTER) for _ in range(size.meta_changed)]
        write(path, pattern, [(offset, CLUSTER) for offset in changed])
        if name:
            snapshot(path, name)


def deep(folder, size):
    """A long chain over a small disk, each overlay with some clusters everywhere."""
    chooser = random.Random("deep")
    below = f"{folder}/00.qcow2"
    clusters = range(0, size.deep_disk, CLUSTER)

    create(below, size.deep_disk)
    write(below, 1, pieces(0, size.deep_disk // 4))
    for i in range(1, size.deep_layers + 1):
        path = f"{folder}/{i:02}.qcow2"
        overlay(path, below)
        write(path, i % 255, some_clusters(chooser, clusters, 128))
        below = path
    os.symlink(os.path.basename(below), f"{folder}/top.qcow2")


def chain(folder, size):
    """A full base, and two overlays that hold the same few bytes in other places of their files."""
    chooser = random.Random("chain")
    base = f"{folder}/base.qcow2"
    changed = some_clusters(chooser, range(0, size.chain_disk, CLUSTER), 64)

    create(base, size.chain_disk)
    write(base, 1, pieces(0, size.chain_disk))
    for name in ("a", "b"):
        path = f"{folder}/{name}.qcow2"
        overlay(path, base)
        write(path, 2, chooser.sample(changed, len(changed)))


def merge(folder, size):
    """Three layers, as merges have them: a full base, and two with single clusters everywhere."""
    chooser = random.Random("merge")
    disk = size.chain_disk * 5 // 4
    base, mid, top = (f"{folder}/{name}.qcow2" for name in ("base", "mid", "top"))
    clusters = range(0, disk, CLUSTER)

    create(base, disk)
    write(base, 1, pieces(0, size.chain_disk))
    overlay(mid, base)
    write(mid, 2, some_clusters(chooser, clusters, size.chain_disk * 15 // 32 // CLUSTER))
    overlay(top, mid)
    write(top, 3, some_clusters(chooser, clusters, size.chain_disk * 3 // 10 // CLUSTER))


def long(folder, size):
    """The same three layers, changed in long stretches."""
    base, mid, top = (f"{folder}/{name}.qcow2" for name in ("base", "mid", "top"))
    stretches = pieces(0, size.chain_disk, max(size.chain_disk // 64, CLUSTER))

    create(base, size.chain_disk)
    write(base, 1, pieces(0, size.chain_disk))
    overlay(mid, base)
    write(mid, 2, stretches[::2])
    overlay(top, mid)
    write(top, 3, stretches[1::3])


def grow(folder, disk):
    """The same few clusters, whatever the disk's size: a chain, and an image with snapshots."""
    chooser = random.Random("grow")
    changed = [CLUSTER * chooser.randrange((1 << 40) // CLUSTER) for _ in range(128)]
    below = None

    for name in ("base", "mid", "top", "disk"):
        path = f"{folder}/{name}.qcow2"
        if below and name != "disk":
            overlay(path, below)
        else:
            create(path, disk)
        write(path, 1, [(offset, CLUSTER) for offset in chooser.sample(changed, 96)])
        below = path
    for pattern, name in ((2, "one"), (3, "two")):
        write(path, pattern, [(offset, CLUSTER) for offset in chooser.sample(changed, 96)])
        snapshot(path, name)


def grow1(folder, size):
    grow(folder, 1 << 40)


def grow16(folder, size):
    grow(folder, 16 << 40)


def compr(folder, size):
    """Half of every KiB random and half the same: as it is, and compressed by QEMU."""
    chooser = random.Random("compr")
    raw = f"{folder}/data.raw"

    with open(raw, "wb") as file:
        for _ in range(size.compr_disk // MIB):
            file.write(b"".join(chooser.randbytes(512) + b"qcow" * 128 for _ in range(MIB // KIB)))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, f"{folder}/plain.qcow2")
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, f"{folder}/zlib.qcow2")
    os.unlink(raw)


SETS = {"snap": snap, "meta": meta, "deep": deep, "chain": chain, "compr": compr, "merge": merge,
        "long": long, "grow1": grow1, "grow16": grow16}
