#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What CONTRIBUTING.md says about the shape of C files, as far as a program can judge it.

Called with the source folder.
"""

import pathlib
import sys

from tap import Tap

MAX_LINE = 110       # characters
MAX_FILE = 600       # lines
MAX_FUNCTION = 60    # lines, from the brace that opens it to the one that closes it


def licence_problems(lines):
    if not lines or lines[0] != "/* SPDX-License-Identifier: LGPL-2.1-or-later */":
        yield 1, "the first line does not name the licence"


def line_problems(lines):
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            yield number, f"{len(line)} characters"
        if "\t" in line:
            yield number, "a tab"
        if line != line.rstrip():
            yield number, "blanks at the end"


def length_problems(lines):
    if len(lines) >= MAX_FILE:
        yield len(lines), f"a file of {len(lines)} lines"
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start:
            if number - start + 1 >= MAX_FUNCTION:
                yield start, f"a function of {number - start + 1} lines"
            start = None


RULES = {
    "every file names its licence first": licence_problems,
    f"lines have at most {MAX_LINE} characters, and no tabs": line_problems,
    f"files are shorter than {MAX_FILE} lines, functions than {MAX_FUNCTION}": length_problems,
}


def main():
    root = pathlib.Path(sys.argv[1])
    files = {path.relative_to(root): path.read_text(encoding="utf-8").splitlines()
             for folder in ("libqcow", "tools", "tests") for path in sorted((root / folder).glob("**/*.[ch]"))}
    tap = Tap()
    for what, rule in RULES.items():
        tap.point(f"style: {what}",
                  [f"{path}:{number}: {problem}" for path, lines in files.items()
                   for number, problem in rule(lines)])
    tap.done()


main()
