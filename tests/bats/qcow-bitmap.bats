#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow-bitmap lists persistent dirty bitmaps; real QEMU made and filled them.

load helpers
load zoo

# Bytes that an NBD client sees as dirty; the judge of dirty-bytes.
dirty_bytes_by_qemu() {
    local image=$1 bitmap=$2
    start_qemu_nbd "$bitmap.sock" -r -f qcow2 -B "$bitmap" "$image"
    nbdinfo --json --map="qemu:dirty-bitmap:$bitmap" "nbd+unix:///?socket=$PWD/$bitmap.sock" |
        jq '[.[] | select(.type == 1).length] | add // 0'
    end_process "$(cat "$bitmap.sock.pid")"
}

@test "bitmap --list: name, granularity and flags are those of qemu-img info" {
    zoo_bitmaps
    assert_same_json "$(qcow-bitmap --list --output=json t.qcow2 | jq 'map(del(."dirty-bytes"))')" \
        "$(qemu-img info --output=json t.qcow2 | jq '.["format-specific"].data.bitmaps')"
}

@test "bitmap --list: dirty bytes are those that an NBD client sees" {
    require nbdinfo
    make_image a.qcow2 3000000
    qemu-img bitmap --add -g 64k a.qcow2 b0
    qemu-img bitmap --add -g 512 a.qcow2 fine
    qemu-img bitmap --add -g 64k a.qcow2 clean
    qemu-img bitmap --disable a.qcow2 clean
    guest_write a.qcow2 0 1000 A
    guest_write a.qcow2 1M 200k B
    guest_write a.qcow2 2999808 512 C     # the last bit of b0 stands for less than 64 KiB
    run -0 qcow-bitmap --list --output=json a.qcow2
    for name in b0 fine clean; do
        assert_json "any(.name == \"$name\" and .[\"dirty-bytes\"] == $(dirty_bytes_by_qemu a.qcow2 $name))"
    done
    assert_json 'any(.name == "clean" and .["dirty-bytes"] == 0)'
}

@test "bitmap --list: bitmaps with many clusters of bits, all set, none set" {
    require nbdinfo
    make_image a.qcow2 8M -o cluster_size=512
    qemu-img bitmap --add -g 512 a.qcow2 b
    qemu-img bitmap --add -g 512 a.qcow2 none
    qemu_io a.qcow2 'discard -q 0 6M' 'write -q -z -u 7M 100k'
    qemu-img bitmap --clear a.qcow2 none
    run -0 qcow-bitmap --list --output=json a.qcow2
    assert_json "any(.name == \"b\" and .[\"dirty-bytes\"] == $(dirty_bytes_by_qemu a.qcow2 b))"
    assert_json 'any(.name == "none" and .["dirty-bytes"] == 0)'
}

@test "bitmap --list: a table for people" {
    zoo_bitmaps
    run -0 qcow-bitmap --list t.qcow2
    [[ ${lines[0]} == "Bitmap list:" ]]
    [[ ${lines[1]} == "GRANULARITY       DIRTY FLAGS        NAME" ]]
    [[ ${lines[2]} == "     64 KiB     128 KiB auto         b0" ]]
    [[ ${lines[3]} == "      512 B         0 B -            b1" ]]
    [[ ${lines[4]} == '      1 MiB       1 MiB auto         the "third"' ]]
}

@test "bitmap --list: a bitmap in use is not counted" {
    make_image a.qcow2 1M
    qemu-img bitmap --add a.qcow2 b0
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    run -0 qcow-bitmap --list -U --output=json a.qcow2
    assert_json '.[0].flags | index("in-use")'
    assert_json '.[0] | has("dirty-bytes") | not'
    kill_daemon "$daemon_pid"
    run -0 qcow-bitmap --list a.qcow2
    [[ ${lines[2]} == "     64 KiB          -- in-use,auto  b0" ]]
}

@test "bitmap --list: none, in v3, v2 and raw images" {
    make_image a.qcow2 1M
    make_image v2.qcow2 1M -o compat=0.10
    truncate -s 1M a.raw
    for image in a.qcow2 v2.qcow2 a.raw; do
        run -0 qcow-bitmap --list "$image"
        assert_output ""
        run -0 qcow-bitmap --list --output=json "$image"
        assert_json '. == []'
    done
}

@test "bitmap --list: names cannot reach the terminal" {
    make_image a.qcow2 1M
    qemu-img bitmap --add a.qcow2 $'b\e[1m\n'
    run -0 qcow-bitmap --list a.qcow2
    refute_output_has $'\e'
    [[ ${lines[2]} == *'b\x1b[1m\x0a' ]]
    run -0 qcow-bitmap --list --output=json a.qcow2
    assert_json '.[0].name == "b\u001b[1m\n"'
}
