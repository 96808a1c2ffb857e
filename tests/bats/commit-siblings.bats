#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Whom a merge would hurt: snapshots of the merged images, and images outside the chain, however they name what
# they read. Each is refused by name before anything is written, or --preserve keeps it as it reads in QEMU.

load helpers
load merging

# assert_refused WORD… -- COMMAND…: it exits 1, says these words, and changes no image here
assert_refused() {
    local -a words=()
    while [[ $1 != -- ]]; do
        words+=("$1")
        shift
    done
    shift
    remember_image *.qcow2
    run -1 "$@"
    assert_output_has "${words[@]}"
    assert_image_unchanged *.qcow2
}

# as_other COMMAND…: run it as a user who is not root
as_other() {
    setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
}

# make_unreadable: siblings, where that user may read and write all but other.qcow2
make_unreadable() {
    require_root
    require setpriv
    local folder
    mkdir vm && cd vm || return
    make_siblings
    chown 65534 . base.qcow2 top.qcow2
    chmod 600 other.qcow2
    # The way to here is open only to root.
    for folder in "$BATS_TEST_TMPDIR" "${BATS_TEST_TMPDIR%/*}" "${BATS_TEST_TMPDIR%/*/*}"; do
        chmod o+x "$folder"
    done
    as_other qcow-commit --version >/dev/null && as_other test -x . || skip "another user cannot come here"
}

# ---- snapshots of the merged images ------------------------------------------------------------------

@test "siblings: the image's snapshots lose the layers between, also when the base stays as it is" {
    CHAIN_SIZE=8M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write mid.qcow2 6M 64K f
    snapshot top.qcow2 early
    qemu-img resize -q --shrink top.qcow2 4M
    snapshot_raw top.qcow2 early early.raw
    assert_refused "'top.qcow2'" "'early' would read otherwise" "--preserve top.qcow2" -- \
        qcow-commit -b base.qcow2 top.qcow2
    assert_refused "'early' would read otherwise" -- qcow-commit --dry-run -b base.qcow2 top.qcow2
    # It stays over the layers between, and these over a base that did not change.
    qcow-commit -q -d -b base.qcow2 top.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
    qcow-commit -q -b base.qcow2 --preserve top.qcow2 -- top.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
    assert_clean top.qcow2
}

@test "siblings: the top's snapshots lose the layers between, also when the base stays as it is" {
    CHAIN_SIZE=8M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 6M 128K g
    guest_write mid.qcow2 6M 64K f
    snapshot top.qcow2 early
    qemu-img resize -q --shrink top.qcow2 4M
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    snapshot_raw top.qcow2 early early.raw
    note active.qcow2
    assert_refused "'top.qcow2'" "'early' would read otherwise" -- \
        qcow-commit --top top.qcow2 -b base.qcow2 active.qcow2
    qcow-commit -q --top top.qcow2 -b base.qcow2 --preserve top.qcow2 -- active.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
    assert_noted active.qcow2
}

@test "siblings: a snapshot of a layer between that is preserved reads the same, whatever the base does" {
    make_three
    snapshot mid.qcow2 early
    guest_write mid.qcow2 1M 1M D
    note mid.qcow2 top.qcow2
    snapshot_raw mid.qcow2 early early.raw
    assert_refused "'mid.qcow2': its internal snapshot 'early'" -- qcow-commit -b base.qcow2 top.qcow2
    qcow-commit -q -b base.qcow2 --preserve mid.qcow2 -- top.qcow2
    assert_noted mid.qcow2 top.qcow2
    snapshot_raw mid.qcow2 early again.raw
    cmp early.raw again.raw
}

# ---- the names that siblings have for what they read ---------------------------------------------------

@test "siblings: over NBD, however the address is written" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 1M A
    truncate -s 8M base.qcow2    # a server gives it no more than it has
    start_qemu_nbd base.sock -f raw -e 9 base.qcow2
    ln -s base.sock other-name.sock
    make_image top.qcow2 4M -b "nbd+unix:///?socket=$PWD/base.sock" -F qcow2
    guest_write top.qcow2 0 64K B
    local name
    for name in "nbd+unix:///?socket=$PWD/base.sock" "nbd+unix:///?socket=$PWD/other-name.sock" \
        "nbd:unix:$PWD/base.sock" "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"nbd\",\"server\":{\"type\":\"unix\",\"path\":\"$PWD/base.sock\"}}}" \
        "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"throttle\",\"throttle-group\":\"g\",\"file\":{\"driver\":\"nbd\",\"path\":\"$PWD/base.sock\"}}}"; do
        make_image sib.qcow2 4M -u -b "$name" -F qcow2
        run -1 qcow-commit top.qcow2
        assert_output_has "'sib.qcow2' is backed by 'nbd" "would read otherwise"
        rm sib.qcow2
    done
    make_image far.qcow2 4M -u -b "nbd+unix:///another?socket=$PWD/base.sock" -F qcow2
    make_image sib.qcow2 4M -b "nbd+unix:///?socket=$PWD/other-name.sock" -F qcow2
    guest_write sib.qcow2 1M 64K C
    note sib.qcow2 top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'sib.qcow2' is backed by 'nbd"
    qcow-commit -q --preserve sib.qcow2 -- top.qcow2
    assert_noted sib.qcow2 top.qcow2
}

@test "siblings: over NBD and TCP, with the port that is meant when there is none" {
    local port=$((20000 + RANDOM % 10000))
    make_image base.qcow2 4M
    truncate -s 8M base.qcow2
    start_daemon qemu-nbd -t --pid-file="$PWD/nbd.pid" -e 9 -f raw -b 127.0.0.1 -p "$port" -x disk base.qcow2
    wait_until test -s nbd.pid
    make_image top.qcow2 4M -b "nbd://127.0.0.1:$port/disk" -F qcow2
    guest_write top.qcow2 0 64K B
    make_image sib.qcow2 4M -b "nbd:LOCALHOST:$port:exportname=disk" -F qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'sib.qcow2' is backed by 'nbd"
}

@test "siblings: a driver that is not known here is looked through for what it reads" {
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 1M A
    guest_write top.qcow2 0 64K B
    make_image outer.qcow2 8M -b 'json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"driver":"file","filename":"base.qcow2"}}}' -F qcow2
    active_raw outer.qcow2 outer.raw
    assert_same_content base.qcow2 outer.raw    # QEMU reads it
    assert_refused "'outer.qcow2' is backed by 'base.qcow2'" "driver 'blkdebug' is not supported" "--force" -- \
        qcow-commit top.qcow2
    assert_refused "'outer.qcow2'" "driver 'blkdebug' is not supported" -- \
        qcow-commit --preserve outer.qcow2 -- top.qcow2
    rm outer.qcow2
    # Through a list, through an image in another folder, and in the old way before a path
    mkdir far
    make_image far/mid.qcow2 8M -b "$PWD/base.qcow2" -F qcow2
    local name
    for name in 'json:{"driver":"qcow2","file":{"driver":"quorum","vote-threshold":1,"children":[{"driver":"file","filename":"other"},{"driver":"file","filename":"base.qcow2"}]}}' \
        'json:{"driver":"qcow2","file":{"driver":"throttle","throttle-group":"g","file":{"driver":"file","filename":"far/mid.qcow2"}}}' \
        "blkdebug::$PWD/base.qcow2" 'blkdebug::base.qcow2'; do
        make_image outer.qcow2 8M -u -b "$name" -F qcow2
        assert_refused "'outer.qcow2' is backed by 'base.qcow2'" -- qcow-commit top.qcow2
        rm outer.qcow2
    done
}

@test "siblings: a name that says nowhere what it reads is a doubt; one that says it is elsewhere is none" {
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2
    guest_write top.qcow2 0 64K B
    note top.qcow2
    local name
    for name in 'json:{"driver":"qcow2","file":"node0"}' 'json:{"driver":"io_uring","path":"/dev/other"}' 'json:{"driver":'; do
        make_image unclear.qcow2 8M -u -b "$name" -F qcow2
        assert_refused "'unclear.qcow2' may be backed by 'base.qcow2'" "not understood" "--force" -- \
            qcow-commit top.qcow2
        rm unclear.qcow2
    done
    make_image web.qcow2 8M -u -b https://example.com/base.qcow2 -F qcow2
    make_image json-web.qcow2 8M -u -b 'json:{"driver":"raw","file":{"driver":"https","url":"https://example.com/base.raw"}}' -F raw
    make_image rbd.qcow2 8M -u -b 'json:{"driver":"rbd","pool":"p","image":"i","server":[{"host":"h","port":"1"}]}' -F raw
    make_image gone.qcow2 8M -u -b 'json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"driver":"file","filename":"gone"}}}' -F qcow2
    make_image remote.qcow2 8M -u -b nbd://example.com/base -F raw
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    guest_write top.qcow2 64K 64K C
    note top.qcow2
    make_image unclear.qcow2 8M -u -b 'json:{"driver":"qcow2","file":"node0"}' -F qcow2
    qcow-commit -q --force top.qcow2
    assert_noted top.qcow2
    # Nothing changes for anybody
    qcow-commit -q top.qcow2
}

@test "siblings: images in QEMU's older formats, and images over them" {
    local format
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2
    guest_write top.qcow2 0 64K B
    for format in qcow qed; do
        qemu-img create -q -f $format -o backing_file=base.qcow2,backing_fmt=qcow2 old 8M
        assert_refused "'old' is backed by 'base.qcow2'" "it cannot be preserved (" "neither qcow2 nor raw" -- \
            qcow-commit top.qcow2
        rm old
        mkdir away
        qemu-img create -q -f $format -o backing_file=../base.qcow2,backing_fmt=qcow2 away/old 8M
        make_image over.qcow2 8M -b away/old -F $format
        assert_refused "'over.qcow2' is backed by 'base.qcow2'" "it cannot be preserved (" -- qcow-commit top.qcow2
        rm -r away over.qcow2
    done
}

# ---- where they are ----------------------------------------------------------------------------------

@test "siblings: beside the file itself, when a layer's name is a link to it" {
    mkdir store vm
    make_image store/base.qcow2 8M
    make_image store/sib.qcow2 8M -b base.qcow2 -F qcow2
    guest_write store/base.qcow2 0 1M A
    ln -s store/base.qcow2 base.qcow2
    make_image top.qcow2 8M -b base.qcow2 -F qcow2
    guest_write top.qcow2 0 64K B
    remember_image store/base.qcow2 store/sib.qcow2 top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "store/sib.qcow2' is backed by 'base.qcow2' and would read otherwise"
    assert_image_unchanged store/base.qcow2 store/sib.qcow2 top.qcow2
    note store/sib.qcow2 top.qcow2
    qcow-commit -q --preserve store/sib.qcow2 -- top.qcow2
    assert_noted store/sib.qcow2 top.qcow2
}

@test "siblings: one that --preserve names in another folder keeps the top from being deleted" {
    mkdir far
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2 active.qcow2
    guest_write top.qcow2 0 1M A
    make_image far/sib.qcow2 8M -b ../top.qcow2 -F qcow2
    note far/sib.qcow2
    assert_refused "'far/sib.qcow2' is backed by 'top.qcow2', which --delete would delete" -- \
        qcow-commit --delete --top top.qcow2 --preserve far/sib.qcow2 -- active.qcow2
    qcow-commit -q --top top.qcow2 --preserve far/sib.qcow2 -- active.qcow2
    assert_noted far/sib.qcow2
}

@test "siblings: a file that cannot be read may be one" {
    make_unreadable
    note other.qcow2 top.qcow2
    chmod 644 ./*.raw
    assert_refused "'other.qcow2' may be backed by 'base.qcow2'" "it cannot be read (Permission denied)" "--force" \
        -- as_other qcow-commit top.qcow2
    assert_refused "'other.qcow2' may be backed by 'base.qcow2'" -- as_other qcow-commit --dry-run top.qcow2
    assert_noted other.qcow2
    # As is what it is backed by, wherever that is, and what it only leads to
    mkdir -p far closed
    mv other.qcow2 far/
    qemu-img rebase -u -b "$PWD/base.qcow2" -F qcow2 far/other.qcow2
    make_image upper.qcow2 8M -b far/other.qcow2 -F qcow2
    chmod 644 upper.qcow2
    assert_refused "'upper.qcow2' may be backed by 'base.qcow2'" "'./far/other.qcow2' cannot be read" -- \
        as_other qcow-commit top.qcow2
    mv far/other.qcow2 closed/
    chmod 700 closed
    qemu-img rebase -u -b closed/other.qcow2 -F qcow2 upper.qcow2
    assert_refused "'./closed/other.qcow2' cannot be read (Permission denied)" -- as_other qcow-commit top.qcow2
    rm upper.qcow2
    ln -s closed/other.qcow2 link
    assert_refused "'link' may be backed by 'base.qcow2'" -- as_other qcow-commit top.qcow2
    rm link
    as_other qcow-commit -q top.qcow2
    assert_noted top.qcow2
}

@test "siblings: a folder that cannot be listed may hold one" {
    make_unreadable
    chmod 644 other.qcow2
    chown 0 .
    chmod 711 .
    assert_refused "'.': the folder cannot be listed (Permission denied)" "may be backed by 'base.qcow2'" "--force" -- \
        as_other qcow-commit top.qcow2
    note top.qcow2
    as_other qcow-commit -q --force top.qcow2
    assert_noted top.qcow2
    # One that is not the chain's is not looked into.
    chmod 755 .
    qemu-img rebase -u -b '' other.qcow2
    mkdir closed
    chmod 700 closed
    make_image again.qcow2 8M -b base.qcow2 -F qcow2
    guest_write again.qcow2 6M 64K F
    chown 65534 again.qcow2
    as_other qcow-commit -q --force top.qcow2
    note again.qcow2
    rm top.qcow2
    as_other qcow-commit -q again.qcow2
    assert_noted again.qcow2
}

@test "siblings: what cannot be read hinders no merge that changes nothing, and what is no image none at all" {
    make_unreadable
    rm top.qcow2
    make_image top.qcow2 8M -b base.qcow2 -F qcow2
    chown 65534 top.qcow2
    note other.qcow2 top.qcow2
    chmod 600 other.qcow2
    as_other qcow-commit -q top.qcow2
    assert_noted other.qcow2 top.qcow2
    guest_write top.qcow2 0 64K B
    note top.qcow2
    rm other.qcow2
    mkdir folder
    mkfifo pipe
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
    : >lock
    echo 12345 >pid
    chmod 600 folder pipe socket lock pid
    ln -s gone dangling
    ln -s loop loop
    ln -s pipe to-pipe
    as_other qcow-commit -q top.qcow2
    assert_noted top.qcow2
}

# ---- what --preserve takes ---------------------------------------------------------------------------

@test "preserve: the base cannot be, and below it there is nothing to preserve" {
    CHAIN_SIZE=8M make_chain low.qcow2 base.qcow2 top.qcow2
    guest_write top.qcow2 0 64K B
    make_image over-low.qcow2 8M -b low.qcow2 -F qcow2
    assert_refused "'base.qcow2': it is the base" "cannot be preserved" -- \
        qcow-commit --preserve base.qcow2 -- top.qcow2
    assert_refused "'low.qcow2': it reads nothing through 'base.qcow2'" "nothing to preserve" -- \
        qcow-commit --preserve low.qcow2 -- top.qcow2
    assert_refused "'over-low.qcow2': it reads nothing through 'base.qcow2'" -- \
        qcow-commit --preserve over-low.qcow2 -- top.qcow2
}

@test "preserve: what is over a layer between that stays valid needs nothing" {
    make_three
    make_image sib.qcow2 8M -b mid.qcow2 -F qcow2
    guest_write sib.qcow2 5M 64K D
    make_image upper.qcow2 8M -b sib.qcow2 -F qcow2
    note mid.qcow2 sib.qcow2 upper.qcow2 top.qcow2
    assert_refused "is backed by 'mid.qcow2'" -- qcow-commit -b base.qcow2 top.qcow2
    run -0 qcow-commit -b base.qcow2 --delete --preserve mid.qcow2 -- top.qcow2
    refute_output_has "Deleted"
    assert_noted mid.qcow2 sib.qcow2 upper.qcow2 top.qcow2
}

@test "preserve: both a layer between and what is over it; nothing is copied twice" {
    make_three
    make_image sib.qcow2 8M -b mid.qcow2 -F qcow2
    guest_write sib.qcow2 5M 64K D
    note mid.qcow2 sib.qcow2 top.qcow2
    remember_image sib.qcow2
    qcow-commit -q -b base.qcow2 --preserve sib.qcow2 mid.qcow2 -- top.qcow2
    assert_image_unchanged sib.qcow2
    assert_noted mid.qcow2 sib.qcow2 top.qcow2
}

@test "preserve: images are named as everywhere, and one that is named twice counts once" {
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 1M A
    guest_write top.qcow2 0 64K B
    local name
    for name in a b c; do
        make_image $name.qcow2 8M -b base.qcow2 -F qcow2
    done
    note a.qcow2 b.qcow2 c.qcow2 top.qcow2
    ln -s a.qcow2 link
    local -a names=(file:a.qcow2 'json:{"driver":"qcow2","file":{"driver":"file","filename":"b.qcow2"}}' c.qcow2
        ./a.qcow2 link c.qcow2 top.qcow2 top.qcow2)
    run -0 qcow-commit --dry-run --preserve "${names[@]}" -- top.qcow2
    run -0 qcow-commit --preserve "${names[@]}" -- top.qcow2
    assert_noted a.qcow2 b.qcow2 c.qcow2 top.qcow2
    run -1 qcow-commit --preserve file:missing.qcow2 -- top.qcow2
    assert_output_has "missing.qcow2': No such file or directory"
}

@test "preserve: an image that is itself served over NBD" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 1M A
    guest_write top.qcow2 0 64K B
    make_image sib.qcow2 4M -b "$PWD/base.qcow2" -F qcow2
    note sib.qcow2 top.qcow2
    mkdir far
    mv sib.qcow2 far
    truncate -s 8M far/sib.qcow2
    start_qemu_nbd sib.sock -f raw far/sib.qcow2
    qcow-commit -q --preserve "nbd+unix:///?socket=$PWD/sib.sock" -- top.qcow2
    assert_same_content far/sib.qcow2 sib.qcow2.raw
    assert_noted top.qcow2
}

@test "preserve: what reads the base in another way than the chain is not taken for what it is not" {
    (guest=$(printf 'x%.0s' {1..1024}); for _ in {1..2048}; do printf '%s' "$guest"; done) >base.raw
    make_image top.qcow2 2M -b base.raw -F raw
    make_image part.qcow2 1M -b 'json:{"driver":"raw","offset":65536,"size":1048576,"file":{"driver":"file","filename":"base.raw"}}' -F raw
    guest_write top.qcow2 128K 64K B
    note part.qcow2
    cp base.raw before.raw
    run -1 qcow-commit top.qcow2
    assert_output_has "'part.qcow2' is backed by 'base.raw'"
    assert_refused "'part.qcow2': it reads 'base.raw' in another way" -- \
        qcow-commit --preserve part.qcow2 -- top.qcow2
    cmp base.raw before.raw
    assert_noted part.qcow2
}

@test "siblings: over the raw data file of the base" {
    qemu-img create -q -f qcow2 -o data_file=base.data,data_file_raw=on base.qcow2 4M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 0 64K B
    make_image sib.qcow2 4M -b base.data -F raw
    assert_same_content base.qcow2 sib.qcow2
    assert_refused "'sib.qcow2' is backed by 'base.qcow2' and would read otherwise" -- qcow-commit top.qcow2
    assert_refused "'sib.qcow2': it reads 'base.qcow2' in another way" -- \
        qcow-commit --preserve sib.qcow2 -- top.qcow2
    assert_refused "'base.qcow2': it is the base" -- qcow-commit --preserve base.data -- top.qcow2
}

@test "siblings: -d leaves the layers between for others as well when the base stays as it is" {
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 1M A
    guest_write mid.qcow2 2M 64K B
    qemu-img resize -q --shrink top.qcow2 2M
    make_image sib.qcow2 4M -b mid.qcow2 -F qcow2
    note sib.qcow2 top.qcow2
    qcow-commit -q -d -b base.qcow2 top.qcow2
    assert_noted sib.qcow2 top.qcow2
    # Without it they would be marked.
    assert_refused "'sib.qcow2' is backed by 'mid.qcow2'" -- qcow-commit -b base.qcow2 top.qcow2
}

@test "siblings: what is over a layer between that lies over a preserved one stays valid, with its snapshots" {
    CHAIN_SIZE=8M make_chain base.qcow2 mid.qcow2 upper.qcow2 top.qcow2
    guest_write base.qcow2 0 2M A
    guest_write mid.qcow2 1M 1M B
    guest_write upper.qcow2 1536K 64K C
    snapshot upper.qcow2 early
    guest_write upper.qcow2 4M 64K D
    guest_write top.qcow2 64K 2M E
    make_image sib.qcow2 8M -b upper.qcow2 -F qcow2
    guest_write sib.qcow2 5M 64K F
    note mid.qcow2 upper.qcow2 sib.qcow2 top.qcow2
    snapshot_raw upper.qcow2 early early.raw
    remember_image sib.qcow2 upper.qcow2
    assert_refused "'upper.qcow2': its internal snapshot 'early' would read otherwise" -- \
        qcow-commit -b base.qcow2 top.qcow2
    cp -a . ../kept
    run -0 qcow-commit -b base.qcow2 --preserve mid.qcow2 -- top.qcow2
    assert_image_unchanged sib.qcow2 upper.qcow2
    assert_noted mid.qcow2 upper.qcow2 sib.qcow2 top.qcow2
    snapshot_raw upper.qcow2 early again.raw
    cmp early.raw again.raw
    # To name the sibling as well changes nothing, as long as the layer is not deleted.
    cd ../kept
    qcow-snapshot -d early upper.qcow2
    remember_image sib.qcow2
    cp -a . ../deleted
    qcow-commit -q -b base.qcow2 --preserve mid.qcow2 sib.qcow2 -- top.qcow2
    assert_image_unchanged sib.qcow2
    assert_noted mid.qcow2 upper.qcow2 sib.qcow2 top.qcow2
    cd ../deleted
    assert_refused "'sib.qcow2' is backed by 'upper.qcow2', which --delete would delete" -- \
        qcow-commit -b base.qcow2 --delete --preserve mid.qcow2 -- top.qcow2
    qcow-commit -q -b base.qcow2 --delete --preserve mid.qcow2 sib.qcow2 -- top.qcow2
    [[ ! -e upper.qcow2 ]]
    assert_noted mid.qcow2 sib.qcow2 top.qcow2
}

@test "siblings: with -d, the image's snapshots read through a preserved layer between as before" {
    make_three
    snapshot top.qcow2 early
    guest_write top.qcow2 5M 64K E
    note mid.qcow2 top.qcow2
    snapshot_raw top.qcow2 early early.raw
    assert_refused "'top.qcow2': its internal snapshot 'early' would read otherwise" -- \
        qcow-commit -d -b base.qcow2 top.qcow2
    qcow-commit -q -d -b base.qcow2 --preserve mid.qcow2 -- top.qcow2
    assert_noted mid.qcow2 top.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
}

@test "siblings: an image whose data file is the base, or that of a merged image" {
    truncate -s 4M base.raw
    qemu-img create -q -f qcow2 -o data_file=base.raw,data_file_raw=on wrap.qcow2 4M
    guest_write wrap.qcow2 0 1M A
    make_image top.qcow2 4M -b base.raw -F raw
    guest_write top.qcow2 512K 64K B
    note wrap.qcow2
    cp base.raw before.raw
    assert_refused "'wrap.qcow2' keeps its data in 'base.raw' and would read otherwise" "cannot be preserved" -- \
        qcow-commit top.qcow2
    assert_refused "'wrap.qcow2'" -- qcow-commit --preserve wrap.qcow2 -- top.qcow2
    mkdir far
    mv wrap.qcow2 far/
    cp base.raw far/away.raw
    python3 - far/wrap.qcow2 <<'END'
import sys
with open(sys.argv[1], "r+b") as image:
    start = image.read(65536)
    at = start.index(b"base.raw")
    image.seek(at)
    image.write(b"away.raw")
END
    cp far/wrap.qcow2 other.qcow2
    make_image over.qcow2 4M -u -b far/wrap.qcow2 -F qcow2
    run -0 qcow-commit --dry-run top.qcow2
    ln -f base.raw far/away.raw
    assert_refused "'over.qcow2' reads './far/wrap.qcow2', which keeps its data in './far/away.raw' and would" -- \
        qcow-commit top.qcow2
    cmp base.raw before.raw
    rm over.qcow2
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
}

@test "siblings: an image that shares its data file with the base, or with the image" {
    local name
    for name in base top; do
        truncate -s 4M $name.data
        qemu-img create -q -f qcow2 -o data_file=$name.data,data_file_raw=on $name-twin.qcow2 4M
        guest_write $name-twin.qcow2 0 1M A
    done
    qemu-img create -q -f qcow2 -o data_file=base.data base.qcow2 4M
    qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o data_file=top.data top.qcow2 4M
    guest_write base.qcow2 0 1M A
    guest_write top.qcow2 0 1M A
    note base-twin.qcow2 top-twin.qcow2
    mkdir aside
    mv top-twin.qcow2 aside
    assert_refused "'base-twin.qcow2' keeps its data in 'base.data', as 'base.qcow2' does," -- qcow-commit top.qcow2
    mv base-twin.qcow2 aside
    mv aside/top-twin.qcow2 .
    assert_refused "'top-twin.qcow2' keeps its data in 'top.data', as 'top.qcow2' does, and would read" -- \
        qcow-commit top.qcow2
    # Base gets its data, and keeps the same; the image is not emptied.
    guest_write top.qcow2 2M 64K B
    note top.qcow2 top-twin.qcow2
    qcow-commit -q -d top.qcow2
    assert_noted top.qcow2 top-twin.qcow2
    qcow-commit -q --force top.qcow2
    assert_noted top.qcow2
}
