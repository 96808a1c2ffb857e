#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# A disk that is full in the middle of a change: the image is as it was, and the message says so. A merge finds
# missing space before its first write.

load helpers

# An image on a file system of @1 KiB beyond what it needs.
make_full() {
    make_image s.qcow2 64M -o cluster_size=4k
    guest_write s.qcow2 0 4M A
    snapshot s.qcow2 one
    guest_write s.qcow2 1M 2M B
    head -c 8M /dev/zero >ram
    small_disk $(($(du -k s.qcow2 | cut -f1) + $1))K
    cp --sparse=always s.qcow2 small/s.qcow2
}

# assert_full KIB COMMAND…: it fails for want of space, and leaves the image as it was
assert_full() {
    make_full "$1"
    run -1 "${@:2}"
    assert_output_has "No space left on device" || return
    assert_clean small/s.qcow2 || return
    assert_same_content s.qcow2 small/s.qcow2 || return
    [[ $(qcow-snapshot -l small/s.qcow2) == "$(qcow-snapshot -l s.qcow2)" ]] || fail "snapshots differ" || return
    umount small
    rm s.qcow2
}

@test "full disk: each change leaves the image as it was" {
    assert_full 4 qcow-snapshot -c two small/s.qcow2
    assert_full 4 qcow-snapshot -d one small/s.qcow2
    assert_full 0 qcow-snapshot -a one small/s.qcow2
    assert_full 100 qcow-vmstate -q -i one ram small/s.qcow2
    assert_full 100 qcow-resize -q --preallocation=full small/s.qcow2 80M
    assert_full 0 qcow-amend -q -o refcount_bits=64 small/s.qcow2
}

# assert_too_small FILE COMMAND…: it is refused for want of space on the disk of FILE, and nothing is changed
assert_too_small() {
    local file=$1 files=(*.qcow2 small/*)
    remember_image "${files[@]}"
    run -1 "${@:2}"
    assert_output_has "'$file': not enough space: " " are needed on its file system, and " " are free" \
        "make room and run the same command again" || return
    assert_image_unchanged "${files[@]}" || return
    run -1 "$2" --dry-run "${@:3}"
    assert_output_has "not enough space"
    assert_image_unchanged "${files[@]}"
}

@test "trim --shrink: missing space is found before the first write; with room for a few tables it gives the rest back" {
    local i commands=() size
    # What goes is in one table; what moves down, into all that is free, is in many that stand before it, and for
    # these there is no room.
    make_image s.qcow2 256M -o cluster_size=4k
    for i in {2..65}; do
        commands+=("write -P $i $((i * 2))M 4K")
    done
    commands+=('write -P 0 0 1M')
    for i in {2..65}; do
        commands+=("write -P $i $((i * 2048 + 64))K 16K")
    done
    qemu_io s.qcow2 "${commands[@]}"
    size=$(stat -c %s s.qcow2)
    for i in 0 96; do
        small_disk $((size / 1024 + 4 + i))K
        cp --sparse=never s.qcow2 small/s.qcow2
        remember_image small/s.qcow2
        run qcow-trim -q --shrink small/s.qcow2
        [[ $status == $((i == 0)) ]] || fail "status $status with $i KiB: $output"
        if ((status != 0)); then
            assert_output_has "'small/s.qcow2': not enough space: " "run the same command again"
            assert_image_unchanged small/s.qcow2
        fi
        assert_clean small/s.qcow2
        qemu-img compare -q s.qcow2 small/s.qcow2
        ((i == 0 || $(stat -c %b small/s.qcow2) * 512 < size - 900000)) || fail "$(stat -c %b small/s.qcow2) blocks"
        umount small
    done
}

@test "commit: missing space is found before the first write; with room the same command does it" {
    small_disk 6M
    make_image small/base.qcow2 16M
    guest_write small/base.qcow2 0 2M A
    make_image top.qcow2 16M -b small/base.qcow2 -F qcow2
    guest_write top.qcow2 1M 8M B
    active_raw top.qcow2 top.raw
    assert_too_small small/base.qcow2 qcow-commit top.qcow2
    mount -o remount,size=20M small
    qcow-commit -q top.qcow2
    assert_clean small/base.qcow2
    assert_same_content small/base.qcow2 top.raw
}

# Chain a - mid - top - base in small/, which is filled up to @1 KiB.
fill_chain() {
    small_disk 16M
    (cd small && CHAIN_SIZE=8M make_chain base.qcow2 low.qcow2 mid.qcow2 top.qcow2 a.qcow2)
    guest_write small/base.qcow2 0 1M A
    guest_write small/mid.qcow2 1M 64K B
    guest_write small/top.qcow2 0 128K C
    active_raw small/a.qcow2 a.raw
    active_raw small/top.qcow2 top.raw
    fallocate -l $(($(df --output=avail small | tail -n 1) - $1))K small/full
}

# assert_whole_or_nothing IMAGE COMMAND…: at each amount of free space either it works, or nothing has changed
assert_whole_or_nothing() {
    local image=$1 free worked=0 failed=0
    for free in {100..620..40}; do
        fill_chain "$free"
        remember_image small/*.qcow2
        if run "${@:2}" && ((status == 0)); then
            ((++worked))
            assert_same_content "small/$image.qcow2" "$image.raw" || return
            assert_clean "small/$image.qcow2" || return
            assert_clean small/base.qcow2 || return
        else
            ((++failed))
            assert_output_has "not enough space" || return
            assert_image_unchanged small/*.qcow2 || return
        fi
        umount small
    done
    ((worked > 0 && failed > 0)) || fail "$worked worked, $failed failed"
}

@test "commit: with any free space either all of it is done, or nothing" {
    assert_whole_or_nothing top qcow-commit -b small/base.qcow2 small/top.qcow2
    assert_whole_or_nothing a qcow-commit --top small/top.qcow2 -b small/base.qcow2 --delete small/a.qcow2
}

@test "commit: a folder for temporary files that cannot be used is no hindrance" {
    make_image base.qcow2 4M
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 1M 64K B
    active_raw top.qcow2 top.raw
    TMPDIR=$PWD/none qcow-commit -q top.qcow2
    assert_same_content base.qcow2 top.raw
}

@test "commit: into a raw base with holes; what is allocated already is no need" {
    small_disk 6M
    truncate -s 16M small/base.raw
    make_image top.qcow2 16M -b small/base.raw -F raw
    guest_write top.qcow2 1M 8M B
    active_raw top.qcow2 top.raw
    assert_too_small small/base.raw qcow-commit top.qcow2
    mount -o remount,size=20M small
    fallocate -l 16M small/base.raw
    fallocate -l "$(df --output=avail -B1 small | tail -n 1)" small/full
    qcow-commit -q top.qcow2
    cmp small/base.raw top.raw
}

@test "commit: free clusters of the base are used before the disk is" {
    small_disk 12M
    make_image small/base.qcow2 16M
    guest_write small/base.qcow2 0 6M A
    make_image top.qcow2 16M -b small/base.qcow2 -F qcow2
    guest_write top.qcow2 8M 4M B
    active_raw top.qcow2 top.raw
    qcow-snapshot -q -c gone small/base.qcow2
    guest_write small/base.qcow2 0 4M A
    qcow-snapshot -q -d gone small/base.qcow2
    fallocate -l "$(($(df --output=avail -B1 small | tail -n 1) - 800 * 1024))" small/full
    qcow-commit -q top.qcow2
    assert_clean small/base.qcow2
    assert_same_content small/base.qcow2 top.raw
}

@test "commit --preserve: what the images to preserve need counts too" {
    small_disk 20M
    make_image base.qcow2 16M
    guest_write base.qcow2 0 12M A
    make_image small/other.qcow2 16M -b "$PWD/base.qcow2" -F qcow2
    snapshot small/other.qcow2 one
    make_image top.qcow2 16M -b base.qcow2 -F qcow2
    guest_write top.qcow2 0 12M B
    active_raw small/other.qcow2 other.raw
    fallocate -l 10M small/full
    assert_too_small small/other.qcow2 qcow-commit --preserve small/other.qcow2 top.qcow2
    rm small/full
    qcow-commit -q --preserve small/other.qcow2 top.qcow2
    assert_clean small/other.qcow2
    assert_same_content small/other.qcow2 other.raw
}

@test "pull, rebase, import-delta: missing space is found before the first write" {
    small_disk 4M
    make_image base.qcow2 16M
    guest_write base.qcow2 0 8M A
    make_image small/top.qcow2 16M -b "$PWD/base.qcow2" -F qcow2
    active_raw small/top.qcow2 top.raw
    assert_too_small small/top.qcow2 qcow-pull small/top.qcow2
    assert_too_small small/top.qcow2 qcow-rebase -b '' small/top.qcow2
    make_image small/s.qcow2 16M
    qcow-export-delta -q base.qcow2 @empty @active d.qcow2
    assert_too_small small/s.qcow2 qcow-import-delta d.qcow2 small/s.qcow2
    mount -o remount,size=12M small
    qcow-pull -q small/top.qcow2
    assert_clean small/top.qcow2
    assert_same_content small/top.qcow2 top.raw
}

@test "pull: what several snapshots get is needed once; zeros need nothing" {
    small_disk 8M
    make_image base.qcow2 64M
    guest_write base.qcow2 0 6M A
    make_image small/top.qcow2 64M -b "$PWD/base.qcow2" -F qcow2
    snapshot small/top.qcow2 one
    snapshot small/top.qcow2 two
    guest_zero small/top.qcow2 32M 32M
    active_raw small/top.qcow2 top.raw
    qcow-pull -q small/top.qcow2
    assert_clean small/top.qcow2
    assert_same_content small/top.qcow2 top.raw
}

@test "commit, pull: extents that are shared need no space" {
    reflink_disk 320M
    make_image small/base.qcow2 64M
    make_image small/top.qcow2 64M -b base.qcow2 -F qcow2
    guest_write small/top.qcow2 0 32M B
    make_image small/over.qcow2 64M -b top.qcow2 -F qcow2
    active_raw small/top.qcow2 top.raw
    sync small
    fallocate -l "$(($(df --output=avail -B1 small | tail -n 1) - 16 * 1024 * 1024))" small/full
    run -1 qcow-pull --no-reflink small/over.qcow2
    assert_output_has "not enough space"
    qcow-pull -q small/over.qcow2
    assert_same_content small/over.qcow2 top.raw
    run -1 qcow-commit --no-reflink small/top.qcow2
    assert_output_has "not enough space"
    run -0 qcow-commit --dry-run small/top.qcow2
    qcow-commit -q small/top.qcow2
    assert_clean small/base.qcow2
    assert_same_content small/base.qcow2 top.raw
}

@test "copy -n: missing space is found before the first write" {
    local format
    head -c 8M /dev/urandom >source.raw
    small_disk 5M
    for format in raw qcow2; do
        qemu-img create -q -f $format small/target 8M
        guest_write small/target 0 1M A
        remember_image small/target
        run -1 qcow-copy -n -O $format source.raw small/target
        assert_output_has "'small/target': not enough space: "
        assert_image_unchanged small/target
        mount -o remount,size=12M small
        qcow-copy -q -n -O $format source.raw small/target
        assert_same_content source.raw small/target
        rm small/target
        mount -o remount,size=5M small
    done
}

@test "copy -n: the space that a raw target has already is no need" {
    head -c 8M /dev/urandom >source.raw
    small_disk 12M
    fallocate -l 8M small/target
    fallocate -l "$(df --output=avail -B1 small | tail -n 1)" small/full
    qcow-copy -q -n -O raw source.raw small/target
    cmp source.raw small/target
}

@test "copy -n: what the search for missing space takes itself is no need; without it the copy is tried" {
    local folder used
    head -c 4M /dev/urandom >source.raw
    small_disk 8M
    # As much as is needed, to the block.
    for folder in "$PWD" "$PWD/small" /nonexistent; do
        qemu-img create -q -f qcow2 small/target 4M
        used=$(df --output=used -B1K small | tail -n 1)
        mount -o remount,size=$((used + 4292))K small
        TMPDIR=$folder run -0 qcow-copy -q -n -O qcow2 source.raw small/target
        assert_clean small/target
        assert_same_content source.raw small/target
        rm small/target
        mount -o remount,size=8M small
    done
}

@test "copy -n: a target that a link names shares extents where it is" {
    reflink_disk 320M
    head -c 64M /dev/urandom >small/source.raw
    truncate -s 64M small/target.raw
    ln -s small/target.raw link.raw
    fallocate -l $(($(df --output=avail -B1 small | tail -n 1) - (16 << 20))) small/full
    run -0 qcow-copy -n -O raw small/source.raw link.raw
    cmp small/source.raw small/target.raw
}

# ---- Places that cannot grow ---------------------------------------------------------------------------

# Changes of a qcow2 image at @1, which is device.img: 24 MiB and a piece of a cluster.
fill_fixed() {
    qemu-img create -q -f qcow2 -o cluster_size=4k "$1" 18M
    qcow-copy -q -n -O qcow2 source.raw "$1"
    assert_same_content source.raw device.img
    qcow-snapshot -c one "$1"
    qcow-bitmap --add "$1" bits
    qcow-resize -q "$1" 19M
    assert_clean device.img
    assert_guest_zero device.img 18M 1M
    run -1 qcow-copy -q -n -O qcow2 other.raw "$1"
    assert_output_has "bytes are needed, and it has 0x1800a00; " "make room and run the same command again"
    assert_clean device.img
    qcow-snapshot -d one "$1"
    assert_clean device.img
}

@test "fixed places: the end of one is no multiple of the cluster size, and far past what counts cover" {
    require nbdkit
    head -c 18M /dev/urandom >source.raw
    head -c 19M /dev/urandom >other.raw
    head -c $((0x1800a00)) /dev/urandom >device.img
    start_nbdkit place.sock file device.img
    fill_fixed 'nbd+unix:///?socket=place.sock'
    stop_daemon "$daemon_pid"
    loop_device device.img
    fill_fixed "$device"
}

@test "fixed places: a last cluster that is cut short can be in use; in a file it becomes whole" {
    local image
    make_image s.qcow2 4M -o cluster_size=4k
    guest_write s.qcow2 0 1M A
    guest_write s.qcow2 2M 2K B
    truncate -s -2K s.qcow2
    guest_discard s.qcow2 0 512K
    cp s.qcow2 device.img
    (($(stat -c %s device.img) % 4096 == 2048)) || fail "$(stat -c %s device.img) bytes"
    loop_device device.img
    qcow-snapshot -c one "$device"
    qcow-bitmap --add "$device" bits
    qcow-snapshot -c one s.qcow2
    qcow-bitmap --add s.qcow2 bits
    for image in device.img s.qcow2; do
        assert_clean "$image"
        assert_guest "$image" 512K 512K A
        assert_guest "$image" 2M 2K B
        assert_guest_zero "$image" $(((2 << 20) + 2048)) 2K
    done
    (($(stat -c %s s.qcow2) % 4096 == 0)) || fail "$(stat -c %s s.qcow2) bytes"
}

@test "copy -n: the space that zeros give back in a raw data file is no need" {
    truncate -s 8M source.raw
    head -c 4M /dev/urandom | dd of=source.raw bs=1M seek=4 conv=notrunc status=none
    small_disk 6M
    make_image small/target 8M -o data_file=small/target.data,data_file_raw=on
    guest_write small/target 0 4M A
    qcow-copy -q -n -O qcow2 source.raw small/target
    assert_same_content source.raw small/target
    cmp source.raw small/target.data
    # Without them there is no room: nothing is written.
    head -c 8M /dev/urandom >source.raw
    remember_image small/target small/target.data
    run -1 qcow-copy -n -O qcow2 source.raw small/target
    assert_output_has "'small/target.data': not enough space: "
    assert_image_unchanged small/target small/target.data
}

@test "copy -n: no data file is written to before there is room for the tables and bitmaps of its image" {
    local cluster_size free fits
    head -c 8M /dev/urandom >source.raw
    for cluster_size in 64k 2M; do
        make_image target 16M -o "cluster_size=$cluster_size,data_file=target.data"
        head -c 16M /dev/urandom >target.data
        guest_write target 0 4M A
        qemu-img bitmap --add target dirty
        cp target.data before.data
        fits=
        for free in 32 64 96 128 160 192 224 256 288 320 384 2048 4096 6144 8192 10240; do
            small_disk $((free + $(du -k target | cut -f1)))K
            cp --sparse=always target small/target
            run qcow-copy -q -n -O qcow2 source.raw \
                "json:{\"driver\":\"qcow2\",\"data-file\":{\"driver\":\"file\",\"filename\":\"target.data\"},\"file\":{\"driver\":\"file\",\"filename\":\"small/target\"}}"
            assert_clean small/target
            if ((status == 0)); then
                cmp -n 8M source.raw target.data || assert_same_content source.raw small/target
                fits+=" $free "
                cp before.data target.data
            else
                [[ -z $fits ]] || fail "it fits into $fits, and not into $free KiB: $output"
                assert_output_has "pace"
                cmp before.data target.data
            fi
            umount small
        done
        [[ $fits == *" 10240 " ]] || fail "it fits only into $fits"
        rm target target.data
    done
}

@test "copy -n --bitmaps: their room is looked for before a data file is written to" {
    local i blocks commands=()
    make_image source.qcow2 4G
    qemu-img bitmap --add -g 512 source.qcow2 dirty
    for i in {0..15}; do
        commands+=("write -P 7 $((i * 256))M 512")
    done
    qemu_io source.qcow2 "${commands[@]}"
    make_image target 4G -o "data_file=target.data"
    blocks=$(stat -c %b target.data)
    small_disk 1500K
    cp --sparse=always target small/target
    ln -s "$PWD/target.data" small/target.data
    remember_image small/target
    run -1 qcow-copy -q -n --bitmaps -O qcow2 source.qcow2 small/target
    assert_output_has "'small/target': not enough space: "
    assert_image_unchanged small/target
    [[ $(stat -c %b target.data) == "$blocks" ]]
    mount -o remount,size=6M small
    qcow-copy -q -n --bitmaps -O qcow2 source.qcow2 small/target
    assert_same_content source.qcow2 small/target
    run -0 qemu-img info --output=json small/target
    assert_json '."format-specific".data.bitmaps | map(.name) == ["dirty"]'
}
