#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# Memory follows neither the disk nor its tables: 16 TiB, with a change here and there, in 256 MiB; reading in 64 MiB.

load helpers

# make_large: base <- mid <- top of 16 TiB; each has a snapshot, and clusters in 100 places of its own and 100 shared
make_large() {
    local name below=() commands i
    for name in base mid top; do
        make_image "$name.qcow2" 16T "${below[@]}"
        below=(-b "$name.qcow2" -F qcow2)
        for what in 1 2; do
            commands=()
            for ((i = 0; i < 100; i++)); do
                commands+=("write -q -P $((i % 255 + 1)) $((i * 150))G 128K")
                commands+=("write -q -P ${#name}$what $((i * 150 + ${#below} + what))G 64K")
            done
            qemu_io "$name.qcow2" "${commands[@]}"
            [[ $what == 2 ]] || snapshot "$name.qcow2" first
        done
    done
    qemu-img bitmap --add base.qcow2 bits
}

# assert_memory MIB COMMAND…: the command succeeds, and is never larger than this
assert_memory() {
    local limit=$1 peak
    shift
    peak=$(peak_memory "$@") || fail "$*"
    ((peak < limit)) || fail "$*: $peak MiB"
    echo "$peak MiB: $*"
}

@test "memory: what reads a chain of 16 TiB takes less than 64 MiB" {
    require_plain_build
    make_large
    assert_memory 64 qcow-map --output=json top.qcow2
    assert_memory 64 qcow-check top.qcow2
    assert_memory 64 qcow-info --backing-chain top.qcow2
    assert_memory 64 qcow-measure -O qcow2 top.qcow2
    assert_memory 64 qcow-compare top.qcow2 top.qcow2
    assert_memory 64 qcow-compare --state-a first --state-b first mid.qcow2 mid.qcow2
    assert_memory 64 qcow-plan --drop=mid.qcow2 --drop=base.qcow2 top.qcow2
}

@test "memory: what changes a chain of 16 TiB takes less than 256 MiB" {
    require_plain_build
    make_large
    make_image other.qcow2 16T -b base.qcow2 -F qcow2
    make_image side.qcow2 16T -b mid.qcow2 -F qcow2
    qemu-img snapshot -c last top.qcow2
    assert_memory 256 qcow-rebase -q -b other.qcow2 -F qcow2 side.qcow2
    assert_memory 256 qcow-rebase -q -c -b '' side.qcow2
    rm other.qcow2
    assert_memory 256 qcow-trim -q --shrink mid.qcow2
    assert_memory 256 qcow-copy -O qcow2 top.qcow2 copy.qcow2
    assert_memory 256 qcow-copy -c -O qcow2 -B base.qcow2 -F qcow2 -l first top.qcow2 over.qcow2
    assert_memory 256 qcow-copy -n -O qcow2 side.qcow2 copy.qcow2
    rm over.qcow2
    assert_memory 256 qcow-copy --chain copied top.qcow2
    assert_memory 256 qcow-commit -q --preserve mid.qcow2 --preserve top.qcow2 -b base.qcow2 top.qcow2
    assert_memory 256 qcow-pull -q top.qcow2
    assert_memory 64 qcow-compare -q top.qcow2 copied/top.qcow2
    assert_clean base.qcow2 mid.qcow2 top.qcow2 copy.qcow2 side.qcow2
}
