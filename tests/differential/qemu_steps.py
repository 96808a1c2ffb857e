# SPDX-License-Identifier: LGPL-2.1-or-later
"""What QEMU does to the image between our commands."""

import re

import images
from disk_model import SECTOR, MadeByQemu
from shell import Failure


def io(model, command, start, end, fresh):
    """One guest request. A request that fails may have done a part of it."""
    code, text = model.shell.attempt("qemu-io", "-f", "qcow2", "-d", "unmap", "-c", command, model.name)
    if "corrupt" in text:
        raise Failure(text)
    if code or len(fresh) > 1:
        model.absorb(start, end, fresh)
        return False
    return True


def zeros(start, end):
    return bytes(end - start)


def source_of(model, chooser, length):
    """Bytes for a write, and how qemu-io is told."""
    if chooser.random() < 0.5:
        letter = chooser.randrange(1, 256)
        return f"-P {letter}", bytes([letter]) * length
    name = chooser.choice(["half-random"] + [f"random-{i}" for i in range(images.N_RANDOM_FILES)])
    with open(model.shell.path(name), "rb") as file:
        content = file.read()
    return f"-s {name}", (content * (length // len(content) + 1))[:length]


def write_range(model, chooser, flags, start, length):
    source, content = source_of(model, chooser, length)
    done = io(model, f"write -q {flags} {source} {start} {length}", start, start + length,
              [lambda a, b: content_at(content, start, a, b, model)])
    if done:
        model.write(start, content)


def content_at(content, start, sector, stop, model):
    """What a sector reads as after a write of @content at @start."""
    disk = bytearray(model.active[sector:stop])
    first, last = max(start, sector), min(start + len(content), stop)
    disk[first - sector:last - sector] = content[first - start:last - start]
    return disk


def write(model, chooser):
    for _ in range(chooser.randint(1, 3)):
        write_range(model, chooser, "", *images.random_range(chooser, model.top))


def write_compressed(model, chooser):
    """Compressed writes take whole clusters, the last one of the disk excepted."""
    size = model.top.cluster_size
    n_clusters = -(-model.size // size)
    for _ in range(chooser.randint(1, 3)):
        first = chooser.randrange(n_clusters)
        last = min(n_clusters, first + chooser.randint(1, max(1, n_clusters // 6)))
        start, end = first * size, min(last * size, model.size)
        write_range(model, chooser, "-c", start, end - start)
    model.top.has_compressed = True


def write_zeros(model, chooser):
    for _ in range(chooser.randint(1, 3)):
        start, length = images.random_range(chooser, model.top)
        flags = chooser.choice(["", "-u"])
        if io(model, f"write -q -z {flags} {start} {length}", start, start + length, [zeros]):
            model.write(start, bytes(length))


def discard(model, chooser):
    """A discard may leave what is there, in part or in whole; without zero clusters the layer below shows."""
    for _ in range(chooser.randint(1, 3)):
        start, length = images.random_range(chooser, model.top)
        io(model, f"discard -q {start} {length}", start, start + length, [zeros, model.below_at])


def resize(model, chooser):
    size = images.random_size(chooser, model.top.cluster_size)
    if chooser.random() < 0.4:
        size = max(SECTOR, model.size + chooser.randint(-4, 4) * SECTOR)
    preallocation = []
    if size > model.size and not model.lower and chooser.random() < 0.3:
        preallocation = ["--preallocation=" + chooser.choice(["metadata", "falloc", "full"])]
    code, text = model.shell.attempt("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", *preallocation,
                                     model.name, str(size))
    if "corrupt" in text:
        raise Failure(text)
    if code == 0:
        old_end = model.size
        model.resize(size)
        show_what_was_cut(model, old_end)


def show_what_was_cut(model, old_end):
    """A shrink leaves the bytes of the cluster in which the disk then ends, and growing shows them again."""
    end = min(-(-old_end // model.top.cluster_size) * model.top.cluster_size, model.size)
    if old_end < end:
        found = model.read_active()
        model.require_active(found, old_end, end)
        model.write(old_end, found[old_end:end])


def can_count(model):
    """Failing at a count that is too narrow, QEMU leaves leaks and worse."""
    bits = model.refcount_bits()
    return bits >= 16 or (bits >= 4 and not model.top.has_compressed
                          and len(model.snapshots) < images.most_snapshots(model.top))


def free_name(model, chooser):
    taken = {s.name for s in model.snapshots} | {s.id for s in model.snapshots}
    return chooser.choice([name for name in images.NAMES if name not in taken])


def take_snapshot(model, chooser):
    name = free_name(model, chooser)
    model.shell.run("qemu-img", "snapshot", "-c", name, model.name)
    model.add_snapshot(name)


def apply_snapshot(model, chooser):
    snapshot = chooser.choice(model.snapshots)
    code, _ = model.shell.attempt("qemu-img", "snapshot", "-a", snapshot.id, model.name)
    if code == 0:
        model.apply(snapshot)


def delete_snapshot(model, chooser):
    snapshot = chooser.choice(model.snapshots)
    model.shell.run("qemu-img", "snapshot", "-d", snapshot.name, model.name)
    model.snapshots.remove(snapshot)


def choose(model, chooser):
    steps = [write] * 5 + [write_zeros] * 2 + [discard] * 2 + [resize]
    if not model.top.data_file:
        steps += [write_compressed] * 3
        if can_count(model):
            steps += [take_snapshot] * 2
            steps += [apply_snapshot] if model.snapshots else []
        steps += [delete_snapshot] if model.snapshots else []
    return chooser.choice(steps)


def take(model, chooser):
    """What QEMU breaks by itself is not ours: the image was clean before."""
    step = choose(model, chooser)
    name = step.__name__
    try:
        step(model, chooser)
    except Failure as failure:
        if re.search(r"Image is corrupt|Marking image as corrupt", str(failure)):
            raise MadeByQemu(f"{name}: marked as corrupt") from failure
        raise
    problem = model.check_by_qemu()
    if problem:
        raise MadeByQemu(f"{name}: {' '.join(problem.split())[:200]}")
