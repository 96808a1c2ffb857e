#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-import-delta: a history of deltas becomes a history of snapshots.

load helpers

# a source with three snapshots of different contents and sizes
make_source() {
    make_image s.qcow2 8M "$@"
    guest_write s.qcow2 0 3M A
    guest_write_compressed s.qcow2 4M 128k B
    snapshot s.qcow2 one
    guest_write s.qcow2 512k 1M C
    qemu-img resize -q s.qcow2 9M
    guest_write s.qcow2 8M 1M D
    snapshot s.qcow2 two
    guest_zero s.qcow2 1M 1M
    qemu-img resize -q --shrink s.qcow2 6M
    snapshot s.qcow2 three
}

import_history() {
    local from=@empty to
    for to in one two three; do
        qcow-export-delta -q --overwrite s.qcow2 "$from" "$to" d.qcow2
        qcow-import-delta -q --name "$to" d.qcow2 "$1"
        assert_clean "$1"
        from=$to
    done
}

assert_same_history() {
    local state
    for state in one two three; do
        snapshot_raw s.qcow2 "$state" wanted.raw
        snapshot_raw "$1" "$state" found.raw
        cmp wanted.raw found.raw
    done
}

@test "import-delta: a whole history in one file, whatever the layouts" {
    local options
    make_source
    for options in cluster_size=64k cluster_size=4k cluster_size=2M extended_l2=on compression_type=zstd; do
        rm -f h.qcow2
        make_image h.qcow2 1M -o "$options"
        import_history h.qcow2
        assert_same_history h.qcow2
        guest_write h.qcow2 0 2M E
        assert_clean h.qcow2
    done
}

@test "import-delta: compressed clusters are passed through and packed" {
    make_source
    make_image h.qcow2 1M
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    run -0 qcow-import-delta --output=json --name one d.qcow2 h.qcow2
    assert_json '."compressed-clusters" == 2'
    assert_clean h.qcow2
}

@test "import-delta: snapshots keep the date and clock that they had" {
    make_source
    make_image h.qcow2 1M
    import_history h.qcow2
    qcow-snapshot -l --output=json s.qcow2 | jq 'map([.name, ."date-sec", ."date-nsec", ."vm-clock-sec"])' > a
    qcow-snapshot -l --output=json h.qcow2 | jq 'map([.name, ."date-sec", ."date-nsec", ."vm-clock-sec"])' > b
    cmp a b
}

@test "import-delta: a stream through a pipe" {
    make_source
    make_image h.qcow2 1M
    qcow-export-delta -q s.qcow2 @empty one - | qcow-import-delta -q --name one - h.qcow2
    qcow-export-delta -q -c s.qcow2 one two - | qcow-import-delta -q --name two - h.qcow2
    snapshot_raw s.qcow2 two wanted.raw
    snapshot_raw h.qcow2 two found.raw
    cmp wanted.raw found.raw
}

@test "import-delta: a stream that is cut or damaged changes nothing" {
    make_source
    make_image h.qcow2 1M
    qcow-export-delta -q s.qcow2 @empty one - > d.stream
    remember_image h.qcow2
    head -c -65536 d.stream > cut.stream
    run -1 qcow-import-delta --name one - h.qcow2 < cut.stream
    assert_output_has "cut"
    cp d.stream bad.stream
    poke bad.stream 0x70000 ff
    run -1 qcow-import-delta --name one - h.qcow2 < bad.stream
    assert_output_has "SHA-256"
    run -1 qcow-import-delta --name one bad.stream h.qcow2
    assert_output_has "SHA-256"
    run -1 qcow-import-delta --name one - h.qcow2 < /dev/null
    assert_image_unchanged h.qcow2
    qcow-import-delta -q --name one d.stream h.qcow2
}

@test "import-delta: refused unless the active layer is FROM, unchanged since" {
    make_source
    make_image h.qcow2 1M
    import_history h.qcow2
    qcow-export-delta -q --overwrite s.qcow2 one two d.qcow2
    remember_image h.qcow2
    run -1 qcow-import-delta --name again d.qcow2 h.qcow2
    assert_output_has "snapshot 'one'" "--force"
    assert_image_unchanged h.qcow2
    qemu-img snapshot -a one h.qcow2
    qcow-import-delta -q --name again d.qcow2 h.qcow2
    qemu-img snapshot -a one h.qcow2
    guest_write h.qcow2 0 512 Z
    run -1 qcow-import-delta --name third d.qcow2 h.qcow2
    assert_output_has "changed since"
    qcow-import-delta -q --force --name third d.qcow2 h.qcow2
    assert_clean h.qcow2
}

@test "import-delta: of several snapshots with the date of FROM any may be the active layer" {
    make_source
    cp s.qcow2 h.qcow2
    qcow-export-delta -q s.qcow2 one two d.qcow2
    qemu-img snapshot -a one h.qcow2
    qcow-import-delta -q --name 'two again' d.qcow2 h.qcow2
    qcow-export-delta -q h.qcow2 'two again' three e.qcow2
    qcow-import-delta -q --name 'three again' e.qcow2 h.qcow2
    snapshot_raw s.qcow2 three wanted.raw
    snapshot_raw h.qcow2 'three again' found.raw
    cmp wanted.raw found.raw
}

@test "import-delta: a delta from @empty needs an empty image" {
    make_source
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    make_image h.qcow2 1M
    guest_write h.qcow2 0 64k A
    run -1 qcow-import-delta d.qcow2 h.qcow2
    assert_output_has "empty disk"
}

@test "import-delta: the same import again says that it is done already" {
    make_source
    make_image h.qcow2 1M
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    qcow-import-delta -q --name one d.qcow2 h.qcow2
    run -1 qcow-import-delta --name one d.qcow2 h.qcow2
    assert_output_has already
}

@test "import-delta: an image that is no delta needs --force" {
    make_image d.qcow2 1M
    make_image h.qcow2 1M
    run -1 qcow-import-delta d.qcow2 h.qcow2
    assert_output_has "--force"
    qcow-import-delta -q --force d.qcow2 h.qcow2
}

@test "import-delta: over a backing file, what grows reads zeros and not the backing file" {
    truncate -s 8M base.raw
    qemu_io base.raw "write -q -P 7 0 8M"
    qemu-img create -q -f qcow2 -b base.raw -F raw h.qcow2 1M
    make_image s.qcow2 4M
    guest_write s.qcow2 1M 64k A
    snapshot s.qcow2 one
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    qcow-import-delta -q --force d.qcow2 h.qcow2
    assert_guest h.qcow2 0 1M 7
    assert_guest h.qcow2 1M 64k A
    assert_guest_zero h.qcow2 $((1024 + 64))k $((3 * 1024 - 64))k
    assert_clean h.qcow2
}

@test "import-delta: growth costs nothing where the backing file has nothing" {
    make_image base.qcow2 2M
    guest_write base.qcow2 0 2M A
    make_image h.qcow2 1M -b base.qcow2 -F qcow2
    make_image s.qcow2 64G
    guest_write s.qcow2 40G 64k B
    snapshot s.qcow2 one
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    qcow-import-delta -q --force d.qcow2 h.qcow2
    assert_guest h.qcow2 0 1M A
    assert_guest_zero h.qcow2 1M 2M
    assert_guest h.qcow2 40G 64k B
    assert_clean h.qcow2
    (($(stat -c %s h.qcow2) < 2000000)) || fail "$(stat -c %s h.qcow2) bytes"
}

@test "import-delta: into an image with a data file, where nothing has to be overwritten" {
    make_source
    qemu-img create -q -f qcow2 -o data_file=h.data h.qcow2 1M
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    run -1 qcow-import-delta --name one d.qcow2 h.qcow2
    assert_output_has "cannot have internal snapshots"
    qcow-import-delta -q d.qcow2 h.qcow2
    snapshot_raw s.qcow2 one wanted.raw
    assert_same_content h.qcow2 wanted.raw
    assert_clean h.qcow2
    [[ $(stat -c %s h.data) == 8388608 ]]

    # what the delta adds is new there; what it changes has its place already
    make_chain s.qcow2 o.qcow2
    guest_write o.qcow2 6M 1M E
    guest_zero o.qcow2 0 1M
    qcow-import-delta -q --force o.qcow2 h.qcow2
    assert_guest h.qcow2 6M 1M E
    assert_guest_zero h.qcow2 0 1M
    assert_guest h.qcow2 1M 2M A
    assert_clean h.qcow2
    rm o.qcow2
    make_chain s.qcow2 o.qcow2
    guest_write o.qcow2 7M 64k F
    guest_write o.qcow2 2M 512 F
    remember_image h.qcow2 h.data
    run -1 qcow-import-delta --force o.qcow2 h.qcow2
    assert_output_has "guest offset 0x200000" "external data file" "mixture"
    assert_image_unchanged h.qcow2 h.data
}

@test "import-delta: a raw data file is never overwritten" {
    make_source
    qemu-img create -q -f qcow2 -o data_file=h.data,data_file_raw=on h.qcow2 1M
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    remember_image h.qcow2 h.data
    run -1 qcow-import-delta --force d.qcow2 h.qcow2
    assert_output_has "raw external data file" "mixture"
    assert_image_unchanged h.qcow2 h.data
}

@test "import-delta: a full disk leaves the image as it was" {
    small_disk 3M
    make_source
    qemu-img create -q -f qcow2 small/h.qcow2 1M
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    run -1 qcow-import-delta --name one d.qcow2 small/h.qcow2
    assert_output_has "not enough space"
    qemu-img check -q small/h.qcow2
    run -0 qcow-snapshot -l small/h.qcow2
    assert_output ""
}
