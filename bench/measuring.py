# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command and its peers in turn, A B C A B C …: what else the machine does meets all of them."""

import os
import statistics
import subprocess
from dataclasses import dataclass, field

# A peer that was so many times slower than the fastest in the first round is not the best: once is enough.
CLEARLY_SLOWER = 1.3


# What a text for the shell stands in. Its end is timed too: servers have to go as well.
SHELL = """
pids=
trap '[ -z "$pids" ] || kill $pids; wait' EXIT
"""


class CommandFailed(Exception):
    pass


@dataclass
class Run:
    wall: float
    user: float
    system: float
    peak_kib: int


@dataclass
class Contender:
    name: str
    command: object            # words, or a text for the shell
    runs: list = field(default_factory=list)
    dropped: bool = False

    @property
    def wall(self):
        return statistics.median(run.wall for run in self.runs)

    @property
    def peak_kib(self):
        return max(run.peak_kib for run in self.runs)


def run_once(timed, command):
    """One run, measured by bench/timed.c."""
    words = command if isinstance(command, list) else ["sh", "-euc", SHELL + command]
    reader, writer = os.pipe()
    with subprocess.Popen([timed, str(writer), *words], pass_fds=[writer], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            errors = process.communicate()[1]
        except BaseException:
            process.terminate()      # with all that it has started
            raise
    os.close(writer)
    with os.fdopen(reader) as report:
        numbers = report.read().split()
    if not numbers or numbers[4] != "0":
        status = numbers[4] if numbers else "none"
        raise CommandFailed(f"exit {status}: {' '.join(words)}\n{errors.strip()[-2000:]}")
    return Run(float(numbers[0]), float(numbers[1]), float(numbers[2]), int(numbers[3]))


def data_ranges(descriptor):
    """Where a file is no hole."""
    end, at = os.fstat(descriptor).st_size, 0
    while at < end:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:        # a hole up to the end
            return
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at


def warm_up(folder):
    """Brings everything that a case reads into the page cache."""
    buffer = bytearray(1 << 20)
    for entry in os.scandir(folder):
        descriptor = os.open(entry.path, os.O_RDONLY)
        for start, end in data_ranges(descriptor):
            for at in range(start, end, len(buffer)):
                os.preadv(descriptor, [memoryview(buffer)[:min(len(buffer), end - at)]], at)
        os.close(descriptor)


def take_turns(timed, contenders, rounds, prepare):
    """@prepare is called before each run, and its time is nobody's."""
    for n in range(rounds):
        for contender in contenders:
            if not contender.dropped:
                prepare()
                contender.runs.append(run_once(timed, contender.command))
        if n == 0 and len(contenders) > 1:
            best = min(contender.runs[0].wall for contender in contenders[1:])
            for contender in contenders[1:]:
                contender.dropped = contender.runs[0].wall > best * CLEARLY_SLOWER
