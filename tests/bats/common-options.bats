#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# shellcheck disable=SC1090,SC2016,SC2317  # sourced completion; names of snapshots that look like code
# What every command shares: help, usage, errors, output, signals.

load helpers

COMMANDS=(qcow-bitmap qcow-info qcow-snapshot)

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
        source "./$1.bash"
        compopt() { :; }
        function=_${1//-/_}
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        COMPREPLY=()
        "$function"
        printf '%s\n' "${COMPREPLY[@]}"
    )
}

@test "completion: options, their values, files and states" {
    make_image a.qcow2 1M
    qemu-img snapshot -c first a.qcow2
    qemu-img snapshot -c 'with $(blank) "' a.qcow2
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
        [[ $arguments != --parallel* ]] || continue
        # shellcheck disable=SC2086
        run -2 --separate-stderr qcow-info $arguments
        [[ -z $output ]]
        [[ ${stderr_lines[0]} == "qcow-info: "* ]]
        [[ ${stderr_lines[1]} == "Try 'qcow-info --help' for more information." ]]
        [[ ${#stderr_lines[@]} == 2 ]]
    done
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
    for command in "${COMMANDS[@]}"; do
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
}

@test "options: messages do not depend on the locale" {
    for locale in C de_DE.UTF-8; do
        LC_ALL=$locale run -2 qcow-info --no-such-option
        assert_output_has "Unknown option --no-such-option"
    done
}
