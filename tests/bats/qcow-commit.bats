#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Merges downward: what stays valid reads the same, what does not is named, and base reads as the top did.

load helpers
load merging

# ---- which layers ------------------------------------------------------------------------------------

@test "commit: into the backing file, and the image is empty" {
    make_three
    note top.qcow2 base.qcow2
    run -0 --separate-stderr qcow-commit top.qcow2
    assert_output "Image committed."
    assert_noted top.qcow2 base.qcow2
    assert_same_content mid.qcow2 top.qcow2.raw
    assert_clean mid.qcow2
    assert_empty top.qcow2
    [[ $(backing top.qcow2) == "mid.qcow2 qcow2" ]]
}

@test "commit: what qemu-img commit leaves reads the same" {
    make_three
    mkdir theirs
    cp ./*.qcow2 theirs
    qemu-img commit -q theirs/top.qcow2
    qcow-commit -q top.qcow2
    assert_same_content mid.qcow2 theirs/mid.qcow2
    assert_same_content top.qcow2 theirs/top.qcow2
    [[ $(delta_ranges top.qcow2) == "$(delta_ranges theirs/top.qcow2)" ]]
}

@test "commit -d: the image stays exactly as it was" {
    make_three
    note top.qcow2
    remember_image top.qcow2 base.qcow2
    run -0 qcow-commit -d top.qcow2
    assert_output "Image committed."
    assert_image_unchanged top.qcow2 base.qcow2
    assert_noted top.qcow2
    assert_same_content mid.qcow2 top.qcow2.raw
}

@test "commit -b: several layers at once; those between are named, marked, and refused by QEMU" {
    make_three
    note top.qcow2
    run -0 qcow-commit -b base.qcow2 top.qcow2
    assert_output_has "Image committed." "Not valid by itself any more: mid.qcow2"
    assert_noted top.qcow2
    assert_empty top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    [[ $(backing top.qcow2) == "base.qcow2 qcow2" ]]
    run -1 qemu-img info mid.qcow2
    assert_output_has "merged into base.qcow2 by qcow-commit"
    run -1 qcow-info mid.qcow2
    assert_output_has "merged into base.qcow2 by qcow-commit"
    qcow-amend --unmark mid.qcow2
    assert_clean mid.qcow2
}

@test "commit -b [2]: layers are named by their index too" {
    make_three
    note top.qcow2
    qcow-commit -q -b '[2]' top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    assert_noted top.qcow2
}

@test "commit -d -b: the image reads through the layers between, which are named and not marked" {
    make_three
    note top.qcow2
    remember_image top.qcow2 mid.qcow2
    run -0 qcow-commit -d -b base.qcow2 top.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2" "Could not be marked as such: mid.qcow2"
    assert_image_unchanged top.qcow2 mid.qcow2
    assert_noted top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

@test "commit --top: a layer below the image is merged, and the image re-pointed" {
    make_three
    note top.qcow2 mid.qcow2
    run -0 qcow-commit --top mid.qcow2 top.qcow2
    assert_output "Image committed."
    assert_noted top.qcow2 mid.qcow2
    assert_same_content base.qcow2 mid.qcow2.raw
    assert_clean base.qcow2
    [[ $(backing top.qcow2) == "base.qcow2 qcow2" ]]
}

@test "commit --top -b: several layers below the image" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    guest_write active.qcow2 5M 64K E
    note active.qcow2 top.qcow2
    run -0 qcow-commit --top '[1]' -b '[3]' active.qcow2
    assert_output_has "Image committed." "Not valid by itself any more: mid.qcow2"
    assert_noted active.qcow2 top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    [[ $(backing active.qcow2) == "base.qcow2 qcow2" && $(backing top.qcow2) == "base.qcow2 qcow2" ]]
    run -1 qemu-img info mid.qcow2
}

@test "commit: a base in the middle of a chain stays over what it is backed by" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    guest_write active.qcow2 3M 64K E
    note active.qcow2 base.qcow2
    remember_image base.qcow2
    qcow-commit -q -b mid.qcow2 active.qcow2
    assert_image_unchanged base.qcow2
    assert_noted active.qcow2 base.qcow2
    assert_same_content mid.qcow2 active.qcow2.raw
    assert_clean mid.qcow2
    [[ $(backing mid.qcow2) == "base.qcow2 qcow2" ]]
}

@test "commit: what cannot be meant is refused before anything is written" {
    make_three
    remember_image base.qcow2 mid.qcow2 top.qcow2
    run -1 qcow-commit base.qcow2
    assert_output_has "'base.qcow2': Image does not have a backing file"
    run -1 qcow-commit -b top.qcow2 top.qcow2
    assert_output_has "is not below"
    run -1 qcow-commit --top mid.qcow2 -b mid.qcow2 top.qcow2
    assert_output_has "is not below"
    run -1 qcow-commit -b missing.qcow2 top.qcow2
    assert_output_has "missing.qcow2"
    run -2 qcow-commit -d --top mid.qcow2 top.qcow2
    run -2 qcow-commit
    run -2 qcow-commit top.qcow2 base.qcow2
    run -1 qcow-commit missing.qcow2
    assert_output_has "'missing.qcow2'" "No such file or directory"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2
}

@test "commit: once more does nothing, and says the same" {
    make_three
    qcow-commit -q top.qcow2
    note top.qcow2 mid.qcow2
    remember_image mid.qcow2
    run -0 qcow-commit top.qcow2
    assert_output "Image committed."
    assert_image_unchanged mid.qcow2
    assert_noted top.qcow2 mid.qcow2
}

# ---- formats -----------------------------------------------------------------------------------------

@test "commit: into a raw base; the overlay's zeros are written" {
    truncate -s 4M base.raw
    guest_write base.raw 0 2M A
    make_image top.qcow2 4M -b base.raw -F raw
    guest_write top.qcow2 1M 100K B
    guest_zero top.qcow2 512K 64K
    note top.qcow2
    run -0 qcow-commit top.qcow2
    assert_output "Image committed."
    cmp base.raw top.qcow2.raw
    assert_noted top.qcow2
    assert_empty top.qcow2
    [[ $(backing top.qcow2) == "base.raw raw" ]]
}

@test "commit: a raw base grows with the image" {
    truncate -s 1000001 base.raw
    guest_write base.raw 0 999936 A
    make_image top.qcow2 3M -b base.raw -F raw
    guest_write top.qcow2 2M 64K B
    note top.qcow2
    qcow-commit -q top.qcow2
    cmp base.raw top.qcow2.raw
    assert_noted top.qcow2
}

@test "commit: into a raw base that nothing records as raw, only with -F raw" {
    truncate -s 2M base.raw
    make_image top.qcow2 2M
    guest_write top.qcow2 0 64K B
    qemu-img rebase -u -b base.raw -F raw top.qcow2
    offset=$(LC_ALL=C grep -obUaP '\xe2\x79\x2a\xca' top.qcow2 | head -n 1 | cut -d: -f1)
    poke top.qcow2 "$offset" 7fffffff
    remember_image base.raw top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "base.raw" "-F raw"
    assert_image_unchanged base.raw top.qcow2
    note top.qcow2
    qcow-commit -q -F raw top.qcow2
    cmp base.raw top.qcow2.raw
}

@test "commit: compressed clusters and zstd, other cluster sizes, extended L2" {
    local options
    for options in cluster_size=4k cluster_size=2M compression_type=zstd extended_l2=on,cluster_size=64k compat=0.10; do
        rm -f ./*.qcow2
        make_image base.qcow2 8M -o "$options"
        make_image top.qcow2 8M -b base.qcow2 -F qcow2
        guest_write_compressed base.qcow2 0 4M A
        guest_write_compressed top.qcow2 2M 1M B
        guest_write top.qcow2 100 5000 C
        guest_zero top.qcow2 1M 200K
        note top.qcow2
        qcow-commit -q top.qcow2
        assert_noted top.qcow2
        assert_clean base.qcow2
        assert_same_content base.qcow2 top.qcow2.raw || fail "$options"
    done
}

@test "commit: into a base with a data file, raw or not, with subclusters; it has the disk's length" {
    local raw extended
    for raw in off on; do
        for extended in off on; do
            make_image base.qcow2 4000K -o "data_file=base.data,data_file_raw=$raw,extended_l2=$extended"
            guest_write base.qcow2 0 100K A
            guest_write base.qcow2 1M 10K B
            guest_zero base.qcow2 3M 64K
            make_image top.qcow2 4000K -b base.qcow2 -F qcow2
            guest_write top.qcow2 50K 10K C
            guest_zero top.qcow2 1M 2K
            guest_write top.qcow2 3990K 10K D
            note top.qcow2
            qcow-commit -q top.qcow2
            assert_noted top.qcow2
            assert_clean base.qcow2
            assert_same_content base.qcow2 top.qcow2.raw
            [[ $raw == off ]] || cmp base.data top.qcow2.raw
            rm base.qcow2 base.data top.qcow2
        done
    done
}

@test "commit: the data file of the emptied image gives its space back" {
    make_image base.qcow2 4M
    make_image top.qcow2 4M -b base.qcow2 -F qcow2 -o data_file=top.data
    guest_write top.qcow2 1M 2M A
    active_raw top.qcow2 top.raw
    qcow-commit -q top.qcow2
    (($(stat -c %b top.data) * 512 < 64 * 1024))
    assert_clean top.qcow2
    assert_same_content base.qcow2 top.raw
    assert_same_content top.qcow2 top.raw
}

@test "commit: into a base over NBD, raw, and a qcow2 container" {
    require nbdkit
    truncate -s 4M base.raw
    guest_write base.raw 0 1M A
    make_image base.qcow2 4M
    guest_write base.qcow2 0 1M A
    truncate -s 8M base.qcow2
    start_nbdkit raw.sock file base.raw
    make_image top.qcow2 4M -b "nbd+unix:///?socket=$PWD/raw.sock" -F raw
    guest_write top.qcow2 512K 1M B
    mkdir later
    cp top.qcow2 later/top2.qcow2    # where it is nobody's sibling
    note top.qcow2
    qcow-commit -q top.qcow2
    cmp base.raw top.qcow2.raw
    assert_noted top.qcow2
    mv later/top2.qcow2 .
    start_nbdkit container.sock file base.qcow2
    qemu-img rebase -u -F qcow2 -b "nbd+unix:///?socket=$PWD/container.sock" top2.qcow2
    qcow-commit -q top2.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

@test "commit: into a raw base that qemu-nbd serves; it is not too small" {
    truncate -s 4M base.raw
    start_qemu_nbd base.sock -f raw base.raw
    make_image top.qcow2 4M -b "nbd+unix:///?socket=$PWD/base.sock" -F raw
    guest_write top.qcow2 512K 1M B
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    qemu-img resize -q top.qcow2 5M
    guest_write top.qcow2 4M 64K C
    note top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "cannot grow"
    assert_noted top.qcow2
}

# ---- what could only fail later ----------------------------------------------------------------------

# refused_at_first PATTERN COMMAND…: before anything is written, and a dry run says the same
refused_at_first() {
    remember_image ./*.qcow2
    run -1 "${@:2}"
    assert_output_has "$1" "nothing was written" || return
    refute_output_has "run the same command again" || return
    assert_image_unchanged ./*.qcow2 || return
    run -1 "$2" --dry-run "${@:3}"
    assert_output_has "$1" "nothing was written" || return
    assert_image_unchanged ./*.qcow2
}

@test "commit: an image that cannot be emptied is refused before the base is written" {
    local block
    make_image base.qcow2 4M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 64K 128K B
    block=$(peek_be top.qcow2 "$(peek_be top.qcow2 48 8)" 8)
    poke top.qcow2 $((block + 2 * 5)) 0000    # of the first data cluster
    [[ $(qemu-img check top.qcow2 2>&1) == *"cluster 5 refcount=0"* ]]
    refused_at_first "run qcow-check -r all" qcow-commit top.qcow2
}

@test "commit --top: an image above that cannot take what it would have to is refused before the base is written" {
    # A kept one: QEMU cannot always make one, since it measures its own speed for that.
    gunzip -c "$QCOW_SOURCE/tests/images/golden/qemu-7.2/luks.qcow2.gz" >active.qcow2
    [[ $(virtual_size active.qcow2) == 1048576 ]]
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 512K -b base.qcow2 -F qcow2
    guest_write top.qcow2 64K 64K B
    qcow-rebase -u -b top.qcow2 -F qcow2 active.qcow2
    refused_at_first "'active.qcow2': the image is encrypted" qcow-commit --top top.qcow2 active.qcow2
}

# ---- sizes -------------------------------------------------------------------------------------------

@test "commit: a smaller base grows" {
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 5000000 -b base.qcow2 -F qcow2
    guest_write top.qcow2 4M 64K B
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

# A base of 2 MiB over what ends at 3 MiB, once 4 MiB large itself and with the end of that still in its tables.
make_base_that_grows() {
    make_image below.qcow2 3M
    guest_write below.qcow2 0 3M A
    make_image base.qcow2 4M -b below.qcow2 -F qcow2 "$@"
    guest_write base.qcow2 1M 64K B
    guest_write base.qcow2 2M 2M C
    poke base.qcow2 24 00000000001ffe00
    make_image top.qcow2 64G -b base.qcow2 -F qcow2
    guest_write top.qcow2 40G 64K D
}

@test "commit: a base that grows over its backing file hides what would show, at no cost elsewhere" {
    local options
    for options in cluster_size=64k compat=0.10 extended_l2=on,cluster_size=128k; do
        make_base_that_grows -o "$options"
        qcow-commit -q top.qcow2
        [[ $(virtual_size base.qcow2) == $((64 << 30)) ]]
        assert_guest base.qcow2 0 1M A
        assert_guest base.qcow2 1M 64K B
        assert_guest base.qcow2 1088K 958K A
        assert_guest_zero base.qcow2 2096640 2M
        assert_guest_zero base.qcow2 4M 1M
        assert_guest base.qcow2 40G 64K D
        qemu-img map --output=json base.qcow2 >map
        [[ $(jq '[.[] | select(.data) | .length] | add' map) -lt 4500000 ]]
        assert_clean base.qcow2
        (($(stat -c %s base.qcow2) < 4500000)) || fail "$options: $(stat -c %s base.qcow2) bytes"
        assert_empty top.qcow2
    done
}

@test "commit: a larger base keeps its size and its end" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image top.qcow2 1000448 -b base.qcow2 -F qcow2
    guest_write top.qcow2 900K 50K B
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    [[ $(virtual_size base.qcow2) == 4194304 ]]
    assert_guest base.qcow2 900K 50K B
    assert_guest base.qcow2 1000448 $((4194304 - 1000448)) A
    assert_clean base.qcow2
}

@test "commit: the zeros behind the end of a short layer between are carried" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image mid.qcow2 1M -b base.qcow2 -F qcow2
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 3M 64K B
    note top.qcow2
    qcow-commit -q -b base.qcow2 top.qcow2
    assert_noted top.qcow2
    assert_guest_zero base.qcow2 1M 2M
    assert_guest base.qcow2 0 1M A
}

@test "commit --top: a short layer leaves the zeros behind its end in the image above" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image mid.qcow2 1M -b base.qcow2 -F qcow2
    guest_write mid.qcow2 0 64K B
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 3M 64K C
    note top.qcow2 mid.qcow2
    qcow-commit -q --top mid.qcow2 top.qcow2
    assert_noted top.qcow2 mid.qcow2
    assert_guest base.qcow2 1M 3M A
    assert_clean base.qcow2
}

@test "commit: a version 2 base with snapshots cannot grow, and says so" {
    make_image base.qcow2 1M -o compat=0.10
    guest_write base.qcow2 0 64K A
    snapshot base.qcow2 one
    make_image top.qcow2 2M -b base.qcow2 -F qcow2
    guest_write top.qcow2 0 64K B
    remember_image base.qcow2 top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "base.qcow2" "cannot grow" "compat=1.1"
    assert_image_unchanged base.qcow2 top.qcow2
}

# ---- snapshots ---------------------------------------------------------------------------------------

@test "commit: the base's internal snapshots keep their contents" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 2M A
    snapshot base.qcow2 one
    guest_write base.qcow2 1M 512K B
    snapshot base.qcow2 two
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 512K 2M C
    note top.qcow2
    snapshot_raw base.qcow2 one one.raw
    snapshot_raw base.qcow2 two two.raw
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    snapshot_raw base.qcow2 one again.raw
    cmp one.raw again.raw
    snapshot_raw base.qcow2 two again.raw
    cmp two.raw again.raw
}

@test "commit: an image whose snapshots would read otherwise is refused; --preserve copies for them" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 2M A
    snapshot top.qcow2 early
    guest_write top.qcow2 1M 2M B
    snapshot top.qcow2 late
    guest_zero top.qcow2 0 64K
    note top.qcow2
    snapshot_raw top.qcow2 early early.raw
    snapshot_raw top.qcow2 late late.raw
    remember_image base.qcow2 top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'top.qcow2'" "snapshot 'early'" "--preserve"
    assert_image_unchanged base.qcow2 top.qcow2
    qcow-commit -q --preserve top.qcow2 top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
    snapshot_raw top.qcow2 late again.raw
    cmp late.raw again.raw
}

@test "commit --force: snapshots of the image may read otherwise, the active layer does not" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 2M A
    snapshot top.qcow2 early
    guest_write top.qcow2 1M 2M B
    note top.qcow2
    qcow-commit -q --force top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

# ---- a chain in use ----------------------------------------------------------------------------------

@test "commit: a chain that a VM uses is refused with the file's name, and nothing is written" {
    require qemu-storage-daemon
    local image
    make_three
    make_image other.qcow2 8M -b base.qcow2 -F qcow2
    remember_image base.qcow2 mid.qcow2 top.qcow2
    for image in top mid base; do
        start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=$image.qcow2
        run -1 qcow-commit --force -b base.qcow2 top.qcow2
        assert_output_has "$image.qcow2" "lock" "End it first, or let the running VM do this itself"
        stop_daemon "$daemon_pid"
    done
    # It reads what would change.
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=other.qcow2,read-only=on
    run -1 qcow-commit --force -b base.qcow2 top.qcow2
    assert_output_has "base.qcow2" "lock"
    stop_daemon "$daemon_pid"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2
    qcow-commit -q --force -b base.qcow2 top.qcow2
}

# ---- dry runs, output, interruptions, full disks -----------------------------------------------------

@test "commit -d: of layers that may only be read nothing but the base is written" {
    ((EUID == 0)) || skip "needs another user"
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write mid.qcow2 0 64K A
    guest_write top.qcow2 1M 64K B
    active_raw top.qcow2 top.raw
    chmod 755 .
    chown 65534 base.qcow2
    chmod 644 mid.qcow2 top.qcow2
    remember_image mid.qcow2 top.qcow2
    run -0 setpriv --reuid 65534 --regid 65534 --clear-groups qcow-commit -d -b base.qcow2 top.qcow2
    assert_same_content base.qcow2 top.raw
    assert_image_unchanged mid.qcow2 top.qcow2
}

@test "commit --dry-run: not one byte changes, in any form" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    snapshot active.qcow2 one
    guest_write active.qcow2 6M 64K E
    make_image other.qcow2 8M -b base.qcow2 -F qcow2
    remember_image base.qcow2 mid.qcow2 top.qcow2 active.qcow2 other.qcow2
    qcow-commit --dry-run --preserve active.qcow2 active.qcow2
    qcow-commit --dry-run --preserve other.qcow2 --preserve active.qcow2 -b base.qcow2 active.qcow2
    qcow-commit --dry-run --force --top mid.qcow2 active.qcow2
    qcow-commit --dry-run --force --delete --top top.qcow2 -b base.qcow2 active.qcow2
    qcow-commit --dry-run --force -d -b base.qcow2 active.qcow2
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2 active.qcow2 other.qcow2
}

@test "commit --dry-run: says what would be moved, as it is moved then" {
    local wanted
    make_three
    run -0 qcow-commit --dry-run top.qcow2
    assert_output_has "would move" "are available"
    wanted=$(qcow-commit --dry-run --output=json -b base.qcow2 top.qcow2)
    run -0 qcow-commit --output=json -b base.qcow2 top.qcow2
    [[ $(jq '.bytes, ."data-clusters", ."zero-clusters"' <<<"$wanted") == \
       "$(jq '.bytes, ."data-clusters", ."zero-clusters"' <<<"$output")" ]] || fail "$wanted $output"
    jq -e '."dry-run" and .fits and .needed <= .available' <<<"$wanted"
}

@test "commit --output=json: one document that names what is not valid any more" {
    make_three
    run -0 --separate-stderr qcow-commit --output=json -b base.qcow2 top.qcow2
    assert_json '.base == "base.qcow2" and .invalid == ["mid.qcow2"] and .unmarked == [] and .deleted == []'
    assert_json '.bytes > 0 and ."bytes-overwritten" > 0 and ."bytes-preserved" == 0 and .seconds >= 0'
}

@test "commit: -q is silent, -p prints qemu-img's line" {
    make_three
    run -0 qcow-commit -q top.qcow2
    assert_output ""
    guest_write top.qcow2 0 64K X
    run -0 qcow-commit -p top.qcow2
    assert_output_has "    (100.00/100%)" "Image committed."
}

@test "commit: Ctrl-C leaves a chain that reads the same, and the same command completes it" {
    local status=0
    CHAIN_SIZE=64M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 32M A
    guest_write top.qcow2 16M 32M B
    note top.qcow2
    start_daemon env --default-signal qcow-commit --rate 8M top.qcow2
    wait_until catches_interrupts "$daemon_pid"
    sleep 0.5
    kill -INT "$daemon_pid"
    wait "$daemon_pid" || status=$?
    [[ $status == 130 ]]
    grep -q "the chain reads as before; the same command completes it" daemon.log
    assert_noted top.qcow2
    qemu-img check -q base.qcow2 || [[ $? == 3 ]]
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}
