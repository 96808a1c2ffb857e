#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats sets output and status
# Damaged images in which something in use counts as free: no command that writes gives it away.

load helpers

# table_at IMAGE OFFSET: print the offset that the table entry at this offset has
table_at() {
    echo $(($(peek_be "$1" "$2" 8) & 0xfffffffffffe00))
}

# forget IMAGE OFFSET: the cluster there counts as free from now on
forget() {
    local bits block per_block
    bits=$(peek_be "$1" 20 4)
    per_block=$((1 << (bits - 1)))
    block=$(peek_be "$1" $(($(peek_be "$1" 48 8) + 8 * (($2 >> bits) / per_block))) 8)
    poke "$1" $((block + 2 * (($2 >> bits) % per_block))) 0000
}

# first_snapshot_table IMAGE: print where the first L2 table of the first snapshot is
first_snapshot_table() {
    table_at "$1" "$(peek_be "$1" "$(peek_be "$1" 64 8)" 8)"
}

# assert_refused IMAGE TEXT COMMAND…: each command, with the image as its last word, is refused and changes nothing
assert_refused() {
    local image=$1 text=$2 command
    remember_image "$image"
    for command in "${@:3}"; do
        run -1 eval "$command $image"
        assert_output_has "$text" "refcount is 0" "run qcow-check -r all" || return
        assert_image_unchanged "$image" || return
    done
    qcow-check -q -r all "$image" || return
    eval "$3 $image"
}

# make_top IMAGE: over base.qcow2, a snapshot whose clusters the active layer shares no more
make_top() {
    [[ -e base.qcow2 ]] || { make_image base.qcow2 4M && guest_write base.qcow2 0 4M A; }
    make_image "$1" 4M -b base.qcow2 -F qcow2
    guest_write "$1" 0 1M B
    qcow-snapshot -q -c monday "$1"
    guest_write "$1" 0 1M C
    guest_write "$1" 3M 128K A
}

@test "what counts as free: a data cluster of a snapshot" {
    make_top top.qcow2
    forget top.qcow2 "$(table_at top.qcow2 $(($(first_snapshot_table top.qcow2) + 16)))"
    assert_refused top.qcow2 "entry 2 names the cluster at" "qcow-rebase -q -b ''" qcow-pull qcow-trim \
        "qcow-trim --shrink"
    assert_clean top.qcow2
}

@test "what counts as free: a data cluster of the image that is committed into" {
    make_top top.qcow2
    make_image above.img 4M -b top.qcow2 -F qcow2
    guest_write above.img 2M 1M D
    forget top.qcow2 "$(table_at top.qcow2 $(($(first_snapshot_table top.qcow2) + 16)))"
    remember_image top.qcow2 above.img
    run -1 qcow-commit --force above.img
    assert_output_has "entry 2 names the cluster at" "refcount is 0" "run qcow-check -r all"
    assert_image_unchanged top.qcow2 above.img
}

@test "what counts as free: an L2 table of a snapshot" {
    make_top top.qcow2
    forget top.qcow2 "$(first_snapshot_table top.qcow2)"
    assert_refused top.qcow2 "an L1 table names the L2 table" "qcow-snapshot -q -c tuesday"
    assert_clean top.qcow2
}

@test "what counts as free: a bitmap's table, and its bits" {
    local directory
    make_top top.qcow2
    qcow-bitmap --add top.qcow2 dirty
    guest_write top.qcow2 0 64K D
    cp top.qcow2 bits.qcow2
    directory=$(peek_be top.qcow2 "$(bitmap_extension top.qcow2)" 8)
    forget top.qcow2 "$(peek_be top.qcow2 "$directory" 8)"
    assert_refused top.qcow2 "bitmap directory" "qcow-snapshot -q -c tuesday"
    forget bits.qcow2 "$(table_at bits.qcow2 "$(peek_be bits.qcow2 "$directory" 8)")"
    assert_refused bits.qcow2 "bitmap table" "qcow-snapshot -q -c tuesday"
}

# bitmap_extension IMAGE: print where the header extension of bitmaps has the directory's offset
bitmap_extension() {
    local at type
    at=$(peek_be "$1" 100 4)
    while type=$(peek "$1" "$at" 4) && [[ $type != 00000000 && $type != 23852875 ]]; do
        at=$((at + 8 + ($(peek_be "$1" $((at + 4)) 4) + 7) / 8 * 8))
    done
    echo $((at + 8 + 16))
}

@test "what counts as free: what only trim --shrink looks at, far from the end of the file" {
    make_image top.qcow2 16M -o cluster_size=512
    guest_write top.qcow2 0 4K B
    snapshot top.qcow2 monday
    guest_write top.qcow2 0 4K C
    guest_write top.qcow2 1M 7M D
    guest_write top.qcow2 11M 128K D
    guest_write top.qcow2 14M 64K E
    qemu_io top.qcow2 'discard -q 7M 64K'
    forget top.qcow2 "$(table_at top.qcow2 $(($(first_snapshot_table top.qcow2) + 16)))"
    snapshot_raw top.qcow2 monday wanted.raw
    run -1 qcow-trim --shrink top.qcow2
    assert_output_has "entry 2 names the cluster at" "refcount is 0" "run qcow-check -r all"
    qcow-check -q -r all top.qcow2
    qcow-trim -q --shrink top.qcow2
    assert_clean top.qcow2
    snapshot_raw top.qcow2 monday found.raw
    cmp wanted.raw found.raw
}

@test "what counts as free: the last cluster of an image that cannot grow" {
    require qemu-nbd
    make_image top.qcow2 4M
    guest_write top.qcow2 0 1M B
    forget top.qcow2 $((($(stat -c %s top.qcow2) - 1) / 65536 * 65536))
    truncate -s 8M top.qcow2
    cp top.qcow2 kept.qcow2
    start_qemu_nbd nbd.sock -f raw top.qcow2
    run -1 qcow-resize "nbd+unix:///?socket=$PWD/nbd.sock" 1G
    assert_output_has "refcount is 0" "run qcow-check -r all"
    stop_daemon "$daemon_pid"
    cmp top.qcow2 kept.qcow2
}

@test "what counts as free: where a table cannot be read nothing is used again, and changes go on" {
    make_top top.qcow2
    guest_write top.qcow2 2M 512K D
    qemu_io top.qcow2 'discard -q 2M 256K'
    poke top.qcow2 $(($(peek_be top.qcow2 "$(peek_be top.qcow2 64 8)" 8) + 6)) 02
    qcow-bitmap --add top.qcow2 dirty
    qcow-resize -q top.qcow2 +1M
    assert_guest top.qcow2 0 1M C
    assert_guest top.qcow2 1M 1M A
}
