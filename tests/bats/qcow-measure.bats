#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow-measure prints what qemu-img measure prints.

load helpers
load zoo
load parity

setup_file() {
    cd "$BATS_FILE_TMPDIR" || return
    make_zoo
}

# Data of an encrypted image needs its key, which qemu-img wants to open it.
unless_encrypted() {
    [[ $PWD == */luks || $PWD == */aes ]] || "$@"
}

@test "measure: as raw and as qcow2, for images of every shape" {
    in_zoo unless_encrypted same_measure
    in_zoo unless_encrypted same_measure -O qcow2
}

@test "measure: every option of the target that matters" {
    cd "$BATS_FILE_TMPDIR/zoo/chain"
    for options in cluster_size=512 cluster_size=2M refcount_bits=1 refcount_bits=64 compat=0.10 extended_l2=on \
        extended_l2=on,cluster_size=2M preallocation=metadata preallocation=full preallocation=falloc \
        cluster_size=512,refcount_bits=64 compression_type=zstd; do
        same_measure -O qcow2 -o "$options" t.qcow2
        same_measure -O qcow2 -o "$options" --size 100G
    done
    same_measure -O qcow2 -o cluster_size=4k -o refcount_bits=8 t.qcow2
}

@test "measure --size: empty disks from nothing to large" {
    for size in 0 1 511 65536 1000001 1G 5T 1.5G; do
        same_measure -O qcow2 --size "$size"
        same_measure -O raw --size "$size"
    done
}

@test "measure: bitmaps are counted where both ends have them" {
    cd "$BATS_FILE_TMPDIR/zoo/bitmaps"
    same_measure -O qcow2 t.qcow2
    run -0 qcow-measure -O qcow2 t.qcow2
    assert_output_has "bitmaps size: "
    same_measure -O qcow2 -o compat=0.10 t.qcow2
    same_measure -O raw t.qcow2
}

@test "measure -l: a snapshot, by name, by id, in the words of qemu-img" {
    cp "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2" a.qcow2
    # qemu-img reads every snapshot with the size of the active state, so equal sizes are compared.
    make_image b.qcow2 5M
    zoo_scribble b.qcow2
    qemu-img snapshot -c s1 b.qcow2
    guest_write b.qcow2 1M 1M B
    for state in s1 1 snapshot.name=s1 snapshot.id=1; do
        same_measure -O qcow2 -l "$state" b.qcow2
    done
    [[ $(qcow-measure -O qcow2 -l name:s1 b.qcow2) == "$(qcow-measure -O qcow2 -l s1 b.qcow2)" ]]
    run -1 qcow-measure -l missing b.qcow2
    run -1 qcow-measure -l snapshot.foo=s1 b.qcow2
}

@test "measure -l: a snapshot has its own size" {
    make_image a.qcow2 1M
    qemu-img snapshot -c small a.qcow2
    qemu-img resize -q a.qcow2 4M
    run -0 qcow-measure -l small a.qcow2
    [[ ${lines[1]} == "fully allocated size: 1048576" ]]
}

@test "measure: what qemu-img refuses is refused" {
    make_image a.qcow2 1M
    for options in cluster_size=1000 refcount_bits=3 no_such_option=1 compat=2.0 extended_l2=on,cluster_size=4k; do
        run -1 qemu-img measure -O qcow2 -o "$options" a.qcow2
        run -1 qcow-measure -O qcow2 -o "$options" a.qcow2
    done
    run -1 qcow-measure -O vmdk a.qcow2
    run -1 qcow-measure missing.qcow2
}

@test "measure: wrong usage, in the words of qemu-img" {
    run -2 qcow-measure
    assert_output_has "Either --size N or one filename must be specified."
    run -2 qcow-measure --size 1G a.qcow2
    assert_output_has "--size N cannot be used together with a filename."
    run -2 qcow-measure -l s --size 1G
    assert_output_has "--image-opts, -f, and -l require a filename argument."
    run -2 qcow-measure a b
    run -2 qcow-measure --size nothing
}
