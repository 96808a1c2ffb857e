#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-snapshot takes, applies, deletes and renames snapshots that QEMU then uses.

load helpers

# every_layout COMMAND: with each kind of image, from an image of 8 MiB with some data
every_layout() {
    local options
    for options in compat=0.10 compat=1.1 cluster_size=512 cluster_size=4k,refcount_bits=8 cluster_size=2M \
        extended_l2=on compression_type=zstd refcount_bits=64 lazy_refcounts=on; do
        rm -f a.qcow2
        make_image a.qcow2 8M -o "$options"
        guest_write a.qcow2 0 3M A
        guest_write a.qcow2 5M 100k B
        echo "# $options" >&2
        "$@"
    done
}

taken_and_applied() {
    active_raw a.qcow2 before.raw
    qcow-snapshot -c one a.qcow2
    assert_clean a.qcow2
    guest_write a.qcow2 512k 1M C
    assert_clean a.qcow2
    active_raw a.qcow2 after.raw
    qcow-snapshot -c two a.qcow2
    qcow-snapshot -a one a.qcow2
    assert_clean a.qcow2
    active_raw a.qcow2 now.raw
    cmp before.raw now.raw
    guest_write a.qcow2 0 1M D
    assert_clean a.qcow2
    snapshot_raw a.qcow2 one now.raw
    cmp before.raw now.raw
    snapshot_raw a.qcow2 two now.raw
    cmp after.raw now.raw
}

@test "snapshot -c, -a: QEMU writes on, and every state keeps its bytes" {
    every_layout taken_and_applied
}

deleted_in_any_order() {
    active_raw a.qcow2 one.raw
    qcow-snapshot -c one a.qcow2
    guest_write a.qcow2 1M 1M C
    qemu-img snapshot -c two a.qcow2
    guest_write a.qcow2 2M 1M D
    active_raw a.qcow2 three.raw
    qcow-snapshot -c three a.qcow2
    qcow-snapshot -d two a.qcow2
    assert_clean a.qcow2
    snapshot_raw a.qcow2 one now.raw
    cmp one.raw now.raw
    qemu-img snapshot -d three a.qcow2
    assert_clean a.qcow2
    qcow-snapshot -d one a.qcow2
    assert_clean a.qcow2
    active_raw a.qcow2 now.raw
    cmp three.raw now.raw
}

@test "snapshot -d: ours and QEMU's, in any order, leave no leak" {
    every_layout deleted_in_any_order
}

@test "snapshot -c: a name that is there is refused and the image stays as it was" {
    make_image a.qcow2 1M
    qcow-snapshot -c one a.qcow2
    remember_image a.qcow2
    run -1 qcow-snapshot -c one a.qcow2
    assert_output_has "a snapshot named 'one' is there already"
    assert_image_unchanged a.qcow2
}

@test "snapshot -c: ids go on from the highest number" {
    make_image a.qcow2 1M
    snapshot a.qcow2 one
    snapshot a.qcow2 two
    qcow-snapshot -d one a.qcow2
    qcow-snapshot -c three a.qcow2
    run -0 qcow-snapshot -l --output=json a.qcow2
    assert_json 'map(.id) == ["2", "3"]'
}

@test "snapshot -r: only the name changes, and QEMU finds it" {
    make_image a.qcow2 1M
    guest_write a.qcow2 0 64k A
    snapshot a.qcow2 one
    qcow-snapshot -l --output=json a.qcow2 | jq 'map(del(.name))' > before.json
    qcow-snapshot -r one -n 'an other' a.qcow2
    qcow-snapshot -l --output=json a.qcow2 | jq 'map(del(.name))' > after.json
    cmp before.json after.json
    qemu-img snapshot -a 'an other' a.qcow2
    assert_clean a.qcow2
}

@test "snapshot -r: a taken name is refused, and -n is needed" {
    make_image a.qcow2 1M
    snapshot a.qcow2 one
    snapshot a.qcow2 two
    run -1 qcow-snapshot -r one -n two a.qcow2
    assert_output_has "there already"
    run -2 qcow-snapshot -r one a.qcow2
}

@test "snapshot -a: the size of the snapshot comes back" {
    make_image a.qcow2 4M
    guest_write a.qcow2 0 4M A
    qcow-snapshot -c one a.qcow2
    qemu-img resize -q --shrink a.qcow2 1M
    qcow-snapshot -a one a.qcow2
    [[ $(virtual_size a.qcow2) == 4194304 ]]
    assert_guest a.qcow2 0 4M A
    assert_clean a.qcow2
}

@test "snapshot: a count that cannot grow is found before anything is changed" {
    make_image a.qcow2 1M -o refcount_bits=1
    guest_write a.qcow2 0 64k A
    remember_image a.qcow2
    run -1 qcow-snapshot -c one a.qcow2
    assert_output_has a.qcow2 "refcount" "1 bits"
    assert_guest a.qcow2 0 64k A
    assert_clean a.qcow2
}

@test "snapshot: a dirty image is refused with what to run" {
    make_image a.qcow2 1M -o lazy_refcounts=on
    poke a.qcow2 0x48 0000000000000001
    remember_image a.qcow2
    run -1 qcow-snapshot -c one a.qcow2
    assert_output_has "qcow-check -r all"
    assert_image_unchanged a.qcow2
}

@test "snapshot: flags that contradict the counts are refused before the first write" {
    make_image a.qcow2 1M
    guest_write a.qcow2 0 64k A
    snapshot a.qcow2 one
    # The active layer's only entry claims to be unshared again.
    local l2
    l2=$(peek_be a.qcow2 "$(peek_be a.qcow2 40 8)" 8)
    poke a.qcow2 $((l2 & 0x00fffffffffffe00)) 80
    remember_image a.qcow2
    run -1 qcow-snapshot -c two a.qcow2
    assert_output_has "refcount is not 1" "qcow-check -r all"
    assert_image_unchanged a.qcow2
}

@test "snapshot -c: an image in use is refused by name" {
    make_image a.qcow2 1M
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    run -1 qcow-snapshot -c one a.qcow2
    assert_output_has "lock" "a.qcow2"
    run -1 qcow-snapshot -U -c one a.qcow2
    assert_output_has "force-share=on can only be used with read-only images"
}
