# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Words for tests whose judge is qemu-img: the same command with the same arguments must do the same.

# drop_compressed: take out what QEMU 7.2 does not say
drop_compressed() {
    if (($(qemu_major) < 10)); then
        sed 's/, "compressed": \(true\|false\)//'
    else
        cat
    fi
}

# same_map ARGUMENT…: the JSON of qcow-map is that of qemu-img map byte for byte: the layout too is a contract
same_map() {
    diff -u <(qemu-img map --output=json "$@") <(qcow-map --output=json "$@" | drop_compressed) >&2
}

# same_map_text ARGUMENT…: the table, what is said on standard error but for the program's name, and the exit code
same_map_text() {
    local ours=0 theirs=0
    qemu-img map "$@" >theirs 2>theirs.err || theirs=$?
    qcow-map "$@" >ours 2>ours.err || ours=$?
    diff -u theirs ours >&2 || return
    diff -u <(sed 's/^[^:]*: //' theirs.err) <(sed '/: warning: /d; s/^[^:]*: //' ours.err) >&2 || return
    [[ $ours == "$theirs" ]] || fail "exit code $ours, qemu-img's $theirs"
}

# same_compare ARGUMENT…: the same words and the same exit code
same_compare() {
    local ours=0 theirs=0
    qemu-img compare "$@" >theirs 2>theirs.err || theirs=$?
    qcow-compare "$@" >ours 2>ours.err || ours=$?
    diff -u theirs ours >&2 || fail "compare $*" || return
    [[ $ours == "$theirs" ]] || fail "compare $*: exit code $ours, qemu-img's $theirs: $(cat ours.err)"
}

# same_measure ARGUMENT…: the same figures, in both forms
same_measure() {
    diff -u <(qemu-img measure "$@") <(qcow-measure "$@" 2>/dev/null) >&2 || fail "measure $*" || return
    assert_same_json "$(qcow-measure --output=json "$@" 2>/dev/null)" "$(qemu-img measure --output=json "$@")"
}
