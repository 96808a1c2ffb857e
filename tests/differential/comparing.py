# SPDX-License-Identifier: LGPL-2.1-or-later
"""qcow-compare of two images, judged by qemu-img compare and by the bytes of raw copies."""

import json

import images
from shell import Failure

SECTOR = 512


def compare_words(shell, options, a, b):
    arguments = [*options, "-f", a.format, "-F", b.format, a.name, b.name]
    ours, theirs = (shell.result(*command, *arguments) for command in (["qcow-compare"], ["qemu-img", "compare"]))
    if ours != theirs:
        raise Failure(f"compare {' '.join(arguments)}\nours:   {ours}\ntheirs: {theirs}")


def differing_sectors(first, second):
    size = max(len(first), len(second))
    first, second = first.ljust(size, b"\0"), second.ljust(size, b"\0")
    return [at for at in range(0, size, SECTOR) if first[at:at + SECTOR] != second[at:at + SECTOR]]


def require_map(shell, arguments, contents):
    """--map lists the sectors in which these two differ, and no others."""
    expected = differing_sectors(*contents)
    status, printed = shell.result("qcow-compare", "--map", "--output=json", *arguments)
    ranges = json.loads(printed)
    listed = sorted({at // SECTOR * SECTOR for entry in ranges
                     for at in range(entry["start"], entry["start"] + entry["length"], min(SECTOR, entry["length"]))})
    if listed != expected or status != (1 if expected else 0):
        raise Failure(f"compare --map {' '.join(arguments)}: exit {status}, {len(ranges)} ranges\n"
                      f"listed and the same: {sorted(set(listed) - set(expected))[:5]}\n"
                      f"differing and not listed: {sorted(set(expected) - set(listed))[:5]}")
    for entry in ranges:
        if entry["zero"] and contents[1][entry["start"]:entry["start"] + entry["length"]].strip(b"\0"):
            raise Failure(f"compare --map {' '.join(arguments)}: {entry} is not zero")


def compare_map(shell, a, b):
    contents = []
    for layer in (a, b):
        images.convert(shell, layer.name, "raw-copy", layer.format)
        with open(shell.path("raw-copy"), "rb") as file:
            contents.append(file.read())
    require_map(shell, ["-f", a.format, "-F", b.format, a.name, b.name], contents)


def compare_states(shell, a, b, states):
    """@states: for each its word and what it reads as."""
    (word_a, content_a), (word_b, content_b) = states
    require_map(shell, ["-f", a.format, "-F", b.format, f"--state-a={word_a}", f"--state-b={word_b}", a.name, b.name],
                (content_a, content_b))
