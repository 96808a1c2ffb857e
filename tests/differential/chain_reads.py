# SPDX-License-Identifier: LGPL-2.1-or-later
"""What only reads a chain: plans, which are also run, copies and comparisons."""

import json
import os
import shlex

import comparing
import copying
import images
from chain import REFUSALS, Unreadable, require
from shell import Failure

PLAN_REFUSALS = [*REFUSALS, "would read otherwise", "is backed by", "cannot grow"]


# ---- Plans -------------------------------------------------------------------------------------------

class Saved:
    """All files of a chain, to be put back."""

    def __init__(self, chain):
        self.chain, self.names = chain, []
        for name in os.listdir(chain.shell.folder):
            if os.path.isfile(chain.shell.path(name)):
                self.names.append(name)
        os.makedirs(chain.shell.path("saved"), exist_ok=True)
        chain.shell.run("cp", "--sparse=always", *self.names, "saved")

    def restore(self):
        shell = self.chain.shell
        shell.run("cp", "--sparse=always", *[os.path.join("saved", name) for name in self.names], ".")


def run_step(chain, step):
    """Whether it was done; the command counts what was planned."""
    command = [*shlex.split(step["command"]), "--output=json"]
    code, printed = chain.shell.attempt(*command)
    if code == 1 and any(reason in printed for reason in PLAN_REFUSALS):
        return False
    require(code == 0, f"exit {code}: {' '.join(command)}\n{printed}")
    done = json.loads(printed)
    for key in ("bytes", "clusters"):
        require(done[key] == step[key], f"{key}: {step[key]} planned, {done[key]} done: {' '.join(command)}")
    return True


def require_valid(chain, before, ways):
    """What every way leaves valid reads as before."""
    backing = dict(chain.backing)
    chain.read_backing()
    for layer in chain.layers:
        if layer.name in before and all(layer.name in way["valid"] for way in ways):
            require(chain.contents(layer) == before[layer.name], f"{layer.name} reads otherwise")
            chain.check(layer)
    chain.backing = backing


def plan(chain, layer):
    """Some way for each group, command by command; then one that is not refused, by the plan itself."""
    chooser, files = chain.chooser, chain.files()
    below = chain.below(layer)
    dropped = chooser.sample(range(1, len(below) + 1), chooser.randint(1, min(3, len(below))))
    words = [f"--drop={chooser.choice([f'[{i}]', below[i - 1].name])}" for i in dropped]
    before = {one.name: chain.contents(one) for one in [layer, *below]}
    printed = chain.shell.run("qcow-plan", "--output=json", *words, layer.name)
    require(chain.files() == files, "a plan has changed something")
    groups = json.loads(printed)["groups"]
    saved = Saved(chain)

    ways = [chooser.choice(group["ways"]) for group in groups]
    if all(run_step(chain, step) for way in ways for step in way["steps"]):
        require_valid(chain, before, ways)
    saved.restore()
    code, printed = chain.shell.attempt("qcow-plan", "-q", "--run", *words, layer.name)
    require(code == 0 or any(reason in printed for reason in PLAN_REFUSALS), f"exit {code}: qcow-plan --run\n{printed}")
    require_valid(chain, before, [way for group in groups for way in group["ways"]])
    saved.restore()


# ---- Copies ------------------------------------------------------------------------------------------

def copy_chain(chain, layer):
    """All layers with all their states, each over the copy below it."""
    shell, layers = chain.shell, [layer, *chain.below(layer)]
    if chain.attempt(["qcow-copy", "--chain", "copied", "-f", layer.format, layer.name]):
        return
    if any(one.data_file for one in layers):
        return      # QEMU looks for data files in the working directory, where the originals are
    for one in layers:
        original, copy = chain.contents(one), images.Layer(f"copied/{one.name}", format=one.format)
        copy.refcount_bits = one.refcount_bits
        below = chain.backing.get(one.name)
        chain.backing[copy.name] = below and images.Layer(f"copied/{below.name}", format=below.format)
        require(chain.contents(copy) == original, f"the copy of {one.name} reads otherwise")
        chain.check(copy)
    printed = json.loads(shell.run("qemu-img", "info", "--backing-chain", "--output=json", "-f", layer.format,
                                   f"copied/{layer.name}"))
    names = [os.path.realpath(shell.path(entry["filename"])) for entry in printed]
    require(names == [os.path.realpath(shell.path(f"copied/{one.name}")) for one in layers], f"chain of copies: {names}")


def copy(chain, layer):
    shell, chooser = chain.shell, chain.chooser
    files, there = chain.files(), set(os.listdir(shell.folder))
    image = chain.image(layer)
    source = chooser.choice(list(copying.sources(shell, chooser, image)))
    kinds = [copying.copy_to_raw, copying.copy_to_qcow2, copying.copy_everything, copying.copy_into_raw,
             copying.copy_killed, copying.copy_killed]
    for kind in chooser.sample(kinds, 2):
        kind(shell, chooser, source)
    copying.copy_over_base(shell, chooser, source, image)
    copying.copy_into_qcow2(shell, chooser, source, image)
    copy_chain(chain, layer)
    require(chain.files() == files, "a copy has changed its source")
    for name in set(os.listdir(shell.folder)) - there:
        shell.run("rm", "-r", name)


# ---- Comparisons -------------------------------------------------------------------------------------

def random_state(chain, layer):
    """A state of a file, and what qcow-compare is told."""
    snapshots = chain.image(layer).snapshots
    if snapshots and chain.chooser.random() < 0.7:
        snapshot = chain.chooser.choice(snapshots)
        try:
            return f"id:{snapshot.id}", chain.raw_bytes(layer, snapshot)
        except Failure:
            raise Unreadable from None
    return "@active", chain.raw_bytes(layer)


def compare(chain, layer):
    """Two images over shared layers, and two states of theirs."""
    chooser = chain.chooser
    other = chooser.choice([one for one in chain.layers if one is not layer] or [layer])
    for a, b in ((layer, other), (other, layer)):
        comparing.compare_words(chain.shell, chooser.choice([[], ["-s"]]), a, b)
    comparing.compare_map(chain.shell, layer, other)
    if layer.format == other.format == "qcow2":
        states = [random_state(chain, one) for one in (layer, other)]
        comparing.compare_states(chain.shell, layer, other, states)
