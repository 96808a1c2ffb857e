# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs commands in one folder and remembers them, so that a failing case can be repeated by hand."""

import os
import shlex
import subprocess


class Failure(Exception):
    """A promise that does not hold, or a command that did not end as it must."""


class Shell:
    def __init__(self, folder, paths):
        self.folder = folder
        self.lines = []
        self.environment = dict(os.environ, LC_ALL="C.UTF-8", TZ="UTC", TMPDIR=folder)
        self.paths = paths
        self.prefer()

    def prefer(self, *folders):
        """Programs are looked for here first."""
        if folders:
            self.note(f"PATH={os.pathsep.join(folders)}:$PATH")
        self.environment["PATH"] = os.pathsep.join([*folders, *self.paths, os.environ["PATH"]])

    def path(self, name):
        return os.path.join(self.folder, name)

    def note(self, line):
        """A line of the script that was not run by run()."""
        self.lines.append(line)

    def run(self, *command, ok=(0,), timeout=120, to_file=None):
        """Runs a command and returns what it printed; @to_file takes standard output, through a pipe."""
        redirection = f" | cat >{shlex.quote(to_file)}" if to_file else ""
        self.lines.append(shlex.join(command) + redirection)
        try:
            result = subprocess.run(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                    capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"still running after {timeout} seconds: {self.lines[-1]}") from error
        except FileNotFoundError as error:
            raise Failure(f"not there: {command[0]}") from error

        if ok is not None and result.returncode not in ok:
            printed = (result.stdout + result.stderr)[-4000:].decode(errors="replace")
            raise Failure(f"exit {result.returncode}: {self.lines[-1]}\n{printed}")
        if to_file:
            with open(self.path(to_file), "wb") as file:
                file.write(result.stdout)
        return result.stdout.decode(errors="replace")

    def result(self, *command, timeout=120):
        """Exit code and standard output of a command that may fail as it likes."""
        self.note("# " + shlex.join(command))
        result = subprocess.run(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                capture_output=True, timeout=timeout, check=False)
        return result.returncode, result.stdout.decode(errors="replace")

    def attempt(self, *command, timeout=120):
        """Exit code and all that was printed, of a command that may refuse; noted like one that must not."""
        self.note(shlex.join(command))
        try:
            result = subprocess.run(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                    capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"still running after {timeout} seconds: {self.lines[-1]}") from error
        if result.returncode:
            self.note(f"# exit {result.returncode}")
        return result.returncode, (result.stdout + result.stderr).decode(errors="replace")

    def kill_after(self, seconds, *command):
        """Starts a command and kills it, unless it is done by then."""
        self.note(f"timeout -s KILL {seconds:.2f} {shlex.join(command)}")
        try:
            subprocess.run(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                           capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            pass

    def copy(self, source, target):
        self.run("cp", "--sparse=always", source, target)

    def script(self):
        """Everything that was run, for a person to paste."""
        return self.lines
