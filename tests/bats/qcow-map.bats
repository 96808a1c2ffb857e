#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow-map prints what qemu-img map prints.

load helpers
load zoo
load parity

setup_file() {
    cd "$BATS_FILE_TMPDIR" || return
    make_zoo
}

unless_encrypted() {
    [[ $PWD == */luks || $PWD == */aes ]] || "$@"
}

@test "map: JSON is that of qemu-img, byte for byte, for images of every shape" {
    in_zoo unless_encrypted same_map
}

@test "map: the text is that of qemu-img, for images of every shape" {
    in_zoo unless_encrypted same_map_text
}

some_ranges() {
    same_map -s 64k "$1" &&
        same_map -s 100000 -l 200000 "$1" &&
        same_map -s 1M -l 1M "$1" &&
        same_map --start-offset=1 --max-length=1 "$1" &&
        same_map -l 0 "$1" &&
        same_map -s 1G "$1" &&
        same_map_text -s 100000 -l 200000 "$1"
}

@test "map: -s and -l choose a range, aligned or not" {
    for name in chain chain-short-base chain-raw-base compat-1.1-cluster-512 extended-l2-2M size-0 data-file; do
        cd "$BATS_FILE_TMPDIR/zoo/$name"
        some_ranges t.qcow2 || fail "above: $name"
    done
}

@test "map: names of files are as qemu-img writes them, from another folder" {
    cd "$BATS_FILE_TMPDIR"
    for name in chain chain-folders chain-json chain-raw-base; do
        same_map_text "zoo/$name/t.qcow2"
        same_map_text "$PWD/zoo/$name/t.qcow2"
    done
}

@test "map: raw images, with holes and of any size" {
    truncate -s 3M a.raw
    guest_write a.raw 1M 64k A
    truncate -s 1000001 odd.raw
    guest_write odd.raw 0 4k A
    truncate -s 0 empty.raw
    for image in a.raw odd.raw empty.raw; do
        same_map -f raw "$image"
        same_map_text -f raw "$image"
    done
}

@test "map: -f raw shows the container as a disk" {
    make_image a.qcow2 1M
    same_map -f raw a.qcow2
}

@test "map --state: a snapshot is mapped as if it were the active state" {
    cp "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2" a.qcow2
    for name in empty 'a name with blanks' größer; do
        cp a.qcow2 applied.qcow2
        qemu-img snapshot -a "$name" applied.qcow2
        diff -u <(qemu-img map --output=json applied.qcow2) \
            <(qcow-map --output=json --state "$name" a.qcow2 | drop_compressed)
    done
    [[ $(qcow-map --output=json --state id:2 a.qcow2) == "$(qcow-map --output=json --state 'name:a name with blanks' a.qcow2)" ]]
    [[ $(qcow-map --output=json --state @active a.qcow2) == "$(qcow-map --output=json a.qcow2)" ]]
    run -1 qcow-map --state nothing a.qcow2
    assert_output_has nothing
}

@test "map --state: @empty and @backing" {
    cd "$BATS_FILE_TMPDIR/zoo/chain"
    run -0 qcow-map --output=json --state @empty t.qcow2
    assert_json 'length == 1 and .[0].length == 5242880 and .[0].zero and (.[0].data | not)'
    run -0 qcow-map --output=json --state @backing t.qcow2
    diff -u <(qemu-img map --output=json 2.qcow2 | jq 'map({start, length, data, zero, offset})') \
        <(jq 'map({start, length, data, zero, offset})' <<<"$output")
}

@test "map: a word that fits two snapshots is an error" {
    make_image a.qcow2 1M
    qemu-img snapshot -c first a.qcow2
    qemu-img snapshot -c 1 a.qcow2
    run -1 qcow-map --state 1 a.qcow2
    run -0 qcow-map --state id:1 a.qcow2
    run -0 qcow-map --state name:1 a.qcow2
}

@test "map: an encrypted image; the text form ends with an error, as qemu-img with the key" {
    cd "$BATS_FILE_TMPDIR/zoo/luks"
    run -0 qcow-map --output=json t.qcow2
    assert_json '.[0].start == 0'
    cp "$BATS_FILE_TMPDIR/zoo/luks/t.qcow2" "$BATS_TEST_TMPDIR/a.qcow2"
    cd "$BATS_TEST_TMPDIR"
    qemu-io --object secret,id=s,data=pw -c 'write -q 64k 64k' \
        --image-opts driver=qcow2,file.filename=a.qcow2,encrypt.key-secret=s
    diff -u <(qemu-img map --output=json --object secret,id=s,data=pw \
        --image-opts driver=qcow2,file.filename=a.qcow2,encrypt.key-secret=s) \
        <(qcow-map --output=json a.qcow2 | drop_compressed)
    run -1 qcow-map a.qcow2
    assert_output_has "File contains external, encrypted or compressed clusters."
}

@test "map: an NBD export of the container" {
    require qemu-nbd
    start_qemu_nbd s.sock -r -f raw "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2"
    same_map "nbd+unix:///?socket=$PWD/s.sock"
}

@test "map: a raw disk on NBD: holes and zeros as the server tells" {
    require qemu-nbd
    start_qemu_nbd s.sock -r -f qcow2 "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2"
    same_map -f raw "nbd+unix:///?socket=$PWD/s.sock"
}

@test "map -U: snapshots of an image in use" {
    cp "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2" a.qcow2
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    run -1 qcow-map a.qcow2
    run -0 --separate-stderr qcow-map -U --output=json --state größer a.qcow2
    assert_json 'length > 1'
    [[ -z $stderr ]]
    run -0 --separate-stderr qcow-map -U --output=json a.qcow2
    assert_json 'length > 1'
    [[ $stderr == "qcow-map: warning: "* ]]
    run -0 --separate-stderr qcow-map -q -U --output=json a.qcow2
    [[ -z $stderr ]]
}

@test "map --untrusted: an image that stands alone is mapped, others fail" {
    cd "$BATS_FILE_TMPDIR/zoo"
    run -0 qcow-map --untrusted --output=json snapshots/t.qcow2
    run -1 qcow-map --untrusted --output=json chain/t.qcow2
    run -1 qcow-map --untrusted --output=json data-file/t.qcow2
}

@test "map: a million ranges come as a stream" {
    require_plain_build
    python3 - <<'PYTHON'
# An image whose every other cluster of 512 bytes is mapped: L2 tables written by hand.
import struct, subprocess
size, cluster = 512 << 20, 512
subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "many.qcow2", str(size)])
with open("many.qcow2", "r+b") as f:
    f.seek(40)
    l1_offset, = struct.unpack(">Q", f.read(8))
    tables = size // cluster // 64
    first = (f.seek(0, 2) + 511) // 512 * 512
    data = first + tables * 512
    f.seek(l1_offset)
    f.write(struct.pack(f">{tables}Q", *(first + i * 512 for i in range(tables))))
    f.seek(first)
    for table in range(tables):
        f.write(struct.pack(">64Q", *(data + (table * 64 + i) * 512 if i % 2 else 0 for i in range(64))))
    f.truncate(data + size)
PYTHON
    qcow-map --output=json many.qcow2 >many.json
    [[ $(wc -l <many.json) == 1048576 ]]
    tail -n 1 many.json | grep -q '"start": 536870400, "length": 512, .*}]$'
    run -1 bash -c 'set -o pipefail; qcow-map --output=json many.qcow2 | head -n 1 >first'
    assert_output "qcow-map: standard output: Broken pipe"
}

@test "map: wrong usage" {
    run -2 qcow-map
    run -2 qcow-map a b
    run -2 qcow-map -s x a
    run -2 qcow-map -l -1 a
    run -1 qcow-map missing.qcow2
    assert_output_has "missing.qcow2" "No such file"
}
