#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow-info prints what qemu-img info prints.

load helpers
load zoo

setup_file() {
    cd "$BATS_FILE_TMPDIR" || return
    make_zoo
}

# What the QEMU under test can say too. Names of NBD exports are shown as they were given, where QEMU
# leaves the slash of an empty export name out.
known_to_qemu() {
    local drop='.qcow'
    (($(qemu_major) >= 10)) || drop+=', .children, .["detached-header"]'
    jq "walk(if type == \"object\" then del($drop)
        elif type == \"string\" then sub(\"^nbd[+]unix:///[?]\"; \"nbd+unix://?\") else . end)"
}

same_json_as_qemu() {
    # The file system counts blocks when it writes them back, which must not be between the two.
    sync
    local ours theirs
    ours=$(qcow-info --output=json "$@" | known_to_qemu) || return
    theirs=$(qemu-img info --output=json "$@") || return
    assert_same_json "$ours" "$theirs"
}

same_text_as_qemu() {
    diff -u <(qemu-img info "$@") <(qcow-info "$@" | sed 's|nbd+unix:///?|nbd+unix://?|') >&2
}

@test "info: JSON has the keys and values of qemu-img for images of every shape" {
    in_zoo same_json_as_qemu
}

@test "info: the text is that of qemu-img 10, letter for letter, for images of every shape" {
    require_qemu10
    with_qemu10 in_zoo same_text_as_qemu
}

@test "info: names of other files are joined with the image's folder" {
    cd "$BATS_FILE_TMPDIR"
    for image in zoo/chain*/t.qcow2 zoo/data-file/t.qcow2; do
        same_json_as_qemu "$image"
        same_json_as_qemu "$PWD/$image"
        same_json_as_qemu "file:$image"
    done
    cd zoo/chain/..
    same_json_as_qemu ../zoo/chain/t.qcow2
}

@test "info --backing-chain: every image, in both forms, as qemu-img" {
    in_zoo same_json_as_qemu --backing-chain
    if [[ -x $(qemu10_dir)/qemu-img ]]; then
        with_qemu10 in_zoo same_text_as_qemu --backing-chain
    fi
}

@test "info: JSON with one image is an object, a chain is an array" {
    make_image a.qcow2 1M
    run -0 qcow-info --output=json a.qcow2
    assert_json 'type == "object"'
    run -0 qcow-info --output=json --backing-chain a.qcow2
    assert_json 'type == "array" and length == 1'
}

@test "info: what qemu-img does not tell stands under qcow alone" {
    cd "$BATS_FILE_TMPDIR/zoo/snapshots"
    run -0 qcow-info --output=json t.qcow2
    assert_json '.qcow.version == 3 and .qcow["format-probed"]'
    assert_json '[.qcow.snapshots[]["virtual-size"]] == [5242880, 5242880, 8388608]'
}

@test "info: json: names and --image-opts name the same image" {
    make_image a.qcow2 1M
    local json='json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}'
    same_json_as_qemu "$json"
    same_json_as_qemu "json:{'driver':'qcow2','file.driver':'file','file.filename':'a.qcow2'}"
    same_json_as_qemu --image-opts driver=qcow2,file.filename=a.qcow2
    same_json_as_qemu --image-opts driver=raw,file.filename=a.qcow2
}

@test "info: -f says the format, whatever the first bytes are" {
    make_image a.qcow2 1M
    same_json_as_qemu -f raw a.qcow2
    same_json_as_qemu -f qcow2 a.qcow2
    truncate -s 1M a.raw
    same_json_as_qemu a.raw
    run -1 qcow-info -f qcow2 a.raw
    run -1 qcow-info -f vmdk a.raw
}

@test "info: an NBD export, as a container and as a raw disk" {
    require qemu-nbd
    zoo=$BATS_FILE_TMPDIR/zoo
    start_qemu_nbd s.sock -r -f raw "$zoo/snapshots/t.qcow2"
    same_json_as_qemu "nbd+unix:///?socket=$PWD/s.sock"
    same_json_as_qemu -f raw "nbd+unix:///?socket=$PWD/s.sock"
    if [[ -x $(qemu10_dir)/qemu-img ]]; then
        with_qemu10 same_text_as_qemu "nbd+unix:///?socket=$PWD/s.sock"
    fi
}

@test "info: a relative backing name of an image on NBD has no actual path" {
    require qemu-nbd
    start_qemu_nbd s.sock -r -f raw "$BATS_FILE_TMPDIR/zoo/chain/t.qcow2"
    same_json_as_qemu "nbd+unix:///?socket=$PWD/s.sock"
}

@test "info: dirty and corrupt bits" {
    make_image a.qcow2 1M -o lazy_refcounts=on
    poke a.qcow2 0x4f 01
    same_json_as_qemu a.qcow2
    poke a.qcow2 0x4f 02
    same_json_as_qemu a.qcow2
    run -0 qcow-info a.qcow2
    assert_output_has "corrupt: true"
}

@test "info: bitmaps that nothing vouches for are not shown, as in qemu-img" {
    cp "$BATS_FILE_TMPDIR/zoo/bitmaps/t.qcow2" a.qcow2
    poke a.qcow2 0x5f 00
    same_json_as_qemu a.qcow2
}

@test "info: names with control characters cannot reach the terminal" {
    make_image a.qcow2 1M
    qemu-img snapshot -c $'a\e[31mb\nc' a.qcow2
    qemu-img snapshot -c $'caf\xe9' a.qcow2
    run -0 qcow-info a.qcow2
    assert_output_has 'a\x1b[31mb\x0ac' 'caf\xe9'
    refute_output_has $'\e'
    run -0 qcow-info --output=json a.qcow2
    assert_json '.snapshots[0].name == "a\u001b[31mb\nc"'
    assert_json '.snapshots[1].name == "caf\\xe9"'
    same_json_as_qemu -f raw a.qcow2
}

@test "info: a hostile backing name is escaped too" {
    make_image base.qcow2 1M
    make_image a.qcow2 1M -u -b $'ba\e]0;x\a.qcow2' -F qcow2
    run -0 qcow-info a.qcow2
    assert_output_has 'ba\x1b]0;x\x07.qcow2'
    run -1 qcow-info --backing-chain a.qcow2
    refute_output_has $'\e'
}

@test "info: an image in use is refused, and read with -U" {
    cp "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2" a.qcow2
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=a.qcow2
    run -1 qcow-info a.qcow2
    assert_output_has "lock" "Is another process using the image"
    same_json_as_qemu -U a.qcow2
}

@test "info --untrusted: the image's own file is shown, its backing file is not followed" {
    cd "$BATS_FILE_TMPDIR/zoo/chain"
    run -0 qcow-info --untrusted t.qcow2
    assert_output_has "backing file: 2.qcow2"
    run -1 qcow-info --untrusted --backing-chain t.qcow2
    refute_output_has "image: 2.qcow2"
    cd ../data-file
    run -0 qcow-info --untrusted t.qcow2
}

@test "info: a missing backing file matters only to --backing-chain" {
    cp "$BATS_FILE_TMPDIR/zoo/chain/t.qcow2" a.qcow2
    run -0 qcow-info a.qcow2
    run -1 qcow-info --backing-chain a.qcow2
    assert_output_has "2.qcow2" "No such file"
    [[ $output == "qcow-info: "* ]]
    [[ ${#lines[@]} == 1 ]]
}

@test "info: a loop of backing files is refused by name" {
    make_image a.qcow2 1M
    make_image b.qcow2 1M -b a.qcow2 -F qcow2
    qemu-img rebase -u -b b.qcow2 -F qcow2 a.qcow2
    run -0 qcow-info a.qcow2
    run -1 qcow-info --backing-chain a.qcow2
    assert_output_has "loop" "a.qcow2"
}

@test "info: a chain of a thousand images" {
    python3 - <<'PYTHON'
import shutil, struct, subprocess
subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "0.qcow2", "1M"])
subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "0000.qcow2", "-u",
                       "-F", "qcow2", "model.qcow2", "1M"])
model = open("model.qcow2", "rb").read()
shutil.copy("0.qcow2", "0000.qcow2")
for n in range(1, 1000):
    open(f"{n:04}.qcow2", "wb").write(model.replace(b"0000.qcow2", f"{n - 1:04}.qcow2".encode()))
PYTHON
    (ulimit -S -n 256 && qcow-info --output=json --backing-chain 0999.qcow2 >chain.json)
    [[ $(jq length chain.json) == 1000 ]]
    [[ $(jq -r '.[999].filename' chain.json) == 0000.qcow2 ]]
}

@test "info: the extent size hint that qemu-img create sets on XFS" {
    require_qemu10
    reflink_disk 320M mnt
    with_qemu10 make_image mnt/a.qcow2 1M
    with_qemu10 qemu-img info mnt/a.qcow2 >theirs
    with_qemu10 qemu-img info --output=json mnt/a.qcow2 >theirs.json
    qcow-info mnt/a.qcow2 >ours
    qcow-info --output=json mnt/a.qcow2 | jq 'del(.qcow)' >ours.json
    diff -u theirs ours
    assert_same_json "$(cat ours.json)" "$(cat theirs.json)"
    [[ $(cat ours) == *"extent size hint: 1048576"* ]]
}

@test "info: nothing is changed by looking" {
    cp "$BATS_FILE_TMPDIR/zoo/snapshots/t.qcow2" a.qcow2
    chmod a-w a.qcow2
    remember_image a.qcow2
    run -0 qcow-info a.qcow2
    assert_image_unchanged a.qcow2
}

@test "info: errors are one line that names the image, exit 1" {
    run -1 --separate-stderr qcow-info missing.qcow2
    [[ -z $output ]]
    [[ $stderr == "qcow-info: 'missing.qcow2': "*"No such file or directory" ]]
    [[ ${#stderr_lines[@]} == 1 ]]
}
