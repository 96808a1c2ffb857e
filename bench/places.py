# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where data sets and outputs are: the work folder, and XFS in a file inside it."""

import os
import shutil
import subprocess
import tempfile
import time

import datasets


def file_system(folder):
    result = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", folder], capture_output=True, text=True,
                            check=False)
    return result.stdout.strip() or "unknown"


class Places:
    """Use it with "with": at the end XFS is unmounted, and the folder removed unless it is to be kept."""

    def __init__(self, size_name, size):
        self.size_name = size_name
        self.size = size
        self.keep = os.environ.get("BENCH_KEEP") == "1"
        self.folder = os.environ.get("BENCH_DIR")
        self.made_folder = None
        self.roots = {}           # by place: a folder, or why there is none
        self.mounted = None

    def __enter__(self):
        if self.folder:
            self.made_folder = None if os.path.isdir(self.folder) else self.folder
            os.makedirs(self.folder, exist_ok=True)
        else:
            self.folder = self.made_folder = tempfile.mkdtemp(prefix="qcow-bench-", dir="/var/tmp")
        self.roots["here"] = os.path.join(os.path.abspath(self.folder), self.size_name)
        os.makedirs(self.roots["here"], exist_ok=True)
        return self

    def __exit__(self, *_):
        if self.mounted:
            self._unmount_xfs()
        if not self.keep:
            shutil.rmtree(self.roots["here"], ignore_errors=True)
            if self.made_folder:
                shutil.rmtree(self.made_folder, ignore_errors=True)

    # ---- XFS -----------------------------------------------------------------------------------------

    def _mount_xfs(self):
        """Returns the folder, or says why it cannot be."""
        image, folder = os.path.join(self.roots["here"], "xfs.img"), os.path.join(self.roots["here"], "xfs")
        if os.geteuid() != 0:
            return "skipped: only root can mount XFS"
        if not shutil.which("mkfs.xfs"):
            return "skipped: no mkfs.xfs (package xfsprogs)"
        try:
            if not os.path.exists(image):
                with open(image, "wb") as file:
                    file.truncate(self.size.xfs_file)
                datasets.run("mkfs.xfs", "-q", "-m", "reflink=1", image)
            os.makedirs(folder, exist_ok=True)
            datasets.run("mount", "-o", "loop", image, folder)
        except RuntimeError as error:
            return f"skipped: {error}"
        self.mounted = folder
        return folder

    def _unmount_xfs(self):
        """What was interrupted may take a moment to go."""
        for _ in range(20):
            if subprocess.run(["umount", "-q", self.mounted], check=False).returncode == 0:
                return
            time.sleep(0.25)
        print(f"bench: {self.mounted} stays mounted", flush=True)

    def root(self, place):
        """The folder of a place; text that begins with "skipped" when there is none."""
        if place not in self.roots:
            self.roots[place] = self._mount_xfs()
        return self.roots[place]

    def file_system(self, place):
        return "XFS" if place == "xfs" else file_system(self.roots["here"])

    # ---- Data sets -----------------------------------------------------------------------------------

    def data(self, name, place):
        """A folder with the data set, made when it is not there; on XFS it is a copy."""
        folder = os.path.join(self.root(place), "data", name)
        if os.path.isdir(folder):
            return folder
        partial = f"{folder}.part"
        shutil.rmtree(partial, ignore_errors=True)
        if place == "here":
            os.makedirs(partial)
            datasets.SETS[name](partial, self.size)
        else:
            source = self.data(name, "here")
            os.makedirs(os.path.dirname(partial), exist_ok=True)
            datasets.run("cp", "-a", "--sparse=always", source, partial)
        datasets.finish(partial)
        os.rename(partial, folder)
        return folder

    def drop(self, name, place):
        """A data set that no later case needs gives its space and its pages back."""
        if not self.keep:
            shutil.rmtree(os.path.join(self.root(place), "data", name), ignore_errors=True)

    def empty_out(self, place):
        folder = os.path.join(self.root(place), "out")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return folder

    def settle(self, place):
        """XFS frees what was removed in the background, and holds up whoever changes extents meanwhile."""
        free, n_same = None, 0
        for _ in range(400 if place == "xfs" else 0):
            before, free = free, os.statvfs(self.root(place)).f_bfree
            n_same = n_same + 1 if free == before else 0
            if n_same == 4:
                break
            time.sleep(0.05)
