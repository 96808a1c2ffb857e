#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Dirty bitmaps of the images that are merged, and of the base.

load helpers
load merging

@test "commit: enabled bitmaps of the base record what is written, disabled ones do not" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 1M A
    qemu-img bitmap --add base.qcow2 on
    qemu-img bitmap --add --disable base.qcow2 off
    guest_write top.qcow2 512K 64K B
    guest_write top.qcow2 2M 128K C
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    [[ $(dirty base.qcow2 on) == "524288 65536"$'\n'"2097152 131072" ]]
    [[ $(dirty base.qcow2 off) == "" ]]
}

@test "commit --bitmaps: bitmaps of the merged layers live on in the base, merged by name" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    qemu-img bitmap --add base.qcow2 both
    guest_write base.qcow2 1M 64K A
    qemu-img bitmap --add top.qcow2 both
    qemu-img bitmap --add top.qcow2 own
    guest_write top.qcow2 2M 128K C
    note top.qcow2
    qcow-commit -q --bitmaps top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    [[ $(dirty base.qcow2 both) == "1048576 65536"$'\n'"2097152 131072" ]]
    [[ $(dirty base.qcow2 own) == "2097152 131072" ]]
}

@test "commit --bitmaps: one that a merged layer above does not have is dirty where that layer wrote" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    qemu-img bitmap --add mid.qcow2 on
    qemu-img bitmap --add mid.qcow2 off
    guest_write mid.qcow2 1M 64K A
    qemu-img bitmap --disable mid.qcow2 off
    guest_write top.qcow2 2M 128K C
    qcow-commit -q --bitmaps -b base.qcow2 top.qcow2
    assert_clean base.qcow2
    [[ $(dirty base.qcow2 on) == "1048576 65536"$'\n'"2097152 131072" ]]
    [[ $(dirty base.qcow2 off) == "1048576 65536" ]]
}

@test "commit --bitmaps: one that was off in a merged layer does not vouch for it" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    qemu-img bitmap --add base.qcow2 a
    qemu-img bitmap --add --disable top.qcow2 a
    guest_write top.qcow2 1M 64K A
    qcow-commit -q --bitmaps top.qcow2
    [[ $(dirty base.qcow2 a) == "1048576 65536" ]]
}

@test "commit --bitmaps: refused, before the first write, where one in the base is in use" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    qemu-img bitmap --add base.qcow2 a
    qemu-img bitmap --add top.qcow2 a
    start_daemon stdbuf -oL qemu-io -c 'write 0 64K' -c 'sleep 60000' base.qcow2
    wait_until grep -q "wrote 65536" daemon.log
    kill_daemon "$daemon_pid"
    guest_write top.qcow2 1M 64K A
    remember_image base.qcow2 top.qcow2
    run -1 qcow-commit --bitmaps top.qcow2
    assert_output_has "bitmap 'a'" "is inconsistent; qcow-bitmap --remove deletes it"
    assert_image_unchanged base.qcow2 top.qcow2
}

@test "commit --bitmaps: refused where a program that knows no bitmaps wrote, be it to the base or a layer" {
    local stale
    for stale in base.qcow2 mid.qcow2 top.qcow2; do
        rm -f ./*.qcow2
        CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
        qemu-img bitmap --add base.qcow2 b
        qemu-img bitmap --add mid.qcow2 b
        qemu-img bitmap --add top.qcow2 b
        guest_write base.qcow2 2M 64K A
        guest_write mid.qcow2 1M 64K B
        guest_write top.qcow2 0 64K C
        poke "$stale" 88 0000000000000000    # autoclear features
        [[ $(qemu-img info "$stale" 2>&1) == *"inconsistent"* ]]
        note top.qcow2
        remember_image base.qcow2 mid.qcow2 top.qcow2
        run -1 qcow-commit --bitmaps -b base.qcow2 top.qcow2
        assert_output_has "$stale" "a program lacking bitmap support" "inconsistent" "without --bitmaps"
        assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2
        run -1 qcow-commit --bitmaps --dry-run -b base.qcow2 top.qcow2
        assert_output_has "a program lacking bitmap support"
        qcow-commit -q -b base.qcow2 top.qcow2
        assert_same_content top.qcow2 top.qcow2.raw
        assert_same_content base.qcow2 top.qcow2.raw
    done
}

@test "commit --bitmaps: refused for a raw base" {
    truncate -s 1M base.raw
    make_image top.qcow2 1M -b base.raw -F raw
    guest_write top.qcow2 0 64K B
    remember_image base.raw top.qcow2
    run -1 qcow-commit --bitmaps top.qcow2
    assert_output_has "base.raw" "cannot hold bitmaps"
    assert_image_unchanged base.raw top.qcow2
}
