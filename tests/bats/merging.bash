# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Chains that are merged, and whether what has to read the same does. After "load helpers".

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

# recorded IMAGE: print the backing file's name as it is recorded
recorded() {
    qemu-img info -U --output=json "$1" | jq -r '.["backing-filename"]'
}

# backing IMAGE: print the backing file's name as it is recorded, and its format
backing() {
    qemu-img info -U --output=json "$1" | jq -r '"\(.["backing-filename"]) \(.["backing-filename-format"])"'
}

# dirty IMAGE BITMAP: print what an NBD client of QEMU sees as dirty, a line "START LENGTH" for each range
dirty() {
    rm -f dirty.sock
    start_qemu_nbd dirty.sock -r -f qcow2 -B "$2" "$1"
    nbdinfo --json --map="qemu:dirty-bitmap:$2" "nbd+unix:///?socket=$PWD/dirty.sock" |
        jq -r '.[] | select(.type == 1) | "\(.offset) \(.length)"'
    stop_daemon "$daemon_pid"
}
