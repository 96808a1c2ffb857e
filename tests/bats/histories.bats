#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-externalize and qcow-internalize: snapshots as files, and files as snapshots.

load helpers

make_history() {
    truncate -s 8M base.raw
    qemu_io base.raw "write -q -P 9 0 8M"
    qemu-img create -q -f qcow2 -b base.raw -F raw s.qcow2
    guest_write s.qcow2 0 1M A
    snapshot s.qcow2 one
    guest_write s.qcow2 512k 2M B
    guest_zero s.qcow2 5M 1M
    snapshot s.qcow2 'two/2:b'
    qemu-img resize -q s.qcow2 10M
    guest_write s.qcow2 9M 100k C
}

@test "externalize: each state is a file of the chain, and QEMU reads the same from it" {
    make_history
    remember_image s.qcow2 base.raw
    run -0 qcow-externalize s.qcow2 files
    assert_image_unchanged s.qcow2 base.raw
    assert_output_has "0001-one.qcow2" "0002-two%2F2%3Ab.qcow2" "active.qcow2"
    snapshot_raw s.qcow2 one wanted.raw
    assert_same_content files/0001-one.qcow2 wanted.raw
    snapshot_raw s.qcow2 'two/2:b' wanted.raw
    assert_same_content files/0002-two%2F2%3Ab.qcow2 wanted.raw
    active_raw s.qcow2 wanted.raw
    assert_same_content files/active.qcow2 wanted.raw
    for file in files/*.qcow2; do
        assert_clean "$file"
    done
}

@test "externalize --output=json lists state and file" {
    make_history
    run -0 qcow-externalize --output=json s.qcow2 files
    assert_json 'map(.state) == ["one", "two/2:b", "@active"]'
    assert_json 'map(.file) == ["0001-one.qcow2", "0002-two%2F2%3Ab.qcow2", "active.qcow2"]'
}

@test "externalize: a file that is there is never replaced, and what was made is taken away" {
    make_history
    mkdir files
    echo mine > files/active.qcow2
    run -1 qcow-externalize s.qcow2 files
    assert_output_has "active.qcow2" "exists"
    [[ $(ls files) == active.qcow2 ]]
    [[ $(cat files/active.qcow2) == mine ]]
}

@test "internalize: every layer is a snapshot again, of its size and with its bytes" {
    make_history
    qcow-externalize -q s.qcow2 files
    qcow-internalize files/active.qcow2 n.qcow2
    assert_clean n.qcow2
    run -0 qcow-snapshot -l --output=json n.qcow2
    assert_json 'map(.name) == ["base", "0001-one", "0002-two%2F2%3Ab"]'
    snapshot_raw s.qcow2 'two/2:b' wanted.raw
    snapshot_raw n.qcow2 '0002-two%2F2%3Ab' found.raw
    cmp wanted.raw found.raw
    active_raw s.qcow2 wanted.raw
    active_raw n.qcow2 found.raw
    cmp wanted.raw found.raw
    guest_write n.qcow2 0 8M D
    assert_clean n.qcow2
}

@test "internalize: names that repeat are numbered, dates are those of the files" {
    mkdir a b
    qemu-img create -q -f qcow2 a/disk.qcow2 1M
    qemu-img create -q -f qcow2 -b ../a/disk.qcow2 -F qcow2 b/disk.qcow2
    qemu-img create -q -f qcow2 -b b/disk.qcow2 -F qcow2 top.qcow2
    touch -d @1000000000 a/disk.qcow2
    qcow-internalize top.qcow2 n.qcow2
    run -0 qcow-snapshot -l --output=json n.qcow2
    assert_json 'map(.name) == ["disk", "disk-2"]'
    assert_json '.[0]."date-sec" == 1000000000'
}

@test "internalize: refcounts too narrow for the snapshots are refused, and no output is left" {
    make_chain a.qcow2 b.qcow2
    qemu-img create -q -f qcow2 -o refcount_bits=16 -b b.qcow2 -F qcow2 top.qcow2
    qcow-internalize top.qcow2 n.qcow2
    run -1 qcow-internalize top.qcow2 n.qcow2
    assert_output_has "n.qcow2" "exists"
}

@test "internalize -U: what a VM writes is refused, what it only reads is not" {
    require qemu-storage-daemon
    CHAIN_SIZE=8M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 4M A
    guest_write mid.qcow2 1M 4M B
    guest_write top.qcow2 2M 4M C
    start_qsd --blockdev driver=file,node-name=file,filename=top.qcow2 \
        --blockdev driver=qcow2,node-name=disk,file=file \
        --nbd-server addr.type=unix,addr.path=live.sock \
        --export type=nbd,id=guest,node-name=disk,name=,writable=on
    run -1 qcow-internalize -U top.qcow2 out.qcow2
    assert_output_has "a running VM writes to the active layer"
    [[ ! -e out.qcow2 ]]
    qcow-internalize -U mid.qcow2 out.qcow2
    active_raw out.qcow2 found.raw
    assert_same_content mid.qcow2 found.raw
}

@test "internalize -U: an image that is written meanwhile, and layers that are, leave no output" {
    local file status
    CHAIN_SIZE=8M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 8M A
    guest_write top.qcow2 0 1M B
    for file in top.qcow2 base.qcow2; do
        start_daemon qcow-internalize -U --rate 4M top.qcow2 out.qcow2
        sleep 0.5
        guest_write $file 2M 4K D
        status=0
        wait "$daemon_pid" || status=$?
        [[ $status == 1 ]]
        grep -q "'$file': it was changed while it was read" daemon.log || fail "$(<daemon.log)"
        [[ $(find . -name '*out.qcow2*') == "" ]]
    done
}
