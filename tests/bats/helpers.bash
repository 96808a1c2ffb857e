# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154  # bats sets $output and $status
#
# The vocabulary of the bats tests. A test file starts with "load helpers"; each test then runs in an
# empty folder of its own, with the commands of the build first in PATH, and what it started in the
# background is ended after it. A file that needs its own setup() or teardown() calls qcow_setup and
# qcow_teardown in them.
#
# Numbers may have the suffixes K, M, G, T. A pattern is one letter (its byte is repeated), or a byte
# as 7 or 0x41. Every file runs once with the system's QEMU and once more with QEMU 10, when that is
# there: tests call qemu-img by its name and get the one that is under test.

bats_require_minimum_version 1.5.0   # run -N

# ---- the test's place --------------------------------------------------------------------------------

# setup: go to an empty folder, put the build's commands into PATH
setup() {
    qcow_setup
}

# teardown: end what runs in the background
teardown() {
    qcow_teardown
}

qcow_setup() {
    local tree
    tree=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
    export QCOW_SOURCE=${QCOW_SOURCE:-$tree}
    export QCOW_BUILD=${QCOW_BUILD:-$tree/build}
    export PATH=$QCOW_BUILD/tools:$PATH
    export LC_ALL=C.UTF-8 TZ=UTC
    cd "$BATS_TEST_TMPDIR" || return 1
}

qcow_teardown() {
    local pid folder device
    while read -r pid; do
        end_process "$pid"
    done < <(tac "$BATS_TEST_TMPDIR/.daemons" 2>/dev/null)
    while read -r folder; do
        ! mountpoint -q "$folder" || umount "$folder"
    done < <(tac "$BATS_TEST_TMPDIR/.mounts" 2>/dev/null)
    while read -r device; do
        losetup --detach "$device"
    done < <(tac "$BATS_TEST_TMPDIR/.devices" 2>/dev/null)
    rm -f "$BATS_TEST_TMPDIR/.devices"
}

# ---- what must be there; a test that cannot run is skipped -------------------------------------------

# require COMMAND…: skip the test when a command is missing
require() {
    local name
    for name; do
        command -v "$name" >/dev/null || skip "$name is not installed"
    done
}

# require_qemu10: skip the test when QEMU 10 is not there
require_qemu10() {
    [[ -x $(qemu10_dir)/qemu-img ]] || skip "QEMU 10 is not there"
}

# require_root: skip the test when it does not run as root
require_root() {
    ((EUID == 0)) || skip "needs root"
}

# require_plain_build: skip what sanitizers make meaningless (memory limits, timing)
require_plain_build() {
    [[ -z ${QCOW_SANITIZED:-} ]] || skip "meaningless under sanitizers"
}

# peak_memory COMMAND…: print the largest resident size of a command, in MiB
peak_memory() {
    python3 -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)' "$@"
}

# require_reflink: skip the test when the test's file system cannot share extents
require_reflink() {
    : >.reflink-probe
    cp --reflink=always .reflink-probe .reflink-copy 2>/dev/null || skip "no reflink on this file system"
    rm -f .reflink-probe .reflink-copy
}

# ---- which QEMU --------------------------------------------------------------------------------------

# qemu10_dir: print the folder of QEMU 10's programs
qemu10_dir() {
    "$QCOW_SOURCE/scripts/qemu10-dir"
}

# with_qemu10 COMMAND…: run a command whose qemu-* programs are those of QEMU 10
with_qemu10() {
    PATH=$(qemu10_dir):$PATH "$@"
}

# each_qemu COMMAND…: run a command with the QEMU under test and, when it is there, with QEMU 10 too
each_qemu() {
    "$@" || return
    if [[ -x $(qemu10_dir)/qemu-img ]]; then
        with_qemu10 "$@"
    fi
}

# qemu_major: print the major version of the QEMU under test: 7, 10
qemu_major() {
    qemu-img --version | sed -n 's/^qemu-img version \([0-9]*\).*/\1/p'
}

# ---- file systems and devices of a test's own; they go with it -----------------------------------------

# small_disk SIZE [FOLDER]: a new folder (small) with a file system of this size
small_disk() {
    mount_at "${2:-small}" -t tmpfs -o size="$1" none
}

# reflink_disk SIZE [FOLDER]: a new folder (small) with a file system of this size that can share extents
reflink_disk() {
    require mkfs.xfs
    truncate --size="$1" "${2:-small}.img"
    mkfs.xfs -q -m reflink=1 "${2:-small}.img"
    mount_at "${2:-small}" -o loop "${2:-small}.img"
}

# mount_at FOLDER ARGUMENT…: mount with these arguments at the folder, until the test ends
mount_at() {
    require_root
    mkdir -p "$1"
    mount "${@:2}" "$1" || skip "cannot mount"
    echo "$PWD/$1" >>"$BATS_TEST_TMPDIR/.mounts"
}

# loop_device FILE: a block device with the contents of a file, until the test ends; sets $device
loop_device() {
    require_root
    device=$(losetup --find --show "$1") || skip "no loop device"
    echo "$device" >>"$BATS_TEST_TMPDIR/.devices"
}

# ---- making images -----------------------------------------------------------------------------------

# make_image IMAGE SIZE [CREATE-OPTION…]: a new qcow2 image, as qemu-img create makes it
make_image() {
    local image=$1 size=$2
    shift 2
    qemu-img create -q -f qcow2 "$@" "$image" "$size"
}

# make_chain BASE… TOP: images of CHAIN_SIZE bytes (64M), each backed by the one before it
make_chain() {
    local image below=
    for image; do
        if [[ $below ]]; then
            make_image "$image" "${CHAIN_SIZE:-64M}" -b "$below" -F "$(image_format "$below")"
        else
            make_image "$image" "${CHAIN_SIZE:-64M}"
        fi
        below=$image
    done
}

# image_format IMAGE: print qcow2 or raw, by the magic
image_format() {
    if [[ -f $1 && $(head -c 4 "$1" | od -An -tx1) == " 51 46 49 fb" ]]; then
        echo qcow2
    else
        echo raw
    fi
}

# snapshot IMAGE NAME: take an internal snapshot
snapshot() {
    qemu-img snapshot -c "$2" "$1"
}

# virtual_size IMAGE: print the size of the guest's disk in bytes
virtual_size() {
    qemu-img info -U -f "$(image_format "$1")" --output=json "$1" | jq '.["virtual-size"]'
}

# poke FILE OFFSET HEX: overwrite bytes of a file, such as: poke a.qcow2 0x48 0000000000000001
poke() {
    local hex=${3// /} escapes='' i
    for ((i = 0; i < ${#hex}; i += 2)); do
        escapes+="\\x${hex:i:2}"
    done
    printf '%b' "$escapes" | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}

# peek FILE OFFSET LEN: print bytes of a file as hex
peek() {
    od -An -v -tx1 -j $(($2)) -N $(($3)) "$1" | tr -d ' \n'
}

# peek_be FILE OFFSET LEN: print a big-endian number of at most 8 bytes
peek_be() {
    echo $((16#$(peek "$1" "$2" "$3")))
}

# ---- writing and reading as a guest ------------------------------------------------------------------

# qemu_io IMAGE COMMAND…: run qemu-io commands, silent unless one fails; QEMU_IO_OPTIONS adds options
qemu_io() {
    local image=$1 command arguments=() log
    shift
    for command; do
        arguments+=(-c "$command")
    done

    # shellcheck disable=SC2086  # options are words
    if ! log=$(qemu-io -f "$(image_format "$image")" ${QEMU_IO_OPTIONS:-} "${arguments[@]}" "$image" 2>&1); then
        echo "qemu-io $image: $*: $log" >&2
        return 1
    fi
}

# pattern_byte PATTERN: print a pattern as the number that qemu-io wants
pattern_byte() {
    case $1 in
        [A-Za-z]) printf '%d' "'$1" ;;
        *) echo $(($1)) ;;
    esac
}

# guest_write IMAGE OFFSET LEN PATTERN: write as a guest would
guest_write() {
    qemu_io "$1" "write -q -P $(pattern_byte "$4") $2 $3"
}

# guest_write_compressed IMAGE OFFSET LEN PATTERN: write compressed clusters (whole clusters only)
guest_write_compressed() {
    qemu_io "$1" "write -q -c -P $(pattern_byte "$4") $2 $3"
}

# guest_write_random IMAGE OFFSET LEN SEED: write bytes that do not compress; the same for a seed
guest_write_random() {
    local len bytes
    len=$(numfmt --from=iec "$3")
    bytes=.random-$4-$len
    [[ -e $bytes ]] || python3 -c 'import random, sys
sys.stdout.buffer.write(random.Random(sys.argv[1]).randbytes(int(sys.argv[2])))' "$4" "$len" >"$bytes"
    qemu_io "$1" "write -q -s $bytes $2 $len"
}

# guest_zero IMAGE OFFSET LEN: write zeros as a guest would that knows the request for it
guest_zero() {
    qemu_io "$1" "write -q -z $2 $3"
}

# guest_discard IMAGE OFFSET LEN: discard (unmap) a range
guest_discard() {
    QEMU_IO_OPTIONS="${QEMU_IO_OPTIONS:-} -d unmap" qemu_io "$1" "discard -q $2 $3"
}

# assert_guest IMAGE OFFSET LEN PATTERN: the guest reads this pattern in the whole range
assert_guest() {
    QEMU_IO_OPTIONS="${QEMU_IO_OPTIONS:-} -r -U" qemu_io "$1" "read -q -P $(pattern_byte "$4") $2 $3"
}

# assert_guest_zero IMAGE OFFSET LEN: the guest reads zeros in the whole range
assert_guest_zero() {
    assert_guest "$1" "$2" "$3" 0
}

# ---- judging images ----------------------------------------------------------------------------------

# assert_clean IMAGE: qemu-img check finds neither corruption nor leaks
assert_clean() {
    local log
    if ! log=$(qemu-img check -U -f qcow2 "$1" 2>&1); then
        fail "$1 is not clean: $log"
    fi
}

# assert_same_content A B: the guest reads the same from both, up to the end of the longer; sizes too
assert_same_content() {
    local log
    if ! log=$(qemu-img compare -U -f "$(image_format "$1")" -F "$(image_format "$2")" "$1" "$2" 2>&1); then
        fail "$1 and $2 differ: $log" || return
    fi
    if [[ $log == *"size mismatch"* ]]; then
        fail "$1 and $2 have different sizes"
    fi
}

# snapshot_raw IMAGE SNAPSHOT OUT: what the snapshot holds, by QEMU, as a raw file of the snapshot's size
#
# "qemu-img convert -l" reads a snapshot with the size of the active layer, so the snapshot is applied to
# a copy (in the image's folder: a backing name is relative to that); "snapshot -a" wants no bitmaps.
snapshot_raw() {
    local image=$1 name=$2 out=$3 copy bitmap
    copy=$(dirname "$image")/.snapshot-raw.$$
    cp --sparse=always "$image" "$copy"
    while read -r bitmap; do
        qemu-img bitmap --remove "$copy" "$bitmap" || return
    done < <(qemu-img info -f qcow2 --output=json "$copy" |
        jq -r '.["format-specific"].data.bitmaps // [] | .[].name')
    qemu-img snapshot -q -a "$name" "$copy" &&
        qemu-img convert -U -f qcow2 -O raw "$copy" "$out" &&
        rm -f "$copy"
}

# active_raw IMAGE OUT: what the active layer holds, by QEMU, as a raw file
active_raw() {
    qemu-img convert -U -f "$(image_format "$1")" -O raw "$1" "$2"
}

# remember_image FILE…: note bytes, size and time of files
remember_image() {
    local file
    for file; do
        image_fingerprint "$file" >"$BATS_TEST_TMPDIR/.fingerprint-${file//\//_}"
    done
}

# assert_image_unchanged FILE…: nothing of what remember_image noted is different
assert_image_unchanged() {
    local file
    for file; do
        image_fingerprint "$file" | cmp -s - "$BATS_TEST_TMPDIR/.fingerprint-${file//\//_}" ||
            fail "$file was changed" || return
    done
}

image_fingerprint() {
    stat -c '%s %Y %y' "$1"
    sha256sum "$1"
}

# ---- judging deltas ----------------------------------------------------------------------------------

# state_raw IMAGE STATE OUT [SIZE]: what a state holds, by QEMU; @empty and @backing get SIZE bytes
state_raw() {
    local image=$1 state=$2 out=$3 size=${4:-} backing
    case $state in
        @active) active_raw "$image" "$out" ;;
        @empty | @backing)
            [[ $size ]] || size=$(virtual_size "$image")
            : >"$out"
            backing=$(qemu-img info -U --output=json "$image" | jq -r '.["full-backing-filename"] // empty')
            if [[ $state == @backing && $backing ]]; then
                active_raw "$backing" "$out" || return
            fi
            truncate --size="$size" "$out"
            ;;
        *) snapshot_raw "$image" "$state" "$out" ;;
    esac
}

# delta_over DELTA RAW: print a name under which QEMU reads a delta over a raw file, whatever backing it records
delta_over() {
    jq -cn --arg delta "$1" --arg raw "$2" '{driver: "qcow2", file: {driver: "file", filename: $delta},
        backing: {driver: "raw", file: {driver: "file", filename: $raw}}} | "json:" + tojson' | jq -r .
}

# delta_ranges DELTA: print what a delta itself holds, a line "START LENGTH data|zero|compressed" for each range
delta_ranges() {
    local name
    name=$(jq -cn --arg delta "$1" '{driver: "qcow2", file: {driver: "file", filename: $delta}, backing: null}')
    # QEMU 7.2 does not say what is compressed; but compressed data has no offset.
    qemu-img map --output=json "json:$name" | jq -r '.[] | select(.present)
        | (if .zero then "zero" elif has("offset") then "data" else "compressed" end) as $kind
        | "\(.start) \(.length) \($kind)"' |
        awk '$3 == kind && $1 == end { end += $2; next }
             kind { print start, end - start, kind }
             { start = $1; end = $1 + $2; kind = $3 }
             END { if (kind) print start, end - start, kind }'
}

# assert_delta_holds DELTA [RANGE…]: it holds exactly these ranges, such as "64K 128K data"
assert_delta_holds() {
    local delta=$1 start length kind range expected=''
    shift
    for range; do
        read -r start length kind <<<"$range"
        expected+="$(numfmt --from=iec "$start") $(numfmt --from=iec "$length") $kind"$'\n'
    done
    diff -u --label expected --label "$delta" <(printf '%s' "$expected") <(delta_ranges "$delta") >&2 ||
        fail "$delta holds something else"
}

# assert_delta DELTA IMAGE FROM TO: clean, of the size of TO, and over FROM it reads as TO. Leaves from.raw, to.raw
assert_delta() {
    local delta=$1 image=$2 from=$3 to=$4 size
    assert_clean "$delta" || return
    size=$(virtual_size "$delta")
    state_raw "$image" "$from" from.raw "$size" && state_raw "$image" "$to" to.raw "$size" || return
    [[ $(stat -c %s to.raw) == "$size" ]] || fail "$delta has $size bytes, $to has $(stat -c %s to.raw)" || return
    qemu-img compare -U -F raw "$(delta_over "$delta" from.raw)" to.raw >&2 ||
        fail "$delta over $from does not read as $to"
}

# ---- judging output ----------------------------------------------------------------------------------

# fail MESSAGE: end the test with a message
fail() {
    echo "$*" >&2
    return 1
}

# assert_output TEXT: $output of the last run is exactly this
assert_output() {
    [[ $output == "$1" ]] || fail "expected: $1"$'\n'"printed:  $output"
}

# assert_output_has TEXT…: $output of the last run contains each of these
assert_output_has() {
    local text
    for text; do
        [[ $output == *"$text"* ]] || fail "'$text' is not in the output: $output" || return
    done
}

# refute_output_has TEXT…: $output of the last run contains none of these
refute_output_has() {
    local text
    for text; do
        [[ $output != *"$text"* ]] || fail "'$text' is in the output: $output" || return
    done
}

# assert_json FILTER: the jq filter is true of $output of the last run
assert_json() {
    jq -e "$1" <<<"$output" >/dev/null || fail "not true: $1"$'\n'"printed: $output"
}

# assert_same_json A B: two JSON texts mean the same (order of keys does not matter)
assert_same_json() {
    diff -u <(jq -S . <<<"$1") <(jq -S . <<<"$2") >&2 || fail "the JSON differs"
}

# ---- programs in the background ----------------------------------------------------------------------

# start_daemon COMMAND…: run in the background until the test ends; sets $daemon_pid; logs to daemon.log
start_daemon() {
    # Descriptor 3 is the one bats waits for: a daemon that keeps it would hang the run.
    "$@" </dev/null >>daemon.log 2>&1 3>&- &
    daemon_pid=$!
    echo "$daemon_pid" >>"$BATS_TEST_TMPDIR/.daemons"
}

# stop_daemon PID: end a program that start_daemon started, and wait for it
stop_daemon() {
    end_process "$1"
    sed -i "/^$1\$/d" "$BATS_TEST_TMPDIR/.daemons"
}

# kill_daemon PID: end it without a chance to clean up, as a crash would
kill_daemon() {
    kill -KILL "$1"
    { wait "$1" || true; } 2>/dev/null
    sed -i "/^$1\$/d" "$BATS_TEST_TMPDIR/.daemons"
}

end_process() {
    local i
    kill "$1" 2>/dev/null || return 0
    for ((i = 0; i < 100; i++)); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# catches_interrupts PID: it is past its start, and would stop at a safe point
catches_interrupts() {
    local caught
    caught=$(sed -n 's/^SigCgt:\s*//p' "/proc/$1/status")
    ((16#$caught & 2))
}

# wait_until COMMAND…: try a command for up to 10 seconds until it succeeds
wait_until() {
    local i
    for ((i = 0; i < 200; i++)); do
        if "$@" >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.05
    done
    fail "never became true: $*"$'\n'"$(tail -n 20 daemon.log 2>/dev/null)"
}

# start_nbdkit SOCKET ARGUMENT…: serve with nbdkit on nbd+unix:///?socket=SOCKET, such as: start_nbdkit
# a.sock -r file a.qcow2
start_nbdkit() {
    local socket=$1
    shift
    start_daemon nbdkit -f -U "$socket" "$@"
    wait_until test -S "$socket"
}

# start_qemu_nbd SOCKET ARGUMENT…: serve with qemu-nbd; -t keeps it when a client leaves
start_qemu_nbd() {
    local socket=$1
    shift
    rm -f "$socket.pid"
    start_daemon qemu-nbd -t --pid-file="$PWD/$socket.pid" -k "$PWD/$socket" "$@"
    wait_until test -s "$socket.pid"
}

# start_qsd ARGUMENT…: a qemu-storage-daemon with its QMP socket at qsd.qmp; sets $daemon_pid
start_qsd() {
    rm -f qsd.pid
    start_daemon qemu-storage-daemon --chardev socket,id=qmp,path=qsd.qmp,server=on,wait=off \
        --monitor chardev=qmp --pidfile qsd.pid "$@"
    wait_until test -s qsd.pid
}

# start_vm ARGUMENT…: a QEMU that runs no guest code; its QMP socket is vm.qmp; sets $daemon_pid
start_vm() {
    rm -f vm.pid
    start_daemon qemu-system-x86_64 -nodefaults -display none -S -machine q35,accel=tcg -m 64 \
        -chardev socket,id=qmp,path=vm.qmp,server=on,wait=off -mon chardev=qmp,mode=control \
        -pidfile vm.pid "$@"
    wait_until test -s vm.pid
}

# qmp SOCKET COMMAND [ARGUMENTS-AS-JSON]: one QMP command; prints what it returns
qmp() {
    python3 "$QCOW_SOURCE/tests/bats/qmp.py" "$@"
}

# qmp_job SOCKET COMMAND ARGUMENTS-AS-JSON: one QMP command that starts a job, and wait for its end
qmp_job() {
    python3 "$QCOW_SOURCE/tests/bats/qmp.py" --job "$@"
}

# vm_io SOCKET DEVICE COMMAND…: qemu-io commands on a running VM's disk, in place of its guest
vm_io() {
    local socket=$1 device=$2 command line
    shift 2
    for command; do
        line=$(jq -n --arg line "qemu-io $device \"$command\"" '{"command-line": $line}')
        qmp "$socket" human-monitor-command "$line" >>daemon.log || return
    done
}
