# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dirty bitmaps as QEMU sees them: those of an image, and which ranges are dirty, as an NBD client gets them."""

import json
import os
import signal
import subprocess
import time

from shell import Failure


def bitmaps(shell, image):
    """Name, granularity and flags by qemu-img info, in any order."""
    info = json.loads(shell.run("qemu-img", "info", "--output=json", image))
    found = info["format-specific"]["data"].get("bitmaps", [])
    return sorted((entry["name"], entry["granularity"], tuple(entry["flags"])) for entry in found)


class Server:
    """qemu-storage-daemon, which serves an image with all its bitmaps."""

    def __init__(self, shell, image, names):
        self.shell, self.socket = shell, shell.path("nbd.sock")
        pid_file = shell.path("nbd.pid")
        for path in (self.socket, pid_file):
            if os.path.exists(path):
                os.remove(path)
        chosen = "".join(f",bitmaps.{i}={name}" for i, name in enumerate(names))
        command = ["qemu-storage-daemon", "--pidfile", pid_file,
                   "--blockdev", f"driver=qcow2,node-name=d,read-only=on,file.driver=file,file.filename={image}",
                   "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                   "--export", f"type=nbd,id=e,node-name=d,name=d{chosen}"]
        shell.note("# " + " ".join(command))
        self.process = subprocess.Popen(command, cwd=shell.folder, env=shell.environment)
        for _ in range(1500):
            if os.path.exists(pid_file):
                return
            time.sleep(0.02)
        raise Failure(f"{image}: qemu-storage-daemon does not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)

    def dirty(self, name):
        """Sorted ranges [start, end) that do not touch."""
        printed = self.shell.run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}",
                                 f"nbd+unix:///d?socket={self.socket}")
        ranges = []
        for entry in json.loads(printed):
            start, end = entry["offset"], entry["offset"] + entry["length"]
            if entry["type"] == 1 and ranges and ranges[-1][1] == start:
                ranges[-1][1] = end
            elif entry["type"] == 1:
                ranges.append([start, end])
        return ranges


def bits(shell, image):
    """Of the bitmaps that QEMU can export: none in use, and a context's name is not longer than 256 bytes."""
    names = [name for name, _, flags in bitmaps(shell, image) if len(name) < 200 and "in-use" not in flags]
    if not names:
        return {}
    with Server(shell, image, names) as server:
        return {name: server.dirty(name) for name in names}


def missing(ranges, before, after, size):
    """The first sector that reads otherwise and is in no range; or None."""
    for start in range(0, size, 512):
        if before[start:start + 512].ljust(512, b"\0") != after[start:start + 512].ljust(512, b"\0"):
            if not any(a <= start < b for a, b in ranges):
                return start
    return None


def not_covered(ranges, others, end):
    """Where the first range below @end starts that is not within one of the others; or None."""
    for start, stop in ranges:
        stop = min(stop, end)
        if start < stop and not any(a <= start and stop <= b for a, b in others):
            return start
    return None
