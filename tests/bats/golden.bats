#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# Images that QEMU 7.2 and QEMU 10.0 made (tests/images/make-golden), and what these read in every state of them.

load helpers

# golden CASE: every state of this image reads as the manifest says, by both versions' images
golden() {
    local version name=$1
    for version in qemu-7.2 qemu-10.0; do
        mkdir "$version"
        pushd "$version" >/dev/null || return
        unpack "$version" "$name"
        check_states "$version" "$name" || fail "made by $version" || return
        popd >/dev/null || return
    done
}

unpack() {
    local packed
    for packed in "$QCOW_SOURCE/tests/images/golden/$1/$2".*.gz; do
        gzip -d <"$packed" >"./$(basename "$packed" .gz)"
    done
}

# check_states VERSION CASE: whole by a patched raw file, and step by step by deltas that QEMU puts together
check_states() {
    local state size digest previous=@empty n=0
    remember_image "$2".*
    : >previous.raw
    while read -r _ state size digest; do
        : $((n += 1))
        truncate --size=0 state.raw
        truncate --size="$size" state.raw
        qcow-export-delta -q -t unsafe -O raw "$2.qcow2" @empty "$state" state.raw || return
        [[ $(sha256sum <state.raw) == "$digest  -" ]] || fail "$state has other bytes" || return

        qcow-export-delta -q -t unsafe -b previous.raw -F raw "$2.qcow2" "$previous" "$state" delta.qcow2 || return
        assert_clean delta.qcow2 || return
        assert_same_content delta.qcow2 state.raw || fail "from $previous to $state" || return
        rm delta.qcow2
        mv state.raw previous.raw
        previous=$state
    done < <(grep "^$2 " "$QCOW_SOURCE/tests/images/golden/$1/manifest")
    ((n > 0)) || fail "the manifest has no state of $2" || return
    assert_image_unchanged "$2".*
}

# golden_encrypted CASE: its metadata can be read, its data is refused for want of a key
golden_encrypted() {
    local version
    for version in qemu-7.2 qemu-10.0; do
        unpack "$version" "$1"
        run -0 --separate-stderr qcow-export-delta --map --output=json "$1.qcow2" @empty @active
        assert_json 'map(.length) | add == 8192'
        run -1 qcow-export-delta "$1.qcow2" @empty @active delta.qcow2
        assert_output_has "$1.qcow2" encrypted key
        [[ ! -e delta.qcow2 ]] || fail "a delta was left"
    done
}

@test "golden: the manifests name every image, and every image is there" {
    for version in qemu-7.2 qemu-10.0; do
        folder=$QCOW_SOURCE/tests/images/golden/$version
        diff <(cut -d' ' -f1 "$folder/manifest" | sort -u) \
            <(basename -a "$folder"/*.gz | cut -d. -f1 | sort -u)
    done
}

@test "golden: version 3 as it is by default" { golden default; }
@test "golden: version 2" { golden v2; }

@test "golden: clusters of 512 bytes" { golden cluster_512; }
@test "golden: clusters of 4 KiB" { golden cluster_4k; }
@test "golden: clusters of 2 MiB" { golden cluster_2m; }

@test "golden: refcounts of 1 bit" { golden refcount_1; }
@test "golden: refcounts of 2 bits" { golden refcount_2; }
@test "golden: refcounts of 4 bits" { golden refcount_4; }
@test "golden: refcounts of 8 bits" { golden refcount_8; }
@test "golden: refcounts of 32 bits" { golden refcount_32; }
@test "golden: refcounts of 64 bits" { golden refcount_64; }

@test "golden: subclusters of 2 KiB" { golden subclusters; }
@test "golden: subclusters of 512 bytes" { golden subclusters_16k; }
@test "golden: subclusters between which the backing file shows" { golden subclusters_over_backing; }

@test "golden: clusters compressed with zlib" { golden compressed_zlib; }
@test "golden: clusters compressed with zlib in version 2" { golden v2_compressed; }
@test "golden: clusters compressed with zstd" { golden compressed_zstd; }
@test "golden: clusters compressed with zstd beside subclusters" { golden compressed_subclusters; }
@test "golden: compressed clusters of 512 bytes" { golden compressed_512; }
@test "golden: compressed clusters of 2 MiB, the last one shorter" { golden compressed_2m; }

@test "golden: lazy refcounts" { golden lazy; }
@test "golden: lazy refcounts of an image that was not closed" { golden lazy_dirty; }
@test "golden: data in a file of its own" { golden data_file; }
@test "golden: data in a raw file of its own" { golden data_file_raw; }
@test "golden: preallocated metadata" { golden preallocated_metadata; }
@test "golden: preallocation by fallocate" { golden preallocated_falloc; }
@test "golden: full preallocation" { golden preallocated_full; }

@test "golden: snapshots of a disk that was grown and shrunk" { golden resized; }
@test "golden: snapshots that end inside a cluster" { golden odd_sizes; }
@test "golden: snapshots with VM state" { golden vm_state; }
@test "golden: forty snapshots" { golden many_snapshots; }
@test "golden: snapshots deleted and applied" { golden deleted_snapshots; }

@test "golden: a qcow2 backing file with smaller clusters" { golden backing_qcow2; }
@test "golden: a raw backing file that is shorter" { golden backing_raw; }
@test "golden: each layer longer than the one below" { golden backing_short; }
@test "golden: a backing file that is longer" { golden backing_long; }
@test "golden: a backing file named by json:, with an offset" { golden backing_json; }
@test "golden: a backing file with a data file" { golden backing_data_file; }

@test "golden: bitmaps" { golden bitmaps; }
@test "golden: bitmaps that are in use" { golden bitmaps_in_use; }

@test "golden: LUKS" { golden_encrypted luks; }
@test "golden: the old AES encryption" { golden_encrypted aes; }
