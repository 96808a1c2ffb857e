# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# A zoo: one folder zoo/NAME for each shape that an image can have, with the image in t.qcow2 and the
# files that belong to it beside it. All of it is made by the QEMU under test. For commands that only
# look: make it once in setup_file, and call in_zoo from tests.

# make_zoo: all of it, in the current folder
make_zoo() {
    local size version cluster bits
    for version in 0.10 1.1; do
        for cluster in 512 4k 64k 2M; do
            animal "compat-$version-cluster-$cluster" zoo_plain "compat=$version,cluster_size=$cluster"
        done
    done
    for bits in 1 2 4 8 32 64; do
        animal "refcount-$bits" zoo_plain "refcount_bits=$bits,cluster_size=4k"
    done
    for cluster in 16k 64k 2M; do
        animal "extended-l2-$cluster" zoo_plain "extended_l2=on,cluster_size=$cluster"
    done
    animal zstd zoo_plain compression_type=zstd
    animal lazy-refcounts zoo_plain lazy_refcounts=on
    for size in 0 512 1025 1M 1000000 70000; do
        animal "size-$size" make_image t.qcow2 "$size"
    done
    for bits in metadata falloc full; do
        animal "preallocation-$bits" make_image t.qcow2 3M -o preallocation="$bits"
    done
    animal preallocation-extended make_image t.qcow2 3M -o preallocation=metadata,extended_l2=on
    animal data-file zoo_data_file data_file_raw=off
    animal data-file-raw zoo_data_file data_file_raw=on
    animal luks zoo_encrypted luks
    animal aes zoo_encrypted aes
    animal snapshots zoo_snapshots
    animal bitmaps zoo_bitmaps
    animal chain zoo_chain
    animal chain-short-base zoo_short_base
    animal chain-raw-base zoo_raw_base
    animal chain-json zoo_json_base
    animal chain-file-prefix zoo_file_prefix
    animal chain-folders zoo_folders
    animal chain-no-format zoo_no_format
}

# in_zoo COMMAND…: run a command in every folder; COMMAND gets t.qcow2. All must succeed.
in_zoo() {
    local folder
    for folder in "$BATS_FILE_TMPDIR"/zoo/*/; do
        (cd "$folder" && "$@" t.qcow2) || fail "above: ${folder#"$BATS_FILE_TMPDIR"/}" || return
    done
}

animal() {
    local folder=zoo/$1
    shift
    mkdir -p "$folder"
    (cd "$folder" && "$@") || fail "could not make $folder"
}

# Data, unaligned data, zeros, compressed clusters where the image can have them, a discarded range.
zoo_scribble() {
    local image=$1 write=${2:-write -c}
    qemu_io "$image" 'write -P 1 0 100k' 'write -P 2 300001 70001' 'write -z 256k 64k' \
        "$write -P 3 2M 2M" 'write -P 4 4M 128k'
    guest_discard "$image" 4M 64k
}

zoo_plain() {
    make_image t.qcow2 5M -o "$1"
    zoo_scribble t.qcow2
}

zoo_data_file() {
    make_image t.qcow2 5M -o "data_file=t.data,$1"
    zoo_scribble t.qcow2 write
}

# QEMU measures the processor before it makes a LUKS header, and gives up when that goes wrong.
zoo_encrypted() {
    local options=encrypt.format=$1,encrypt.key-secret=s
    [[ $1 == aes ]] || options+=,encrypt.iter-time=10
    for _ in {1..20}; do
        if make_image t.qcow2 1M --object secret,id=s,data=pw -o "$options" 2>encrypted.log; then
            return 0
        fi
        grep -q 'accurate CPU usage' encrypted.log || break
    done
    fail "$(cat encrypted.log)"
}

zoo_snapshots() {
    make_image t.qcow2 5M
    qemu-img snapshot -c empty t.qcow2
    zoo_scribble t.qcow2
    qemu-img snapshot -c 'a name with blanks' t.qcow2
    guest_write t.qcow2 1M 1M B
    qemu-img resize -q t.qcow2 8M
    qemu-img snapshot -c größer t.qcow2
    guest_write t.qcow2 6M 64k C
}

zoo_bitmaps() {
    make_image t.qcow2 5M
    qemu-img bitmap --add t.qcow2 b0
    qemu-img bitmap --add -g 512 --disable t.qcow2 b1
    qemu-img bitmap --add -g 1M t.qcow2 'the "third"'
    guest_write t.qcow2 1M 100k A
}

zoo_chain() {
    CHAIN_SIZE=5M make_chain 1.qcow2 2.qcow2 t.qcow2
    zoo_scribble 1.qcow2
    guest_write 2.qcow2 64k 192k B
    guest_zero 2.qcow2 2M 128k
    guest_write t.qcow2 1M 128k C
    guest_zero t.qcow2 128k 64k
    guest_discard t.qcow2 1M 64k
}

zoo_short_base() {
    make_image 1.qcow2 1000000 -o cluster_size=4k
    guest_write 1.qcow2 0 1000000 A
    make_image t.qcow2 3M -b 1.qcow2 -F qcow2
    guest_write t.qcow2 2M 64k B
}

zoo_raw_base() {
    truncate -s 3000001 base.raw
    guest_write base.raw 1M 64k A
    guest_write base.raw 2900k 29k B
    make_image t.qcow2 4M -b base.raw -F raw
    guest_write t.qcow2 0 64k C
}

zoo_json_base() {
    make_image base.qcow2 3M
    guest_write base.qcow2 0 128k A
    make_image t.qcow2 3M -F qcow2 \
        -b "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"$PWD/base.qcow2\"}}"
    guest_write t.qcow2 1M 64k B
}

zoo_file_prefix() {
    make_image base.qcow2 3M
    guest_write base.qcow2 0 128k A
    make_image t.qcow2 3M -b "file:$PWD/base.qcow2" -F qcow2
}

zoo_folders() {
    mkdir -p lower/lowest
    (cd lower/lowest && make_image base.qcow2 3M && guest_write base.qcow2 0 128k A)
    (cd lower && make_image mid.qcow2 3M -b lowest/base.qcow2 -F qcow2)
    make_image t.qcow2 3M -b lower/mid.qcow2 -F qcow2
    guest_write t.qcow2 1M 64k B
}

# Old images name no format; the type of the extension that holds it is made unknown.
zoo_no_format() {
    local offset
    make_image base.qcow2 3M
    guest_write base.qcow2 0 128k A
    make_image t.qcow2 3M -b base.qcow2 -F qcow2
    offset=$(LC_ALL=C grep -obUaP '\xe2\x79\x2a\xca' t.qcow2 | head -n 1 | cut -d: -f1)
    poke t.qcow2 "$offset" 7fffffff
}
