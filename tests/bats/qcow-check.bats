#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow-check finds what qemu-img check finds, and says it in the same words.

load helpers
load zoo

# The same JSON and the same exit code; the same findings in any order, and perhaps a line on which
# structure it is that others point into, for which qemu-img has no words.
same_as_qemu() {
    local ours=0 theirs=0
    qemu-img check --output=json "$@" >theirs 2>theirs.err || theirs=$?
    qcow-check --output=json "$@" >ours 2>ours.err || ours=$?
    [[ $ours == "$theirs" ]] || fail "check $*: exit code $ours, qemu-img's $theirs: $(cat ours.err)" || return
    assert_same_json "$(cat ours)" "$(cat theirs)" || fail "check $*: $(cat ours.err)" || return
    diff -u <(sort theirs.err) <(grep -v '^ERROR overlap: ' ours.err | sort) >&2 ||
        fail "check $*: findings" || return
    diff -u <(qemu-img check "$@" 2>/dev/null) <(qcow-check "$@" 2>/dev/null) >&2 || fail "check $*: text"
}

unless_encrypted() {
    [[ $PWD == */luks || $PWD == */aes ]] || "$@"
}

@test "check: images of every shape are as clean as qemu-img finds them" {
    cd "$BATS_FILE_TMPDIR"
    make_zoo
    in_zoo unless_encrypted same_as_qemu
}

@test "check: an encrypted image is checked without its key" {
    zoo_encrypted luks
    run -0 qcow-check t.qcow2
    assert_output_has "No errors were found on the image."
    diff -u <(qemu-img check --object secret,id=s,data=pw \
        --image-opts driver=qcow2,file.filename=t.qcow2,encrypt.key-secret=s) <(qcow-check t.qcow2)
}

# damaged COMMAND…: a fresh image with data and a snapshot, damaged by COMMAND, judged by qemu-img
damaged() {
    rm -f a.qcow2
    make_image a.qcow2 4M -o cluster_size=64k
    guest_write a.qcow2 0 256k A
    qemu-img snapshot -c s1 a.qcow2
    guest_write a.qcow2 64k 64k B
    guest_write_compressed a.qcow2 1M 64k C
    "$@" || return
    same_as_qemu a.qcow2
}

# Where things are in a.qcow2.
refcount_block() {
    peek_be a.qcow2 "$(peek_be a.qcow2 48 8)" 8
}
l2_table() {
    echo $(($(peek_be a.qcow2 "$(peek_be a.qcow2 40 8)" 8) & 0xfffffffffffe00))
}
set_refcount() {
    poke a.qcow2 $(($(refcount_block) + $1 * 2)) "$(printf %04x "$2")"
}
cluster_of_guest() {
    echo $((($(peek_be a.qcow2 $(($(l2_table) + $1 * 8)) 8) & 0xfffffffffffe00) / 65536))
}
set_l2_entry() {
    poke a.qcow2 $(($(l2_table) + $1 * 8)) "$2"
}

leak_at_the_end() {
    truncate -s %64K a.qcow2
    truncate -s +64K a.qcow2
    set_refcount $(($(stat -c %s a.qcow2) / 65536 - 1)) 1
}
count_too_low() { set_refcount "$(cluster_of_guest 0)" 1; }
count_zero() { set_refcount "$(cluster_of_guest 0)" 0; }
count_too_high_copied() { set_refcount "$(cluster_of_guest 1)" 2; }
count_too_high() { set_refcount "$(cluster_of_guest 0)" 7; }
copied_wrong() { set_l2_entry 0 "80000000$(printf %08x $(($(cluster_of_guest 0) * 65536)))"; }
copied_missing() { set_l2_entry 1 "00000000$(printf %08x $(($(cluster_of_guest 1) * 65536)))"; }
offset_unaligned() { set_l2_entry 2 8000000000050200; }
offset_past_the_end() { set_l2_entry 5 8000000010000000; }
entry_on_header() { set_l2_entry 5 8000000000000000; set_l2_entry 6 8000000000010000; }
reserved_bits() { set_l2_entry 0 0100000000050002; }
l1_unaligned() { poke a.qcow2 $(($(peek_be a.qcow2 40 8) + 6)) 0200; }
l1_past_the_end() { poke a.qcow2 $(($(peek_be a.qcow2 40 8) + 8)) 8000000020000000; }
reftable_unaligned() { poke a.qcow2 $(($(peek_be a.qcow2 48 8) + 8)) 0000000000020200; }
reftable_past_the_end() { poke a.qcow2 $(($(peek_be a.qcow2 48 8) + 8)) 0000000040000000; }
two_entries_one_cluster() { set_l2_entry 9 "80000000$(printf %08x $(($(cluster_of_guest 1) * 65536)))"; }
marked_corrupt() { poke a.qcow2 0x4f 02; }
marked_dirty() { poke a.qcow2 0x4f 01; }

@test "check: leaks, exit 3" {
    damaged leak_at_the_end
    damaged count_too_high
}

@test "check: reference counts that are too low, exit 2" {
    damaged count_too_low
    damaged count_zero
    damaged count_too_high_copied
    damaged two_entries_one_cluster
}

@test "check: COPIED flags that contradict the counts, exit 2" {
    damaged copied_wrong
    damaged copied_missing
}

@test "check: offsets that cannot be, exit 2" {
    damaged offset_unaligned
    damaged offset_past_the_end
    damaged entry_on_header
    damaged l1_unaligned
    damaged l1_past_the_end
}

@test "check: reserved bits" {
    damaged reserved_bits
}

@test "check: a broken refcount table" {
    damaged reftable_unaligned
    damaged reftable_past_the_end
}

@test "check: dirty and corrupt bits" {
    damaged marked_corrupt
    damaged marked_dirty
}

@test "check: a summary for people, with and without findings" {
    make_image a.qcow2 4M
    guest_write a.qcow2 0 256k A
    run -0 --separate-stderr qcow-check a.qcow2
    [[ ${lines[0]} == "No errors were found on the image." ]]
    [[ ${lines[1]} == "4/64 = 6.25% allocated, 0.00% fragmented, 0.00% compressed clusters" ]]
    [[ ${lines[2]} == "Image end offset: "* ]]
    [[ -z $stderr ]]
    leak_at_the_end
    run -3 --separate-stderr qcow-check a.qcow2
    assert_output_has "1 leaked clusters were found on the image." "This means waste of disk space, but no harm to data."
    [[ $stderr == "Leaked cluster "*" refcount=1 reference=0" ]]
}

@test "check: formats without a checker are exit 63" {
    truncate -s 1M a.raw
    run -63 --separate-stderr qcow-check a.raw
    [[ $stderr == "qcow-check: This image format does not support checks" ]]
    [[ -z $output ]]
    make_image a.qcow2 1M
    run -63 qcow-check -f raw a.qcow2
}

@test "check: what cannot be opened is exit 1, wrong usage too" {
    run -1 qcow-check missing.qcow2
    run -1 qcow-check
    run -1 qcow-check --no-such-option a.qcow2
    make_image a.qcow2 1M
    poke a.qcow2 0x48 0000000000000100
    run -1 qcow-check a.qcow2
    run -1 qcow-check -r all a.qcow2
}

@test "check -q: nothing but findings" {
    make_image a.qcow2 1M
    run -0 qcow-check -q a.qcow2
    assert_output ""
    run -0 qcow-check -q --output=json a.qcow2
    assert_output ""
}

@test "check -p: progress, apart from JSON" {
    make_image a.qcow2 1M
    qcow-check -p a.qcow2 >out
    grep -q $'    (100.00/100%)\r' out
    qcow-check -p --output=json a.qcow2 2>err | jq -e '.["check-errors"] == 0'
    grep -q '(100.00/100%)' err
}

@test "check: changes nothing" {
    make_image a.qcow2 1M
    guest_write a.qcow2 0 64k A
    leak_at_the_end
    chmod a-w a.qcow2
    remember_image a.qcow2
    run -3 qcow-check a.qcow2
    assert_image_unchanged a.qcow2
}

@test "check -U: an image that a VM writes is not called corrupt" {
    make_image a.qcow2 64M
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2,discard=unmap \
        --nbd-server addr.type=unix,addr.path=nbd.sock --export type=nbd,id=e,node-name=d,writable=on,name=d
    run -1 qcow-check a.qcow2
    assert_output_has lock
    start_daemon bash -c 'while :; do
        qemu-io -d unmap -f raw -c "write -q 0 64M" -c "discard -q 0 64M" "nbd+unix:///d?socket=nbd.sock"
    done'
    # shellcheck disable=SC2016  # the inner shell expands it
    wait_until bash -c '(($(stat -c %s a.qcow2) > 10000000))'
    for ((SECONDS = 0; SECONDS < 3;)); do
        run qcow-check -U a.qcow2
        [[ $status == 0 || $status == 3 ]] || fail "exit code $status: $output"
    done
}

@test "check: a backing file and a data file are not needed" {
    make_chain base.qcow2 top.qcow2
    rm base.qcow2
    run -0 qcow-check top.qcow2
    run -0 qcow-check --untrusted top.qcow2
    zoo_data_file data_file_raw=off
    run -0 qcow-check --untrusted t.qcow2
}
