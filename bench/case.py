# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a case says.

A command is a list of words, or a text for the shell where it takes several. In both, {data} is the folder
of the case's data set and {out} a folder that is empty before each run; {qemu_img}, {qemu_nbd} and {qsd} (the
storage daemon) are those of one QEMU: a peer is tried with each version there is. Whatever leaves a file has
flushed it at its end. A shell text keeps the processes that it leaves in the background in $pids.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    name: str
    data: str                                   # a name in datasets.SETS
    ours: list
    peers: dict = field(default_factory=dict)   # what it is called: command
    must: float = 0                             # peer's time divided by ours; 0: for information
    limit: float = 0                            # seconds, for what no peer can do
    place: str = "here"                         # "here": the work folder; "xfs": XFS that shares extents
    times: int = 1                              # so many times more runs than usual, for what is short
    start: str = ""                             # for the shell, before each run: what the run may change
