#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Images outside the chain that a commit would change: found, kept as they read, or deleted.

load helpers
load merging

@test "commit: an image that is backed by the base is named, and nothing is written" {
    make_siblings
    remember_image base.qcow2 top.qcow2 other.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "other.qcow2" "is backed by" "base.qcow2" "--preserve" "--force"
    assert_image_unchanged base.qcow2 top.qcow2 other.qcow2
    note top.qcow2
    qcow-commit -q --force top.qcow2
    assert_noted top.qcow2
}

@test "commit: siblings are found whatever else their header says, and through images in other folders" {
    make_siblings
    rm other.qcow2
    mkfifo pipe.qcow2
    mkdir folder.qcow2 far
    ln -s nowhere.qcow2 dangling.qcow2
    head -c 50 base.qcow2 >short.qcow2
    : >empty.qcow2
    make_image new.qcow2 8M -b base.qcow2 -F qcow2
    poke new.qcow2 72 0000000000100000    # a feature that nobody knows
    run -1 qcow-commit top.qcow2
    assert_output_has "'new.qcow2' is backed by 'base.qcow2' and would read otherwise"
    poke new.qcow2 72 0000000000000000
    poke new.qcow2 40 0001000000000000    # an L1 table at no place
    run -1 qcow-commit top.qcow2
    assert_output_has "'new.qcow2' is backed by"
    rm new.qcow2
    make_image far/mid.qcow2 8M -b ../base.qcow2 -F qcow2
    make_image near.qcow2 8M -b far/mid.qcow2 -F qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'near.qcow2' is backed by"
    # The one between would not stay valid by that.
    run -1 qcow-commit --preserve near.qcow2 top.qcow2
    assert_output_has "'far/mid.qcow2' is backed by"
    active_raw far/mid.qcow2 mid.raw
    active_raw near.qcow2 near.raw
    qcow-commit -q --preserve far/mid.qcow2 top.qcow2
    assert_same_content near.qcow2 near.raw
    assert_same_content far/mid.qcow2 mid.raw
}

@test "commit: into a block device; missing space on it, and siblings over it, are found before the first write" {
    truncate -s 3M disk.img
    loop_device disk.img
    qemu-img create -q -f qcow2 "$device" 4M
    make_image large.qcow2 4M -b "$device" -F qcow2
    guest_write large.qcow2 0 4M A
    remember_image disk.img large.qcow2
    run -1 qcow-commit large.qcow2
    assert_output_has "'$device': 0x440000 bytes are needed, and it has 0x300000"
    assert_image_unchanged disk.img large.qcow2
    make_image top.qcow2 4M -b "$device" -F qcow2
    guest_write top.qcow2 0 2M B
    note top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'large.qcow2' is backed by '$device'"
    rm large.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    run -0 qemu-img check -f qcow2 "$device"
}

@test "commit --preserve: a sibling reads the same, its snapshots too" {
    make_siblings
    snapshot other.qcow2 one
    guest_write other.qcow2 0 128K D
    note top.qcow2 other.qcow2
    snapshot_raw other.qcow2 one one.raw
    qcow-commit -q --preserve other.qcow2 top.qcow2
    assert_noted top.qcow2 other.qcow2
    snapshot_raw other.qcow2 one again.raw
    cmp one.raw again.raw
    assert_same_content base.qcow2 top.qcow2.raw
    assert_clean base.qcow2
}

@test "commit --preserve: the image comes last or first, and is never one that is to be preserved" {
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2
    make_image a.qcow2 8M -b base.qcow2 -F qcow2
    make_image b.qcow2 8M -b base.qcow2 -F qcow2
    guest_write b.qcow2 0 64K B
    guest_write top.qcow2 64K 64K C
    note a.qcow2 b.qcow2 top.qcow2
    remember_image base.qcow2 a.qcow2 b.qcow2 top.qcow2
    run -2 qcow-commit --preserve a.qcow2 top.qcow2 --preserve b.qcow2 more.qcow2
    run -2 qcow-commit top.qcow2 more.qcow2
    assert_image_unchanged base.qcow2 a.qcow2 b.qcow2 top.qcow2
    qcow-commit -q top.qcow2 --preserve a.qcow2 b.qcow2
    assert_noted a.qcow2 b.qcow2 top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    guest_write top.qcow2 0 64K D
    note top.qcow2
    qcow-commit -q --preserve=a.qcow2 b.qcow2 -- top.qcow2
    assert_noted a.qcow2 b.qcow2 top.qcow2
}

@test "commit --preserve: again and again, and one that reads through a layer between" {
    make_three
    make_image a.qcow2 8M -b mid.qcow2 -F qcow2
    guest_write a.qcow2 0 64K E
    make_image b.qcow2 8M -b a.qcow2 -F qcow2
    guest_write b.qcow2 7M 64K F
    make_image c.qcow2 8M -b base.qcow2 -F qcow2
    note top.qcow2 a.qcow2 b.qcow2 c.qcow2
    run -1 qcow-commit -b base.qcow2 top.qcow2
    assert_output_has "is backed by"
    run -2 qcow-commit -b base.qcow2 a.qcow2 top.qcow2
    assert_output_has "Expecting one image file name"
    qcow-commit -q -b base.qcow2 --preserve a.qcow2 c.qcow2 top.qcow2
    assert_noted top.qcow2 a.qcow2 b.qcow2 c.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    run -1 qemu-img info mid.qcow2
}

@test "commit --preserve: a relative name stays relative, so that the folders can move" {
    mkdir -p tree/sub
    (cd tree && make_three && make_image sub/other.qcow2 8M -b ../mid.qcow2 -F qcow2)
    guest_write tree/sub/other.qcow2 0 64K F
    note tree/sub/other.qcow2 tree/top.qcow2
    qcow-commit -q --preserve tree/sub/other.qcow2 -b tree/base.qcow2 tree/top.qcow2
    mv tree moved
    mv moved/sub/other.qcow2.raw moved/top.qcow2.raw .
    [[ $(recorded moved/sub/other.qcow2) == ../base.qcow2 ]]
    assert_same_content moved/sub/other.qcow2 other.qcow2.raw
    assert_same_content moved/top.qcow2 top.qcow2.raw
}

@test "commit --preserve: a layer between stays valid" {
    make_three
    note top.qcow2 mid.qcow2
    run -0 qcow-commit --preserve mid.qcow2 -b base.qcow2 top.qcow2
    assert_output "Image committed."
    assert_noted top.qcow2 mid.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

@test "commit --preserve: into a layer between goes only what it would lose, none of its own data" {
    CHAIN_SIZE=64M make_chain base.qcow2 low.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 64K A
    guest_write low.qcow2 0 1M B
    guest_write mid.qcow2 16M 16M C
    guest_write_compressed mid.qcow2 40M 1M D
    guest_zero mid.qcow2 512K 64K
    snapshot mid.qcow2 one
    guest_write mid.qcow2 48M 128K E
    guest_write top.qcow2 20M 1M F
    guest_write top.qcow2 40M 64K F
    guest_write top.qcow2 512K 128K F
    guest_write top.qcow2 8M 1M F
    note low.qcow2 mid.qcow2 top.qcow2
    snapshot_raw mid.qcow2 one one.raw
    local before low mid
    before=$(stat -c %s mid.qcow2)
    run -0 qcow-commit --output=json --preserve mid.qcow2 --preserve low.qcow2 -b base.qcow2 top.qcow2
    low=$((((16 << 10) + 1024 + 128 + 1024) << 10))    # zeros where mid, or top at 8 MiB, has something
    mid=$(((2 * (1024 + 64) + 128) << 10))             # two states, under top; E is new to the snapshot
    assert_json ".\"bytes-preserved\" == $((low + mid))"
    (($(stat -c %s mid.qcow2) < before + (1 << 20)))
    assert_noted low.qcow2 mid.qcow2 top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    snapshot_raw mid.qcow2 one again.raw
    cmp one.raw again.raw
}

@test "commit --preserve: a base that cannot grow is refused before the layers between are touched" {
    make_image base.qcow2 1M -o compat=0.10
    guest_write base.qcow2 0 1M A
    snapshot base.qcow2 one
    make_image low.qcow2 1M -b base.qcow2 -F qcow2
    guest_write low.qcow2 0 512K B
    make_image mid.qcow2 2M -b low.qcow2 -F qcow2
    make_image top.qcow2 2M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 1M 64K C
    remember_image base.qcow2 low.qcow2 mid.qcow2 top.qcow2
    run -1 qcow-commit --preserve mid.qcow2 --preserve low.qcow2 -b base.qcow2 top.qcow2
    assert_output_has "'base.qcow2'" "cannot grow"
    assert_image_unchanged base.qcow2 low.qcow2 mid.qcow2 top.qcow2
}

@test "commit --preserve: a larger sibling keeps the zeros that it reads where the base grows" {
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 2M 1M B
    make_image other.qcow2 3M -b base.qcow2 -F qcow2
    guest_write other.qcow2 1536K 64K C
    note top.qcow2 other.qcow2
    qcow-commit -q --preserve other.qcow2 top.qcow2
    assert_noted top.qcow2 other.qcow2
    assert_guest_zero other.qcow2 2M 1M
}

@test "commit --preserve: an image that reads nothing through the base is an error" {
    make_three
    make_image alone.qcow2 1M
    remember_image base.qcow2 mid.qcow2 top.qcow2
    run -1 qcow-commit --preserve alone.qcow2 top.qcow2
    assert_output_has "'alone.qcow2'" "nothing to preserve"
    run -1 qcow-commit --preserve missing.qcow2 top.qcow2
    assert_output_has "'missing.qcow2': No such file or directory"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2
}

@test "commit --delete: layers that dropped out go, the image and the base stay" {
    make_three
    note top.qcow2
    run -0 qcow-commit --delete -b base.qcow2 top.qcow2
    assert_output_has "Deleted: mid.qcow2"
    [[ ! -e mid.qcow2 && -e base.qcow2 ]]
    assert_noted top.qcow2
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    guest_write top.qcow2 0 64K F
    note active.qcow2
    run -0 qcow-commit --delete --top top.qcow2 active.qcow2
    assert_output_has "Deleted: top.qcow2"
    [[ ! -e top.qcow2 ]]
    assert_noted active.qcow2
}

@test "commit --delete: what --preserve names is not deleted, not even for its snapshots alone" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2 active.qcow2
    guest_write base.qcow2 0 2M A
    snapshot top.qcow2 early
    guest_write top.qcow2 1M 2M B
    note active.qcow2 top.qcow2
    snapshot_raw top.qcow2 early early.raw
    run -0 qcow-commit --delete --preserve top.qcow2 --top top.qcow2 active.qcow2
    refute_output_has "Deleted"
    assert_noted active.qcow2 top.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
}

@test "commit --delete: refused while another image is backed by what would go, even with --force" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    make_image other.qcow2 8M -b top.qcow2 -F qcow2
    remember_image base.qcow2 mid.qcow2 top.qcow2 active.qcow2
    run -1 qcow-commit --delete --force --top top.qcow2 -b base.qcow2 active.qcow2
    assert_output_has "other.qcow2" "--delete would delete"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2 active.qcow2
}
