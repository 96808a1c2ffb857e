#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-trim: an image without what it reads the same without, in every state that it has.

load helpers

# make_overlay: top.qcow2 over base.qcow2; 1 MiB as in base, 1 MiB of zeros over data, 1 MiB of its own
make_overlay() {
    make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 4M A
    guest_write top.qcow2 0 1M A
    qemu_io top.qcow2 'write -P 0 1M 1M'
    guest_write top.qcow2 2M 1M B
}

# assert_trimmed IMAGE RAW CLUSTERS [OPTION...]: so many go, and it reads as before
assert_trimmed() {
    local image=$1 raw=$2 clusters=$3 before
    shift 3
    before=$(stat -c %s "$image")
    run -0 qcow-trim --output=json "$@" "$image"
    assert_json ".clusters == $clusters" || return
    assert_clean "$image" && assert_same_content "$image" "$raw" || return
    (($(stat -c %s "$image") <= before)) || fail "$image has grown"
}

@test "trim: what the backing file gives, and zeros, leave the image" {
    make_overlay
    active_raw top.qcow2 top.raw
    assert_trimmed top.qcow2 top.raw 32
    run -0 qemu-img map --output=json top.qcow2
    # Zeros over data stay zeros of the image, without a cluster; what is as in base comes from there.
    assert_json '[.[] | select(.depth == 0 and .data)] | length == 1 and .[0].start == 2097152'
    assert_json '[.[] | select(.depth == 0 and .zero)] | length == 1 and .[0].length == 1048576'
    assert_trimmed top.qcow2 top.raw 0
}

@test "trim: a disk without a backing file loses its zeros" {
    make_image t.qcow2 16M
    qemu_io t.qcow2 'write -P 0 0 4M' 'write -P 7 4M 1M' 'write -z 8M 1M' 'write -c -P 0 10M 1M'
    active_raw t.qcow2 t.raw
    assert_trimmed t.qcow2 t.raw 96
    [[ $(qemu-img map --output=json t.qcow2 | jq '[.[] | select(.data)] | length') == 1 ]]
}

@test "trim: version 2 has no zeros of its own, and keeps them as data over others" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 2M A
    make_image top.qcow2 8M -b base.qcow2 -F qcow2 -o compat=0.10
    qemu_io top.qcow2 'write -P 0 0 1M' 'write -P 0 4M 2M'
    active_raw top.qcow2 top.raw
    assert_trimmed top.qcow2 top.raw 32
}

@test "trim: snapshots read the same, and what they share is dropped once" {
    make_overlay
    snapshot top.qcow2 one
    guest_write top.qcow2 3M 1M A
    snapshot top.qcow2 two
    guest_write top.qcow2 2M 512K C
    local state
    for state in one two; do
        snapshot_raw top.qcow2 $state $state.raw
    done
    active_raw top.qcow2 top.raw
    qcow-trim -q top.qcow2
    assert_clean top.qcow2
    assert_same_content top.qcow2 top.raw
    for state in one two; do
        snapshot_raw top.qcow2 $state $state.after
        cmp $state.raw $state.after
    done
    run -0 qcow-trim --output=json top.qcow2
    assert_json '.clusters == 0'
}

@test "trim: dirty bitmaps stay as they are" {
    make_overlay
    qemu-img bitmap --add top.qcow2 b0
    guest_write top.qcow2 6M 128K A
    qemu_io top.qcow2 'write -P 0 7M 1M'
    local before after
    before=$(qcow-bitmap --list --output=json top.qcow2)
    qcow-trim -q top.qcow2
    after=$(qcow-bitmap --list --output=json top.qcow2)
    [[ $before == "$after" ]] || fail "bitmaps changed: $before $after"
    assert_clean top.qcow2
}

@test "trim --shrink: the space is given back" {
    make_image t.qcow2 64M
    guest_write_random t.qcow2 0 32M 1
    guest_write t.qcow2 32M 1M B
    qemu_io t.qcow2 'write -P 0 0 30M'
    active_raw t.qcow2 t.raw
    run -0 qcow-trim --output=json --shrink t.qcow2
    assert_json '.["clusters-moved"] > 0'
    assert_clean t.qcow2
    assert_same_content t.qcow2 t.raw
    (($(stat -c %s t.qcow2) < 5 << 20)) || fail "still $(stat -c %s t.qcow2) bytes"
    guest_write t.qcow2 1M 4M C
    assert_clean t.qcow2
}

@test "trim --shrink: compressed clusters that share a host cluster move together" {
    make_image t.qcow2 64M
    guest_write_random t.qcow2 0 8M 1
    qemu_io t.qcow2 'write -c -P 3 16M 4M' 'write -c -P 4 24M 64k'
    guest_write_compressed t.qcow2 32M 4M C
    qemu_io t.qcow2 'write -P 0 0 8M'
    snapshot t.qcow2 one
    active_raw t.qcow2 t.raw
    qcow-trim -q --shrink t.qcow2
    assert_clean t.qcow2
    assert_same_content t.qcow2 t.raw
    (($(stat -c %s t.qcow2) < 4 << 20)) || fail "still $(stat -c %s t.qcow2) bytes"
}

# fill_and_empty IMAGE COMMAND...: COMMAND runs when 32 MiB are in the image, whose first 30 are zeros then
fill_and_empty() {
    local image=$1
    shift
    guest_write_random "$image" 0 32M 1
    "$@"
    qemu_io "$image" 'write -P 0 0 30M'
}

# assert_shrunk IMAGE BYTES: what it reads as stays, and its file has fewer bytes
assert_shrunk() {
    active_raw "$1" before.raw
    qcow-trim -q --shrink "$1"
    assert_clean "$1"
    assert_same_content "$1" before.raw
    (($(stat -c %s "$1") < $2)) || fail "still $(stat -c %s "$1") bytes"
}

@test "trim --shrink: dirty bitmaps at the end move down" {
    local image before i
    for image in 64k.qcow2 4k.qcow2; do
        make_image $image 64M -o cluster_size=${image%.*}
        add_bitmaps() {
            for i in 1 2 3; do
                qemu-img bitmap --add -g 512 $image "bitmap $i"
            done
            qemu-img bitmap --disable $image 'bitmap 2'
        }
        fill_and_empty $image add_bitmaps
        before=$(qcow-bitmap --list --output=json $image)
        assert_shrunk $image $((4 << 20))
        [[ $(qcow-bitmap --list --output=json $image) == "$before" ]]
        # QEMU can work with them.
        qemu-img bitmap --add -g 512 $image all
        qemu-img bitmap --merge 'bitmap 1' --merge 'bitmap 3' $image all
        assert_clean $image
        [[ $(qcow-bitmap --list --output=json $image | jq '.[] | select(.name == "all")."dirty-bytes"') == 31457280 ]]
    done
}

@test "trim --shrink: tables of snapshots, VM states and compressed clusters at the end move down" {
    make_image t.qcow2 64M -o cluster_size=16k
    head -c 3M /dev/urandom >ram
    # Zeros of all states, and everything else behind them.
    qemu_io t.qcow2 'write -P 0 0 30M' 'write -c -P 3 40M 8M'
    snapshot t.qcow2 "$(printf 'one%900s' '')"
    guest_write t.qcow2 50M 512K C
    snapshot t.qcow2 two
    qcow-vmstate -q -i two ram t.qcow2
    guest_write t.qcow2 50M 1M D
    snapshot_raw t.qcow2 two two.raw
    assert_shrunk t.qcow2 $((6 << 20))
    snapshot_raw t.qcow2 two two.after
    cmp two.raw two.after
    qcow-vmstate -q -x two ram.after t.qcow2
    cmp ram ram.after
    qemu-img snapshot -d two t.qcow2
    assert_clean t.qcow2
}

@test "trim --shrink: tables of snapshots move down although no data does" {
    make_image t.qcow2 64M -o cluster_size=16k
    qemu_io t.qcow2 'write -P 7 0 1M' 'write -P 0 1M 30M'
    snapshot t.qcow2 one
    snapshot t.qcow2 two
    guest_write t.qcow2 0 16K C
    snapshot_raw t.qcow2 two two.raw
    assert_shrunk t.qcow2 $((3 << 20))
    snapshot_raw t.qcow2 two two.after
    cmp two.raw two.after
}

@test "trim --shrink: many refcount blocks, and a table of some clusters for them, get few" {
    make_image t.qcow2 64M -o cluster_size=512
    fill_and_empty t.qcow2 :
    assert_shrunk t.qcow2 $((5 << 19))
    # Nothing is free in it but what a few new tables need.
    local used
    used=$(qemu-img check --output=json t.qcow2 | jq '."allocated-clusters"')
    (($(stat -c %s t.qcow2) / 512 < used + used / 32 + 100)) || fail "$used clusters in $(stat -c %s t.qcow2) bytes"
}

@test "trim: a data file gives its space back, and a raw one stays as it is" {
    make_image t.qcow2 32M -o data_file=t.data
    qemu_io t.qcow2 'write -P 0 0 20M' 'write -P 3 20M 1M'
    local before
    before=$(stat -c %b t.data)
    active_raw t.qcow2 t.raw
    assert_trimmed t.qcow2 t.raw 320
    assert_trimmed t.qcow2 t.raw 0 --shrink
    (($(stat -c %b t.data) <= before - 20 * 2048)) || fail "$(stat -c %b t.data) blocks, $before before"
    make_image r.qcow2 8M -o data_file=r.data,data_file_raw=on
    qemu_io r.qcow2 'write -P 0 0 4M'
    run -1 qcow-trim --shrink r.qcow2
    assert_output_has "its data file is a raw image"
}

@test "trim: it can be interrupted, also within one table, and goes at the rate that is asked for" {
    make_image t.qcow2 1G -o cluster_size=2M
    qemu_io t.qcow2 'write -P 0 0 512M' 'write -P 1 512M 2M'
    local before started=$SECONDS
    before=$(stat -c %s t.qcow2)
    run -130 timeout --preserve-status -s INT 1 qcow-trim --rate 128M t.qcow2
    assert_output_has "the image reads as it did"
    ((SECONDS - started < 4)) || fail "interrupted after $((SECONDS - started)) seconds"
    assert_clean t.qcow2
    (($(stat -c %s t.qcow2) == before))
    # 514 MiB are read, whatever one table stands for.
    started=$SECONDS
    timeout 60 qcow-trim -q --rate 256M t.qcow2
    ((SECONDS - started >= 1)) || fail "done after $((SECONDS - started)) seconds"
    assert_clean t.qcow2
}

@test "trim --dry-run: changes nothing" {
    make_overlay
    remember_image top.qcow2
    run -0 qcow-trim --dry-run --output=json top.qcow2
    assert_json '.freed > 0 and .fits'
    assert_image_unchanged top.qcow2
}

# same_first IMAGE LENGTH: over base.qcow2, which is 8 MiB of A: so much of it again, and 1 MiB of its own
same_first() {
    make_image "$1" 8M -b base.qcow2 -F qcow2
    qemu_io "$1" 'write -P 2 2M 1M' "write -P $(pattern_byte A) 0 $2"
}

@test "trim: one cluster that can go does, and the file is not longer" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M A
    local n option
    for n in 1 2 7; do
        for option in -q --shrink; do
            same_first t.qcow2 $((n * 64))k
            active_raw t.qcow2 t.raw
            assert_trimmed t.qcow2 t.raw $n $option
            assert_trimmed t.qcow2 t.raw 0 $option
            rm t.qcow2
        done
    done
    make_image t.qcow2 64M -o cluster_size=2M
    qemu_io t.qcow2 'write -P 0 0 12M' 'write -P 3 20M 2M'
    active_raw t.qcow2 t.raw
    assert_trimmed t.qcow2 t.raw 6 --shrink
    (($(stat -c %s t.qcow2) == 12 << 20)) || fail "still $(stat -c %s t.qcow2) bytes"
}

@test "trim: compressed clusters go, also those that share a host cluster with what stays" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M A
    qemu-img convert -O qcow2 -c base.qcow2 t.qcow2
    qemu-img rebase -u -b base.qcow2 -F qcow2 t.qcow2
    active_raw t.qcow2 t.raw
    cp t.qcow2 part.qcow2
    assert_trimmed t.qcow2 t.raw 128
    qemu-img convert -O raw base.qcow2 other.raw
    qemu-io -f raw -c 'write -q -P 7 0 5M' other.raw
    qemu-img rebase -u -b other.raw -F raw part.qcow2
    active_raw part.qcow2 part.raw
    assert_trimmed part.qcow2 part.raw 48
    assert_trimmed part.qcow2 part.raw 0
}

@test "trim: the place that QEMU keeps for zeros over data goes, the zeros stay" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M A
    local extended
    for extended in off on; do
        make_image t.qcow2 8M -b base.qcow2 -F qcow2 -o extended_l2=$extended
        qemu_io t.qcow2 'write -P 2 0 4M' 'write -z 0 4M'
        active_raw t.qcow2 t.raw
        assert_trimmed t.qcow2 t.raw 64
        (($(stat -c %s t.qcow2) < 512 << 10)) || fail "still $(stat -c %s t.qcow2) bytes"
        assert_trimmed t.qcow2 t.raw 0
        rm t.qcow2
    done
}

# assert_not_longer CLUSTER-SIZE DISK-SIZE: with a snapshot, and data that is there twice, in small pieces
assert_not_longer() {
    local commands=() i before option
    make_image base.qcow2 "$2"
    guest_write base.qcow2 0 2M 1
    make_image t.qcow2 "$2" -b base.qcow2 -F qcow2 -o cluster_size="$1"
    for ((i = 0; i < 400; i += 2)); do
        commands+=("write -P 1 $((i * 4096)) 4k" "write -P 2 $((i * 4096 + 4096)) 4k")
    done
    qemu_io t.qcow2 "${commands[@]}"
    snapshot t.qcow2 one
    cp t.qcow2 whole.qcow2
    before=$(stat -c %s t.qcow2)
    for option in -q --shrink; do
        qcow-trim -q $option t.qcow2
        assert_clean t.qcow2
        qemu-img compare -q t.qcow2 whole.qcow2
        (($(stat -c %s t.qcow2) <= before)) || fail "$*: from $before to $(stat -c %s t.qcow2) bytes with $option"
        before=$(stat -c %s t.qcow2)
    done
    # A fifth is tables; of the data one half goes.
    (($(stat -c %s t.qcow2) * 10 < $(stat -c %s whole.qcow2) * 8)) || fail "$*: still $before bytes"
    rm ./*.qcow2
}

@test "trim: the file is not longer with L1 tables of several clusters, which a snapshot has, too" {
    assert_not_longer 512 64M
    assert_not_longer 512 1G
    assert_not_longer 1k 1G
    assert_not_longer 2k 1G
    assert_not_longer 4k 16G
}

@test "trim: an image with a data file and a bitmap is not longer by a byte" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M A
    make_image t.qcow2 8M -b base.qcow2 -F qcow2 -o data_file=t.data
    guest_write t.qcow2 0 1M A
    guest_write t.qcow2 2M 64K B
    qemu-img bitmap --add t.qcow2 b0
    active_raw t.qcow2 t.raw
    assert_trimmed t.qcow2 t.raw 16
}

@test "trim: an image name with another backing file, or none, is refused" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image t.qcow2 4M -b base.qcow2 -F qcow2
    qemu_io t.qcow2 'write -P 0 0 4M'
    remember_image t.qcow2
    local over='driver=qcow2,file.driver=file,file.filename=t.qcow2,backing.driver=qcow2'
    run -1 qcow-trim 'json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"t.qcow2"}}'
    assert_output_has "over the backing file that it names"
    run -1 qcow-trim --image-opts "$over,backing.file.driver=file,backing.file.filename=base.qcow2"
    assert_output_has "over the backing file that it names"
    assert_image_unchanged t.qcow2
    qcow-trim -q 'json:{"driver":"qcow2","file":{"driver":"file","filename":"t.qcow2"}}'
    assert_guest_zero t.qcow2 0 4M
}

@test "trim: a table that is counted once too often is one user's, and the leak stays" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M A
    same_first t.qcow2 448k
    local l1 l2 blocks
    l1=$(peek_be t.qcow2 40 8)
    l2=$(($(peek_be t.qcow2 $((l1 + 1)) 7)))
    blocks=$(peek_be t.qcow2 "$(peek_be t.qcow2 48 8)" 8)
    poke t.qcow2 "$l1" 00
    poke t.qcow2 $((blocks + 2 * (l2 >> 16))) 0002
    active_raw t.qcow2 t.raw
    run -0 qcow-trim --output=json t.qcow2
    assert_json '.clusters == 7'
    assert_same_content t.qcow2 t.raw
    run -3 qemu-img check t.qcow2
    assert_output_has "1 leaked cluster"
    qcow-check -q -r leaks t.qcow2
    assert_clean t.qcow2
}

@test "trim --dry-run: it says what moves, and what is free in the end" {
    make_image base.qcow2 8M
    guest_write base.qcow2 0 8M 1
    make_image t.qcow2 8M -b base.qcow2 -F qcow2
    qemu_io t.qcow2 'write -P 1 0 2M' 'write -P 2 2M 2M'
    remember_image t.qcow2
    run -0 qcow-trim --dry-run --output=json t.qcow2
    assert_json '.freed == 2097152 and .bytes == 0 and .growth == 0'
    run -0 qcow-trim --dry-run --output=json --shrink t.qcow2
    assert_json '.freed == 2097152 and .clusters == 32 and .bytes == 2097152 and .growth == 0'
    assert_image_unchanged t.qcow2
    run -0 qcow-trim --output=json --shrink t.qcow2
    assert_json '.["clusters-moved"] == 32 and .["file-size-before"] - .["file-size"] == 2097152'
}

@test "trim: what cannot be trimmed is refused, and unchanged" {
    truncate -s 1M t.raw
    run -1 qcow-trim -f raw t.raw
    assert_output_has "only qcow2 images are trimmed"
    make_overlay
    start_daemon qemu-io -c 'sleep 5000' top.qcow2
    wait_until fuser -s top.qcow2
    run -1 qcow-trim top.qcow2
    assert_output_has "lock"
    run -2 qcow-trim
}

@test "trim: the summary counts the guest's bytes of the clusters that were dropped" {
    make_image base.qcow2 4097K
    guest_write base.qcow2 0 1M A
    make_image t.qcow2 4097K -b base.qcow2 -F qcow2
    guest_write t.qcow2 512K 1M A
    guest_zero t.qcow2 4M 1K
    run -0 qcow-trim --output=json t.qcow2
    assert_json '.clusters == 9 and .bytes == 8 * 65536 + 1024'
    run -0 qcow-trim --output=json t.qcow2
    assert_json '.clusters == 0 and .bytes == 0'
}

@test "trim: what larger states share is trimmed past the end of a smaller one that has other tables" {
    make_image base.qcow2 64M
    guest_write base.qcow2 0 64M A
    make_image t.qcow2 1M -b base.qcow2 -F qcow2
    snapshot t.qcow2 small
    qemu-img resize -q t.qcow2 64M
    guest_write t.qcow2 8M 16M A
    guest_write t.qcow2 32M 1M B
    snapshot t.qcow2 big
    active_raw t.qcow2 t.raw
    snapshot_raw t.qcow2 big big.raw
    snapshot_raw t.qcow2 small small.raw
    assert_trimmed t.qcow2 t.raw 256
    snapshot_raw t.qcow2 big big-after.raw
    snapshot_raw t.qcow2 small small-after.raw
    cmp big.raw big-after.raw
    cmp small.raw small-after.raw
}
