#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# What the images of the zoo do not have: holes, depth, short layers, odd sizes, very large disks.

load helpers
load parity

# Both forms, for each image.
same_maps() {
    local image
    for image; do
        same_map "$image" || fail "above: $image" || return
        same_map_text "$image" || fail "above: $image, as text" || return
    done
}

@test "map: data that was preallocated and never written is data that is zero" {
    make_image a.qcow2 64M -o preallocation=metadata
    same_maps a.qcow2
    run -0 qcow-map --output=json a.qcow2
    assert_json 'length == 1 and .[0].data and .[0].zero and .[0].offset > 0'
    guest_write a.qcow2 1M 64k A
    guest_write a.qcow2 1200k 4k B
    guest_write a.qcow2 63M 1M C
    same_maps a.qcow2
    run -0 qcow-map --output=json a.qcow2
    assert_json 'length > 4'
}

@test "map: when little of the file is a hole, data is not looked at" {
    make_image a.qcow2 8M
    guest_write a.qcow2 0 8M A
    fallocate -p -o 2M -l 64k a.qcow2
    same_maps a.qcow2
    run -0 qcow-map --output=json a.qcow2
    assert_json 'length == 1'
    fallocate -p -o 2M -l 4M a.qcow2
    same_maps a.qcow2
    run -0 qcow-map --output=json a.qcow2
    assert_json 'length > 1'
}

@test "map: a file is full of holes also when its clusters were given back" {
    make_image a.qcow2 8M
    guest_write a.qcow2 0 8M A
    guest_discard a.qcow2 4M 4M
    fallocate -p -o 2M -l 64k a.qcow2
    same_maps a.qcow2
    run -0 qcow-map --output=json a.qcow2
    assert_json 'length == 2 and (.[0].zero | not)'
}

@test "map: holes of one layer are not those of another" {
    make_image base.qcow2 8M -o preallocation=metadata
    make_image a.qcow2 8M -b base.qcow2 -F qcow2 -o preallocation=metadata,extended_l2=on
    qemu_io base.qcow2 'write 0 64k' 'write 1M 64k' 'write 3M 64k'
    qemu_io a.qcow2 'write 64k 64k' 'write 512k 64k' 'write 1088k 64k' 'write 2M 1M'
    same_maps a.qcow2
}

@test "map: every way to preallocate, also below an overlay and in a data file" {
    local how
    for how in metadata falloc full; do
        make_image "$how.qcow2" 4M -o "preallocation=$how"
        guest_write "$how.qcow2" 100k 300k A
        make_image "over-$how.qcow2" 5M -b "$how.qcow2" -F qcow2
        guest_write "over-$how.qcow2" 200k 64k B
        make_image "ext-$how.qcow2" 4M -o "preallocation=$how,data_file=$how.data"
        guest_write "ext-$how.qcow2" 1M 64k A
    done
    make_image raw.qcow2 4M -o data_file=raw.data,data_file_raw=on
    guest_write raw.qcow2 1M 64k A
    same_maps ./*.qcow2
}

@test "map: unallocated subclusters show the place that their cluster keeps" {
    make_image base.qcow2 3M -o cluster_size=4k
    guest_write base.qcow2 0 10k A
    make_image a.qcow2 4M -b base.qcow2 -F qcow2 -o extended_l2=on,cluster_size=128k
    guest_write a.qcow2 8k 4k B
    guest_zero a.qcow2 16k 4k
    guest_write a.qcow2 3200k 4k C          # past the end of base
    make_image over.qcow2 4M -b a.qcow2 -F qcow2 -o extended_l2=on
    guest_write over.qcow2 64k 2k D
    make_image alone.qcow2 1M -o extended_l2=on
    guest_write alone.qcow2 100k 2k E
    same_maps a.qcow2 over.qcow2 alone.qcow2
    run -0 qcow-map --output=json alone.qcow2
    assert_json 'any(.[]; .present == false and .offset)'
}

@test "map: where layers end before those above them, the layer above answers" {
    make_image 1.qcow2 1M
    make_image 2.qcow2 3M -b 1.qcow2 -F qcow2
    make_image 3.qcow2 2M -b 2.qcow2 -F qcow2
    make_image 4.qcow2 5M -b 3.qcow2 -F qcow2
    guest_zero 2.qcow2 960k 128k
    guest_write 2.qcow2 2M 64k A
    guest_zero 3.qcow2 1984k 64k
    same_maps 1.qcow2 2.qcow2 3.qcow2 4.qcow2
    head -c 100001 /dev/zero | tr '\0' A >odd.raw
    make_image over.qcow2 1M -b odd.raw -F raw -o cluster_size=512
    guest_write over.qcow2 99328 512 B
    same_maps over.qcow2
}

@test "map: fifty layers, each with clusters of another size" {
    local sizes=(512 1k 4k 64k 256k 2M) i below=() at
    for ((i = 0; i < 50; i++)); do
        make_image "$i.qcow2" 16M -o "cluster_size=${sizes[i % 6]}" "${below[@]}"
        at=$((i * 300000))
        qemu_io "$i.qcow2" "write $at 100k" "write -z $(((at + 5000000) % 16000000)) 70k"
        below=(-b "$i.qcow2" -F qcow2)
    done
    same_maps 49.qcow2
    run -0 qcow-map --output=json 49.qcow2
    assert_json '[.[].depth] | unique | length > 20'
}

@test "map: a size that is no whole number of sectors" {
    make_image a.qcow2 1M
    poke a.qcow2 24 0000000000100001
    same_maps a.qcow2
    poke a.qcow2 24 00000000000fffff
    same_maps a.qcow2
    poke a.qcow2 24 0000000000000001
    same_map a.qcow2
}

@test "map: a tebibyte, allocated and sparse, within 64 MiB" {
    require_plain_build
    make_image full.qcow2 1T -o preallocation=metadata,cluster_size=2M
    guest_write full.qcow2 500G 3M A
    make_image sparse.qcow2 16T -o cluster_size=2M
    guest_write sparse.qcow2 15T 64k A
    make_image over.qcow2 16T -b full.qcow2 -F qcow2 -o cluster_size=256k
    guest_write over.qcow2 2T 64k A
    same_maps full.qcow2 sparse.qcow2 over.qcow2
    local image peak
    for image in full sparse over; do
        peak=$(peak_memory qcow-map --output=json -m 16 $image.qcow2)
        ((peak < 64)) || fail "$image: $peak MiB"
    done
}

@test "map: a table that cannot be read ends the list, as in qemu-img" {
    local l1
    make_image a.qcow2 2G
    guest_write a.qcow2 0 64k A
    guest_write a.qcow2 1G 64k B
    l1=$(peek_be a.qcow2 40 8)
    poke a.qcow2 $((l1 + 16 + 6)) 0201         # the L2 table of 1 GiB on is not aligned
    run -1 qemu-img map --output=json a.qcow2
    run -1 qcow-map --output=json a.qcow2
    assert_output_has "L2 table" a.qcow2
}
