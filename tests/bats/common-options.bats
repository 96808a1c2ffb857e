#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# shellcheck disable=SC1090,SC2016,SC2317  # sourced completion; names of snapshots that look like code
# What every command shares: help, usage, errors, output, signals.

load helpers

COMMANDS=()
for program in "$QCOW_BUILD"/tools/qcow-*; do
    [[ ! -f $program || ! -x $program ]] || COMMANDS+=("${program##*/}")
done
# Those that show an image, and take nothing else.
SHOWING=(qcow-bitmap qcow-check qcow-info qcow-map qcow-measure qcow-snapshot)

# a.qcow2 with the snapshots s1 and s2; 8 MiB differ
make_delta() {
    make_image a.qcow2 32M
    qemu-img snapshot -c s1 a.qcow2
    guest_write a.qcow2 1M 8M A
    qemu-img snapshot -c s2 a.qcow2
}

@test "options: --help teaches, --version tells, both with exit 0" {
    for command in qcow "${COMMANDS[@]}"; do
        run -0 --separate-stderr "$command" --help
        [[ ${lines[0]} == "Usage: $command "* ]]
        assert_output_has "--help" "--version" "Exit status:" "Examples:"
        [[ -z $stderr ]]
        run -0 "$command" -h
        run -0 "$command" --version
        [[ $output == "$command (qcow-tools) "[0-9]* ]]
    done
}

@test "options: help fits 80 columns, examples apart" {
    for command in qcow "${COMMANDS[@]}"; do
        run -0 "$command" --help
        if sed '/^Examples:/,$d' <<<"$output" | grep -E '^.{81}'; then
            fail "$command --help is too wide"
        fi
    done
}

@test "options: what an example is for begins with a verb, since the man page puts To before it" {
    local command
    local verbs=' add allow check compare copy do drop export keep learn list make map merge pack put repair '
    verbs+='run see send set show take tell turn write '
    for command in qcow "${COMMANDS[@]}"; do
        "$command" --help | sed -n '1,/^Examples:/d; s/^  # //p' >texts
        [[ -s texts ]]
        while read -r verb rest; do
            [[ $verbs == *" $verb "* && $rest ]] || fail "$command: To $verb $rest"
        done <texts
    done
}

@test "options: every option of the help is in the man page and in completion" {
    for command in qcow "${COMMANDS[@]}"; do
        "$command" --generate=man >page
        "$command" --generate=completion >completion
        while read -r option; do
            grep -qF -- "${option//-/\\-}\\fR" page || fail "$command: $option is not in the man page"
            grep -q -- " $option " completion || fail "$command: $option is not in the completion"
        done < <("$command" --help | sed -n '/^Exit status/q; s/^  \(-., \|    \)\(--[a-z-]*\).*/\2/p')
    done
}

@test "options: what every command shares" {
    for command in "${COMMANDS[@]}"; do
        "$command" --help >help
        for option in -m,--parallel -q,--quiet --output --object --untrusted --trace; do
            grep -qE -- "^ *${option/,/, }[ =]" help || fail "$command has no $option"
        done
    done
}

@test "options: a change is a summary in JSON, and nothing else is there" {
    local summary='.bytes == 0 and .clusters == 0 and .seconds >= 0'
    summarize() {
        run -0 --separate-stderr "$@" --output=json
        assert_json "${wanted:-$summary}"
        run -0 --separate-stderr "$@" --output=json -q
        assert_output ""
    }
    wanted="$summary and .filename == \"a.qcow2\" and .format == \"qcow2\" and .[\"virtual-size\"] == 1048576"
    summarize qcow-create a.qcow2 1M
    wanted="$summary and .[\"virtual-size-before\"] + 512 == .[\"virtual-size\"]"
    summarize qcow-resize a.qcow2 +512
    wanted=
    summarize qcow-amend -o lazy_refcounts=on a.qcow2
    qcow-bitmap --add a.qcow2 b
    summarize qcow-bitmap --clear a.qcow2 b
    guest_write a.qcow2 0 128K A
    qcow-snapshot -c monday a.qcow2
    summarize qcow-snapshot -a monday a.qcow2
    wanted='.bytes == 131072 and .clusters == 2 and .["data-clusters"] == 2 and .seconds >= 0'
    summarize qcow-internalize --overwrite a.qcow2 b.qcow2
    head -c 100000 /dev/urandom >state
    wanted='.bytes == 100000 and .seconds >= 0'
    summarize qcow-vmstate -i monday state a.qcow2
    summarize qcow-vmstate --overwrite -x monday out a.qcow2
}

@test "options: man pages are sound roff" {
    require mandoc
    for command in qcow "${COMMANDS[@]}"; do
        "$command" --generate=man >"$command.1"
        # A page of a project without release dates has none.
        run -0 bash -c "mandoc -T lint -W warning $command.1 | grep -v 'missing date' || true"
        assert_output ""
    done
}

complete_words() {
    # shellcheck disable=SC2034  # bash's completion variables
    (
        set +e    # as in an interactive shell
        source "./$1.bash"
        compopt() { :; }
        function=_${1//-/_}
        COMP_WORDS=("${@:2}")
        COMP_CWORD=$(($# - 2))
        COMPREPLY=()
        "$function"
        printf '%s\n' "${COMPREPLY[@]}"
    )
}

@test "completion: options, their values, files and states" {
    make_image a.qcow2 1M
    qemu-img snapshot -c first a.qcow2
    qemu-img snapshot -c 'with $(blank) "' a.qcow2
    qemu-img snapshot -c 'two words' a.qcow2
    for command in qcow qcow-info qcow-map; do
        "$command" --generate=completion >"$command.bash"
    done
    [[ $(complete_words qcow-info qcow-info --back) == --backing-chain ]]
    [[ $(complete_words qcow-info qcow-info --output = j) == json ]]
    [[ $(complete_words qcow-info qcow-info --output =) == $'human\njson' ]]
    [[ $(complete_words qcow-info qcow-info -f q) == qcow2 ]]
    [[ $(complete_words qcow-info qcow-info -f qcow2 a.q) == a.qcow2 ]]
    [[ $(complete_words qcow qcow inf) == info ]]
    [[ $(complete_words qcow-map qcow-map a.qcow2 --state = f) == first ]]
    [[ $(complete_words qcow-map qcow-map a.qcow2 --state = tw) == 'two\ words' ]]
    [[ $(complete_words qcow-map qcow-map a.qcow2 --state = @) == $'@active\n@backing\n@empty' ]]
}

@test "completion: a snapshot's name is never run" {
    make_image a.qcow2 1M
    qemu-img snapshot -c '$(touch hacked)' a.qcow2
    qemu-img snapshot -c '`touch hacked`' a.qcow2
    qcow-map --generate=completion >qcow-map.bash
    run -0 complete_words qcow-map qcow-map a.qcow2 --state =
    [[ ${#lines[@]} == 5 ]]
    [[ ! -e hacked ]]
}

@test "options: wrong usage is said on standard error with a hint, exit 2" {
    for arguments in --no-such-option -Z '--output=xml a' 'a b' '' '--parallel=0 a' '--parallel=x a' \
        '--image-opts -f qcow2 a' '--object=tls-creds-x509,id=a a' '--object=secret,data=a a' --format; do
        # shellcheck disable=SC2086
        run -2 --separate-stderr qcow-map $arguments
        [[ -z $output ]]
        [[ ${stderr_lines[0]} == "qcow-map: "* ]]
        [[ ${stderr_lines[1]} == "Try 'qcow-map --help' for more information." ]]
        [[ ${#stderr_lines[@]} == 2 ]]
    done
}

# flags COMMAND: print the options of its help that take no value
flags() {
    "$1" --help | sed -n '/^Exit status/q; s/^  \(-., \|    \)\(--[a-z0-9-]*\)\( .*\)\?$/\2/p'
}

@test "options: a flag takes no value: --delete=no is wrong usage, not --delete" {
    local command flag wrong
    for command in qcow "${COMMANDS[@]}"; do
        wrong=2
        [[ $command != qcow-check && $command != qcow-compare ]] || wrong=1
        flags "$command" >found
        grep -qx -- --help found
        while read -r flag; do
            run "-$wrong" --separate-stderr "$command" "$flag=no" a b
            [[ -z $output ]]
            [[ ${stderr_lines[0]} == "$command: $flag takes no value: give it without '=no', or leave it out" ]]
            [[ ${stderr_lines[1]} == "Try '$command --help' for more information." ]]
            [[ ${#stderr_lines[@]} == 2 ]]
            run "-$wrong" "$command" "$flag=" a b
        done <found
    done
    flags qcow-commit >found
    grep -qx -- --delete found
    grep -qx -- --dry-run found
}

@test "options: what looks like a flag with a value may be a value or an argument" {
    make_image ./--quiet=no 1M
    run -0 qcow-info --output=json -- --quiet=no
    run -0 qcow-info --format qcow2 -- --quiet=no
    run -0 qcow-info --trace --quiet=no --output=json -- --quiet=no
    run -2 qcow-info -U=no -- --quiet=no
}

@test "options: values stand behind letters with and without a blank, as getopt takes them" {
    make_image a.qcow2 1M
    for arguments in '-f raw' -fraw --format=raw '--format raw' -Ufraw '-Uf raw'; do
        # shellcheck disable=SC2086
        run -0 qcow-info --output=json $arguments a.qcow2
        assert_json '.format == "raw"'
    done
    run -0 qcow-info a.qcow2 --output=json -fraw
    assert_json '.format == "raw"'
}

@test "options: -- ends the options; names may begin with a dash and be any bytes" {
    local name
    for name in -f.qcow2 -- $'caf\xe9.qcow2' $'new\nline.qcow2'; do
        make_image "./$name" 1M
        run -0 qcow-info --output=json -- "$name"
    done
    run -1 qcow-info -- $'missing\e[1m\xe9'
    assert_output_has 'missing\x1b[1m\xe9'
}

@test "options: a secret is accepted" {
    make_image a.qcow2 1M
    run -0 qcow-info --object secret,id=s,data=pw a.qcow2
    run -0 qcow-info --object qom-type=secret,id=s,file=x a.qcow2
}

@test "options: a full disk behind standard output is a failure" {
    [[ -e /dev/full ]] || skip "no /dev/full"
    make_image a.qcow2 1M
    qemu-img snapshot -c s a.qcow2
    qemu-img bitmap --add a.qcow2 b
    for command in "${SHOWING[@]}"; do
        run -1 bash -c "$command a.qcow2 >/dev/full"
        assert_output_has "standard output: No space left on device"
        run -1 bash -c "$command --output=json a.qcow2 >/dev/full"
        run -1 bash -c "$command --help >/dev/full"
    done
}

@test "options: a closed pipe is a failure, not a silent end" {
    make_image a.qcow2 1M
    run bash -c 'set -o pipefail; { sleep 0.2; qcow-info a.qcow2; } | true'
    [[ $status == 1 ]]
    assert_output_has "standard output: Broken pipe"
}

@test "options: closed standard descriptors never become an image" {
    make_image a.qcow2 1M
    remember_image a.qcow2
    run -1 bash -c 'qcow-info a.qcow2 >&-'
    assert_output_has "standard output: Bad file descriptor"
    run -1 bash -c 'qcow-info missing.qcow2 2>&-'
    run -0 bash -c 'qcow-info a.qcow2 <&- 2>&-'
    assert_image_unchanged a.qcow2

    make_delta
    truncate -s 32M t.raw
    run -1 bash -c 'qcow-export-delta -p -O raw a.qcow2 s1 s2 t.raw <&- >&-'
    assert_same_content a.qcow2 t.raw
}

@test "options: messages do not depend on the locale" {
    for locale in C de_DE.UTF-8; do
        LC_ALL=$locale run -2 qcow-info --no-such-option
        assert_output_has "Unknown option --no-such-option"
    done
}

# ---- progress and signals ----------------------------------------------------------------------------

@test "progress: -p is qemu-img's line on standard output" {
    make_delta
    qcow-export-delta -p a.qcow2 s1 s2 d.qcow2 >out 2>err
    grep -qP '^    \([0-9.]+/100%\)\r' out
    head -n 1 out | grep -qF $'    (100.00/100%)\r'
    [[ $(wc -l <out) == 3 ]]
    [[ ! -s err ]]
    run -0 qcow-export-delta -p -q a.qcow2 s1 s2 q.qcow2
    assert_output ""
}

@test "progress: on standard error when standard output carries data or JSON" {
    make_delta
    run -0 --separate-stderr qcow-export-delta -p --output=json a.qcow2 s1 s2 d.qcow2
    assert_json '.bytes == 8388608'
    [[ $stderr == *"(100.00/100%)"* ]]
    qcow-export-delta -p a.qcow2 s1 s2 - 2>err >stream.qcow2
    assert_clean stream.qcow2
    grep -q '(100.00/100%)' err
}

@test "progress: a bar on a terminal" {
    require script
    make_image a.qcow2 64M
    guest_write a.qcow2 0 40M A
    script -qec "qcow-export-delta -p --rate 20M a.qcow2 @empty @active d.qcow2" log >/dev/null
    grep -aq '\[=* *\] *[0-9.]*%  [0-9.]* [KMG]iB/s  [0-9:]* left' log
}

@test "progress: SIGUSR1 prints one line, also without -p" {
    make_delta
    start_daemon qcow-export-delta --rate 8M a.qcow2 s1 s2 d.qcow2
    sleep 0.5
    kill -USR1 "$daemon_pid"
    wait "$daemon_pid"
    [[ $(grep -cE '^    \([0-9]+\.[0-9]{2}/100%\)$' daemon.log) == 1 ]]
    assert_clean d.qcow2
}

@test "signals: SIGINT and SIGTERM stop, say how to go on, and leave no file" {
    make_delta
    local signal status
    for signal in INT TERM; do
        start_daemon env --default-signal qcow-export-delta --rate 1M a.qcow2 s1 s2 d.qcow2
        sleep 0.5
        kill -$signal "$daemon_pid"
        status=0
        wait "$daemon_pid" || status=$?
        [[ $status == $((128 + $(kill -l $signal))) ]]
        grep -q "^qcow-export-delta: interrupted: .*the same command starts again" daemon.log
        [[ -z $(find . -name '*d.qcow2*') ]]
        rm daemon.log
    done
}

@test "signals: a command that was started with SIGINT ignored is not stopped by it" {
    make_delta
    start_daemon qcow-export-delta --rate 8M a.qcow2 s1 s2 d.qcow2
    sleep 0.3
    kill -INT "$daemon_pid"
    wait "$daemon_pid"
    assert_clean d.qcow2
}

@test "options: --rate limits what is moved" {
    make_delta
    SECONDS=0
    qcow-export-delta --rate 4M a.qcow2 s1 s2 d.qcow2
    ((SECONDS >= 1 && SECONDS <= 6))
    run -2 qcow-export-delta --rate fast a.qcow2 s1 s2 d.qcow2
}

@test "options: --trace writes JSON lines, the flush after the last write" {
    make_delta
    qcow-export-delta -q --trace trace.json a.qcow2 s1 s2 d.qcow2
    jq -es 'map(select(.call == "write" or .call == "copy")) | length > 1' trace.json
    jq -es 'last.call == "flush" and all(.ok)' trace.json
}

make_base_and_top() {
    qemu-img create -q -f qcow2 base.qcow2 64M
    qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
    qemu-io -c 'write -q -P 1 0 1M' -c 'write -q -P 2 8M 1M' top.qcow2
}

@test "options: --trace of commands that change images: all files, data flushed before the last header" {
    make_base_and_top
    qcow-commit -q --trace trace.json top.qcow2
    jq -es 'map(.file) | unique == ["base.qcow2", "top.qcow2"]' trace.json
    # The header of the base is written between two of its flushes, after all of the data.
    jq -es 'map(select(.file == "base.qcow2")) | (map(.call == "write" and .offset == 0) | rindex(true)) as $header
            | .[$header - 1].call == "flush" and .[$header + 1].call == "flush"' trace.json
    make_base_and_top
    qcow-pull -q --trace trace.json top.qcow2
    jq -es 'all(.file == "top.qcow2" and .ok) and last.call == "flush"' trace.json
    qcow-snapshot -c s1 --trace trace.json top.qcow2
    jq -es 'length > 1 and all(.file == "top.qcow2")' trace.json
    qcow-copy -O qcow2 --trace trace.json top.qcow2 copy.qcow2
    jq -es 'length > 1 and all(.file | endswith("copy.qcow2"))' trace.json
    qcow-create -q --trace trace.json new.qcow2 64M
    jq -es 'length > 1 and all(.file | endswith("new.qcow2"))' trace.json
    # What only reads leaves an empty one.
    qcow-map --trace trace.json top.qcow2 >/dev/null
    [[ -e trace.json && ! -s trace.json ]]
    run -1 qcow-commit --trace nowhere/trace.json top.qcow2
    [[ $output == *"'nowhere/trace.json': trace file: No such file or directory"* ]]
}

@test "export-delta: wrong usage" {
    for arguments in 'a s1 s2' 'a s1 s2 o extra' '--map a s1 s2 o' '--output=json a s1 s2 -' '-O raw a s1 s2 -' \
        '-b base a s1 s2 o' '-F qcow2 a s1 s2 o' '-O vmdk a s1 s2 o' '-O raw -c a s1 s2 o'; do
        # shellcheck disable=SC2086
        run -2 qcow-export-delta $arguments
    done
}

@test "progress: what is done ends at 100%, whatever it turned out to be" {
    local command
    while read -r command; do
        rm -rf ./*
        CHAIN_SIZE=16M make_chain base.qcow2 mid.qcow2 top.qcow2
        guest_write base.qcow2 0 16M 1
        qemu_io mid.qcow2 'write -P 2 0 4M' 'write -P 1 8M 2M'
        guest_write top.qcow2 1M 4M 3
        qemu-img snapshot -c s1 top.qcow2
        guest_write top.qcow2 3M 1M 4
        qemu-img snapshot -c s2 top.qcow2
        make_image empty.qcow2 16M
        qcow-export-delta -q top.qcow2 @empty s1 delta.qcow2
        # shellcheck disable=SC2086  # a command line
        run ${command%% *} -p ${command#* }
        ((status == 0)) || fail "$command: $output"
        [[ $(tr '\r' '\n' <<<"$output" | grep '/100%)' | tail -n 1) == "    (100.00/100%)" ]] ||
            fail "$command: $output"
    done <<'END'
qcow-check top.qcow2
qcow-check -r all top.qcow2
qcow-commit --force -b base.qcow2 top.qcow2
qcow-compare top.qcow2 top.qcow2
qcow-copy -O qcow2 top.qcow2 new.qcow2
qcow-export-delta top.qcow2 s1 s2 new.qcow2
qcow-export-delta --map top.qcow2 s1 s2
qcow-externalize top.qcow2 history
qcow-import-delta --name s1 delta.qcow2 empty.qcow2
qcow-internalize mid.qcow2 new.qcow2
qcow-plan --run --drop=mid.qcow2 top.qcow2
qcow-pull -b base.qcow2 top.qcow2
qcow-rebase -b base.qcow2 -F qcow2 top.qcow2
qcow-rebase -u -b base.qcow2 -F qcow2 top.qcow2
qcow-trim mid.qcow2
qcow-trim --shrink mid.qcow2
END
}
