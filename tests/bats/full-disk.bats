#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# A disk that is full in the middle of a change: the image is as it was, and the message says so.

load helpers

# An image on a file system of @1 KiB beyond what it needs.
make_full() {
    make_image s.qcow2 64M -o cluster_size=4k
    guest_write s.qcow2 0 4M A
    snapshot s.qcow2 one
    guest_write s.qcow2 1M 2M B
    head -c 8M /dev/zero >ram
    mkdir small
    mount -t tmpfs -o size=$(($(du -k s.qcow2 | cut -f1) + $1))K none small
    cp --sparse=always s.qcow2 small/s.qcow2
}

unmake_full() {
    umount small
    rm -r small s.qcow2 ram
}

# assert_full KIB COMMAND…: it fails for want of space, and leaves the image as it was
assert_full() {
    make_full "$1"
    run -1 "${@:2}"
    problem=none
    [[ $output == *"No space left on device"* ]] || problem=$output
    qemu-img check -q small/s.qcow2 || problem="check: $?"
    qemu-img compare -q s.qcow2 small/s.qcow2 || problem="contents differ"
    [[ $(qcow-snapshot -l small/s.qcow2) == "$(qcow-snapshot -l s.qcow2)" ]] || problem="snapshots differ"
    unmake_full
    [[ $problem == none ]] || fail "$problem"
}

@test "full disk: each change leaves the image as it was" {
    require_root
    assert_full 4 qcow-snapshot -c two small/s.qcow2
    assert_full 4 qcow-snapshot -d one small/s.qcow2
    assert_full 0 qcow-snapshot -a one small/s.qcow2
    assert_full 100 qcow-vmstate -q -i one ram small/s.qcow2
    assert_full 100 qcow-resize -q --preallocation=full small/s.qcow2 80M
    assert_full 0 qcow-amend -q -o refcount_bits=64 small/s.qcow2
}
