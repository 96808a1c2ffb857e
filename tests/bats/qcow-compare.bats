#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow-compare says what qemu-img compare says, and lists what differs.

load helpers
load zoo
load parity

@test "compare: an image and a copy of it are identical, whatever their shapes" {
    make_zoo
    local folder
    for folder in zoo/*/; do
        [[ $folder != */luks/ && $folder != */aes/ ]] || continue
        (
            cd "$folder"
            qemu-img convert -O raw t.qcow2 copy.raw
            same_compare t.qcow2 copy.raw
            qemu-img convert -O qcow2 -o cluster_size=4k t.qcow2 copy.qcow2
            same_compare copy.qcow2 t.qcow2
        ) || fail "above: $folder"
    done
}

@test "compare: the first byte's sector that differs is named" {
    make_image a.qcow2 4M
    guest_write a.qcow2 1M 1M A
    cp a.qcow2 b.qcow2
    guest_write b.qcow2 1500000 1 B
    same_compare a.qcow2 b.qcow2
    run -1 qcow-compare a.qcow2 b.qcow2
    assert_output "Content mismatch at offset 1499648!"
}

@test "compare: data against zeros, a hole, nothing, a backing file" {
    make_image zero.qcow2 4M
    cp zero.qcow2 hole.qcow2
    cp zero.qcow2 explicit.qcow2
    cp zero.qcow2 data.qcow2
    guest_zero zero.qcow2 0 4M
    guest_write explicit.qcow2 0 4M 0
    guest_write data.qcow2 3000000 10 A
    make_image over.qcow2 4M -b data.qcow2 -F qcow2
    local a b
    for a in zero hole explicit data over; do
        for b in zero hole explicit data over; do
            same_compare $a.qcow2 $b.qcow2
        done
    done
}

@test "compare: different sizes warn; the longer one's tail counts" {
    make_image small.qcow2 1000000
    make_image large.qcow2 3M
    guest_write small.qcow2 0 64k A
    guest_write large.qcow2 0 64k A
    same_compare small.qcow2 large.qcow2
    run -0 qcow-compare small.qcow2 large.qcow2
    assert_output $'Warning: Image size mismatch!\nImages are identical.'
    same_compare -s small.qcow2 large.qcow2
    guest_write large.qcow2 2M 512 B
    same_compare small.qcow2 large.qcow2
    same_compare large.qcow2 small.qcow2
    guest_write large.qcow2 0 512 C
    same_compare small.qcow2 large.qcow2
}

@test "compare -s: what is allocated must agree" {
    make_image a.qcow2 1M
    make_image b.qcow2 1M
    same_compare -s a.qcow2 b.qcow2
    guest_zero b.qcow2 512k 64k
    same_compare a.qcow2 b.qcow2
    same_compare -s a.qcow2 b.qcow2
    run -1 qcow-compare -s a.qcow2 b.qcow2
    [[ $output == "Strict mode: Offset "[0-9]*" block status mismatch!" ]]
}

@test "compare: -f and -F, -q, errors and their exit codes" {
    make_image a.qcow2 1M
    cp a.qcow2 b.qcow2
    same_compare -f raw -F raw a.qcow2 b.qcow2
    same_compare -f qcow2 -F raw a.qcow2 b.qcow2
    same_compare -q a.qcow2 b.qcow2
    same_compare -q -f qcow2 -F raw a.qcow2 b.qcow2
    same_compare a.qcow2 missing.qcow2
    same_compare missing.qcow2 a.qcow2
    run -2 qcow-compare --state-a nothing a.qcow2 b.qcow2
    run -1 qcow-compare a.qcow2
    run -1 qcow-compare --no-such-option a.qcow2 b.qcow2
}

l2_table() {
    echo $(($(peek_be "$1" "$(peek_be "$1" 40 8)" 8) & 0xfffffffffffe00))
}

@test "compare: metadata that cannot be read is exit 3, data that cannot be read is not exit 1" {
    make_image a.qcow2 1M
    guest_write a.qcow2 0 64k A
    cp a.qcow2 b.qcow2
    local l1
    l1=$(peek_be b.qcow2 40 8)
    poke b.qcow2 "$l1" 8000000000000001
    poke b.qcow2 $((l1 + 6)) 0201           # an L2 table that is not aligned
    run qcow-compare a.qcow2 b.qcow2
    [[ $status == 3 ]]
    same_compare a.qcow2 b.qcow2

    # A compressed cluster that is no stream any more.
    make_image c.qcow2 1M
    guest_write_compressed c.qcow2 0 64k A
    poke c.qcow2 $(($(peek_be c.qcow2 "$(l2_table c.qcow2)" 8) & 0xffffffff)) ffffffffffffffff
    run qcow-compare a.qcow2 c.qcow2
    [[ $status == [34] ]]
}

@test "compare: an image in use needs -U" {
    make_image a.qcow2 1M
    cp a.qcow2 b.qcow2
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    run -2 qcow-compare a.qcow2 b.qcow2
    run -0 --separate-stderr qcow-compare -U a.qcow2 b.qcow2
    assert_output "Images are identical."
}

@test "compare: two snapshots of one image, and the active state" {
    make_image a.qcow2 8M
    guest_write a.qcow2 0 4M A
    qemu-img snapshot -c s1 a.qcow2
    qemu-img snapshot -c s2 a.qcow2
    guest_write a.qcow2 3M 64k B
    qemu-img snapshot -c s3 a.qcow2
    run -0 qcow-compare --state-a s1 --state-b s2 a.qcow2 a.qcow2
    run -1 qcow-compare --state-a s2 --state-b s3 a.qcow2 a.qcow2
    assert_output "Content mismatch at offset 3145728!"
    run -0 qcow-compare --state-b s3 a.qcow2 a.qcow2
    cp a.qcow2 b.qcow2
    run -1 qcow-compare --state-b id:2 b.qcow2 a.qcow2
}

@test "compare --map: exactly the ranges that differ, in both forms" {
    make_image a.qcow2 8M
    guest_write a.qcow2 0 4M A
    qemu-img snapshot -c s1 a.qcow2
    guest_write a.qcow2 1M 128k B
    guest_zero a.qcow2 2M 64k
    guest_write a.qcow2 3M 64k A          # rewritten with the same bytes
    run -1 --separate-stderr qcow-compare --map --output=json --state-a s1 a.qcow2 a.qcow2
    assert_json 'map([.start, .length, .data, .zero, .compressed]) ==
        [[1048576, 131072, true, false, false], [2097152, 65536, false, true, false]]'
    [[ ${#lines[@]} == 2 ]]
    run -1 --separate-stderr qcow-compare --map --state-a s1 a.qcow2 a.qcow2
    [[ ${lines[0]} == "Offset          Length          B holds" ]]
    [[ ${lines[1]} == "0x100000        0x20000         data" ]]
    [[ ${lines[2]} == "0x200000        0x10000         zeros" ]]
    run -0 qcow-compare --map --output=json a.qcow2 a.qcow2
    assert_json '. == []'
}

@test "compare --output=json: one object" {
    make_image a.qcow2 1M
    make_image b.qcow2 2M
    run -0 qcow-compare --output=json a.qcow2 b.qcow2
    assert_json '.verdict == "identical" and .["sizes-differ"] and .bytes == 2097152 and (has("offset") | not)'
    guest_write b.qcow2 64k 64k A
    run -1 qcow-compare --output=json a.qcow2 b.qcow2
    assert_json '.verdict == "content-mismatch" and .offset == 65536'
    run -1 qcow-compare -s --output=json a.qcow2 b.qcow2
    assert_json '.verdict == "size-mismatch"'
}

@test "compare: two overlays of one base are compared without reading the base" {
    make_image base.qcow2 64M
    guest_write base.qcow2 0 32M A
    make_image a.qcow2 64M -b base.qcow2 -F qcow2
    make_image b.qcow2 64M -b base.qcow2 -F qcow2
    guest_write a.qcow2 0 64k B
    guest_write b.qcow2 0 64k B
    run -0 qcow-compare --output=json a.qcow2 b.qcow2
    assert_json '.verdict == "identical" and .["bytes-read"] <= 262144'
}

@test "compare: what a shared layer holds is not read, wherever it is in two chains" {
    make_image base.qcow2 64M
    guest_write_compressed base.qcow2 0 32M A
    make_image mid.qcow2 64M -b base.qcow2 -F qcow2
    guest_write mid.qcow2 1M 64k B
    ln -s base.qcow2 link.qcow2
    make_image top.qcow2 64M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 2M 64k C
    make_image other.qcow2 64M -b link.qcow2 -F qcow2
    guest_write other.qcow2 1M 64k B
    guest_write other.qcow2 2M 64k C
    # No stream of the base can be read any more.
    local first
    first=$(($(peek_be base.qcow2 "$(l2_table base.qcow2)" 8) & 0xffffffff))
    dd if=/dev/zero of=base.qcow2 bs=1 seek="$first" count=$(($(stat -c %s base.qcow2) - first)) conv=notrunc status=none
    run ! qemu-img compare top.qcow2 other.qcow2
    run -0 qcow-compare --output=json top.qcow2 other.qcow2
    assert_json '.verdict == "identical" and .["bytes-read"] == 131072'
    run -0 qcow-compare -s mid.qcow2 mid.qcow2
}

@test "compare -p: progress is that of qemu-img, and ends before the verdict" {
    make_image a.qcow2 1M
    guest_write a.qcow2 0 1M A
    cp a.qcow2 b.qcow2
    qcow-compare -p a.qcow2 b.qcow2 >out
    grep -q $'    (100.00/100%)\r' out
    [[ $(tail -n 1 out) == "Images are identical." ]]
    run -0 qcow-compare -p -q a.qcow2 b.qcow2
    assert_output ""
}

@test "compare: the summary counts bytes and clusters of the larger disk" {
    make_image a.qcow2 1M -o cluster_size=4k
    make_image b.qcow2 1100K
    truncate -s 1M c.raw
    run -0 qcow-compare --output=json a.qcow2 b.qcow2
    assert_json '.bytes == 1126400 and .clusters == 275'
    run -0 qcow-compare --output=json b.qcow2 c.raw
    assert_json '.bytes == 1126400 and .clusters == 18'
    run -0 qcow-compare --output=json c.raw c.raw
    assert_json '.bytes == 1048576 and .clusters == 0'
}

@test "compare, copy -B: one image over two data files is two layers" {
    local data
    make_image d.qcow2 1M -o "data_file=$PWD/d1.data"
    guest_write d.qcow2 0 1M A
    head -c 1M /dev/zero | tr '\0' Z >d2.data
    data='"data-file":{"driver":"file","filename":"d2.data"}'
    run -1 qcow-compare d.qcow2 "json:{\"driver\":\"qcow2\",$data,\"file\":{\"driver\":\"file\",\"filename\":\"d.qcow2\"}}"
    assert_output "Content mismatch at offset 0!"
    # The name is relative to the image, which has two names.
    mkdir one two
    (cd one && make_image o.qcow2 1M -o data_file=x.data && guest_write o.qcow2 0 1M A)
    ln one/o.qcow2 two/o.qcow2
    cp d2.data two/x.data
    run -1 qcow-compare one/o.qcow2 two/o.qcow2
    assert_output "Content mismatch at offset 0!"
    qcow-copy -q -O qcow2 -B "$PWD/two/o.qcow2" -F qcow2 one/o.qcow2 new.qcow2
    # QEMU looks for the data file where it runs.
    (cd two && assert_guest ../new.qcow2 0 1M A)
    # Over one data file it is one layer, and nothing is read.
    ln -sf "$PWD/one/x.data" two/x.data
    run -0 qcow-compare --output=json one/o.qcow2 two/o.qcow2
    assert_json '.verdict == "identical" and .["bytes-read"] == 0'
}

@test "compare: while bytes are compared it can be interrupted, and progress moves" {
    require nbdkit
    local started
    head -c 200M /dev/urandom >a.raw
    cp a.raw b.raw
    start_nbdkit slow.sock --filter=rate file b.raw rate=160M
    started=$SECONDS
    run -143 timeout --preserve-status -s TERM 2 qcow-compare -p -f raw -F raw a.raw 'nbd+unix:///?socket=slow.sock'
    ((SECONDS - started < 6)) || fail "it took $((SECONDS - started)) s"
    grep -E "\(([1-9][0-9])\.[0-9]+/100%\)" <<<"$output" || fail "no progress: $output"
}
