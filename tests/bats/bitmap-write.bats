#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154,SC2030,SC2031  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Dirty bitmaps that are made and changed by ours and read by QEMU, and those of images whose contents change.

load helpers

# dirty IMAGE BITMAP: print what an NBD client of QEMU sees as dirty, a line "START LENGTH" for each range
dirty() {
    local image=$1 bitmap=$2
    rm -f nbd.sock nbd.sock.pid
    start_qemu_nbd nbd.sock -r -f qcow2 -B "$bitmap" "$image"
    nbdinfo --json --map="qemu:dirty-bitmap:$bitmap" "nbd+unix:///?socket=$PWD/nbd.sock" |
        jq -r '.[] | select(.type == 1) | "\(.offset) \(.length)"' |
        awk 'n && $1 == end { end += $2; next } n { printf "%.0f %.0f\n", start, end - start }
             { start = $1; end = $1 + $2; n = 1 } END { if (n) printf "%.0f %.0f\n", start, end - start }'
    stop_daemon "$(cat nbd.sock.pid)"
}

# assert_dirty IMAGE BITMAP [RANGE…]: QEMU sees exactly these ranges, such as "1M 64K"
assert_dirty() {
    local image=$1 bitmap=$2 start length range expected=''
    shift 2
    for range; do
        read -r start length <<<"$range"
        expected+="$(numfmt --from=iec "$start") $(numfmt --from=iec "$length")"$'\n'
    done
    diff -u --label expected --label "$bitmap of $image" <(printf '%s' "$expected") <(dirty "$image" "$bitmap") >&2 ||
        fail "$bitmap of $image has other bits"
}

# bitmaps IMAGE: what qemu-img info says about them, as JSON
bitmaps() {
    qemu-img info --output=json "$1" | jq -c '.["format-specific"].data.bitmaps // []'
}

# same_as_qemu ARGUMENTS: the verbs of qemu-img bitmap on a.qcow2 by ours, on q.qcow2 by QEMU
same_as_qemu() {
    qcow-bitmap "${@:1:$#-1}" a.qcow2 "${@: -1}"
    qemu-img bitmap "${@:1:$#-1}" q.qcow2 "${@: -1}"
    assert_clean a.qcow2
    assert_same_json "$(bitmaps a.qcow2 | jq 'sort_by(.name)')" "$(bitmaps q.qcow2 | jq 'sort_by(.name)')"
}

# assert_same_bits: QEMU sees the same in all bitmaps of a.qcow2 and q.qcow2
assert_same_bits() {
    local name
    for name in $(bitmaps q.qcow2 | jq -r '.[].name'); do
        dirty q.qcow2 "$name" >expected
        dirty a.qcow2 "$name" >found
        diff -u expected found >&2 || fail "$name differs" || return
    done
}

# ---- verbs -------------------------------------------------------------------------------------------

twins() {
    local options
    for options in cluster_size=64k,lazy_refcounts=on cluster_size=512 cluster_size=4k,refcount_bits=1 \
        cluster_size=2M,extended_l2=on; do
        echo "# $options" >&2
        rm -f [aq].qcow2
        make_image a.qcow2 9000000 -o "$options"
        guest_write a.qcow2 0 1M A
        cp a.qcow2 q.qcow2
        "$@"
    done
}

each_verb() {
    same_as_qemu --add one
    same_as_qemu --add -g 512 fine
    same_as_qemu --add -g 1M --disable coarse
    for image in a.qcow2 q.qcow2; do
        guest_write $image 3000000 100000 B
        guest_write $image 8999424 512 C
    done
    same_as_qemu --disable one
    same_as_qemu --merge fine coarse
    same_as_qemu --merge coarse fine
    assert_same_bits
    same_as_qemu --clear one
    same_as_qemu --enable coarse
    same_as_qemu --add --merge one --merge fine --disable sum
    same_as_qemu --remove fine
    for image in a.qcow2 q.qcow2; do
        guest_write $image 2M 1000 D
    done
    same_as_qemu --merge coarse one
    assert_same_bits
    for name in one coarse sum; do
        same_as_qemu --remove "$name"
    done
    assert_guest a.qcow2 3000000 100000 B
}

@test "bitmap: every verb does what qemu-img bitmap does, whatever the layout" {
    require nbdinfo
    twins each_verb
}

@test "bitmap: in an image with snapshots, a backing file, a data file, a long backing name" {
    require nbdinfo
    local folder
    folder=$(printf 'x%.0s' {1..200})
    mkdir "$folder"
    make_image base.qcow2 4M
    make_image a.qcow2 4M -b base.qcow2 -F qcow2
    guest_write a.qcow2 0 1M A
    snapshot a.qcow2 one
    cp a.qcow2 q.qcow2
    same_as_qemu --add b
    qcow-snapshot -c two a.qcow2
    assert_clean a.qcow2
    qemu-img snapshot -c two q.qcow2
    same_as_qemu --disable b
    rm [aq].qcow2
    make_image a.qcow2 4M -o data_file=a.data
    qcow-bitmap --add a.qcow2 b
    guest_write a.qcow2 1M 1M A
    assert_dirty a.qcow2 b "1M 1M"
    cp base.qcow2 "$folder"
    make_image c.qcow2 4M -b "$PWD/$folder/../$folder/base.qcow2" -F qcow2 -o cluster_size=4k
    qcow-bitmap --add c.qcow2 b
    assert_clean c.qcow2
    [[ $(bitmaps c.qcow2 | jq length) == 1 ]]
}

@test "bitmap: a bitmap of many clusters of bits, all ones in parts" {
    require nbdinfo
    make_image a.qcow2 1G -o cluster_size=4k
    cp a.qcow2 q.qcow2
    same_as_qemu --add -g 512 b
    same_as_qemu --add -g 2M c
    for image in a.qcow2 q.qcow2; do
        guest_zero $image 100M 300M
        guest_write $image 777M 700 A
    done
    same_as_qemu --add --merge c -g 512 d
    same_as_qemu --merge d b
    assert_same_bits
    same_as_qemu --clear d
    same_as_qemu --remove b
}

# says_the_same ARGUMENT…: fails in QEMU's words, and leaves the image as it was
says_the_same() {
    local expected
    remember_image a.qcow2
    run -1 qemu-img bitmap "$@"
    expected=$(sed "s/^qemu-img: //; s/ (use.*//; s/'#block[0-9]*'/'a.qcow2'/" <<<"${lines[0]}")
    remember_image a.qcow2
    run -1 qcow-bitmap "$@"
    [[ $output == "qcow-bitmap: 'a.qcow2': $expected"* ]] || fail "expected: $expected"$'\n'"printed: $output"
    assert_image_unchanged a.qcow2
}

@test "bitmap: errors are those of qemu-img bitmap, and nothing is written" {
    make_image a.qcow2 4M
    qemu-img bitmap --add a.qcow2 b
    for verb in --remove --clear --enable --disable "--merge b" "--merge nn"; do
        # shellcheck disable=SC2086  # words
        says_the_same $verb a.qcow2 other
    done
    says_the_same --merge nn a.qcow2 b
    says_the_same --add a.qcow2 b
    says_the_same --add a.qcow2 ''
    says_the_same --add -g 511 a.qcow2 c
    says_the_same --add -g 600 a.qcow2 c
    says_the_same --add a.qcow2 "$(printf 'x%.0s' {1..1024})"
    make_image big.qcow2 4T
    run -1 qcow-bitmap --add -g 512 big.qcow2 c
    assert_output_has "Too much space will be occupied by the bitmap. Use larger granularity"
    make_image big.qcow2 2T
    qcow-bitmap --add -g 512 big.qcow2 c
    assert_clean big.qcow2
    qcow-bitmap --add a.qcow2 "$(printf 'x%.0s' {1..1023})"
    assert_clean a.qcow2
    make_image v2.qcow2 4M -o compat=0.10
    run -1 qcow-bitmap --add v2.qcow2 c
    assert_output_has "Cannot store dirty bitmaps in qcow2 v2 files"
    truncate -s 1M a.raw
    run -1 qcow-bitmap -f raw --add a.raw c
    assert_output_has "Can't store persistent bitmaps to a.raw: Operation not supported"
    run -1 qcow-bitmap --merge b -b big.qcow2 a.qcow2 b
    assert_output_has "Dirty bitmap 'b' not found"
    run -1 qcow-bitmap --merge c -b big.qcow2 a.qcow2 b
    assert_output_has "Bitmaps are of different sizes (destination size is 4194304, source size is 2199023255552)"
}

@test "bitmap: wrong usage" {
    make_image a.qcow2 4M
    run -2 qcow-bitmap a.qcow2 b
    assert_output_has "Need at least one of --add"
    run -2 qcow-bitmap --add a.qcow2
    assert_output_has "Expecting filename and bitmap name"
    run -2 qcow-bitmap --clear -g 64k a.qcow2 b
    assert_output_has "granularity only supported with --add"
    run -2 qcow-bitmap --add -F raw a.qcow2 b
    assert_output_has "-F only supported with -b"
    run -2 qcow-bitmap --add -b a.qcow2 a.qcow2 b
    assert_output_has "Merge bitmap source file only supported with --merge"
    run -2 qcow-bitmap --list --add a.qcow2 b
    run -2 qcow-bitmap --from-states @empty a.qcow2 b
    run -1 qcow-bitmap -U --add a.qcow2 b
    assert_output_has "force-share"
}

@test "bitmap: several verbs are all done or none is" {
    require nbdinfo
    make_image a.qcow2 4M
    qcow-bitmap --add a.qcow2 b
    guest_write a.qcow2 1M 64k A
    run -1 qcow-bitmap --clear --disable --merge other a.qcow2 b
    assert_output_has "Operation merge on bitmap b failed"
    assert_clean a.qcow2
    assert_dirty a.qcow2 b "1M 64K"
    assert_same_json "$(bitmaps a.qcow2 | jq '.[0].flags')" '["auto"]'
    qcow-bitmap --remove --add --disable a.qcow2 b
    assert_dirty a.qcow2 b
    assert_same_json "$(bitmaps a.qcow2 | jq '.[0].flags')" '[]'
}

@test "bitmap: what has no effect does not write" {
    make_image a.qcow2 4M
    qcow-bitmap --add a.qcow2 b
    remember_image a.qcow2
    qcow-bitmap --enable a.qcow2 b
    qcow-bitmap --clear a.qcow2 b
    qcow-bitmap --merge b a.qcow2 b
    assert_image_unchanged a.qcow2
}

@test "bitmap --merge: from other images, which are only read" {
    require nbdinfo
    make_image base.qcow2 8M
    qcow-bitmap --add -g 512 base.qcow2 b
    make_image top.qcow2 8M -b base.qcow2 -F qcow2
    qcow-bitmap --add -g 4k top.qcow2 b
    guest_write base.qcow2 1M 512 A
    guest_write top.qcow2 2M 512 B
    remember_image top.qcow2
    qcow-bitmap --merge b -b top.qcow2 -F qcow2 base.qcow2 b
    assert_image_unchanged top.qcow2
    assert_clean base.qcow2
    assert_dirty base.qcow2 b "1M 512" "2M 4K"
    mv base.qcow2 away.qcow2
    qcow-bitmap --merge b -b away.qcow2 top.qcow2 b
    mv away.qcow2 base.qcow2
    assert_dirty top.qcow2 b "1M 4K" "2M 4K"
    run -1 qcow-bitmap --merge b -b base.qcow2 base.qcow2 b
    assert_output_has "lock"
}

@test "bitmap: one that is in use can only be removed, and others are not touched by it" {
    make_image a.qcow2 4M
    qemu-img bitmap --add a.qcow2 b
    qemu-img bitmap --add a.qcow2 c
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    run -1 qcow-bitmap --clear a.qcow2 b
    assert_output_has "lock"
    kill_daemon "$daemon_pid"
    says_the_same --clear a.qcow2 b
    says_the_same --enable a.qcow2 b
    says_the_same --disable a.qcow2 b
    says_the_same --merge c a.qcow2 b
    qcow-bitmap --add a.qcow2 new
    run -1 qcow-bitmap --merge b a.qcow2 new
    assert_output_has "Bitmap 'b' is inconsistent and cannot be used"
    cp a.qcow2 other.qcow2
    run -1 qcow-bitmap --merge b -b other.qcow2 a.qcow2 new
    assert_output_has "Bitmap 'b' is inconsistent and cannot be used"
    qcow-bitmap --remove a.qcow2 b
    assert_same_json "$(bitmaps a.qcow2 | jq 'map([.name, .flags])')" \
        '[["c", ["in-use", "auto"]], ["new", ["auto"]]]'
    qcow-bitmap --remove a.qcow2 c
    assert_clean a.qcow2
}

@test "bitmap: after a program that does not know bitmaps they are gone, and it is said" {
    make_image a.qcow2 4M
    qcow-bitmap --add a.qcow2 b
    poke a.qcow2 95 00
    run -0 --separate-stderr qcow-bitmap --list a.qcow2
    assert_output ""
    [[ $stderr == *"a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent"* ]]
    run -0 --separate-stderr qcow-info a.qcow2
    [[ $stderr == *"a program lacking bitmap support modified this file"* ]]
    run -1 qcow-bitmap --clear a.qcow2 b
    qcow-snapshot -c one a.qcow2
    [[ $(peek a.qcow2 88 8) == 0000000000000000 ]]
    qcow-bitmap --add a.qcow2 new
    run -0 --separate-stderr qcow-bitmap --list --output=json a.qcow2
    [[ $stderr == "" ]]
    assert_json 'map(.name) == ["new"]'
    assert_same_json "$(bitmaps a.qcow2 | jq 'map(.name)')" '["new"]'
}

# ---- from states -------------------------------------------------------------------------------------

@test "bitmap --from-states: what changed between two snapshots, and QEMU reads it" {
    require nbdinfo
    make_image a.qcow2 8M
    guest_write a.qcow2 0 1M A
    snapshot a.qcow2 one
    guest_write a.qcow2 512k 64k B
    guest_write a.qcow2 5M 200k B
    snapshot a.qcow2 two
    guest_write a.qcow2 7M 64k C
    qcow-bitmap --from-states one two a.qcow2 b12
    qcow-bitmap --from-states two @active -g 4k a.qcow2 b23
    qcow-bitmap --from-states=@empty one --enable a.qcow2 b01
    assert_clean a.qcow2
    assert_dirty a.qcow2 b12 "512K 64K" "5M 256K"
    assert_dirty a.qcow2 b23 "7M 64K"
    assert_dirty a.qcow2 b01 "0 1M"
    assert_same_json "$(bitmaps a.qcow2 | jq 'map([.name, .granularity, .flags])')" \
        '[["b12", 65536, []], ["b23", 4096, []], ["b01", 65536, ["auto"]]]'
    run -1 qcow-bitmap --from-states one two a.qcow2 b12
    assert_output_has "Operation from-states on bitmap b12 failed: Bitmap already exists: b12"
    remember_image a.qcow2
    run -1 qcow-bitmap --from-states one three a.qcow2 other
    assert_output_has "three"
    assert_image_unchanged a.qcow2
}

@test "bitmap --from-states: states of other sizes than the disk, and the backing file" {
    require nbdinfo
    make_image base.qcow2 2M
    guest_write base.qcow2 0 2M A
    make_image a.qcow2 6M -b base.qcow2 -F qcow2
    guest_write a.qcow2 5M 64k B
    snapshot a.qcow2 large
    qemu-img resize -q --shrink a.qcow2 3M
    guest_write a.qcow2 1M 64k C
    qcow-bitmap --from-states large @active a.qcow2 shrunk
    qcow-bitmap --from-states @backing large a.qcow2 above
    qcow-bitmap --from-states @backing @active a.qcow2 own
    assert_dirty a.qcow2 shrunk "1M 64K"
    assert_dirty a.qcow2 above
    assert_dirty a.qcow2 own "1M 64K"
    qcow-snapshot -a large a.qcow2
    qcow-bitmap --from-states @backing large a.qcow2 whole
    assert_dirty a.qcow2 whole "5M 64K"
    assert_clean a.qcow2
}

# ---- changes of the disk -----------------------------------------------------------------------------

# tracked SIZE: a.qcow2 with an enabled, a fine enabled, a disabled bitmap, and one that is in use
tracked() {
    make_image a.qcow2 "$1"
    guest_write a.qcow2 0 1M A
    snapshot a.qcow2 one
    guest_write a.qcow2 512k 200k B
    guest_write a.qcow2 3M 64k B
    qemu-img bitmap --add a.qcow2 broken
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    kill_daemon "$daemon_pid"
    qcow-bitmap --add a.qcow2 b
    qcow-bitmap --add -g 512 a.qcow2 fine
    qcow-bitmap --add a.qcow2 still
    guest_write a.qcow2 2M 512 C
    qcow-bitmap --disable a.qcow2 still
}

assert_broken_stays() {
    assert_same_json "$(bitmaps a.qcow2 | jq '[.[] | select(.flags | index("in-use"))] | map(.name)')" '["broken"]'
}

@test "snapshot -a: enabled bitmaps get the change, others stay" {
    require nbdinfo
    tracked 4M
    qcow-snapshot -a one a.qcow2
    assert_clean a.qcow2
    assert_broken_stays
    qcow-bitmap --remove a.qcow2 broken
    assert_dirty a.qcow2 b "512K 256K" "2M 64K" "3M 64K"
    assert_dirty a.qcow2 fine "512K 256K" "2M 64K" "3M 64K"
    assert_dirty a.qcow2 still "2M 64K"
    guest_write a.qcow2 0 64k D
    assert_dirty a.qcow2 b "0 64K" "512K 256K" "2M 64K" "3M 64K"
    assert_clean a.qcow2
}

@test "snapshot -a: bitmaps follow the size of the snapshot" {
    require nbdinfo
    tracked 4M
    qemu-img bitmap --remove a.qcow2 broken
    qcow-resize -q --shrink a.qcow2 3M
    qcow-snapshot -c small a.qcow2
    qcow-resize -q a.qcow2 5G
    assert_clean a.qcow2
    assert_dirty a.qcow2 fine "2M 512" "3M 5365563392"
    qcow-snapshot -a small a.qcow2
    assert_clean a.qcow2
    assert_dirty a.qcow2 still "2M 64K"
    assert_dirty a.qcow2 b "2M 64K"
    qcow-bitmap --clear a.qcow2 b
    qcow-snapshot -a one a.qcow2
    assert_clean a.qcow2
    [[ $(virtual_size a.qcow2) == 4194304 ]]
    assert_dirty a.qcow2 b "512K 256K" "2M 64K" "3M 1M"
}

@test "snapshot -a: the same snapshot twice marks nothing" {
    require nbdinfo
    make_image a.qcow2 4M
    guest_write a.qcow2 0 1M A
    snapshot a.qcow2 one
    qcow-bitmap --add a.qcow2 b
    qcow-snapshot -a one a.qcow2
    assert_dirty a.qcow2 b
}

@test "import-delta: enabled bitmaps get what the delta carries" {
    require nbdinfo
    make_image a.qcow2 4M
    guest_write a.qcow2 0 1M A
    snapshot a.qcow2 one
    cp a.qcow2 source.qcow2
    guest_write source.qcow2 512k 100k B
    guest_zero source.qcow2 64k 64k
    qemu-img resize -q source.qcow2 6M
    snapshot source.qcow2 two
    qcow-export-delta -q source.qcow2 one two d.qcow2
    for name in b still; do
        qcow-bitmap --add a.qcow2 "$name"
    done
    qcow-bitmap --disable a.qcow2 still
    qcow-import-delta -q --name two d.qcow2 a.qcow2
    assert_clean a.qcow2
    assert_dirty a.qcow2 b "64K 64K" "512K 128K" "4M 2M"
    assert_dirty a.qcow2 still
    assert_same_content a.qcow2 source.qcow2
}

@test "resize: bitmaps follow, and what an enabled one gains is dirty" {
    require nbdinfo
    tracked 4M
    qcow-resize -q a.qcow2 7M
    assert_clean a.qcow2
    assert_broken_stays
    qemu-img bitmap --remove a.qcow2 broken
    assert_dirty a.qcow2 b "2M 64K" "4M 3M"
    assert_dirty a.qcow2 fine "2M 512" "4M 3M"
    assert_dirty a.qcow2 still "2M 64K"
    qcow-resize -q --shrink a.qcow2 2M
    assert_clean a.qcow2
    for name in b fine still; do
        assert_dirty a.qcow2 "$name"
    done
    guest_write a.qcow2 1M 512 C
    assert_dirty a.qcow2 fine "1M 512"
}

@test "resize: a disk too large for a bitmap is refused, and nothing is written" {
    make_image a.qcow2 1G
    qcow-bitmap --add -g 512 a.qcow2 b
    remember_image a.qcow2
    run -1 qcow-resize a.qcow2 4T
    assert_output_has "bitmap 'b'" "Use larger granularity"
    assert_guest_zero a.qcow2 0 64k
    assert_clean a.qcow2
    [[ $(virtual_size a.qcow2) == 1073741824 ]]
}

# ---- bad input, full disks ---------------------------------------------------------------------------

# changed_or_refused IMAGE COMMAND…: a command that fails changes no byte; one that succeeds leaves bitmaps for QEMU
changed_or_refused() {
    local image=$1 status=0
    shift
    cp "$HOSTILE/$image" "$image"
    timeout 60 "$@" >out 2>err || status=$?
    if ((status == 0)); then
        qemu-img info "$image" >/dev/null 2>&1 || ! qemu-img info "$HOSTILE/$image" >/dev/null 2>&1 ||
            fail "$* on $image: QEMU cannot read it any more" || return
    elif ((status != 1)); then
        fail "$* on $image: exit $status: $(cat err)" || return
    else
        cmp "$HOSTILE/$image" "$image" || fail "$* failed and changed $image: $(cat err)" || return
    fi
}

@test "bitmap: hostile directories and tables are refused before the first write" {
    local image
    HOSTILE=$BATS_TEST_DIRNAME/../images/hostile
    for image in "$HOSTILE"/*bitmap*.qcow2; do
        image=${image##*/}
        changed_or_refused "$image" qcow-bitmap --add "$image" new
        changed_or_refused "$image" qcow-bitmap --clear "$image" b
        changed_or_refused "$image" qcow-bitmap --remove "$image" b
        changed_or_refused "$image" qcow-bitmap --from-states @empty @active --enable "$image" new
        changed_or_refused "$image" qcow-resize -q "$image" 100M
        changed_or_refused "$image" qcow-snapshot -a 1 "$image"
    done
    cp "$HOSTILE/bitmap-entry-unaligned.qcow2" a.qcow2
    run -1 qcow-bitmap --add a.qcow2 new
    assert_output_has "bitmap table: entry 0" "is not cluster aligned"
}

@test "bitmap: a full disk leaves the image as it was" {
    small_disk 2M
    make_image small/a.qcow2 1G -o cluster_size=4k
    qcow-bitmap --add -g 512 small/a.qcow2 b
    qcow-snapshot -c one small/a.qcow2
    guest_write small/a.qcow2 1M 64k A
    fallocate -l 1M small/filler
    while dd if=/dev/zero bs=4096 count=1 >>small/filler 2>/dev/null; do :; done
    cp --sparse=always small/a.qcow2 before.qcow2
    run -1 qcow-bitmap --add -g 512 --merge b small/a.qcow2 c
    assert_output_has "No space left" "as it was" "same command again"
    cp --sparse=always small/a.qcow2 after.qcow2
    assert_clean after.qcow2
    [[ $(bitmaps after.qcow2) == "$(bitmaps before.qcow2)" ]]
    assert_same_content before.qcow2 after.qcow2
}
