#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats sets output and status
# The commands that write, over images that no sound program writes (tests/images/make-hostile): none crashes, hangs or
# takes much memory; a refusal names the image and has not changed a byte of it; and what QEMU finds clean, within two
# seconds, stays clean.

load helpers

setup_file() {
    cp -r "${BATS_TEST_DIRNAME}/../images/hostile" "$BATS_FILE_TMPDIR/images"
    cd "$BATS_FILE_TMPDIR/images"
    qemu-img create -q -f qcow2 -o compression_type=zlib delta.img 1M
    qemu-io -c 'write -q -P 9 0 300k' -c 'write -q -c -P 8 512k 128k' delta.img
    head -c 100000 /dev/urandom >ram
}

# limited COMMAND…: with as much time and memory as a small image may cost
limited() {
    (
        if [[ -z ${QCOW_SANITIZED:-} ]]; then
            ulimit -v $((1 << 20))    # KiB; threads reserve much more than they use
        fi
        exec timeout 20 "$@" >out 2>err
    )
}

# changes COMMAND…: on a copy of each image, which is the last word
changes() {
    local image code failed=0
    cd "$BATS_FILE_TMPDIR/images" || return
    for image in *.qcow2; do
        [[ $image != "${except:-}" ]] || continue
        # Under its own name: some name themselves.
        cp --sparse=always "$image" kept.img
        code=0
        limited "$@" "$image" </dev/null || code=$?
        judge "$code" "$image" "$*" || failed=1
        mv kept.img "$image"
    done
    rm -f out err check
    ((failed == 0))
}

judge() {
    local code=$1 image=$2 what="$3 $2"
    if ((code >= 124)); then
        fail "$what: exit code $code: $(head -c 2000 err)"
    elif ((code != 0)); then
        cmp -s kept.img "$image" || fail "$what: refused, and the image was changed: $(head -c 2000 err)" || return
        grep -qF -e "$image" -e delta.img err || fail "$what: does not name the image: $(head -c 2000 err)"
    elif timeout 2 qemu-img check -q -f qcow2 kept.img >/dev/null 2>&1; then
        # Counts past the end of the file are no leaks to QEMU, until the file becomes longer.
        code=0
        timeout 20 qemu-img check -q -f qcow2 "$image" >check 2>&1 || code=$?
        ((code == 0 || code == 3)) || fail "$what: clean before, and not after: $(head -c 2000 check)"
    fi
}

@test "hostile images: snapshots are taken" {
    changes qcow-snapshot -c new
}

@test "hostile images: snapshots are deleted" {
    changes qcow-snapshot -d id:1
}

@test "hostile images: other sizes" {
    grow() { qcow-resize -q "$1" +1M; }
    export -f grow
    changes bash -c 'grow "$1"' grow
}

@test "hostile images: other features" {
    changes qcow-amend -q -o refcount_bits=32
}

@test "hostile images: deltas are imported" {
    changes qcow-import-delta -q --force --name imported delta.img
}

@test "hostile images: trimmed" {
    changes qcow-trim -q --shrink
}

@test "hostile images: rebased" {
    # Two EiB are looked at window by window, which takes minutes.
    except=claims-largest-disk.qcow2 changes qcow-rebase -q -b delta.img -F qcow2
}

@test "hostile images: committed into" {
    commit() {
        cp delta.img over.img
        qcow-rebase -q -u -b "$1" -F qcow2 over.img
        exec qcow-commit -q --force over.img
    }
    export -f commit
    changes bash -c 'commit "$1"' commit
}
