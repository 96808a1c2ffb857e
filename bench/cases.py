# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured, beside what, and how much faster it must be."""

from dataclasses import dataclass

from case import Case
from datasets import GIB, MIB
from merges import MERGES


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


def convert(options, target="qcow2"):
    return {"convert": f"{{qemu_img}} convert -t writeback -f qcow2 -O {target} {options} {{out}}/copy\n"
                       "sync {out}/copy\n"}


def convert_shared(options, target="qcow2"):
    """Also with -C, which is the faster way where extents can be shared."""
    return {**convert(options, target), "convert -C": convert("-C " + options, target)["convert"]}


def copy(options, target="qcow2"):
    return ["qcow-copy", "-O", target, *options.split(), "{out}/ours"]


# ---- What is changed in place ------------------------------------------------------------------------

# The tables stay in the page cache, and nothing is left to be written back.
COPY_OF_DISK = """
cp --sparse=always {data}/disk.qcow2 {out}/disk.qcow2
sync {out}/disk.qcow2
"""

# The image as it was at snapshot one, and a delta from there, which for qemu-img is an overlay of it.
DELTA_BESIDE_DISK = COPY_OF_DISK + """
{qemu_img} snapshot -q -a one {out}/disk.qcow2
{tools}/qcow-export-delta -q -b disk.qcow2 -F qcow2 {data}/disk.qcow2 one two {out}/delta.qcow2
sync {out}/disk.qcow2
"""

COMMIT_AND_SNAPSHOT = """
{qemu_img} commit -q -f qcow2 {out}/delta.qcow2
{qemu_img} snapshot -c imported {out}/disk.qcow2
sync {out}/disk.qcow2
"""


def snapshot(verb):
    """Ours, the peer, and where both start."""
    words = ["snapshot", *verb.split(), "{out}/disk.qcow2"]
    return {"ours": [f"qcow-{words[0]}", *words[1:]], "peers": {"snapshot": ["{qemu_img}", *words]},
            "start": COPY_OF_DISK}


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
    Case("snapshot -c meta", "meta", **snapshot("-c new"), must=4),
    Case("snapshot -d meta", "meta", **snapshot("-d one"), must=5),
    Case("snapshot -a meta", "meta", **snapshot("-a one"), must=5),
    Case("import-delta snap, with a name", "snap", start=DELTA_BESIDE_DISK,
         ours=["qcow-import-delta", "-q", "--name=imported", "{out}/delta.qcow2", "{out}/disk.qcow2"],
         peers={"commit, snapshot -c": COMMIT_AND_SNAPSHOT}),
    Case("resize meta, grow", "meta", start=COPY_OF_DISK, times=3,
         ours=["qcow-resize", "-q", "{out}/disk.qcow2", "+1G"],
         peers={"resize": ["{qemu_img}", "resize", "-q", "{out}/disk.qcow2", "+1G"]}),
    Case("check -r leaks meta, clean", "meta", start=COPY_OF_DISK,
         ours=["qcow-check", "-q", "-r", "leaks", "{out}/disk.qcow2"],
         peers={"check": ["{qemu_img}", "check", "-q", "-r", "leaks", "{out}/disk.qcow2"]}),
    Case("create", "meta", times=12,
         ours=["qcow-create", "-q", "{out}/new.qcow2", "1T"],
         peers={"create": "{qemu_img} create -q -f qcow2 {out}/new.qcow2 1T\nsync {out}/new.qcow2 {out}\n"}),
    Case("create, preallocation=metadata", "meta",
         ours=["qcow-create", "-q", "-o", "preallocation=metadata", "{out}/new.qcow2", "256G"],
         peers={"create": "{qemu_img} create -q -f qcow2 -o preallocation=metadata {out}/new.qcow2 256G\n"
                          "sync {out}/new.qcow2 {out}\n"}),
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
    Case("copy snap to qcow2", "snap", ours=copy("{data}/disk.qcow2"), peers=convert("{data}/disk.qcow2"), must=1.6),
    Case("copy snap to raw", "snap", ours=copy("{data}/disk.qcow2", "raw"),
         peers=convert("{data}/disk.qcow2", "raw"), must=1.6),
    Case("copy chain to qcow2", "chain", ours=copy("{data}/a.qcow2"), peers=convert("{data}/a.qcow2"), must=2.4),
    Case("copy chain to qcow2", "chain", place="xfs", ours=copy("{data}/a.qcow2"),
         peers=convert_shared("{data}/a.qcow2"), must=20),
    Case("copy snap to qcow2", "snap", place="xfs", ours=copy("{data}/disk.qcow2"),
         peers=convert_shared("{data}/disk.qcow2"), must=5),
    Case("copy deep to qcow2", "deep", ours=copy("{data}/top.qcow2"), peers=convert("{data}/top.qcow2"), must=2.4),
    Case("copy -c compr, zlib", "compr", ours=copy("-c {data}/plain.qcow2"),
         peers=convert("-c {data}/plain.qcow2"), must=5),
    Case("copy -c compr, zstd", "compr", ours=copy("-c -o compression_type=zstd {data}/plain.qcow2"),
         peers=convert("-c -o compression_type=zstd {data}/plain.qcow2"), must=1.3),
    Case("copy compr, zlib to raw", "compr", ours=copy("{data}/zlib.qcow2", "raw"),
         peers=convert("{data}/zlib.qcow2", "raw"), must=2),
    Case("copy -c compr, zlib to zlib", "compr", ours=copy("-c {data}/zlib.qcow2"),
         peers=convert("-c {data}/zlib.qcow2"), must=12),
    *MERGES,
]
