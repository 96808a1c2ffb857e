# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cases that merge layers of a chain: commit, pull, rebase, beside qemu-img and the jobs of a daemon."""

from case import Case

TOP, MID, BASE = (f"{{out}}/{name}.qcow2" for name in ("top", "mid", "base"))


# ---- Commands ----------------------------------------------------------------------------------------

def start_merge(*written):
    """The data set in {out}: what is written as a copy that shares nothing, flushed; links to all else."""
    copies = "".join(f"rm {{out}}/{name}; cp --reflink=never --sparse=always {{data}}/{name} {{out}}\n"
                     for name in written)
    return "ln -s {data}/* {out}\n" + copies + "sync -f {out}\n"


# The top is a link: the file that is written is the layer of the highest number.
START_DEEP = """
cp --reflink=never --sparse=always {data}/*.qcow2 {out}
cd {out}
rm top.qcow2
ln -s "$(ls | tail -n 1)" top.qcow2
sync -f .
"""

DEEP_LAYERS = "$(ls {out}/[0-9]*.qcow2)"


def img(arguments, *written):
    """qemu-img; ours leave flushed files."""
    return {arguments.split()[0]: f"{{qemu_img}} {arguments}\n" + flush(written)}


def job(verb, layers, *written):
    """A block job of the storage daemon; layers from the lowest on."""
    return {f"block-{verb}": f"{{bench}}/block-job {{qsd}} {verb} {layers}\n" + flush(written)}


def flush(files):
    return "".join(f"sync {file}\n" for file in files)


# ---- Three layers ------------------------------------------------------------------------------------

def commits(data, place, must, suffix=""):
    return [
        Case("commit top to mid" + suffix, data, place=place, must=must,
             start=start_merge("top.qcow2", "mid.qcow2"),
             ours=["qcow-commit", "-q", TOP],
             peers={**img("commit -q -t writeback -f qcow2 " + TOP, TOP, MID),
                    **job("commit", f"{BASE} {MID} {TOP} {MID}", MID)}),
        Case("commit top to base" + suffix, data, place=place, must=must,
             start=start_merge("top.qcow2", "mid.qcow2", "base.qcow2"),
             ours=["qcow-commit", "-q", "-b", BASE, TOP],
             peers={**img(f"commit -q -t writeback -f qcow2 -b {BASE} {TOP}", BASE),
                    **job("commit", f"{BASE} {MID} {TOP} {BASE}", BASE)}),
    ]


def pulls(data, place, pull, rebase, suffix=""):
    return [
        Case("pull all" + suffix, data, place=place, must=pull, start=start_merge("top.qcow2"),
             ours=["qcow-pull", "-q", TOP],
             peers={**img('rebase -t writeback -f qcow2 -b "" ' + TOP, TOP),
                    **job("stream", f"{BASE} {MID} {TOP}", TOP)}),
        Case("rebase top onto base" + suffix, data, place=place, must=rebase, start=start_merge("top.qcow2"),
             ours=["qcow-rebase", "-q", "-b", "base.qcow2", "-F", "qcow2", TOP],
             peers={**img("rebase -t writeback -f qcow2 -b base.qcow2 -F qcow2 " + TOP, TOP),
                    **job("stream", f"{BASE} {MID} {TOP} {BASE}", TOP)}),
    ]


# ---- Fifty layers ------------------------------------------------------------------------------------

def deep(place, must):
    base = "{out}/00.qcow2"
    return [
        Case("pull all deep", "deep", place=place, must=must, start=START_DEEP,
             ours=["qcow-pull", "-q", TOP],
             peers={**img('rebase -t writeback -f qcow2 -b "" ' + TOP, TOP),
                    **job("stream", DEEP_LAYERS, TOP)}),
        Case("commit deep to its base", "deep", place=place, must=must, start=START_DEEP,
             ours=["qcow-commit", "-q", "-b", base, TOP],
             peers={**img(f"commit -q -t writeback -f qcow2 -b {base} {TOP}", base),
                    **job("commit", f"{DEEP_LAYERS} {base}", base)}),
    ]


# ---- The same change on a larger disk ----------------------------------------------------------------

def growth(name, data):
    """No ratio: what these cost must not grow with the disk, in time and in memory."""
    def case(verb, ours):
        return Case(f"{verb}, {name} disk", data, limit=0.2, times=2, ours=ours,
                    start=start_merge("base.qcow2", "mid.qcow2", "top.qcow2"))

    return [
        case("export-delta",
             ["qcow-export-delta", "-q", "{data}/disk.qcow2", "one", "two", "{out}/delta.qcow2"]),
        case("commit to mid", ["qcow-commit", "-q", TOP]),
        case("commit to base", ["qcow-commit", "-q", "-b", BASE, TOP]),
        case("pull", ["qcow-pull", "-q", TOP]),
        case("rebase", ["qcow-rebase", "-q", "-b", "base.qcow2", "-F", "qcow2", TOP]),
    ]


MERGES = [
    *commits("merge", "here", must=2.5),
    *pulls("merge", "here", pull=2.2, rebase=2.3),
    *commits("merge", "xfs", must=6),
    *pulls("merge", "xfs", pull=6, rebase=2.3),
    *commits("long", "xfs", must=20, suffix=", long runs"),
    *pulls("long", "xfs", pull=20, rebase=2.3, suffix=", long runs"),
    *deep("here", must=2.2),
    *deep("xfs", must=6),
    *growth("1 TiB", "grow1"),
    *growth("16 TiB", "grow16"),
]
