#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status, daemon_pid
# qcow runs qcow-SUB.

load helpers

@test "qcow: alone lists every command that is built, one line each" {
    run -0 qcow
    for program in "$QCOW_BUILD"/tools/qcow-*; do
        if [[ -f $program && -x $program ]]; then
            grep -q "^    ${program##*/qcow-} " <<<"$output" || fail "${program##*/} is not listed"
        fi
    done
    while read -r name; do
        [[ -x $QCOW_BUILD/tools/qcow-$name ]] || fail "qcow-$name is listed and not built"
    done < <(sed -n 's/^    \([a-z-]*\) .*/\1/p' <<<"$output")
}

@test "qcow: runs a command with its arguments, blanks and all" {
    make_image 'an image.qcow2' 1M
    run -0 qcow info --output=json 'an image.qcow2'
    assert_json '.filename == "an image.qcow2"'
}

@test "qcow: exit codes are those of the command" {
    run -1 qcow info missing.qcow2
    assert_output_has "qcow-info: 'missing.qcow2': "
    run -2 qcow info --no-such-option
    run -2 qcow info
}

@test "qcow: an unknown command" {
    run -1 --separate-stderr qcow no-such-thing
    [[ -z $output ]]
    [[ ${stderr_lines[0]} == "qcow: Command not found: no-such-thing" ]]
    run -1 qcow ../info
    run -1 qcow help no-such-thing
}

@test "qcow help: of itself and of a command" {
    run -0 qcow help
    [[ ${lines[0]} == "Usage: qcow "* ]]
    run -0 qcow help info
    [[ ${lines[0]} == "Usage: qcow-info "* ]]
    [[ $output == "$(qcow-info --help)" ]]
}

@test "qcow: a command beside it comes before one in PATH" {
    mkdir beside path
    cp -L "$QCOW_BUILD/tools/qcow" beside/qcow
    printf '#!/bin/sh\necho from beside "$@"\n' >beside/qcow-info
    printf '#!/bin/sh\necho from path "$@"\n' >path/qcow-info
    printf '#!/bin/sh\necho from path "$@"; exit 7\n' >path/qcow-extra
    chmod +x beside/qcow-info path/qcow-info path/qcow-extra
    export LD_LIBRARY_PATH=$QCOW_BUILD/libqcow
    PATH=$PWD/path:$PATH run -0 beside/qcow info a b
    assert_output "from beside a b"
    PATH=$PWD/path:$PATH run -7 beside/qcow extra
    assert_output "from path"
}

@test "qcow: a command that cannot be run is not called missing" {
    mkdir path
    printf 'no program\n' >path/qcow-broken
    PATH=$PWD/path:$PATH run -1 qcow broken
    assert_output_has "qcow-broken"
}
