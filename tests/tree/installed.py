#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is installed works: commands, man pages, completion, the library for programs of others.

Called with the source folder, the build folder, the version, and the names of the commands.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from tap import Tap

PROGRAM = """
#include <libqcow2.h>
#include <stdio.h>

int main(void)
{
    puts(qcow2_version());
    return 0;
}
"""


class Installed:
    """The build folder, installed below a folder of its own."""

    def __init__(self, build, folder):
        self.folder = folder
        log = self.run("meson", "install", "-C", build, "--no-rebuild", "--destdir", folder)
        self.problems = [] if log.returncode == 0 else [log.stdout + log.stderr]

    def find(self, name, below=""):
        """An installed file, by its name and the end of its folder's name; may not be there."""
        paths = [path for path in pathlib.Path(self.folder).glob(f"**/{name}") if str(path.parent).endswith(below)]
        return paths[0] if paths else pathlib.Path(self.folder) / "missing" / name

    def run(self, *command, **variables):
        environment = {**os.environ, **variables}
        environment.pop("QCOW2_MODULE_DIR", None)
        return subprocess.run([str(word) for word in command], text=True, capture_output=True, check=False,
                              env=environment)

    def run_installed(self, *command):
        """Runs what is installed, with the installed library."""
        return self.run(*command, LD_LIBRARY_PATH=str(self.find("libqcow2.so").parent))


def missing(*paths):
    return [f"{path.name} is not installed" for path in paths if not path.exists()]


def command_problems(it, name, version):
    program, page = it.find(name, "/bin"), it.find(f"{name}.1", "/man1")
    completion = it.find(f"{name}.bash", "/completions")
    problems = missing(program, page, completion)
    if problems:
        return problems
    result = it.run_installed(program, "--version")
    if result.returncode != 0 or version not in result.stdout:
        problems.append(f"--version printed {result.stdout!r}, {result.stderr!r}")
    text = page.read_text(encoding="utf-8")
    if ".TH " not in text or ".SH NAME" not in text:
        problems.append("the man page has no title or no name")
    if text != it.run_installed(program, "--generate=man").stdout:
        problems.append("the man page is not what the option table says: run scripts/update-man BUILD-FOLDER")
    syntax = it.run("bash", "-n", completion)
    if syntax.returncode != 0:
        problems.append(f"completion: {syntax.stderr}")
    return problems


def program_problems(it, version):
    header, description = it.find("libqcow2.h"), it.find("libqcow2.pc")
    problems = missing(header, description, it.find("libqcow2.so"), it.find("libqcow2.so.0"))
    if problems:
        return problems

    # The file names folders of the prefix; what is there now is below a folder of ours, which goes first.
    flags = it.run("pkg-config", "--cflags", "--libs", description)
    ours = [f"-I{header.parent}", f"-L{it.find('libqcow2.so').parent}"]
    source, program = pathlib.Path(it.folder) / "program.c", pathlib.Path(it.folder) / "program"
    source.write_text(PROGRAM)
    compiled = it.run("cc", "-Wall", "-Werror", "-o", program, source, *ours, *flags.stdout.split())
    if flags.returncode != 0 or compiled.returncode != 0:
        return [flags.stderr, compiled.stderr]
    result = it.run_installed(program)
    if result.stdout.strip() != version:
        problems.append(f"the program printed {result.stdout!r}, {result.stderr!r}")
    return problems


def nbd_module_problems(it):
    """The module is found from the installed library: what fails is the server, not the module."""
    program = it.find("qcow-info", "/bin")
    problems = missing(it.find("libqcow2-nbd.so"), program)
    if problems:
        return problems
    result = it.run_installed(program, "nbd+unix:///?socket=/nonexistent")
    if result.returncode != 1 or "module" in result.stderr or "/nonexistent" not in result.stderr:
        problems.append(f"qcow-info of an NBD name: {result.stderr!r}")
    return problems


def codec_module_problems(it):
    program = it.find("qcow-export-delta", "/bin")
    problems = missing(it.find("libqcow2-codec.so"), program)
    if problems:
        return problems
    raw, delta = pathlib.Path(it.folder) / "data.raw", pathlib.Path(it.folder) / "delta.qcow2"
    raw.write_bytes(b"compress me " * 8192)
    result = it.run_installed(program, "-f", "raw", "-c", "--output=json", raw, "@empty", "@active", delta)
    if result.returncode != 0 or '"compressed-clusters": 2' not in result.stdout:
        problems.append(f"qcow-export-delta -c: {result.stdout!r}, {result.stderr!r}")
    return problems


def main():
    build, version, *commands = sys.argv[2:]
    tap = Tap()
    with tempfile.TemporaryDirectory() as folder:
        it = Installed(build, folder)
        tap.point("installed: meson install succeeds", it.problems)
        for name in commands:
            tap.point(f"installed: {name}, its man page and completion", command_problems(it, name, version))
        tap.point("installed: a program is compiled and linked through pkg-config", program_problems(it, version))
        tap.point("installed: the NBD module is found", nbd_module_problems(it))
        tap.point("installed: the module of the compression libraries is found", codec_module_problems(it))
    tap.done()


main()
