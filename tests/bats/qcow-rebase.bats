#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Another backing file: the image and its snapshots read the same.

load helpers
load merging

# make_bases: old.qcow2 and new.qcow2, which share some contents, and top.qcow2 over the first
make_bases() {
    make_image old.qcow2 8M
    guest_write old.qcow2 0 2M A
    guest_write old.qcow2 4M 1M B
    make_image new.qcow2 8M
    guest_write new.qcow2 0 2M A
    guest_write new.qcow2 1M 64K C
    guest_write new.qcow2 6M 1M D
    make_image top.qcow2 8M -b old.qcow2 -F qcow2
    guest_write top.qcow2 512K 64K E
    guest_zero top.qcow2 768K 64K
}

# assert_rebased IMAGE RAW BACKING: clean, of these contents, over this
assert_rebased() {
    assert_clean "$1" && assert_same_content "$1" "$2" || return
    [[ $(backing "$1") == "$3" ]] || fail "$1 is over $(backing "$1")"
}

@test "rebase: over a different chain only what differs is copied" {
    make_bases
    active_raw top.qcow2 top.raw
    remember_image old.qcow2 new.qcow2
    run -0 qcow-rebase -b new.qcow2 -F qcow2 top.qcow2
    assert_output ""
    assert_image_unchanged old.qcow2 new.qcow2
    assert_rebased top.qcow2 top.raw "new.qcow2 qcow2"
    assert_delta_holds top.qcow2 "512K 64K data" "768K 64K zero" "1M 64K data" "4M 1M data" "6M 1M zero"
}

@test "rebase: the same as qemu-img leaves it" {
    make_bases
    cp top.qcow2 theirs.qcow2
    qemu-img rebase -q -b new.qcow2 -F qcow2 theirs.qcow2
    qcow-rebase -q -b new.qcow2 -F qcow2 top.qcow2
    assert_same_content top.qcow2 theirs.qcow2
    [[ $(delta_ranges top.qcow2 | awk '{ n += $2 } END { print n }') -le \
       $(delta_ranges theirs.qcow2 | awk '{ n += $2 } END { print n }') ]]
}

@test "rebase -u: only the header is written; without -b there is no backing file then" {
    make_image base.qcow2 4M
    make_image other.qcow2 4M
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    size=$(stat -c %s top.qcow2)
    qcow-rebase -u -b other.qcow2 -F qcow2 top.qcow2
    [[ $(stat -c %s top.qcow2) == "$size" ]]
    assert_clean top.qcow2
    [[ $(qemu-img info --output=json top.qcow2 | jq -r '."backing-filename"') == other.qcow2 ]]
    qcow-rebase -u top.qcow2
    [[ $(stat -c %s top.qcow2) == "$size" ]]
    [[ $(qemu-img info --output=json top.qcow2 | jq '."backing-filename"') == null ]]
    run -2 qcow-rebase top.qcow2
    assert_output_has "Must specify backing file (-b) or use unsafe mode (-u)"
    run -1 qcow-rebase -U -u top.qcow2
    assert_output_has "force-share=on can only be used with read-only images"
}

@test "rebase, pull: an encrypted image cannot get data without its key" {
    local size
    # QEMU cannot always make one: it measures its own speed for that.
    for format in luks aes; do
        gunzip -c "$QCOW_SOURCE/tests/images/golden/qemu-7.2/$format.qcow2.gz" >top.qcow2
        size=$(virtual_size top.qcow2)
        make_image base.qcow2 "$size"
        guest_write base.qcow2 0 "$size" A
        qcow-rebase -u -b base.qcow2 -F qcow2 top.qcow2
        remember_image top.qcow2
        run -1 qcow-pull top.qcow2
        assert_output_has "the image is encrypted ($format)"
        run -1 qcow-rebase -b '' top.qcow2
        assert_output_has "the image is encrypted ($format)"
        run -1 qcow-copy -n -O qcow2 base.qcow2 top.qcow2
        assert_output_has "the image is encrypted ($format)"
        assert_image_unchanged top.qcow2
    done
}

@test "rebase -u, pull: an L2 table that counts as free is found before the first write" {
    make_image base.qcow2 4M
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 0 64K A
    l1=$(peek_be top.qcow2 40 8)
    table=$(($(peek_be top.qcow2 "$l1" 8) & 0xfffffffffffe00))
    blocks=$(peek_be top.qcow2 48 8)
    poke top.qcow2 $(($(peek_be top.qcow2 "$blocks" 8) + 2 * (table >> 16))) 0000
    remember_image top.qcow2
    for command in "qcow-rebase -u -b base.qcow2 -F qcow2" qcow-pull qcow-trim; do
        run -1 $command top.qcow2
        assert_output_has "entry 0 names the L2 table at" "whose refcount is 0; run qcow-check -r all"
        assert_image_unchanged top.qcow2
    done
}

# direct_files PID: print the files that a process has open for direct I/O
direct_files() {
    local fd flags
    for fd in /proc/"$1"/fd/*; do
        flags=$(sed -n 's/^flags:[[:space:]]*//p' "/proc/$1/fdinfo/${fd##*/}")
        if ((8#$flags & 8#40000)); then
            basename "$(readlink "$fd")"
        fi
    done | sort -u | tr '\n' ' '
}

@test "rebase -T, -t: how backing files are read, and how the image is written" {
    local pid
    dd if=/dev/zero of=probe bs=4096 count=1 oflag=direct status=none 2>probe.err || skip "no direct I/O here"
    make_image old.qcow2 8M
    guest_write old.qcow2 0 8M A
    make_image new.qcow2 8M
    guest_write new.qcow2 0 8M B
    make_image top.qcow2 8M -b old.qcow2 -F qcow2
    for option in "-T none" "-t none" "-T none --dry-run"; do
        cp top.qcow2 changed.qcow2
        # shellcheck disable=SC2086  # options are words
        qcow-rebase -q --no-reflink --rate 4M $option -b new.qcow2 -F qcow2 changed.qcow2 &
        pid=$!
        sleep 0.7
        direct_files $pid >>direct
        echo >>direct
        wait $pid
        assert_guest changed.qcow2 0 8M A
    done
    [[ $(cat direct) == $'new.qcow2 old.qcow2 \nchanged.qcow2 \nnew.qcow2 old.qcow2 ' ]]
}

@test "rebase -u: the name alone, also of a file that is not there" {
    make_bases
    run -0 qcow-rebase -u -b missing.qcow2 -F qcow2 top.qcow2
    assert_output ""
    [[ $(qemu-img info --output=json top.qcow2 | jq -r '.["backing-filename"]') == missing.qcow2 ]]
    qcow-rebase -u -b new.qcow2 -F qcow2 top.qcow2
    assert_clean top.qcow2
    [[ $(backing top.qcow2) == "new.qcow2 qcow2" ]]
    assert_guest top.qcow2 6M 1M D
    qcow-rebase -u -b '' top.qcow2
    [[ $(backing top.qcow2) == "null null" ]]
    assert_guest_zero top.qcow2 6M 1M
}

@test "rebase: '' for no backing file; the image stands alone" {
    make_bases
    active_raw top.qcow2 top.raw
    qcow-rebase -q -b '' top.qcow2
    assert_rebased top.qcow2 top.raw "null null"
}

@test "rebase: an image without a backing file gets one, version 3 and version 2" {
    local compat
    for compat in 1.1 0.10; do
        make_bases
        rm top.qcow2
        make_image top.qcow2 8M -o "compat=$compat"
        guest_write top.qcow2 1M 64K E
        active_raw top.qcow2 top.raw
        qcow-rebase -q -b new.qcow2 -F qcow2 top.qcow2
        assert_rebased top.qcow2 top.raw "new.qcow2 qcow2" || fail "compat $compat"
    done
}

@test "rebase: over a longer, a shorter and a raw chain" {
    make_bases
    active_raw top.qcow2 top.raw
    make_image higher.qcow2 8M -b new.qcow2 -F qcow2
    guest_write higher.qcow2 3M 64K F
    qcow-rebase -q -b higher.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "higher.qcow2 qcow2"
    qcow-rebase -q -b new.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "new.qcow2 qcow2"
    truncate -s 1000001 short.raw
    guest_write short.raw 0 999936 A
    qcow-rebase -q -b short.raw -F raw top.qcow2
    assert_rebased top.qcow2 top.raw "short.raw raw"
    make_image long.qcow2 20M
    guest_write long.qcow2 0 20M G
    qcow-rebase -q -b long.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "long.qcow2 qcow2"
}

@test "rebase: past a layer of the chain, and back" {
    CHAIN_SIZE=8M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 2M A
    guest_write mid.qcow2 1M 2M B
    guest_write top.qcow2 2M 64K C
    active_raw top.qcow2 top.raw
    qcow-rebase -q -b base.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "base.qcow2 qcow2"
    qcow-rebase -q -b mid.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "mid.qcow2 qcow2"
}

@test "rebase -c: refused where data is in a data file, which holds no compressed clusters" {
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 1M -o data_file=top.data -b base.qcow2 -F qcow2
    remember_image top.qcow2 top.data
    run -1 qcow-rebase -c -b '' top.qcow2
    assert_output_has top.qcow2 "data file" "-c"
    assert_image_unchanged top.qcow2 top.data
}

@test "rebase -c: what is copied is compressed" {
    make_bases
    active_raw top.qcow2 top.raw
    qcow-rebase -q -c -b new.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "new.qcow2 qcow2"
    delta_ranges top.qcow2 | grep -q "^4194304 1048576 compressed$"
}

@test "rebase: internal snapshots keep their contents" {
    make_bases
    snapshot top.qcow2 one
    guest_write top.qcow2 4M 64K F
    snapshot top.qcow2 two
    guest_write top.qcow2 5M 64K G
    active_raw top.qcow2 top.raw
    snapshot_raw top.qcow2 one one.raw
    snapshot_raw top.qcow2 two two.raw
    qcow-rebase -q -b new.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "new.qcow2 qcow2"
    snapshot_raw top.qcow2 one again.raw
    cmp one.raw again.raw
    snapshot_raw top.qcow2 two again.raw
    cmp two.raw again.raw
}

@test "rebase: without a format, qemu-img's words" {
    make_bases
    remember_image top.qcow2
    run -1 qcow-rebase -b new.qcow2 top.qcow2
    assert_output_has "Could not change the backing file to 'new.qcow2': backing format must be specified"
    run -1 qcow-rebase -u -b new.qcow2 top.qcow2
    assert_output_has "backing format must be specified"
    assert_image_unchanged top.qcow2
}

@test "rebase: over itself, or over what is backed by it, is refused" {
    make_bases
    make_image higher.qcow2 8M -b top.qcow2 -F qcow2
    remember_image top.qcow2
    run -1 qcow-rebase -b top.qcow2 -F qcow2 top.qcow2
    assert_output_has "'top.qcow2': the new backing file 'top.qcow2' is the image itself, or is backed by it"
    run -1 qcow-rebase -b higher.qcow2 -F qcow2 top.qcow2
    assert_output_has "'higher.qcow2' is the image itself, or is backed by it"
    run -1 qcow-rebase -b "$PWD/higher.qcow2" -F qcow2 top.qcow2
    assert_output_has "is backed by it"
    run -1 qcow-rebase -u -b old.qcow2 -F qcow3 top.qcow2
    assert_output_has "Invalid format name: 'qcow3'"
    assert_image_unchanged top.qcow2
}

@test "rebase: what is not there, and wrong usage" {
    make_bases
    remember_image top.qcow2
    run -1 qcow-rebase -b missing.qcow2 -F qcow2 top.qcow2
    assert_output_has "Could not open new backing file 'missing.qcow2'" "No such file or directory"
    run -2 qcow-rebase top.qcow2
    run -2 qcow-rebase -b new.qcow2 -F qcow2
    run -1 qcow-rebase -b '' new.raw
    assert_image_unchanged top.qcow2
}

@test "rebase: an image with a data file; a raw one allows no backing file, as in QEMU" {
    make_bases
    make_image data.qcow2 8M -b old.qcow2 -F qcow2 -o data_file=data.data,extended_l2=on
    guest_write data.qcow2 1M 2K F
    guest_write data.qcow2 4M 20K G
    active_raw data.qcow2 data.raw
    qcow-rebase -q -b new.qcow2 -F qcow2 data.qcow2
    assert_rebased data.qcow2 data.raw "new.qcow2 qcow2"
    make_image raw.qcow2 8M -o data_file=raw.data,data_file_raw=on
    remember_image raw.qcow2 raw.data
    run -1 qemu-img rebase -u -b new.qcow2 -F qcow2 raw.qcow2
    for option in -q -u; do
        run -1 qcow-rebase $option -b new.qcow2 -F qcow2 raw.qcow2
        assert_output_has "'raw.qcow2': Could not change the backing file to 'new.qcow2'" "raw external data file"
    done
    assert_image_unchanged raw.qcow2 raw.data
}

@test "rebase: a name that is relative is relative to the image" {
    mkdir images
    make_image images/new.qcow2 4M
    guest_write images/new.qcow2 0 64K A
    make_image images/top.qcow2 4M
    guest_write images/top.qcow2 1M 64K B
    active_raw images/top.qcow2 top.raw
    qcow-rebase -q -b new.qcow2 -F qcow2 images/top.qcow2
    assert_rebased images/top.qcow2 top.raw "new.qcow2 qcow2"
}

@test "rebase: json: options of the new base count, and are recorded as they are given" {
    local part='"driver":"raw","offset":65536,"size":1048576'
    part="json:{$part,\"file\":{\"driver\":\"file\",\"filename\":\"$PWD/new.raw\"}}"
    mkdir sub
    truncate -s 2M new.raw
    guest_write new.raw 0 64K A
    guest_write new.raw 64K 1M B
    make_image old.qcow2 1M
    guest_write old.qcow2 0 512K B
    make_image sub/top.qcow2 1M -b ../old.qcow2 -F qcow2
    active_raw sub/top.qcow2 top.raw
    qcow-rebase -q -b "$part" -F raw sub/top.qcow2
    [[ $(qemu-img info --output=json sub/top.qcow2 | jq -r '.["backing-filename"]') == "$part" ]]
    assert_same_content sub/top.qcow2 top.raw
}

@test "rebase: a name that QEMU would look for in its working directory, where another file has it" {
    local name
    mkdir sub
    CHAIN_SIZE=1M make_chain new.qcow2
    guest_write new.qcow2 0 1M A
    (cd sub && CHAIN_SIZE=1M make_chain old.qcow2 top.qcow2 && CHAIN_SIZE=1M make_chain new.qcow2)
    remember_image sub/top.qcow2
    for name in file:new.qcow2 'json:{"driver":"qcow2","file":{"driver":"file","filename":"new.qcow2"}}'; do
        run -1 qcow-rebase -b "$name" -F qcow2 sub/top.qcow2
        assert_output_has "as another file, in the working directory"
        assert_image_unchanged sub/top.qcow2
    done
    active_raw sub/top.qcow2 top.raw
    (cd sub && qcow-rebase -q -b file:new.qcow2 -F qcow2 top.qcow2)
    (cd sub && assert_same_content top.qcow2 ../top.raw)
}

@test "rebase: a backing file given on the command line is what the image reads before and after" {
    local node
    CHAIN_SIZE=1M make_chain base.qcow2
    CHAIN_SIZE=1M make_chain unrelated.qcow2 top.qcow2
    CHAIN_SIZE=1M make_chain new.qcow2
    guest_write base.qcow2 0 512K A
    guest_write unrelated.qcow2 0 1M B
    guest_write top.qcow2 64K 64K C
    node='"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}'
    node='json:{"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"},"backing":{'$node'}}'
    qemu-img convert -O raw "$node" top.raw
    qcow-rebase -q -b new.qcow2 -F qcow2 "$node"
    assert_same_content top.qcow2 top.raw
}

@test "rebase: an image that a VM uses is refused, and so is a new base that one writes" {
    require qemu-storage-daemon
    make_bases
    remember_image top.qcow2
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=top.qcow2
    run -1 qcow-rebase -b new.qcow2 -F qcow2 top.qcow2
    assert_output_has "top.qcow2" "lock"
    stop_daemon "$daemon_pid"
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=new.qcow2
    run -1 qcow-rebase -b new.qcow2 -F qcow2 top.qcow2
    assert_output_has "new.qcow2" "lock"
    stop_daemon "$daemon_pid"
    assert_image_unchanged top.qcow2
}

@test "rebase --dry-run: changes nothing and says what would be moved" {
    make_bases
    remember_image top.qcow2
    run -0 qcow-rebase --dry-run -b new.qcow2 -F qcow2 top.qcow2
    assert_output_has "would move"
    run -0 qcow-rebase --dry-run --output=json -b new.qcow2 -F qcow2 top.qcow2
    assert_json '."dry-run" and ."data-clusters" == 17 and ."zero-clusters" == 16'
    assert_image_unchanged top.qcow2
}

@test "rebase: a long name fits into the header or is refused" {
    make_bases
    active_raw top.qcow2 top.raw
    local long
    long=$(printf 'x%.0s' {1..200}).qcow2
    cp new.qcow2 "$long"
    qcow-rebase -q -b "$PWD/$long" -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "$PWD/$long qcow2"
}

@test "rebase: a path with a colon is recorded so that QEMU takes it for one; -u records what is given" {
    make_bases
    active_raw top.qcow2 top.raw
    cp new.qcow2 x:y.qcow2
    qcow-rebase -q -b x:y.qcow2 -F qcow2 top.qcow2
    assert_rebased top.qcow2 top.raw "./x:y.qcow2 qcow2"
    qcow-rebase -q -u -b x:y.qcow2 -F qcow2 top.qcow2
    [[ $(qcow-info --output=json top.qcow2 | jq -r '."backing-filename"') == x:y.qcow2 ]]
}
