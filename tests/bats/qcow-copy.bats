#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-copy: what is copied, and what is left when something goes wrong. Its options are in copy-options.bats.

load helpers

# make_disk: base.qcow2 ← disk.qcow2 with data, zeros, compressed data and a snapshot, at odd places
make_disk() {
    make_image base.qcow2 16M
    guest_write base.qcow2 0 3M A
    guest_write base.qcow2 8M 100K B
    make_image disk.qcow2 16M -b base.qcow2 -F qcow2
    guest_write disk.qcow2 1M 300K C
    guest_write_compressed disk.qcow2 12M 256K D
    guest_zero disk.qcow2 2M 512K
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 4M 70000 E
    guest_write_random disk.qcow2 5M 1M 7
}

# copies_as_qemu OPTION…: the copy is clean, and has the contents and no more clusters than qemu-img convert's
copies_as_qemu() {
    run -0 qcow-copy -O qcow2 "$@" disk.qcow2 ours.qcow2
    assert_output ""
    qemu-img convert -O qcow2 "$@" disk.qcow2 theirs.qcow2
    assert_clean ours.qcow2
    assert_same_content disk.qcow2 ours.qcow2
    local ours theirs
    ours=$(qemu-img check --output=json ours.qcow2 | jq '."allocated-clusters"')
    theirs=$(qemu-img check --output=json theirs.qcow2 | jq '."allocated-clusters"')
    ((ours <= theirs)) || fail "$* has $ours clusters, and $theirs by qemu-img"
}

# blocks FILE: print how many KiB a file has on the disk
blocks() {
    du -k "$1" | cut -f 1
}

# assert_only FILE…: no other file is in this folder, temporary ones included
assert_only() {
    diff -u <(printf '%s\n' "$@" | sort) <(find . -mindepth 1 ! -name '.daemons' ! -name '*.log' -printf '%P\n' | sort) ||
        fail "other files were left"
}

# ---- formats -----------------------------------------------------------------------------------------

@test "copy: to raw, the default, with the holes that qemu-img makes" {
    make_disk
    run -0 qcow-copy disk.qcow2 ours.raw
    assert_output ""
    qemu-img convert -O raw disk.qcow2 theirs.raw
    cmp ours.raw theirs.raw
    (($(blocks ours.raw) <= $(blocks theirs.raw) + 16)) || fail "$(blocks ours.raw) KiB, and $(blocks theirs.raw)"
}

@test "copy: to qcow2, with every layout" {
    make_disk
    for options in cluster_size=512 cluster_size=64k cluster_size=2M extended_l2=on compat=0.10 refcount_bits=1 \
        refcount_bits=64 lazy_refcounts=on,cluster_size=4k; do
        copies_as_qemu -S 4k -o "$options"    # where extents are shared zeros stay data without -S
    done
}

@test "copy -c: zlib and zstd, no larger than qemu-img by more than 3 %" {
    make_disk
    for options in compression_type=zlib compression_type=zstd cluster_size=16k extended_l2=on refcount_bits=2; do
        [[ $options != compression_type=zstd ]] || (($(qemu_major) >= 7))
        copies_as_qemu -c -o "$options"
        (($(stat -c %s ours.qcow2) <= $(stat -c %s theirs.qcow2) * 103 / 100 + 131072)) ||
            fail "$(stat -c %s ours.qcow2) bytes, and $(stat -c %s theirs.qcow2) by qemu-img"
    done
}

@test "copy: without -c compressed clusters are unpacked, with it they pass as they are" {
    make_image disk.qcow2 16M
    guest_write_compressed disk.qcow2 0 4M A
    run -0 qcow-copy --output=json -O qcow2 disk.qcow2 plain.qcow2
    assert_json '.["bytes-passed-through"] == 0'
    run -0 qemu-img check --output=json plain.qcow2
    assert_json 'has("compressed-clusters") | not'
    assert_same_content disk.qcow2 plain.qcow2
    run -0 qcow-copy --output=json -c -O qcow2 disk.qcow2 packed.qcow2
    assert_json '.["bytes-passed-through"] > 0 and .["bytes-copied"] == 0'
    assert_same_content disk.qcow2 packed.qcow2
    assert_clean packed.qcow2
}

@test "copy: zeros in data get no place" {
    truncate -s 64M disk.raw
    dd if=/dev/zero of=disk.raw bs=1M count=32 conv=notrunc status=none
    qemu_io disk.raw 'write -q -P 7 10M 4k' 'write -q -P 8 20M 64k'
    run -0 qcow-copy --no-reflink -O qcow2 disk.raw new.qcow2
    assert_same_content disk.raw new.qcow2
    run -0 qemu-img check --output=json new.qcow2
    assert_json '."allocated-clusters" == 2'
    run -0 qcow-copy --no-reflink disk.raw new.raw
    cmp disk.raw new.raw
    qemu-img convert -O raw disk.raw theirs.raw
    (($(blocks new.raw) <= $(blocks theirs.raw) + 16)) || fail "$(blocks new.raw) KiB, and $(blocks theirs.raw)"
}

@test "copy: a raw file that ends anywhere gets whole sectors" {
    printf 'odd' >odd.raw
    run -0 qcow-copy odd.raw new.raw
    [[ $(stat -c %s new.raw) == 512 ]]
    run -0 qcow-copy -O qcow2 odd.raw new.qcow2
    assert_same_content new.raw new.qcow2
    : >empty.raw
    run -0 qcow-copy -O qcow2 empty.raw new.qcow2
    [[ $(virtual_size new.qcow2) == 0 ]]
    assert_clean new.qcow2
}

@test "copy: a snapshot has its own size and contents" {
    make_disk
    qemu-img resize -q --shrink disk.qcow2 6M
    for name in monday name:monday id:1 snapshot.id=1 snapshot.name=monday; do
        run -0 qcow-copy -l "$name" disk.qcow2 monday.raw
        [[ $(stat -c %s monday.raw) == $((16 << 20)) ]]
    done
    assert_guest monday.raw 1M 300K C
    assert_guest_zero monday.raw 4M 2M
    assert_guest monday.raw 12M 256K D
    run -0 qcow-copy -l @backing disk.qcow2 backing.raw
    assert_guest backing.raw 0 3M A
    run -1 qcow-copy -l tuesday disk.qcow2 none.raw
    assert_output_has tuesday
    [[ ! -e none.raw ]]
}

@test "copy: several sources become one disk" {
    make_disk
    truncate -s 1000 odd.raw
    printf 'x%.0s' {1..1000} >odd.raw
    run -0 qcow-copy -O qcow2 disk.qcow2 odd.raw disk.qcow2 joined.qcow2
    qemu-img convert -O raw disk.qcow2 odd.raw disk.qcow2 theirs.raw
    assert_same_content joined.qcow2 theirs.raw
    assert_clean joined.qcow2
    run -0 qcow-copy disk.qcow2 odd.raw disk.qcow2 joined.raw
    cmp joined.raw theirs.raw
}

# ---- backing files -----------------------------------------------------------------------------------

@test "copy -B: holds what differs from the backing file, and nothing else" {
    make_disk
    run -0 qcow-copy -O qcow2 -B base.qcow2 -F qcow2 disk.qcow2 over.qcow2
    assert_clean over.qcow2
    assert_same_content disk.qcow2 over.qcow2
    run -0 qemu-img info --output=json over.qcow2
    assert_json '."backing-filename" == "base.qcow2" and ."backing-filename-format" == "qcow2"'
}

@test "copy -B: a snapshot over a full copy of another one is as small as the change" {
    make_image disk.qcow2 64M
    guest_write_random disk.qcow2 0 32M 1
    snapshot disk.qcow2 one
    guest_write_random disk.qcow2 10M 1M 2
    guest_zero disk.qcow2 20M 64K
    snapshot disk.qcow2 two
    run -0 qcow-copy -O qcow2 -l one disk.qcow2 one.qcow2
    run -0 qcow-copy -O qcow2 -l two -B one.qcow2 -F qcow2 disk.qcow2 two.qcow2
    run -0 qemu-img check --output=json two.qcow2
    assert_json '."allocated-clusters" == 16'    # and one that is zeros
    snapshot_raw disk.qcow2 two two.raw
    assert_same_content two.qcow2 two.raw
}

@test "copy -B: sizes that differ read as they should" {
    make_image short.qcow2 1M
    guest_write short.qcow2 0 1M A
    make_image long.qcow2 8M
    guest_write long.qcow2 0 8M B
    make_image disk.qcow2 4M
    guest_write disk.qcow2 0 512K A
    guest_write disk.qcow2 3M 64K C
    for base in short long; do
        for compat in 0.10 1.1; do
            run -0 qcow-copy -O qcow2 -o compat=$compat -B $base.qcow2 -F qcow2 disk.qcow2 over.qcow2
            assert_same_content disk.qcow2 over.qcow2
            assert_clean over.qcow2
        done
    done
}

@test "copy -B: over a backing file that somebody writes to is refused; a new overlay of it is not" {
    require qemu-storage-daemon
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image mid.qcow2 4M -b base.qcow2 -F qcow2
    cp base.qcow2 src.qcow2
    start_qsd --blockdev driver=file,node-name=f,filename=base.qcow2 --blockdev driver=qcow2,node-name=d,file=f \
        --nbd-server addr.type=unix,addr.path=qsd.nbd --export type=nbd,id=e,node-name=d,writable=on
    for base in base.qcow2 mid.qcow2; do
        run -1 qcow-copy -O qcow2 -B $base -F qcow2 src.qcow2 new.qcow2
        assert_output_has "Could not open backing image" base.qcow2 lock
        [[ ! -e new.qcow2 ]]
    done
    qcow-create -q -b base.qcow2 -F qcow2 overlay.qcow2
}

@test "copy, resize, snapshot: what an image name calls read-only is not written" {
    make_image src.qcow2 1M
    guest_write src.qcow2 0 1M A
    make_image disk.qcow2 1M
    truncate -s 1M disk.raw
    remember_image disk.qcow2 disk.raw
    for name in driver=raw,file.filename=disk.raw,read-only=on driver=raw,file.filename=disk.raw,file.read-only=on; do
        run -1 qcow-copy -n --target-image-opts src.qcow2 $name
        assert_output_has disk.raw "Block node is read-only"
        run -1 qcow-resize --image-opts $name 2M
        assert_output_has disk.raw "Block node is read-only"
    done
    run -1 qcow-snapshot -c monday --image-opts driver=qcow2,read-only=on,file.filename=disk.qcow2
    assert_output_has disk.qcow2 "Block node is read-only"
    assert_image_unchanged disk.qcow2 disk.raw
    qcow-snapshot -l --image-opts driver=qcow2,read-only=on,file.filename=disk.qcow2
    qcow-resize -q --image-opts driver=raw,read-only=off,file.filename=disk.raw 2M
}

@test "copy -B: the format of the backing file must be said, and the file must be there" {
    make_disk
    run -1 qcow-copy -O qcow2 -B base.qcow2 disk.qcow2 over.qcow2
    assert_output_has "backing format"
    run -1 qcow-copy -O qcow2 -B none.qcow2 -F qcow2 disk.qcow2 over.qcow2
    run -1 qcow-copy -B base.qcow2 -F qcow2 disk.qcow2 over.raw
    [[ ! -e over.qcow2 && ! -e over.raw ]]
}

# ---- what is replaced --------------------------------------------------------------------------------

@test "copy: an existing file is replaced when the new one is whole, through links, with its mode" {
    make_disk
    mkdir elsewhere
    echo old >elsewhere/real
    chmod 640 elsewhere/real
    ln -s elsewhere/real link
    run -0 qcow-copy disk.qcow2 link
    [[ -L link && $(stat -c %a elsewhere/real) == 640 ]]
    assert_same_content disk.qcow2 elsewhere/real
}

@test "copy: a file of the source's chain is never replaced" {
    make_disk
    remember_image base.qcow2 disk.qcow2
    for target in base.qcow2 ./disk.qcow2 "$PWD/base.qcow2"; do
        run -1 qcow-copy disk.qcow2 "$target"
        run -1 qcow-copy -n disk.qcow2 "$target"
    done
    assert_image_unchanged base.qcow2 disk.qcow2
}

@test "copy: a file that a VM uses is not replaced" {
    make_disk
    make_image used.qcow2 16M
    start_vm -blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=used.qcow2 -device virtio-blk,drive=d
    wait_until qmp vm.qmp query-status >/dev/null
    run -1 qcow-copy -O qcow2 disk.qcow2 used.qcow2
    assert_output_has lock
    run -1 qcow-copy -n -O qcow2 disk.qcow2 used.qcow2
    assert_output_has lock
}

# ---- in place ----------------------------------------------------------------------------------------

@test "copy -n: raw bytes are written over, what is behind them stays" {
    make_disk
    head -c 20M /dev/zero | tr '\0' 'Z' >there.raw
    run -0 qcow-copy -n disk.qcow2 there.raw
    active_raw disk.qcow2 expected.raw
    cmp -n 16777216 there.raw expected.raw
    assert_guest there.raw 16M 4M Z
    truncate -s 15M there.raw
    run -1 qcow-copy -n disk.qcow2 there.raw
    assert_output_has "output file is smaller than input file"
}

@test "copy -n: a raw file that ends inside a sector holds the whole of it" {
    head -c 1000 /dev/urandom >source.raw
    for size in 1000 1024 2000; do
        head -c $size /dev/zero | tr '\0' 'Z' >there.raw
        cp there.raw theirs.raw
        qemu-img convert -n -f raw -O raw source.raw theirs.raw
        qcow-copy -n -f raw -O raw source.raw there.raw
        cmp there.raw theirs.raw
    done
    truncate -s 512 there.raw
    run -1 qcow-copy -n -f raw -O raw source.raw there.raw
    assert_output_has "output file is smaller than input file"
}

@test "copy -n: an existing qcow2 image changes at once, keeps snapshots and what is behind" {
    make_disk
    make_image there.qcow2 20M
    guest_write there.qcow2 0 20M Z
    snapshot there.qcow2 before
    qemu-img bitmap --add there.qcow2 dirty
    run -0 qcow-copy -n -O qcow2 disk.qcow2 there.qcow2
    assert_clean there.qcow2
    active_raw disk.qcow2 expected.raw
    active_raw there.qcow2 found.raw
    cmp -n 16777216 found.raw expected.raw
    assert_guest there.qcow2 16M 4M Z
    snapshot_raw there.qcow2 before before.raw
    assert_guest before.raw 0 20M Z
    run -0 qcow-bitmap --list --output=json there.qcow2
    assert_json '.[0]["dirty-bytes"] // .[0].dirty // 1 | . > 0'
    # Once more: nothing differs, so nothing is moved.
    run -0 qcow-copy --output=json -n -O qcow2 disk.qcow2 there.qcow2
    assert_json '."bytes-copied" == 0 and ."bytes-cloned" == 0'
}

@test "copy -n: zeros past the end of a layer whose data file nobody reads" {
    make_image base.qcow2 64K -o data_file=base.data
    make_image disk.qcow2 8M -b base.qcow2 -F qcow2
    guest_write disk.qcow2 0 64K A
    guest_write disk.qcow2 4M 1M B
    head -c 8M /dev/zero | tr '\0' 'Z' >there.raw
    run -0 qcow-copy -n disk.qcow2 there.raw
    assert_same_content disk.qcow2 there.raw
}

@test "copy -n: an image with an external data file is written over, also a raw one; bitmaps record it" {
    head -c 3M /dev/urandom >one.raw
    truncate -s 2M two.raw
    printf 'x' | dd of=two.raw bs=1 seek=1300000 conv=notrunc status=none
    cp one.raw expected.raw
    dd if=two.raw of=expected.raw conv=notrunc status=none
    for options in data_file=there.data data_file=there.data,data_file_raw=on data_file=there.data,extended_l2=on; do
        make_image there.qcow2 3M -o "$options"
        qemu-img bitmap --add there.qcow2 dirty
        run -0 qcow-copy -n -O qcow2 one.raw there.qcow2
        assert_same_content one.raw there.qcow2
        qemu-img bitmap --clear there.qcow2 dirty
        run -0 qcow-copy -n -O qcow2 two.raw there.qcow2
        assert_same_content expected.raw there.qcow2
        assert_clean there.qcow2
        [[ $options != *raw* ]] || cmp expected.raw there.data
        start_qemu_nbd dirty.sock -r -f qcow2 -B dirty there.qcow2
        run -0 nbdinfo --map=qemu:dirty-bitmap:dirty --json 'nbd+unix:///?socket=dirty.sock'
        assert_json 'map(select(.type == 1) | [.offset, .length]) == [[0, 2097152]]'
        stop_daemon "$daemon_pid"
        rm -f there.qcow2 there.data dirty.sock
    done
}

@test "copy -n -S 0: what is there gets space for everything, zeros too" {
    truncate -s 20M disk.raw
    printf 'x' | dd of=disk.raw bs=1 seek=5M conv=notrunc status=none
    for option in "" --target-is-zero; do
        truncate -s 20M sparse.raw
        # shellcheck disable=SC2086  # perhaps no word
        run -0 qcow-copy -n -S 0 $option disk.raw sparse.raw
        cmp disk.raw sparse.raw
        (($(blocks sparse.raw) >= 20480)) || fail "$(blocks sparse.raw) KiB"
        rm sparse.raw
    done
    head -c 20M /dev/urandom >full.raw
    run -0 qcow-copy -n -S 0 disk.raw full.raw
    cmp disk.raw full.raw
    (($(blocks full.raw) >= 20480)) || fail "$(blocks full.raw) KiB"
    make_image there.qcow2 20M
    guest_write there.qcow2 0 1M A
    run -0 qcow-copy -n -O qcow2 -S 0 disk.raw there.qcow2
    assert_same_content disk.raw there.qcow2
    assert_clean there.qcow2
    run -0 qemu-img check --output=json there.qcow2
    assert_json '."allocated-clusters" == 320'
    (($(blocks there.qcow2) >= 20480)) || fail "$(blocks there.qcow2) KiB"
}

@test "copy -n: options that have no meaning there are wrong usage" {
    make_disk
    run -2 qcow-copy -n -o cluster_size=4k disk.qcow2 there.qcow2
    assert_output_has "-o has no effect when skipping image creation"
    run -2 qcow-copy --target-is-zero disk.qcow2 there.raw
    assert_output_has "--target-is-zero requires use of -n flag"
    run -2 qcow-copy --target-image-opts disk.qcow2 driver=raw,file.filename=there.raw
    run -1 qcow-copy -n disk.qcow2 there.raw
    [[ ! -e there.raw ]]
}

@test "copy: a block device is written in place, and zeros are written there" {
    make_disk
    head -c 20M /dev/zero | tr '\0' 'Z' >device.img
    loop_device device.img
    run -0 qcow-copy disk.qcow2 "$device"
    run -0 qcow-copy -O qcow2 -o cluster_size=128k disk.qcow2 "$device"
    assert_clean device.img
    assert_same_content disk.qcow2 device.img
}

# ---- NBD ---------------------------------------------------------------------------------------------

@test "copy: from NBD and to NBD, raw and qcow2" {
    require nbdkit qemu-nbd
    make_disk
    active_raw disk.qcow2 expected.raw
    head -c 20M /dev/zero | tr '\0' 'Z' >target.raw
    start_nbdkit target.sock file target.raw
    run -0 qcow-copy disk.qcow2 'nbd+unix:///?socket=target.sock'
    cmp -n 16777216 target.raw expected.raw
    run -0 qcow-copy -O qcow2 disk.qcow2 'nbd+unix:///?socket=target.sock'
    assert_clean target.raw
    assert_same_content disk.qcow2 target.raw
    start_qemu_nbd source.sock -r -f qcow2 disk.qcow2
    run -0 qcow-copy -f raw 'nbd+unix:///?socket=source.sock' copy.raw
    cmp copy.raw expected.raw
    run -0 qcow-copy -f raw -O qcow2 'nbd+unix:///?socket=source.sock' copy.qcow2
    assert_same_content disk.qcow2 copy.qcow2
    assert_clean copy.qcow2
    run -0 qcow-copy -n -f raw 'nbd+unix:///?socket=source.sock' 'nbd+unix:///?socket=target.sock'
    cmp -n 16777216 target.raw expected.raw
}

@test "copy: qcow2 over old bytes: tables for which only zeros were found, compressed clusters, ends of clusters" {
    require nbdkit
    truncate -s 3000K disk.raw
    dd if=/dev/zero of=disk.raw bs=64K count=20 conv=notrunc status=none
    guest_write disk.raw 2000K 10K A
    guest_write disk.raw 2999K 1K B
    head -c 20M /dev/zero | tr '\0' 'Z' >target.raw
    start_nbdkit target.sock file target.raw
    for options in "-o cluster_size=512" "-o cluster_size=64k" "-c -o cluster_size=4k" "-o cluster_size=16k,extended_l2=on" \
        "-o cluster_size=1k,compat=0.10"; do
        # shellcheck disable=SC2086  # several words
        run -0 qcow-copy -S 4k -O qcow2 $options disk.raw 'nbd+unix:///?socket=target.sock'
        assert_clean target.raw
        assert_same_content disk.raw target.raw
        # What is past the end of the disk must not show when it grows.
        cp target.raw grown.qcow2
        qemu-img resize -q grown.qcow2 4M
        assert_guest_zero grown.qcow2 3000K 1096K
        head -c 20M /dev/zero | tr '\0' 'Z' | dd of=target.raw conv=notrunc status=none
    done
}

@test "copy: a target over NBD that is too small is left alone" {
    require nbdkit
    make_disk
    head -c 8M /dev/zero | tr '\0' 'Z' >target.raw
    remember_image target.raw
    start_nbdkit target.sock file target.raw
    run -1 qcow-copy disk.qcow2 'nbd+unix:///?socket=target.sock'
    assert_image_unchanged target.raw
}

# ---- failures ----------------------------------------------------------------------------------------

@test "copy: a full disk leaves nothing behind, and what was there as it was" {
    make_disk
    small_disk 1M
    echo old >small/there
    for options in "-O raw" "-O qcow2" "-O raw -S 0" "-c -O qcow2 -o cluster_size=512"; do
        # shellcheck disable=SC2086  # several words
        run -1 qcow-copy $options --trace trace disk.qcow2 small/there
        if [[ $options == -c* ]]; then
            assert_output_has "No space left"
        else
            assert_output_has "not enough space"
            ! grep -qsE '"(write|copy|zero)"' trace || fail "$options: something was written first"
        fi
        [[ $(<small/there) == old && $(ls -A small) == there ]]
        rm -f trace
    done
}

@test "copy: a disk that is as large as what is copied, zeros left out, is large enough" {
    small_disk 2M
    head -c 1M /dev/urandom >disk.raw
    head -c 3M /dev/zero >>disk.raw
    for options in "-O raw" "-O qcow2" "-c -O qcow2"; do
        # shellcheck disable=SC2086  # several words
        run -0 qcow-copy --no-reflink $options disk.raw small/there
        assert_same_content disk.raw small/there
        rm small/there
    done
    run -1 qcow-copy --no-reflink -S 0 disk.raw small/there
    assert_output_has "not enough space"
    run -1 qcow-copy --no-reflink -O qcow2 -o preallocation=full disk.raw small/there
    assert_output_has "not enough space"
    [[ -z $(ls -A small) ]]
}

@test "copy: qcow2 to a device that is too small is refused before it is written to" {
    require nbdkit
    make_image disk.qcow2 64M
    guest_write_random disk.qcow2 0 8M 1
    for size in 1M 200K; do
        head -c "$size" /dev/zero | tr '\0' 'Z' >target.raw
        remember_image target.raw
        start_nbdkit target.sock file target.raw
        for options in "" "-S 0" "-o preallocation=full"; do
            # shellcheck disable=SC2086  # perhaps no word
            run -1 qcow-copy -O qcow2 $options disk.qcow2 'nbd+unix:///?socket=target.sock'
            assert_output_has "not enough space"
        done
        assert_image_unchanged target.raw
        stop_daemon "$daemon_pid"
        rm -f target.sock
    done
}

@test "copy: Ctrl-C leaves nothing behind and exits 130" {
    make_disk
    for format in raw qcow2; do
        # What a shell starts in the background ignores SIGINT.
        run -130 env --default-signal=INT timeout --preserve-status -s INT 1 qcow-copy --rate 1M -O $format disk.qcow2 new
        assert_output_has "interrupted"
        [[ ! -e new && ! $(find . -name '.new*') ]]
    done
}

@test "copy: sources that are damaged or lie are refused without an output" {
    for image in "$QCOW_SOURCE"/tests/images/hostile/*.qcow2; do
        [[ -e $image ]] || continue
        run timeout 60 qcow-copy --untrusted -O qcow2 "$image" new.qcow2
        ((status == 0 || status == 1)) || fail "$image: exit $status: $output"
        ((status == 1)) || assert_clean new.qcow2
        rm -f new.qcow2
    done
}

@test "copy --untrusted: no name inside the source is followed" {
    make_disk
    run -1 qcow-copy --untrusted disk.qcow2 new.raw
    [[ ! -e new.raw ]]
    run -0 qcow-copy --untrusted base.qcow2 new.raw
}

@test "copy: a running VM's snapshot is copied, its active state is refused" {
    make_disk
    start_vm -blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=disk.qcow2 -device virtio-blk,drive=d
    wait_until qmp vm.qmp query-status >/dev/null
    run -1 qcow-copy disk.qcow2 new.raw
    run -1 qcow-copy -U disk.qcow2 new.raw
    assert_output_has "running VM"
    [[ ! -e new.raw ]]
    run -0 qcow-copy -U -l monday disk.qcow2 new.raw
    assert_guest new.raw 1M 300K C
}

@test "copy: neighbours that share one compressed stream are two clusters" {
    make_image a.qcow2 1M
    guest_write_compressed a.qcow2 0 64k A
    l1=$(peek_be a.qcow2 40 8)
    l2=$(($(peek_be a.qcow2 "$l1" 8) & 0xfffffffffffe00))
    poke a.qcow2 $((l2 + 8)) "$(peek a.qcow2 "$l2" 8)"
    qemu-img check -q -r all a.qcow2 || [[ $? == 3 ]]
    assert_guest a.qcow2 0 128k A
    qcow-copy -O raw a.qcow2 a.raw
    assert_same_content a.qcow2 a.raw
    qcow-copy -O qcow2 -c a.qcow2 b.qcow2
    assert_same_content b.qcow2 a.raw
    assert_clean b.qcow2
}

@test "copy: the summary counts the guest's bytes, and the clusters that the target got for them" {
    CHAIN_SIZE=16M make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 1M A
    guest_write disk.qcow2 4M 2M B
    guest_zero disk.qcow2 0 512K
    run -0 qcow-copy --output=json -O qcow2 disk.qcow2 new.qcow2
    assert_json '.bytes == 2621440 and .clusters == 40'
    run -0 qcow-copy --output=json -O qcow2 -o cluster_size=256k -B base.qcow2 -F qcow2 disk.qcow2 over.qcow2
    assert_json '.bytes == 2621440 and .clusters == 10'
    run -0 qcow-copy --output=json -c -O qcow2 disk.qcow2 packed.qcow2
    assert_json '.bytes == 2621440 and .clusters == 40'
    run -0 qcow-copy --output=json -O raw disk.qcow2 new.raw
    assert_json '.bytes == 2621440 and .clusters == 0'
    make_image there.qcow2 16M
    guest_write there.qcow2 4M 1M B
    run -0 qcow-copy -n --output=json -O qcow2 disk.qcow2 there.qcow2
    assert_json '.bytes == 1572864 and .clusters == 24'
    run -0 qcow-copy --output=json --chain folder disk.qcow2
    assert_json '.bytes > 3145728 and .bytes < 5242880 and .clusters == 0'
}
