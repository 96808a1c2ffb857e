#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-create makes what qemu-img create makes.

load helpers

# The same names in two folders, so that everything printed must be the same.
setup() {
    qcow_setup
    mkdir ours theirs
}

in_both() {
    (cd ours && "$@") && (cd theirs && "$@")
}

# facts IMAGE: what qemu-img info and check say, but for the space on the host
facts() {
    qemu-img info --output=json "$1" | jq -S 'del(.. | ."actual-size"?)'
    qemu-img check --output=json "$1" | jq -S .
}

# creates_same OPTION… IMAGE [SIZE]: both print the same and make the same image, which both can write to
creates_same() {
    (cd ours && qcow-create "$@" >../ours.log 2>&1) || fail "qcow-create $*: $(<ours.log)" || return
    (cd theirs && qemu-img create "$@" >../theirs.log 2>&1) || fail "qemu-img create $*: $(<theirs.log)" || return
    diff -u theirs.log ours.log >&2 || fail "printed by create $*" || return
    [[ ! -e theirs/t.qcow2 ]] || compare_images t.qcow2 || fail "made by create $*"
}

compare_images() {
    local length
    diff -u <(cd theirs && facts "$1") <(cd ours && facts "$1") >&2 || return
    length=$(cd ours && virtual_size "$1")
    if ((length >= 65536)); then
        in_both qemu_io "$1" 'write -P 7 0 4k' "write -P 8 $((length - 5120)) 5k" || return
        assert_clean "ours/$1" || return
        compare_raw "$1"
    fi
}

compare_raw() {
    qemu-img compare -f qcow2 -F qcow2 "ours/$1" "theirs/$1" >&2
}

@test "create: sizes from nothing to large" {
    for size in 0 1 511 512 65536 1000000 1M 1.5G 100G 10T; do
        creates_same -f qcow2 t.qcow2 $size
    done
    creates_same -f qcow2 -o size=3M t.qcow2
}

@test "create: every option of the layout" {
    for options in cluster_size=512 cluster_size=4k cluster_size=2M refcount_bits=1 refcount_bits=64 compat=0.10 \
        compat=1.1 compat=v3 extended_l2=on extended_l2=on,cluster_size=2M extended_l2=on,cluster_size=16k \
        lazy_refcounts=on compression_type=zstd lazy_refcounts=on,refcount_bits=8,cluster_size=1k,compat=1.1 \
        refcount_bits=0x20 cluster_size=64K,cluster_size=32K; do
        creates_same -f qcow2 -o "$options" t.qcow2 50M
    done
    creates_same -f qcow2 -o cluster_size=4k -o refcount_bits=8 t.qcow2 50M
}

@test "create: preallocation of all four kinds takes the clusters, and the space where it says so" {
    local blocks
    for options in off metadata falloc full metadata,cluster_size=4k metadata,refcount_bits=1 full,compat=0.10; do
        creates_same -f qcow2 -o "preallocation=$options" t.qcow2 4M
    done
    creates_same -f qcow2 -o preallocation=metadata t.qcow2 1G
    for kind in falloc full; do
        qcow-create -q -o preallocation=$kind a.qcow2 4M
        blocks=$(stat -c %b a.qcow2)
        ((blocks * 512 >= 4 * 1024 * 1024)) || fail "preallocation=$kind takes $blocks blocks"
    done
}

@test "create: preallocation of an image with subclusters leaves them unallocated" {
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    qcow-create -q -o preallocation=metadata,extended_l2=on -b base.qcow2 -F qcow2 t.qcow2
    assert_same_content t.qcow2 base.qcow2
    guest_write t.qcow2 2k 2k B
    assert_guest t.qcow2 0 2k A
    assert_guest t.qcow2 2k 2k B
    assert_guest t.qcow2 4k 1020k A
    assert_clean t.qcow2
}

@test "create: overlays, with the size of what lies below, and with names of every kind" {
    in_both make_image base.qcow2 3M
    in_both make_image 'b,c.qcow2' 3M
    in_both truncate -s 1000001 base.raw
    creates_same -f qcow2 -b base.qcow2 -F qcow2 t.qcow2
    creates_same -f qcow2 -b base.qcow2 -F qcow2 t.qcow2 5M
    creates_same -f qcow2 -b base.raw -F raw t.qcow2
    creates_same -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 -o cluster_size=4k t.qcow2
    creates_same -f qcow2 -b 'b,c.qcow2' -F qcow2 t.qcow2
    creates_same -f qcow2 -o 'backing_file=b,,c.qcow2,backing_fmt=qcow2' t.qcow2
    creates_same -f qcow2 -o cluster_size=512 -b "$PWD/ours/base.qcow2" -F qcow2 t.qcow2
    creates_same -f qcow2 -u -b missing.qcow2 -F qcow2 u.qcow2 1M
    [[ $(qcow-info --output=json ours/u.qcow2 | jq -r '.["backing-filename"]') == missing.qcow2 ]]
}

@test "create: a backing name is relative to the folder of the image" {
    mkdir sub
    make_image sub/base.qcow2 2M
    run -0 qcow-create -b base.qcow2 -F qcow2 sub/t.qcow2
    [[ $(virtual_size sub/t.qcow2) == 2097152 ]]
}

@test "create: data files, raw ones mapped throughout" {
    for options in data_file=d.raw data_file=d.raw,data_file_raw=on data_file=d.raw,preallocation=metadata \
        data_file=d.raw,extended_l2=on data_file=d.raw,data_file_raw=on,preallocation=full data_file=d.raw,data_file_raw=off; do
        creates_same -f qcow2 -o "$options" d.qcow2 3M
        for folder in ours theirs; do
            (cd $folder && facts d.qcow2 >../$folder.facts && qemu_io d.qcow2 'write -P 7 1M 100k' && stat -c %s d.raw)
        done
        diff -u theirs.facts ours.facts
        cmp ours/d.raw theirs/d.raw
        (cd ours && assert_clean d.qcow2)
    done
}

@test "create: an old data file is replaced by an empty one" {
    head -c 1M /dev/urandom >d.raw
    qcow-create -q -o data_file=d.raw,data_file_raw=on t.qcow2 2M
    assert_guest_zero t.qcow2 0 2M
}

@test "create -f raw: whole sectors, and the space where it is asked for" {
    for size in 0 1 1000 1M 3000000; do
        creates_same -f raw t.raw $size
        cmp ours/t.raw theirs/t.raw
    done
    for kind in off falloc full; do
        creates_same -f raw -o preallocation=$kind t.raw 1000001
        cmp ours/t.raw theirs/t.raw
        [[ $kind == off || $(stat -c %b ours/t.raw) == $(stat -c %b theirs/t.raw) ]]
    done
    run -1 qcow-create -f raw -b base -F raw t.raw 1M
    assert_output_has "Backing file not supported for file format 'raw'"
    run -1 qcow-create -f raw -o preallocation=metadata t.raw 1M
}

@test "create: options of the file" {
    creates_same -f qcow2 -o nocow=on t.qcow2 1M
    run -1 qcow-create -o extent_size_hint=5G t.qcow2 1M
    assert_output_has "Extent size hint is too large"
}

@test "create: -q is silent, and qcow2 is the default" {
    run -0 qcow-create -q t.qcow2 1M
    assert_output ""
    [[ $(image_format t.qcow2) == qcow2 ]]
}

@test "create: what cannot be made is refused, and what was there stays" {
    make_image base.qcow2 1M
    cp base.qcow2 t.qcow2
    remember_image t.qcow2
    refuses() {
        local words=$1
        shift
        run -1 qcow-create "$@"
        assert_output_has "$words"
        assert_image_unchanged t.qcow2
    }
    refuses "size parameter" t.qcow2
    refuses "only once" -o size=1M t.qcow2 1M
    refuses "without backing format" -b base.qcow2 t.qcow2
    refuses "detected format of qcow2" -b base.qcow2 t.qcow2
    refuses "without backing file" -F qcow2 t.qcow2 1M
    refuses "missing.qcow2" -b missing.qcow2 -F qcow2 t.qcow2 1M
    refuses "size parameter" -u -b missing.qcow2 -F qcow2 t.qcow2
    refuses "same filename" -b t.qcow2 -F qcow2 t.qcow2
    refuses "backing chain" -b ./t.qcow2 -F qcow2 t.qcow2
    refuses "empty string" -b '' -F qcow2 t.qcow2 1M
    refuses "larger clusters" -o cluster_size=512 t.qcow2 1P
    refuses "Unknown file format 'vmdk'" -f vmdk t.qcow2 1M
    refuses "encryption is not supported" -o encryption=on t.qcow2 1M
    refuses "encryption is not supported" --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s t.qcow2 1M
    refuses "no option 'foo'" -o foo=1 t.qcow2 1M
    refuses "requires data_file" -o data_file_raw=on t.qcow2 1M
    refuses "another file" -o data_file=t.qcow2 t.qcow2 1M
    refuses "if extended_l2 is on" -o preallocation=full -b base.qcow2 -F qcow2 t.qcow2
    refuses "compat=1.1" -o compat=0.10,lazy_refcounts=on t.qcow2 1M
    refuses "json" 'json:{"driver":"file","filename":"t.qcow2"}' 1M
    refuses "No such file" missing/t.qcow2 1M
    run -2 qcow-create t.qcow2 1X
    assert_output_has "Invalid image size specified"
    run -2 qcow-create
    run -2 qcow-create t.qcow2 1M 2M
    assert_image_unchanged t.qcow2
}

@test "create: a layer two levels down is not replaced either" {
    make_chain base.qcow2 mid.qcow2
    remember_image base.qcow2
    ln base.qcow2 other-name.qcow2
    run -1 qcow-create -b mid.qcow2 -F qcow2 other-name.qcow2
    assert_output_has "backing chain"
    run -1 qcow-create -o data_file=base.qcow2 -b mid.qcow2 -F qcow2 t.qcow2
    assert_output_has "backing chain"
    assert_image_unchanged base.qcow2
    [[ ! -e t.qcow2 ]]
}

@test "create: an image that a VM uses is not replaced" {
    make_image t.qcow2 1M
    start_qsd --blockdev driver=qcow2,node-name=n,file.driver=file,file.filename=t.qcow2
    run -1 qcow-create t.qcow2 2M
    assert_output_has "lock"
    [[ $(virtual_size t.qcow2) == 1048576 ]]
}

@test "create: an existing file is replaced whole, with its mode" {
    make_image t.qcow2 1M
    guest_write t.qcow2 0 1M A
    chmod 600 t.qcow2
    qcow-create -q t.qcow2 2M
    [[ $(stat -c %a t.qcow2) == 600 ]]
    assert_guest_zero t.qcow2 0 2M
    [[ $(ls -A | wc -l) == 3 ]] || fail "left behind: $(ls -A)"
}

@test "create: an NBD export is written in place, whatever it held" {
    require nbdkit
    head -c 8M /dev/urandom >disk
    start_nbdkit nbd.sock file disk
    qcow-create -q -o preallocation=metadata "nbd+unix:///?socket=nbd.sock" 4M
    [[ $(image_format disk) == qcow2 ]]
    assert_clean disk
    assert_guest_zero disk 0 4M
    run -1 qcow-create -q -o preallocation=metadata "nbd+unix:///?socket=nbd.sock" 80M
    head -c 8M /dev/urandom >disk
    poke disk 0 514649fb00000003
    qcow-create -q -f raw "nbd+unix:///?socket=nbd.sock" 4M
    [[ $(image_format disk) == raw ]]
    [[ $(stat -c %s disk) == 8388608 ]]
}

@test "create: --untrusted opens the backing file and nothing that it names" {
    make_chain base.qcow2 mid.qcow2
    rm base.qcow2
    run -1 qcow-create -b mid.qcow2 -F qcow2 t.qcow2
    assert_output_has "base.qcow2"
    run -0 qcow-create --untrusted -b mid.qcow2 -F qcow2 t.qcow2
    [[ $(virtual_size t.qcow2) == 67108864 ]]
}

@test "create: a full disk leaves no image" {
    small_disk 2M
    run -1 qcow-create -o preallocation=full small/t.qcow2 10M
    assert_output_has "No space left"
    run ls -A small
    assert_output ""
}
