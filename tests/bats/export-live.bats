#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154,SC2030,SC2031  # bats and the helpers set output, stderr, status, daemon_pid
# Exports from an image that a running QEMU writes to: exact, or an error and no file.
#
# Nothing here hopes for good timing. An export is slowed down, stopped (SIGSTOP) once it has moved some of its
# data, and continued after QEMU has done its worst.

load helpers

# ---- the image and who has it open -------------------------------------------------------------------

# 4 MiB, over base.qcow2, which NBD needs by its full name; what monday and tuesday hold is in monday.raw and
# tuesday.raw. Most of what differs compresses to about two thirds.
make_live_disk() {
    python3 -c 'import random
print("".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=4 << 20)), end="")' >letters
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M X
    make_image disk.qcow2 4M -b "$PWD/base.qcow2" -F qcow2
    qemu_io disk.qcow2 'write -q -P 65 0 512K' 'write -q -c -P 66 512K 512K' 'write -q -z 1M 256K'
    snapshot disk.qcow2 monday
    qemu_io disk.qcow2 'write -q -s letters 256K 2M' 'write -q -z 2560K 512K' 'write -q -P 68 3M 4K'
    snapshot disk.qcow2 tuesday
    qemu_io disk.qcow2 'write -q -P 69 0 1M'
    snapshot_raw disk.qcow2 monday monday.raw
    snapshot_raw disk.qcow2 tuesday tuesday.raw
}

# open_live qsd|vm: a storage daemon or a virtual machine opens disk.qcow2, its guest is at live.sock
open_live() {
    local nodes=(-blockdev "driver=file,node-name=disk-file,filename=disk.qcow2"
        -blockdev "driver=qcow2,node-name=disk,file=disk-file,discard=unmap")
    rm -f live.sock
    case $1 in
        qsd)
            require qemu-storage-daemon
            monitor=qsd.qmp
            start_qsd "${nodes[@]/#-blockdev/--blockdev}"
            ;;
        vm)
            require qemu-system-x86_64
            monitor=vm.qmp
            start_vm "${nodes[@]}"
            ;;
    esac
    live_pid=$daemon_pid
    live nbd-server-start '{"addr": {"type": "unix", "data": {"path": "live.sock"}}}'
    live block-export-add '{"type": "nbd", "id": "guest", "node-name": "disk", "name": "", "writable": true}'
}

# live COMMAND [ARGUMENTS]: tell it something by QMP
live() {
    qmp "$monitor" "$@" >/dev/null
}

# live_job COMMAND ARGUMENTS: have it do a job, and wait for the end
live_job() {
    qmp_job "$monitor" "$@" >/dev/null
}

live_snapshot() {
    live blockdev-snapshot-internal-sync "{\"device\": \"disk\", \"name\": \"$1\"}"
}

live_delete() {
    live blockdev-snapshot-delete-internal-sync "{\"device\": \"disk\", \"name\": \"$1\"}"
}

# live_write PATTERN: the guest writes the whole disk
live_write() {
    qemu-io -f raw -c "write -q -P $(pattern_byte "$1") 0 4M" -c flush "nbd+unix:///?socket=$PWD/live.sock" >/dev/null
}

# do_the_worst: all of the disk is written again and again, and snapshots come and go
do_the_worst() {
    local i
    for i in 1 2 3; do
        live_write $((i * 20))
        live_snapshot "other$i"
        qemu-io -f raw -c 'discard -q 0 2M' -c 'write -q -z 2M 1M' "nbd+unix:///?socket=$PWD/live.sock"
        ((i == 1)) || live_delete "other$((i - 1))"
    done
    live_write 99
}

# ---- the export --------------------------------------------------------------------------------------

# has_moved FILE…: one of the files has some hundreds of KiB of data
has_moved() {
    local file
    for file; do
        (($(stat -c %b "$file" 2>/dev/null || echo 0) >= 400)) && return
    done
    return 1
}

# start_export ARGUMENT…: an export that is slow, and stopped in the middle; its log is export.log
start_export() {
    qcow-export-delta --rate 1M "$@" </dev/null >"${export_stdout:-export.log}" 2>>export.log 3>&- &
    export_pid=$!
    echo "$export_pid" >>"$BATS_TEST_TMPDIR/.daemons"
    if ! wait_until eval 'has_moved .delta*.qcow-?????? piped.qcow2 .none'; then
        fail "it never moved data: $(<export.log)" || return
    fi
    kill -STOP "$export_pid"
}

# end_export STATUS: let it run, and see how it ends
end_export() {
    local status=0
    kill -CONT "$export_pid"
    wait "$export_pid" || status=$?
    ((status == $1)) || fail "exit status $status: $(<export.log)"
}

# end_export_failing WORD…: let it run: it ends with a message that has these words, and without a file
end_export_failing() {
    local word left
    end_export 1 || return
    for word; do
        [[ $(<export.log) == *"$word"* ]] || fail "'$word' is not in: $(<export.log)" || return
    done
    (($(grep -c '^qcow-export-delta: [^w]' export.log) == 1)) || fail "not one line: $(<export.log)" || return
    left=$(find . -name '*delta*')
    [[ ! $left ]] || fail "left behind: $left"
}

# assert_live_delta DELTA FROM.raw TO.raw: over FROM, the delta reads as TO
assert_live_delta() {
    assert_clean "$1" && qemu-img compare -F raw "$(delta_over "$1" "$2")" "$3" >&2
}

# ---- exact -------------------------------------------------------------------------------------------

# exact_beside IMAGE [OPTIONS…]: exports between two snapshots, with options, while the worst is done
exact_beside() {
    local options image=$1
    shift
    truncate --size=4M empty.raw
    for options in "" "$@"; do
        # shellcheck disable=SC2086  # options are words
        start_export -U $options "$image" monday tuesday delta.qcow2
        do_the_worst
        end_export 0
        assert_live_delta delta.qcow2 monday.raw tuesday.raw || fail "$options"
        rm delta.qcow2
        live_delete other3
    done
    start_export -U "$image" @empty monday delta.qcow2
    do_the_worst
    end_export 0
    assert_live_delta delta.qcow2 empty.raw monday.raw
}

@test "live: exports are exact while a storage daemon's guest rewrites the disk and snapshots come and go" {
    make_live_disk
    open_live qsd
    exact_beside disk.qcow2 "-c" "--compare-data" "-o cluster_size=4k" "-o extended_l2=on"
}

@test "live: exports are exact while a virtual machine's guest rewrites the disk and snapshots come and go" {
    make_live_disk
    open_live vm
    exact_beside disk.qcow2
}

@test "live: the same from another host, through a read-only NBD export of the container" {
    require nbdkit
    make_live_disk
    open_live qsd
    start_nbdkit container.sock -r file disk.qcow2
    exact_beside "nbd+unix:///?socket=$PWD/container.sock" "--compare-data"
}

@test "live: a pipe, and a raw disk in place" {
    make_live_disk
    open_live vm
    export_stdout=piped.qcow2 start_export -q -U disk.qcow2 monday tuesday -
    do_the_worst
    end_export 0
    assert_live_delta piped.qcow2 monday.raw tuesday.raw

    cp monday.raw patched.raw
    qcow-export-delta -q -U --rate 1M -O raw disk.qcow2 monday tuesday patched.raw 3>&- &
    export_pid=$!
    do_the_worst 2>/dev/null || do_the_worst 2>/dev/null || true
    wait "$export_pid"
    cmp patched.raw tuesday.raw
}

@test "live: exports one after another beside a guest that never rests" {
    make_live_disk
    open_live vm
    never_rest() {
        while :; do
            do_the_worst
            live_delete other3
            echo round >>rounds
        done
    }
    : >rounds
    start_daemon never_rest
    rester=$daemon_pid
    for ((i = 0; i < 5 || (i < 100 && $(wc -l <rounds) < 3); i++)); do
        options=("" "-c" "--compare-data" "-m 1" "-T none")
        # shellcheck disable=SC2086  # options are words
        qcow-export-delta -q -U --rate 4M ${options[i % 5]} disk.qcow2 monday tuesday delta.qcow2
        assert_live_delta delta.qcow2 monday.raw tuesday.raw || fail "${options[i % 5]}"
        rm delta.qcow2
    done
    kill -0 "$rester" || fail "the guest rested: $(tail daemon.log)"
    (($(wc -l <rounds) >= 3))
}

@test "live: snapshots that are deleted and made again: an export is one of them, whole, or fails" {
    make_image disk.qcow2 4M
    guest_write disk.qcow2 0 4M 1
    snapshot disk.qcow2 now
    open_live qsd
    replace_for_ever() {
        local i=1
        while :; do
            live_write $((i = i % 250 + 1))
            live_delete now
            live_snapshot now
        done
    }
    start_daemon replace_for_ever
    whole=0
    for i in {1..25}; do
        : >export.log
        if qcow-export-delta -q -U disk.qcow2 @empty now delta.qcow2 2>export.log; then
            qemu-img convert -O raw delta.qcow2 delta.raw
            (($(tail -c +2 delta.raw | cmp -n 4194303 - delta.raw | wc -c) == 0)) || fail "round $i: torn"
            rm delta.qcow2
            : $((whole += 1))
        else
            grep -qE "deleted or replaced|not found|changed" export.log || fail "round $i: $(<export.log)"
            [[ ! $(find . -name '*delta.qcow2*') ]] || fail "round $i: a file was left"
        fi
    done
    echo "# $whole of 25 exports came in time" >&3
}

# ---- what makes an export fail -----------------------------------------------------------------------

# fails_without_snapshot IMAGE qsd|vm: FROM or TO is deleted, or deleted and made again
fails_without_snapshot() {
    local gone again
    for gone in monday tuesday; do
        for again in "" again; do
            start_export -U "$1" monday tuesday delta.qcow2
            live_delete $gone
            [[ ! $again ]] || live_snapshot $gone
            live_write 7
            end_export_failing "snapshot '$gone' was deleted or replaced" "${1##*/}" || fail "$gone $again" || return
            # What is gone is made again offline for the next round.
            stop_daemon "$live_pid"
            rm -f disk.qcow2 base.qcow2 export.log
            make_live_disk
            open_live "$2"
        done
    done
}

@test "live: FROM or TO deleted during the export, or deleted and made again, makes it fail" {
    make_live_disk
    open_live qsd
    fails_without_snapshot disk.qcow2 qsd
}

@test "live: the same beside a virtual machine" {
    make_live_disk
    open_live vm
    fails_without_snapshot disk.qcow2 vm
}

@test "live: the same through NBD" {
    require nbdkit
    make_live_disk
    open_live qsd
    start_nbdkit container.sock -r file disk.qcow2
    for gone in monday tuesday; do
        start_export -U "nbd+unix:///?socket=$PWD/container.sock" monday tuesday delta.qcow2
        live_delete $gone
        live_snapshot $gone
        live_write 7
        end_export_failing "snapshot '$gone' was deleted or replaced" container.sock
        rm export.log
    done
}

@test "live: deleting a snapshot that is not exported does no harm" {
    make_live_disk
    snapshot disk.qcow2 wednesday
    open_live vm
    start_export -U disk.qcow2 monday tuesday delta.qcow2
    live_delete wednesday
    live_write 7
    end_export 0
    assert_live_delta delta.qcow2 monday.raw tuesday.raw
}

@test "live: a stream whose snapshot was deleted gets no digest" {
    make_live_disk
    open_live vm
    export_stdout=piped.qcow2 start_export -U disk.qcow2 monday tuesday -
    live_delete monday
    end_export_failing "snapshot 'monday' was deleted or replaced"
    size=$(stat -c %s piped.qcow2)
    [[ $(peek piped.qcow2 $((size / 65536 * 65536 - 65536)) 32) != \
        $(head -c $((size / 65536 * 65536 - 65536)) piped.qcow2 | sha256sum | cut -d' ' -f1) ]]
}

@test "live: a commit into the backing file makes it fail" {
    make_live_disk
    open_live qsd
    start_export -U disk.qcow2 @empty monday delta.qcow2
    live_job block-commit '{"device": "disk"}'
    end_export_failing base.qcow2 commit
}

job_is_ready() {
    qmp "$monitor" query-jobs | grep -q ready
}

@test "live: a commit into the backing file that has not ended makes it fail" {
    make_live_disk
    open_live vm
    start_export -U disk.qcow2 @empty monday delta.qcow2
    live block-commit '{"device": "disk", "job-id": "commit"}'
    wait_until job_is_ready
    end_export_failing base.qcow2 "another process is writing"
}

# commit_middle: QEMU commits middle.qcow2 into the layer below it
commit_middle() {
    local node
    node=$(qmp "$monitor" query-named-block-nodes | jq -r '.[] | select(.image.filename | endswith("middle.qcow2"))
        | select(.drv == "qcow2")["node-name"]')
    live_job block-commit "{\"device\": \"disk\", \"top-node\": \"$node\"}"
}

@test "live: QEMU refuses a commit between lower layers that an export reads" {
    make_live_disk
    make_image middle.qcow2 4M -b base.qcow2 -F qcow2
    guest_write middle.qcow2 3M 64K M
    qemu-img rebase -u -b middle.qcow2 -F qcow2 disk.qcow2
    open_live qsd
    start_export -U disk.qcow2 @empty monday delta.qcow2
    run -1 commit_middle
    assert_output_has 'Failed to get shared "consistent read" lock'
    end_export 0
    # Over nothing, the delta is monday over base and middle: the sectors that middle adds are there.
    assert_guest delta.qcow2 3M 64K M
    assert_guest delta.qcow2 0 512K A
}

@test "live: a commit between lower layers that it does not read makes it fail" {
    make_live_disk
    make_image middle.qcow2 4M -b base.qcow2 -F qcow2
    qemu-img rebase -u -b middle.qcow2 -F qcow2 disk.qcow2
    guest_write disk.qcow2 0 4M A
    snapshot disk.qcow2 wednesday
    guest_write disk.qcow2 0 2M B
    snapshot disk.qcow2 thursday
    open_live qsd
    start_export -U disk.qcow2 wednesday thursday delta.qcow2
    commit_middle
    end_export_failing disk.qcow2 "backing file was replaced"
}

@test "live: a stream into the image makes it fail" {
    make_live_disk
    open_live vm
    start_export -U disk.qcow2 @empty monday delta.qcow2
    live_job block-stream '{"device": "disk"}'
    end_export_failing disk.qcow2 "backing file was replaced"
}

@test "live: a commit between lower layers before the export begins is no harm" {
    make_live_disk
    make_image middle.qcow2 4M -b base.qcow2 -F qcow2
    qemu-img rebase -u -b middle.qcow2 -F qcow2 disk.qcow2
    open_live vm
    commit_middle
    qcow-export-delta -q -U disk.qcow2 monday tuesday delta.qcow2
    assert_live_delta delta.qcow2 monday.raw tuesday.raw
}

@test "live: a raw backing file that somebody writes to makes it fail, although no lock tells" {
    make_image disk.qcow2 4M
    truncate --size=4M base.raw
    guest_write base.raw 0 4M X
    qemu-img rebase -u -b base.raw -F raw disk.qcow2
    snapshot disk.qcow2 monday
    open_live qsd
    start_export -U disk.qcow2 @empty monday delta.qcow2
    printf Y | dd of=base.raw bs=1 seek=3M conv=notrunc status=none
    end_export_failing base.raw changed
}

@test "live: a lower layer on NBD cannot be watched, and a warning says so" {
    require qemu-nbd
    make_image base.raw.qcow2 4M
    guest_write base.raw.qcow2 0 4M X
    start_qemu_nbd base.sock -e 4 -r -f qcow2 base.raw.qcow2
    make_image disk.qcow2 4M
    qemu-img rebase -q -u -b "nbd+unix:///?socket=$PWD/base.sock" -F raw disk.qcow2
    snapshot disk.qcow2 monday
    open_live qsd
    run -0 qcow-export-delta -U disk.qcow2 @empty monday delta.qcow2
    assert_output_has warning base.sock "cannot be proven"
}

# ---- the active state --------------------------------------------------------------------------------

@test "live: @active of an image in use is refused, with the reason" {
    make_live_disk
    open_live vm
    for pair in "@empty @active" "monday @active" "@active tuesday"; do
        read -r from to <<<"$pair"
        run -1 qcow-export-delta -U disk.qcow2 "$from" "$to" delta.qcow2
        assert_output_has disk.qcow2 @active "running VM" snapshot
        run -1 qcow-export-delta -U --map disk.qcow2 "$from" "$to"
        assert_output_has "running VM"
    done
    [[ ! -e delta.qcow2 ]]
    qcow-export-delta -q -U disk.qcow2 @backing tuesday delta.qcow2
}

@test "live: a VM that starts while @active is exported makes it fail" {
    make_live_disk
    start_export -U disk.qcow2 @empty @active delta.qcow2
    open_live vm
    live_write 7
    end_export_failing disk.qcow2
}

@test "live: @active over NBD is read with a warning, and fails when it has changed" {
    require nbdkit
    make_live_disk
    active_raw disk.qcow2 active.raw
    start_nbdkit container.sock -r file disk.qcow2
    run -0 qcow-export-delta -U "nbd+unix:///?socket=$PWD/container.sock" monday @active delta.qcow2
    assert_output_has warning @active
    assert_live_delta delta.qcow2 monday.raw active.raw
    rm delta.qcow2

    start_export -U "nbd+unix:///?socket=$PWD/container.sock" @empty @active delta.qcow2
    open_live vm
    live_snapshot new
    live_write 7
    end_export_failing container.sock changed
}

# ---- the VM is not disturbed -------------------------------------------------------------------------

@test "live: a VM can start on an image that is exported with -U, and do what it wants" {
    make_live_disk
    start_export -U disk.qcow2 monday tuesday delta.qcow2
    open_live vm
    do_the_worst
    live block-export-del '{"id": "guest", "mode": "hard"}'
    live block_resize '{"node-name": "disk", "size": 8388608}'
    end_export 0
    assert_live_delta delta.qcow2 monday.raw tuesday.raw
}

@test "live: without -U an export keeps VMs away until it has ended" {
    make_live_disk
    start_export disk.qcow2 monday tuesday delta.qcow2
    run -1 guest_write disk.qcow2 0 64K A
    assert_output_has lock
    end_export 0
    assert_live_delta delta.qcow2 monday.raw tuesday.raw
    guest_write disk.qcow2 0 64K A
}

@test "live: the image's bytes and times are those that the VM left" {
    make_live_disk
    open_live vm
    live_write 5
    remember_image disk.qcow2 base.qcow2
    qcow-export-delta -q -U disk.qcow2 @backing tuesday delta.qcow2
    qcow-export-delta -q -U disk.qcow2 @empty monday other.qcow2
    assert_image_unchanged disk.qcow2 base.qcow2
}
