# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Test Anything Protocol, for the tests of the source tree."""


MAX_LINES = 20    # of explanation, for one point


class Tap:
    def __init__(self):
        self.count = 0

    def point(self, what, problems):
        """One test point: passes when the list of problems is empty."""
        self.count += 1
        print(f"{'not ok' if problems else 'ok'} {self.count} - {what}")
        lines = [line for problem in problems for line in str(problem).splitlines()]
        for line in lines[:MAX_LINES]:
            print(f"# {line}")
        if len(lines) > MAX_LINES:
            print(f"# and {len(lines) - MAX_LINES} more lines")

    def done(self):
        print(f"1..{self.count}")
