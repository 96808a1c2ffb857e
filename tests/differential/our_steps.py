# SPDX-License-Identifier: LGPL-2.1-or-later
"""What our commands do to the image."""

import os
import re

import images
from disk_model import SECTOR
from qemu_steps import free_name
from shell import Failure

NARROW = r"cannot grow: refcounts of this image"


def ours(model, *command, refusals=()):
    """A command of ours; false when it refuses for one of these reasons, and then no byte may have changed."""
    before = model.digest() if refusals else None
    code, text = model.shell.attempt(*command)
    if code == 0:
        return True
    if code != 1 or not any(re.search(pattern, text) for pattern in refusals):
        raise Failure(f"exit {code}: {text}")
    if model.digest() != before:
        raise Failure(f"it refuses, and has changed the image: {text}")
    return False


def narrow(model):
    """Counts of up to eight bits end; where they cannot, no refusal is right."""
    return [NARROW] if model.refcount_bits() <= 8 else []


def word(chooser, snapshot):
    return chooser.choice([f"id:{snapshot.id}", f"name:{snapshot.name}"])


def take_snapshot(model, chooser):
    name = free_name(model, chooser)
    if ours(model, "qcow-snapshot", f"--create={name}", model.name, refusals=narrow(model)):
        model.add_snapshot(name)


def take_snapshot_twice(model, chooser):
    """A name that is there, and nothing changes."""
    name = chooser.choice(model.snapshots).name
    if ours(model, "qcow-snapshot", f"--create={name}", model.name, refusals=[r"is there already"]):
        raise Failure(f"two snapshots are named {name!r}")


def apply_snapshot(model, chooser):
    snapshot = chooser.choice(model.snapshots)
    if ours(model, "qcow-snapshot", f"--apply={word(chooser, snapshot)}", model.name, refusals=narrow(model)):
        model.apply(snapshot)


def delete_snapshot(model, chooser):
    snapshot = chooser.choice(model.snapshots)
    ours(model, "qcow-snapshot", f"--delete={word(chooser, snapshot)}", model.name)
    model.snapshots.remove(snapshot)


def rename_snapshot(model, chooser):
    snapshot, name = chooser.choice(model.snapshots), free_name(model, chooser)
    ours(model, "qcow-snapshot", f"--rename={word(chooser, snapshot)}", f"--new-name={name}", model.name)
    snapshot.name = name


# ---- Sizes and features ------------------------------------------------------------------------------

def resize(model, chooser):
    size = images.random_size(chooser, model.top.cluster_size)
    if chooser.random() < 0.4:
        size = max(SECTOR, model.size + chooser.randint(-4, 4) * SECTOR)
    arguments = []
    if size > model.size and chooser.random() < 0.4:
        arguments = ["--preallocation=" + chooser.choice(["off", "metadata", "falloc", "full"])]
    refusals = [r"v2 image which has snapshots"] if model.top.compat == "0.10" and model.snapshots else []
    if ours(model, "qcow-resize", "-q", "--shrink", *arguments, model.name, str(size), refusals=refusals):
        model.resize(size)


def amend(model, chooser):
    bits = chooser.choice([1, 2, 4, 8, 16, 16, 32, 64])
    option, refusals = chooser.choice([
        ("compat=1.1", []),
        ("compat=0.10", [r"Cannot downgrade", r"prevent downgrade", r"Refcount widths other", r"Lazy refcounts"]),
        ("lazy_refcounts=on", [r"Lazy refcounts only"]),
        ("lazy_refcounts=off", []),
        (f"refcount_bits={bits}", [r"Cannot decrease refcount entry width", r"Refcount widths other"]),
    ])
    if ours(model, "qcow-amend", "-q", "-o", option, model.name, refusals=refusals):
        remember_option(model, option)


def remember_option(model, option):
    key, value = option.split("=")
    if key == "compat":
        model.top.compat = value
    elif key == "refcount_bits":
        model.top.refcount_bits = int(value)
    else:
        model.top.lazy_refcounts = value == "on"


# ---- VM states ---------------------------------------------------------------------------------------

def import_vm_state(model, chooser):
    snapshot = chooser.choice(model.snapshots)
    content = chooser.randbytes(chooser.randint(1, 3 * model.top.cluster_size))
    with open(model.shell.path("ram"), "wb") as file:
        file.write(content)
    if ours(model, "qcow-vmstate", "-q", "-i", word(chooser, snapshot), "ram", model.name):
        snapshot.vm_state = content


def drop_vm_state(model, chooser):
    snapshot = chooser.choice(model.snapshots)
    refusals = [] if snapshot.vm_state else [r"already"]
    ours(model, "qcow-vmstate", "-q", "-d", word(chooser, snapshot), model.name, refusals=refusals)
    snapshot.vm_state = b""


# ---- Deltas ------------------------------------------------------------------------------------------

def size_refusals(model):
    return [r"a version 2 image with snapshots cannot change its size"] if model.top.compat == "0.10" else []


def export_options(model, chooser):
    arguments = []
    if chooser.random() < 0.3:
        arguments.append("-c")
        model.top.has_compressed = True
    if chooser.random() < 0.3:
        arguments += ["-o", f"cluster_size={images.random_cluster_size(chooser)}"]
    if chooser.random() < 0.2:
        arguments.append("--compare-data")
    return arguments


def import_between_snapshots(model, chooser):
    """Back to FROM, then the delta to TO: all as it was at TO."""
    source, target = (chooser.choice(model.snapshots) for _ in range(2))
    states = [f"id:{source.id}", f"id:{target.id}"]
    if os.path.exists(model.shell.path("delta.qcow2")):
        os.remove(model.shell.path("delta.qcow2"))
    model.shell.run("qcow-export-delta", "-q", *export_options(model, chooser), model.name, *states, "delta.qcow2")
    if not ours(model, "qcow-snapshot", f"--apply=id:{source.id}", model.name, refusals=narrow(model)):
        return
    model.apply(source)
    name = free_name(model, chooser) if chooser.random() < 0.6 else None
    arguments = [f"--name={name}"] if name else []
    if ours(model, "qcow-import-delta", "-q", *arguments, "delta.qcow2", model.name,
            refusals=size_refusals(model) + narrow(model)):
        model.apply(target)
        if name:
            model.add_snapshot(name)


def make_overlay(model, chooser):
    """A delta made by QEMU, of any shape; returns its bytes."""
    layer, options = images.random_layer(chooser, "delta.qcow2", True, False)
    if os.path.exists(model.shell.path(layer.name)):
        os.remove(model.shell.path(layer.name))
    if chooser.random() < 0.7:
        layer.size = model.size
    model.shell.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), layer.name, str(layer.size))
    images.write_some(model.shell, chooser, layer, most=5)
    return layer


def import_overlay(model, chooser):
    """--force: over whatever is there."""
    layer = make_overlay(model, chooser)
    if model.shell.attempt("qemu-img", "check", "-q", layer.name)[0]:
        return
    name = free_name(model, chooser) if chooser.random() < 0.4 and not model.top.data_file else None
    arguments = [f"--name={name}"] if name else []
    command = ["qcow-import-delta", "-q", "--force", *arguments, layer.name, model.name]
    model.top.has_compressed = True
    refusals = [r"a crash would leave a mixture"] if model.top.data_file else narrow(model)
    if not ours(model, *command, refusals=size_refusals(model) + refusals):
        return
    content = model.read_active(layer.name)
    model.resize(layer.size)
    for start, end in model.present_ranges(layer.name):
        model.write(start, content[start:end])
    if name:
        model.add_snapshot(name)


def choose(model, chooser):
    steps = [resize] * 3 + [amend] * 3 + [import_overlay] * 4
    if not model.top.data_file:
        steps += [take_snapshot] * 6
        if model.snapshots:
            steps += [apply_snapshot, delete_snapshot] * 3 + [rename_snapshot, take_snapshot_twice]
            steps += [import_vm_state, drop_vm_state, *[import_between_snapshots] * 4]
    return chooser.choice(steps)
