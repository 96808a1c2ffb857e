#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# The vocabulary itself: a judge that cannot fail proves nothing.

load helpers

@test "helpers: a guest reads what a guest wrote" {
    make_image a.qcow2 4M
    guest_write a.qcow2 64K 64K A
    guest_write a.qcow2 256K 512 0x42
    guest_write_compressed a.qcow2 1M 64K C
    assert_guest a.qcow2 64K 64K A
    assert_guest a.qcow2 256K 512 B
    assert_guest a.qcow2 1M 64K C
    assert_guest_zero a.qcow2 0 64K
    run -1 assert_guest a.qcow2 64K 64K B
    run -1 assert_guest_zero a.qcow2 64K 512
}

@test "helpers: zeros hide the backing file, a discard in an image without one reads as zeros" {
    make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 128K A
    guest_zero top.qcow2 0 64K
    assert_guest_zero top.qcow2 0 64K
    assert_guest top.qcow2 64K 64K A
    guest_discard base.qcow2 0 64K
    assert_guest_zero base.qcow2 0 64K
}

@test "helpers: random bytes are the same for a seed, and differ between seeds" {
    make_image a.qcow2 1M
    make_image b.qcow2 1M
    guest_write_random a.qcow2 0 256K 7
    guest_write_random b.qcow2 0 256K 7
    assert_same_content a.qcow2 b.qcow2
    guest_write_random b.qcow2 0 64K 8
    run -1 assert_same_content a.qcow2 b.qcow2
}

@test "helpers: assert_same_content sees a difference of size" {
    make_image a.qcow2 1M
    make_image b.qcow2 2M
    run -1 assert_same_content a.qcow2 b.qcow2
}

@test "helpers: assert_clean sees a leak and a corruption" {
    make_image a.qcow2 1M
    guest_write a.qcow2 0 128K A
    assert_clean a.qcow2
    l2=$((16#$(peek a.qcow2 $((0x30000)) 8) & 0xfffffffffffe00))
    cp a.qcow2 leak.qcow2
    poke leak.qcow2 "$l2" 0000000000000000
    run -1 assert_clean leak.qcow2
    assert_output_has "Leaked cluster"
    poke a.qcow2 "$l2" 8000000000050001
    poke a.qcow2 "$((l2 + 8))" 8000000000050000
    run -1 assert_clean a.qcow2
    assert_output_has "ERROR"
}

@test "helpers: peek_be reads what poke wrote" {
    head -c 64 /dev/zero >bytes
    poke bytes 8 "00000001 ffff0000"
    [[ $(peek bytes 8 8) == 00000001ffff0000 ]]
    [[ $(peek_be bytes 8 8) == $((0x1ffff0000)) ]]
}

@test "helpers: snapshot_raw has the snapshot's own content and size, bitmaps or not" {
    make_image a.qcow2 4M
    guest_write a.qcow2 3M 64K A
    snapshot a.qcow2 s1
    qemu-img resize -q --shrink a.qcow2 1M
    guest_write a.qcow2 0 64K B
    qemu-img bitmap --add a.qcow2 bits
    remember_image a.qcow2
    snapshot_raw a.qcow2 s1 s1.raw
    assert_image_unchanged a.qcow2
    [[ $(stat -c %s s1.raw) == $((4 << 20)) ]]
    assert_guest s1.raw 3M 64K A
    assert_guest_zero s1.raw 0 64K
    active_raw a.qcow2 now.raw
    [[ $(stat -c %s now.raw) == $((1 << 20)) ]]
    assert_guest now.raw 0 64K B
}

@test "helpers: assert_image_unchanged sees one byte, and a file written with the same bytes" {
    make_image a.qcow2 1M
    remember_image a.qcow2
    assert_image_unchanged a.qcow2
    poke a.qcow2 0x1000 01
    run -1 assert_image_unchanged a.qcow2
    remember_image a.qcow2
    poke a.qcow2 0x1000 01
    run -1 assert_image_unchanged a.qcow2
}

@test "helpers: a storage daemon holds the image's locks, runs jobs, and ends" {
    require qemu-storage-daemon
    make_chain base.qcow2 top.qcow2
    guest_write top.qcow2 0 64K A
    start_qsd --blockdev driver=file,node-name=f,filename=top.qcow2 \
        --blockdev driver=qcow2,node-name=top,file=f
    run -1 guest_write top.qcow2 0 64K B
    assert_output_has "lock"
    run -0 qmp qsd.qmp query-named-block-nodes
    assert_json 'map(.["node-name"]) | index("top") != null'
    qmp_job qsd.qmp block-commit '{"device": "top"}'
    run -1 qmp qsd.qmp no-such-command
    stop_daemon "$daemon_pid"
    assert_guest base.qcow2 0 64K A
    assert_clean top.qcow2
}

@test "helpers: a virtual machine holds its disk and answers QMP" {
    require qemu-system-x86_64
    make_image a.qcow2 1M
    start_vm -drive file=a.qcow2,format=qcow2,if=virtio,id=disk
    run -1 guest_write a.qcow2 0 64K B
    assert_output_has "lock"
    vm_io vm.qmp disk "write -P 65 0 64K" flush
    kill_daemon "$daemon_pid"
    assert_guest a.qcow2 0 64K A
}

@test "helpers: nbdkit and qemu-nbd serve an image" {
    require nbdkit qemu-nbd
    make_image a.qcow2 1M
    guest_write a.qcow2 0 64K A
    start_nbdkit kit.sock -r file a.qcow2
    run -0 qemu-img info --output=json 'nbd+unix:///?socket=kit.sock'
    assert_json '.format == "qcow2"'
    start_qemu_nbd qemu.sock -r -f qcow2 a.qcow2
    assert_guest 'nbd+unix:///?socket=qemu.sock' 0 64K A
}

@test "helpers: what runs in the background is gone after teardown, even if it ignores SIGTERM" {
    start_daemon bash -c 'trap "" TERM; : >ready; while :; do sleep 0.1; done'
    wait_until test -e ready
    qcow_teardown
    run -1 kill -0 "$daemon_pid"
}

@test "helpers: file systems and devices of a test are gone after teardown" {
    truncate -s 1M disk.img
    small_disk 1M
    reflink_disk 320M shared
    echo there | tee small/there >shared/there
    cp --reflink=always shared/there shared/copy
    loop_device disk.img
    [[ -b $device ]]
    qcow_teardown
    run ! mountpoint -q small
    run ! mountpoint -q shared
    run -0 losetup --associated disk.img
    assert_output ""
}

@test "helpers: each_qemu runs under both versions" {
    require_qemu10
    seen() { qemu_major >>versions; }
    each_qemu seen
    [[ $(tail -n 1 versions) == 10 && $(wc -l <versions) == 2 ]]
}

@test "helpers: JSON and output are judged by content" {
    assert_same_json '{"a": 1, "b": [1, 2]}' '{"b":[1,2],"a":1}'
    run -1 assert_same_json '{"a": 1}' '{"a": 2}'
    run -0 echo '{"a": 1}'
    assert_json '.a == 1'
    run -1 assert_json '.a == 2'
}
