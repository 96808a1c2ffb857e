# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of one image by qcow-copy, of all kinds; each must be clean and read, by QEMU, as what was copied."""

import json

import images
from shell import Failure

SECTOR = 512


# ---- Judging -----------------------------------------------------------------------------------------

def read(shell, name):
    with open(shell.path(name), "rb") as file:
        return file.read()


def whole_sectors(contents):
    return contents.ljust(-(-len(contents) // SECTOR) * SECTOR, b"\0")


def require_bytes(shell, name, format_name, expected):
    """The image reads as expected."""
    images.convert(shell, name, "judged.raw", format_name)
    found = read(shell, "judged.raw")
    if len(found) != len(expected):
        raise Failure(f"{name} has {len(found)} bytes, not {len(expected)}")
    if found != expected:
        at = next(i for i in range(len(found)) if found[i] != expected[i])
        raise Failure(f"{name} differs first at 0x{at:x}: {found[at]:#x}, not {expected[at]:#x}")


def check(shell, name):
    return json.loads(shell.run("qemu-img", "check", "-f", "qcow2", "--output=json", name))


def require_no_larger(shell, ours, theirs):
    """No more clusters than qemu-img made; an empty table or two may be left."""
    n_ours, n_theirs = (check(shell, name).get("allocated-clusters", 0) for name in (ours, theirs))
    if n_ours > n_theirs:
        raise Failure(f"{n_ours} clusters, and qemu-img makes {n_theirs}")


# ---- What is copied ----------------------------------------------------------------------------------

class Source:
    def __init__(self, layer, options, contents):
        self.layer = layer
        self.arguments = ["-f", layer.format, *options, layer.name]      # for qcow-copy, before the target
        self.contents = contents
        self.is_active = not options


def sources(shell, chooser, image):
    images.convert(shell, image.top.name, "active.raw", image.top.format)
    yield Source(image.top, [], read(shell, "active.raw"))
    if image.snapshots and not image.top.data_file:
        snapshot = chooser.choice(image.snapshots)
        try:
            images.snapshot_to_raw(shell, image, snapshot, "snapshot.raw")
        except Failure as failure:
            if "Image is corrupt" in str(failure):
                return      # QEMU has done that
            raise
        word = chooser.choice([f"id:{snapshot.id}", f"snapshot.id={snapshot.id}"])
        yield Source(image.top, ["-l", word], read(shell, "snapshot.raw"))


# ---- New images --------------------------------------------------------------------------------------

def qcow2_options(chooser, may_preallocate):
    cluster_size = images.random_cluster_size(chooser)
    options = [f"cluster_size={cluster_size}"]
    if chooser.random() < 0.25:
        return [*options, "compat=0.10"], False
    if cluster_size >= 16384 and chooser.random() < 0.4:
        options.append("extended_l2=on")
    if chooser.random() < 0.4:
        options.append("compression_type=zstd")
    if chooser.random() < 0.3:
        options.append(f"refcount_bits={chooser.choice([1, 2, 8, 64])}")
    preallocates = may_preallocate and chooser.random() < 0.2
    if preallocates:
        options.append("preallocation=" + chooser.choice(["metadata", "falloc", "full"]))
    return options, preallocates


def random_sparse(chooser):
    return chooser.choice([[], [], [], ["-S", "4k"], ["-S", "64k"], ["-S", "512"], ["-S", "12k"]])


def copy_to_raw(shell, chooser, source):
    options = random_sparse(chooser)
    if chooser.random() < 0.2:
        options += ["-o", "preallocation=" + chooser.choice(["off", "falloc", "full"])]
    elif chooser.random() < 0.1:
        options = ["-S", "0"]
    if chooser.random() < 0.2:
        options.append("--salvage")
    shell.run("qcow-copy", *options, *source.arguments, "new.raw")
    if read(shell, "new.raw") != source.contents:
        raise Failure("new.raw does not hold what was copied")


def copy_to_qcow2(shell, chooser, source):
    compress = chooser.random() < 0.3
    made, preallocates = qcow2_options(chooser, not compress)
    options = [*(["-c"] if compress else []), *random_sparse(chooser), "-o", ",".join(made)]
    ours = options + chooser.choice([[], [], [], ["--salvage"], ["--no-reflink"], ["--no-reflink"]])
    shell.run("qcow-copy", "-O", "qcow2", *ours, *source.arguments, "new.qcow2")
    check(shell, "new.qcow2")
    require_bytes(shell, "new.qcow2", "qcow2", source.contents)
    # With 1-bit counts each stream has clusters of its own, in an order that is not QEMU's; where large holes begin
    # follows from how much QEMU reads at a time; and where extents are shared zeros stay data.
    looks = "-S" in options or "--no-reflink" in ours
    is_alike = looks and "refcount_bits=1" not in made and "64k" not in options and "12k" not in options
    if source.is_active and not preallocates and is_alike:
        layer = source.layer
        shell.run("qemu-img", "convert", "-f", layer.format, "-O", "qcow2", *options, layer.name, "theirs.qcow2")
        require_no_larger(shell, "new.qcow2", "theirs.qcow2")


def copy_everything(shell, chooser, source):
    made, _ = qcow2_options(chooser, False)
    shell.run("qcow-copy", "-O", "qcow2", "-S", "0", "-o", ",".join(made), *source.arguments, "all.qcow2")
    found = check(shell, "all.qcow2")
    if found.get("allocated-clusters", 0) != found["total-clusters"]:
        raise Failure(f"-S 0: {found}")
    require_bytes(shell, "all.qcow2", "qcow2", source.contents)


def copy_with_data_file(shell, chooser, source, image):
    made, _ = qcow2_options(chooser, False)
    if "compat=0.10" in made:
        return
    is_raw = chooser.random() < 0.3
    base = chooser.choice([None, *image.lower]) if not is_raw else None
    made += ["data_file=split.data", *(["data_file_raw=on"] if is_raw else [])]
    options = chooser.choice([[], [], ["--resume"], ["--no-reflink"], ["--salvage"]])
    if not base and not options and chooser.random() < 0.5:
        made.append("preallocation=" + chooser.choice(["metadata", "falloc"]))
    options += ["-o", ",".join(made), *(["-B", base.name, "-F", base.format] if base else [])]
    shell.run("qcow-copy", "-O", "qcow2", *options, *source.arguments, "split.qcow2")
    check(shell, "split.qcow2")
    require_bytes(shell, "split.qcow2", "qcow2", source.contents)
    if is_raw and read(shell, "split.data") != source.contents:
        raise Failure("the raw data file is not the disk")


def copy_over_base(shell, chooser, source, image):
    layers = [*image.lower, *([image.top] if not source.is_active else [])]
    if not layers:
        return
    base = chooser.choice(layers)
    made, _ = qcow2_options(chooser, False)
    compress = chooser.random() < 0.2
    if "extended_l2=on" in made and not compress and chooser.random() < 0.5:
        made.append("preallocation=" + chooser.choice(["metadata", "falloc", "full"]))
    options = [*(["-c"] if compress else []), "-o", ",".join(made), "-B", base.name, "-F", base.format]
    shell.run("qcow-copy", "-O", "qcow2", *options, *source.arguments, "over.qcow2")
    check(shell, "over.qcow2")
    require_bytes(shell, "over.qcow2", "qcow2", source.contents)
    if chooser.random() < 0.5:
        # What it reads as already needs no cluster.
        shell.run("qcow-copy", "-O", "qcow2", "-B", "over.qcow2", "-F", "qcow2", *source.arguments, "none.qcow2")
        found = check(shell, "none.qcow2")
        if found.get("allocated-clusters", 0):
            raise Failure(f"an overlay of what is the same has clusters: {found}")
        require_bytes(shell, "none.qcow2", "qcow2", source.contents)


# ---- Images that are there ---------------------------------------------------------------------------

def copy_into_raw(shell, chooser, source):
    size = len(source.contents) + chooser.choice([0, 0, 512, 70000])
    before = chooser.randbytes(4096) * (size // 4096 + 1)
    with open(shell.path("there.raw"), "wb") as file:
        file.write(before[:size])
    shell.run("qcow-copy", "-n", *random_sparse(chooser), *source.arguments, "there.raw")
    if read(shell, "there.raw") != source.contents + before[len(source.contents):size]:
        raise Failure("there.raw does not hold what was copied, and what was behind it")


def copy_into_qcow2(shell, chooser, source, image):
    below = chooser.choice([None, *image.lower])
    layer = images.make_qcow2(shell, chooser, "there.qcow2", below, False)
    images.write_some(shell, chooser, layer)
    size = -(-len(source.contents) // SECTOR) * SECTOR + chooser.choice([0, 0, 512, 70144])
    if shell.result("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", layer.name, str(size))[0]:
        return
    if shell.result("qemu-img", "check", "-q", layer.name)[0]:
        return      # QEMU cannot always shrink
    images.convert(shell, layer.name, "before.raw")
    before = read(shell, "before.raw")
    options = ["-c"] if chooser.random() < 0.2 else []
    shell.run("qcow-copy", "-n", "-O", "qcow2", *options, *source.arguments, layer.name)
    check(shell, layer.name)
    require_bytes(shell, layer.name, "qcow2", source.contents + before[len(source.contents):])


# ---- Interrupted -------------------------------------------------------------------------------------

def copy_killed(shell, chooser, source):
    """A copy that is killed leaves no target; the same command again completes it."""
    format_name = chooser.choice(["raw", "qcow2"])
    options = ["-o", ",".join(qcow2_options(chooser, False)[0])] if format_name == "qcow2" else []
    compress = ["-c"] if options and chooser.random() < 0.3 else []
    command = ["qcow-copy", "--resume", "-O", format_name, *options, *compress, *source.arguments, "resumed"]
    rate = max(4096, len(source.contents) * 3)
    shell.kill_after(chooser.uniform(0.01, 0.4), command[0], f"--rate={rate}", *command[1:])
    shell.run(*command)
    require_bytes(shell, "resumed", format_name, source.contents)
    if format_name == "qcow2":
        check(shell, "resumed")
