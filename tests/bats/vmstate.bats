#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-vmstate: the memory of a VM that real QEMU saved, taken out and put back.

load helpers

# hmp COMMAND: one command of the human monitor; it must print nothing
hmp() {
    local answer
    answer=$(qmp vm.qmp human-monitor-command "{\"command-line\": \"$1\"}" | jq -r 'if type == "object" then .return else . end')
    [[ -z $answer ]] || fail "$1: $answer"
}

start_saved_vm() {
    start_vm -machine pc -m 16 -drive if=virtio,format=qcow2,file=a.qcow2
}

# an image with a snapshot that has a VM state, and one without
make_saved() {
    require qemu-system-x86_64
    make_image a.qcow2 64M
    guest_write a.qcow2 0 1M A
    snapshot a.qcow2 plain
    start_saved_vm
    hmp "savevm running"
    stop_daemon "$daemon_pid"
    guest_write a.qcow2 0 2M B
    assert_clean a.qcow2
}

@test "vmstate: taken out, dropped, put back, and QEMU resumes the VM" {
    make_saved
    qcow-vmstate -x running vm.state a.qcow2
    [[ $(stat -c %s vm.state) == $(qcow-snapshot -l --output=json a.qcow2 | jq '.[1]."vm-state-size"') ]]
    qcow-vmstate -d running a.qcow2
    assert_clean a.qcow2
    run -0 qcow-snapshot -l --output=json a.qcow2
    assert_json '.[1]."vm-state-size" == 0'
    qcow-vmstate -i running vm.state a.qcow2
    assert_clean a.qcow2
    qcow-vmstate -x running again.state a.qcow2
    cmp vm.state again.state
    start_saved_vm
    hmp "loadvm running"
    stop_daemon "$daemon_pid"
    assert_guest a.qcow2 0 1M A
    assert_clean a.qcow2
}

@test "vmstate: dropped while the active layer still refers to it, the image stays clean" {
    make_saved
    qcow-snapshot -a running a.qcow2
    qcow-vmstate -d running a.qcow2
    assert_clean a.qcow2
    qcow-snapshot -d running a.qcow2
    assert_clean a.qcow2
}

@test "vmstate: externalized beside its file" {
    make_saved
    run -0 qcow-externalize --output=json a.qcow2 files
    assert_json '.[1]."vmstate-file" == "0002-running.vmstate"'
    qcow-vmstate -x running vm.state a.qcow2
    cmp vm.state files/0002-running.vmstate
}

@test "vmstate: what is not there is said, and nothing changes" {
    make_image a.qcow2 1M
    snapshot a.qcow2 plain
    remember_image a.qcow2
    run -1 qcow-vmstate -x plain f a.qcow2
    assert_output_has "no VM state"
    [[ ! -e f ]]
    run -1 qcow-vmstate -d plain a.qcow2
    assert_output_has already
    run -1 qcow-vmstate -x @active f a.qcow2
    run -2 qcow-vmstate -x plain a.qcow2
    run -2 qcow-vmstate f a.qcow2
    assert_image_unchanged a.qcow2
}
