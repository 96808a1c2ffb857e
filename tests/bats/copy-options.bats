#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-copy's options: sparseness, salvage, bitmaps, chains, and what wrong usage says. --resume: copy-resume.bats.

load helpers

make_disk() {
    make_image base.qcow2 16M
    guest_write base.qcow2 0 1M A
    make_image disk.qcow2 16M -b base.qcow2 -F qcow2
    guest_write disk.qcow2 2M 300K B
    guest_zero disk.qcow2 512K 128K
}

# allocated IMAGE: print how many clusters it maps to host clusters
allocated() {
    qemu-img check -f qcow2 --output=json "$1" | jq '."allocated-clusters" // 0'
}

# bitmap_facts IMAGE: print name, granularity and flags of its bitmaps, by QEMU
bitmap_facts() {
    qemu-img info -f qcow2 --output=json "$1" | jq -c '."format-specific".data.bitmaps // []'
}

# dirty_ranges IMAGE BITMAP: print what the bitmap has dirty, by QEMU
dirty_ranges() {
    local sock=dirty-$RANDOM.sock
    start_qemu_nbd "$sock" -r -f qcow2 -B "$2" "$1"
    nbdinfo --map="qemu:dirty-bitmap:$2" --json "nbd+unix:///?socket=$sock" | jq -c '[.[] | [.offset, .length, .type]]'
    stop_daemon "$daemon_pid"
}

# ---- Sparseness --------------------------------------------------------------------------------------

@test "copy -S: 0 allocates everything, other sizes are multiples of 512 up to 16M" {
    make_disk
    run -0 qcow-copy -S 0 disk.qcow2 full.raw
    (($(du -k full.raw | cut -f 1) >= 16384))
    run -0 qcow-copy -S 0 -O qcow2 disk.qcow2 full.qcow2
    [[ $(allocated full.qcow2) == 256 ]]
    assert_same_content disk.qcow2 full.qcow2
    for size in 100 511 17M -1 x; do
        run -2 qcow-copy -S "$size" disk.qcow2 new.raw
    done
    run -0 qcow-copy -S 16M disk.qcow2 new.raw
    assert_same_content disk.qcow2 new.raw
}

@test "copy -o preallocation: all of it is mapped, and set aside when asked for" {
    make_disk
    for mode in metadata falloc full; do
        run -0 qcow-copy -O qcow2 -o preallocation=$mode disk.qcow2 new.qcow2
        [[ $(allocated new.qcow2) == 256 ]]
        assert_clean new.qcow2
        assert_same_content disk.qcow2 new.qcow2
        [[ $mode == metadata ]] || (($(du -k new.qcow2 | cut -f 1) >= 16384))
    done
    run -1 qcow-copy -O qcow2 -c -o preallocation=full disk.qcow2 new2.qcow2
    assert_output_has "Compression and preallocation not supported at the same time"
    run -0 qcow-copy -o preallocation=falloc disk.qcow2 new.raw
    (($(du -k new.raw | cut -f 1) >= 16384))
    assert_same_content disk.qcow2 new.raw
}

@test "copy -o preallocation over a backing file: extended L2 entries name clusters that hold nothing yet" {
    make_disk
    for size in 16k 2M; do
        for mode in metadata full; do
            options=cluster_size=$size,extended_l2=on,preallocation=$mode
            run -0 qcow-copy -O qcow2 -o "$options" -B base.qcow2 -F qcow2 disk.qcow2 over.qcow2
            assert_clean over.qcow2
            assert_same_content disk.qcow2 over.qcow2
            qemu-img convert -O qcow2 -o "$options" -B base.qcow2 -F qcow2 disk.qcow2 theirs.qcow2
            (($(allocated over.qcow2) >= $(allocated theirs.qcow2)))
            [[ $mode == metadata ]] || (($(du -k over.qcow2 | cut -f 1) >= 16000))
        done
    done
    run -1 qcow-copy -O qcow2 -o preallocation=metadata -B base.qcow2 -F qcow2 disk.qcow2 plain.qcow2
    assert_output_has "Backing file and preallocation can only be used at the same time if extended_l2 is on"
}

@test "copy -o data_file: the data goes there, as raw bytes when asked for" {
    make_disk
    active_raw disk.qcow2 expected.raw
    for options in "" ",extended_l2=on" ",cluster_size=4k" ",data_file_raw=on,extended_l2=on" ",data_file_raw=on"; do
        run -0 qcow-copy -O qcow2 -o "data_file=new.data$options" disk.qcow2 new.qcow2
        assert_clean new.qcow2
        assert_same_content disk.qcow2 new.qcow2
    done
    cmp expected.raw new.data
    # Zeros in data get no place, and what is there is where the guest has it.
    truncate -s 4M zeros.raw
    dd if=/dev/zero of=zeros.raw bs=1M count=3 conv=notrunc status=none
    guest_write zeros.raw 1M 64K A
    run -0 qcow-copy --no-reflink -O qcow2 -o data_file=zeros.data zeros.raw zeros.qcow2
    [[ $(allocated zeros.qcow2) == 1 ]]
    assert_same_content zeros.raw zeros.qcow2
    cmp zeros.raw zeros.data
    run -0 qcow-copy -O qcow2 -o data_file=over.data -B base.qcow2 -F qcow2 disk.qcow2 over.qcow2
    assert_same_content disk.qcow2 over.qcow2
    run -1 qcow-copy -c -O qcow2 -o data_file=packed.data disk.qcow2 packed.qcow2
    [[ ! -e packed.qcow2 && ! -e packed.data ]]
}

@test "copy: what the options of qemu-img do not allow is wrong usage here too" {
    make_disk
    run -2 qcow-copy -c -C -O qcow2 disk.qcow2 new.qcow2
    assert_output_has "Cannot enable copy offloading when -c is used"
    run -2 qcow-copy -S 64k -C disk.qcow2 new.raw
    assert_output_has "Cannot enable copy offloading when -S is used"
    run -2 qcow-copy --salvage -C disk.qcow2 new.raw
    assert_output_has "Cannot use copy offloading in salvaging mode"
    run -2 qcow-copy --skip-broken-bitmaps -O qcow2 disk.qcow2 new.qcow2
    run -2 qcow-copy -l one disk.qcow2 disk.qcow2 new.raw
    run -2 qcow-copy disk.qcow2
    assert_output_has "Must specify image file name"
    run -1 qcow-copy -c disk.qcow2 new.raw
    assert_output_has "Compression not supported for this file format"
    run -1 qcow-copy -O vmdk disk.qcow2 new.vmdk
    run -1 qcow-copy -O qcow2 -o nonsense=1 disk.qcow2 new.qcow2
    run -1 qcow-copy -O qcow2 -B base.qcow2 -F qcow2 disk.qcow2 base.qcow2 new.qcow2
    assert_output_has "concatenating"
    run -2 qcow-copy -n --target-is-zero -B base.qcow2 -O qcow2 disk.qcow2 new.qcow2
    assert_output_has "Cannot use --target-is-zero when the destination image has a backing file"
    run -2 qcow-copy -n --target-image-opts -O qcow2 disk.qcow2 driver=qcow2,file.filename=new.qcow2
    run -2 qcow-copy -S x disk.qcow2 new.raw
    assert_output_has "Invalid buffer size for sparse output specified: 'x'."
    run -2 qcow-copy -r -1 disk.qcow2 new.raw
    assert_output_has "Invalid rate limit specified. Must be between 0 and 9223372036854775807."
    run -1 qcow-copy -O qcow2 -B base.qcow2 disk.qcow2 new.qcow2
    assert_output_has "Use of backing file requires explicit backing format"
    run -1 qcow-copy -F qcow2 disk.qcow2 new.raw
    assert_output_has "Backing file format not supported for file format 'raw'"
    run -1 qcow-copy -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s disk.qcow2 new.qcow2
    assert_output_has "encryption is not supported yet"
    run -0 qcow-copy -O qcow2 -o size=1G,encryption=off disk.qcow2 new.qcow2
    [[ $(virtual_size new.qcow2) == $((16 << 20)) ]]
    run -0 qcow-copy -C -W -m 4 -t none -T none -r 1G -p disk.qcow2 new.raw
    assert_output_has "(100.00/100%)"
    assert_same_content disk.qcow2 new.raw
}

@test "copy: --image-opts and --target-image-opts" {
    make_disk
    run -0 qcow-copy --image-opts driver=qcow2,file.filename=disk.qcow2 new.raw
    assert_same_content disk.qcow2 new.raw
    make_image there.qcow2 16M
    run -0 qcow-copy -n --target-image-opts disk.qcow2 driver=qcow2,file.filename=there.qcow2
    assert_same_content disk.qcow2 there.qcow2
    truncate -s 16M there.raw
    run -0 qcow-copy -n --target-is-zero --target-image-opts disk.qcow2 driver=raw,file.filename=there.raw
    assert_same_content disk.qcow2 there.raw
}

@test "copy -n --target-image-opts: a part of a raw file, and nothing around it" {
    make_disk
    head -c 18M /dev/zero | tr '\0' 'Z' >there.raw
    qemu-img convert -n --target-image-opts disk.qcow2 driver=raw,offset=512,size=16M,file.filename=there.raw
    mv there.raw theirs.raw
    for options in "" --no-reflink "-S 0"; do
        head -c 18M /dev/zero | tr '\0' 'Z' >there.raw
        # shellcheck disable=SC2086  # several words
        run -0 qcow-copy -n $options --target-image-opts disk.qcow2 \
            driver=raw,offset=512,size=16M,file.filename=there.raw
        cmp there.raw theirs.raw
    done
    for part in offset=512,size=15M offset=512,size=18M offset=20M; do
        run -1 qcow-copy -n --target-image-opts disk.qcow2 driver=raw,$part,file.filename=there.raw
    done
    cmp there.raw theirs.raw
}

@test "copy -n -B: the target keeps its backing file, and reads as the source" {
    make_disk
    make_image over.qcow2 20M -b base.qcow2 -F qcow2
    run -0 qcow-copy -n -B base.qcow2 -F qcow2 -O qcow2 disk.qcow2 over.qcow2
    assert_clean over.qcow2
    active_raw disk.qcow2 expected.raw
    active_raw over.qcow2 found.raw
    cmp -n 16777216 expected.raw found.raw
    (($(allocated over.qcow2) <= 8))
    run -1 qcow-copy -n -O nonsense disk.qcow2 over.qcow2
    assert_output_has "Unknown driver 'nonsense'"
}

@test "copy -n: an image is written to over the backing file that its header names" {
    local file='"file":{"driver":"file","filename":"over.qcow2"}' base='"file":{"driver":"file","filename":"base.qcow2"}'
    local other='"file":{"driver":"file","filename":"other.qcow2"}' below
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image other.qcow2 4M
    make_image over.qcow2 4M -b base.qcow2 -F qcow2
    make_image alone.qcow2 4M
    truncate -s 4M zeros.raw
    remember_image over.qcow2 base.qcow2
    for below in null "{\"driver\":\"qcow2\",$other}" "{\"driver\":\"raw\",$base}"; do
        run -1 qcow-copy -n -O qcow2 zeros.raw "json:{\"driver\":\"qcow2\",\"backing\":$below,$file}"
        assert_output_has "over the backing file that its header names" "leave \"backing\" out"
    done
    run -1 qcow-copy -n --target-image-opts zeros.raw \
        driver=qcow2,file.filename=over.qcow2,backing.driver=qcow2,backing.file.filename=other.qcow2
    assert_image_unchanged over.qcow2 base.qcow2
    # What says the same as the header is as good as saying nothing.
    qcow-copy -n -O qcow2 zeros.raw "json:{\"driver\":\"qcow2\",\"backing\":{\"driver\":\"qcow2\",$base},$file}"
    assert_same_content zeros.raw over.qcow2
    qcow-copy -n -O qcow2 other.qcow2 "json:{\"driver\":\"qcow2\",\"backing\":null,${file/over/alone}}"
    assert_same_content zeros.raw alone.qcow2
}

@test "copy --output=json: one document, and nothing else" {
    make_disk
    run -0 qcow-copy --output=json -O qcow2 disk.qcow2 new.qcow2
    assert_json '."virtual-size" == 16777216 and .output == "new.qcow2" and ."output-size" > 0'
}

@test "copy: extents are shared where the file system can do it, and zeros stay data" {
    require_reflink
    make_disk
    run -0 qcow-copy --output=json disk.qcow2 new.raw
    assert_json '."bytes-cloned" > 0 and ."bytes-copied" == 0'
    run -0 qcow-copy --output=json -O qcow2 disk.qcow2 new.qcow2
    assert_json '."bytes-cloned" > 0 and ."bytes-copied" == 0'
    assert_clean new.qcow2
    assert_same_content disk.qcow2 new.qcow2
    run -0 qcow-copy --no-reflink --output=json -O qcow2 disk.qcow2 new.qcow2
    assert_json '."bytes-cloned" == 0'
}

# ---- Salvage -----------------------------------------------------------------------------------------

@test "copy --salvage: what cannot be read becomes zeros, with a warning for each sector" {
    require nbdkit
    yes 'a line of text' | head -c 1M >disk.raw
    # shellcheck disable=SC2016  # nbdkit's script expands them
    start_nbdkit bad.sock -r eval get_size='echo 1048576' \
        pread='if [ $4 -lt 65536 ] && [ $(($4 + $3)) -gt 64512 ]; then echo EIO bad >&2; exit 1; fi; dd if='"$PWD"'/disk.raw skip=$4 count=$3 iflag=count_bytes,skip_bytes'
    run -1 qcow-copy -f raw 'nbd+unix:///?socket=bad.sock' new.raw
    [[ ! -e new.raw ]]
    run -0 qcow-copy --salvage -f raw 'nbd+unix:///?socket=bad.sock' new.raw
    assert_output_has "warning: error while reading offset 64512" "warning: error while reading offset 65024"
    cp disk.raw expected.raw
    dd if=/dev/zero of=expected.raw bs=512 seek=126 count=2 conv=notrunc status=none
    cmp new.raw expected.raw
    run -0 qcow-copy -q --salvage -O qcow2 -f raw 'nbd+unix:///?socket=bad.sock' new.qcow2
    assert_output ""
    assert_same_content expected.raw new.qcow2
}

@test "copy --salvage: of a damaged L2 table only what it maps is lost" {
    make_image disk.qcow2 4M -o cluster_size=4k
    guest_write disk.qcow2 0 4M A
    l1=$(peek_be disk.qcow2 40 8)
    l2=$(($(peek_be disk.qcow2 "$l1" 8) & 0x00ffffffffffffff))
    poke disk.qcow2 "$l2" 8000000000000200            # of the first cluster: not aligned
    run -1 qcow-copy disk.qcow2 new.raw
    run -0 qcow-copy --salvage disk.qcow2 new.raw
    assert_output_has "warning: error while reading block status at offset 0"
    assert_guest_zero new.raw 0 4K
    assert_guest new.raw 4K 4092K A
}

@test "copy --salvage: what is read twice is told and counted once" {
    make_image disk.qcow2 4M
    guest_write_compressed disk.qcow2 1M 64K A
    guest_write disk.qcow2 2M 64K B
    l1=$(peek_be disk.qcow2 40 8)
    l2=$(($(peek_be disk.qcow2 "$l1" 8) & 0x00ffffffffffffff))
    stream=$(($(peek_be disk.qcow2 $((l2 + 16 * 8)) 8) & 0xffffffffff))
    poke disk.qcow2 "$stream" ffffffffffffffff         # cannot be inflated
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M C
    for options in "-O raw" "-O qcow2" "-O qcow2 -B base.qcow2 -F qcow2" "-n -O qcow2"; do
        rm -f new
        [[ $options != -n* ]] || cp base.qcow2 new
        # shellcheck disable=SC2086  # several words
        run --separate-stderr -0 qcow-copy --salvage --output=json $options disk.qcow2 new
        assert_json '."bytes-salvaged" == 65536'
        (($(grep -c 'error while reading offset' <<<"$stderr") == 128)) || fail "$options: other warnings"
        assert_guest_zero new 1M 64K
        assert_guest new 2M 64K B
    done
}

@test "copy --salvage: an encrypted image without its key is not a damaged one" {
    for name in luks aes; do
        gunzip -c "$QCOW_SOURCE/tests/images/golden/qemu-7.2/$name.qcow2.gz" >disk.qcow2
        make_image over.qcow2 1M -b disk.qcow2 -F qcow2
        for image in disk over; do
            run -1 qcow-copy --salvage $image.qcow2 new.raw
            assert_output_has "encrypted"
            [[ ! -e new.raw ]]
        done
    done
}

# ---- Bitmaps -----------------------------------------------------------------------------------------

@test "copy --bitmaps: name, granularity, flags and dirty ranges are those of the source" {
    require nbdinfo
    make_disk
    qemu-img bitmap --add -g 64K disk.qcow2 b0
    qemu-img bitmap --add -g 4K disk.qcow2 b1
    guest_write disk.qcow2 3M 100K C
    guest_write disk.qcow2 15M 1M C
    qemu-img bitmap --disable disk.qcow2 b1
    for options in "" "-c" "-o cluster_size=4k"; do
        # shellcheck disable=SC2086  # several words
        run -0 qcow-copy --bitmaps -O qcow2 $options disk.qcow2 new.qcow2
        assert_clean new.qcow2
        assert_same_content disk.qcow2 new.qcow2
        [[ $(bitmap_facts new.qcow2) == "$(bitmap_facts disk.qcow2)" ]]
        for name in b0 b1; do
            [[ $(dirty_ranges new.qcow2 $name) == "$(dirty_ranges disk.qcow2 $name)" ]]
        done
    done
    make_image there.qcow2 16M
    run -0 qcow-copy -n --bitmaps -O qcow2 disk.qcow2 there.qcow2
    [[ $(dirty_ranges there.qcow2 b1) == "$(dirty_ranges disk.qcow2 b1)" ]]
    assert_clean there.qcow2
}

@test "copy --bitmaps: one in use stops it, unless it shall be skipped" {
    require qemu-storage-daemon
    make_disk
    qemu-img bitmap --add disk.qcow2 good
    qemu-img bitmap --add disk.qcow2 broken
    # Bit 0 of the flags of the second entry of the directory.
    python3 - disk.qcow2 <<'END'
import struct, sys
image = bytearray(open(sys.argv[1], "rb").read())
at = image.index(b"broken", 65536)
struct.pack_into(">I", image, at - 12, struct.unpack_from(">I", image, at - 12)[0] | 1)
open(sys.argv[1], "wb").write(image)
END
    run -1 qcow-copy --bitmaps -O qcow2 disk.qcow2 new.qcow2
    assert_output_has "'disk.qcow2': Cannot copy inconsistent bitmap 'broken'"
    [[ ! -e new.qcow2 ]]
    run -0 qcow-copy --bitmaps --skip-broken-bitmaps -O qcow2 disk.qcow2 new.qcow2
    assert_output_has "Skipping inconsistent bitmap 'broken'"
    run -0 bitmap_facts new.qcow2
    assert_json 'map(.name) == ["good"]'
}

@test "copy --bitmaps: when a program without bitmaps has written to the image, none of them counts" {
    make_image disk.qcow2 16M
    qemu-img bitmap --add disk.qcow2 dirty
    poke disk.qcow2 88 0000000000000000
    run -1 qcow-copy --bitmaps -O qcow2 disk.qcow2 new.qcow2
    assert_output_has "'disk.qcow2'" "lacking bitmap support"
    [[ ! -e new.qcow2 ]]
    run -0 qcow-copy --bitmaps --skip-broken-bitmaps -O qcow2 disk.qcow2 new.qcow2
    assert_output_has "Skipping all bitmaps"
    run -0 bitmap_facts new.qcow2
    assert_json '. == []'
    run -0 qcow-copy -O qcow2 disk.qcow2 new.qcow2
    assert_output ""
}

@test "copy --bitmaps: not to raw, not from raw, not from several" {
    make_disk
    truncate -s 1M disk.raw
    run -1 qcow-copy --bitmaps disk.qcow2 new.raw
    assert_output_has "does not support bitmaps"
    run -1 qcow-copy --bitmaps -O qcow2 -o compat=0.10 disk.qcow2 new.qcow2
    assert_output_has "Format driver 'qcow2' does not support bitmaps"
    run -1 qcow-copy --bitmaps -O qcow2 disk.raw new.qcow2
    assert_output_has "'disk.raw': Source lacks bitmap support"
    run -1 qcow-copy --bitmaps -O qcow2 disk.qcow2 disk.qcow2 new.qcow2
    assert_output_has "single source"
}

# ---- Progress ----------------------------------------------------------------------------------------

# progress_of COMMAND…: the percentages that it shows, in whole numbers
progress_of() {
    "$@" -p --rate 100M | tr '\r' '\n' | sed -n 's/ *(\([0-9]*\)[.].*/\1/p'
}

@test "copy -p: all that has to be done is known from the beginning, for every kind of target" {
    guest_size=96M
    truncate -s $guest_size base.raw
    guest_write_random base.raw 0 64M 1
    make_image disk.qcow2 $guest_size -b base.raw -F raw
    guest_write_random disk.qcow2 64M 32M 2
    truncate -s $guest_size there.raw
    make_image there.qcow2 $guest_size
    for options in "-O raw disk.qcow2 new.raw" "-O raw -S 0 disk.qcow2 new.raw" "-O qcow2 disk.qcow2 new.qcow2" \
        "-n disk.qcow2 there.raw" "-n -O qcow2 disk.qcow2 there.qcow2" "--chain out disk.qcow2"; do
        # shellcheck disable=SC2086  # several words
        progress_of qcow-copy --no-reflink $options >shown
        sort -n -c shown || fail "$options goes backwards: $(xargs <shown)"
        [[ $(tail -n 1 shown) == 100 ]] || fail "$options ends at $(tail -n 1 shown)"
        # Space that is set aside is done at once; after that there is a middle.
        (($(awk '$1 > 50 && $1 < 90' shown | wc -l) >= 2)) || fail "$options knows of no middle: $(xargs <shown)"
    done
}

# ---- Chains ------------------------------------------------------------------------------------------

@test "copy --chain: each layer with its snapshots and bitmaps, over the copy below it" {
    mkdir a b
    truncate -s 16M a/base.raw
    guest_write a/base.raw 0 1M A
    qemu-img create -q -f qcow2 -b ../a/base.raw -F raw b/mid.qcow2 16M
    guest_write b/mid.qcow2 1M 1M B
    snapshot b/mid.qcow2 monday
    qemu-img create -q -f qcow2 -b "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"$PWD/b/mid.qcow2\"}}" \
        -F qcow2 top.qcow2 16M
    guest_write top.qcow2 2M 1M C
    qemu-img bitmap --add top.qcow2 dirty
    active_raw top.qcow2 expected.raw
    remember_image a/base.raw b/mid.qcow2 top.qcow2
    run -0 qcow-copy --chain out top.qcow2
    assert_output ""
    assert_image_unchanged a/base.raw b/mid.qcow2 top.qcow2
    rm -r a b top.qcow2
    assert_same_content out/top.qcow2 expected.raw
    assert_clean out/top.qcow2
    assert_clean out/mid.qcow2
    run -0 qemu-img info --backing-chain --output=json out/top.qcow2
    assert_json 'map(."backing-filename" // "") == ["mid.qcow2", "base.raw", ""]'
    assert_json 'map(."backing-filename-format" // "") == ["qcow2", "raw", ""]'
    run -0 bitmap_facts out/top.qcow2
    assert_json 'map(.name) == ["dirty"]'
    run -0 qcow-info --output=json out/mid.qcow2
    assert_json '.snapshots[0].name == "monday"'
}

@test "copy --chain: two layers of one name, and options of a copy, are refused before anything is written" {
    mkdir a b
    make_image a/disk.qcow2 1M
    qemu-img create -q -f qcow2 -b ../a/disk.qcow2 -F qcow2 b/disk.qcow2
    run -1 qcow-copy --chain out b/disk.qcow2
    assert_output_has "two files of the chain are called 'disk.qcow2'"
    [[ ! -e out ]]
    for option in "-O raw" "-c" "-n" "--resume" "-U"; do
        # shellcheck disable=SC2086  # several words
        run -2 qcow-copy --chain out $option a/disk.qcow2
    done
    run -1 qcow-copy --chain a a/disk.qcow2
    assert_output_has "layer [0]"
}

@test "copy --chain: what stands in the way of an upper layer is found before a lower one is copied" {
    mkdir a
    make_image base.qcow2 1M
    make_image a/mid.qcow2 1M -b ../base.qcow2 -F qcow2
    make_image top.qcow2 1M -b a/mid.qcow2 -F qcow2
    run -1 qcow-copy --chain a top.qcow2          # holds layer [1]
    assert_output_has "layer [1]"
    [[ $(ls a) == mid.qcow2 ]]
    make_image dirty.qcow2 1M -b a/mid.qcow2 -F qcow2
    poke dirty.qcow2 72 0000000000000001
    run -1 qcow-copy --chain out dirty.qcow2
    assert_output_has "layer [0]" "qcow-check -r all"
    [[ ! -e out ]]
    # As it names the copy already, nothing has to be written.
    mkdir b
    (cd b && qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 -u top.qcow2 1M)
    cp a/mid.qcow2 base.qcow2 b
    qemu-img rebase -u -f qcow2 -b base.qcow2 -F qcow2 b/mid.qcow2
    poke b/top.qcow2 72 0000000000000001
    run -0 qcow-copy --chain out b/top.qcow2
    rm -r out
    mkdir c d
    make_image c/base.qcow2 1M -o data_file=c/disk.data
    make_image d/top.qcow2 1M -o data_file=d/disk.data -b ../c/base.qcow2 -F qcow2
    run -1 qcow-copy --chain out d/top.qcow2
    assert_output_has "two files of the chain are called 'disk.data'"
    [[ ! -e out ]]
}

@test "copy --chain: a layer that was opened without its backing file has none in its copy" {
    make_image base.qcow2 4M
    guest_write base.qcow2 0 4M A
    make_image mid.qcow2 4M -b base.qcow2 -F qcow2
    guest_write mid.qcow2 1M 1M B
    make_image top.qcow2 4M -b mid.qcow2 -F qcow2
    local mid='{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"mid.qcow2"}}'
    local top="json:{\"driver\":\"qcow2\",\"backing\":$mid,\"file\":{\"driver\":\"file\",\"filename\":\"top.qcow2\"}}"
    run -0 qcow-copy --chain out "$top"
    [[ $(ls out) == $'mid.qcow2\ntop.qcow2' ]]
    qemu-img convert -O raw "$top" expected.raw
    assert_same_content out/top.qcow2 expected.raw
    assert_clean out/top.qcow2
    run -0 qemu-img info --backing-chain --output=json out/top.qcow2
    assert_json 'map(."backing-filename" // "") == ["mid.qcow2", ""]'
    assert_json 'map(."backing-filename-format" // "") == ["qcow2", ""]'
}

@test "copy --chain: missing space is found before the first file is copied" {
    make_image base.qcow2 16M
    guest_write_random base.qcow2 0 3M 1
    make_image top.qcow2 16M -b base.qcow2 -F qcow2
    guest_write_random top.qcow2 0 3M 2
    small_disk 5M
    run -1 qcow-copy --chain small top.qcow2
    assert_output_has "not enough space"
    [[ -z $(ls -A small) ]]
    # What is replaced gives its space back, file by file.
    mount -o remount,size=11M small
    run -0 qcow-copy --chain small top.qcow2
    run -0 qcow-copy --chain small top.qcow2
    assert_same_content top.qcow2 small/top.qcow2
}

@test "copy --chain: layers over NBD become files, called as their exports" {
    require nbdkit qemu-nbd
    truncate -s 16M base.raw
    guest_write base.raw 0 1M A
    start_nbdkit base.sock -r file base.raw
    qemu-img create -q -f qcow2 -b "nbd+unix:///?socket=$PWD/base.sock" -F raw mid.qcow2 16M
    guest_write mid.qcow2 1M 1M B
    snapshot mid.qcow2 monday
    start_qemu_nbd mid.sock -r -f raw -x disks/mid.img mid.qcow2
    qemu-img create -q -f qcow2 -b "nbd+unix:///disks/mid.img?socket=$PWD/mid.sock" -F qcow2 top.qcow2 16M
    guest_write top.qcow2 2M 1M C
    active_raw top.qcow2 expected.raw
    run -0 qcow-copy -q --chain out top.qcow2
    stop_daemon "$daemon_pid"
    rm base.raw mid.qcow2
    [[ $(ls out) == $'layer-2.raw\nmid.img\ntop.qcow2' ]]
    assert_same_content out/top.qcow2 expected.raw
    assert_clean out/mid.img
    run -0 qemu-img info --backing-chain --output=json out/top.qcow2
    assert_json 'map(."backing-filename" // "") == ["mid.img", "layer-2.raw", ""]'
}

@test "copy --chain: an external data file comes along" {
    make_image disk.qcow2 4M -o data_file=disk.data
    guest_write disk.qcow2 1M 1M A
    run -0 qcow-copy --chain out disk.qcow2
    active_raw disk.qcow2 expected.raw
    rm disk.data disk.qcow2
    cd out
    assert_same_content disk.qcow2 ../expected.raw
}
