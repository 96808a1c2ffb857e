# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random images with internal snapshots over random backing chains, all made by qemu-img and qemu-io."""

import json
import os
from dataclasses import dataclass, field

from shell import Failure

SECTOR = 512
N_RANDOM_FILES = 3
RANDOM_FILE_BYTES = 256 << 10

# Names that a lookup, a printer or an option parser could get wrong.
NAMES = ["monday", "tuesday", "a b", "déjà vu", "it's", '"quoted"', "7", "1", "2", "@active", "@empty", "id:1",
         "name:x", "-c", "a,b=c", "tab\there", "x" * 120]


class Corrupt(Failure):
    """QEMU itself has made a corrupt image."""


@dataclass
class Layer:
    """One image file: what it was made with."""
    name: str
    format: str = "qcow2"
    size: int = 0
    cluster_size: int = 0
    compat: str = ""
    extended_l2: bool = False
    data_file: bool = False
    lazy_refcounts: bool = False
    refcount_bits: int = 16
    compresses: bool = True
    has_compressed: bool = False

    @property
    def unit(self):
        """What offsets are interesting multiples of."""
        return self.cluster_size or 4096


@dataclass
class Snapshot:
    id: str
    name: str


@dataclass
class Image:
    top: Layer
    lower: list = field(default_factory=list)      # Layer, the nearest first
    snapshots: list = field(default_factory=list)  # Snapshot, in table order

    @property
    def files(self):
        return [self.top.name] + [layer.name for layer in self.lower]


# ---- Options -----------------------------------------------------------------------------------------

def random_cluster_size(random):
    return random.choice([512, 512, 1024, 2048, 4096, 4096, 8192, 16384, 32768, 65536, 65536, 131072, 1 << 20, 2 << 20])


def random_size(random, cluster_size):
    """A disk of some clusters; small clusters fill several L2 tables. Often no multiple of a cluster."""
    most = {512: 700, 1024: 500, 2048: 500, 4096: 600}.get(cluster_size, max(4, min(120, (6 << 20) // cluster_size)))
    size = random.randint(1, most) * cluster_size
    if random.random() < 0.6:
        size -= random.randrange(cluster_size // SECTOR) * SECTOR
    return max(size, SECTOR)


def random_layer(random, name, has_backing, may_use_data_file):
    """A layer, and the options that make it."""
    layer = Layer(name, cluster_size=random_cluster_size(random))
    layer.compat = "0.10" if random.random() < 0.2 else "1.1"
    layer.size = random_size(random, layer.cluster_size)
    options = [f"cluster_size={layer.cluster_size}", f"compat={layer.compat}"]
    if layer.compat == "1.1":
        if layer.cluster_size >= 16384 and random.random() < 0.5:
            layer.extended_l2 = True
            options.append("extended_l2=on")
        if random.random() < 0.3:
            layer.lazy_refcounts = True
            options.append("lazy_refcounts=on")
        if random.random() < 0.3:
            options.append("compression_type=zstd")
        if random.random() < 0.3:
            layer.refcount_bits = random.choice([1, 2, 4, 8, 32, 64])
            options.append(f"refcount_bits={layer.refcount_bits}")
        if may_use_data_file and random.random() < 0.3:
            layer.data_file, layer.compresses = True, False
            options.append(f"data_file={name}.data")
            if not has_backing and random.random() < 0.5:
                options.append("data_file_raw=on")
    if random.random() < 0.2 and (not has_backing or layer.extended_l2):
        options.append("preallocation=" + random.choice(["metadata", "falloc", "full"] if not has_backing else ["metadata"]))
    return layer, options


# ---- What the guest does -----------------------------------------------------------------------------

def random_range(random, layer, largest=None):
    """A guest range: mostly with whole clusters, else with whole subclusters, sectors or bytes."""
    unit = random.choice([layer.unit, layer.unit, max(layer.unit // 32, SECTOR), SECTOR, 1])
    start = random.randrange(0, layer.size, unit)
    largest = min(largest or max(layer.size // 5, layer.unit), layer.size - start)
    length = random.randint(1, max(1, largest // unit)) * unit
    return start, max(1, min(length, layer.size - start))


def random_write(random, layer, flag=""):
    start, length = random_range(random, layer)
    if random.random() < 0.4:
        return f"write -q {flag} -s random-{random.randrange(N_RANDOM_FILES)} {start} {length}"
    return f"write -q {flag} -P {random.randrange(1, 256)} {start} {length}"


def random_compressed_write(random, layer):
    """Compressed writes take whole clusters, the last one of the disk excepted."""
    n_clusters = -(-layer.size // layer.cluster_size)
    first = random.randrange(n_clusters)
    last = min(n_clusters, first + random.randint(1, max(1, n_clusters // 6)))
    start, end = first * layer.cluster_size, min(last * layer.cluster_size, layer.size)
    source = random.choice([f"-P {random.randrange(256)}", f"-s random-{random.randrange(N_RANDOM_FILES)}", "-s half-random"])
    return f"write -q -c {source} {start} {end - start}"


def random_same_write(random, layer):
    """Bytes that depend on the place only, so that a second such write changes nothing."""
    start, length = random_range(random, layer)
    return f"write -q -P {1 + start * 7 % 255} {start} {length}"


def random_command(random, layer):
    kind = random.random()
    if kind < 0.35:
        return random_write(random, layer)
    if kind < 0.55 and layer.compresses:
        return random_compressed_write(random, layer)
    if kind < 0.65:
        return random_same_write(random, layer)
    if kind < 0.78:
        return "write -q -z {} {}".format(*random_range(random, layer))
    if kind < 0.88:
        return "write -q -z -u {} {}".format(*random_range(random, layer))
    return "discard -q {} {}".format(*random_range(random, layer))


def write_some(shell, random, layer, most=10):
    """
    A batch of guest requests, in one process.

    Some are refused, such as compressing over what is there: what the states then hold is asked of QEMU.
    """
    commands = [random_command(random, layer) for _ in range(random.randint(1, most))]
    if layer.lazy_refcounts and random.random() < 0.1:
        commands += ["flush", "abort"]    # the image stays dirty, its counts stale
    arguments = [word for command in commands for word in ("-c", command)]
    shell.run("qemu-io", "-f", layer.format, "-d", "unmap", *arguments, layer.name, ok=None)


# ---- Making --------------------------------------------------------------------------------------------

def make_random_files(shell, random):
    """Bytes that do not compress, and some that do by half."""
    shell.note(f"# random-N: {RANDOM_FILE_BYTES} bytes each; half-random: 2 KiB of them, 2 KiB of one letter, and so on")
    for i in range(N_RANDOM_FILES):
        with open(shell.path(f"random-{i}"), "wb") as file:
            file.write(random.randbytes(RANDOM_FILE_BYTES))
    with open(shell.path("half-random"), "wb") as file:
        for _ in range(RANDOM_FILE_BYTES // 4096):
            file.write(random.randbytes(2048) + bytes([random.randrange(256)]) * 2048)


def backing_arguments(shell, random, layer):
    name = layer.name
    if random.random() < 0.15:
        name = "json:" + json.dumps({"driver": layer.format,
                                     "file": {"driver": "file", "filename": shell.path(layer.name)}})
    elif random.random() < 0.15:
        name = shell.path(layer.name)
    return ["-b", name, "-F", layer.format]


def make_raw(shell, random, name):
    layer = Layer(name, format="raw", size=random_size(random, 4096), compresses=False)
    shell.run("qemu-img", "create", "-q", "-f", "raw", name, str(layer.size))
    write_some(shell, random, layer)
    if random.random() < 0.3:
        size = max(1, layer.size - random.randrange(1, SECTOR))
        shell.run("truncate", f"--size={size}", name)
    return layer


def make_qcow2(shell, random, name, below, may_use_data_file):
    layer, options = random_layer(random, name, below is not None, may_use_data_file)
    backing = backing_arguments(shell, random, below) if below else []
    if below and random.random() < 0.5:
        layer.size = max(SECTOR, (below.size + random.choice([0, 0, -3, 5]) * SECTOR) // SECTOR * SECTOR)
    shell.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), *backing, name, str(layer.size))
    return layer


def make_lower_layers(shell, random, depths):
    """The backing chain, the nearest layer first."""
    depth = random.choice(depths)
    layers = []
    for i in range(depth):
        if i == 0 and random.random() < 0.35:
            layers.insert(0, make_raw(shell, random, "base0.raw"))
            continue
        below = layers[0] if layers else None
        layer = make_qcow2(shell, random, f"base{i}.qcow2", below, True)
        write_some(shell, random, layer)
        layers.insert(0, layer)
    return layers


def resize(shell, random, layer):
    new_size = random_size(random, layer.cluster_size)
    if random.random() < 0.4:
        new_size = max(SECTOR, layer.size + random.randint(-4, 4) * SECTOR)
    shell.run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", layer.name, str(new_size), ok=None)
    layer.size = image_info(shell, layer.name)["virtual-size"]


def image_info(shell, name):
    return json.loads(shell.run("qemu-img", "info", "-f", "qcow2", "--output=json", name))


def snapshot_list(shell, name):
    return [Snapshot(entry["id"], entry["name"]) for entry in image_info(shell, name).get("snapshots", [])]


def most_snapshots(layer):
    """Counts of one or two bits end early, also when a snapshot is applied to be read; failing may corrupt."""
    return {1: 0, 2: 1}.get(layer.refcount_bits, 4)


def can_count_compressed(layer):
    """A host cluster counts every compressed cluster in it, for every snapshot."""
    return layer.refcount_bits > 8 and not layer.data_file


def take_snapshots(shell, random, image):
    """Snapshots, and between them writes, resizes, snapshots deleted and applied."""
    layer = image.top
    names = random.sample(NAMES, len(NAMES))
    n_wanted = min(random.randint(1, 4), most_snapshots(layer))
    n_taken = 0
    while n_taken < n_wanted:
        if random.random() < 0.85:
            write_some(shell, random, layer)
        if random.random() < 0.25:
            resize(shell, random, layer)
        shell.run("qemu-img", "snapshot", "-c", names[n_taken], layer.name)
        n_taken += 1
        taken = snapshot_list(shell, layer.name)
        if random.random() < 0.15 and len(taken) > 1:
            shell.run("qemu-img", "snapshot", "-d", random.choice(taken).name, layer.name)
        elif random.random() < 0.15:
            shell.run("qemu-img", "snapshot", "-a", random.choice(taken).id, layer.name)
            layer.size = image_info(shell, layer.name)["virtual-size"]


def require_clean(shell, layer):
    """About one image in two hundred comes out of QEMU 7.2 with a COPIED flag and a count of two: nothing to judge by."""
    try:
        shell.run("qemu-img", "check", "-q", "-f", "qcow2", layer.name, ok=None if layer.lazy_refcounts else (0,))
    except Failure as failure:
        raise Corrupt(str(failure)) from failure


def make_image(shell, random, depths=(0, 0, 1, 1, 2, 3)):
    """
    Makes an image in the shell's folder, over a chain of one of these depths, and returns what it is.

    QEMU 7.2 can mark its own image as corrupt, for example when it shrinks one with lazy refcounts.
    """
    try:
        return make_image_as_it_comes(shell, random, depths)
    except Failure as failure:
        if "Image is corrupt" in str(failure):
            raise Corrupt(str(failure)) from failure
        raise


def make_image_as_it_comes(shell, random, depths):
    make_random_files(shell, random)
    lower = make_lower_layers(shell, random, depths)
    below = lower[0] if lower else None
    top = make_qcow2(shell, random, "disk.qcow2", below, random.random() < 0.15)
    image = Image(top, lower)
    if not top.data_file:
        top.compresses = can_count_compressed(top)
        take_snapshots(shell, random, image)
        top.compresses = True
    if random.random() < 0.85:
        write_some(shell, random, top)
    if random.random() < 0.15:
        resize(shell, random, top)
    require_clean(shell, top)
    image.snapshots = snapshot_list(shell, top.name)
    image.top.size = image_info(shell, top.name)["virtual-size"]
    return image


def make_image_or_none(shell, random, **arguments):
    """None when QEMU has made a corrupt image."""
    try:
        return make_image(shell, random, **arguments)
    except Corrupt:
        return None


# ---- What the states hold, by QEMU -------------------------------------------------------------------

def convert(shell, name, target, format="qcow2"):
    shell.run("qemu-img", "convert", "-f", format, "-O", "raw", name, target)


def node(layer):
    return {"driver": layer.format, "file": {"driver": "file", "filename": layer.name}}


def snapshot_to_raw(shell, image, snapshot, target):
    """
    "convert -l" reads a snapshot with the size of the active layer, so it is applied to a copy.

    The copy has no backing file while that is done: QEMU cannot always grow a disk over one. And no bitmaps.
    """
    copy = Layer("applied.qcow2")
    shell.copy(image.top.name, copy.name)
    if image.lower:
        shell.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", copy.name)
    apply = ["qemu-img", "snapshot", "-q", "-a", snapshot.id, copy.name]
    code, printed = shell.attempt(*apply)
    if "active dirty bitmaps" in printed:
        for bitmap in image_info(shell, copy.name)["format-specific"]["data"]["bitmaps"]:
            shell.run("qemu-img", "bitmap", "--remove", copy.name, bitmap["name"])
        shell.run(*apply)
    elif code:
        raise Failure(printed)
    over = dict(node(copy), backing=node(image.lower[0]) if image.lower else None)
    shell.run("qemu-img", "convert", "-O", "raw", "json:" + json.dumps(over), target)
    os.remove(shell.path(copy.name))
