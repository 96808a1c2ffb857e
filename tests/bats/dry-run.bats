#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# --dry-run: what a command would do, and not one byte of it done.

load helpers

make_snapshots() {
    make_image s.qcow2 16M
    guest_write s.qcow2 0 8M A
    snapshot s.qcow2 one
    guest_write s.qcow2 1M 3M B
    snapshot s.qcow2 two
}

# assert_growth FILE COMMAND…: the command makes FILE longer by what its dry run said
assert_growth() {
    local file=$1 before wanted
    shift
    remember_image "$file"
    before=$(stat -c %s "$file")
    run -0 "$1" --dry-run --output=json "${@:2}"
    assert_image_unchanged "$file"
    assert_json '."dry-run" and .fits and .needed <= .available'
    wanted=$(jq .growth <<< "$output")
    "$@" > /dev/null
    assert_clean "$file"
    (($(stat -c %s "$file") - before == wanted))
}

@test "dry-run: snapshots are taken, applied, deleted and renamed, and the image stays as it is" {
    make_snapshots
    assert_growth s.qcow2 qcow-snapshot -c three s.qcow2
    assert_growth s.qcow2 qcow-snapshot -a one s.qcow2
    assert_growth s.qcow2 qcow-snapshot -r two -n second s.qcow2
    assert_growth s.qcow2 qcow-snapshot -d second s.qcow2
}

@test "dry-run: deleting a snapshot tells what becomes free" {
    make_snapshots
    run -0 qcow-snapshot --dry-run -d one s.qcow2
    assert_output_has "would move nothing" "free 3." "MiB in the image"
}

@test "dry-run: an import tells what it would move" {
    make_snapshots
    qcow-export-delta -q s.qcow2 one two d.qcow2
    qemu-img snapshot -a one s.qcow2
    run -0 qcow-import-delta --dry-run d.qcow2 s.qcow2
    assert_output_has "would move 3 MiB (clusters: 48 data, 0 zero, 0 compressed)"
    assert_growth s.qcow2 qcow-import-delta --name again d.qcow2 s.qcow2
}

@test "dry-run: no data is read or written, however large the delta is" {
    make_image s.qcow2 1G -o preallocation=falloc
    qcow-export-delta -q s.qcow2 @empty @active d.qcow2
    make_image t.qcow2 1G
    mkdir tmp
    TMPDIR=$PWD/tmp prlimit --fsize=4194304 qcow-import-delta --dry-run d.qcow2 t.qcow2
}

@test "dry-run: what would be refused is refused" {
    make_snapshots
    run -1 qcow-snapshot --dry-run -c one s.qcow2
    assert_output_has "is there already"
    make_image narrow.qcow2 1M -o refcount_bits=1
    guest_write narrow.qcow2 0 64k A
    run -1 qcow-snapshot --dry-run -c one narrow.qcow2
    assert_output_has "refcounts of this image have 1 bits"
}

@test "dry-run: exit 1 when the space is not there" {
    small_disk 3M
    make_snapshots
    qcow-export-delta -q s.qcow2 @empty one d.qcow2
    qemu-img create -q -f qcow2 small/h.qcow2 1M
    remember_image small/h.qcow2
    run -1 qcow-import-delta --dry-run d.qcow2 small/h.qcow2
    assert_output_has "128 data" "not enough space"
    run -1 --separate-stderr qcow-import-delta --dry-run --output=json d.qcow2 small/h.qcow2
    assert_json '.fits == false'
    assert_image_unchanged small/h.qcow2
}

@test "dry-run: an image that a VM has open can be looked at as little as changed" {
    make_snapshots
    start_qsd --blockdev driver=qcow2,node-name=n,file.driver=file,file.filename=s.qcow2
    run -1 qcow-snapshot --dry-run -d one s.qcow2
    assert_output_has "lock"
}

@test "dry-run: a commit tells what it would copy into images to preserve" {
    local planned
    CHAIN_SIZE=16M make_chain base.qcow2 top.qcow2
    make_image other.qcow2 16M -b base.qcow2 -F qcow2
    guest_write top.qcow2 1M 2M A
    run -0 qcow-commit --dry-run --preserve other.qcow2 top.qcow2
    assert_output_has "would move 2 MiB (clusters: 32 data, 0 zero, 0 compressed), copy 2 MiB into images to preserve, grow"
    run -0 qcow-commit --dry-run --output=json --preserve other.qcow2 top.qcow2
    planned=$(jq -c '[.bytes, ."bytes-preserved"]' <<<"$output")
    [[ $planned == '[2097152,2097152]' ]]
    run -0 qcow-commit --output=json --preserve other.qcow2 top.qcow2
    [[ $(jq -c '[.bytes, ."bytes-preserved"]' <<<"$output") == "$planned" ]]
    guest_write top.qcow2 4M 1M B
    qcow-rebase -q -b '' other.qcow2
    run -0 qcow-commit --dry-run --output=json top.qcow2
    assert_json '.bytes == 1048576 and ."bytes-preserved" == 0'
    run -0 qcow-commit --dry-run top.qcow2
    refute_output_has preserve
    run -0 qcow-pull --dry-run --output=json top.qcow2
    assert_json 'has("bytes-preserved") | not'
}

@test "dry run: trim --shrink says how long the file will be" {
    make_image x.qcow2 64M
    guest_write x.qcow2 0 4M A
    snapshot x.qcow2 monday
    guest_write x.qcow2 0 4M B
    guest_write x.qcow2 32M 1M C
    qemu-img snapshot -d monday x.qcow2
    run -0 qcow-trim --shrink --dry-run x.qcow2
    [[ $output =~ cut\ [0-9.]+\ MiB\ off\ the\ file ]]
    qcow-trim --shrink --dry-run --output=json x.qcow2 >told
    qcow-trim --shrink --output=json x.qcow2 >reported
    [[ $(jq '.["file-size"]' told) == $(jq '.["file-size"]' reported) ]]
    (($(jq '.["file-size-before"] - .["file-size"]' told) >= 4 * 1024 * 1024))
    [[ $(stat -c %s x.qcow2) == $(jq '.["file-size"]' told) ]]
}
