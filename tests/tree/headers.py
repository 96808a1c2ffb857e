#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every header compiles alone, and is guarded.

Called with the source folder, the folder of config.h, and the compiler with its flags.
"""

import pathlib
import subprocess
import sys

from tap import Tap


def problems(header, include, command):
    text = f'#include "{include}"\n#include "{include}"\n'
    result = subprocess.run(
        command + ["-x", "c", "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-"],
        input=text, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        yield result.stderr
    if "SPDX-License-Identifier: LGPL-2.1-or-later" not in header.read_text(encoding="utf-8").splitlines()[0]:
        yield "the first line does not name the licence"


def main():
    root, build = pathlib.Path(sys.argv[1]), sys.argv[2]
    command = sys.argv[3:] + [f"-I{build}"]
    tap = Tap()
    for folder in ("libqcow", "tools"):
        # A header of the library is found from libqcow/, one of the commands beside it.
        paths = [f"-I{root / 'libqcow'}"] + ([f"-I{root / 'tools'}"] if folder == "tools" else [])
        for header in sorted((root / folder).glob("**/*.h")):
            include = str(header.relative_to(root / folder))
            tap.point(f"headers: {folder}/{include} compiles alone",
                      list(problems(header, include, command + paths)))
    tap.done()


main()
