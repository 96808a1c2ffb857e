# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a test on many random cases, several at a time, and prints TAP. Case N of a seed can be run alone."""

import argparse
import concurrent.futures
import os
import random
import shutil
import sys
import tempfile
import time
import traceback

from shell import Failure, Shell


def parse(description, count):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default=str(random.randrange(1 << 32)), help="default: a new one each time")
    parser.add_argument("--count", type=int, default=count, help="cases to run (%(default)s)")
    parser.add_argument("--only", type=int, help="run this case alone")
    parser.add_argument("--qemu", metavar="DIR", help="folder of the QEMU programs to use")
    parser.add_argument("--tools", metavar="DIR", help="folder of the commands to test; default: from PATH")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="cases at a time (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the files of cases that fail")
    return parser.parse_args()


def run_one(test, seed, index, place, paths):
    """Returns the problem (None: passed), the commands, and what the test has to say of a case that passed."""
    folder = os.path.join(place, f"case-{index}")
    os.mkdir(folder)
    shell = Shell(folder, paths)
    try:
        remark = test(shell, random.Random(f"{seed} {index}"))
    except Failure as failure:
        return str(failure), shell.script(), None
    except Exception:  # pylint: disable=broad-except  # whatever it is, the commands should be seen
        return traceback.format_exc(), shell.script(), None
    shutil.rmtree(folder)
    return None, [], remark


def report(name, number, index, result, folder, arguments):
    problem, script, remark = result
    rest = f" ({remark})" if remark else ""
    print(f"{'not ok' if problem else 'ok'} {number} - {name}: seed {arguments.seed}, case {index}{rest}")
    if problem:
        print("\n".join(f"# {line}" for line in [*problem.splitlines(), *script]))
        print(f"# again: {sys.argv[0]} --seed {arguments.seed} --only {index} --keep")
        if arguments.keep:
            print(f"# files: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()


def run(name, description, test, count=50):
    """Calls test(shell, random) for each case; it raises Failure. Returns the exit code."""
    arguments = parse(description, count)
    paths = [os.path.abspath(path) for path in (arguments.qemu, arguments.tools) if path]
    if arguments.qemu and not os.access(os.path.join(arguments.qemu, "qemu-img"), os.X_OK):
        print("1..0 # SKIP this QEMU is not there")
        return 0

    place = tempfile.mkdtemp(prefix=f"qcow-{name}-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    indexes = range(arguments.count) if arguments.only is None else [arguments.only]
    print(f"# seed {arguments.seed}")
    print(f"1..{len(indexes)}", flush=True)
    started, n_failed = time.monotonic(), 0
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs) as pool:
        running = [pool.submit(run_one, test, arguments.seed, index, place, paths) for index in indexes]
        for number, (index, future) in enumerate(zip(indexes, running), 1):
            result = future.result()
            report(name, number, index, result, os.path.join(place, f"case-{index}"), arguments)
            n_failed += bool(result[0])
    print(f"# {len(indexes)} cases in {time.monotonic() - started:.0f} seconds")
    if not os.listdir(place):
        os.rmdir(place)
    return 1 if n_failed else 0
