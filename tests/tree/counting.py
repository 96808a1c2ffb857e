#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""scripts/count-tests counts what it should: its last line is what a change is judged by.

Called with the source folder.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from tap import Tap

CASES = [
    # What, the tests of the log as (output, result), and the last line.
    ("points of several tests", [("1..2\nok 1 - a\nok 2 b\n", "OK"), ("ok 1 - c\n1..1\n", "OK")], "3 passed, 0 failed"),
    ("a failed point", [("1..2\nok 1 - a\nnot ok 2 - b\n", "FAIL")], "1 passed, 1 failed"),
    ("skipped points are neither", [("1..2\nok 1 - a\nok 2 - b # skip no such thing\n", "OK")], "1 passed, 0 failed"),
    ("a skipped file is neither", [("1..0 # SKIP not here\n", "SKIP"), ("1..1\nok 1\n", "OK")], "1 passed, 0 failed"),
    ("a known failure is neither", [("1..2\nnot ok 1 - a # TODO later\nok 2\n", "OK")], "1 passed, 0 failed"),
    ("a crash after good points", [("1..3\nok 1\nok 2\n", "ERROR")], "2 passed, 1 failed"),
    ("a timeout", [("1..3\nok 1\n", "TIMEOUT")], "1 passed, 1 failed"),
    ("a failed point is not counted twice", [("1..1\nnot ok 1 - a\n", "FAIL")], "0 passed, 1 failed"),
    ("bail out", [("1..2\nok 1\nBail out! assertion failed\n", "ERROR")], "1 passed, 1 failed"),
    ("a test without TAP", [("hello\n", "OK"), ("hello\n", "FAIL")], "1 passed, 1 failed"),
    ("nothing has run", [], "0 passed, 1 failed"),
]


def run(root, *arguments):
    result = subprocess.run([root / "scripts/count-tests", *arguments], text=True, capture_output=True, check=False)
    return result.stdout.splitlines()[-1], result.returncode


def problems(root, folder, tests, expected):
    log = folder / "log.json"
    lines = [json.dumps({"name": f"project:unit / t{i}", "stdout": output, "result": result})
             for i, (output, result) in enumerate(tests)]
    log.write_text("".join(line + "\n" for line in lines))
    last, status = run(root, f"a={log}")
    if last != expected:
        yield f"printed: {last}"
    if status != (0 if expected.endswith(" 0 failed") else 1):
        yield f"exit status {status}"


def main():
    root = pathlib.Path(sys.argv[1])
    tap = Tap()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for what, tests, expected in CASES:
            tap.point(f"counting: {what}", list(problems(root, folder, tests, expected)))

        last, status = run(root, "a=/nonexistent/log.json")
        tap.point("counting: a missing log is a failure", [] if (last, status) == ("0 passed, 1 failed", 1) else [last])

        reports = folder / "reports"
        reports.mkdir()
        (reports / "asan.1").write_text("==1==ERROR: AddressSanitizer: heap-use-after-free\n")
        (folder / "log.json").write_text(json.dumps({"name": "p:u / t", "stdout": "1..1\nok 1\n", "result": "OK"}))
        last, status = run(root, f"a={folder / 'log.json'}", f"a={reports}")
        tap.point("counting: a sanitizer's report is a failure",
                  [] if (last, status) == ("1 passed, 1 failed", 1) else [last])
    tap.done()


main()
