#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# Sources whose clusters are not those of the copy, and the limits.

load helpers
load parity

@test "measure: clusters of the copy that are touched count once" {
    make_image a.qcow2 40M -o cluster_size=512
    qemu_io a.qcow2 'write 0 512' 'write 60k 8k' 'write 1M 512' 'write 1500k 512' 'write 39M 1M' 'write -z 5M 1M'
    head -c 300001 /dev/zero | tr '\0' A >b.raw
    truncate -s 3M b.raw
    local size
    for size in 512 4k 64k 2M; do
        same_measure -O qcow2 -o "cluster_size=$size" a.qcow2
        same_measure -f raw -O qcow2 -o "cluster_size=$size" b.raw
    done
}

@test "measure: a chain, one with a short base, and a copy that keeps a backing file" {
    make_image base.qcow2 1000000 -o cluster_size=4k
    guest_write base.qcow2 0 1000000 A
    make_image a.qcow2 8M -b base.qcow2 -F qcow2
    guest_write a.qcow2 512k 64k B
    guest_zero a.qcow2 128k 64k
    same_measure -O qcow2 a.qcow2
    same_measure -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 a.qcow2
    same_measure -O raw a.qcow2
}

@test "measure: subclusters, compressed clusters, preallocated holes" {
    make_image sub.qcow2 8M -o extended_l2=on
    qemu_io sub.qcow2 'write 2k 2k' 'write -z 100k 4k' 'write 1M 100k'
    make_image packed.qcow2 8M
    guest_write_compressed packed.qcow2 0 1M A
    make_image holes.qcow2 64M -o preallocation=metadata
    guest_write holes.qcow2 3M 64k A
    local image
    for image in sub packed holes; do
        same_measure -O qcow2 $image.qcow2
        same_measure -O qcow2 -o extended_l2=on,cluster_size=128k $image.qcow2
    done
}

@test "measure: bitmaps of any granularity, also one in use, and version 2" {
    make_image a.qcow2 1G
    qemu-img bitmap --add -g 512 a.qcow2 fine
    qemu-img bitmap --add -g 2M a.qcow2 "$(printf 'n%.0s' {1..200})"
    same_measure -O qcow2 a.qcow2
    same_measure -O qcow2 -o cluster_size=512 a.qcow2
    same_measure -O qcow2 -o cluster_size=2M a.qcow2
    make_image b.qcow2 1G
    qemu-img bitmap --add b.qcow2 used
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=b.qcow2
    kill_daemon "$daemon_pid"
    same_measure -O qcow2 b.qcow2
    make_image c.qcow2 1G -o compat=0.10
    same_measure -O qcow2 c.qcow2
}

@test "measure: counts that count themselves" {
    local bits size
    for bits in 1 16 64; do
        for size in 1 511M 8G 128G; do
            same_measure -O qcow2 -o "refcount_bits=$bits,cluster_size=4k" --size "$size"
            same_measure -O qcow2 -o "refcount_bits=$bits" --size "$size"
        done
    done
}

@test "measure: sizes that fit no L1 table are refused, the largest are not" {
    local size
    for size in 2P 2049P 64P 2E 7E; do
        run qemu-img measure -O qcow2 --size "$size"
        local theirs=$status
        run qcow-measure -O qcow2 --size "$size"
        [[ $status == "$theirs" ]] || fail "$size: exit code $status, qemu-img's $theirs"
    done
    same_measure -O qcow2 -o cluster_size=2M --size 2E
    same_measure -O qcow2 --size 2P
    same_measure -O raw --size 7E
    same_measure -O qcow2 -o cluster_size=512 --size 128G
    run -1 qcow-measure -O qcow2 -o cluster_size=512 --size 129G
    assert_output_has "image size is too large"
}
