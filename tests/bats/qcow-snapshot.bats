#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# shellcheck disable=SC1003  # backslashes in names
# qcow-snapshot lists the internal snapshots of an image as qemu-img does.

load helpers
load zoo

setup_file() {
    cd "$BATS_FILE_TMPDIR" || return
    animal snapshots zoo_snapshots
}

same_list_as_qemu() {
    diff -u <(qemu-img snapshot -l "$@") <(qcow-snapshot -l "$@") >&2
}

# QEMU 7.2 lays the table out in another way.
same_list_as_qemu10() {
    if [[ -x $(qemu10_dir)/qemu-img ]]; then
        with_qemu10 same_list_as_qemu "$@"
    fi
}

@test "snapshot -l: the table of qemu-img 10" {
    require_qemu10
    same_list_as_qemu10 "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2"
    run -0 qcow-snapshot -l "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2"
    [[ ${lines[0]} == "Snapshot list:" ]]
    assert_output_has "a name with blanks" größer
}

@test "snapshot -l: dates are those of the local time zone" {
    require_qemu10
    TZ=America/St_Johns same_list_as_qemu10 "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2"
    TZ=Asia/Kathmandu same_list_as_qemu10 "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2"
}

@test "snapshot -l: without snapshots nothing is printed, also for raw images" {
    make_image a.qcow2 1M
    truncate -s 1M a.raw
    for image in a.qcow2 a.raw; do
        run -0 qcow-snapshot -l "$image"
        assert_output ""
        run -0 qcow-snapshot -l --output=json "$image"
        assert_json '. == []'
    done
}

@test "snapshot -l --output=json: the array that info has under snapshots" {
    cd "$BATS_FILE_TMPDIR/zoo/snapshots"
    assert_same_json "$(qcow-snapshot -l --output=json t.qcow2)" "$(qemu-img info --output=json t.qcow2 | jq .snapshots)"
}

@test "snapshot -l: VM state, VM clock and instruction count of a real VM" {
    make_image a.qcow2 8M
    start_vm -drive if=virtio,file=a.qcow2,format=qcow2
    qmp vm.qmp human-monitor-command '{"command-line": "savevm full"}' >/dev/null
    stop_daemon "$daemon_pid"
    run -0 qcow-snapshot -l a.qcow2
    [[ $output =~ full\ +[0-9.]+\ [KM]iB ]]
    same_list_as_qemu10 a.qcow2
    assert_same_json "$(qcow-snapshot -l --output=json a.qcow2)" "$(qemu-img info --output=json a.qcow2 | jq .snapshots)"
}

@test "snapshot -l: old snapshots, without the extra data of version 3" {
    make_image a.qcow2 1M -o compat=0.10
    qemu-img snapshot -c s1 a.qcow2
    same_list_as_qemu10 a.qcow2
    assert_same_json "$(qcow-snapshot -l --output=json a.qcow2)" "$(qemu-img info --output=json a.qcow2 | jq .snapshots)"
}

@test "snapshot -l: large values keep their columns as in qemu-img" {
    make_image a.qcow2 1M
    qemu-img snapshot -c s1 a.qcow2
    local table
    table=$(peek_be a.qcow2 0x40 8)
    poke a.qcow2 $((table + 16)) 7fffffff           # date, seconds
    poke a.qcow2 $((table + 24)) 0fffffffffffffff   # VM clock
    poke a.qcow2 $((table + 40)) 0000000fffffffff   # VM state
    poke a.qcow2 $((table + 56)) 00000000075bcd15   # instruction count
    same_list_as_qemu10 a.qcow2
}

@test "snapshot -l: names cannot reach the terminal or break JSON" {
    make_image a.qcow2 1M
    qemu-img snapshot -c $'\e]0;title\a' a.qcow2
    qemu-img snapshot -c $'two\nlines "quoted" \\' a.qcow2
    qemu-img snapshot -c $'latin\xe4' a.qcow2
    run -0 qcow-snapshot -l a.qcow2
    refute_output_has $'\e' $'\a'
    [[ ${#lines[@]} == 5 ]]
    assert_output_has '\x1b]0;title\x07' 'two\x0alines "quoted" \\' 'latin\xe4'
    run -0 qcow-snapshot -l --output=json a.qcow2
    assert_json '[.[].name] == ["\u001b]0;title\u0007", "two\nlines \"quoted\" \\", "latin\\xe4"]'
}

@test "snapshot -l -U: an image that a VM has open" {
    cp "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2" a.qcow2
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    run -1 qcow-snapshot -l a.qcow2
    assert_output_has lock
    run -0 qcow-snapshot -l -U a.qcow2
    assert_output_has größer
}

@test "snapshot: listing is what it does without a verb" {
    cd "$BATS_FILE_TMPDIR/zoo/snapshots"
    [[ $(qcow-snapshot t.qcow2) == "$(qcow-snapshot -l t.qcow2)" ]]
}
