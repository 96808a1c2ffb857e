#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats sets output and status
# qcow-check on damaged images: the cases of QEMU's own tests (060, 080, 108, 112, 121, 138, 261), judged by
# qemu-img check, and what qemu-img check does not find.

load helpers

# A small image with clusters of 64 KiB has its parts here; the first data cluster follows.
reftable=0x10000 refblock=0x20000 l1=0x30000 l2=0x40000 data=0x50000

# check_json COMMAND…: what it prints into $result, its findings into $findings, its exit code into $code
check_json() {
    code=0
    result=$("$@" --output=json a.qcow2 2>findings) || code=$?
    findings=$(grep -E '^(ERROR|Leaked|Can)' findings | sort -u) || true
}

numbers() {
    jq -S 'del(.filename, .qcow)' <<<"$1"
}

# same_verdict: qcow-check finds what qemu-img check finds, as often, and nothing else is corrupt
same_verdict() {
    local result findings code theirs their_findings their_code
    check_json qemu-img check
    theirs=$result their_findings=$findings their_code=$code
    check_json qcow-check
    [[ $code == "$their_code" ]] || fail "exit code $code, qemu-img's $their_code: $findings" || return
    diff -u <(numbers "$theirs") <(numbers "$result") >&2 || fail "numbers: $findings" || return
    # What QEMU says of every cluster without a readable refcount is said once of each block.
    local missing
    missing=$(comm -23 <(grep -v "^Can't get" <<<"$their_findings") <(echo "$findings"))
    [[ -z $missing ]] || fail "not found: $missing"
}

# corrupt N [PATTERN…]: same_verdict, and it is one of N corruptions with these words
corrupt() {
    local n=$1 pattern
    same_verdict || return
    shift
    run qcow-check --output=json a.qcow2
    [[ $status == 2 ]] || fail "exit code $status: $output" || return
    for pattern; do
        assert_output_has "$pattern" || return
    done
    n_corruptions "$n"
}

n_corruptions() {
    local n
    n=$(qcow-check --output=json a.qcow2 2>/dev/null | jq .corruptions) || true
    [[ $n == "$1" ]] || fail "$n corruptions, not $1: $output"
}

# more COUNT PATTERN…: COUNT corruptions with these words, none of which qemu-img check sees
more() {
    local count=$1 pattern
    shift
    run qemu-img check -q a.qcow2
    [[ $status != 2 ]] || fail "qemu-img sees it: $output" || return
    run qcow-check a.qcow2
    [[ $status == 2 ]] || fail "exit code $status: $output" || return
    for pattern; do
        assert_output_has "$pattern" || return
    done
    run qcow-check --output=json a.qcow2
    assert_json_of_stdout ".corruptions == $count and .qcow[\"additional-corruptions\"] == $count"
}

assert_json_of_stdout() {
    qcow-check --output=json a.qcow2 2>/dev/null | jq -e "$1" >/dev/null || fail "not true: $1: $output"
}

# not_opened PATTERN: neither opens it, and ours says why
not_opened() {
    run qemu-img check a.qcow2
    [[ $status == 1 ]] || fail "qemu-img: exit code $status" || return
    run qcow-check a.qcow2
    [[ $status == 1 ]] || fail "exit code $status: $output" || return
    assert_output_has "a.qcow2" "$1"
}

fresh() {
    rm -f a.qcow2
    make_image a.qcow2 64M "$@"
}

with_data() {
    fresh "$@"
    guest_write a.qcow2 0 512 A
}

# ---- 060: overlaps, and entries that cannot be ------------------------------------------------------------

@test "check: an L2 table in the L1 table" {
    fresh
    poke a.qcow2 $l1 8000000000030000
    corrupt 1 "ERROR cluster 3 refcount=1 reference=3" "ERROR overlap: L1 table at offset=0x30000" \
        "ERROR overlap: L2 table at offset=0x30000"
}

@test "check: data in a refcount block" {
    fresh
    truncate -s $((l2 + 65536)) a.qcow2
    poke a.qcow2 $l1 8000000000040000
    poke a.qcow2 $((refblock + 8)) 0001
    poke a.qcow2 $l2 8000000000020000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR refcount block 0 refcount=2"
}

@test "check: data in the L2 table of a snapshot" {
    with_data
    snapshot a.qcow2 foo
    guest_write a.qcow2 0 512 B
    poke a.qcow2 0x80000 8000000000040000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR cluster 4 refcount=1 reference=2" "ERROR overlap: L2 table at offset=0x40000"
}

@test "check: a header that counts as free" {
    fresh
    poke a.qcow2 $refblock 0000
    corrupt 1 "ERROR cluster 0 refcount=0 reference=1"
}

@test "check: entries that are not aligned" {
    with_data
    poke a.qcow2 $l1 8000000000042a00
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR l2_offset=42a00: Table is not cluster aligned; L1 entry corrupted"

    with_data
    poke a.qcow2 $l2 8000000000052a00
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR offset=52a00: Data cluster is not properly aligned; L2 entry corrupted."

    with_data
    poke a.qcow2 $l2 8000000000052a01
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR offset=52a00: Preallocated cluster is not properly aligned; L2 entry corrupted."
}

@test "check: a refcount table entry that is not aligned: refcounts cannot be checked, exit 1" {
    with_data
    poke a.qcow2 $reftable 0000000000022a00
    same_verdict
    run -1 qcow-check a.qcow2
    assert_output_has "ERROR refcount block 0 is not cluster aligned; refcount table entry corrupted" \
        "6 internal errors have occurred during the check."
}

@test "check: empty refcount table, empty refcount block, no COPIED flag right" {
    with_data
    poke a.qcow2 $reftable 0000000000000000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR cluster 5 refcount=0 reference=1" \
        "ERROR OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=8000000000040000 refcount=0" \
        "ERROR OFLAG_COPIED data cluster: l2_entry=8000000000050000 refcount=0"
    with_data
    poke a.qcow2 $refblock 0000000000000000
    same_verdict
}

@test "check: refcount table where it cannot be" {
    with_data
    poke a.qcow2 48 0000000000000000
    same_verdict
    with_data
    poke a.qcow2 48 0000000000000200
    not_opened "refcount table offset 0x200 is not cluster aligned"
}

@test "check: without a refcount table an image is not checked" {
    # qemu-img check lists every cluster, but opens the image for nothing else.
    with_data
    poke a.qcow2 56 00000000
    run -1 qcow-check a.qcow2
    assert_output_has "a.qcow2" "refcount_table_clusters is 0"
}

@test "check: a dirty and corrupt image" {
    with_data
    poke a.qcow2 $reftable 00000000ffff2a00
    poke a.qcow2 0x4f 03
    same_verdict
}

@test "check: refcount blocks outside of the file" {
    local entry
    for entry in 00ffffff00000000 0000001000000000 0000000000001000 0000000000000200 7fffffffffff0000 \
        ffffffffffff0000 0000000000100000 0000000000020001; do
        with_data
        poke a.qcow2 $((reftable + 8)) $entry
        same_verdict || fail "entry $entry"
    done
    with_data
    poke a.qcow2 $((reftable + 8)) 0000000000100000
    corrupt 1 "ERROR refcount block 1 is outside image"
}

@test "check: two refcount table entries for one block" {
    with_data
    poke a.qcow2 $((reftable + 8)) 0000000000020000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR refcount block 1 refcount=2"
}

# ---- 080: values that open no image -----------------------------------------------------------------------

@test "check: headers that cannot be" {
    local at
    for at in "100 ffffffff" "100 7fffffff" "56 ffffffff" "56 0002000b" "40 0000000001234567" "40 8000000000000000" \
        "36 ffffffff" "36 7fffffff" "36 00000000" "8 00000000ffffffff" "60 ffffffff" "64 1234567890abcdef" "20 00000008" \
        "20 00000016" "4 00000004" "96 00000007"; do
        with_data
        # The snapshot table is looked at only when there are some.
        poke a.qcow2 60 00000001
        # shellcheck disable=SC2086  # two words
        poke a.qcow2 $at
        not_opened "a.qcow2" || fail "bytes $at"
    done
}

@test "check: an L1 table of a snapshot that cannot be" {
    local entry
    with_data
    snapshot a.qcow2 s1
    entry=$(peek_be a.qcow2 64 8)
    cp a.qcow2 sound.qcow2
    poke a.qcow2 "$entry" 0000000000030200
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR snapshot 1 (s1) l1_offset=0x30200: L1 table is not cluster aligned"
    cp sound.qcow2 a.qcow2
    poke a.qcow2 $((entry + 8)) 10000000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR snapshot 1 (s1) l1_size=0x10000000: L1 table is too large"
    cp sound.qcow2 a.qcow2
    poke a.qcow2 "$entry" 0000000010000000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR: counting reference for region exceeding the end of the file by one cluster or more"
    cp sound.qcow2 a.qcow2
    poke a.qcow2 "$entry" 7fffffffffff0000
    run -2 qcow-check a.qcow2
}

# ---- 108, 112, 138: refcounts of every width --------------------------------------------------------------

@test "check: leaks, counts too low and too high, for each refcount width" {
    local bits at
    for bits in 1 2 4 8 16 32 64; do
        with_data -o "refcount_bits=$bits"
        qemu-img check -q a.qcow2
        cp a.qcow2 sound.qcow2
        # The refcounts of the first clusters: 8 bytes are enough to hit something for every width.
        for at in 0000000000000000 ffffffffffffffff 5555555555555555 0102040810204080; do
            poke a.qcow2 $((refblock + bits / 2)) $at
            same_verdict || fail "$bits bits, $at"
        done
        cp sound.qcow2 a.qcow2
    done
}

@test "check: the highest bit of a refcount of 64 bits" {
    with_data -o refcount_bits=64
    poke a.qcow2 $((refblock + 40)) 8000000000000000
    poke a.qcow2 $l2 0000000000050000
    same_verdict
    run -3 qcow-check a.qcow2
    assert_output_has "Leaked cluster 5 refcount=9223372036854775808 reference=1"
    poke a.qcow2 $((refblock + 40)) ffffffffffffffff
    same_verdict
}

@test "check: more references than a refcount can hold" {
    with_data -o refcount_bits=1
    poke a.qcow2 $((l2 + 8)) 8000000000050000
    poke a.qcow2 $((l2 + 16)) 8000000000050000
    corrupt 2 "ERROR: overflow cluster offset=0x50000" "Use qemu-img amend to increase the refcount entry width"
}

@test "check: offsets that are a multiple of 2^32 clusters" {
    rm -f a.qcow2
    make_image a.qcow2 512 -o cluster_size=512
    guest_write a.qcow2 0 512 A
    poke a.qcow2 $((2048 + 8)) 0080000000000000
    same_verdict
}

@test "check: entries and streams that reach past the end of the file" {
    with_data
    guest_write_compressed a.qcow2 1M 64K B
    cp a.qcow2 sound.qcow2
    local size
    size=$(stat -c %s a.qcow2)
    for cut in 1 511 512 513 4096 65535 65536 65537 131072; do
        cp sound.qcow2 a.qcow2
        truncate -s $((size - cut)) a.qcow2
        same_verdict || fail "cut by $cut"
    done
}

@test "check: a file that ends inside the structures it begins with" {
    local size
    for size in 65536 65537 131072 131073 196609 262144; do
        with_data
        truncate -s $size a.qcow2
        same_verdict || fail "size $size"
    done
}

# ---- 121, and everything that is sound ------------------------------------------------------------------

@test "check: a refcount table that has grown" {
    rm -f a.qcow2
    qemu-img create -q -f qcow2 -o cluster_size=512,preallocation=metadata a.qcow2 20M
    same_verdict
    guest_write a.qcow2 10M 3M B
    run -0 qcow-check a.qcow2
    same_verdict
}

# ---- 261: snapshot tables -------------------------------------------------------------------------------

@test "check: entries of the snapshot table with too little extra data" {
    local entry
    with_data -o compat=0.10
    snapshot a.qcow2 s1
    entry=$(peek_be a.qcow2 64 8)
    # Without extra data id and name move; they become what the extra data was.
    poke a.qcow2 $((entry + 36)) 00000000
    same_verdict
    # The same in version 3, which wants 16 bytes.
    poke a.qcow2 4 00000003
    poke a.qcow2 0x48 000000000000000000000000000000000000000000000000
    poke a.qcow2 96 0000000400000068
    corrupt 1 "ERROR snapshot table entry 0 is incomplete"
    poke a.qcow2 $((entry + 36)) 00000008
    corrupt 1 "ERROR snapshot table entry 0 is incomplete"
}

@test "check: entries of the snapshot table with unknown extra data, up to 1024 bytes" {
    local entry
    with_data
    snapshot a.qcow2 s1
    entry=$(peek_be a.qcow2 64 8)
    truncate -s +4096 a.qcow2
    poke a.qcow2 $((entry + 36)) 00000400
    same_verdict
    poke a.qcow2 $((entry + 36)) 00000401
    not_opened "extra data of 1025 bytes"
}

@test "check: a snapshot in an image with a data file" {
    with_data -o data_file=a.raw
    qemu-img create -q -f qcow2 b.qcow2 64M
    # One entry of an empty table; its cluster is behind all others.
    local at
    at=$(stat -c %s a.qcow2)
    truncate -s $((at + 65536)) a.qcow2
    poke a.qcow2 $((at + 36)) 00000010
    poke a.qcow2 60 00000001
    poke a.qcow2 64 "$(printf %016x "$at")"
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR 1 snapshots in image with data file"
}

# ---- entries of every kind ------------------------------------------------------------------------------

@test "check: compressed clusters with flags they cannot have" {
    fresh
    guest_write_compressed a.qcow2 0 64K A
    cp a.qcow2 sound.qcow2
    poke a.qcow2 $l2 c0
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "copied flag must never be set for compressed clusters"
    fresh -o extended_l2=on
    guest_write_compressed a.qcow2 0 64K A
    poke a.qcow2 $((l2 + 8)) 0000000000000001
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR compressed cluster 0 with non-zero subcluster allocation bitmap, entry=0x"
    with_data -o data_file=a.raw
    poke a.qcow2 $l2 4000000000050000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR compressed cluster 0 with data file, entry=0x4000000000050000"
}

@test "check: subclusters that are allocated and zero, or allocated nowhere" {
    with_data -o extended_l2=on
    poke a.qcow2 $((l2 + 8)) 0000000100000001
    corrupt 1 "ERROR offset=50000: Allocated cluster has corrupted subcluster allocation bitmap"
    poke a.qcow2 $((l2 + 8)) 0000000000000001
    poke a.qcow2 $((l2 + 24)) 0000000000000001
    corrupt 1 "ERROR: Unallocated cluster has non-zero subcluster allocation map"
}

@test "check: reserved bits of L1 and L2 entries" {
    with_data
    poke a.qcow2 $l2 8100000000050000
    corrupt 1 "ERROR found l2 entry with reserved bits set: 8100000000050000"
    poke a.qcow2 $l2 80000000000500fe
    corrupt 1 "ERROR found l2 entry with reserved bits set: 80000000000500fe"
    poke a.qcow2 $l1 8200000000040001
    corrupt 2 "ERROR found L1 entry with reserved bits set: 8200000000040001"
}

@test "check: COPIED flags of a data file" {
    with_data -o data_file=a.raw
    poke a.qcow2 $l2 0000000000050000
    corrupt 1 "ERROR OFLAG_COPIED data cluster: l2_entry=50000 refcount=1"
}

@test "check: what tables shared by snapshots have wrong counts for each of them, and is said once" {
    with_data
    snapshot a.qcow2 s1
    snapshot a.qcow2 s2
    poke a.qcow2 $l2 0100000000050000
    same_verdict
    run -2 qcow-check a.qcow2
    assert_output_has "3 errors were found on the image."
    [[ $(grep -c "reserved bits set" <<<"$output") == 1 ]]
}

# ---- what qemu-img check does not find ------------------------------------------------------------------

@test "check: structures that overlap although the refcounts agree" {
    # A data cluster in the L2 table that maps it.
    with_data
    poke a.qcow2 $l2 0000000000040000
    poke a.qcow2 $l1 0000000000040000
    poke a.qcow2 $((refblock + 8)) 00020000
    more 1 "ERROR overlap: L2 table at offset=0x40000: cluster 4 has 2 references, only 1 of them from there"
    # Two snapshots with one L1 table.
    with_data
    snapshot a.qcow2 s1
    local entry
    entry=$(peek_be a.qcow2 64 8)
    poke a.qcow2 "$entry" "$(printf %016x $l1)"
    qemu-img check -q -r all a.qcow2 >/dev/null || true
    more 2 "ERROR overlap: L1 table at offset=0x30000" "ERROR overlap: L1 table of snapshot 1 (s1) at offset=0x30000"
}

@test "check: bit 0 where there are no zero clusters" {
    with_data -o compat=0.10
    poke a.qcow2 $l2 8000000000050001
    more 1 "ERROR found l2 entry with reserved bits set: 8000000000050001"
    with_data -o extended_l2=on
    poke a.qcow2 $l2 8000000000050001
    more 1 "ERROR found l2 entry with reserved bits set: 8000000000050001"
}

@test "check: a snapshot whose L1 table is too small for it" {
    rm -f a.qcow2
    make_image a.qcow2 2G
    snapshot a.qcow2 s1
    poke a.qcow2 $(($(peek_be a.qcow2 64 8) + 8)) 00000003
    more 1 "ERROR snapshot 1 (s1) l1_size=0x3: L1 table is too small for 2147483648 bytes"
}

@test "check: bitmaps whose tables are wrong" {
    fresh
    qemu-img bitmap --add a.qcow2 b0
    guest_write a.qcow2 0 512 A
    cp a.qcow2 sound.qcow2
    local directory table
    directory=$(bitmap_directory)
    table=$(peek_be a.qcow2 "$directory" 8)
    same_verdict
    poke a.qcow2 "$table" 0200000000000000
    more 1 "ERROR bitmap table entry at offset=0x" "reserved bits set: 200000000000000"
    poke a.qcow2 "$table" "$(printf %016x $((data + 1)))"
    more 1 "reserved bit 0 set beside an offset"
    poke a.qcow2 "$table" "$(printf %016x $((data + 512)))"
    more 1 "offset is not cluster aligned"
    # Bits that lie where something else is.
    cp sound.qcow2 a.qcow2
    poke a.qcow2 "$table" "$(printf %016x $((0x10000)))"
    run -2 qcow-check a.qcow2
    assert_output_has "ERROR overlap: bitmap data at offset=0x10000" "ERROR overlap: refcount table at offset=0x10000"
}

@test "check: a bitmap whose table is larger than the disk needs" {
    rm -f a.qcow2
    make_image a.qcow2 64G
    qemu-img bitmap --add a.qcow2 b0
    poke a.qcow2 24 0000000800000000
    more 1 "ERROR bitmap 'b0': its table has 2 entries, the size of the disk needs 1"
}

# bitmap_directory: where it is, by the header extension of a.qcow2
bitmap_directory() {
    local at=104
    while (($(peek_be a.qcow2 $at 4) != 0x23852875)); do
        at=$((at + 8 + ($(peek_be a.qcow2 $((at + 4)) 4) + 7) / 8 * 8))
    done
    peek_be a.qcow2 $((at + 24)) 8
}

@test "check: the same over NBD, where two passes must agree" {
    require nbdkit
    with_data
    snapshot a.qcow2 s1
    poke a.qcow2 $((refblock + 10)) 0007
    poke a.qcow2 $l2 0100000000050000
    start_nbdkit a.sock -r file a.qcow2
    local file=0 nbd=0
    qcow-check a.qcow2 >file 2>file.err || file=$?
    qcow-check "nbd+unix:///?socket=a.sock" >nbd 2>nbd.err || nbd=$?
    [[ $file == 2 && $nbd == 2 ]] || fail "exit codes $file, $nbd: $(cat nbd.err)"
    diff file nbd
    diff file.err nbd.err
}

@test "check: a bitmap directory that cannot be read leaves nothing checked" {
    fresh
    qemu-img bitmap --add a.qcow2 b0
    poke a.qcow2 $(($(bitmap_directory) + 16)) ff
    not_opened "bitmap"
}
