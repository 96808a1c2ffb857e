#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats sets output and status
# The commands that only look, over images that no sound program writes (tests/images/make-hostile): none crashes,
# hangs, takes much memory or changes the image, and each error says which file it is about.

load helpers

setup_file() {
    cp -r "${BATS_TEST_DIRNAME}/../images/hostile" "$BATS_FILE_TMPDIR/images"
}

# limited COMMAND…: with as much time and memory as a small image may cost
limited() {
    (
        if [[ -z ${QCOW_SANITIZED:-} ]]; then
            ulimit -v $((1 << 20))    # KiB; threads reserve much more than they use
        fi
        # A broken stack or heap would end it with a signal, a hang with 124.
        exec timeout 20 "$@" >out 2>err
    )
}

# survives IMAGE COMMAND…: it ends by itself, soon, and an error names the image
survives() {
    local image=$1 code=0
    shift
    limited "$@" </dev/null || code=$?
    if ((code >= 124)); then
        fail "$*: exit code $code: $(head -c 2000 err)" || return
    fi
    ((code != 0)) && ! is_verdict "$1" "$code" || return 0
    [[ -s err ]] || fail "$*: exit code $code without a word" || return
    grep -qF "$image" err || fail "$*: does not name the image: $(head -c 2000 err)" || return
}

# is_verdict COMMAND CODE: this exit code says what was found; there is no error, or one in qemu-img's own words
is_verdict() {
    case $1-$2 in
        qcow-check-2 | qcow-check-3) true ;;
        qcow-check-1) grep -qx "qcow-check: Check failed" err ;;
        qcow-check-63) grep -qx "qcow-check: This image format does not support checks" err ;;
        qcow-compare-1) true ;;
        *) false ;;
    esac
}

# each_image COMMAND…: COMMAND gets the name of every image, in a folder that holds them all
each_image() {
    local image before failed=0
    cd "$BATS_FILE_TMPDIR/images" || return
    before=$(ls)
    for image in *.qcow2; do
        "$@" "$image" || failed=1
    done
    rm -f out err
    diff <(echo "$before") <(ls) >&2 || fail "files were left behind" || return
    (cd "${BATS_TEST_DIRNAME}/../images/hostile" && sha256sum -- *.qcow2) | sha256sum --quiet -c - >&2 ||
        fail "an image was changed" || return
    ((failed == 0))
}

look() {
    local image=$1 failed=0
    survives "$image" qcow-info "$image" || failed=1
    survives "$image" qcow-info --output=json --backing-chain "$image" || failed=1
    survives "$image" qcow-snapshot -l "$image" || failed=1
    survives "$image" qcow-bitmap --list "$image" || failed=1
    return $failed
}

check() {
    survives "$1" qcow-check "$1"
}

check_untrusted() {
    survives "$1" qcow-check --untrusted -U --output=json "$1"
}

# is_too_large IMAGE: going through all of its 8 EiB takes a minute, as it takes qemu-img
is_too_large() {
    [[ $1 == claims-largest-disk.qcow2 ]]
}

map() {
    is_too_large "$1" || survives "$1" qcow-map --output=json "$1"
}

compare() {
    survives "$1" qcow-compare "$1" "$1"
}

export_active() {
    local code=0
    ! is_too_large "$1" || return 0
    survives "$1" qcow-export-delta "$1" @empty @active exported || code=$?
    rm -f exported
    return $code
}

export_raw_ranges() {
    is_too_large "$1" || survives "$1" qcow-export-delta --map "$1" @backing @active
}

@test "hostile: qcow-info, qcow-snapshot -l, qcow-bitmap --list" {
    each_image look
}

@test "hostile: qcow-check" {
    each_image check
    each_image check_untrusted
}

@test "hostile: qcow-map" {
    each_image map
}

@test "hostile: qcow-compare" {
    each_image compare
}

@test "hostile: qcow-export-delta" {
    each_image export_active
    each_image export_raw_ranges
}

@test "hostile: qcow-check finds corruption where qemu-img check does" {
    cd "$BATS_FILE_TMPDIR/images" || return
    local image theirs ours failed=0
    for image in *.qcow2; do
        theirs=0 ours=0
        # Without the backing file, which ours does not look for either.
        timeout 10 qemu-img check "json:{'driver':'qcow2','backing':null,'file':{'driver':'file','filename':'$image'}}" \
            >/dev/null 2>err.theirs || theirs=$?
        limited qcow-check -f qcow2 "$image" || ours=$?
        # What QEMU cannot open may be corrupt; what it calls corrupt may be what ours does not open. Ours needs
        # no data file and no key, and bitmaps may have extra data that says it can be ignored.
        case $theirs in
            0) [[ $ours == [02] ]] ;;
            1) [[ $ours == [12] || $image == *data-file* || $image == *aes* || $image == bitmap-extra.* ]] ;;
            2) [[ $ours == [12] ]] ;;
            3) [[ $ours == [23] ]] ;;
        esac || fail "$image: exit code $ours, qemu-img's $theirs: $(cat err.theirs) $(head -c 500 err)" || failed=1
    done
    ((failed == 0))
}

@test "hostile: a sparse file of terabytes takes no longer" {
    local image
    cd "$BATS_TEST_TMPDIR" || return
    for image in sound claims-l1-in-header l1-all-ones l2-all-ones snapshot-l1-max snapshot-thousand-l1-overlapping \
        bitmap-thousand refcount-16-bits-full; do
        cp "$BATS_FILE_TMPDIR/images/$image.qcow2" .
        truncate -s 2T "$image.qcow2" || skip "no file can be that large"
        survives "$image.qcow2" qcow-check "$image.qcow2"
        survives "$image.qcow2" qcow-info "$image.qcow2"
    done
}
