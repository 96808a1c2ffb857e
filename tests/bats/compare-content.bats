#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# What differs, to the sector, and what is not read to find out.

load helpers
load parity

@test "compare: a difference before a cluster that cannot be read decides, as in qemu-img" {
    local table stream
    head -c 3M /dev/zero | tr '\0' a >a.raw
    head -c 3M /dev/zero | tr '\0' b >b.raw
    qemu-img convert -c -O qcow2 a.raw a.qcow2
    table=$(($(peek_be a.qcow2 "$(peek_be a.qcow2 40 8)" 8) & 0xfffffffffffe00))
    stream=$(($(peek_be a.qcow2 $((table + 16)) 8) & ((1 << 54) - 1)))
    poke a.qcow2 $stream ffffffffffffffffffffffffffffffffffffffff
    run -1 qemu-img compare a.qcow2 b.raw
    wanted=$output
    run -1 qcow-compare a.qcow2 b.raw
    assert_output "$wanted"
    # Nothing differs before it.
    run -4 qcow-compare a.qcow2 a.raw
    assert_output_has a.qcow2 damaged
}

@test "compare: the first difference, wherever it is in a cluster, a sector, a file" {
    local at
    make_image a.qcow2 5M
    guest_write a.qcow2 0 5M A
    for at in 0 1 511 512 65535 65536 65537 1048575 2097152 2097663 5242879; do
        cp a.qcow2 b.qcow2
        guest_write b.qcow2 $at 1 B
        same_compare a.qcow2 b.qcow2
        same_compare b.qcow2 a.qcow2
        run -1 qcow-compare a.qcow2 b.qcow2
        assert_output "Content mismatch at offset $((at / 512 * 512))!"
    done
}

@test "compare: raw files of any length, beside each other and beside qcow2" {
    local i
    head -c 100000 /dev/zero | tr '\0' A >1.raw
    head -c 99999 1.raw >2.raw
    (cat 1.raw && head -c 31072 /dev/zero) >3.raw
    (cat 1.raw && printf x) >4.raw
    head -c 1000 1.raw >5.raw
    qemu-img convert -f raw -O qcow2 -o cluster_size=512 1.raw a.qcow2
    qemu-img convert -f raw -O qcow2 4.raw b.qcow2
    for i in 1 2 3 4 5; do
        same_compare -f raw -F qcow2 $i.raw a.qcow2
        same_compare -f qcow2 -F raw b.qcow2 $i.raw
        same_compare -f raw -F raw 1.raw $i.raw
        same_compare -f raw -F raw 5.raw $i.raw
    done
}

@test "compare: a byte behind the end of a raw file is told from where the file ends" {
    head -c 1000 /dev/zero | tr '\0' A >short.raw
    (cat short.raw && head -c 10 /dev/zero && printf x) >long.raw
    truncate -s 4096 long.raw
    same_compare -f raw -F raw short.raw long.raw
    same_compare -f raw -F raw long.raw short.raw
    run -1 qcow-compare -f raw -F raw short.raw long.raw
    assert_output_has "Content mismatch at offset 1000!"
}

@test "compare: chains that mean the same in different words" {
    CHAIN_SIZE=8M make_chain 1.qcow2 2.qcow2 3.qcow2
    guest_write 1.qcow2 0 2M A
    guest_zero 2.qcow2 512k 128k
    guest_write_compressed 2.qcow2 3M 1M B
    guest_write 3.qcow2 1M 64k C
    guest_discard 3.qcow2 3M 64k
    qemu-img convert -O qcow2 -o cluster_size=512 3.qcow2 flat.qcow2
    qemu-img convert -O qcow2 -c -o compression_type=zstd,cluster_size=2M 3.qcow2 packed.qcow2
    qemu-img convert -O qcow2 -o extended_l2=on -S 512 3.qcow2 sub.qcow2
    local a b
    for a in 3 flat packed sub; do
        for b in 3 flat packed sub 1 2; do
            same_compare $a.qcow2 $b.qcow2
            same_compare -s $a.qcow2 $b.qcow2
        done
    done
}

@test "compare -s: sizes, allocation, and where the last run starts" {
    make_image a.qcow2 4M
    make_image b.qcow2 4M
    guest_write a.qcow2 0 4M A
    guest_write b.qcow2 2M 2M A
    guest_write b.qcow2 0 2M A              # the same, in two pieces
    same_compare a.qcow2 b.qcow2
    same_compare -s a.qcow2 b.qcow2
    cp a.qcow2 c.qcow2
    same_compare -s a.qcow2 c.qcow2
    guest_write c.qcow2 3M 1 B              # a difference before and behind a mismatch of allocation
    guest_zero c.qcow2 3500k 64k
    same_compare -s a.qcow2 c.qcow2
    make_image d.qcow2 5M
    same_compare -s a.qcow2 d.qcow2
    make_image base.qcow2 1M
    make_image e.qcow2 4M -b base.qcow2 -F qcow2
    make_image f.qcow2 4M
    same_compare -s e.qcow2 f.qcow2
    make_image g.qcow2 4M -o preallocation=metadata
    guest_write g.qcow2 1M 64k A
    same_compare -s g.qcow2 f.qcow2
    same_compare -s g.qcow2 a.qcow2
}

@test "compare: snapshots beside what QEMU reads from them" {
    make_image a.qcow2 4M -o cluster_size=4k
    guest_write a.qcow2 0 1M A
    qemu-img snapshot -c s1 a.qcow2
    guest_write a.qcow2 512k 1M B
    qemu-img resize -q a.qcow2 6M
    qemu-img snapshot -c s2 a.qcow2
    guest_write a.qcow2 5M 64k C
    snapshot_raw a.qcow2 s1 s1.raw
    snapshot_raw a.qcow2 s2 s2.raw
    run -0 qcow-compare --state-a s1 -F raw a.qcow2 s1.raw
    assert_output "Images are identical."
    run -0 qcow-compare --state-b s2 -f raw s2.raw a.qcow2
    assert_output "Images are identical."
    run -1 qcow-compare --state-a s2 -F raw a.qcow2 s1.raw
    assert_output "Content mismatch at offset 524288!"
    run -1 qcow-compare --state-a s2 a.qcow2 a.qcow2
    assert_output "Content mismatch at offset 5242880!"
}

@test "compare --map: whole sectors, neighbours of one kind together, across everything that borders them" {
    make_image a.qcow2 4M -o cluster_size=4k
    guest_write a.qcow2 0 4M A
    cp a.qcow2 b.qcow2
    guest_write b.qcow2 1000 100 B                # two sectors
    guest_write b.qcow2 64k 2M B                  # over pieces and slices
    guest_zero b.qcow2 2200k 8k
    run -1 --separate-stderr qcow-compare --map --output=json a.qcow2 b.qcow2
    assert_json 'map([.start, .length, .data, .zero]) ==
        [[512, 1024, true, false], [65536, 2097152, true, false], [2252800, 8192, false, true]]'
    qemu-img convert -O raw a.qcow2 a.raw
    run -1 --separate-stderr qcow-compare --map --output=json -f raw a.raw b.qcow2
    assert_json 'map([.start, .length]) == [[512, 1024], [65536, 2097152], [2252800, 8192]]'
}

@test "compare: a tebibyte of holes is not read" {
    require_plain_build
    make_image a.qcow2 1T -o preallocation=metadata,cluster_size=2M
    make_image b.qcow2 1T -o preallocation=metadata,cluster_size=1M
    run -0 qcow-compare --output=json a.qcow2 b.qcow2
    assert_json '.["bytes-read"] == 0 and .seconds < 30'
    guest_write b.qcow2 700G 4k A
    run -1 qcow-compare --output=json a.qcow2 b.qcow2
    assert_json '.offset == 751619276800 and .["bytes-read"] <= 2097152'
}

@test "compare: what two overlays share is not read, whatever the length of the chains" {
    CHAIN_SIZE=64M make_chain 1.qcow2 2.qcow2
    guest_write 1.qcow2 0 32M A
    guest_write 2.qcow2 32M 16M B
    make_image a.qcow2 64M -b 2.qcow2 -F qcow2
    make_image b1.qcow2 64M -b 2.qcow2 -F qcow2
    make_image b2.qcow2 64M -b b1.qcow2 -F qcow2
    run -0 qcow-compare --output=json a.qcow2 b2.qcow2
    assert_json '.verdict == "identical" and .["bytes-read"] == 0'
    guest_zero b2.qcow2 40M 64k
    run -1 qcow-compare --output=json a.qcow2 b2.qcow2
    assert_json '.offset == 41943040 and .["bytes-read"] == 65536'
}

@test "compare: exit 2 for a lower image that cannot be opened, 4 for data that cannot be read" {
    make_image base.qcow2 1M
    make_image a.qcow2 1M -b base.qcow2 -F qcow2
    make_image b.qcow2 1M
    rm base.qcow2
    same_compare a.qcow2 b.qcow2
    same_compare b.qcow2 a.qcow2
    run -2 qcow-compare a.qcow2 b.qcow2
    assert_output_has base.qcow2
    make_image c.qcow2 1M
    guest_write_compressed c.qcow2 0 64k A
    poke c.qcow2 $((5 * 65536)) ffffffffffffffff
    run -4 qcow-compare c.qcow2 b.qcow2
    assert_output_has c.qcow2 "0x50000"
    same_compare c.qcow2 b.qcow2
}
