#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Merges downward: what stays valid reads the same, what does not is named, and base reads as the top did.

load helpers

# make_three: base.qcow2 <- mid.qcow2 <- top.qcow2, each with something of its own, over and beside the others
make_three() {
    CHAIN_SIZE=8M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 2M A
    guest_write mid.qcow2 1M 2M B
    guest_zero mid.qcow2 256K 128K
    guest_write top.qcow2 2500K 1M C
    guest_write top.qcow2 64K 100 D
    guest_zero top.qcow2 1M 64K
}

# make_siblings: base.qcow2 <- top.qcow2, and base.qcow2 <- other.qcow2
make_siblings() {
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2
    make_image other.qcow2 8M -b base.qcow2 -F qcow2
    guest_write base.qcow2 0 2M A
    guest_write top.qcow2 1M 2M B
    guest_write other.qcow2 1536K 64K C
}

# note IMAGE…: keep what each reads as in IMAGE.raw
note() {
    local image
    for image; do
        active_raw "$image" "$image.raw"
    done
}

# assert_noted IMAGE…: each is clean and reads as when it was noted
assert_noted() {
    local image
    for image; do
        assert_clean "$image" && assert_same_content "$image" "$image.raw" || return
    done
}

# assert_empty IMAGE: it holds no cluster by itself
assert_empty() {
    [[ $(delta_ranges "$1") == "" ]] || fail "$1 is not empty: $(delta_ranges "$1")"
}

# backing IMAGE: print the backing file's name as it is recorded, and its format
backing() {
    qemu-img info -U --output=json "$1" | jq -r '"\(.["backing-filename"]) \(.["backing-filename-format"])"'
}

# recorded IMAGE: print the backing file's name as it is recorded
recorded() {
    qemu-img info -U --output=json "$1" | jq -r '.["backing-filename"]'
}

# node FILE [,MORE]: print FILE, a path, as the json text of a qcow2 node with MORE members
node() {
    printf '{"driver":"qcow2","file":{"driver":"file","filename":"%s"}%s}' "$1" "${2-}"
}

# over BELOW: print the member that makes BELOW, a node, the backing file of another one
over() {
    printf ',"backing":%s' "$1"
}

# dirty IMAGE BITMAP: print what an NBD client of QEMU sees as dirty, a line "START LENGTH" for each range
dirty() {
    rm -f dirty.sock dirty.sock.pid
    start_qemu_nbd dirty.sock -r -f qcow2 -B "$2" "$1"
    nbdinfo --json --map="qemu:dirty-bitmap:$2" "nbd+unix:///?socket=$PWD/dirty.sock" |
        jq -r '.[] | select(.type == 1) | "\(.offset) \(.length)"'
    stop_daemon "$(cat dirty.sock.pid)"
}

# ---- which layers ------------------------------------------------------------------------------------

@test "commit: into the backing file, and the image is empty" {
    make_three
    note top.qcow2 base.qcow2
    run -0 --separate-stderr qcow-commit top.qcow2
    assert_output "Image committed."
    assert_noted top.qcow2 base.qcow2
    assert_same_content mid.qcow2 top.qcow2.raw
    assert_clean mid.qcow2
    assert_empty top.qcow2
    [[ $(backing top.qcow2) == "mid.qcow2 qcow2" ]]
}

@test "commit: what qemu-img commit leaves reads the same" {
    make_three
    mkdir theirs
    cp ./*.qcow2 theirs
    qemu-img commit -q theirs/top.qcow2
    qcow-commit -q top.qcow2
    assert_same_content mid.qcow2 theirs/mid.qcow2
    assert_same_content top.qcow2 theirs/top.qcow2
    [[ $(delta_ranges top.qcow2) == "$(delta_ranges theirs/top.qcow2)" ]]
}

@test "commit -d: the image stays exactly as it was" {
    make_three
    note top.qcow2
    remember_image top.qcow2 base.qcow2
    run -0 qcow-commit -d top.qcow2
    assert_output "Image committed."
    assert_image_unchanged top.qcow2 base.qcow2
    assert_noted top.qcow2
    assert_same_content mid.qcow2 top.qcow2.raw
}

@test "commit -b: several layers at once; those between are named, marked, and refused by QEMU" {
    make_three
    note top.qcow2
    run -0 qcow-commit -b base.qcow2 top.qcow2
    assert_output_has "Image committed." "Not valid by itself any more: mid.qcow2"
    assert_noted top.qcow2
    assert_empty top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    [[ $(backing top.qcow2) == "base.qcow2 qcow2" ]]
    run -1 qemu-img info mid.qcow2
    assert_output_has "merged into base.qcow2 by qcow-commit"
    run -1 qcow-info mid.qcow2
    assert_output_has "merged into base.qcow2 by qcow-commit"
    qcow-amend --unmark mid.qcow2
    assert_clean mid.qcow2
}

@test "commit -b [2]: layers are named by their index too" {
    make_three
    note top.qcow2
    qcow-commit -q -b '[2]' top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    assert_noted top.qcow2
}

@test "commit -d -b: the image reads through the layers between, which are named and not marked" {
    make_three
    note top.qcow2
    remember_image top.qcow2 mid.qcow2
    run -0 qcow-commit -d -b base.qcow2 top.qcow2
    assert_output_has "Not valid by itself any more: mid.qcow2" "Could not be marked as such: mid.qcow2"
    assert_image_unchanged top.qcow2 mid.qcow2
    assert_noted top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

@test "commit --top: a layer below the image is merged, and the image re-pointed" {
    make_three
    note top.qcow2 mid.qcow2
    run -0 qcow-commit --top mid.qcow2 top.qcow2
    assert_output "Image committed."
    assert_noted top.qcow2 mid.qcow2
    assert_same_content base.qcow2 mid.qcow2.raw
    assert_clean base.qcow2
    [[ $(backing top.qcow2) == "base.qcow2 qcow2" ]]
}

@test "commit --top -b: several layers below the image" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    guest_write active.qcow2 5M 64K E
    note active.qcow2 top.qcow2
    run -0 qcow-commit --top '[1]' -b '[3]' active.qcow2
    assert_output_has "Image committed." "Not valid by itself any more: mid.qcow2"
    assert_noted active.qcow2 top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    [[ $(backing active.qcow2) == "base.qcow2 qcow2" && $(backing top.qcow2) == "base.qcow2 qcow2" ]]
    run -1 qemu-img info mid.qcow2
}

@test "commit: a base in the middle of a chain stays over what it is backed by" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    guest_write active.qcow2 3M 64K E
    note active.qcow2 base.qcow2
    remember_image base.qcow2
    qcow-commit -q -b mid.qcow2 active.qcow2
    assert_image_unchanged base.qcow2
    assert_noted active.qcow2 base.qcow2
    assert_same_content mid.qcow2 active.qcow2.raw
    assert_clean mid.qcow2
    [[ $(backing mid.qcow2) == "base.qcow2 qcow2" ]]
}

@test "commit: what cannot be meant is refused before anything is written" {
    make_three
    remember_image base.qcow2 mid.qcow2 top.qcow2
    run -1 qcow-commit base.qcow2
    assert_output_has "'base.qcow2': Image does not have a backing file"
    run -1 qcow-commit -b top.qcow2 top.qcow2
    assert_output_has "is not below"
    run -1 qcow-commit --top mid.qcow2 -b mid.qcow2 top.qcow2
    assert_output_has "is not below"
    run -1 qcow-commit -b missing.qcow2 top.qcow2
    assert_output_has "missing.qcow2"
    run -2 qcow-commit -d --top mid.qcow2 top.qcow2
    run -2 qcow-commit
    run -2 qcow-commit top.qcow2 base.qcow2
    run -1 qcow-commit missing.qcow2
    assert_output_has "'missing.qcow2'" "No such file or directory"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2
}

@test "commit: once more does nothing, and says the same" {
    make_three
    qcow-commit -q top.qcow2
    note top.qcow2 mid.qcow2
    remember_image mid.qcow2
    run -0 qcow-commit top.qcow2
    assert_output "Image committed."
    assert_image_unchanged mid.qcow2
    assert_noted top.qcow2 mid.qcow2
}

# ---- names and formats -------------------------------------------------------------------------------

@test "commit: a base in another folder is recorded relative to the image" {
    mkdir -p lower/lowest
    make_image lower/lowest/base.qcow2 4M
    guest_write lower/lowest/base.qcow2 0 1M A
    (cd lower && make_image mid.qcow2 4M -b lowest/base.qcow2 -F qcow2)
    guest_write lower/mid.qcow2 512K 1M B
    make_image top.qcow2 4M -b lower/mid.qcow2 -F qcow2
    guest_write top.qcow2 2M 64K C
    note top.qcow2
    qcow-commit -q -b lower/lowest/base.qcow2 top.qcow2
    [[ $(backing top.qcow2) == "lower/lowest/base.qcow2 qcow2" ]]
    assert_noted top.qcow2
    mkdir away
    mv lower top.qcow2 away
    assert_same_content away/top.qcow2 top.qcow2.raw
}

@test "commit: a name through a linked folder leads where the kernel goes, not where its letters do" {
    local base=$PWD/base.qcow2
    mkdir -p real/deep/er middle
    ln -s real/deep/er link
    CHAIN_SIZE=4M make_chain base.qcow2
    CHAIN_SIZE=4M make_chain real/deep/base.qcow2
    guest_write base.qcow2 0 64K A
    guest_write real/deep/base.qcow2 0 64K B
    (cd middle && make_image mid.qcow2 4M -b ../base.qcow2 -F qcow2)
    (cd link && make_image top.qcow2 4M -b ../../../middle/mid.qcow2 -F qcow2)
    (cd link && make_image absolute.qcow2 4M -b "$(realpath ../../../middle/mid.qcow2)" -F qcow2)
    guest_write link/top.qcow2 64K 64K C
    guest_write link/absolute.qcow2 64K 64K D
    note link/absolute.qcow2 link/top.qcow2
    qcow-commit -q --preserve link/absolute.qcow2 -b base.qcow2 link/top.qcow2
    assert_noted link/top.qcow2 link/absolute.qcow2
    [[ $(recorded link/top.qcow2) == ../../../base.qcow2 ]]
    [[ $(recorded link/absolute.qcow2) == "$base" ]]
    mkdir away
    mv real away
    mv base.qcow2 away
    assert_same_content away/real/deep/er/top.qcow2 away/real/deep/er/top.qcow2.raw
}

@test "commit: an image that is opened by a link opens by the name of its file, too" {
    mkdir -p links/of/today images
    ln -s ../../../images/top.qcow2 links/of/today/current.qcow2
    (
        cd images
        CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2
        make_image top.qcow2 4M -b "$PWD/mid.qcow2" -F qcow2
        guest_write base.qcow2 0 64K A
        guest_write top.qcow2 64K 64K B
    )
    note images/top.qcow2
    qcow-commit -q -b images/base.qcow2 links/of/today/current.qcow2
    assert_same_content links/of/today/current.qcow2 images/top.qcow2.raw
    assert_noted images/top.qcow2
    [[ $(recorded images/top.qcow2) == "$PWD/images/base.qcow2" ]]
}

@test "commit: a base that is a link is recorded as the link, not as what it leads to today" {
    mkdir volumes
    make_image volumes/one 4M
    ln -s volumes/one base.qcow2
    (mkdir other && cd other && make_image mid.qcow2 4M -b ../base.qcow2 -F qcow2)
    make_image top.qcow2 4M -b other/mid.qcow2 -F qcow2
    guest_write top.qcow2 64K 64K B
    note top.qcow2
    qcow-commit -q -b base.qcow2 top.qcow2
    [[ $(recorded top.qcow2) == base.qcow2 ]]
    assert_noted top.qcow2
}

@test "commit: a base with a colon in its name is no protocol in the image that comes to name it" {
    mkdir sub
    make_image ./a:base.qcow2 4M
    (cd sub && make_image mid.qcow2 4M -b ../a:base.qcow2 -F qcow2)
    make_image top.qcow2 4M -b sub/mid.qcow2 -F qcow2
    guest_write top.qcow2 64K 64K B
    note top.qcow2
    qcow-commit -q -b '[2]' top.qcow2
    assert_noted top.qcow2
}

@test "commit: json: options of the base stay, in an image of another folder and in a preserved one" {
    local part='"driver":"raw","offset":65536,"size":1048576'
    part="json:{$part,\"file\":{\"driver\":\"file\",\"filename\":\"$PWD/base.raw\"}}"
    mkdir sub
    truncate -s 2M base.raw
    guest_write base.raw 0 64K A
    guest_write base.raw 64K 1M B
    make_image mid.qcow2 1M -b "$part" -F raw
    make_image other.qcow2 1M -b "$PWD/mid.qcow2" -F qcow2
    make_image sub/top.qcow2 1M -b ../mid.qcow2 -F qcow2
    guest_write sub/top.qcow2 64K 64K C
    note sub/top.qcow2 other.qcow2
    qcow-commit -q --preserve other.qcow2 -b '[2]' sub/top.qcow2
    assert_noted sub/top.qcow2 other.qcow2
    [[ $(recorded sub/top.qcow2) == "$part" && $(recorded other.qcow2) == "$part" ]]
}

@test "commit: a base that json: takes out of its own chain stays without it, or nothing is done" {
    local name
    mkdir sub
    CHAIN_SIZE=1M make_chain lower.qcow2 base.qcow2
    guest_write lower.qcow2 0 1M A
    for name in base.qcow2 "$PWD/base.qcow2"; do
        rm -f mid.qcow2 sub/top.qcow2
        make_image mid.qcow2 1M -b "json:$(node "$name" ',"backing":null')" -F qcow2
        make_image sub/top.qcow2 1M -b ../mid.qcow2 -F qcow2
        guest_write sub/top.qcow2 64K 64K C
        note sub/top.qcow2
        if [[ $name == base.qcow2 ]]; then
            # In the folder of the image the same text would mean this one.
            cp base.qcow2 sub
            remember_image base.qcow2 mid.qcow2 sub/top.qcow2
            run -1 qcow-commit -b '[2]' sub/top.qcow2
            assert_output_has "no name that could be recorded"
            assert_image_unchanged base.qcow2 mid.qcow2 sub/top.qcow2
        else
            qcow-commit -q -b '[2]' sub/top.qcow2
            assert_noted sub/top.qcow2
        fi
    done
}

@test "commit: into a backing file given on the command line; the image names it, and loses nothing" {
    local top
    CHAIN_SIZE=4M make_chain base.qcow2
    CHAIN_SIZE=4M make_chain unrelated.qcow2
    guest_write base.qcow2 0 1M A
    guest_write unrelated.qcow2 0 4M B
    make_image top.qcow2 4M -b unrelated.qcow2 -F qcow2
    guest_write top.qcow2 64K 64K C
    top=json:$(node top.qcow2 "$(over "$(node base.qcow2)")")
    qemu-img convert -O raw "$top" top.qcow2.raw
    cp top.qcow2 kept.qcow2
    cp base.qcow2 base.kept
    qcow-commit -q "$top"
    [[ $(backing top.qcow2) == "base.qcow2 qcow2" ]]
    assert_noted top.qcow2

    # The same through a layer between, whose header says something else as well.
    cp kept.qcow2 mid.qcow2
    cp base.kept base.qcow2
    rm top.qcow2
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 128K 64K D
    top=json:$(node top.qcow2 "$(over "$(node mid.qcow2 "$(over "$(node base.qcow2)")")")")
    qemu-img convert -O raw "$top" top.qcow2.raw
    rm kept.qcow2
    qcow-commit -q -b base.qcow2 "$top"
    [[ $(backing top.qcow2) == "base.qcow2 qcow2" ]]
    assert_noted top.qcow2
}

@test "commit: a base over a chain that only the command line knows cannot be recorded, and is refused" {
    local top base
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    CHAIN_SIZE=4M make_chain lower.qcow2
    guest_write lower.qcow2 0 4M A
    guest_write top.qcow2 64K 64K B
    base=$(node base.qcow2 "$(over "$(node lower.qcow2)")")
    top=json:$(node top.qcow2 "$(over "$(node mid.qcow2 "$(over "$base")")")")
    remember_image lower.qcow2 base.qcow2 mid.qcow2 top.qcow2
    run -1 qcow-commit -b base.qcow2 "$top"
    assert_output_has "no name that could be recorded" "'base.qcow2'"
    assert_image_unchanged lower.qcow2 base.qcow2 mid.qcow2 top.qcow2
    # With -d nothing is recorded.
    qcow-commit -q -d -b base.qcow2 "$top"
}

@test "commit -b: a name as the chain records it, from another folder, unless two images record it" {
    mkdir one two
    (cd one && CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2 && guest_write top.qcow2 64K 64K A)
    note one/top.qcow2
    qcow-commit -q -b base.qcow2 one/top.qcow2
    assert_noted one/top.qcow2
    [[ $(recorded one/top.qcow2) == base.qcow2 ]]
    run -1 qcow-commit -b mid.qcow2 one/top.qcow2
    assert_output_has "is not a layer"
    (cd two && make_image low.qcow2 4M)
    (cd one && rm -f base.qcow2 top.qcow2 && make_image low.qcow2 4M -b "$OLDPWD/two/base.qcow2" -F qcow2 -u)
    (cd two && make_image base.qcow2 4M -b low.qcow2 -F qcow2)
    (cd one && make_image top.qcow2 4M -b low.qcow2 -F qcow2)
    remember_image one/low.qcow2 two/base.qcow2 two/low.qcow2
    run -1 qcow-commit -b low.qcow2 one/top.qcow2
    assert_output_has "[1]" "'$PWD/two/low.qcow2'" "[3]"
    assert_image_unchanged one/low.qcow2 two/base.qcow2 two/low.qcow2
    qcow-commit -q -b two/low.qcow2 one/top.qcow2
}

@test "commit: into a raw base; the overlay's zeros are written" {
    truncate -s 4M base.raw
    guest_write base.raw 0 2M A
    make_image top.qcow2 4M -b base.raw -F raw
    guest_write top.qcow2 1M 100K B
    guest_zero top.qcow2 512K 64K
    note top.qcow2
    run -0 qcow-commit top.qcow2
    assert_output "Image committed."
    cmp base.raw top.qcow2.raw
    assert_noted top.qcow2
    assert_empty top.qcow2
    [[ $(backing top.qcow2) == "base.raw raw" ]]
}

@test "commit: a raw base grows with the image" {
    truncate -s 1000001 base.raw
    guest_write base.raw 0 999936 A
    make_image top.qcow2 3M -b base.raw -F raw
    guest_write top.qcow2 2M 64K B
    note top.qcow2
    qcow-commit -q top.qcow2
    cmp base.raw top.qcow2.raw
    assert_noted top.qcow2
}

@test "commit: into a raw base that nothing records as raw, only with -F raw" {
    truncate -s 2M base.raw
    make_image top.qcow2 2M
    guest_write top.qcow2 0 64K B
    qemu-img rebase -u -b base.raw -F raw top.qcow2
    offset=$(LC_ALL=C grep -obUaP '\xe2\x79\x2a\xca' top.qcow2 | head -n 1 | cut -d: -f1)
    poke top.qcow2 "$offset" 7fffffff
    remember_image base.raw top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "base.raw" "-F raw"
    assert_image_unchanged base.raw top.qcow2
    note top.qcow2
    qcow-commit -q -F raw top.qcow2
    cmp base.raw top.qcow2.raw
}

@test "commit: compressed clusters and zstd, other cluster sizes, extended L2" {
    local options
    for options in cluster_size=4k cluster_size=2M compression_type=zstd extended_l2=on,cluster_size=64k compat=0.10; do
        rm -f ./*.qcow2
        make_image base.qcow2 8M -o "$options"
        make_image top.qcow2 8M -b base.qcow2 -F qcow2
        guest_write_compressed base.qcow2 0 4M A
        guest_write_compressed top.qcow2 2M 1M B
        guest_write top.qcow2 100 5000 C
        guest_zero top.qcow2 1M 200K
        note top.qcow2
        qcow-commit -q top.qcow2
        assert_noted top.qcow2
        assert_clean base.qcow2
        assert_same_content base.qcow2 top.qcow2.raw || fail "$options"
    done
}

@test "commit: into a base with a data file, raw or not, with subclusters; it has the disk's length" {
    local raw extended
    for raw in off on; do
        for extended in off on; do
            make_image base.qcow2 4000K -o "data_file=base.data,data_file_raw=$raw,extended_l2=$extended"
            guest_write base.qcow2 0 100K A
            guest_write base.qcow2 1M 10K B
            guest_zero base.qcow2 3M 64K
            make_image top.qcow2 4000K -b base.qcow2 -F qcow2
            guest_write top.qcow2 50K 10K C
            guest_zero top.qcow2 1M 2K
            guest_write top.qcow2 3990K 10K D
            note top.qcow2
            qcow-commit -q top.qcow2
            assert_noted top.qcow2
            assert_clean base.qcow2
            assert_same_content base.qcow2 top.qcow2.raw
            [[ $raw == off ]] || cmp base.data top.qcow2.raw
            rm base.qcow2 base.data top.qcow2
        done
    done
}

@test "commit: the data file of the emptied image gives its space back" {
    make_image base.qcow2 4M
    make_image top.qcow2 4M -b base.qcow2 -F qcow2 -o data_file=top.data
    guest_write top.qcow2 1M 2M A
    active_raw top.qcow2 top.raw
    qcow-commit -q top.qcow2
    (($(stat -c %b top.data) * 512 < 64 * 1024))
    assert_clean top.qcow2
    assert_same_content base.qcow2 top.raw
    assert_same_content top.qcow2 top.raw
}

@test "commit: into a base over NBD, raw, and a qcow2 container" {
    require nbdkit
    truncate -s 4M base.raw
    guest_write base.raw 0 1M A
    make_image base.qcow2 4M
    guest_write base.qcow2 0 1M A
    truncate -s 8M base.qcow2
    start_nbdkit raw.sock file base.raw
    make_image top.qcow2 4M -b "nbd+unix:///?socket=$PWD/raw.sock" -F raw
    guest_write top.qcow2 512K 1M B
    mkdir later
    cp top.qcow2 later/top2.qcow2    # where it is nobody's sibling
    note top.qcow2
    qcow-commit -q top.qcow2
    cmp base.raw top.qcow2.raw
    assert_noted top.qcow2
    mv later/top2.qcow2 .
    start_nbdkit container.sock file base.qcow2
    qemu-img rebase -u -F qcow2 -b "nbd+unix:///?socket=$PWD/container.sock" top2.qcow2
    qcow-commit -q top2.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

@test "commit: into a raw base that qemu-nbd serves; it is not too small" {
    truncate -s 4M base.raw
    start_qemu_nbd base.sock -f raw base.raw
    make_image top.qcow2 4M -b "nbd+unix:///?socket=$PWD/base.sock" -F raw
    guest_write top.qcow2 512K 1M B
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    qemu-img resize -q top.qcow2 5M
    guest_write top.qcow2 4M 64K C
    note top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "cannot grow"
    assert_noted top.qcow2
}

# ---- sizes -------------------------------------------------------------------------------------------

@test "commit: a smaller base grows" {
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 5000000 -b base.qcow2 -F qcow2
    guest_write top.qcow2 4M 64K B
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

@test "commit: a larger base keeps its size and its end" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image top.qcow2 1000448 -b base.qcow2 -F qcow2
    guest_write top.qcow2 900K 50K B
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    [[ $(virtual_size base.qcow2) == 4194304 ]]
    assert_guest base.qcow2 900K 50K B
    assert_guest base.qcow2 1000448 $((4194304 - 1000448)) A
    assert_clean base.qcow2
}

@test "commit: the zeros behind the end of a short layer between are carried" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image mid.qcow2 1M -b base.qcow2 -F qcow2
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 3M 64K B
    note top.qcow2
    qcow-commit -q -b base.qcow2 top.qcow2
    assert_noted top.qcow2
    assert_guest_zero base.qcow2 1M 2M
    assert_guest base.qcow2 0 1M A
}

@test "commit --top: a short layer leaves the zeros behind its end in the image above" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image mid.qcow2 1M -b base.qcow2 -F qcow2
    guest_write mid.qcow2 0 64K B
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 3M 64K C
    note top.qcow2 mid.qcow2
    qcow-commit -q --top mid.qcow2 top.qcow2
    assert_noted top.qcow2 mid.qcow2
    assert_guest base.qcow2 1M 3M A
    assert_clean base.qcow2
}

@test "commit: a version 2 base with snapshots cannot grow, and says so" {
    make_image base.qcow2 1M -o compat=0.10
    guest_write base.qcow2 0 64K A
    snapshot base.qcow2 one
    make_image top.qcow2 2M -b base.qcow2 -F qcow2
    guest_write top.qcow2 0 64K B
    remember_image base.qcow2 top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "base.qcow2" "cannot grow" "compat=1.1"
    assert_image_unchanged base.qcow2 top.qcow2
}

# ---- snapshots ---------------------------------------------------------------------------------------

@test "commit: the base's internal snapshots keep their contents" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 2M A
    snapshot base.qcow2 one
    guest_write base.qcow2 1M 512K B
    snapshot base.qcow2 two
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 512K 2M C
    note top.qcow2
    snapshot_raw base.qcow2 one one.raw
    snapshot_raw base.qcow2 two two.raw
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    snapshot_raw base.qcow2 one again.raw
    cmp one.raw again.raw
    snapshot_raw base.qcow2 two again.raw
    cmp two.raw again.raw
}

@test "commit: an image whose snapshots would read otherwise is refused; --preserve copies for them" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 2M A
    snapshot top.qcow2 early
    guest_write top.qcow2 1M 2M B
    snapshot top.qcow2 late
    guest_zero top.qcow2 0 64K
    note top.qcow2
    snapshot_raw top.qcow2 early early.raw
    snapshot_raw top.qcow2 late late.raw
    remember_image base.qcow2 top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'top.qcow2'" "snapshot 'early'" "--preserve"
    assert_image_unchanged base.qcow2 top.qcow2
    qcow-commit -q --preserve top.qcow2 top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
    snapshot_raw top.qcow2 late again.raw
    cmp late.raw again.raw
}

@test "commit --force: snapshots of the image may read otherwise, the active layer does not" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 2M A
    snapshot top.qcow2 early
    guest_write top.qcow2 1M 2M B
    note top.qcow2
    qcow-commit -q --force top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

# ---- images outside the chain ------------------------------------------------------------------------

@test "commit: an image that is backed by the base is named, and nothing is written" {
    make_siblings
    remember_image base.qcow2 top.qcow2 other.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "other.qcow2" "is backed by" "base.qcow2" "--preserve" "--force"
    assert_image_unchanged base.qcow2 top.qcow2 other.qcow2
    note top.qcow2
    qcow-commit -q --force top.qcow2
    assert_noted top.qcow2
}

@test "commit: siblings are found whatever else their header says, and through images in other folders" {
    make_siblings
    rm other.qcow2
    mkfifo pipe.qcow2
    mkdir folder.qcow2 far
    ln -s nowhere.qcow2 dangling.qcow2
    head -c 50 base.qcow2 >short.qcow2
    : >empty.qcow2
    make_image new.qcow2 8M -b base.qcow2 -F qcow2
    poke new.qcow2 72 0000000000100000    # a feature that nobody knows
    run -1 qcow-commit top.qcow2
    assert_output_has "'new.qcow2' is backed by 'base.qcow2' and would read otherwise"
    poke new.qcow2 72 0000000000000000
    poke new.qcow2 40 0001000000000000    # an L1 table at no place
    run -1 qcow-commit top.qcow2
    assert_output_has "'new.qcow2' is backed by"
    rm new.qcow2
    make_image far/mid.qcow2 8M -b ../base.qcow2 -F qcow2
    make_image near.qcow2 8M -b far/mid.qcow2 -F qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'near.qcow2' is backed by"
    # The one between would not stay valid by that.
    run -1 qcow-commit --preserve near.qcow2 top.qcow2
    assert_output_has "'far/mid.qcow2' is backed by"
    active_raw far/mid.qcow2 mid.raw
    active_raw near.qcow2 near.raw
    qcow-commit -q --preserve far/mid.qcow2 top.qcow2
    assert_same_content near.qcow2 near.raw
    assert_same_content far/mid.qcow2 mid.raw
}

@test "commit: into a block device; missing space on it, and siblings over it, are found before the first write" {
    truncate -s 3M disk.img
    loop_device disk.img
    qemu-img create -q -f qcow2 "$device" 4M
    make_image large.qcow2 4M -b "$device" -F qcow2
    guest_write large.qcow2 0 4M A
    remember_image disk.img large.qcow2
    run -1 qcow-commit large.qcow2
    assert_output_has "'$device': 0x440000 bytes are needed, and it has 0x300000"
    assert_image_unchanged disk.img large.qcow2
    make_image top.qcow2 4M -b "$device" -F qcow2
    guest_write top.qcow2 0 2M B
    note top.qcow2
    run -1 qcow-commit top.qcow2
    assert_output_has "'large.qcow2' is backed by '$device'"
    rm large.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    run -0 qemu-img check -f qcow2 "$device"
}

@test "commit --preserve: a sibling reads the same, its snapshots too" {
    make_siblings
    snapshot other.qcow2 one
    guest_write other.qcow2 0 128K D
    note top.qcow2 other.qcow2
    snapshot_raw other.qcow2 one one.raw
    qcow-commit -q --preserve other.qcow2 top.qcow2
    assert_noted top.qcow2 other.qcow2
    snapshot_raw other.qcow2 one again.raw
    cmp one.raw again.raw
    assert_same_content base.qcow2 top.qcow2.raw
    assert_clean base.qcow2
}

@test "commit --preserve: the image comes last or first, and is never one that is to be preserved" {
    CHAIN_SIZE=8M make_chain base.qcow2 top.qcow2
    make_image a.qcow2 8M -b base.qcow2 -F qcow2
    make_image b.qcow2 8M -b base.qcow2 -F qcow2
    guest_write b.qcow2 0 64K B
    guest_write top.qcow2 64K 64K C
    note a.qcow2 b.qcow2 top.qcow2
    remember_image base.qcow2 a.qcow2 b.qcow2 top.qcow2
    run -2 qcow-commit --preserve a.qcow2 top.qcow2 --preserve b.qcow2 more.qcow2
    run -2 qcow-commit top.qcow2 more.qcow2
    assert_image_unchanged base.qcow2 a.qcow2 b.qcow2 top.qcow2
    qcow-commit -q top.qcow2 --preserve a.qcow2 b.qcow2
    assert_noted a.qcow2 b.qcow2 top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    guest_write top.qcow2 0 64K D
    note top.qcow2
    qcow-commit -q --preserve=a.qcow2 b.qcow2 -- top.qcow2
    assert_noted a.qcow2 b.qcow2 top.qcow2
}

@test "commit --preserve: again and again, and one that reads through a layer between" {
    make_three
    make_image a.qcow2 8M -b mid.qcow2 -F qcow2
    guest_write a.qcow2 0 64K E
    make_image b.qcow2 8M -b a.qcow2 -F qcow2
    guest_write b.qcow2 7M 64K F
    make_image c.qcow2 8M -b base.qcow2 -F qcow2
    note top.qcow2 a.qcow2 b.qcow2 c.qcow2
    run -1 qcow-commit -b base.qcow2 top.qcow2
    assert_output_has "is backed by"
    run -2 qcow-commit -b base.qcow2 a.qcow2 top.qcow2
    assert_output_has "Expecting one image file name"
    qcow-commit -q -b base.qcow2 --preserve a.qcow2 c.qcow2 top.qcow2
    assert_noted top.qcow2 a.qcow2 b.qcow2 c.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
    run -1 qemu-img info mid.qcow2
}

@test "commit --preserve: a relative name stays relative, so that the folders can move" {
    mkdir -p tree/sub
    (cd tree && make_three && make_image sub/other.qcow2 8M -b ../mid.qcow2 -F qcow2)
    guest_write tree/sub/other.qcow2 0 64K F
    note tree/sub/other.qcow2 tree/top.qcow2
    qcow-commit -q --preserve tree/sub/other.qcow2 -b tree/base.qcow2 tree/top.qcow2
    mv tree moved
    mv moved/sub/other.qcow2.raw moved/top.qcow2.raw .
    [[ $(recorded moved/sub/other.qcow2) == ../base.qcow2 ]]
    assert_same_content moved/sub/other.qcow2 other.qcow2.raw
    assert_same_content moved/top.qcow2 top.qcow2.raw
}

@test "commit --preserve: a layer between stays valid" {
    make_three
    note top.qcow2 mid.qcow2
    run -0 qcow-commit --preserve mid.qcow2 -b base.qcow2 top.qcow2
    assert_output "Image committed."
    assert_noted top.qcow2 mid.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}

@test "commit --preserve: a base that cannot grow is refused before the layers between are touched" {
    make_image base.qcow2 1M -o compat=0.10
    guest_write base.qcow2 0 1M A
    snapshot base.qcow2 one
    make_image low.qcow2 1M -b base.qcow2 -F qcow2
    guest_write low.qcow2 0 512K B
    make_image mid.qcow2 2M -b low.qcow2 -F qcow2
    make_image top.qcow2 2M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 1M 64K C
    remember_image base.qcow2 low.qcow2 mid.qcow2 top.qcow2
    run -1 qcow-commit --preserve mid.qcow2 --preserve low.qcow2 -b base.qcow2 top.qcow2
    assert_output_has "'base.qcow2'" "cannot grow"
    assert_image_unchanged base.qcow2 low.qcow2 mid.qcow2 top.qcow2
}

@test "commit --preserve: a larger sibling keeps the zeros that it reads where the base grows" {
    make_image base.qcow2 1M
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 4M -b base.qcow2 -F qcow2
    guest_write top.qcow2 2M 1M B
    make_image other.qcow2 3M -b base.qcow2 -F qcow2
    guest_write other.qcow2 1536K 64K C
    note top.qcow2 other.qcow2
    qcow-commit -q --preserve other.qcow2 top.qcow2
    assert_noted top.qcow2 other.qcow2
    assert_guest_zero other.qcow2 2M 1M
}

@test "commit --preserve: an image that reads nothing through the base is an error" {
    make_three
    make_image alone.qcow2 1M
    remember_image base.qcow2 mid.qcow2 top.qcow2
    run -1 qcow-commit --preserve alone.qcow2 top.qcow2
    assert_output_has "'alone.qcow2'" "nothing to preserve"
    run -1 qcow-commit --preserve missing.qcow2 top.qcow2
    assert_output_has "'missing.qcow2': No such file or directory"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2
}

@test "commit --delete: layers that dropped out go, the image and the base stay" {
    make_three
    note top.qcow2
    run -0 qcow-commit --delete -b base.qcow2 top.qcow2
    assert_output_has "Deleted: mid.qcow2"
    [[ ! -e mid.qcow2 && -e base.qcow2 ]]
    assert_noted top.qcow2
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    guest_write top.qcow2 0 64K F
    note active.qcow2
    run -0 qcow-commit --delete --top top.qcow2 active.qcow2
    assert_output_has "Deleted: top.qcow2"
    [[ ! -e top.qcow2 ]]
    assert_noted active.qcow2
}

@test "commit --delete: what --preserve names is not deleted, not even for its snapshots alone" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2 active.qcow2
    guest_write base.qcow2 0 2M A
    snapshot top.qcow2 early
    guest_write top.qcow2 1M 2M B
    note active.qcow2 top.qcow2
    snapshot_raw top.qcow2 early early.raw
    run -0 qcow-commit --delete --preserve top.qcow2 --top top.qcow2 active.qcow2
    refute_output_has "Deleted"
    assert_noted active.qcow2 top.qcow2
    snapshot_raw top.qcow2 early again.raw
    cmp early.raw again.raw
}

@test "commit --delete: refused while another image is backed by what would go, even with --force" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    make_image other.qcow2 8M -b top.qcow2 -F qcow2
    remember_image base.qcow2 mid.qcow2 top.qcow2 active.qcow2
    run -1 qcow-commit --delete --force --top top.qcow2 -b base.qcow2 active.qcow2
    assert_output_has "other.qcow2" "--delete would delete"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2 active.qcow2
}

# ---- bitmaps -----------------------------------------------------------------------------------------

@test "commit: enabled bitmaps of the base record what is written, disabled ones do not" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 1M A
    qemu-img bitmap --add base.qcow2 on
    qemu-img bitmap --add --disable base.qcow2 off
    guest_write top.qcow2 512K 64K B
    guest_write top.qcow2 2M 128K C
    note top.qcow2
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    [[ $(dirty base.qcow2 on) == "524288 65536"$'\n'"2097152 131072" ]]
    [[ $(dirty base.qcow2 off) == "" ]]
}

@test "commit --bitmaps: bitmaps of the merged layers live on in the base, merged by name" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    qemu-img bitmap --add base.qcow2 both
    guest_write base.qcow2 1M 64K A
    qemu-img bitmap --add top.qcow2 both
    qemu-img bitmap --add top.qcow2 own
    guest_write top.qcow2 2M 128K C
    note top.qcow2
    qcow-commit -q --bitmaps top.qcow2
    assert_noted top.qcow2
    assert_clean base.qcow2
    [[ $(dirty base.qcow2 both) == "1048576 65536"$'\n'"2097152 131072" ]]
    [[ $(dirty base.qcow2 own) == "2097152 131072" ]]
}

@test "commit --bitmaps: one that a merged layer above does not have is dirty where that layer wrote" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    qemu-img bitmap --add mid.qcow2 on
    qemu-img bitmap --add mid.qcow2 off
    guest_write mid.qcow2 1M 64K A
    qemu-img bitmap --disable mid.qcow2 off
    guest_write top.qcow2 2M 128K C
    qcow-commit -q --bitmaps -b base.qcow2 top.qcow2
    assert_clean base.qcow2
    [[ $(dirty base.qcow2 on) == "1048576 65536"$'\n'"2097152 131072" ]]
    [[ $(dirty base.qcow2 off) == "1048576 65536" ]]
}

@test "commit --bitmaps: one that was off in a merged layer does not vouch for it" {
    require nbdinfo
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    qemu-img bitmap --add base.qcow2 a
    qemu-img bitmap --add --disable top.qcow2 a
    guest_write top.qcow2 1M 64K A
    qcow-commit -q --bitmaps top.qcow2
    [[ $(dirty base.qcow2 a) == "1048576 65536" ]]
}

@test "commit --bitmaps: refused, before the first write, where one in the base is in use" {
    CHAIN_SIZE=4M make_chain base.qcow2 top.qcow2
    qemu-img bitmap --add base.qcow2 a
    qemu-img bitmap --add top.qcow2 a
    start_daemon stdbuf -oL qemu-io -c 'write 0 64K' -c 'sleep 60000' base.qcow2
    wait_until grep -q "wrote 65536" daemon.log
    kill_daemon "$daemon_pid"
    guest_write top.qcow2 1M 64K A
    remember_image base.qcow2 top.qcow2
    run -1 qcow-commit --bitmaps top.qcow2
    assert_output_has "bitmap 'a'" "is inconsistent; qcow-bitmap --remove deletes it"
    assert_image_unchanged base.qcow2 top.qcow2
}

@test "commit --bitmaps: refused for a raw base" {
    truncate -s 1M base.raw
    make_image top.qcow2 1M -b base.raw -F raw
    guest_write top.qcow2 0 64K B
    remember_image base.raw top.qcow2
    run -1 qcow-commit --bitmaps top.qcow2
    assert_output_has "base.raw" "cannot hold bitmaps"
    assert_image_unchanged base.raw top.qcow2
}

# ---- a chain in use ----------------------------------------------------------------------------------

@test "commit: a chain that a VM uses is refused with the file's name, and nothing is written" {
    require qemu-storage-daemon
    local image
    make_three
    make_image other.qcow2 8M -b base.qcow2 -F qcow2
    remember_image base.qcow2 mid.qcow2 top.qcow2
    for image in top mid base; do
        start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=$image.qcow2
        run -1 qcow-commit --force -b base.qcow2 top.qcow2
        assert_output_has "$image.qcow2" "lock" "End it first, or let the running VM do this itself"
        stop_daemon "$daemon_pid"
    done
    # It reads what would change.
    start_qsd --blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=other.qcow2,read-only=on
    run -1 qcow-commit --force -b base.qcow2 top.qcow2
    assert_output_has "base.qcow2" "lock"
    stop_daemon "$daemon_pid"
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2
    qcow-commit -q --force -b base.qcow2 top.qcow2
}

# ---- dry runs, output, interruptions, full disks -----------------------------------------------------

@test "commit --dry-run: not one byte changes, in any form" {
    make_three
    make_image active.qcow2 8M -b top.qcow2 -F qcow2
    snapshot active.qcow2 one
    guest_write active.qcow2 6M 64K E
    make_image other.qcow2 8M -b base.qcow2 -F qcow2
    remember_image base.qcow2 mid.qcow2 top.qcow2 active.qcow2 other.qcow2
    qcow-commit --dry-run --preserve active.qcow2 active.qcow2
    qcow-commit --dry-run --preserve other.qcow2 --preserve active.qcow2 -b base.qcow2 active.qcow2
    qcow-commit --dry-run --force --top mid.qcow2 active.qcow2
    qcow-commit --dry-run --force --delete --top top.qcow2 -b base.qcow2 active.qcow2
    qcow-commit --dry-run --force -d -b base.qcow2 active.qcow2
    assert_image_unchanged base.qcow2 mid.qcow2 top.qcow2 active.qcow2 other.qcow2
}

@test "commit --dry-run: says what would be moved, as it is moved then" {
    local wanted
    make_three
    run -0 qcow-commit --dry-run top.qcow2
    assert_output_has "would move" "are available"
    wanted=$(qcow-commit --dry-run --output=json -b base.qcow2 top.qcow2)
    run -0 qcow-commit --output=json -b base.qcow2 top.qcow2
    [[ $(jq '.bytes, ."data-clusters", ."zero-clusters"' <<<"$wanted") == \
       "$(jq '.bytes, ."data-clusters", ."zero-clusters"' <<<"$output")" ]] || fail "$wanted $output"
    jq -e '."dry-run" and .fits and .needed <= .available' <<<"$wanted"
}

@test "commit --output=json: one document that names what is not valid any more" {
    make_three
    run -0 --separate-stderr qcow-commit --output=json -b base.qcow2 top.qcow2
    assert_json '.base == "base.qcow2" and .invalid == ["mid.qcow2"] and .unmarked == [] and .deleted == []'
    assert_json '.bytes > 0 and ."bytes-overwritten" > 0 and ."bytes-preserved" == 0 and .seconds >= 0'
}

@test "commit: -q is silent, -p prints qemu-img's line" {
    make_three
    run -0 qcow-commit -q top.qcow2
    assert_output ""
    guest_write top.qcow2 0 64K X
    run -0 qcow-commit -p top.qcow2
    assert_output_has "    (100.00/100%)" "Image committed."
}

@test "commit: Ctrl-C leaves a chain that reads the same, and the same command completes it" {
    local status=0
    CHAIN_SIZE=64M make_chain base.qcow2 top.qcow2
    guest_write base.qcow2 0 32M A
    guest_write top.qcow2 16M 32M B
    note top.qcow2
    start_daemon env --default-signal qcow-commit --rate 8M top.qcow2
    wait_until catches_interrupts "$daemon_pid"
    sleep 0.5
    kill -INT "$daemon_pid"
    wait "$daemon_pid" || status=$?
    [[ $status == 130 ]]
    grep -q "the chain reads as before; the same command completes it" daemon.log
    assert_noted top.qcow2
    qemu-img check -q base.qcow2 || [[ $? == 3 ]]
    qcow-commit -q top.qcow2
    assert_noted top.qcow2
    assert_same_content base.qcow2 top.qcow2.raw
}
