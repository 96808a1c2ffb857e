#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every source and every test is named in a meson.build: what is not would be neither built nor run."""

import pathlib
import sys

from tap import Tap

# Folder, files in it, the meson.build that lists them, and how it spells a file.
RULES = [
    ("libqcow", "*/*.c", "libqcow", lambda path: str(path)),
    ("tools", "tool-*.c", "tools", lambda path: path.name),
    ("tools", "qcow*.c", "tools", lambda path: path.stem),
    ("tests/bats", "*.bats", "tests", lambda path: path.stem),
    ("tests/unit", "test-*.c", "tests", lambda path: path.stem),
    ("tests/fuzz", "fuzz-*.c", "tests", lambda path: path.stem),
    ("tests/tree", "*.py", "tests", lambda path: path.stem),
]


def main():
    root = pathlib.Path(sys.argv[1])
    tap = Tap()
    for folder, pattern, build_folder, spelled in RULES:
        build = (root / build_folder / "meson.build").read_text(encoding="utf-8")
        missing = [
            f"{path.relative_to(root)} is not in {build_folder}/meson.build"
            for path in sorted((root / folder).glob(pattern))
            if path.name != "tap.py" and f"'{spelled(path.relative_to(root / folder))}'" not in build
        ]
        tap.point(f"listed: {folder}/{pattern}", missing)
    tap.done()


main()
