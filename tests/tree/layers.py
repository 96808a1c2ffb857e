#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every file includes only what its layer may know.

Called with the source folder. Prints TAP: a point for each layer, for the commands, and for the checker
itself, which is shown a tree that breaks every rule once.
"""

import pathlib
import re
import sys
import tempfile

from tap import Tap

# A layer includes from layers before it in this list.
LAYERS = ["util", "io", "format", "codec", "image", "chain", "state", "move", "ops", "live"]

# The parts of libqcow2.h: only that and each other's includes name them.
PUBLIC = "libqcow2"

# Bytes to values and back, without any input or output.
PURE = {"format": ("io",), "codec": ("io",)}
IO_HEADERS = {"unistd.h", "fcntl.h", "sys/ioctl.h", "sys/mman.h", "sys/socket.h", "sys/stat.h"}

# Costs every command milliseconds when it is linked, so only files of its module know it.
MODULE_HEADERS = {
    "libnbd.h": {"io/nbd-connection.c"},
    "isa-l/igzip_lib.h": {"codec/deflate.c"},
    "libdeflate.h": {"codec/deflate.c"},
    "zlib.h": {"codec/deflate.c"},
    "zstd.h": {"codec/zstd.c"},
    "zstd_errors.h": {"codec/zstd.c"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.M)


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def layer_of(name):
    return name.split("/")[0] if "/" in name else None


def library_problem(library, file, kind, name):
    """Why a file of the library may not include this, or None."""
    layer = layer_of(file)
    if kind == "<":
        if file not in MODULE_HEADERS.get(name, {file}):
            return "only modules may know this library"
        if layer in PURE and name in IO_HEADERS:
            return f"{layer}/ does no input or output"
        return None
    if name in ("libqcow2.h", "config.h"):
        return None
    if layer_of(name) not in LAYERS:
        return "written relative to libqcow/, an include starts with its layer"
    if not (library / name).is_file():
        return "there is no such file"
    if layer_of(name) in PURE.get(layer, ()):
        return f"{layer}/ does no input or output"
    if LAYERS.index(layer_of(name)) > LAYERS.index(layer):
        return f"{layer_of(name)}/ is a layer above {layer}/"
    return None


def command_problem(kind, name):
    """Why a file of the commands may not include this, or None."""
    if kind == "<":
        return "the library does that work" if name in MODULE_HEADERS else None
    if name in ("libqcow2.h", "config.h") or re.fullmatch(r"tool[a-z-]*\.h", name):
        return None
    return "commands know libqcow2.h and the headers of tools/ only"


def library_problems(root, layer):
    library = root / "libqcow"
    for path in sorted((library / layer).glob("**/*.[ch]")):
        file = str(path.relative_to(library))
        for kind, name in includes(path):
            problem = library_problem(library, file, kind, name)
            if problem:
                yield f"libqcow/{file} includes {name}: {problem}"


def public_problems(root):
    """What a user of the library includes must not lead into it."""
    library = root / "libqcow"
    for path in [library / f"{PUBLIC}.h", *sorted((library / PUBLIC).glob("*"))]:
        for kind, name in includes(path) if path.is_file() else []:
            is_part = name.startswith(f"{PUBLIC}/") and (library / name).is_file()
            if not is_part if kind == '"' else name not in ("glib.h", "stdbool.h", "stdint.h"):
                yield f"{path.relative_to(root)} includes {name}: it is no part of the interface"


def command_problems(root):
    for path in sorted((root / "tools").glob("*.[ch]")):
        for kind, name in includes(path):
            problem = command_problem(kind, name)
            if problem:
                yield f"tools/{path.name} includes {name}: {problem}"


def folder_problems(root):
    """A folder that is no layer would not be looked at."""
    for path in sorted((root / "libqcow").iterdir()):
        if path.is_dir() and path.name not in (*LAYERS, PUBLIC):
            yield f"libqcow/{path.name} is no layer"


def all_problems(root):
    yield from folder_problems(root)
    for layer in LAYERS:
        yield from library_problems(root, layer)
    yield from public_problems(root)
    yield from command_problems(root)


def checker_problems():
    """Breaks each rule once in a made-up tree: what the checker does not see is a problem."""
    bad = {
        "libqcow/util/a.c": '#include "image/image.h"',
        "libqcow/io/b.c": "#include <libnbd.h>",
        "libqcow/format/c.c": '#include "io/io.h"',
        "libqcow/format/d.c": "#  include <unistd.h>",
        "libqcow/image/e.c": '#include "image.h"',
        "libqcow/image/f.c": '#include "util/missing.h"',
        "libqcow/image/g.c": '#include "libqcow2/base.h"',
        "libqcow/other/g.c": "",
        "libqcow/libqcow2/bad.h": '#include "image/image.h"',
        "libqcow/libqcow2/worse.h": "#include <zlib.h>",
        "tools/h.c": '#include "util/error.h"',
    }
    good = {
        "libqcow/io/io.h": "#include <unistd.h>",
        "libqcow/io/nbd-connection.c": "#include <libnbd.h>",
        "libqcow/image/image.h": '#include "io/io.h"\n#include "libqcow2.h"',
        "libqcow/libqcow2/base.h": "#include <glib.h>",
        "libqcow/libqcow2/chain.h": '#include "libqcow2/base.h"',
        "libqcow/libqcow2.h": '#include "libqcow2/chain.h"',
        "tools/tool-output.h": "#include <glib.h>",
        "tools/i.c": '#include "tool-output.h"\n#include "libqcow2.h"',
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**bad, **good}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n")
        found = list(all_problems(root))

    for name in bad:
        if not any(problem.startswith((name + " ", str(pathlib.Path(name).parent) + " ")) for problem in found):
            yield f"not seen: {name}"
    for problem in found:
        if problem.split()[0] in good:
            yield f"wrongly refused: {problem}"


def main():
    root = pathlib.Path(sys.argv[1])
    tap = Tap()
    tap.point("layers: the checker sees every kind of breach", list(checker_problems()))
    tap.point("layers: every folder of libqcow/ is a layer", list(folder_problems(root)))
    for layer in LAYERS:
        tap.point(f"layers: {layer}/ includes only layers below it", list(library_problems(root, layer)))
    tap.point("layers: the public headers include only each other", list(public_problems(root)))
    tap.point("layers: commands include only libqcow2.h and their own headers", list(command_problems(root)))
    tap.done()


main()
