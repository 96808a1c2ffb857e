#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""libqcow2.h with its parts, libqcow2.map and libqcow2.so name the same functions.

Called with the source folder and the shared library.
"""

import pathlib
import re
import subprocess
import sys

from tap import Tap

COMMENT = re.compile(r"/\*.*?\*/", re.S)
PREPROCESSOR = re.compile(r"^\s*#(?:.*\\\n)*.*$", re.M)
MACRO_USE = re.compile(r"^G_[A-Z_]+.*$", re.M)
FUNCTION = re.compile(r"\b(qcow2_\w+)\s*\(")


def declared(library):
    text = "\n".join(path.read_text(encoding="utf-8")
                     for path in [library / "libqcow2.h", *sorted((library / "libqcow2").glob("*.h"))])
    for pattern in (COMMENT, PREPROCESSOR, MACRO_USE):
        text = pattern.sub("", text)
    return set(FUNCTION.findall(text))


def mapped(version_map):
    text = COMMENT.sub("", version_map.read_text(encoding="utf-8"))
    return re.findall(r"\b(qcow2_\w+);", text)


def exported(library):
    """Names of the dynamic symbols that the library defines, without the version node itself."""
    output = subprocess.run(["nm", "-D", "--defined-only", library], text=True, capture_output=True, check=True)
    symbols = [line.split() for line in output.stdout.splitlines()]
    return {name.split("@")[0] for *_, kind, name in symbols if kind != "A"}


def difference(left, left_name, right, right_name):
    return [f"{name} is in {left_name}, not in {right_name}" for name in sorted(left - right)] \
        + [f"{name} is in {right_name}, not in {left_name}" for name in sorted(right - left)]


def main():
    library = pathlib.Path(sys.argv[1]) / "libqcow"
    header, names = declared(library), mapped(library / "libqcow2.map")

    tap = Tap()
    tap.point("symbols: the header declares functions", [] if len(header) > 20 else [f"found: {sorted(header)}"])
    tap.point("symbols: the map is sorted and names nothing twice", [] if names == sorted(set(names)) else [names])
    tap.point("symbols: header and map agree", difference(header, "libqcow2.h", set(names), "libqcow2.map"))
    tap.point("symbols: the library exports what the header declares",
              difference(header, "libqcow2.h", exported(sys.argv[2]), "libqcow2.so"))
    tap.done()


main()
