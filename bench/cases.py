# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is measured, beside what, and how much faster it must be.

A command is a list of words, or a text for the shell where it takes several. In both, {data} is the folder
of the case's data set and {out} a folder that is empty before each run; {qemu_img} and {qemu_nbd} are those
of one QEMU: a peer is tried with each version there is. Whatever leaves a file has flushed it at its end. A
shell text keeps the processes that it leaves in the background in $pids.
"""

from dataclasses import dataclass, field

from datasets import GIB, MIB


@dataclass(frozen=True)
class Size:
    """How large the data sets are; bytes, or numbers."""
    snap_disk: int
    snap_changed: int
    meta_disk: int
    meta_changed: int
    deep_disk: int
    deep_layers: int
    chain_disk: int
    compr_disk: int
    xfs_file: int
    runs: int


SIZES = {
    "tiny": Size(64 * MIB, 2 * MIB, 4 * GIB, 16, 64 * MIB, 3, 32 * MIB, 2 * MIB, 512 * MIB, runs=1),
    "quick": Size(1 * GIB, 80 * MIB, 256 * GIB, 1024, 2 * GIB, 50, 512 * MIB, 64 * MIB, 3 * GIB, runs=5),
    "full": Size(8 * GIB, 640 * MIB, 1024 * GIB, 4096, 2 * GIB, 50, 4 * GIB, 512 * MIB, 24 * GIB, runs=5),
}


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


# ---- Peers that take several commands ----------------------------------------------------------------

# What changed from snapshot one to snapshot two, as people make it today: an overlay over the one state is
# rebased to the other, which drops what is the same. Over NBD neither state needs to be copied first.
DELTA_OVER_NBD = """
for state in one two; do
    {qemu_nbd} -r -f qcow2 -l snapshot.name=$state -e 16 -t -k {out}/$state {data}/disk.qcow2 &
    pids="$pids $!"
done
tries=0
until [ -S {out}/one ] && [ -S {out}/two ]; do
    tries=$((tries + 1))
    [ $tries -lt 1000 ]
    sleep 0.01
done
{qemu_img} create -q -f qcow2 -b "nbd+unix:///?socket={out}/two" -F raw {out}/delta.qcow2
{qemu_img} rebase -t writeback -f qcow2 -b "nbd+unix:///?socket={out}/one" -F raw {out}/delta.qcow2
{qemu_img} rebase -u -f qcow2 -b "" {out}/delta.qcow2
sync {out}/delta.qcow2
"""

DELTA_OF_COPIES = """
for state in one two; do
    {qemu_img} convert -f qcow2 -l snapshot.name=$state -O qcow2 {data}/disk.qcow2 {out}/$state.qcow2
done
{qemu_img} create -q -f qcow2 -b two.qcow2 -F qcow2 {out}/delta.qcow2
{qemu_img} rebase -t writeback -f qcow2 -b one.qcow2 -F qcow2 {out}/delta.qcow2
{qemu_img} rebase -u -f qcow2 -b "" {out}/delta.qcow2
sync {out}/delta.qcow2
"""

DELTA_PEERS = {"rebase over NBD": DELTA_OVER_NBD, "rebase of copies": DELTA_OF_COPIES}


def convert(options):
    return {"convert": "{qemu_img} convert -t writeback -f qcow2 -O qcow2 " + options + " {out}/copy.qcow2\n"
                       "sync {out}/copy.qcow2\n"}


# ---- The table ---------------------------------------------------------------------------------------

CASES = [
    Case("export-delta snap", "snap",
         ours=["qcow-export-delta", "-q", "{data}/disk.qcow2", "one", "two", "{out}/delta.qcow2"],
         peers=DELTA_PEERS, must=12),
    Case("export-delta snap", "snap", place="xfs",
         ours=["qcow-export-delta", "-q", "{data}/disk.qcow2", "one", "two", "{out}/delta.qcow2"],
         peers=DELTA_PEERS, must=25),
    Case("export-delta meta --map", "meta", times=3,
         ours=["qcow-export-delta", "--map", "--output=json", "{data}/disk.qcow2", "one", "two"],
         limit=0.050),
    Case("map json meta", "meta",
         ours=["qcow-map", "--output=json", "{data}/disk.qcow2"],
         peers={"map": ["{qemu_img}", "map", "--output=json", "{data}/disk.qcow2"]}, must=8),
    Case("map json deep", "deep", times=3,
         ours=["qcow-map", "--output=json", "{data}/top.qcow2"],
         peers={"map": ["{qemu_img}", "map", "--output=json", "{data}/top.qcow2"]}, must=4),
    Case("check meta", "meta",
         ours=["qcow-check", "-q", "{data}/disk.qcow2"],
         peers={"check": ["{qemu_img}", "check", "-q", "{data}/disk.qcow2"]}, must=6),
    Case("info snap", "snap", times=12,
         ours=["qcow-info", "{data}/disk.qcow2"],
         peers={"info": ["{qemu_img}", "info", "{data}/disk.qcow2"]}, must=1.5),
    Case("compare two overlays", "chain",
         ours=["qcow-compare", "-q", "{data}/a.qcow2", "{data}/b.qcow2"],
         peers={"compare": ["{qemu_img}", "compare", "-q", "{data}/a.qcow2", "{data}/b.qcow2"]}, must=50),
    Case("measure snap", "snap", times=3,
         ours=["qcow-measure", "-O", "qcow2", "{data}/disk.qcow2"],
         peers={"measure": ["{qemu_img}", "measure", "-O", "qcow2", "{data}/disk.qcow2"]}),
    Case("export-delta snap, all of one", "snap",
         ours=["qcow-export-delta", "-q", "{data}/disk.qcow2", "@empty", "one", "{out}/delta.qcow2"],
         peers=convert("-l snapshot.name=one {data}/disk.qcow2")),
    Case("export-delta -c compr, zlib", "compr",
         ours=["qcow-export-delta", "-q", "-c",
               "{data}/plain.qcow2", "@empty", "@active", "{out}/delta.qcow2"],
         peers=convert("-c {data}/plain.qcow2")),
    Case("export-delta -c compr, zstd", "compr",
         ours=["qcow-export-delta", "-q", "-c", "-o", "compression_type=zstd",
               "{data}/plain.qcow2", "@empty", "@active", "{out}/delta.qcow2"],
         peers=convert("-c -o compression_type=zstd {data}/plain.qcow2")),
    Case("export-delta compr, zlib to zlib", "compr",
         ours=["qcow-export-delta", "-q", "{data}/zlib.qcow2", "@empty", "@active", "{out}/delta.qcow2"],
         peers=convert("-c {data}/zlib.qcow2")),
]
