#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-plan: what each way to drop points in time costs, compared with what the commands count then.

load helpers

# make_days: base <- monday <- tuesday <- active, with data of their own over each other, and a snapshot
make_days() {
    CHAIN_SIZE=16M make_chain base.qcow2 monday.qcow2 tuesday.qcow2 active.qcow2
    guest_write base.qcow2 0 8M A
    guest_write monday.qcow2 1M 4M B
    guest_write_compressed monday.qcow2 9M 1M C
    guest_zero monday.qcow2 6M 512K
    guest_write tuesday.qcow2 2M 1M D
    snapshot tuesday.qcow2 noon
    guest_write tuesday.qcow2 100K 5K E
    guest_write active.qcow2 4M 3M F
}

# counts FILE: bytes and clusters of a summary
counts() {
    jq -c '[.bytes, .clusters]' "$1"
}

@test "plan: the chain is drawn, the cheapest way first" {
    make_days
    run -0 qcow-plan --drop=tuesday.qcow2 active.qcow2
    assert_output_has "[2] monday.qcow2" "[1] tuesday.qcow2   (drop)" "cheapest: reads " "To drop [1]:"
    run -0 qcow-plan --drop=tuesday.qcow2 --output=json active.qcow2
    assert_json '.chain == ["active.qcow2", "tuesday.qcow2", "monday.qcow2", "base.qcow2"]'
    assert_json '.groups | length == 1 and (.[0].ways | length == 2)'
    assert_json '.groups[0].ways | .[0].seconds <= .[1].seconds'
    assert_json '[.groups[0].ways[] | select(.steps[0].operation == "pull")][0].invalid == []'
    assert_json '[.groups[0].ways[] | select(.steps[0].operation == "commit")][0].invalid == ["tuesday.qcow2"]'
}

@test "plan: bytes and clusters are those that the commands count" {
    local way
    for way in "qcow-pull -b monday.qcow2 active.qcow2" "qcow-commit -b tuesday.qcow2 active.qcow2"; do
        rm -f ./*.qcow2
        make_days
        qemu-img snapshot -d noon tuesday.qcow2
        run -0 qcow-plan --drop=tuesday.qcow2 --output=json active.qcow2
        jq --arg way "$way" '.groups[0].ways[].steps[] | select(.command == $way)' <<<"$output" >planned.json
        # shellcheck disable=SC2086  # a command line
        $way --output=json >done.json
        [[ $(counts planned.json) == "$(counts done.json)" ]] ||
            fail "$way: planned $(counts planned.json), done $(counts done.json)"
    done
}

# written TRACE: what was written to all images and is no data, which a raw one has alone
written() {
    jq 'select(.call == "write" and (.file | endswith(".raw") | not)) | .length' "$1" | jq -s add
}

# assert_metadata: of a plan on standard input, each way, done to the chain, writes as much as its steps say
assert_metadata() {
    local way step
    mkdir before
    cp base.* ./[!b]*.qcow2 before
    while read -r way; do
        while read -r step; do
            eval "$(jq -r .command <<<"$step") -q --trace trace" </dev/null
            [[ $(jq '."metadata-written"' <<<"$step") == "$(written trace)" ]] ||
                fail "$step: $(written trace) bytes: $(jq -c 'select(.call == "write")' trace)"
            rm trace
        done < <(jq -c '.steps[]' <<<"$way")
        cp before/* .
    done < <(jq -c '.groups[].ways[]')
    rm -r before
}

@test "plan: metadata is counted as it is written" {
    local i commands=()
    make_image base.qcow2 16G
    make_image mid.qcow2 16G -b base.qcow2 -F qcow2
    for i in {0..20}; do
        commands+=("write -P $i $((i * 700))M 64K")
    done
    qemu_io mid.qcow2 "${commands[@]}"
    make_image top.qcow2 16G -b mid.qcow2 -F qcow2
    guest_write top.qcow2 1G 10M T
    qcow-plan --drop=mid.qcow2 --output=json top.qcow2 >plan.json
    [[ $(jq '.groups[0].ways | length' plan.json) == 2 ]]
    assert_metadata <plan.json
}

@test "plan: metadata of the layers above is counted, and what marks those between" {
    local base
    for base in qcow2 raw; do
        rm -f ./*.qcow2
        make_days
        qemu-img snapshot -d noon tuesday.qcow2
        qemu-img convert -O $base base.qcow2 base.$base.new
        mv base.$base.new base.$base
        qemu-img rebase -u -b base.$base -F $base monday.qcow2
        make_image top.qcow2 18M -b active.qcow2 -F qcow2
        guest_write top.qcow2 0 64K T
        for drop in "[1] [2]" "[2]" "[2] [3]" "[3] [4]"; do
            # shellcheck disable=SC2086  # several words
            qcow-plan --output=json --drop $drop top.qcow2 >plan.json
            assert_metadata <plan.json
        done
    done
}

@test "plan: what an image's states share is pulled, and counted, once" {
    make_days
    snapshot active.qcow2 first
    snapshot active.qcow2 second
    qcow-plan --drop=tuesday.qcow2 --output=json active.qcow2 |
        jq '.groups[0].ways[].steps[] | select(.operation == "pull")' >planned.json
    qcow-pull -b monday.qcow2 --output=json active.qcow2 >done.json
    [[ $(counts planned.json) == "$(counts done.json)" ]] ||
        fail "planned $(counts planned.json), done $(counts done.json)"
}

@test "plan: of two steps both are counted as they are then" {
    local way step
    make_days
    qemu-img snapshot -d noon tuesday.qcow2
    run -0 qcow-plan --drop=tuesday.qcow2 --drop=monday.qcow2 --output=json active.qcow2
    jq -c '.groups[0].ways[] | select(.steps | length == 2)' <<<"$output" >ways
    [[ $(wc -l <ways) == 2 ]]
    while read -r way; do
        rm -f ./*.qcow2
        make_days
        qemu-img snapshot -d noon tuesday.qcow2
        while read -r step; do
            $(jq -r .command <<<"$step") --output=json >done.json </dev/null
            [[ $(counts done.json) == "$(counts - <<<"$step")" ]] || fail "$step: done $(counts done.json)"
        done < <(jq -c '.steps[]' <<<"$way")
    done <ways
}

@test "plan: a way that cannot be gone is left out" {
    make_image base.qcow2 4M
    make_image low.qcow2 2M -b base.qcow2 -F qcow2 -o compat=0.10
    guest_write low.qcow2 1M 64K B
    snapshot low.qcow2 s
    make_image top.qcow2 4M -b low.qcow2 -F qcow2
    guest_write top.qcow2 3M 4K C
    run -1 qcow-commit --dry-run top.qcow2
    assert_output_has "version 2"
    run -0 qcow-plan --drop=low.qcow2 --output=json top.qcow2
    assert_json '[.groups[0].ways[].steps[].operation] == ["pull"]'
}

@test "plan --run: the next way when the cheapest one would change what somebody else reads" {
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 4M A
    guest_write mid.qcow2 0 2M B
    guest_write top.qcow2 1M 4K C
    make_image other.qcow2 4M -b mid.qcow2 -F qcow2
    active_raw top.qcow2 top.raw
    active_raw other.qcow2 other.raw
    run -0 qcow-plan --drop=mid.qcow2 --output=json top.qcow2
    assert_json '.groups[0].ways[0].steps[0].operation == "commit"'
    run -0 qcow-plan --run --drop=mid.qcow2 top.qcow2
    assert_output_has "Refused, so the next way is taken: 'other.qcow2' is backed by 'mid.qcow2'"
    assert_clean top.qcow2
    assert_same_content top.qcow2 top.raw
    assert_same_content other.qcow2 other.raw
    [[ $(qemu-img info --output=json top.qcow2 | jq -r '."backing-filename"') == base.qcow2 ]]
}

@test "plan: several neighbours, every file that can hold them, in both orders" {
    make_days
    run -0 qcow-plan --drop=tuesday.qcow2 --drop='[2]' --output=json active.qcow2
    assert_json '.groups | length == 1 and .[0].first == 1 and .[0].last == 2'
    assert_json '.groups[0].ways | length == 4'
    assert_json '[.groups[0].ways[].steps | length] | sort == [1, 1, 2, 2]'
}

@test "plan: points that are no neighbours are planned apart" {
    make_days
    run -0 qcow-plan --drop='[1]' --drop='[3]' --output=json active.qcow2
    assert_json '[.groups[] | .first] == [1, 3]'
    run -0 qcow-plan --output=json --drop='[1]' '[3]' active.qcow2
    assert_json '[.groups[] | .first] == [1, 3]'
}

@test "plan --run: points that are no neighbours, where the lower one is merged into its file" {
    CHAIN_SIZE=8M make_chain base.qcow2 first.qcow2 second.qcow2 third.qcow2 top.qcow2
    guest_write base.qcow2 0 8M A
    guest_write first.qcow2 0 6M B
    guest_write second.qcow2 1M 64K C
    guest_write third.qcow2 0 3M D
    guest_write top.qcow2 4M 4M E
    active_raw top.qcow2 top.raw
    run -0 qcow-plan --output=json --drop first.qcow2 --drop third.qcow2 top.qcow2
    assert_json '[.groups[].ways[0].steps[].operation] == ["pull", "commit"]'
    qcow-plan -q --run --drop first.qcow2 --drop third.qcow2 top.qcow2
    assert_clean top.qcow2
    assert_same_content top.qcow2 top.raw
    [[ $(qcow-info --backing-chain --output=json top.qcow2 | jq -c '[.[].filename]') == \
        '["top.qcow2","first.qcow2","base.qcow2"]' ]]
}

@test "plan --run: what fails after a step that is done says so, and the rest can be planned again" {
    require qemu-storage-daemon
    CHAIN_SIZE=8M make_chain base.qcow2 first.qcow2 second.qcow2 third.qcow2 top.qcow2
    guest_write first.qcow2 0 6M B
    guest_write second.qcow2 1M 64K C
    guest_write third.qcow2 0 3M D
    guest_write top.qcow2 4M 4M E
    active_raw top.qcow2 top.raw
    start_qsd --blockdev driver=file,node-name=f,filename=second.qcow2,read-only=on \
        --blockdev driver=qcow2,node-name=disk,file=f,read-only=on
    run -1 qcow-plan -q --run --drop first.qcow2 --drop third.qcow2 top.qcow2
    assert_output_has "commands done so far: 1; plan again for the rest" "lock"
    stop_daemon "$daemon_pid"
    assert_same_content top.qcow2 top.raw
    qcow-plan -q --run --drop first.qcow2 top.qcow2
    assert_same_content top.qcow2 top.raw
    [[ $(qcow-info --backing-chain --output=json top.qcow2 | jq -c '[.[].filename]') == \
        '["top.qcow2","first.qcow2","base.qcow2"]' ]]
}

@test "plan --run: the cheapest way; everything that stays reads the same" {
    make_days
    active_raw active.qcow2 active.raw
    active_raw monday.qcow2 monday.raw
    qcow-plan -q --run --drop=tuesday.qcow2 active.qcow2
    assert_same_content active.qcow2 active.raw
    assert_same_content monday.qcow2 monday.raw
    assert_clean active.qcow2
    run -0 qcow-info --backing-chain --output=json active.qcow2
    assert_json '[.[].filename] | index("tuesday.qcow2") == null or length == 4'
    qcow-plan -q --run --drop=monday.qcow2 --drop=base.qcow2 active.qcow2
    assert_same_content active.qcow2 active.raw
    assert_clean active.qcow2
}

@test "plan --run: with image options" {
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write mid.qcow2 0 64K A
    guest_write top.qcow2 0 1M B
    active_raw top.qcow2 top.raw
    run -0 qcow-plan -q --run --image-opts --drop '[1]' driver=qcow2,file.filename=top.qcow2
    assert_same_content top.qcow2 top.raw
    [[ $(qemu-img info --output=json top.qcow2 | jq -r '."backing-filename"') == base.qcow2 ]]
}

@test "plan: the commands can be given to a shell" {
    CHAIN_SIZE=4M make_chain base.qcow2 "my mid's.qcow2" top.qcow2
    guest_write "my mid's.qcow2" 0 1M A
    guest_write top.qcow2 0 64K B
    active_raw top.qcow2 top.raw
    qcow-plan --output=json --drop '[1]' top.qcow2 >plan.json
    eval "$(jq -r '.groups[0].ways[].steps[0] | select(.operation == "commit").command' plan.json)"
    assert_same_content "my mid's.qcow2" top.raw
}

@test "plan: reads only, and refuses what makes no sense" {
    make_days
    remember_image active.qcow2 tuesday.qcow2 monday.qcow2 base.qcow2
    qcow-plan --drop=monday.qcow2 active.qcow2 >/dev/null
    assert_image_unchanged active.qcow2 tuesday.qcow2 monday.qcow2 base.qcow2
    run -1 qcow-plan --drop=active.qcow2 active.qcow2
    assert_output_has "cannot be dropped"
    run -1 qcow-plan --drop=other.qcow2 active.qcow2
    assert_output_has "not a layer"
    run -2 qcow-plan active.qcow2
    run -2 qcow-plan --drop='[1]'
}

@test "plan -U: of a chain that a VM has open; that it writes is said once" {
    require qemu-storage-daemon
    CHAIN_SIZE=4M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write base.qcow2 0 4M A
    guest_write mid.qcow2 0 2M B
    guest_write top.qcow2 1M 1M C
    qcow-plan --drop=mid.qcow2 --output=json top.qcow2 >quiet.json
    start_qsd --blockdev driver=file,node-name=file,filename=top.qcow2 \
        --blockdev driver=qcow2,node-name=disk,file=file \
        --nbd-server addr.type=unix,addr.path=live.sock \
        --export type=nbd,id=guest,node-name=disk,writable=on
    run -1 qcow-plan --drop=mid.qcow2 top.qcow2
    assert_output_has lock
    run -0 --separate-stderr qcow-plan -U --drop=mid.qcow2 --output=json top.qcow2
    assert_same_json "$output" "$(<quiet.json)"
    [[ $(grep -c "is being written" <<<"$stderr") == 1 && $(wc -l <<<"$stderr") == 1 ]] || fail "$stderr"
    # Nobody writes what it only reads.
    run -0 --separate-stderr qcow-plan -U --drop=base.qcow2 mid.qcow2
    [[ -z $stderr ]]
}

@test "plan --run: Ctrl-C in the middle leaves a chain that reads the same; again goes on" {
    local status=0
    CHAIN_SIZE=16M make_chain base.qcow2 mid.qcow2 top.qcow2
    guest_write mid.qcow2 0 16M A
    guest_write base.qcow2 0 16M B
    guest_write top.qcow2 0 12M C
    active_raw top.qcow2 top.raw
    start_daemon env --default-signal qcow-plan --run --no-reflink --rate 2M -m 1 --drop mid.qcow2 top.qcow2
    wait_until catches_interrupts "$daemon_pid"
    sleep 0.3
    kill -INT "$daemon_pid"
    wait "$daemon_pid" || status=$?
    [[ $status == 130 ]]
    grep -q "the chain reads as before; plan again to go on" daemon.log
    assert_same_content top.qcow2 top.raw
    qcow-plan -q --run --drop mid.qcow2 top.qcow2
    assert_clean top.qcow2
    assert_same_content top.qcow2 top.raw
}

@test "plan: compressed clusters are counted once, as long as they are" {
    local i
    make_image base.qcow2 64M
    for i in {0..31}; do head -c 1M /dev/zero | tr '\0' "\\$(printf %o $((i + 1)))"; done >data.raw
    qemu-img convert -c -O qcow2 data.raw mid.qcow2
    qemu-img resize -q mid.qcow2 64M
    qemu-img rebase -u -b base.qcow2 -F qcow2 mid.qcow2
    make_image top.qcow2 64M -b mid.qcow2 -F qcow2
    guest_write top.qcow2 40M 16M Z
    qcow-plan --drop=mid.qcow2 --output=json top.qcow2 >plan.json
    qcow-pull -q --no-reflink --trace pull.trace -b base.qcow2 top.qcow2
    local written
    written=$(jq -s '[.[] | select(.call == "write") | .length] | add' pull.trace)
    run -0 jq --argjson written "$written" '.groups[0].ways[0]
        | .steps[0].operation == "pull" and ."bytes-read" < 1048576
          and ."bytes-written" + ."metadata-written" == $written' plan.json
    assert_output true
}

@test "plan: a way that a file cannot go is left out" {
    make_image base.qcow2 1M -o cluster_size=512
    guest_write base.qcow2 0 1M A
    make_image top.qcow2 1T -b base.qcow2 -F qcow2
    run -0 qcow-plan --drop=base.qcow2 --output=json top.qcow2
    assert_json '[.groups[0].ways[].steps[].operation] == ["pull"]'
    qcow-plan -q --run --drop=base.qcow2 top.qcow2
    assert_clean top.qcow2
    assert_guest top.qcow2 0 1M A
}

@test "plan: zeros that a raw base has as holes are not counted, as they are not written" {
    truncate -s 4M base.raw
    guest_write base.raw 0 1M A
    make_image top.qcow2 8M -b base.raw -F raw
    guest_zero top.qcow2 512K 3M
    guest_write top.qcow2 5M 64K B
    planned=$(qcow-plan --output=json --drop base.raw top.qcow2 |
        jq '.groups[0].ways[] | select(.steps[0].operation == "commit").steps[0].bytes')
    [[ $planned == "$(qcow-commit --output=json top.qcow2 | jq .bytes)" ]]
}
