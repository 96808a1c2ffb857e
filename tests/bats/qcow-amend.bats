#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-amend: the image as qemu-img amend leaves it, with the same bytes for the guest and every snapshot.

load helpers

# states IMAGE FOLDER: what the active layer and each snapshot hold, by QEMU
states() {
    local name
    mkdir -p "$2"
    active_raw "$1" "$2/@active"
    while read -r name; do
        snapshot_raw "$1" "$name" "$2/$name"
    done < <(qemu-img info -U --output=json "$1" | jq -r '.snapshots // [] | .[].name')
}

# amends IMAGE OPTIONS: it becomes so, clean, with all its contents, and QEMU writes to it
amends() {
    rm -rf .before .after
    states "$1" .before
    run -0 qcow-amend -o "$2" "$1"
    assert_output "" || return
    assert_clean "$1" || return
    states "$1" .after
    diff -r .before .after >&2 || fail "$1 reads otherwise after $2" || return
    guest_write "$1" 1M 200k W
    assert_clean "$1"
}

# says IMAGE FILTER: a jq filter of what qemu-img info says about the format is true
says() {
    qemu-img info -U --output=json "$1" | jq -e ".\"format-specific\".data | $2" >/dev/null || fail "$1: not $2"
}

# fill IMAGE: data, zeros of both kinds, unaligned and compressed clusters
fill() {
    [[ ${2:-} == plain ]] || qemu_io "$1" 'write -c -P 3 2M 2M'
    qemu_io "$1" 'write -P 1 0 1M' 'write -z 128k 256k' 'write -z -u 640k 128k' 'write -P 2 3000001 70001' \
        'write -z 2M 512k' 'discard 3584k 128k'
}

# history IMAGE: the same with two snapshots and something after them
history() {
    fill "$1" "${2:-}"
    snapshot "$1" one
    qemu_io "$1" 'write -z 0 64k' 'write -P 4 512k 64k'
    snapshot "$1" two
    qemu_io "$1" 'write -P 5 64k 64k' 'write -z 256k 64k'
}

@test "amend compat: down and up again, without and with a backing file" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M B
    guest_zero base.qcow2 2M 256k
    for options in cluster_size=64k cluster_size=512 cluster_size=4k cluster_size=2M lazy_refcounts=on; do
        for backing in '' '-b base.qcow2 -F qcow2'; do
            # shellcheck disable=SC2086  # options are words
            make_image t.qcow2 4M -o "$options" $backing
            history t.qcow2
            amends t.qcow2 compat=0.10 || fail "above: $options $backing"
            says t.qcow2 '.compat == "0.10"'
            amends t.qcow2 compat=1.1 || fail "above: $options $backing"
            says t.qcow2 '.compat == "1.1" and ."lazy-refcounts" == false'
        done
    done
}

@test "amend compat=0.10: zeros that hide nothing take no space" {
    make_image base.qcow2 1G
    guest_write base.qcow2 0 64k B
    make_image t.qcow2 1G -b base.qcow2 -F qcow2
    guest_zero t.qcow2 0 1G
    amends t.qcow2 compat=0.10
    (($(qemu-img check --output=json t.qcow2 | jq '.["allocated-clusters"]') < 16))
}

@test "amend compat=0.10: tables that snapshots share stay shared" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M B
    make_image t.qcow2 4M -b base.qcow2 -F qcow2
    fill t.qcow2
    for name in a b c d; do
        snapshot t.qcow2 $name
    done
    length=$(stat -c %s t.qcow2)
    amends t.qcow2 compat=0.10
    (($(stat -c %s t.qcow2) < length + 3 * 1048576)) || fail "$length became $(stat -c %s t.qcow2)"
    for name in b a d c; do
        qemu-img snapshot -d $name t.qcow2
        assert_clean t.qcow2
    done
}

@test "amend compat=1.1: snapshots of version 2 get what version 3 wants" {
    make_image t.qcow2 4M -o compat=0.10
    history t.qcow2
    # As written by very old programs: no extra data at all. Each entry loses it, the rest moves up.
    python3 - t.qcow2 <<'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(60); n, offset = struct.unpack(">IQ", f.read(12))
    f.seek(offset); table = f.read(4096); out = b""; at = 0
    for _ in range(n):
        id_len, name_len = struct.unpack(">HH", table[at + 12:at + 16])
        extra, = struct.unpack(">I", table[at + 36:at + 40])
        names = table[at + 40 + extra:at + 40 + extra + id_len + name_len]
        entry = table[at:at + 36] + struct.pack(">I", 0) + names
        out += entry + bytes(-len(entry) % 8)
        at += (40 + extra + id_len + name_len + 7) // 8 * 8
    f.seek(offset); f.write(out + bytes(4096 - len(out)))
END
    assert_clean t.qcow2
    amends t.qcow2 compat=1.1
    qemu-img snapshot -a one t.qcow2
    assert_clean t.qcow2
}

@test "amend refcount_bits: every width to every other" {
    make_image t.qcow2 4M
    history t.qcow2 plain
    for bits in 64 4 8 32 16; do                    # with 2, QEMU cannot apply a snapshot to read it
        amends t.qcow2 refcount_bits=$bits
        says t.qcow2 ".\"refcount-bits\" == $bits"
    done
    make_image u.qcow2 40M -o cluster_size=512
    guest_write u.qcow2 0 40M A
    for bits in 1 2 64 1 16; do
        amends u.qcow2 refcount_bits=$bits
        says u.qcow2 ".\"refcount-bits\" == $bits"
    done
}

@test "amend refcount_bits: counts that do not fit are found before anything changes" {
    make_image t.qcow2 4M
    history t.qcow2
    remember_image t.qcow2
    run -1 qcow-amend -o refcount_bits=1 t.qcow2
    assert_output_has "Cannot decrease refcount entry width to 1 bits" "has a refcount of"
    assert_image_unchanged t.qcow2
}

@test "amend: several options at once" {
    make_image t.qcow2 4M -o refcount_bits=8
    fill t.qcow2
    amends t.qcow2 compat=0.10,refcount_bits=16
    says t.qcow2 '.compat == "0.10"'
    rm -rf .before
    run -0 qcow-amend -q -o compat=v3,lazy_refcounts=on -o refcount_bits=32,size=6M t.qcow2
    says t.qcow2 '.compat == "1.1" and ."lazy-refcounts" and ."refcount-bits" == 32'
    [[ $(virtual_size t.qcow2) == 6291456 ]]
    assert_guest_zero t.qcow2 4M 2M
    assert_clean t.qcow2
}

@test "amend lazy_refcounts" {
    make_image t.qcow2 4M
    fill t.qcow2
    amends t.qcow2 lazy_refcounts=on
    says t.qcow2 '."lazy-refcounts"'
    amends t.qcow2 lazy_refcounts=off
    says t.qcow2 '."lazy-refcounts" == false'
}

@test "amend data_file: the new name counts, with names of every length" {
    make_image t.qcow2 4M -o data_file=t.data
    fill t.qcow2 plain
    active_raw t.qcow2 before.raw
    long=$(printf 'x%.0s' {1..120})
    mkdir -p $long
    for name in u.data "$PWD/$long/u.data" t.data "$long/$long.data"; do
        mkdir -p "$(dirname "$name")"
        mv -- *.data "$name" 2>/dev/null || mv "$last" "$name"
        last=$name
        run -0 qcow-amend -o "data_file=$name" t.qcow2
        active_raw t.qcow2 now.raw
        cmp before.raw now.raw
        assert_clean t.qcow2
    done
    run -0 qcow-amend -o data_file= t.qcow2
    says t.qcow2 '."data-file" == null'
}

@test "amend data_file_raw: off, never on" {
    make_image t.qcow2 4M -o data_file=t.data,data_file_raw=on
    fill t.qcow2 plain
    amends t.qcow2 data_file_raw=on
    amends t.qcow2 data_file_raw=off
    says t.qcow2 '."data-file-raw" == false'
    run -1 qcow-amend -o data_file_raw=on t.qcow2
    assert_output_has "data-file-raw cannot be set on existing images"
}

@test "amend: backing names of every length survive a change of version" {
    make_image base.qcow2 4M
    for length in 10 100 250; do
        folder=$(printf 'd%.0s' $(seq $length))
        mkdir "$folder"
        cp base.qcow2 "$folder"
        for options in cluster_size=512 cluster_size=1k cluster_size=64k; do
            make_image t.qcow2 4M -b "$folder/base.qcow2" -F qcow2 -o $options
            amends t.qcow2 compat=0.10
            amends t.qcow2 compat=1.1
            amends t.qcow2 compat=0.10
            [[ $(qemu-img info --output=json t.qcow2 | jq -r '.["backing-filename"]') == "$folder/base.qcow2" ]]
        done
    done
}

@test "amend: what QEMU refuses is refused in its words, and changes nothing" {
    make_image t.qcow2 1M
    make_image o.qcow2 1M -b t.qcow2 -F qcow2
    refuses() {
        local image=$1 options=$2
        shift 2
        remember_image "$image"
        run -1 qcow-amend -o "$options" "$image"
        assert_output_has "$@" || return
        assert_image_unchanged "$image"
    }
    refuses t.qcow2 compat=1.2 "does not take '1.2'"
    refuses t.qcow2 cluster_size=4k "only supported for image creation"
    refuses t.qcow2 preallocation=full "only supported for image creation"
    refuses t.qcow2 foo=1 "no option 'foo'"
    refuses t.qcow2 lazy_refcounts=maybe "does not take 'maybe'"
    refuses t.qcow2 refcount_bits=3 "Refcount width must be a power of two and may not exceed 64 bits"
    refuses t.qcow2 refcount_bits=128 "Refcount width"
    refuses t.qcow2 compat=0.10,refcount_bits=8 "Refcount widths other than 16 bits require compatibility level 1.1"
    refuses t.qcow2 compat=0.10,lazy_refcounts=on "Lazy refcounts only supported with compatibility level 1.1"
    refuses t.qcow2 data_file=x "data-file can only be set for images that use an external data file"
    refuses t.qcow2 data_file_raw=on "data-file-raw cannot be set on existing images"
    refuses t.qcow2 backing_file=x "Cannot amend the backing file"
    refuses o.qcow2 backing_file=t.qcow2 "Cannot amend the backing file"
    refuses t.qcow2 size=1000 "--shrink"
    refuses t.qcow2 size=1048577 "multiple of 512"
    refuses t.qcow2 encrypt.state=active "encryption is not supported"
    run -0 qcow-amend -o backing_file=t.qcow2,backing_fmt=qcow2 o.qcow2

    make_image e.qcow2 1M -o extended_l2=on
    refuses e.qcow2 compat=0.10 "Cannot downgrade an image with incompatible features 0x10 set"
    make_image d.qcow2 1M -o data_file=d.data
    refuses d.qcow2 compat=0.10 "Cannot downgrade an image with a data file"
    make_image r.qcow2 1M -o refcount_bits=8
    refuses r.qcow2 compat=0.10 "compat=0.10 requires refcount_bits=16"
    make_image s.qcow2 1M
    snapshot s.qcow2 s
    qemu-img resize -q s.qcow2 2M
    refuses s.qcow2 compat=0.10 "Internal snapshots prevent downgrade of image"
    make_image b.qcow2 1M
    qemu-img bitmap --add b.qcow2 b
    refuses b.qcow2 compat=0.10 "dirty bitmaps"
    truncate -s 1M t.raw
    run -1 qcow-amend -f raw -o compat=0.10 t.raw
    assert_output_has "does not support option amendment"
    run -2 qcow-amend t.qcow2
    assert_output_has "Must specify options (-o)"
}

@test "amend compat=0.10: zstd is no hindrance without compressed clusters" {
    make_image t.qcow2 4M -o compression_type=zstd
    fill t.qcow2 plain
    amends t.qcow2 compat=0.10
    make_image t.qcow2 4M -o compression_type=zstd
    guest_write_compressed t.qcow2 0 64k A
    run -1 qcow-amend -o compat=0.10 t.qcow2
    assert_output_has "zstd compression type and existing compressed clusters"
    make_image t.qcow2 4M -o compression_type=zstd
    guest_write_compressed t.qcow2 0 64k A
    snapshot t.qcow2 s
    guest_write t.qcow2 0 64k B
    run -1 qcow-amend -o compat=0.10 t.qcow2
    assert_output_has "existing compressed clusters"
}

@test "amend: bitmaps stay when nothing they need changes" {
    make_image t.qcow2 4M
    qemu-img bitmap --add t.qcow2 b
    guest_write t.qcow2 1M 64k A
    says t.qcow2 '.bitmaps | length == 1'
    run -0 qcow-amend -o refcount_bits=32,lazy_refcounts=on t.qcow2
    says t.qcow2 '.bitmaps == [{"flags": ["auto"], "name": "b", "granularity": 65536}]'
    assert_clean t.qcow2
}

@test "amend: readers with -U are kept out, and keep it out" {
    make_image t.qcow2 1M
    start_daemon stdbuf -oL qemu-io -U -r -c 'read 0 1' -c 'sleep 60000' t.qcow2
    wait_until grep -q "read 1/1 bytes" daemon.log
    run -1 qcow-amend -o lazy_refcounts=on t.qcow2
    assert_output_has "consistent read" "lock"
}

@test "amend: an image that was not closed is refused" {
    make_image t.qcow2 1M
    poke t.qcow2 0x4f 01
    run -1 qcow-amend -o refcount_bits=8 t.qcow2
    assert_output_has "dirty bit" "qcow-check"
}

@test "amend -p shows how far it is" {
    make_image t.qcow2 4M
    history t.qcow2
    run -0 qcow-amend -p -o compat=0.10 t.qcow2
    assert_output_has "(100.00/100%)"
    make_image t.qcow2 4M
    run -0 qcow-amend -q -p -o compat=0.10 t.qcow2
    assert_output ""
}
