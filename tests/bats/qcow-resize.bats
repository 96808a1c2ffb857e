#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-resize: what a guest reads afterwards is judged by QEMU; what is new reads as zeros.

load helpers

# fill IMAGE: something of everything, up to the end
fill() {
    local image=$1 size
    size=$(virtual_size "$image")
    qemu_io "$image" 'write -P 1 0 300k' 'write -z 512k 256k' "write -P 2 $((size - 70000)) 70000"
    [[ ${2:-} == plain ]] || qemu_io "$image" 'write -c -P 3 2M 2M'
}

# assert_reads_resized IMAGE RAW SIZE: IMAGE reads as RAW, cut or filled up with zeros to SIZE bytes
assert_reads_resized() {
    cp "$2" .expected
    truncate -s "$3" .expected
    active_raw "$1" .actual
    cmp .expected .actual >&2 || fail "$1 of $3 bytes reads wrong"
}

# resize_round IMAGE: smaller, larger, much larger, much smaller, as before; each judged, and written to by QEMU
resize_round() {
    local image=$1 size raw=.before
    active_raw "$image" $raw
    for size in 4980224 5242880 5243392 80M 1M 1049088 5M; do
        size=$(numfmt --from=iec $size)
        run -0 qcow-resize --shrink "$image" "$size"
        assert_output "Image resized." || return
        assert_reads_resized "$image" $raw "$size" || return
        assert_clean "$image" || return
        qemu_io "$image" "write -P 9 $((size - 3000)) 3000" "write -P 8 $((size / 2)) 5000" || return
        assert_clean "$image" || return
        active_raw "$image" $raw
    done
}

@test "resize: images of every layout become larger and smaller" {
    for options in cluster_size=64k cluster_size=512 cluster_size=4k cluster_size=2M compat=0.10 extended_l2=on \
        refcount_bits=1 refcount_bits=64 refcount_bits=1,cluster_size=512 lazy_refcounts=on \
        compression_type=zstd extended_l2=on,cluster_size=16k preallocation=metadata; do
        make_image t.qcow2 5M -o "$options"
        # Compressed clusters: not where a count has one bit, nor where clusters are there already.
        fill t.qcow2 "$([[ $options != refcount_bits=1* && $options != prealloc* ]] || echo plain)"
        resize_round t.qcow2 || fail "above: $options"
    done
}

@test "resize: images with a data file" {
    for options in data_file_raw=off data_file_raw=on data_file_raw=off,extended_l2=on data_file_raw=off,cluster_size=4k; do
        rm -f t.data
        make_image t.qcow2 5M -o "data_file=t.data,$options"
        fill t.qcow2 plain
        resize_round t.qcow2 || fail "above: $options"
        [[ $(stat -c %s t.data) == 5242880 ]] || fail "the data file has $(stat -c %s t.data) bytes"
        [[ $options != *raw=on* ]] || cmp t.data .before
    done
}

@test "resize: snapshots keep their sizes and contents" {
    make_image t.qcow2 5M
    snapshot t.qcow2 empty
    fill t.qcow2
    snapshot t.qcow2 full
    qcow-resize -q t.qcow2 9M
    guest_write t.qcow2 8M 64k A
    snapshot t.qcow2 large
    guest_write t.qcow2 1M 1M B
    for name in empty full large; do
        snapshot_raw t.qcow2 $name $name.raw
    done
    resize_round t.qcow2
    for name in empty full large; do
        snapshot_raw t.qcow2 $name now.raw
        cmp $name.raw now.raw
    done
    qemu-img snapshot -d full t.qcow2
    assert_clean t.qcow2
}

@test "resize: a longer backing file does not show in what is new" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M A
    guest_zero base.qcow2 3M 1M
    for options in compat=1.1 compat=0.10 extended_l2=on cluster_size=512 cluster_size=2M compat=0.10,cluster_size=4k; do
        for size in 1M 1000448 1M+512 2M-512; do
            make_image t.qcow2 $(($(sed 's/\([0-9]*\)M/\1*1048576/' <<<$size))) -b base.qcow2 -F qcow2 -o "$options"
            guest_write t.qcow2 100k 5k B
            active_raw t.qcow2 before.raw
            qcow-resize -q t.qcow2 5M
            assert_reads_resized t.qcow2 before.raw 5242880
            assert_clean t.qcow2
            qcow-resize -q t.qcow2 10M
            assert_reads_resized t.qcow2 before.raw 10485760
            assert_clean t.qcow2
        done
    done
}

@test "resize: zeros in a backing file need no zero clusters above it" {
    make_image base.qcow2 10G
    guest_write base.qcow2 5G 64k A
    make_image t.qcow2 1G -b base.qcow2 -F qcow2
    qcow-resize -q t.qcow2 9G
    assert_guest_zero t.qcow2 5G 64k
    run -0 qcow-map t.qcow2
    [[ $(qcow-check --output=json t.qcow2 | jq '.["image-end-offset"]') -le 655360 ]]
    assert_clean t.qcow2
}

@test "resize: what the image held when it was larger does not come back" {
    make_image t.qcow2 4M
    guest_write t.qcow2 0 4M A
    qemu-img resize -q --shrink t.qcow2 1000448     # QEMU keeps the end of the last cluster
    for size in 1000960 1M 2M; do
        cp t.qcow2 u.qcow2
        qcow-resize -q u.qcow2 $size
        assert_guest u.qcow2 0 1000448 A
        assert_guest_zero u.qcow2 1000448 $(($(numfmt --from=iec $size) - 1000448))
        assert_clean u.qcow2
    done
    make_image t.qcow2 4M
    guest_write_compressed t.qcow2 0 4M A
    qcow-resize -q --shrink t.qcow2 1000448
    qcow-resize -q t.qcow2 4M
    assert_guest_zero t.qcow2 1000448 3193856
    assert_clean t.qcow2
}

@test "resize: a data file does not show what is left in it" {
    make_image t.qcow2 4M -o data_file=t.data
    guest_write t.qcow2 0 4M A
    qcow-resize -q --shrink t.qcow2 1000448
    head -c 4M /dev/urandom | dd of=t.data bs=1M oflag=seek_bytes seek=1000448 conv=notrunc status=none
    qcow-resize -q t.qcow2 4M
    assert_guest t.qcow2 0 1000448 A
    assert_guest_zero t.qcow2 1000448 3193856
    qcow-resize -q --preallocation=metadata t.qcow2 5M
    assert_guest_zero t.qcow2 4M 1M
    assert_clean t.qcow2
}

@test "resize --preallocation: every kind takes the clusters, over every layout" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M A
    for kind in metadata falloc full; do
        for options in compat=1.1 compat=0.10 extended_l2=on cluster_size=4k data_file=t.data data_file=t.data,data_file_raw=on; do
            rm -f t.data
            make_image t.qcow2 1000448 -o "$options"
            qcow-resize -q --preallocation=$kind t.qcow2 4M
            assert_guest_zero t.qcow2 0 4M
            assert_clean t.qcow2
            [[ $(qemu-img check --output=json t.qcow2 | jq '.["allocated-clusters"]') -ge 48 ]] || fail "$kind $options"
            guest_write t.qcow2 2M 100k B
            assert_clean t.qcow2
        done
        make_image t.qcow2 1000448 -b base.qcow2 -F qcow2 -o extended_l2=on
        qcow-resize -q --preallocation=$kind t.qcow2 4M
        assert_guest_zero t.qcow2 1000448 3193856
        guest_write t.qcow2 2M 1k B
        assert_guest_zero t.qcow2 2098176 60k
        assert_clean t.qcow2
    done
    make_image t.qcow2 1M
    qcow-resize -q --preallocation=falloc t.qcow2 9M
    (($(stat -c %b t.qcow2) * 512 >= 8 * 1048576))
}

@test "resize: shrinking shortens the file about as qemu-img does" {
    local ours theirs
    for options in cluster_size=64k cluster_size=4k extended_l2=on refcount_bits=64; do
        make_image t.qcow2 40M -o "$options"
        guest_write t.qcow2 0 40M A
        cp t.qcow2 q.qcow2
        qcow-resize -q --shrink t.qcow2 1M
        qemu-img resize -q --shrink q.qcow2 1M
        ours=$(stat -c %s t.qcow2) theirs=$(stat -c %s q.qcow2)
        ((ours <= theirs + 3 * 65536)) || fail "$ours bytes here, $theirs there ($options)"
        assert_guest t.qcow2 0 1M A
        assert_clean t.qcow2
    done
}

@test "resize: sizes as qemu-img takes them" {
    make_image t.qcow2 4M
    qcow-resize -q t.qcow2 +1M
    [[ $(virtual_size t.qcow2) == 5242880 ]]
    qcow-resize -q --shrink t.qcow2 -2M
    [[ $(virtual_size t.qcow2) == 3145728 ]]
    qcow-resize -q -f qcow2 t.qcow2 -1M --shrink
    [[ $(virtual_size t.qcow2) == 2097152 ]]
    qcow-resize -q t.qcow2 1.5G
    [[ $(virtual_size t.qcow2) == 1610612736 ]]
    run -0 qcow-resize t.qcow2 1.5G
    assert_output "Image resized."
    run -0 qcow-resize -q --image-opts driver=qcow2,file.filename=t.qcow2 2G
    assert_output ""
}

@test "resize: what cannot be is refused, and changes nothing" {
    make_image t.qcow2 4M
    remember_image t.qcow2
    refuses() {
        local words=$1
        shift
        run -1 qcow-resize "$@"
        assert_output_has "$words" || return
        assert_image_unchanged t.qcow2
    }
    refuses "Use the --shrink option" t.qcow2 1M
    refuses "must be positive" --shrink t.qcow2 -4M
    refuses "must be positive" --shrink t.qcow2 0
    refuses "multiple of 512" t.qcow2 +1
    refuses "growing images" --preallocation=full t.qcow2 4M
    refuses "Invalid preallocation mode 'some'" --preallocation=some t.qcow2 5M
    refuses "Failed to grow the L1 table: File too large" t.qcow2 4P
    refuses "No such file" missing.qcow2 5M
    run -2 qcow-resize t.qcow2 1X
    run -2 qcow-resize t.qcow2 +-1M
    run -2 qcow-resize t.qcow2
    run -2 qcow-resize t.qcow2 1M 2M
    assert_image_unchanged t.qcow2
    make_image old.qcow2 1M -o compat=0.10
    snapshot old.qcow2 s
    run -1 qcow-resize old.qcow2 2M
    assert_output_has "Can't resize a v2 image which has snapshots"
}

@test "resize: an image in use is refused" {
    make_image t.qcow2 1M
    truncate -s 1M t.raw
    start_qsd --blockdev driver=qcow2,node-name=n,file.driver=file,file.filename=t.qcow2 \
        --blockdev driver=raw,node-name=r,file.driver=file,file.filename=t.raw \
        --nbd-server addr.type=unix,addr.path=nbd.sock --export type=nbd,id=e,node-name=r,writable=on
    for image in t.qcow2 t.raw; do
        run -1 qcow-resize -f "${image#t.}" $image 2M
        assert_output_has "lock"
    done
}

@test "resize: raw images" {
    printf 'A%.0s' {1..1000} >t.raw
    run -0 qcow-resize -f raw t.raw +1M
    assert_output "Image resized."
    [[ $(stat -c %s t.raw) == 1049600 ]]
    assert_guest t.raw 0 1000 A
    assert_guest_zero t.raw 1000 1048600
    run -1 qcow-resize -f raw t.raw 512
    assert_output_has "Use the --shrink option"
    qcow-resize -q -f raw --shrink t.raw 1001
    [[ $(stat -c %s t.raw) == 1001 ]]
    qcow-resize -q -f raw --preallocation=full t.raw 2M
    [[ $(stat -c %s t.raw) == 2097152 ]]
    (($(stat -c %b t.raw) >= 4090))
    qcow-resize -q -f raw --preallocation=falloc t.raw 3M
    (($(stat -c %b t.raw) >= 6140))
    run -1 qcow-resize -f raw --preallocation=metadata t.raw 4M
    assert_output_has "Unsupported preallocation mode"
    run -0 qcow-resize t.raw 4M
    assert_output_has "a guest can forge"
    run -1 qcow-resize --image-opts driver=raw,file.filename=t.raw,size=1M 4M
    assert_output_has "fixed-size"
    qcow-resize -q --image-opts driver=raw,file.filename=t.raw,offset=512 5M
    [[ $(stat -c %s t.raw) == 5243392 ]]
}

@test "resize: a full disk leaves the image as it was and says how to go on" {
    small_disk 4M
    make_image small/t.qcow2 1M
    guest_write small/t.qcow2 0 1M A
    cp small/t.qcow2 before.qcow2
    run -1 qcow-resize --preallocation=full small/t.qcow2 50M
    assert_output_has "No space left" "as it was" "same command again"
    cp small/t.qcow2 after.qcow2
    cmp before.qcow2 after.qcow2
}

@test "resize: an encrypted image grows without its key where nothing must be written" {
    for _ in {1..20}; do
        make_image t.qcow2 1M --object secret,id=s,data=pw \
            -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 2>log && break
    done
    qcow-resize -q t.qcow2 2M
    [[ $(virtual_size t.qcow2) == 2097152 ]]
    run -1 qcow-resize --preallocation=full t.qcow2 4M
    assert_output_has "encrypted"
}
