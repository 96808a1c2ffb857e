#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# What an interrupted commit leaves for the same command to finish; what --delete deletes; full headers.

load helpers

# make_four: base <- mid <- top <- act, each with something of its own
make_four() {
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2 act.qcow2
    guest_write base.qcow2 0 2M A
    guest_write mid.qcow2 1M 1M B
    guest_write top.qcow2 2M 64K C
    guest_write act.qcow2 3M 64K D
    active_raw act.qcow2 act.raw
    active_raw top.qcow2 top.raw
}

# call_of KIND NAME WHICH COMMAND…: print the number of the command's call, tried on a copy of the folder;
# WHICH is first or last of those of a KIND (write, unlink, …) that are about the file NAME; what comes before
# the first write to an image is about temporary files
call_of() {
    local kind=$1 name=$2 pick='head' begin folder
    [[ $3 == first ]] || pick='tail'
    shift 3
    folder=$(mktemp -d "$BATS_FILE_TMPDIR/XXXXXX")
    cp -a . "$folder/trial"
    (cd "$folder/trial" && "$QCOW_BUILD/tests/crash/crash-killed" 0 ../calls "$@" >/dev/null)
    begin=$(grep -n '^write .*\.qcow2$' "$folder/calls" | head -n 1 | cut -d: -f1)
    grep -n "^$kind .*$name\$" "$folder/calls" | awk -F: -v "begin=$begin" '$1 >= begin' | "$pick" -n 1 | cut -d: -f1
    rm -rf "$folder"
}

# interrupt KIND NAME WHICH COMMAND…: run it, and kill it before that call
interrupt() {
    local n
    n=$(call_of "$@")
    [[ $n ]] || fail "there is no call $1 $2"
    shift 3
    run -137 "$QCOW_BUILD/tests/crash/crash-killed" "$n" /dev/null "$@"
}

setup() {
    qcow_setup
    require_plain_build    # ptrace() and a leak checker do not go together
}

is_marked() {
    (($(peek_be "$1" 72 1) & 0x20))
}

backing() {
    tail -c +"$(($(peek_be "$1" 8 8) + 1))" "$1" | head -c "$(peek_be "$1" 16 4)"
}

commit_top=(qcow-commit --top top.qcow2 -b base.qcow2 act.qcow2)
delete_top=(qcow-commit --delete --top top.qcow2 -b base.qcow2 act.qcow2)

# ---- interrupted ------------------------------------------------------------------------------------------

@test "commit --top: interrupted before the mark, the same command marks the layer and names it" {
    make_four
    interrupt write mid.qcow2 last "${commit_top[@]}"
    run ! is_marked mid.qcow2
    run -0 "${commit_top[@]}"
    assert_output_has "Not valid by itself any more: mid.qcow2"
    refute_output_has "Could not be marked"
    is_marked mid.qcow2
    assert_same_content act.qcow2 act.raw
    assert_same_content top.qcow2 top.raw
    assert_clean act.qcow2
    run -1 "${commit_top[@]}"
    assert_output_has "already"
}

@test "commit --top: interrupted before the top is re-pointed, the same command re-points it" {
    make_four
    interrupt write top.qcow2 last "${commit_top[@]}"
    [[ $(backing act.qcow2) == base.qcow2 && $(backing top.qcow2) == mid.qcow2 ]]
    run -0 "${commit_top[@]}"
    assert_output_has "Not valid by itself any more: mid.qcow2"
    [[ $(backing top.qcow2) == base.qcow2 ]]
    is_marked mid.qcow2
    assert_same_content top.qcow2 top.raw
    assert_clean top.qcow2
}

@test "commit --top: another command for the image finishes it as well, and does its own work" {
    make_four
    interrupt write mid.qcow2 last "${commit_top[@]}"
    run -0 qcow-commit --preserve top.qcow2 act.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2"
    is_marked mid.qcow2
    assert_same_content top.qcow2 top.raw
    assert_same_content base.qcow2 act.raw
    assert_same_content act.qcow2 act.raw
}

@test "commit --top: what was finished is named, even if the command then fails" {
    make_four
    interrupt write mid.qcow2 last "${commit_top[@]}"
    run -1 qcow-commit --top missing.qcow2 act.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2" "missing.qcow2"
    is_marked mid.qcow2
}

@test "commit: interrupted before the mark, the same command marks the layers, once" {
    make_four
    interrupt write top.qcow2 last qcow-commit -b base.qcow2 act.qcow2
    run -0 qcow-commit -b base.qcow2 act.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2" "Not valid by itself any more: top.qcow2"
    is_marked mid.qcow2
    is_marked top.qcow2
    run -0 qcow-commit -b base.qcow2 act.qcow2
    assert_output "Image committed."
    assert_same_content act.qcow2 act.raw
}

@test "commit -b [3]: an index that counted the layers before does not lead further down" {
    make_four
    make_image lowest.qcow2 4M
    guest_write lowest.qcow2 3500K 64K E
    qemu-img rebase -u -b lowest.qcow2 -F qcow2 base.qcow2
    active_raw act.qcow2 act.raw
    interrupt write mid.qcow2 last qcow-commit -b '[3]' act.qcow2
    remember_image lowest.qcow2
    run -0 qcow-commit -b '[3]' act.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2"
    assert_image_unchanged lowest.qcow2
    assert_same_content act.qcow2 act.raw
}

@test "commit --delete: interrupted before the first file goes, the same command deletes, and says so" {
    make_four
    interrupt unlink '' first "${delete_top[@]}"
    [[ -e mid.qcow2 && -e top.qcow2 ]]
    run -0 "${delete_top[@]}"
    assert_output_has "Deleted: mid.qcow2" "Deleted: top.qcow2"
    refute_output_has "Could not be marked"
    [[ ! -e mid.qcow2 && ! -e top.qcow2 ]]
    assert_same_content act.qcow2 act.raw
}

@test "commit --delete: interrupted before the last file goes, the same command deletes that" {
    make_four
    interrupt unlink '' last "${delete_top[@]}"
    [[ ! -e mid.qcow2 && -e top.qcow2 ]]
    run -0 "${delete_top[@]}"
    assert_output_has "Deleted: mid.qcow2" "Deleted: top.qcow2"
    [[ ! -e top.qcow2 ]]
}

@test "commit --delete: interrupted, and an image was made over the top: it is not deleted" {
    make_four
    interrupt unlink '' first "${delete_top[@]}"
    make_image new.qcow2 4M -b top.qcow2 -F qcow2
    run -1 "${delete_top[@]}"
    assert_output_has "'new.qcow2' is backed by 'top.qcow2', which --delete would delete"
    assert_same_content new.qcow2 top.raw
    run -0 "${commit_top[@]}"
    assert_same_content new.qcow2 top.raw
    is_marked mid.qcow2
}

@test "commit: interrupted, and a file was replaced or has another backing file: it is left alone" {
    make_four
    interrupt write top.qcow2 last qcow-commit -b base.qcow2 act.qcow2
    rm top.qcow2
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    make_image other.qcow2 4M
    qemu-img rebase -u -b other.qcow2 -F qcow2 mid.qcow2
    remember_image mid.qcow2 top.qcow2
    run -0 qcow-commit --delete -b base.qcow2 act.qcow2
    assert_image_unchanged mid.qcow2 top.qcow2
    refute_output_has "Deleted"
    assert_clean top.qcow2
}

@test "commit: interrupted in version 2, which has no mark: the same command names, and deletes" {
    CHAIN_SIZE=4M make_chain base.qcow2
    make_image mid.qcow2 4M -b base.qcow2 -F qcow2 -o compat=0.10
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 1M 64K C
    interrupt write top.qcow2 last qcow-commit -b base.qcow2 top.qcow2
    run -0 qcow-commit -b base.qcow2 top.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2" "Could not be marked as such: mid.qcow2"

    guest_write top.qcow2 2M 64K D
    qemu-img rebase -u -b mid.qcow2 -F qcow2 top.qcow2
    interrupt unlink '' first qcow-commit --delete -b base.qcow2 top.qcow2
    run -0 qcow-commit --delete -b base.qcow2 top.qcow2
    assert_output_has "Deleted: mid.qcow2"
    [[ ! -e mid.qcow2 ]]
}

@test "commit: interrupted with more layers than their names have room: all are marked" {
    local i names=(base.qcow2)
    for i in {01..20}; do
        names+=("layer-with-quite-a-long-name-$i.qcow2")
    done
    CHAIN_SIZE=1M make_chain "${names[@]}" top.qcow2
    guest_write top.qcow2 0 64K C
    interrupt write "${names[5]}" last qcow-commit -b base.qcow2 top.qcow2
    run ! is_marked "${names[5]}"
    run ! grep -q "${names[2]}" top.qcow2    # the note does not name it
    run -0 qcow-commit -b base.qcow2 top.qcow2
    for i in "${names[@]:1}"; do
        is_marked "$i" || fail "$i is not marked"
        assert_output_has "Not valid by itself any more: $i"
    done
}

# ---- what the note means now ------------------------------------------------------------------------------

@test "commit --delete --preserve: interrupted, the same command keeps the file that is preserved, with its snapshots" {
    local command=("${delete_top[@]}" --preserve top.qcow2)
    make_four
    snapshot top.qcow2 keepme
    guest_write top.qcow2 2M 64K E
    active_raw top.qcow2 top.raw
    interrupt write top.qcow2 last "${command[@]}"
    run -0 "${command[@]}"
    assert_output_has "Deleted: mid.qcow2"
    refute_output_has "Deleted: top.qcow2"
    assert_same_content top.qcow2 top.raw
    qemu-img snapshot -l top.qcow2 | grep -q keepme
    [[ $(backing top.qcow2) == base.qcow2 ]]
}

@test "commit: interrupted without --delete, none deletes what is left: it is marked, and named as not deleted" {
    make_four
    snapshot mid.qcow2 keepme
    interrupt write mid.qcow2 last "${commit_top[@]}" --force
    run -0 qcow-commit --delete --preserve top.qcow2 act.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2" "Not deleted: mid.qcow2"
    [[ -e mid.qcow2 && -e top.qcow2 ]]
    is_marked mid.qcow2
}

@test "commit --delete: interrupted, and an image in another folder is over the top, with one over it: it is not deleted" {
    make_four
    interrupt unlink '' first "${delete_top[@]}"
    mkdir v
    make_image v/x.qcow2 4M -b ../top.qcow2 -F qcow2
    make_image y.qcow2 4M -b v/x.qcow2 -F qcow2
    run -1 "${delete_top[@]}"
    assert_output_has "'y.qcow2' is backed by 'top.qcow2', which --delete would delete"
    assert_same_content y.qcow2 top.raw
}

@test "commit --delete: interrupted, and a snapshot was taken of a file that is to go: it is not deleted" {
    make_four
    interrupt unlink '' first "${delete_top[@]}"
    snapshot top.qcow2 late
    run -1 "${delete_top[@]}"
    assert_output_has "'top.qcow2': --delete would delete its 1 internal snapshots"
    run -0 "${delete_top[@]}" --force
    [[ ! -e top.qcow2 ]]
}

@test "commit: interrupted, and the names are used again: the same words are another commit" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2 act.qcow2
    guest_write top.qcow2 1M 64K A
    guest_write act.qcow2 2M 64K B
    interrupt unlink '' first "${delete_top[@]}"
    mv act.qcow2 top.qcow2
    make_image act.qcow2 4M -b top.qcow2 -F qcow2
    active_raw act.qcow2 act.raw
    run -0 "${delete_top[@]}"
    assert_output_has "Deleted: top.qcow2"
    [[ $(backing act.qcow2) == base.qcow2 ]]
    assert_same_content base.qcow2 act.raw
}

@test "commit -b [2]: interrupted, and the guest wrote since: that is committed as well" {
    make_four
    interrupt write mid.qcow2 last qcow-commit -b '[2]' top.qcow2
    guest_write top.qcow2 3M 64K E
    active_raw top.qcow2 top.raw
    run -0 qcow-commit -b '[2]' top.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2"
    assert_same_content base.qcow2 top.raw
}

@test "commit --preserve of a layer between: interrupted at any write, the same command completes" {
    local n command=(qcow-commit -b base.qcow2 --preserve mid.qcow2 act.qcow2)
    CHAIN_SIZE=1M make_chain base.qcow2 low.qcow2 mid.qcow2 act.qcow2
    guest_write base.qcow2 0 64K A
    guest_write low.qcow2 128K 64K B
    guest_write mid.qcow2 256K 64K C
    guest_write act.qcow2 512K 64K D
    active_raw act.qcow2 act.raw
    active_raw mid.qcow2 mid.raw
    mkdir start
    cp ./*.qcow2 start
    for n in $(seq 2 2 40); do
        cp start/* .
        run "$QCOW_BUILD/tests/crash/crash-killed" "$n" /dev/null "${command[@]}"
        ((status == 137)) || break
        assert_same_content act.qcow2 act.raw
        assert_same_content mid.qcow2 mid.raw
        run -0 "${command[@]}"
        assert_same_content act.qcow2 act.raw
        assert_same_content mid.qcow2 mid.raw
        assert_same_content base.qcow2 act.raw
        is_marked low.qcow2 || fail "killed before call $n: low.qcow2 is not marked"
        [[ $(backing mid.qcow2) == base.qcow2 && $(backing act.qcow2) == base.qcow2 ]]
    done
    ((n > 10)) || fail "only $n calls"
}

@test "commit --dry-run: says what the same command will, and finishes nothing" {
    make_four
    interrupt write mid.qcow2 last "${commit_top[@]}"
    remember_image base.qcow2 mid.qcow2 top.qcow2 act.qcow2
    run -0 "${commit_top[@]}" --dry-run
    assert_output_has "would move nothing"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2 act.qcow2
}

@test "commit --output=json: what was finished is named on standard error, even if the command then fails" {
    make_four
    interrupt write mid.qcow2 last "${commit_top[@]}"
    run -1 --separate-stderr qcow-commit --output=json --top missing.qcow2 act.qcow2
    [[ $stderr == *"Not valid by itself any more: mid.qcow2"* && ! $output ]] || fail "$stderr / $output"
}

@test "commit: the note of a layer that others read is left to its own commit" {
    local vm
    make_four
    interrupt write mid.qcow2 last "${commit_top[@]}"
    CHAIN_SIZE=4M
    make_image one.qcow2 4M -b act.qcow2 -F qcow2
    make_image two.qcow2 4M -b one.qcow2 -F qcow2
    guest_write two.qcow2 1M 64K E
    active_raw two.qcow2 two.raw
    make_image vm.qcow2 4M -b act.qcow2 -F qcow2
    start_qemu_nbd vm.sock -f qcow2 vm.qcow2
    run -0 qcow-commit two.qcow2
    assert_same_content one.qcow2 two.raw
    stop_daemon "$daemon_pid"
}

# ---- headers without room -----------------------------------------------------------------------------------

@test "commit: a header that has no room for a new name is found before anything is written" {
    local long
    long=$(printf 'b%.0s' {1..230})
    mkdir -p "$long/$long" s
    make_image "$long/$long/b.qcow2" 1M -o cluster_size=512
    make_image s/m.qcow2 1M -b "../$long/$long/b.qcow2" -F qcow2
    make_image t.qcow2 1M -b s/m.qcow2 -F qcow2 -o cluster_size=512
    make_image act.qcow2 1M -b t.qcow2 -F qcow2
    guest_write t.qcow2 0 64K C
    cp "$long/$long/b.qcow2" b.copy
    remember_image s/m.qcow2 t.qcow2 act.qcow2
    run -1 qcow-commit -b "$long/$long/b.qcow2" t.qcow2
    assert_output_has "nothing was written: 't.qcow2': header: "
    run -1 qcow-commit --dry-run -b "$long/$long/b.qcow2" t.qcow2
    assert_output_has "nothing was written: 't.qcow2': header: "
    run -1 qcow-commit --top t.qcow2 -b "$long/$long/b.qcow2" act.qcow2
    assert_output_has "nothing was written: 't.qcow2': header: "
    cmp "$long/$long/b.qcow2" b.copy
    assert_image_unchanged s/m.qcow2 t.qcow2 act.qcow2
}

@test "commit --preserve: so is one of an image to preserve" {
    local long
    long=$(printf 'b%.0s' {1..230})
    mkdir -p "$long/$long" s
    make_image "$long/$long/b.qcow2" 1M
    make_image s/m.qcow2 1M -b "../$long/$long/b.qcow2" -F qcow2
    make_image t.qcow2 1M -b s/m.qcow2 -F qcow2
    make_image sib.qcow2 1M -b s/m.qcow2 -F qcow2 -o cluster_size=512
    guest_write t.qcow2 0 64K C
    cp "$long/$long/b.qcow2" b.copy
    remember_image s/m.qcow2 t.qcow2 sib.qcow2
    run -1 qcow-commit -b "$long/$long/b.qcow2" --preserve sib.qcow2 t.qcow2
    assert_output_has "nothing was written: 'sib.qcow2': header: "
    cmp "$long/$long/b.qcow2" b.copy
    assert_image_unchanged s/m.qcow2 t.qcow2 sib.qcow2
}

# ---- what is deleted, and marked ------------------------------------------------------------------------------

@test "commit --delete: of a layer that is a link, the file and the link go" {
    mkdir store
    make_four
    mv mid.qcow2 store
    ln -s store/mid.qcow2 mid.qcow2
    qemu-img rebase -u -b "$PWD/base.qcow2" -F qcow2 store/mid.qcow2
    run -0 "${delete_top[@]}"
    assert_output_has "Deleted: mid.qcow2" "Deleted: $PWD/store/mid.qcow2" "Deleted: top.qcow2"
    [[ ! -L mid.qcow2 && ! -e store/mid.qcow2 ]]
    assert_same_content act.qcow2 act.raw
}

@test "commit --delete: a data file stays, and is named" {
    make_image base.qcow2 4M
    make_image mid.qcow2 4M -b base.qcow2 -F qcow2 -o data_file=mid.data
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    guest_write mid.qcow2 1M 64K B
    run -0 qcow-commit --delete -b base.qcow2 top.qcow2
    assert_output_has "Deleted: mid.qcow2" "Not deleted: mid.data"
    [[ ! -e mid.qcow2 && -e mid.data ]]
}

@test "commit --delete: a layer over NBD is marked, and named as not deleted" {
    local uri
    mkdir elsewhere
    make_image base.qcow2 4M
    make_image elsewhere/mid.qcow2 4M -b "$PWD/base.qcow2" -F qcow2
    guest_write elsewhere/mid.qcow2 1M 64K B
    start_qemu_nbd m.sock -f raw elsewhere/mid.qcow2
    uri="nbd+unix:///?socket=$PWD/m.sock"
    make_image top.qcow2 4M -b "$uri" -F qcow2
    run -0 qcow-commit --output=json --delete -b base.qcow2 top.qcow2
    assert_json '.deleted == [] and .invalid == .["not-deleted"] and (.invalid | length) == 1'
    stop_daemon "$daemon_pid"
    is_marked elsewhere/mid.qcow2
}

@test "commit --delete: a layer with internal snapshots is refused; --preserve keeps it, --force deletes it" {
    make_four
    guest_write mid.qcow2 0 4M B
    snapshot mid.qcow2 keepme
    active_raw act.qcow2 act.raw
    remember_image base.qcow2 mid.qcow2 top.qcow2 act.qcow2
    run -1 "${delete_top[@]}"
    assert_output_has "'mid.qcow2': --delete would delete its 1 internal snapshots with it"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2 act.qcow2
    mkdir forced
    cp ./*.qcow2 forced
    (cd forced && "${delete_top[@]}" --force && [[ ! -e mid.qcow2 ]])
    run -0 "${delete_top[@]}" --preserve mid.qcow2
    assert_output_has "Deleted: top.qcow2"
    refute_output_has "mid.qcow2"
    assert_clean mid.qcow2
    assert_same_content act.qcow2 act.raw
}

@test "commit -d --delete: nothing drops out of the chain, so nothing is deleted, and that is said" {
    make_four
    remember_image act.qcow2
    run -0 qcow-commit -d --delete -b base.qcow2 act.qcow2
    assert_output_has "Not deleted: mid.qcow2" "Not deleted: top.qcow2"
    assert_image_unchanged act.qcow2
    [[ -e mid.qcow2 && -e top.qcow2 ]]
    assert_same_content act.qcow2 act.raw
}

@test "commit --preserve: what is over a layer that stays valid is valid too, and not marked" {
    make_four
    run -0 qcow-commit --preserve mid.qcow2 -b base.qcow2 act.qcow2
    refute_output_has "Not valid"
    assert_same_content top.qcow2 top.raw
    assert_clean top.qcow2
}

# forge_note IMAGE TEXT: give the header a note of an interrupted commit, as printf prints TEXT
forge_note() {
    python3 - "$1" "$(printf '%b' "$2" | od -An -v -tx1 | tr -d ' \n')" <<'EOF'
import struct, sys
note = bytes.fromhex(sys.argv[2])
with open(sys.argv[1], "r+b") as image:
    header = bytearray(image.read(65536))
    backing, start = struct.unpack_from(">Q", header, 8)[0], struct.unpack_from(">I", header, 100)[0]
    name = bytes(header[backing:backing + struct.unpack_from(">I", header, 16)[0]])
    old = header[start:backing]
    added = struct.pack(">II", 0x514d5247, len(note)) + note + bytes(-len(note) % 8)
    header[start:start + len(added) + len(old) + len(name)] = added + old + name
    struct.pack_into(">Q", header, 8, backing + len(added))
    image.seek(0)
    image.write(header[:65536])
EOF
}

@test "commit: a note from elsewhere touches no file, whatever it says" {
    local note id='0123456789abcdef'
    mkfifo pipe
    make_image victim.qcow2 4M -b base-of-victim.qcow2 -F qcow2 -u
    for note in "$id\0between victim.qcow2\0dropped victim.qcow2\0top victim.qcow2\0" \
        "$id\0between /dev/zero\0top pipe\0" "$id\0between victim.qcow2" "$id\0\0\0between\0top \0 \0" "$id" '\0' \
        "$id\0between json:{}\0dropped nbd://\0top [1]\0"; do
        CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
        guest_write top.qcow2 1M 64K A
        active_raw top.qcow2 top.raw
        forge_note top.qcow2 "$note"
        remember_image victim.qcow2
        run -0 timeout 20 qcow-commit --delete top.qcow2
        assert_image_unchanged victim.qcow2
        assert_same_content top.qcow2 top.raw
        assert_same_content base.qcow2 top.raw
    done
}
