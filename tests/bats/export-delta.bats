#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats sets output and status
# What a delta holds: everything that changed from one state to another, and nothing else.

load helpers

# Over 4 MiB of base: three snapshots and an active state, with data, zeros, compressed and unallocated clusters.
make_states() {
    make_image base.qcow2 3M "$@"
    guest_write base.qcow2 0 2M X
    make_image disk.qcow2 4M "$@" -b base.qcow2 -F qcow2
    snapshot disk.qcow2 nothing
    qemu_io disk.qcow2 'write -q -P 65 64K 192K' 'write -q -P 66 1M 4K' 'write -q -c -P 67 2M 128K'
    snapshot disk.qcow2 monday
    qemu_io disk.qcow2 'write -q -P 68 128K 10K' 'write -q -z 192K 64K' 'write -q -z 1536K 64K' 'write -q -P 69 3M 1000'
    snapshot disk.qcow2 tuesday
    qemu_io disk.qcow2 'write -q -P 70 0 64K' 'write -q -P 71 2M 64K' 'write -q -z -u 64K 64K'
}

# ---- pairs -------------------------------------------------------------------------------------------

@test "export-delta: every pair of states, in both directions" {
    make_states
    remember_image disk.qcow2 base.qcow2
    for from in @empty @backing nothing monday tuesday @active; do
        for to in @empty @backing nothing monday tuesday @active; do
            qcow-export-delta -q -t unsafe disk.qcow2 $from $to delta.qcow2 || fail "$from -> $to"
            assert_delta delta.qcow2 disk.qcow2 $from $to || fail "$from -> $to"
            rm delta.qcow2
        done
    done
    assert_image_unchanged disk.qcow2 base.qcow2
}

@test "export-delta: every pair of states of a version 2 image" {
    make_states -o compat=0.10
    for from in @empty @backing monday @active; do
        for to in @empty @backing monday @active; do
            qcow-export-delta -q -t unsafe disk.qcow2 $from $to delta.qcow2 || fail "$from -> $to"
            assert_delta delta.qcow2 disk.qcow2 $from $to || fail "$from -> $to"
            rm delta.qcow2
        done
    done
}

@test "export-delta: what differs is carried, and nothing else" {
    make_image disk.qcow2 4M
    guest_write disk.qcow2 0 1M A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 64K 64K B
    guest_write disk.qcow2 300K 1K C
    guest_write disk.qcow2 2M 64K D
    snapshot disk.qcow2 tuesday
    guest_write disk.qcow2 512K 64K E

    qcow-export-delta -q disk.qcow2 monday tuesday delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday tuesday
    assert_delta_holds delta.qcow2 "64K 64K data" "256K 64K data" "2M 64K data"
}

@test "export-delta: a state against itself, and equal snapshots, give an empty delta" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 128K A
    snapshot disk.qcow2 monday
    snapshot disk.qcow2 tuesday
    for pair in "monday monday" "monday tuesday" "tuesday @active" "@empty @empty" "@backing @empty"; do
        read -r from to <<<"$pair"
        qcow-export-delta -q disk.qcow2 "$from" "$to" delta.qcow2
        assert_delta delta.qcow2 disk.qcow2 "$from" "$to"
        assert_delta_holds delta.qcow2
        rm delta.qcow2
    done
}

@test "export-delta: @empty exports a state whole, @backing what the image adds to its backing file" {
    make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 128K X
    guest_write disk.qcow2 64K 128K A
    qcow-export-delta -q disk.qcow2 @empty @active whole.qcow2
    assert_delta_holds whole.qcow2 "0 192K data"
    qcow-export-delta -q disk.qcow2 @backing @active added.qcow2
    assert_delta_holds added.qcow2 "64K 128K data"
    qcow-export-delta -q disk.qcow2 @empty @backing below.qcow2
    assert_delta_holds below.qcow2 "0 128K data"
    assert_delta whole.qcow2 disk.qcow2 @empty @active
    assert_delta added.qcow2 disk.qcow2 @backing @active
    assert_delta below.qcow2 disk.qcow2 @empty @backing
}

@test "export-delta: a raw image has two states, @active and @empty" {
    truncate --size=1M disk.raw
    guest_write disk.raw 64K 4K A
    qcow-export-delta -q -f raw disk.raw @empty @active delta.qcow2
    assert_clean delta.qcow2
    assert_same_content delta.qcow2 disk.raw
    run -1 qcow-export-delta -f raw disk.raw monday @active other.qcow2
    assert_output_has disk.raw monday
}

# ---- zeros, and what is not allocated ----------------------------------------------------------------

@test "export-delta: zeros over data of FROM are carried as zero clusters" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 256K A
    snapshot disk.qcow2 monday
    guest_zero disk.qcow2 64K 64K
    guest_discard disk.qcow2 128K 64K
    snapshot disk.qcow2 tuesday
    qcow-export-delta -q disk.qcow2 monday tuesday delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday tuesday
    assert_delta_holds delta.qcow2 "64K 128K zero"
}

@test "export-delta: version 2 has no zero clusters, so zeros are carried as data" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 256K A
    snapshot disk.qcow2 monday
    guest_zero disk.qcow2 64K 64K
    qcow-export-delta -q -o compat=0.10 disk.qcow2 monday @active delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday @active
    [[ $(peek_be delta.qcow2 4 4) == 2 ]]
}

@test "export-delta: what TO reads from the backing file although FROM had data is carried" {
    make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 128K X
    snapshot disk.qcow2 before
    guest_write disk.qcow2 0 64K A
    guest_write disk.qcow2 1M 64K B
    snapshot disk.qcow2 after
    qcow-export-delta -q disk.qcow2 after before delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 after before
    assert_delta_holds delta.qcow2 "0 64K data" "1M 64K zero"
}

@test "export-delta: zeros over a backing file that holds zeros there are no change" {
    make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 64K X
    guest_zero base.qcow2 64K 64K
    snapshot disk.qcow2 before
    guest_zero disk.qcow2 0 256K
    qcow-export-delta -q disk.qcow2 before @active delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 before @active
    assert_delta_holds delta.qcow2 "0 64K zero"
}

@test "export-delta: zeros between data are carried from @backing too" {
    make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 1M X
    guest_write disk.qcow2 0 64K A
    guest_zero disk.qcow2 128K 64K
    guest_write disk.qcow2 256K 64K B
    qcow-export-delta -q disk.qcow2 @backing @active delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 @backing @active
    assert_delta_holds delta.qcow2 "0 64K data" "128K 64K zero" "256K 64K data"
}

@test "export-delta: unallocated over nothing is the same as zeros, and zeros that keep space the same as others" {
    make_image disk.qcow2 1M
    snapshot disk.qcow2 unallocated
    guest_zero disk.qcow2 0 256K
    snapshot disk.qcow2 zero
    guest_write disk.qcow2 0 128K A
    guest_zero disk.qcow2 0 128K
    for pair in "unallocated zero" "zero unallocated" "zero @active" "@active zero" "@empty @active"; do
        read -r from to <<<"$pair"
        qcow-export-delta -q disk.qcow2 "$from" "$to" delta.qcow2
        assert_delta delta.qcow2 disk.qcow2 "$from" "$to"
        assert_delta_holds delta.qcow2
        rm delta.qcow2
    done
}

# ---- the same bytes again ----------------------------------------------------------------------------

@test "export-delta: clusters rewritten with the same bytes are carried, --compare-data leaves them out" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 256K A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 0 128K A
    guest_write disk.qcow2 192K 64K B
    snapshot disk.qcow2 tuesday
    qcow-export-delta -q disk.qcow2 monday tuesday all.qcow2
    assert_delta_holds all.qcow2 "0 128K data" "192K 64K data"
    qcow-export-delta -q --compare-data disk.qcow2 monday tuesday less.qcow2
    assert_delta less.qcow2 disk.qcow2 monday tuesday
    assert_delta_holds less.qcow2 "192K 64K data"
}

@test "export-delta: --compare-data compares in clusters of the delta" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 128K A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 20K 1K B
    qcow-export-delta -q --compare-data -o cluster_size=4096 disk.qcow2 monday @active delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday @active
    assert_delta_holds delta.qcow2 "20K 4K data"
}

@test "export-delta: --compare-data takes written zeros and zero clusters as equal" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 128K 0
    snapshot disk.qcow2 written
    guest_zero disk.qcow2 0 128K
    qcow-export-delta -q --compare-data disk.qcow2 written @active delta.qcow2
    assert_delta_holds delta.qcow2
    qcow-export-delta -q --compare-data disk.qcow2 @empty written whole.qcow2
    assert_delta_holds whole.qcow2
}

# ---- sizes -------------------------------------------------------------------------------------------

@test "export-delta: a delta has the size of TO, whichever of the two is larger" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 1M A
    snapshot disk.qcow2 small
    qemu-img resize -q disk.qcow2 2M
    guest_write disk.qcow2 1536K 64K B
    snapshot disk.qcow2 large
    qcow-export-delta -q disk.qcow2 small large up.qcow2
    assert_delta up.qcow2 disk.qcow2 small large
    assert_delta_holds up.qcow2 "1536K 64K data"
    [[ $(virtual_size up.qcow2) == $((2 << 20)) ]]
    qcow-export-delta -q disk.qcow2 large small down.qcow2
    assert_delta down.qcow2 disk.qcow2 large small
    assert_delta_holds down.qcow2
    [[ $(virtual_size down.qcow2) == $((1 << 20)) ]]
}

@test "export-delta: where FROM ends inside a cluster that both share, bytes past its end decide" {
    make_image disk.qcow2 128K
    guest_write disk.qcow2 0 128K A
    qemu-img resize -q --shrink disk.qcow2 96K
    snapshot disk.qcow2 small
    qemu-img resize -q disk.qcow2 128K
    snapshot disk.qcow2 large
    qcow-export-delta -q disk.qcow2 small large delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 small large
    if [[ $(tail -c 1 to.raw | od -An -tx1) == " 00" ]]; then
        assert_delta_holds delta.qcow2
    else
        assert_delta_holds delta.qcow2 "64K 64K data"
    fi
    qcow-export-delta -q disk.qcow2 large small back.qcow2
    assert_delta back.qcow2 disk.qcow2 large small
    assert_delta_holds back.qcow2
}

@test "export-delta: where FROM ends inside a cluster, zeros past its end are no change" {
    make_image disk.qcow2 96K
    guest_write disk.qcow2 0 96K A
    snapshot disk.qcow2 small
    qemu-img resize -q disk.qcow2 256K
    snapshot disk.qcow2 zeros
    guest_write disk.qcow2 100K 1K B
    snapshot disk.qcow2 data
    qcow-export-delta -q disk.qcow2 small zeros zeros.delta
    assert_delta zeros.delta disk.qcow2 small zeros
    assert_delta_holds zeros.delta
    qcow-export-delta -q disk.qcow2 small data data.delta
    assert_delta data.delta disk.qcow2 small data
    assert_delta_holds data.delta "64K 64K data"
}

@test "export-delta: past its end FROM is zeros, whatever its backing file holds there" {
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M X
    make_image disk.qcow2 128K -b base.qcow2 -F qcow2
    snapshot disk.qcow2 small
    qemu-img resize -q disk.qcow2 512K
    snapshot disk.qcow2 large
    guest_write disk.qcow2 256K 64K A
    qcow-export-delta -q disk.qcow2 small large grown.qcow2
    assert_delta grown.qcow2 disk.qcow2 small large
    assert_delta_holds grown.qcow2
    qcow-export-delta -q disk.qcow2 small @active written.qcow2
    assert_delta written.qcow2 disk.qcow2 small @active
    assert_delta_holds written.qcow2 "256K 64K data"
    qcow-export-delta -q disk.qcow2 @backing large below.qcow2
    assert_delta below.qcow2 disk.qcow2 @backing large
}

@test "export-delta: a carried cluster that goes past the end of TO is filled with zeros" {
    make_image disk.qcow2 128K
    guest_write disk.qcow2 0 128K A
    snapshot disk.qcow2 large
    qemu-img resize -q --shrink disk.qcow2 96K
    guest_write disk.qcow2 64K 4K B
    snapshot disk.qcow2 small
    qcow-export-delta -q disk.qcow2 large small delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 large small
    assert_delta_holds delta.qcow2 "64K 32K data"
    qemu-img resize -q delta.qcow2 128K
    assert_guest_zero delta.qcow2 96K 32K
}

@test "export-delta: also a compressed cluster is filled with zeros past the end of TO" {
    for type in zlib zstd; do
        make_image disk.qcow2 128K -o compression_type=$type
        guest_write_compressed disk.qcow2 0 128K A
        qemu-img resize -q --shrink disk.qcow2 96K
        run -0 --separate-stderr qcow-export-delta --output=json disk.qcow2 @empty @active delta.qcow2
        assert_json '.["compressed-clusters"] == 2'
        assert_delta delta.qcow2 disk.qcow2 @empty @active
        qemu-img resize -q delta.qcow2 128K
        assert_guest_zero delta.qcow2 96K 32K
        rm disk.qcow2 delta.qcow2
    done
}

@test "export-delta: VM state, past the end of the disk, is never looked at" {
    gzip -d <"$QCOW_SOURCE/tests/images/golden/qemu-7.2/vm_state.qcow2.gz" >disk.qcow2
    qcow-export-delta -q disk.qcow2 one two same.qcow2
    assert_delta same.qcow2 disk.qcow2 one two
    assert_delta_holds same.qcow2
    qcow-export-delta -q disk.qcow2 one three delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 one three
    assert_delta_holds delta.qcow2 "64K 64K data"
}

# ---- how the delta is made ---------------------------------------------------------------------------

@test "export-delta: a delta is laid out as its source, unless -o says otherwise" {
    make_image disk.qcow2 4M -o cluster_size=16k,extended_l2=on,compression_type=zstd
    guest_write disk.qcow2 100K 3K A
    qcow-export-delta -q disk.qcow2 @empty @active same.qcow2
    run -0 qemu-img info --output=json same.qcow2
    assert_json '.["cluster-size"] == 16384 and .["format-specific"].data["extended-l2"]
        and .["format-specific"].data["compression-type"] == "zstd"'
    qcow-export-delta -q -o cluster_size=64k -o extended_l2=off,compression_type=zlib disk.qcow2 @empty @active other.qcow2
    run -0 qemu-img info --output=json other.qcow2
    assert_json '.["cluster-size"] == 65536 and (.["format-specific"].data["extended-l2"] | not)
        and .["format-specific"].data["compression-type"] == "zlib"'
    assert_delta same.qcow2 disk.qcow2 @empty @active
    assert_delta other.qcow2 disk.qcow2 @empty @active
}

@test "export-delta: every cluster size, with and without subclusters" {
    make_states
    for size in 512 1k 2k 4k 8k 16k 32k 64k 128k 256k 512k 1M 2M; do
        for extended in off on; do
            [[ $extended == off || $size != @(512|1k|2k|4k|8k) ]] || continue
            qcow-export-delta -q -t unsafe -o cluster_size=$size,extended_l2=$extended disk.qcow2 monday tuesday delta.qcow2
            assert_delta delta.qcow2 disk.qcow2 monday tuesday || fail "clusters of $size, extended_l2=$extended"
            rm delta.qcow2
        done
    done
}

@test "export-delta: subclusters carry 2 KiB where 2 KiB differ" {
    make_image disk.qcow2 1M -o extended_l2=on
    guest_write disk.qcow2 0 128K A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 6K 2K B
    guest_zero disk.qcow2 70K 2K
    qcow-export-delta -q --compare-data disk.qcow2 monday @active delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday @active
    assert_delta_holds delta.qcow2 "6K 2K data" "70K 2K zero"
}

@test "export-delta: options that a delta cannot have are refused, and leave no file" {
    make_image disk.qcow2 1M
    for option in cluster_size=1000 cluster_size=4M cluster_size=0 compression_type=lzma extended_l2=maybe nonsense=1 \
        size=4G preallocation=full data_file=x compat=0.10,extended_l2=on compat=0.10,compression_type=zstd \
        extended_l2=on,cluster_size=4k; do
        run -1 qcow-export-delta -o $option disk.qcow2 @empty @active delta.qcow2
        [[ $output == qcow-export-delta:* && ! -e delta.qcow2 ]] || fail "$option: $output"
    done
}

@test "export-delta: -b and -F are recorded, not opened" {
    make_image disk.qcow2 1M
    qcow-export-delta -q -b "/no such folder/monday.qcow2" -F qcow2 disk.qcow2 @empty @active delta.qcow2
    run -0 qemu-img info --output=json delta.qcow2
    assert_json '.["backing-filename"] == "/no such folder/monday.qcow2" and .["backing-filename-format"] == "qcow2"'

    guest_write disk.qcow2 0 64K A
    qcow-export-delta -q disk.qcow2 @empty @active whole.qcow2
    guest_write disk.qcow2 64K 64K B
    qcow-export-delta -q -b whole.qcow2 -F qcow2 disk.qcow2 @empty @active second.qcow2
    assert_same_content second.qcow2 disk.qcow2
}

@test "export-delta: without -b no backing file is recorded, and the source's name nowhere" {
    make_image "base of the source.qcow2" 1M
    guest_write "base of the source.qcow2" 0 64K X
    make_image disk.qcow2 1M -b "base of the source.qcow2" -F qcow2
    qcow-export-delta -q disk.qcow2 @empty @active delta.qcow2
    run -0 qemu-img info --output=json delta.qcow2
    assert_json 'has("backing-filename") | not'
    run -1 grep -a "base of the source" delta.qcow2
}

@test "export-delta: a backing name that no header can hold is refused" {
    make_image disk.qcow2 1M
    run -1 qcow-export-delta -b "$(printf '%01024d' 0)" -F raw disk.qcow2 @empty @active delta.qcow2
    assert_output_has 1023
    run -1 qcow-export-delta -o cluster_size=512 -b "$(printf '%0500d' 0)" -F raw disk.qcow2 @empty @active delta.qcow2
    [[ ! -e delta.qcow2 ]]
}

# ---- compression -------------------------------------------------------------------------------------

@test "export-delta: -c compresses with zlib and with zstd, and in version 2" {
    make_image disk.qcow2 4M
    guest_write disk.qcow2 0 1M A
    guest_write_random disk.qcow2 2M 64K 1
    for options in compression_type=zlib compression_type=zstd compat=0.10 cluster_size=2M,compression_type=zstd \
        cluster_size=512 extended_l2=on; do
        qcow-export-delta -q -c -o $options disk.qcow2 @empty @active delta.qcow2
        assert_delta delta.qcow2 disk.qcow2 @empty @active || fail "$options"
        if [[ $options != *cluster_size* ]]; then
            assert_delta_holds delta.qcow2 "0 1M compressed" "2M 64K data" || fail "$options"
            (($(stat -c %s delta.qcow2) < 500000)) || fail "$options: $(stat -c %s delta.qcow2) bytes"
        fi
        rm delta.qcow2
    done
}

# compressed_entry IMAGE CLUSTER: sets $stream to where the compressed bytes begin, $sectors_end to where the last
# sector ends that the entry names (clusters of 64 KiB, first L2 table)
compressed_entry() {
    local l2 entry
    l2=$(($(peek_be "$1" "$(peek_be "$1" 40 8)" 8) & 0xfffffffffffe00))
    entry=$(peek_be "$1" $((l2 + 8 * $2)) 8)
    stream=$((entry & ((1 << 54) - 1)))
    sectors_end=$(((stream & ~511) + (((entry >> 54) & 255) + 1) * 512))
}

@test "export-delta: compressed clusters are passed through as they are, and no byte of a neighbour comes along" {
    python3 -c 'import random; print("".join(random.Random(1).choices("abcd", k=131072)), end="")' >letters
    tail -c 65536 letters >letters2
    for type in zlib zstd; do
        make_image disk.qcow2 1M -o compression_type=$type
        # One after the other: QEMU compresses the clusters of one request in parallel, and packs what is first.
        qemu_io disk.qcow2 "write -q -c -s letters 0 64K" "write -q -c -s letters2 64K 64K"
        snapshot disk.qcow2 monday
        compressed_entry disk.qcow2 1
        next=$stream
        compressed_entry disk.qcow2 0
        len=$((next - stream))
        ((sectors_end > next)) || fail "the two are not packed: this shows nothing"

        guest_write disk.qcow2 0 64K B
        run -0 --separate-stderr qcow-export-delta --output=json disk.qcow2 @active monday delta.qcow2
        assert_json ".[\"bytes-passed-through\"] == $len and .[\"compressed-clusters\"] == 1"
        assert_delta delta.qcow2 disk.qcow2 @active monday
        assert_delta_holds delta.qcow2 "0 64K compressed"

        source=$stream
        compressed_entry delta.qcow2 0
        cmp -n $len -i "$source:$stream" disk.qcow2 delta.qcow2
        [[ $(tail -c +$((stream + len + 1)) delta.qcow2 | tr -d '\0' | wc -c) == 0 ]] || fail "foreign bytes"
        rm disk.qcow2 delta.qcow2
    done
}

@test "export-delta: a delta that cannot hold the source's compressed clusters gets their data" {
    python3 -c 'import random; print("".join(random.Random(1).choices("abcd", k=131072)), end="")' >letters
    make_image disk.qcow2 1M
    qemu_io disk.qcow2 "write -q -c -s letters 0 128K"
    for options in compression_type=zstd cluster_size=32k cluster_size=128k extended_l2=on; do
        run -0 --separate-stderr qcow-export-delta --output=json -o $options disk.qcow2 @empty @active delta.qcow2
        assert_delta delta.qcow2 disk.qcow2 @empty @active || fail "$options"
        [[ $options == extended_l2=on ]] || assert_json '.["bytes-passed-through"] == 0' || fail "$options"
        rm delta.qcow2
    done
}

# ---- names of states ---------------------------------------------------------------------------------

@test "export-delta: a state is found by name, by id, and by name: and id:" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 64K A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 64K 64K B
    snapshot disk.qcow2 tuesday
    for pair in "monday tuesday" "1 2" "name:monday id:2" "id:1 name:tuesday" "1 tuesday"; do
        read -r from to <<<"$pair"
        qcow-export-delta -q disk.qcow2 "$from" "$to" delta.qcow2
        assert_delta_holds delta.qcow2 "64K 64K data"
        rm delta.qcow2
    done
}

@test "export-delta: a word that fits two snapshots is an error that lists both" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 64K A
    snapshot disk.qcow2 2
    guest_write disk.qcow2 64K 64K B
    snapshot disk.qcow2 other
    run -1 qcow-export-delta disk.qcow2 2 @active delta.qcow2
    assert_output_has disk.qcow2 "'2'" "'other'" name: id:
    [[ ! -e delta.qcow2 ]]
    qcow-export-delta -q disk.qcow2 name:2 id:2 delta.qcow2
    assert_delta_holds delta.qcow2 "64K 64K data"
}

@test "export-delta: two snapshots of one name are told apart by id" {
    make_image disk.qcow2 1M
    snapshot disk.qcow2 same
    guest_write disk.qcow2 0 64K A
    snapshot disk.qcow2 same
    run -1 qcow-export-delta disk.qcow2 @empty same delta.qcow2
    run -1 qcow-export-delta disk.qcow2 @empty name:same delta.qcow2
    qcow-export-delta -q disk.qcow2 id:1 id:2 delta.qcow2
    assert_delta_holds delta.qcow2 "0 64K data"
}

@test "export-delta: a state that is not there is named in the error" {
    make_image disk.qcow2 1M
    snapshot disk.qcow2 monday
    for state in nobody name:1 id:monday @nothing "" name: id:; do
        run -1 qcow-export-delta disk.qcow2 monday "$state" delta.qcow2
        [[ $output == "qcow-export-delta: 'disk.qcow2': "*"'${state#*:}'"* && ! -e delta.qcow2 ]] || fail "$state: $output"
    done
}

@test "export-delta: a snapshot of a size that ends within a sector is read in whole sectors, as images are" {
    make_image disk.qcow2 1M
    qemu_io disk.qcow2 'write -q -P 65 0 1M'
    snapshot disk.qcow2 monday
    poke disk.qcow2 $(($(peek_be disk.qcow2 0x40 8) + 48)) 00000000000ffe01
    poke disk.qcow2 24 00000000000ffe01
    qcow-snapshot -q -c tuesday disk.qcow2
    [[ $(qcow-info --output=json disk.qcow2 | jq '.qcow.snapshots[1]["virtual-size"]') == $((0xffe00)) ]]
    for state in monday tuesday @active; do
        qcow-export-delta -q -t unsafe disk.qcow2 @empty $state delta.qcow2
        [[ $(virtual_size delta.qcow2) == $((0xffe00)) ]] || fail $state
        qemu-img compare -q disk.qcow2 delta.qcow2 || fail $state
        rm delta.qcow2
    done
}

@test "pull, rebase: a snapshot of a size that ends within a sector keeps its VM state" {
    local at command
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    make_image disk.qcow2 1M -o cluster_size=512 -b base.qcow2 -F qcow2
    snapshot disk.qcow2 monday
    at=$(($(peek_be disk.qcow2 0x40 8) + 48))
    for size in 00000000000ffe01 0000000000100001; do
        poke disk.qcow2 $at $size
        poke disk.qcow2 24 00000000000ffe01
        head -c 100000 /dev/urandom >state
        cp disk.qcow2 with.qcow2
        qcow-vmstate -i monday state with.qcow2
        for command in "qcow-snapshot -l" qcow-pull "qcow-rebase -b ''"; do
            cp with.qcow2 changed.qcow2
            eval "$command changed.qcow2" >out.txt
            qcow-vmstate --overwrite -x monday out changed.qcow2
            cmp state out || fail "$size: $command"
        done
    done
}

@test "export-delta: a snapshot whose name begins with @ is found by name:" {
    make_image disk.qcow2 1M
    snapshot disk.qcow2 @active
    guest_write disk.qcow2 0 64K A
    qcow-export-delta -q disk.qcow2 name:@active @active delta.qcow2
    assert_delta_holds delta.qcow2 "0 64K data"
}

@test "export-delta: names with control characters, quotes and bytes that are no UTF-8 print safely" {
    local name=$'evil\e[31m\n"q\x27\\\xff'
    make_image disk.qcow2 1M
    snapshot disk.qcow2 "$name"
    guest_write disk.qcow2 0 64K A
    run -0 --separate-stderr qcow-export-delta disk.qcow2 "$name" @active delta.qcow2
    [[ $output != *$'\e'* && ${#lines[@]} == 2 ]] || fail "$output"
    assert_output_has 'evil\x1b[31m\x0a"q'
    assert_delta_holds delta.qcow2 "0 64K data"
    run -0 --separate-stderr qcow-export-delta --overwrite --output=json disk.qcow2 "name:$name" @active delta.qcow2
    assert_json '.from | test("evil")'
    run -1 qcow-export-delta disk.qcow2 "$name" "$name-" other.qcow2
    [[ $output != *$'\e'* && ${#lines[@]} == 1 ]] || fail "$output"
}

# ---- what is told ------------------------------------------------------------------------------------

@test "export-delta: --map lists what a delta would hold, and writes nothing" {
    make_states
    for pair in "monday tuesday" "@backing @active" "@empty monday" "tuesday nothing"; do
        read -r from to <<<"$pair"
        qcow-export-delta -q disk.qcow2 "$from" "$to" delta.qcow2
        run -0 --separate-stderr qcow-export-delta --map --output=json disk.qcow2 "$from" "$to"
        diff <(delta_ranges delta.qcow2) <(jq -r '.[] | "\(.start) \(.length) " +
            (if .zero then "zero" elif .compressed then "compressed" else "data" end)' <<<"$output") || fail "$pair"
        rm delta.qcow2
    done
    [[ $(find . -name '*delta*') == "" ]]
}

@test "export-delta: --map for people" {
    make_image disk.qcow2 1M
    guest_write disk.qcow2 0 128K A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 64K 1K B
    guest_zero disk.qcow2 0 64K
    run -0 qcow-export-delta --map disk.qcow2 monday @active
    assert_output "Offset          Length          TO holds
0               0x10000         zeros
0x10000         0x10000         data"
}

@test "export-delta: the JSON summary counts what the delta holds" {
    make_states
    run -0 --separate-stderr qcow-export-delta --output=json disk.qcow2 @empty @active delta.qcow2
    ranges=$(delta_ranges delta.qcow2 | awk '{ sum[$3] += $2 / 65536 } END { print sum["data"] + 0, sum["zero"] + 0, sum["compressed"] + 0 }')
    read -r data zero compressed <<<"$ranges"
    assert_json ".[\"data-clusters\"] == $data and .[\"zero-clusters\"] == $zero
        and .[\"compressed-clusters\"] == $compressed and .clusters == $((data + zero + compressed))
        and .bytes == .clusters * 65536 and .[\"virtual-size\"] == 4194304
        and .[\"output-size\"] == $(stat -c %s delta.qcow2) and .from == \"@empty\" and .to == \"@active\"
        and .output == \"delta.qcow2\" and .seconds >= 0"
}

# delta_extension DELTA: print the fields of the header extension as JSON
delta_extension() {
    python3 - "$1" <<'PYTHON'
import json, struct, sys

data = open(sys.argv[1], "rb").read()
version, header_length = struct.unpack(">I", data[4:8])[0], 72
if version > 2:
    header_length, = struct.unpack(">I", data[100:104])
at = header_length
while True:
    kind, length = struct.unpack(">II", data[at:at + 8])
    if kind in (0, 0x51444c54):
        break
    at += 8 + (length + 7) // 8 * 8
if not kind:
    sys.exit("no extension")
at, end = at + 8, at + 8 + length
result = dict(zip(("version", "flags"), struct.unpack(">II", data[at:at + 8])))
at += 8
for name in ("from", "to"):
    kind, id_len, name_len, sec, nsec, clock, size = struct.unpack(">BxxxHHIIQQ", data[at:at + 32])
    at += 32
    result[name] = {"kind": kind, "id": data[at:at + id_len].decode(), "name": data[at + id_len:at + id_len + name_len].decode(),
                    "sec": sec, "nsec": nsec, "clock": clock, "size": size}
    at += id_len + name_len
assert at == end
print(json.dumps(result))
PYTHON
}

@test "export-delta: a header extension says from where to where, and QEMU keeps it" {
    make_image disk.qcow2 1M
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 0 64K A
    qemu-img resize -q disk.qcow2 2M
    snapshot disk.qcow2 tuesday
    read -r sec1 nsec1 sec2 nsec2 < <(qemu-img info --output=json disk.qcow2 |
        jq -r '[.snapshots[] | ."date-sec", ."date-nsec"] | join(" ")')

    qcow-export-delta -q disk.qcow2 monday tuesday delta.qcow2
    run -0 delta_extension delta.qcow2
    assert_json ".version == 1 and .flags == 0
        and .from == {kind: 1, id: \"1\", name: \"monday\", sec: $sec1, nsec: $nsec1, clock: 0, size: 1048576}
        and .to == {kind: 1, id: \"2\", name: \"tuesday\", sec: $sec2, nsec: $nsec2, clock: 0, size: 2097152}"

    expected=$output
    snapshot_raw disk.qcow2 monday monday.raw
    qemu-img rebase -u -b monday.raw -F raw delta.qcow2
    qemu-img bitmap --add delta.qcow2 bits
    guest_write delta.qcow2 1M 64K B
    run -0 delta_extension delta.qcow2
    assert_same_json "$expected" "$output"
}

@test "export-delta: the header extension tells snapshots from the other states" {
    make_image disk.qcow2 1M
    snapshot disk.qcow2 monday
    qcow-export-delta -q -o compat=0.10 disk.qcow2 @empty @active v2.qcow2
    run -0 delta_extension v2.qcow2
    assert_json '.from.kind == 3 and .to.kind == 0 and .to.name == "" and .to.size == 1048576'
    qcow-export-delta -q disk.qcow2 @backing monday v3.qcow2
    run -0 delta_extension v3.qcow2
    assert_json '.from.kind == 2 and .to.kind == 1 and .to.name == "monday"'
}

@test "export-delta: names of snapshots that do not fit a small header are left out" {
    make_image disk.qcow2 64K -o cluster_size=512
    snapshot disk.qcow2 "$(printf 'a%.0s' {1..200})"
    snapshot disk.qcow2 "$(printf 'b%.0s' {1..200})"
    qcow-export-delta -q disk.qcow2 id:1 id:2 delta.qcow2
    run -0 delta_extension delta.qcow2
    assert_json '.flags == 2 and .from.kind == 1 and .from.name == "" and .from.sec > 0 and .to.name == ""'
    assert_clean delta.qcow2
}

# ---- what the source may be --------------------------------------------------------------------------

@test "export-delta: --untrusted follows no name, and exports what the image itself holds" {
    make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 64K X
    guest_write disk.qcow2 0 64M A
    snapshot disk.qcow2 full
    guest_write disk.qcow2 0 64K B
    rm base.qcow2
    qcow-export-delta -q --untrusted disk.qcow2 full @active delta.qcow2
    assert_delta_holds delta.qcow2 "0 64K data"
    run -1 qcow-export-delta --untrusted disk.qcow2 @empty @backing other.qcow2
    assert_output_has disk.qcow2 untrusted
    [[ ! -e other.qcow2 ]]
}

@test "export-delta: the same through NBD, image and base on servers" {
    require nbdkit qemu-nbd
    make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 1M X
    start_qemu_nbd base.sock -r -f qcow2 base.qcow2
    qemu-img rebase -q -u -b "nbd+unix:///?socket=$PWD/base.sock" -F raw disk.qcow2
    guest_write disk.qcow2 64K 64K A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 128K 64K B
    snapshot disk.qcow2 tuesday
    start_nbdkit disk.sock -r file disk.qcow2

    for pair in "@empty tuesday" "monday tuesday" "tuesday @backing"; do
        read -r from to <<<"$pair"
        qcow-export-delta -q "nbd+unix:///?socket=$PWD/disk.sock" "$from" "$to" delta.qcow2
        qcow-export-delta -q disk.qcow2 "$from" "$to" local.qcow2
        assert_clean delta.qcow2
        diff <(delta_ranges delta.qcow2) <(delta_ranges local.qcow2)
        assert_same_content delta.qcow2 local.qcow2
        rm delta.qcow2 local.qcow2
    done
}

@test "export-delta: an image that another process writes to is refused without -U" {
    require qemu-storage-daemon
    make_image disk.qcow2 1M
    snapshot disk.qcow2 monday
    start_qsd --blockdev driver=file,node-name=f,filename=disk.qcow2 --blockdev driver=qcow2,node-name=disk,file=f
    run -1 qcow-export-delta disk.qcow2 @empty monday delta.qcow2
    assert_output_has disk.qcow2 lock
    [[ ! -e delta.qcow2 ]]
}

@test "export-delta: memory follows neither the disk nor the change: 100 GiB and 2000 clusters in less than 256 MiB" {
    require_plain_build
    local commands=() i
    make_image disk.qcow2 100G
    snapshot disk.qcow2 monday
    for ((i = 0; i < 2000; i++)); do
        commands+=("write -q -P $((i % 255 + 1)) ${i}00M 64K")
    done
    commands=("${commands[@]:0:1000}")
    qemu_io disk.qcow2 "${commands[@]}"
    snapshot disk.qcow2 tuesday
    for options in "" "-c" "--compare-data"; do
        # shellcheck disable=SC2086  # options are words
        peak=$(peak_memory qcow-export-delta -q -t unsafe $options disk.qcow2 monday tuesday delta.qcow2)
        ((peak < 256)) || fail "$options: $peak MiB"
        qemu-img compare -q delta.qcow2 disk.qcow2
        rm delta.qcow2
    done
    peak=$(peak_memory qcow-export-delta --map disk.qcow2 @empty tuesday)
    ((peak < 64)) || fail "--map: $peak MiB"
}
