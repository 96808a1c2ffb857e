#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow-check -r: the cases of QEMU's own tests (060, 108, 112, 138, 261) and more, judged by qemu-img check and by
# what QEMU reads before and after.

load helpers

# A small image with clusters of 64 KiB has its parts here; the first data cluster follows.
reftable=0x10000 refblock=0x20000 l1=0x30000 l2=0x40000

fresh() {
    rm -f a.qcow2
    make_image a.qcow2 16M "$@"
}

with_data() {
    fresh "$@"
    guest_write a.qcow2 0 512 A
}

# with_past [CREATE-OPTION…]: two snapshots, streams and zeros as well
with_past() {
    with_data "$@"
    snapshot a.qcow2 one
    guest_write a.qcow2 64K 128K B
    guest_write_compressed a.qcow2 1M 64K C
    snapshot a.qcow2 two
    guest_write a.qcow2 0 64K D
}

# reads IMAGE: what QEMU reads of the active layer and of each snapshot
reads() {
    local id
    qemu-img convert -f qcow2 -O raw "$1" reads.raw && sha256sum <reads.raw
    for id in $(qemu-img info -U --output=json "$1" | jq -r '.snapshots[]?.id'); do
        qemu-img convert -f qcow2 -O raw -l "snapshot.id=$id" "$1" reads.raw && echo "$id" && sha256sum <reads.raw
    done
    rm -f reads.raw
}

# rests STATUS WHAT: the same repair again ends so, and writes nothing
rests() {
    cp a.qcow2 rests.qcow2
    run -"$1" qcow-check -r "$2" a.qcow2
    cmp a.qcow2 rests.qcow2 || fail "written to again"
}

# repaired WHAT [PATTERN…]: the image is clean then, for each QEMU, and reads as before
repaired() {
    local what=$1 before pattern
    shift
    cp a.qcow2 damaged.qcow2
    before=$(reads a.qcow2)
    run qcow-check -r "$what" a.qcow2
    [[ $status == 0 ]] || fail "-r $what: exit $status: $output" || return
    for pattern; do
        assert_output_has "$pattern" || return
    done
    each_qemu qemu-img check -q a.qcow2 || fail "not clean: $output" || return
    [[ $(reads a.qcow2) == "$before" ]] || fail "reads otherwise: $output" || return
    rests 0 "$what"
}

# left_alone WHAT STATUS [PATTERN…]: nothing can be done, and this is said
left_alone() {
    local what=$1 expected=$2 pattern
    shift 2
    cp a.qcow2 damaged.qcow2
    run qcow-check -r "$what" a.qcow2
    [[ $status == "$expected" ]] || fail "-r $what: exit $status: $output" || return
    for pattern; do
        assert_output_has "$pattern" || return
    done
    cmp a.qcow2 damaged.qcow2 || fail "written to"
}

# same_words WHAT: findings, summary and exit code are those of qemu-img check; the file may end elsewhere
same_words() {
    local ours=0 theirs=0
    cp a.qcow2 damaged.qcow2
    qemu-img check -r "$1" a.qcow2 >theirs 2>theirs.err || theirs=$?
    cp damaged.qcow2 a.qcow2
    qcow-check -r "$1" a.qcow2 >ours 2>ours.err || ours=$?
    [[ $ours == "$theirs" ]] || fail "exit $ours, qemu-img's $theirs: $(cat ours.err)" || return
    diff -u <(grep -v '^Image end' theirs) <(grep -v '^Image end' ours) >&2 || fail "summary" || return
    diff -u <(sort theirs.err) <(sort ours.err) >&2 || fail "findings" || return
    cp damaged.qcow2 a.qcow2
    [[ $(json_numbers qcow-check "$1") == "$(json_numbers qemu-img check "$1")" ]] || fail "json" || return
    cp damaged.qcow2 a.qcow2
}

json_numbers() {
    local what=${*: -1}
    set -- "${@:1:$#-1}"
    cp damaged.qcow2 a.qcow2
    "$@" -r "$what" --output=json a.qcow2 2>/dev/null | jq -S 'del(.filename, .qcow, .["image-end-offset"])'
}

set_refcount() {
    poke a.qcow2 $((refblock + $1 * 2)) "$(printf %04x "$2")"
}

leak_at_the_end() {
    truncate -s %64K a.qcow2
    truncate -s +64K a.qcow2
    set_refcount $(($(stat -c %s a.qcow2) / 65536 - 1)) 1
}

# ---- nothing to do ---------------------------------------------------------------------------------------

@test "repair: a clean image is not written to, its snapshots and bitmaps stay" {
    local what
    with_past
    qemu-img bitmap --add a.qcow2 b0
    guest_write a.qcow2 2M 64K E
    cp a.qcow2 clean.qcow2
    touch -d @0 a.qcow2
    for what in leaks all; do
        run -0 qcow-check -r $what a.qcow2
        assert_output_has "No errors were found on the image."
        refute_output_has "repaired"
        cmp a.qcow2 clean.qcow2
        [[ $(stat -c %Y a.qcow2) == 0 ]]
    done
}

@test "repair: a clean image of every shape is not written to" {
    local options
    for options in cluster_size=512 cluster_size=2M refcount_bits=1 refcount_bits=64 compat=0.10 extended_l2=on \
        compression_type=zstd lazy_refcounts=on preallocation=metadata data_file=a.data; do
        with_data -o "$options"
        left_alone all 0 "No errors were found" || fail "$options"
    done
}

@test "repair: the dirty and the corrupt bit go when nothing else is wrong" {
    local what
    for what in leaks all; do
        with_past
        poke a.qcow2 0x4f 03
        repaired $what "No errors were found on the image."
        [[ $(peek a.qcow2 0x48 8) == 0000000000000000 ]]
        guest_write a.qcow2 3M 64K F
    done
}

# ---- leaks -----------------------------------------------------------------------------------------------

@test "repair: leaked clusters become free, in the words of qemu-img" {
    local what
    for what in leaks all; do
        with_past
        leak_at_the_end
        same_words $what
        repaired $what "Repairing cluster" "    1 leaked clusters" "    0 corruptions" "Double checking the fixed image now..."
    done
}

@test "repair: a count that is too high under a COPIED flag is one leak" {
    with_data
    set_refcount 5 2
    same_words leaks
    same_words all
    repaired leaks "    1 leaked clusters" "    0 corruptions"
}

@test "repair: -r leaks sets flags when nothing else is wrong, and only then" {
    with_data
    leak_at_the_end
    poke a.qcow2 $l2 0000000000050000
    same_words leaks
    repaired leaks "Repairing OFLAG_COPIED data cluster: l2_entry=50000 refcount=1"
    with_data
    leak_at_the_end
    poke a.qcow2 $l2 0000000000050000
    poke a.qcow2 $((l2 + 8)) 0000000000050000
    same_words leaks
    run -2 qcow-check -r leaks a.qcow2
    assert_output_has "    1 leaked clusters" "ERROR cluster 5 refcount=1 reference=2"
    rests 2 leaks
}

@test "repair: -r leaks refuses where refcounts have to be made anew, and says what does it" {
    with_data
    set_refcount 5 0
    left_alone leaks 1 "ERROR cluster 5 refcount=0 reference=1" "ERROR need to rebuild refcount structures" \
        "Check failed: refcount blocks have to be made anew, which -r all does"
    repaired all "Rebuilding refcount structure" "    1 corruptions"
}

@test "repair: -r leaks keeps snapshots and bitmaps" {
    with_past
    qemu-img bitmap --add a.qcow2 b0
    leak_at_the_end
    repaired leaks
    [[ $(qemu-img snapshot -l a.qcow2 | grep -c 20) == 2 ]]
    [[ $(qemu-img info --output=json a.qcow2 | jq -r '.["format-specific"].data.bitmaps[].name') == b0 ]]
}

# ---- refcounts of every width, and the structures that hold them ------------------------------------------

@test "repair: refcounts of every width" {
    local bits at
    for bits in 2 4 8 16 32 64; do
        with_past -o "refcount_bits=$bits"
        cp a.qcow2 sound.qcow2
        for at in 0000000000000000 ffffffffffffffff 5555555555555555 0102040810204080; do
            cp sound.qcow2 a.qcow2
            poke a.qcow2 $((refblock + bits / 2)) $at
            repaired all || fail "$bits bits, $at"
        done
    done
    with_data -o refcount_bits=1
    poke a.qcow2 $refblock 00ff
    repaired all
}

@test "repair: the highest bit of a refcount of 64 bits" {
    with_data -o refcount_bits=64
    poke a.qcow2 $((refblock + 40)) 8000000000000000
    poke a.qcow2 $l2 0000000000050000
    repaired leaks "Repairing cluster 5 refcount=9223372036854775808 reference=1"
}

@test "repair: refcount blocks that are not there, or where none can be" {
    local entry
    for entry in 0000000000000000 0000000000022a00 0000000000020001 0000000000030000 0000000000050000 \
        00000000ffff0000 7fffffffffff0000 ffffffffffff0000; do
        with_past
        poke a.qcow2 $reftable $entry
        repaired all || fail "$entry"
        with_past
        poke a.qcow2 $((reftable + 8)) $entry
        [[ $entry == 0000000000000000 ]] || repaired all || fail "second entry $entry"
    done
}

@test "repair: two entries for one refcount block; an empty block; a block that data is in" {
    with_past
    poke a.qcow2 $((reftable + 8)) 0000000000020000
    repaired all "ERROR refcount block 1 refcount=2" "Rebuilding refcount structure"
    with_past
    head -c 65536 /dev/zero | dd of=a.qcow2 bs=64K seek=2 conv=notrunc status=none
    repaired all "Rebuilding refcount structure"
    with_past
    poke a.qcow2 $((l2 + 128)) 8000000000020000
    repaired all "ERROR refcount block 0 refcount=2"
}

@test "repair: a refcount table that is not there, is empty, or is where none can be" {
    local bytes
    for bytes in "56 00000000" "48 0000000000000000" "48 0000000000000200" "48 7fffffffffff0000" "48 0000000000050000" \
        "56 ffffffff" "48 ffffffffffffffff"; do
        with_past
        # shellcheck disable=SC2086  # two words
        poke a.qcow2 $bytes
        cp a.qcow2 damaged.qcow2
        run -0 qcow-check -r all a.qcow2
        assert_output_has "Rebuilding refcount structure"
        each_qemu qemu-img check -q a.qcow2
        with_past
        [[ $(reads a.qcow2) == "$(cp damaged.qcow2 a.qcow2 && qcow-check -q -r all a.qcow2 2>/dev/null && reads a.qcow2)" ]] ||
            fail "bytes $bytes"
    done
}

@test "repair: other commands refuse what only a repair can open, and name it" {
    with_past
    poke a.qcow2 0x4f 02
    run -1 qcow-snapshot -c three a.qcow2
    assert_output_has "qcow-check -r all"
    poke a.qcow2 56 00000000
    run -1 qcow-info a.qcow2
    run -1 qcow-check a.qcow2
    repaired_without_reading
}

repaired_without_reading() {
    run -0 qcow-check -r all a.qcow2
    each_qemu qemu-img check -q a.qcow2
}

@test "repair: a large image of small clusters, all of whose refcounts are gone" {
    rm -f a.qcow2
    make_image a.qcow2 64M -o cluster_size=512,refcount_bits=64
    guest_write_random a.qcow2 0 3M 1
    local at
    at=$(peek_be a.qcow2 48 8)
    head -c 512 /dev/zero | dd of=a.qcow2 bs=512 seek=$((at / 512)) conv=notrunc status=none
    repaired all "Rebuilding refcount structure"
    guest_write a.qcow2 1M 2M B
    qemu-img check -q a.qcow2
}

# ---- flags and entries -----------------------------------------------------------------------------------

@test "repair: COPIED flags of tables and clusters" {
    local flags
    for flags in 80 00; do
        with_past
        [[ $flags == 00 ]] || snapshot a.qcow2 three
        poke a.qcow2 "$(peek_be a.qcow2 40 8)" $flags
        same_words all
        repaired all "Repairing OFLAG_COPIED L2 cluster: l1_index=0"
    done
    with_data
    poke a.qcow2 $l2 0000000000050000
    same_words all
    repaired all "Repairing OFLAG_COPIED data cluster: l2_entry=50000 refcount=1" "    1 corruptions"
    with_data -o data_file=a.data
    poke a.qcow2 $l2 0000000000050000
    repaired all "Repairing OFLAG_COPIED data cluster: l2_entry=50000 refcount=1"
}

@test "repair: a count that is too low, and flags that follow from it" {
    with_data
    poke a.qcow2 $((l2 + 8)) 8000000000050000
    same_words all
    repaired all "Repairing cluster 5 refcount=1 reference=2" \
        "Repairing OFLAG_COPIED data cluster: l2_entry=8000000000050000 refcount=2" "    3 corruptions"
}

@test "repair: a preallocated cluster where none can be becomes a plain zero cluster" {
    local entry
    with_past
    poke a.qcow2 "$(active_l2)" 8000000000052a01
    repaired_but_for_unreadable "Preallocated cluster is not properly aligned; L2 entry corrupted."
    guest_read_is_zero
    with_past -o extended_l2=on
    entry=$(active_l2)
    poke a.qcow2 "$entry" 8000000000052a00
    poke a.qcow2 $((entry + 8)) ffffffff00000000
    repaired_but_for_unreadable "Repairing offset=52a00: Preallocated cluster is not properly aligned"
    guest_read_is_zero
    # Past the end of the file the guest read zeros before, too.
    with_past
    poke a.qcow2 "$(active_l2)" 0000000100000001
    repaired all "counting reference for region exceeding the end of the file"
    guest_read_is_zero
}

active_l2() {
    echo $(($(peek_be a.qcow2 "$(peek_be a.qcow2 40 8)" 8) & 0xfffffffffffe00))
}

repaired_but_for_unreadable() {
    run -0 qcow-check -r all a.qcow2
    assert_output_has "$@"
    each_qemu qemu-img check -q a.qcow2
    rests 0 all
}

guest_read_is_zero() {
    qemu-io -r -c 'read -q -P 0 0 64k' a.qcow2
}

@test "repair: reserved bits in L1 and L2 entries, of snapshots as well" {
    with_past
    poke a.qcow2 "$(active_l2)" 81
    poke a.qcow2 $l2 01
    poke a.qcow2 $(($(peek_be a.qcow2 "$(peek_be a.qcow2 64 8)" 8) + 7)) 08
    repaired all "ERROR found l2 entry with reserved bits set"
    with_data -o extended_l2=on
    poke a.qcow2 $((l2 + 7)) 01
    repaired all
}

@test "repair: compressed clusters with what they cannot have stay readable" {
    fresh
    guest_write_compressed a.qcow2 0 64K A
    poke a.qcow2 $l2 c0
    repaired all "copied flag must never be set for compressed clusters"
    fresh -o extended_l2=on
    guest_write_compressed a.qcow2 0 64K A
    poke a.qcow2 $((l2 + 8)) 0000000000000001
    run -0 qcow-check -r all a.qcow2
    qemu-io -r -c 'read -q -P 65 0 64k' a.qcow2
    qemu-img check -q a.qcow2
}

@test "repair: more references than a refcount can hold: refcounts get more bits" {
    with_data -o refcount_bits=1
    poke a.qcow2 $((l2 + 8)) 8000000000050000
    poke a.qcow2 $((l2 + 16)) 8000000000050000
    left_alone leaks 2 "ERROR: overflow cluster offset=0x50000"
    repaired all "Rebuilding refcount structure with 2 bits each"
    [[ $(qemu-img info --output=json a.qcow2 | jq '.["format-specific"].data["refcount-bits"]') == 2 ]]
    guest_write a.qcow2 64K 64K B
    assert_guest a.qcow2 0 512 A
    qemu-img check -q a.qcow2
}

# ---- overlaps --------------------------------------------------------------------------------------------

@test "repair: structures that share a cluster with something else get one of their own" {
    with_past
    poke a.qcow2 $(($(active_l2) + 1024)) "80$(printf %014x "$(active_l2)")"      # data: the table that maps it
    repaired all "ERROR overlap: L2 table"
    with_past
    poke a.qcow2 $(($(active_l2) + 1024)) "80$(printf %014x "$l2")"               # data: a snapshot's table
    repaired all "ERROR overlap: L2 table"
    with_past
    poke a.qcow2 $(($(active_l2) + 1024)) "80$(printf %014x "$(peek_be a.qcow2 40 8)")"    # data: the L1 table
    repaired all "ERROR overlap: L1 table"
    with_past
    poke a.qcow2 $(($(active_l2) + 1024)) "80$(printf %014x "$(peek_be a.qcow2 64 8)")"    # data: the snapshot table
    repaired all "ERROR overlap: snapshot table"
    with_past
    poke a.qcow2 $(($(active_l2) + 1024)) "80$(printf %014x $reftable)"           # data: the refcount table
    repaired all
    # Two snapshots with one L1 table.
    with_past
    poke a.qcow2 "$(peek_be a.qcow2 64 8)" "$(printf %016x "$(peek_be a.qcow2 40 8)")"
    repaired all "ERROR overlap: L1 table"
}

@test "repair: an L1 table that is its own L2 table" {
    fresh
    poke a.qcow2 $l1 8000000000030000
    repaired_but_for_unreadable "ERROR overlap: L1 table at offset=0x30000"
}

# ---- snapshot tables -------------------------------------------------------------------------------------

# rewrite_entry EXTRA-LENGTH: the entry of snapshot 'one' with so much extra data, what was there before first
rewrite_entry() {
    local entry extra
    entry=$(peek_be a.qcow2 64 8)
    extra=$(peek_be a.qcow2 $((entry + 36)) 4)
    tail -c +$((entry + 41)) a.qcow2 | head -c "$extra" >extra.bin
    tail -c +$((entry + 41 + extra)) a.qcow2 | head -c 4 >names.bin
    { head -c "$1" extra.bin && head -c $(($1 > extra ? $1 - extra : 0)) /dev/zero && cat names.bin; } |
        dd of=a.qcow2 bs=1 seek=$((entry + 40)) conv=notrunc status=none
    poke a.qcow2 $((entry + 36)) "$(printf %08x "$1")"
}

one_snapshot() {
    with_data
    snapshot a.qcow2 one
    guest_write a.qcow2 0 64K B
    truncate -s +64K a.qcow2
}

@test "repair: extra data that is missing in the snapshot table is made up as QEMU reads it" {
    local len
    for len in 0 8; do
        one_snapshot
        rewrite_entry $len
        same_words all
        repaired all "Repairing snapshot table entry 0 is incomplete" "    1 corruptions"
        [[ $(qemu-img snapshot -l a.qcow2 | grep -c one) == 1 ]]
    done
}

@test "repair: too much extra data in the snapshot table is cut" {
    one_snapshot
    rewrite_entry 1025
    left_alone leaks 1 "extra data of 1025 bytes"
    same_words all
    run -0 qcow-check -r all a.qcow2
    assert_output_has "Discarding too much extra metadata in snapshot table entry 0 (1025 > 1024)" "    1 corruptions"
    each_qemu qemu-img check -q a.qcow2
    [[ $(qemu-img snapshot -l a.qcow2 | grep -c one) == 1 ]]
    rests 0 all
}

@test "repair: a snapshot table that the file does not hold is not guessed" {
    one_snapshot
    truncate -s $(($(peek_be a.qcow2 64 8) + 20)) a.qcow2
    left_alone all 1 "the snapshot table at 0x"
    one_snapshot
    poke a.qcow2 64 0000000100000000
    left_alone all 1 "the snapshot table at 0x100000000 reaches past the end of the file"
}

# ---- what stays ------------------------------------------------------------------------------------------

@test "repair: what only a guess could repair is said, and stays: exit 2" {
    with_past
    poke a.qcow2 "$(active_l2)" 8000000000052a00
    run -2 qcow-check -r all a.qcow2
    assert_output_has "Data cluster is not properly aligned; L2 entry corrupted." "errors were found on the image."
    rests 2 all
    with_past -o extended_l2=on
    poke a.qcow2 $(($(active_l2) + 8)) 0000000100000001
    left_alone all 2 "Allocated cluster has corrupted subcluster allocation bitmap"
    with_past
    poke a.qcow2 "$(active_l2)" 8000000100000000
    run -2 qcow-check -r all a.qcow2
    assert_output_has "counting reference for region exceeding the end of the file"
    rests 2 all
    poke a.qcow2 0x4f 02
    rests 2 all
    [[ $(peek a.qcow2 0x4f 1) == 02 ]] || fail "marked as sound"
}

@test "repair: a file that was cut is not grown over what it lost" {
    local size
    with_past
    set_refcount 1 2
    size=$(peek_be a.qcow2 "$(active_l2)" 8)
    size=$((size & 0xfffffffffffe00))
    truncate -s "$size" a.qcow2
    left_alone all 2 "ERROR nothing is repaired: something past the end of the file is referred to, at $(printf 0x%x "$size")"
}

@test "repair: bitmaps whose tables are wrong are reported" {
    local directory table
    fresh
    qemu-img bitmap --add a.qcow2 b0
    guest_write a.qcow2 0 512 A
    directory=$(peek_be a.qcow2 $(($(grep -abo $'\x23\x85\x28\x75' a.qcow2 | head -1 | cut -d: -f1) + 24)) 8)
    table=$(peek_be a.qcow2 "$directory" 8)
    poke a.qcow2 $((table + 7)) 02
    run -2 qcow-check -r all a.qcow2
    assert_output_has "ERROR bitmap table entry at offset="
    rests 2 all
}

@test "repair: a bitmap in use stays one" {
    fresh
    qemu-img bitmap --add a.qcow2 b0
    guest_write a.qcow2 0 512 A
    local directory
    directory=$(peek_be a.qcow2 $(($(grep -abo $'\x23\x85\x28\x75' a.qcow2 | head -1 | cut -d: -f1) + 24)) 8)
    poke a.qcow2 $((directory + 15)) 01
    leak_at_the_end
    run -0 qcow-check -r all a.qcow2
    [[ $(qemu-img info --output=json a.qcow2 | jq -c '.["format-specific"].data.bitmaps[0].flags') == *in-use* ]]
    each_qemu qemu-img check -q a.qcow2
}

# ---- options, locks, full disks ----------------------------------------------------------------------------

@test "repair: options as qemu-img has them" {
    with_data
    run -1 qcow-check -r some a.qcow2
    assert_output_has "Unknown option value for -r (expecting 'leaks' or 'all'): some"
    run -1 qcow-check -U -r all a.qcow2
    assert_output_has "force-share=on can only be used with read-only images"
    set_refcount 5 2
    run -0 qcow-check -q --repair=leaks a.qcow2
    refute_output_has "repaired"
    set_refcount 5 2
    run -63 qcow-check -r all -f raw a.qcow2
    assert_output_has "This image format does not support checks"
    left_alone_by_name
}

left_alone_by_name() {
    make_image base.qcow2 64M
    make_image top.qcow2 64M -b base.qcow2 -F qcow2
    rm base.qcow2
    run -0 qcow-check --untrusted -r all top.qcow2
    run -0 qcow-check --untrusted -r all --image-opts driver=qcow2,file.filename=top.qcow2
}

@test "repair: an image in use, or read by somebody with -U, is left alone" {
    with_past
    leak_at_the_end
    start_qemu_nbd nbd.sock -r -f qcow2 a.qcow2
    left_alone all 1 "lock"
    stop_daemon "$daemon_pid"
    start_daemon stdbuf -oL qemu-io -U -r -c 'read 0 1' -c 'sleep 60000' a.qcow2
    wait_until grep -q "read 1/1" daemon.log
    left_alone all 1 "lock"
    stop_daemon "$daemon_pid"
    repaired all
}

@test "repair: a full disk leaves the image as it was and says how to go on" {
    small_disk 2M
    with_past
    leak_at_the_end
    cp --sparse=never a.qcow2 small/a.qcow2
    cp a.qcow2 before.qcow2
    dd if=/dev/zero of=small/filler bs=4096 status=none 2>/dev/null || true
    run -1 qcow-check -r all small/a.qcow2
    assert_output_has "No space left" "the image is as it was" "same command again"
    cmp small/a.qcow2 before.qcow2
}
