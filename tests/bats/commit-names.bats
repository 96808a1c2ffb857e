#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, lines, daemon_pid
# Which names of backing files a commit understands, which it records, and how they are told.

load helpers
load merging

# node FILE [,MORE]: print FILE, a path, as the json text of a qcow2 node with MORE members
node() {
    printf '{"driver":"qcow2","file":{"driver":"file","filename":"%s"}%s}' "$1" "${2-}"
}

# over BELOW: print the member that makes BELOW, a node, the backing file of another one
over() {
    printf ',"backing":%s' "$1"
}

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

# mark_of BASE: commit into BASE over a layer between, and print what QEMU says about that one
mark_of() {
    rm -f mid.qcow2 top.qcow2
    make_image "$1" 1M
    make_image mid.qcow2 1M -b "$1" -F qcow2
    make_image top.qcow2 1M -b mid.qcow2 -F qcow2
    qcow-commit -q -b "$1" top.qcow2
    qemu-img info mid.qcow2 2>&1 | sed 's/.*feature(s): //'
}

@test "commit: the mark names the base: whole where it fits, else cut at a whole character" {
    [[ $(mark_of nineteen-byte.qcow2) == "merged into nineteen-byte.qcow2 by qcow-commit" ]]
    [[ $(mark_of twenty-bytes--.qcow2) == "merged into twenty-bytes--.q... by qcow-commit" ]]
    [[ $(mark_of production-base-2026.qcow2) == "merged into production-base-... by qcow-commit" ]]
    [[ $(mark_of fünfzehn-bytesü.qcow2) == "merged into fünfzehn-bytes... by qcow-commit" ]]
    [[ $(mark_of fourteen-bytes€.qcow2) == "merged into fourteen-bytes... by qcow-commit" ]]
    [[ $(mark_of thirteen-byte😀.qcow2) == "merged into thirteen-byte... by qcow-commit" ]]
    run -1 qcow-info mid.qcow2
    assert_output_has "merged into thirteen-byte... by qcow-commit"
    qcow-amend --unmark mid.qcow2
    assert_clean mid.qcow2
}

# names_in JSON FILTER NAME: is NAME what FILTER finds? JSON has no bytes that are not UTF-8
names_in() {
    ! iconv -f UTF-8 -t UTF-8 <<<"$3" >/dev/null 2>&1 || jq -e --arg name "$3" "$2" "$1" >/dev/null
}

@test "plan, commit: names in JSON are those of the files, and a planned command runs, whatever they hold" {
    local name
    for name in 'm\d.qcow2' $'a\ttab.qcow2' $'it\'s\n1.qcow2' 'größe.qcow2' $'caf\xe9 \\ it\'s.qcow2'; do
        rm -f ./*.qcow2
        CHAIN_SIZE=4M make_chain base.qcow2
        make_image "$name" 4M -b base.qcow2 -F qcow2
        make_image top.qcow2 4M
        qcow-rebase -q -u -F qcow2 -b "$name" top.qcow2
        guest_write base.qcow2 0 2M B
        guest_write "$name" 0 1M A
        qcow-plan --output=json --drop '[1]' top.qcow2 >plan.json
        names_in plan.json '.chain[1] == $name' "$name"
        names_in plan.json '.groups[0].ways | any(.invalid == [$name])' "$name"
        eval "$(jq -r '.groups[0].ways[].steps[0] | select(.operation == "commit").command' plan.json)"
        assert_guest "$name" 0 1M A
        guest_write top.qcow2 512K 1M C
        qcow-commit --output=json -b base.qcow2 top.qcow2 >done.json
        names_in done.json '.invalid == [$name]' "$name"
        assert_guest base.qcow2 512K 1M C
    done
}

@test "commit -b NAME: a name recorded in the chain, and another layer at that path from here, is ambiguous" {
    local options
    mkdir one two
    make_image one/disk 1M
    guest_write one/disk 0 1M A
    (cd two && make_image disk 1M -b ../one/disk -F qcow2 && make_image top 1M -b disk -F qcow2)
    guest_write two/disk 0 64K B
    guest_write two/top 64K 64K C
    cd one
    remember_image disk ../two/disk ../two/top
    for options in "qcow-commit -b disk" "qcow-pull -b disk" "qcow-commit --top disk -b [2]"; do
        # shellcheck disable=SC2086  # options are words
        run -1 $options ../two/top
        assert_output_has "'disk' means layer" "../two/disk" "../one/disk"
        assert_image_unchanged disk ../two/disk ../two/top
    done
    qcow-commit -q --force -b ../two/disk ../two/top
    assert_image_unchanged disk
    assert_guest ../two/disk 64K 64K C
}
