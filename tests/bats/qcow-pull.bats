#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Merges upward: an image reads the same, with fewer layers below it, and no other file is changed.

load helpers
load merging

# assert_pulled IMAGE RAW BACKING: clean, of these contents, over this
assert_pulled() {
    assert_clean "$1" && assert_same_content "$1" "$2" || return
    [[ $(backing "$1") == "$3" ]] || fail "$1 is over $(backing "$1")"
}

@test "pull: an image needs no backing file any more" {
    make_three
    active_raw top.qcow2 top.raw
    remember_image base.qcow2 mid.qcow2
    run -0 qcow-pull top.qcow2
    assert_output_has "Image pulled: "
    assert_image_unchanged base.qcow2 mid.qcow2
    assert_pulled top.qcow2 top.raw "null null"
    run -1 qcow-pull top.qcow2
    assert_output_has "already"
}

@test "pull -b: only what the layers above the new base hold" {
    make_three
    active_raw top.qcow2 top.raw
    remember_image base.qcow2 mid.qcow2
    qcow-pull -q -b base.qcow2 top.qcow2
    assert_image_unchanged base.qcow2 mid.qcow2
    assert_pulled top.qcow2 top.raw "base.qcow2 qcow2"
    [[ $(delta_ranges top.qcow2 | head -n 1) != "0 "* || $(delta_ranges top.qcow2 | wc -l) -gt 2 ]]
    run -1 qcow-pull -b base.qcow2 top.qcow2
    assert_output_has "already"
}

@test "pull -b: a layer is named by its index, and by any name of its file, too" {
    local name
    make_three
    active_raw top.qcow2 top.raw
    ln -s base.qcow2 link.qcow2
    cp top.qcow2 top.orig
    for name in '[2]' base.qcow2 ./base.qcow2 "$PWD/base.qcow2" file:base.qcow2 link.qcow2; do
        cp top.orig top.qcow2
        qcow-pull -q -b "$name" top.qcow2
        assert_pulled top.qcow2 top.raw "base.qcow2 qcow2"
    done
    # As the image above it records it, as qemu-img takes it.
    mkdir elsewhere
    cp top.orig top.qcow2
    (cd elsewhere && qcow-pull -q -b base.qcow2 ../top.qcow2)
    assert_pulled top.qcow2 top.raw "base.qcow2 qcow2"
}

@test "pull: a layer in the middle; the images over it read the same" {
    make_three
    active_raw top.qcow2 top.raw
    active_raw mid.qcow2 mid.raw
    remember_image base.qcow2 top.qcow2
    qcow-pull -q mid.qcow2
    assert_image_unchanged base.qcow2 top.qcow2
    assert_pulled mid.qcow2 mid.raw "null null"
    assert_pulled top.qcow2 top.raw "mid.qcow2 qcow2"
}

@test "pull: snapshots keep their contents, and share what they get" {
    CHAIN_SIZE=16M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 8M A
    guest_write top.qcow2 1M 64K B
    snapshot top.qcow2 one
    guest_write top.qcow2 2M 64K C
    snapshot top.qcow2 two
    guest_zero top.qcow2 3M 64K
    active_raw top.qcow2 top.raw
    snapshot_raw top.qcow2 one one.raw
    snapshot_raw top.qcow2 two two.raw
    qcow-pull -q top.qcow2
    assert_pulled top.qcow2 top.raw "null null"
    snapshot_raw top.qcow2 one again.raw
    cmp one.raw again.raw
    snapshot_raw top.qcow2 two again.raw
    cmp two.raw again.raw
    # Once for all three states, not three times.
    (($(stat -c %s top.qcow2) < 10 * 1024 * 1024)) || fail "$(stat -c %s top.qcow2) bytes"
}

@test "pull: raw bases, short layers, other cluster sizes, version 2, compressed clusters" {
    local options
    for options in cluster_size=4k compat=0.10 extended_l2=on,cluster_size=64k cluster_size=2M compression_type=zstd; do
        rm -f ./*.qcow2
        truncate -s 0 base.raw
        truncate -s 3000001 base.raw
        guest_write base.raw 0 2999808 A
        make_image mid.qcow2 2M -b base.raw -F raw
        guest_write_compressed mid.qcow2 1M 512K B
        make_image top.qcow2 4M -b mid.qcow2 -F qcow2 -o "$options"
        guest_write top.qcow2 3M 100 C
        guest_zero top.qcow2 512K 64K
        active_raw top.qcow2 top.raw
        cp top.qcow2 none.qcow2
        qcow-pull -q -b base.raw top.qcow2
        assert_pulled top.qcow2 top.raw "base.raw raw" || fail "$options"
        qcow-pull -q none.qcow2
        assert_pulled none.qcow2 top.raw "null null" || fail "$options"
    done
}

@test "pull: into a data file, also into the subclusters of a cluster that are not in it yet" {
    local extended
    for extended in off on; do
        make_image base.qcow2 4000K -o cluster_size=16K
        guest_write base.qcow2 0 200K A
        guest_write base.qcow2 3990K 10K B
        make_image top.qcow2 4000K -b base.qcow2 -F qcow2 -o "data_file=top.data,extended_l2=$extended"
        guest_write top.qcow2 50K 10K C
        guest_zero top.qcow2 100K 4K
        active_raw top.qcow2 top.raw
        qcow-pull -q top.qcow2
        assert_pulled top.qcow2 top.raw "null null"
        rm top.qcow2 top.data
    done
}

@test "pull: bitmaps stay as they are, since the guest reads the same" {
    require nbdinfo
    make_three
    qemu-img bitmap --add top.qcow2 b
    guest_write top.qcow2 5M 64K E
    qcow-pull -q top.qcow2
    start_qemu_nbd nbd.sock -r -f qcow2 -B b top.qcow2
    run -0 nbdinfo --json --map=qemu:dirty-bitmap:b "nbd+unix:///?socket=$PWD/nbd.sock"
    assert_json '[.[] | select(.type == 1)] | map([.offset, .length]) == [[5242880, 65536]]'
}

@test "pull --bitmaps: bitmaps of the pulled layers live on in the image, merged by name" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    qemu-img bitmap --add base.qcow2 base
    qemu-img bitmap --add mid.qcow2 both
    qemu-img bitmap --add -g 128K mid.qcow2 mid
    qemu-img bitmap --add --disable mid.qcow2 old
    guest_write mid.qcow2 1M 64K A
    qemu-img bitmap --disable mid.qcow2 both
    qemu-img bitmap --add top.qcow2 both
    guest_write top.qcow2 2M 64K C
    active_raw top.qcow2 top.raw
    cp mid.qcow2 theirs.qcow2
    remember_image base.qcow2 mid.qcow2
    qcow-pull -q --bitmaps -b base.qcow2 top.qcow2
    assert_image_unchanged base.qcow2 mid.qcow2
    assert_pulled top.qcow2 top.raw "base.qcow2 qcow2"
    [[ $(qcow-bitmap --list --output=json top.qcow2 | jq -c 'map([.name, .granularity, (.flags | length)])') == \
       '[["both",65536,1],["mid",131072,1],["old",65536,0]]' ]]
    [[ $(dirty top.qcow2 both) == "1048576 65536"$'\n'"2097152 65536" ]]
    [[ $(dirty top.qcow2 old) == "" ]]
    # It was not there when the top was written to: what it missed is dirty in it.
    [[ $(dirty top.qcow2 mid) == "1048576 131072"$'\n'"2097152 131072" ]]
    # qemu-img goes on with them.
    qemu-img bitmap --merge mid -b theirs.qcow2 -F qcow2 top.qcow2 both
    guest_write top.qcow2 3M 64K D
    [[ $(dirty top.qcow2 both) == "1048576 131072"$'\n'"2097152 65536"$'\n'"3145728 65536" ]]
    assert_clean top.qcow2
}

@test "pull --bitmaps: one that is in use cannot be merged, and nothing is changed" {
    make_three
    qemu-img bitmap --add mid.qcow2 b
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=mid.qcow2
    kill_daemon "$daemon_pid"
    remember_image top.qcow2
    run -1 qcow-pull --bitmaps top.qcow2
    assert_output_has "'top.qcow2': bitmaps of 'mid.qcow2': bitmap 'b'" "inconsistent" "qcow-bitmap --remove"
    assert_image_unchanged top.qcow2
    qcow-pull -q top.qcow2
}

@test "pull --bitmaps: refused where a program that knows no bitmaps wrote, and nothing is changed" {
    local stale
    make_three
    qemu-img bitmap --add mid.qcow2 b
    qemu-img bitmap --add top.qcow2 b
    for stale in mid.qcow2 top.qcow2; do
        poke "$stale" 88 0000000000000000    # autoclear features
        remember_image top.qcow2
        run -1 qcow-pull --bitmaps top.qcow2
        assert_output_has "$stale" "a program lacking bitmap support" "inconsistent" "without --bitmaps"
        assert_image_unchanged top.qcow2
        poke "$stale" 88 0000000000000001
    done
    poke mid.qcow2 88 0000000000000000
    note top.qcow2
    qcow-pull -q top.qcow2
    assert_noted top.qcow2
}

@test "pull: a base in another folder is recorded relative to the image" {
    mkdir lower
    make_image lower/base.qcow2 4M
    guest_write lower/base.qcow2 0 1M A
    (cd lower && make_image mid.qcow2 4M -b base.qcow2 -F qcow2)
    make_image top.qcow2 4M -b lower/mid.qcow2 -F qcow2
    active_raw top.qcow2 top.raw
    qcow-pull -q -b lower/base.qcow2 top.qcow2
    assert_pulled top.qcow2 top.raw "lower/base.qcow2 qcow2"
}

@test "pull: the base is found from a linked folder, and by the name of the image's own file" {
    mkdir -p real/deep/er middle
    ln -s real/deep/er link
    ln -s link/absolute.qcow2 current.qcow2
    CHAIN_SIZE=4M make_chain base.qcow2
    CHAIN_SIZE=4M make_chain real/deep/base.qcow2
    guest_write base.qcow2 0 64K A
    guest_write real/deep/base.qcow2 0 64K B
    (cd middle && make_image mid.qcow2 4M -b ../base.qcow2 -F qcow2)
    guest_write middle/mid.qcow2 1M 64K C
    (cd link && make_image relative.qcow2 4M -b ../../../middle/mid.qcow2 -F qcow2)
    make_image link/absolute.qcow2 4M -b "$PWD/middle/mid.qcow2" -F qcow2
    active_raw link/relative.qcow2 image.raw
    qcow-pull -q -b base.qcow2 link/relative.qcow2
    assert_pulled link/relative.qcow2 image.raw "../../../base.qcow2 qcow2"
    qcow-pull -q -b base.qcow2 current.qcow2
    assert_pulled link/absolute.qcow2 image.raw "$PWD/base.qcow2 qcow2"
    assert_pulled current.qcow2 image.raw "$PWD/base.qcow2 qcow2"
}

@test "pull -b: options of the new base stay, from json: or from the command line, or it is refused" {
    local node part='"driver":"raw","offset":65536,"size":1048576'
    part="json:{$part,\"file\":{\"driver\":\"file\",\"filename\":\"$PWD/base.raw\"}}"
    mkdir sub
    truncate -s 2M base.raw
    guest_write base.raw 0 64K A
    guest_write base.raw 64K 1M B
    make_image mid.qcow2 1M -b "$part" -F raw
    make_image sub/top.qcow2 1M -b ../mid.qcow2 -F qcow2
    active_raw sub/top.qcow2 top.raw
    cp sub/top.qcow2 top.orig
    qcow-pull -q -b '[2]' sub/top.qcow2
    assert_pulled sub/top.qcow2 top.raw "$part raw"
    # What the command line says is in no header.
    cp top.orig sub/top.qcow2
    node='"driver":"raw","offset":0,"size":1048576,"file":{"driver":"file","filename":"base.raw"}'
    node='"driver":"qcow2","file":{"driver":"file","filename":"mid.qcow2"},"backing":{'$node'}'
    node='"driver":"qcow2","file":{"driver":"file","filename":"sub/top.qcow2"},"backing":{'$node'}'
    remember_image sub/top.qcow2
    run -1 qcow-pull -b '[2]' "json:{$node}"
    assert_output_has "no name that could be recorded"
    assert_image_unchanged sub/top.qcow2
}

@test "pull -b: a backing file given on the command line is what the image names then" {
    local node
    CHAIN_SIZE=1M make_chain base.qcow2
    CHAIN_SIZE=1M make_chain unrelated.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 1M A
    guest_write unrelated.qcow2 0 1M B
    guest_write mid.qcow2 0 64K C
    node='"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}'
    node='"driver":"qcow2","file":{"driver":"file","filename":"mid.qcow2"},"backing":{'$node'}'
    node='"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"},"backing":{'$node'}'
    qemu-img convert -O raw "json:{$node}" top.raw
    qcow-pull -q -b base.qcow2 "json:{$node}"
    assert_pulled top.qcow2 top.raw "base.qcow2 qcow2"
}

@test "pull: wrong layers and wrong usage are refused before anything is written" {
    make_three
    truncate -s 1M raw.raw
    remember_image top.qcow2 mid.qcow2 base.qcow2
    run -1 qcow-pull -b top.qcow2 top.qcow2
    run -1 qcow-pull -b missing.qcow2 top.qcow2
    assert_output_has "missing.qcow2"
    run -1 qcow-pull -b mid.qcow2 top.qcow2
    assert_output_has "already"
    run -1 qcow-pull raw.raw
    assert_output_has "raw"
    run -2 qcow-pull
    run -2 qcow-pull top.qcow2 mid.qcow2
    assert_image_unchanged top.qcow2 mid.qcow2 base.qcow2
}

@test "pull: an image that a VM uses is refused, and one whose lower layer is written" {
    require qemu-storage-daemon
    make_three
    remember_image top.qcow2 mid.qcow2 base.qcow2
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=top.qcow2
    run -1 qcow-pull top.qcow2
    assert_output_has "top.qcow2" "lock"
    stop_daemon "$daemon_pid"
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=base.qcow2
    run -1 qcow-pull top.qcow2
    assert_output_has "base.qcow2" "lock"
    stop_daemon "$daemon_pid"
    assert_image_unchanged top.qcow2 mid.qcow2 base.qcow2
}

@test "pull --dry-run: changes nothing and says what would be moved" {
    local wanted
    make_three
    remember_image top.qcow2 mid.qcow2 base.qcow2
    run -0 qcow-pull --dry-run top.qcow2
    assert_output_has "would move" "are available"
    wanted=$(qcow-pull --dry-run --output=json top.qcow2 | jq '.bytes, ."data-clusters", ."zero-clusters"')
    assert_image_unchanged top.qcow2 mid.qcow2 base.qcow2
    run -0 --separate-stderr qcow-pull --output=json top.qcow2
    [[ $wanted == "$(jq '.bytes, ."data-clusters", ."zero-clusters"' <<<"$output")" ]]
}

@test "pull: Ctrl-C leaves the image as it was" {
    local status=0
    CHAIN_SIZE=64M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 48M A
    active_raw top.qcow2 top.raw
    start_daemon env --default-signal qcow-pull --rate 8M top.qcow2
    wait_until catches_interrupts "$daemon_pid"
    sleep 0.5
    kill -INT "$daemon_pid"
    wait "$daemon_pid" || status=$?
    [[ $status == 130 ]]
    grep -q "the image is as it was" daemon.log
    assert_pulled top.qcow2 top.raw "base.qcow2 qcow2"
    qcow-pull -q top.qcow2
    assert_pulled top.qcow2 top.raw "null null"
}

@test "pull: what an interrupted one left at the end of the file is used" {
    CHAIN_SIZE=16M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 8M A
    active_raw top.qcow2 top.raw
    head -c 4M /dev/urandom >>top.qcow2
    qcow-pull -q top.qcow2
    assert_pulled top.qcow2 top.raw "null null"
    (($(stat -c %s top.qcow2) < 9 * 1024 * 1024))
}

@test "pull: a loop of backing files is called one" {
    CHAIN_SIZE=4M make_chain a.qcow2 b.qcow2
    qemu-img rebase -u -b b.qcow2 -F qcow2 a.qcow2
    run -1 qcow-pull b.qcow2
    assert_output_has "the backing chain is a loop: 'b.qcow2' is already layer [0] of it"
}

@test "pull: a full disk changes nothing, and the same command does it when there is room" {
    small_disk 4M
    make_image base.qcow2 16M
    guest_write base.qcow2 0 8M A
    make_image small/top.qcow2 16M -b "$PWD/base.qcow2" -F qcow2
    active_raw small/top.qcow2 top.raw
    remember_image small/top.qcow2
    run -1 qcow-pull --dry-run small/top.qcow2
    assert_output_has "not enough space"
    run -1 qcow-pull small/top.qcow2
    assert_output_has "not enough space"
    assert_image_unchanged small/top.qcow2
    mount -o remount,size=20M small
    qcow-pull -q small/top.qcow2
    assert_same_content small/top.qcow2 top.raw
    assert_clean small/top.qcow2
}

# make_other_data: t.qcow2 over base.qcow2, with its data in own.data; other_name names it with other.data
make_other_data() {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image t.qcow2 4M -b base.qcow2 -F qcow2 -o data_file=own.data
    guest_write t.qcow2 0 1M B
    cp own.data other.data
    name='"file":{"driver":"file","filename":"t.qcow2"},"data-file":{"driver":"file","filename":"other.data"}'
    other_name="json:{\"driver\":\"qcow2\",$name}"
    remember_image t.qcow2 own.data other.data
}

@test "pull, rebase, trim, commit, copy -n: another data file than the recorded one is refused" {
    make_other_data
    make_image over.qcow2 4M -b "$other_name" -F qcow2
    guest_write over.qcow2 0 64K C
    qemu-img convert -O raw base.qcow2 source.raw
    local command
    for command in "qcow-pull" "qcow-rebase -b base.qcow2 -F qcow2" "qcow-trim" "qcow-copy -n -O qcow2 source.raw"; do
        # shellcheck disable=SC2086  # words
        run -1 $command "$other_name"
        assert_output_has "'own.data', not with 'other.data'" "qcow-amend"
        assert_image_unchanged t.qcow2 own.data other.data
    done
    run -1 qcow-commit over.qcow2
    assert_output_has "'own.data', not with 'other.data'"
    assert_image_unchanged t.qcow2 own.data other.data
    # The same file by another name is no other one.
    ln own.data link.data
    qcow-pull -q "${other_name/other.data/link.data}"
    assert_clean t.qcow2
    assert_guest t.qcow2 0 1M B
    assert_guest t.qcow2 1M 3M A
}

@test "pull -p, rebase -p: with snapshots, too, progress never goes backwards" {
    local i command
    make_image base.qcow2 24M
    guest_write base.qcow2 0 24M A
    make_image top.qcow2 24M -b base.qcow2 -F qcow2
    for i in 1 2 3; do
        guest_write top.qcow2 $((i * 2))M 1M B
        snapshot top.qcow2 "$i"
    done
    for command in qcow-pull "qcow-rebase -b ''"; do
        cp top.qcow2 changed.qcow2
        eval "$command -p --no-reflink --rate 40M changed.qcow2" | tr '\r' '\n' |
            sed -n 's/^ *(\(.*\)\/100%)$/\1/p' >shown
        (($(wc -l <shown) > 5))
        sort -n shown | cmp - shown || fail "$command"
    done
}

@test "pull, trim: two snapshots with one id, as old programs left them, are two" {
    local table extra second
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 0 1M B
    snapshot top.qcow2 one
    guest_write top.qcow2 1M 1M A
    snapshot top.qcow2 two
    snapshot_raw top.qcow2 one one.raw
    snapshot_raw top.qcow2 two two.raw
    table=$(peek_be top.qcow2 64 8)
    extra=$(peek_be top.qcow2 $((table + 36)) 4)
    second=$((table + (40 + extra + 4 + 7) / 8 * 8))
    [[ $(peek top.qcow2 $((second + 40 + extra)) 1) == 32 ]]
    poke top.qcow2 $((second + 40 + extra)) 31

    run -0 qcow-trim --output=json top.qcow2
    assert_json '.clusters == 16'
    qcow-pull -q top.qcow2
    assert_clean top.qcow2
    for name in one two; do
        snapshot_raw top.qcow2 $name found.raw
        cmp $name.raw found.raw
    done
}
