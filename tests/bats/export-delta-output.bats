#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154,SC2030,SC2031  # bats and the helpers set output, stderr, status, daemon_pid
# Where a delta goes: a whole file or none, a raw disk in place, a pipe; and what is left when something fails.

load helpers

# A disk of 16 MiB whose snapshots differ by 8 MiB.
make_disk() {
    make_image disk.qcow2 16M
    guest_write disk.qcow2 0 8M A
    snapshot disk.qcow2 monday
    guest_write disk.qcow2 4M 8M B
    snapshot disk.qcow2 tuesday
    remember_image disk.qcow2
}

# assert_nothing_left [FOLDER]: no delta and no temporary file
assert_nothing_left() {
    local left
    left=$(find "${1:-.}" -name '*delta*' -o -name '*.qcow-*')
    [[ ! $left ]] || fail "left behind: $left"
}

# assert_ended PID STATUS: a program in the background has ended, or ends, with this status; its log is export.log
assert_ended() {
    local status=0
    wait "$1" || status=$?
    ((status == $2)) || fail "exit status $status: $(<export.log)"
}

# start_slow_export ARGUMENT…: in the background, until its temporary file is there; the log is export.log
start_slow_export() {
    # What a shell starts in the background ignores SIGINT.
    env --default-signal=INT qcow-export-delta --rate 1M "$@" </dev/null >export.log 2>&1 3>&- &
    export_pid=$!
    wait_until compgen -G '.*.qcow-??????'
}

# ---- a new file --------------------------------------------------------------------------------------

@test "output: a file that exists is refused, and stays as it is" {
    make_disk
    echo precious >delta.qcow2
    run -1 qcow-export-delta disk.qcow2 monday tuesday delta.qcow2
    assert_output_has delta.qcow2 exists
    [[ $(<delta.qcow2) == precious ]]
    rm delta.qcow2
    assert_nothing_left
}

@test "output: --overwrite replaces it, keeps mode, owner and ACL, and the old bytes stay with who has them open" {
    make_disk
    echo precious >delta.qcow2
    chmod 640 delta.qcow2
    ((EUID != 0)) || chown 1234:4321 delta.qcow2
    setfacl -m user:77:rw delta.qcow2 2>/dev/null || true
    local before
    before=$(stat -c '%a %u %g' delta.qcow2; getfacl -n delta.qcow2 2>/dev/null || true)
    exec {old}<delta.qcow2
    qcow-export-delta -q --overwrite disk.qcow2 monday tuesday delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday tuesday
    [[ $(stat -c '%a %u %g' delta.qcow2; getfacl -n delta.qcow2 2>/dev/null || true) == "$before" ]]
    [[ $(cat <&"$old") == precious ]]
}

@test "output: --overwrite follows links" {
    make_disk
    mkdir folder
    echo precious >folder/real.qcow2
    ln -s folder/real.qcow2 delta.qcow2
    qcow-export-delta -q --overwrite disk.qcow2 monday tuesday delta.qcow2
    [[ -L delta.qcow2 && ! -L folder/real.qcow2 ]]
    assert_delta folder/real.qcow2 disk.qcow2 monday tuesday
}

@test "output: a file that a VM has open is not replaced" {
    require qemu-storage-daemon
    make_disk
    make_image delta.qcow2 1M
    remember_image delta.qcow2
    start_qsd --blockdev driver=file,node-name=f,filename=delta.qcow2 --blockdev driver=qcow2,node-name=d,file=f
    run -1 qcow-export-delta --overwrite disk.qcow2 monday tuesday delta.qcow2
    assert_output_has delta.qcow2 lock
    stop_daemon "$daemon_pid"
    start_qsd --blockdev driver=file,node-name=f,filename=delta.qcow2,read-only=on \
        --blockdev driver=qcow2,node-name=d,file=f,read-only=on
    run -1 qcow-export-delta --overwrite disk.qcow2 monday tuesday delta.qcow2
    assert_output_has delta.qcow2 lock
    stop_daemon "$daemon_pid"
    assert_image_unchanged delta.qcow2
}

@test "output: neither the image nor a layer of it becomes the output" {
    make_chain base.qcow2 disk.qcow2
    guest_write base.qcow2 0 64K X
    guest_write disk.qcow2 64K 64K A
    remember_image base.qcow2 disk.qcow2
    for target in disk.qcow2 ./disk.qcow2 base.qcow2; do
        run -1 qcow-export-delta --overwrite disk.qcow2 @empty @active $target
        assert_output_has "${target#./}"
        run -1 qcow-export-delta disk.qcow2 @empty @active $target
    done
    ln -s disk.qcow2 link.qcow2
    run -1 qcow-export-delta --overwrite disk.qcow2 @empty @active link.qcow2
    assert_image_unchanged base.qcow2 disk.qcow2

    # Also a layer that this export does not read.
    qcow-export-delta --map --untrusted disk.qcow2 @active @active >/dev/null
    run -1 qcow-export-delta --overwrite disk.qcow2 @active @active base.qcow2
    assert_output_has base.qcow2 "layer [1]"
    assert_image_unchanged base.qcow2

    make_image data.qcow2 1M -o data_file=data.raw
    remember_image data.raw
    run -1 qcow-export-delta --overwrite data.qcow2 @active @active data.raw
    assert_output_has "data file"
    assert_image_unchanged data.raw
}

@test "output: what is no file is refused" {
    make_disk
    mkdir folder
    mkfifo fifo
    for target in folder folder/ fifo /dev/null no/such/folder/delta.qcow2 ""; do
        for options in "-q" "--overwrite"; do
            run -1 qcow-export-delta $options disk.qcow2 monday tuesday "$target"
            [[ $output == "qcow-export-delta: "*"'$target'"* && ${#lines[@]} == 1 ]] || fail "$target: $output"
        done
    done
    assert_nothing_left
}

@test "output: until it is whole it has another name" {
    make_disk
    start_slow_export disk.qcow2 monday tuesday delta.qcow2
    [[ ! -e delta.qcow2 ]]
    [[ $(compgen -G '.delta.qcow2.qcow-??????') ]]
    kill -KILL "$export_pid"
    assert_ended "$export_pid" 137
    [[ ! -e delta.qcow2 ]]
    rm .delta.qcow2.qcow-*
    qcow-export-delta -q disk.qcow2 monday tuesday delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday tuesday
    [[ ! $(compgen -G '.delta.qcow2.qcow-*') ]]
}

@test "output: a file that comes under its name meanwhile is not replaced" {
    make_disk
    qcow-export-delta --rate 4M disk.qcow2 monday tuesday delta.qcow2 >export.log 2>&1 3>&- &
    export_pid=$!
    wait_until compgen -G '.delta.qcow2.qcow-??????'
    echo precious >delta.qcow2
    assert_ended "$export_pid" 1
    [[ $(<delta.qcow2) == precious && $(<export.log) == *delta.qcow2*exists* ]] || fail "$(<export.log)"
    rm delta.qcow2
    assert_nothing_left
}

@test "output: Ctrl-C leaves no file, and the old one with --overwrite" {
    make_disk
    for signal in INT TERM; do
        echo precious >old.delta
        start_slow_export --overwrite disk.qcow2 monday tuesday old.delta
        kill -$signal "$export_pid"
        expected=130
        [[ $signal == INT ]] || expected=143
        assert_ended "$export_pid" $expected
        [[ $(<old.delta) == precious && $(<export.log) == *interrupted* ]] || fail "$(<export.log)"
        rm old.delta
        assert_nothing_left
    done
    assert_image_unchanged disk.qcow2
}

@test "output: a second Ctrl-C ends a command that waits for a server that hangs; two at once are one" {
    require nbdkit
    make_disk
    start_nbdkit hangs.sock -r file disk.qcow2
    start_slow_export "nbd+unix:///?socket=$PWD/hangs.sock" monday tuesday delta.qcow2
    kill -INT "$export_pid"
    kill -INT "$export_pid"
    assert_ended "$export_pid" 130
    assert_nothing_left

    start_slow_export "nbd+unix:///?socket=$PWD/hangs.sock" monday tuesday delta.qcow2
    kill -STOP "$export_pid"
    kill -STOP "$daemon_pid"
    kill -CONT "$export_pid"
    sleep 1
    kill -INT "$export_pid"
    sleep 2.1
    kill -0 "$export_pid" || fail "it did not wait for the server: this shows nothing"
    kill -INT "$export_pid"
    assert_ended "$export_pid" 130
    kill -CONT "$daemon_pid"
    [[ ! -e delta.qcow2 ]]
}

@test "output: direct I/O, and no flushes" {
    make_disk
    for options in "-t none" "-T none" "-t none -T none" "-t writethrough" "-t directsync" "-t unsafe"; do
        # shellcheck disable=SC2086  # options are words
        qcow-export-delta -q $options disk.qcow2 monday tuesday delta.qcow2 || fail "$options"
        assert_delta delta.qcow2 disk.qcow2 monday tuesday || fail "$options"
        rm delta.qcow2
    done
}

@test "output: on a file system that can, extents are shared with the source" {
    reflink_disk 400M xfs
    make_disk
    cp disk.qcow2 xfs
    cd xfs
    for options in "" "-o cluster_size=4k" "-o cluster_size=512" "--no-reflink"; do
        # shellcheck disable=SC2086  # options are words
        run -0 --separate-stderr qcow-export-delta --output=json $options disk.qcow2 monday tuesday delta.qcow2
        case $options in
            "" | *4k) assert_json '.["bytes-cloned"] == 8388608 and .["bytes-copied"] == 0' ;;
            *) assert_json '.["bytes-copied"] + .["bytes-cloned"] == 8388608' ;;
        esac
        [[ $options != --no-reflink ]] || assert_json '.["bytes-cloned"] == 0'
        assert_delta delta.qcow2 disk.qcow2 monday tuesday || fail "$options"
        rm delta.qcow2
    done
    cmp disk.qcow2 ../disk.qcow2
    cd ..
}

# ---- full disks and failing sources ------------------------------------------------------------------

@test "output: a full disk is an error that names the file, and nothing is left on it" {
    make_disk
    small_disk 4M full
    for options in "" "-c" "--compare-data" "-o cluster_size=512" "-t none"; do
        [[ $options != -c ]] || { guest_write_random disk.qcow2 4M 8M 1; }
        to=tuesday
        [[ $options != -c ]] || to=@active
        # shellcheck disable=SC2086  # options are words
        run -1 qcow-export-delta $options disk.qcow2 monday $to full/delta.qcow2
        assert_output_has full/ "No space left"
        assert_nothing_left full || fail "$options"
    done
}

@test "output: a full disk leaves the old file with --overwrite" {
    make_disk
    small_disk 4M full
    echo precious >full/delta.qcow2
    run -1 qcow-export-delta --overwrite disk.qcow2 monday tuesday full/delta.qcow2
    [[ $(<full/delta.qcow2) == precious && $(ls -A full) == delta.qcow2 ]]
    assert_image_unchanged disk.qcow2
}

@test "output: a source that fails in the middle is an error that names it, and no file is left" {
    require nbdkit
    make_disk
    start_nbdkit disk.sock -r --filter=error file disk.qcow2 error-pread=EIO error-pread-rate=100% error-file="$PWD/broken"
    for options in "" "-c" "--compare-data"; do
        # shellcheck disable=SC2086  # options are words
        start_slow_export $options "nbd+unix:///?socket=$PWD/disk.sock" monday tuesday delta.qcow2
        : >broken
        assert_ended "$export_pid" 1
        [[ $(<export.log) == *disk.sock*"Input/output error"* && $(grep -c . export.log) == 1 ]] || fail "$(<export.log)"
        assert_nothing_left
        rm broken
    done
}

@test "output: a server that dies in the middle is an error, and no file is left" {
    require nbdkit
    make_disk
    start_nbdkit disk.sock -r file disk.qcow2
    start_slow_export "nbd+unix:///?socket=$PWD/disk.sock" monday tuesday delta.qcow2
    kill_daemon "$daemon_pid"
    assert_ended "$export_pid" 1
    [[ $(<export.log) == *disk.sock* ]] || fail "$(<export.log)"
    assert_nothing_left
}

@test "output: a corrupt table is an error that says where, and no file is left" {
    make_disk
    l1=$(peek_be disk.qcow2 40 8)
    l2=$(($(peek_be disk.qcow2 "$l1" 8) & 0xfffffffffffe00))
    poke disk.qcow2 $((l2 + 8 * 100)) 8000000000012345
    remember_image disk.qcow2
    run -1 qcow-export-delta disk.qcow2 monday @active delta.qcow2
    assert_output_has disk.qcow2 "0x640000" 12345
    assert_nothing_left
    assert_image_unchanged disk.qcow2
}

@test "output: an image that was cut off is read as QEMU reads it, or not at all" {
    make_disk
    size=$(stat -c %s disk.qcow2)
    for cut in 65536 1000000 4000000; do
        cp disk.qcow2 cut.qcow2
        truncate --size=$((size - cut)) cut.qcow2
        if qcow-export-delta -q cut.qcow2 @empty @active delta.qcow2 2>export.log; then
            qemu-img convert -O raw cut.qcow2 cut.raw
            assert_same_content delta.qcow2 cut.raw
            rm delta.qcow2
        else
            [[ $(<export.log) == *cut.qcow2* ]]
            assert_nothing_left
        fi
    done
}

# ---- raw, in place -----------------------------------------------------------------------------------

@test "raw: a file that holds FROM is patched to hold TO, whichever is larger" {
    make_disk
    qemu-img resize -q disk.qcow2 20M
    guest_write disk.qcow2 18M 64K C
    for pair in "monday tuesday" "tuesday monday" "monday @active" "@active monday" "@empty tuesday" "tuesday @empty"; do
        read -r from to <<<"$pair"
        state_raw disk.qcow2 "$from" patched.raw 16M
        state_raw disk.qcow2 "$to" to.raw 16M
        qcow-export-delta -q -O raw disk.qcow2 "$from" "$to" patched.raw
        cmp patched.raw to.raw || fail "$pair"
    done
}

@test "raw: nothing is written where nothing changed" {
    make_disk
    state_raw disk.qcow2 monday patched.raw
    guest_write patched.raw 0 64K M
    guest_write patched.raw 12M 64K M
    qcow-export-delta -q -O raw disk.qcow2 monday tuesday patched.raw
    assert_guest patched.raw 0 64K M
    assert_guest patched.raw 64K 4032K A
    assert_guest patched.raw 4M 8M B
    assert_guest patched.raw 12M 64K M
}

@test "raw: zeros are holes where the file system has them" {
    make_image disk.qcow2 64M
    guest_write disk.qcow2 0 32M A
    snapshot disk.qcow2 monday
    guest_zero disk.qcow2 0 32M
    state_raw disk.qcow2 monday patched.raw
    qcow-export-delta -q -O raw disk.qcow2 monday @active patched.raw
    assert_guest_zero patched.raw 0 64M
    (($(stat -c %b patched.raw) < 100)) || fail "$(stat -c %b patched.raw) sectors are allocated"
}

@test "raw: the file must be there, and no layer of the image" {
    truncate --size=1M base.raw
    make_image disk.qcow2 1M -b base.raw -F raw
    guest_write disk.qcow2 0 64K A
    remember_image base.raw disk.qcow2
    run -1 qcow-export-delta -O raw disk.qcow2 @backing @active patched.raw
    assert_output_has patched.raw
    [[ ! -e patched.raw ]]
    for target in base.raw disk.qcow2 ./base.raw; do
        run -1 qcow-export-delta -O raw disk.qcow2 @backing @active $target
        assert_output_has "'$target'" layer
    done
    assert_image_unchanged base.raw disk.qcow2
}

@test "raw: a disk that a VM has open is refused" {
    require qemu-storage-daemon
    make_disk
    state_raw disk.qcow2 monday patched.raw
    remember_image patched.raw
    start_qsd --blockdev driver=file,node-name=f,filename=patched.raw --blockdev driver=raw,node-name=d,file=f \
        --nbd-server addr.type=unix,addr.path=qsd.sock --export type=nbd,id=e,node-name=d,writable=on
    run -1 qcow-export-delta -O raw disk.qcow2 monday tuesday patched.raw
    assert_output_has patched.raw lock
    assert_image_unchanged patched.raw
}

@test "raw: an NBD export is patched; what is past the end of TO stays" {
    require qemu-nbd
    make_disk
    state_raw disk.qcow2 monday patched.raw
    truncate --size=17M patched.raw
    guest_write patched.raw 16M 1M M
    start_qemu_nbd patched.sock -f raw patched.raw
    qcow-export-delta -q -O raw disk.qcow2 monday tuesday "nbd+unix:///?socket=$PWD/patched.sock"
    stop_daemon "$daemon_pid"
    assert_guest patched.raw 0 4M A
    assert_guest patched.raw 4M 8M B
    assert_guest_zero patched.raw 12M 4M
    assert_guest patched.raw 16M 1M M
}

@test "raw: an NBD export that is too small fails before the first write" {
    require qemu-nbd
    make_disk
    qemu-img resize -q disk.qcow2 20M
    guest_write disk.qcow2 0 64K C
    state_raw disk.qcow2 monday patched.raw
    remember_image patched.raw
    start_qemu_nbd patched.sock -f raw patched.raw
    run -1 qcow-export-delta -O raw disk.qcow2 monday @active "nbd+unix:///?socket=$PWD/patched.sock"
    assert_output_has patched.sock 16777216 20971520
    stop_daemon "$daemon_pid"
    assert_image_unchanged patched.raw
}

@test "raw: what an NBD export holds past the end of FROM is zeros afterwards where TO reads zeros" {
    require qemu-nbd
    make_disk
    qemu-img resize -q disk.qcow2 20M
    guest_write disk.qcow2 18M 64K C
    state_raw disk.qcow2 monday patched.raw
    truncate --size=20M patched.raw
    guest_write patched.raw 16M 4M M
    start_qemu_nbd patched.sock -f raw patched.raw
    qcow-export-delta -q -O raw disk.qcow2 monday @active "nbd+unix:///?socket=$PWD/patched.sock"
    stop_daemon "$daemon_pid"
    active_raw disk.qcow2 to.raw
    cmp patched.raw to.raw
}

@test "raw: an NBD export that cannot be written, or cannot flush, is refused" {
    require nbdkit qemu-nbd
    make_disk
    truncate --size=16M patched.raw
    start_qemu_nbd readonly.sock -r -f raw patched.raw
    run -1 qcow-export-delta -O raw disk.qcow2 @empty tuesday "nbd+unix:///?socket=$PWD/readonly.sock"
    assert_output_has readonly.sock
    # shellcheck disable=SC2016  # nbdkit's script expands them
    start_nbdkit noflush.sock eval get_size='echo 16777216' can_write='exit 0' can_flush='exit 3' can_fua='echo none' \
        pread='head -c $3 /dev/zero' pwrite='cat >/dev/null' zero='exit 0' can_zero='exit 0'
    run -1 qcow-export-delta -O raw disk.qcow2 @empty tuesday "nbd+unix:///?socket=$PWD/noflush.sock"
    assert_output_has noflush.sock flush
    qcow-export-delta -q -t unsafe -O raw disk.qcow2 @empty tuesday "nbd+unix:///?socket=$PWD/noflush.sock"
}

@test "raw: a block device is patched, one that is too small fails before the first write" {
    make_disk
    state_raw disk.qcow2 monday patched.raw
    loop_device patched.raw
    qcow-export-delta -q -O raw disk.qcow2 monday tuesday "$device"
    qemu-img resize -q disk.qcow2 20M
    run -1 qcow-export-delta -O raw disk.qcow2 tuesday @active "$device"
    assert_output_has "$device"
    snapshot_raw disk.qcow2 tuesday to.raw
    cmp patched.raw to.raw
}

@test "raw: an interrupted patch says how to go on, and the same command completes it" {
    make_disk
    state_raw disk.qcow2 monday patched.raw
    env --default-signal=INT qcow-export-delta --rate 2M -O raw disk.qcow2 monday tuesday patched.raw </dev/null >export.log 2>&1 3>&- &
    export_pid=$!
    wait_until eval '! cmp -s -n 65536 -i 4194304:0 patched.raw patched.raw'
    kill -INT "$export_pid"
    assert_ended "$export_pid" 130
    [[ $(<export.log) == *"same command completes it"* ]] || fail "$(<export.log)"
    qcow-export-delta -q -O raw disk.qcow2 monday tuesday patched.raw
    snapshot_raw disk.qcow2 tuesday to.raw
    cmp patched.raw to.raw
}

@test "raw: a full disk is an error that names the file" {
    make_disk
    small_disk 2M full
    truncate --size=16M full/patched.raw
    run -1 qcow-export-delta -O raw disk.qcow2 @empty tuesday full/patched.raw
    assert_output_has full/patched.raw "No space left"
}

# ---- a pipe ------------------------------------------------------------------------------------------

# assert_digest STREAM: its last cluster holds the SHA-256 of all before it, and zeros
assert_digest() {
    local cluster=$((1 << $(peek_be "$1" 20 4))) size
    size=$(stat -c %s "$1")
    ((size % cluster == 0)) || fail "the stream ends inside a cluster" || return
    [[ $(peek "$1" $((size - cluster)) 32) == $(head -c $((size - cluster)) "$1" | sha256sum | cut -d' ' -f1) ]] ||
        fail "wrong digest" || return
    [[ $(tail -c $((cluster - 32)) "$1" | tr -d '\0' | wc -c) == 0 ]] || fail "the digest's cluster is not clear"
}

@test "pipe: the stream is the delta, tables first, with a digest in its last cluster" {
    make_disk
    for options in "" "-o cluster_size=4k,extended_l2=off" "-o extended_l2=on" "-o compat=0.10" "--compare-data"; do
        # shellcheck disable=SC2086  # options are words
        qcow-export-delta -q $options disk.qcow2 monday tuesday - | cat >delta.qcow2
        assert_delta delta.qcow2 disk.qcow2 monday tuesday || fail "$options"
        assert_delta_holds delta.qcow2 "4M 8M data"
        assert_digest delta.qcow2 || fail "$options"
        # The data comes after all that describes it.
        [[ $(qemu-img map --output=json delta.qcow2 | jq '[.[] | .offset // empty] | min + 8388608 + 65536') -ge \
            $(stat -c %s delta.qcow2) ]] || fail "$options: data before tables"
    done
}

@test "pipe: compressed data is spooled to an unlinked file in TMPDIR" {
    make_disk
    mkdir spool
    TMPDIR=$PWD/spool qcow-export-delta -q -c disk.qcow2 monday tuesday - | cat >delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 monday tuesday
    assert_delta_holds delta.qcow2 "4M 8M compressed"
    assert_digest delta.qcow2
    [[ ! $(ls -A spool) ]]
    TMPDIR=$PWD/missing run -1 qcow-export-delta -q -c disk.qcow2 monday tuesday - >/dev/null
}

@test "pipe: clusters that a compressed delta holds in part are spooled as they are" {
    local offset
    make_disk
    for offset in 1M 3M 5M; do
        guest_write disk.qcow2 $offset 64K C
    done
    guest_write disk.qcow2 8M 1M C
    snapshot disk.qcow2 wednesday
    qcow-export-delta -q -c -o cluster_size=128k,extended_l2=on disk.qcow2 tuesday wednesday - | cat >delta.qcow2
    assert_delta delta.qcow2 disk.qcow2 tuesday wednesday
    assert_delta_holds delta.qcow2 "1M 64K data" "3M 64K data" "5M 64K data" "8M 1M compressed"
    assert_digest delta.qcow2
}

@test "pipe: no room for the spool is an error that names it" {
    make_disk
    guest_write_random disk.qcow2 4M 8M 1
    small_disk 2M full
    TMPDIR=$PWD/full run -1 --separate-stderr qcow-export-delta -c disk.qcow2 monday @active -
    [[ $stderr == *"$PWD/full/"*"No space left"* ]] || fail "$stderr"
    [[ ! $(ls -A full) ]]
}

@test "pipe: what is told goes to standard error" {
    make_disk
    run -0 bash -c "qcow-export-delta disk.qcow2 monday tuesday - 2>messages | cat >delta.qcow2; cat messages"
    assert_output_has "monday -> tuesday" "standard output"
    assert_digest delta.qcow2
    [[ $(qcow-export-delta -q disk.qcow2 monday tuesday - 2>&1 >/dev/null) == "" ]]
}

@test "pipe: a reader that goes away is an error" {
    make_disk
    run -1 bash -c 'set -o pipefail; { qcow-export-delta disk.qcow2 monday tuesday -; echo $? >status; } 2>messages |
        head -c 1000 >/dev/null; cat messages; exit "$(<status)"'
    assert_output_has "standard output" "Broken pipe"
}

@test "pipe: a full disk behind it is an error" {
    make_disk
    run -1 bash -c 'qcow-export-delta disk.qcow2 monday tuesday - >/dev/full'
    assert_output_has "standard output" "No space left"
}

@test "pipe: an interrupted stream has no digest" {
    make_disk
    env --default-signal=INT qcow-export-delta --rate 1M disk.qcow2 monday tuesday - </dev/null >delta.qcow2 2>export.log 3>&- &
    export_pid=$!
    wait_until test -s delta.qcow2
    kill -INT "$export_pid"
    assert_ended "$export_pid" 130
    run -1 assert_digest delta.qcow2
}

@test "pipe: a file as standard output gets the same bytes as a pipe" {
    make_disk
    for options in "-q" "-c"; do
        qcow-export-delta -q $options disk.qcow2 monday tuesday - >file.qcow2
        qcow-export-delta -q $options disk.qcow2 monday tuesday - | cat >pipe.qcow2
        cmp file.qcow2 pipe.qcow2
        assert_digest file.qcow2
    done
}

@test "export --map: what is refused prints no beginning of a list, and no ranges are an empty one" {
    local form
    make_image a.qcow2 1M
    guest_write a.qcow2 0 64K A
    for form in human json; do
        run -0 --separate-stderr qcow-export-delta --map --output=$form a.qcow2 @active @active
        [[ $form == human || $output == "[]" ]]
        [[ $form == json || $output == "Offset "* ]]
        ((${#lines[@]} == 1))
    done
    start_daemon qemu-io -c 'sleep 50000' a.qcow2
    wait_until fuser -s a.qcow2
    for form in human json; do
        run -1 --separate-stderr qcow-export-delta --map -U --output=$form a.qcow2 @empty @active
        [[ $output == "" && $stderr ]]
    done
}
