#!/usr/bin/env bats
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2154  # bats and the helpers set output, stderr, status
# qcow-copy --resume: an interrupted copy is gone on with if all is as it was, and only then.

load helpers

# interrupt_copy SIGNAL OPTION…: start a slow copy and stop it when its journal has a record; sets $status
interrupt_copy() {
    local signal=$1
    shift
    # What a shell starts in the background ignores SIGINT.
    env --default-signal=INT qcow-copy --resume --rate 60M "$@" </dev/null >copy.log 2>&1 3>&- &
    wait_until eval 'grep -qs " [.]$" ./*.qcow-journal'
    kill -s "$signal" $!
    status=0
    wait $! || status=$?
}

@test "copy --resume: goes on after SIGKILL, for every format" {
    make_image disk.qcow2 256M
    guest_write_random disk.qcow2 0 200M 1
    guest_write_random disk.qcow2 220M 20M 2
    for options in "-O raw" "-O qcow2" "-c -O qcow2 -o cluster_size=16k" "-O qcow2 -o data_file=new.data" \
        "-O qcow2 -o data_file=new.data,data_file_raw=on"; do
        # shellcheck disable=SC2086  # several words
        interrupt_copy KILL $options disk.qcow2 new
        [[ ! -e new && -e new.qcow-part && -e new.qcow-journal ]]
        # shellcheck disable=SC2086
        run -0 qcow-copy --resume --output=json $options disk.qcow2 new
        assert_json '."bytes-resumed" >= 67108864'
        [[ ! -e new.qcow-part && ! -e new.qcow-journal && ! -e new.data.qcow-part ]]
        assert_same_content disk.qcow2 new
        [[ $options == "-O raw" ]] || assert_clean new
        rm -f new new.data
    done
}

@test "copy --resume: starts again when the source or an option is another" {
    make_image disk.qcow2 256M
    guest_write_random disk.qcow2 0 200M 1
    interrupt_copy KILL -O qcow2 disk.qcow2 new.qcow2
    run -0 qcow-copy --resume --output=json -O qcow2 -o cluster_size=32k disk.qcow2 new.qcow2
    assert_json '."bytes-resumed" == 0'
    assert_clean new.qcow2
    rm new.qcow2
    interrupt_copy KILL -O qcow2 disk.qcow2 new.qcow2
    guest_write disk.qcow2 0 64K A
    run -0 qcow-copy --resume --output=json -O qcow2 disk.qcow2 new.qcow2
    assert_json '."bytes-resumed" == 0'
    assert_same_content disk.qcow2 new.qcow2
}

@test "copy --resume: Ctrl-C keeps what is there, two at once are refused, a cut journal line does no harm" {
    make_image disk.qcow2 256M
    guest_write_random disk.qcow2 0 200M 1
    interrupt_copy INT disk.qcow2 new.raw
    ((status == 130)) || fail "exit $status: $(<copy.log)"
    [[ $(<copy.log) == *"goes on where this one stopped"* ]]
    [[ -e new.raw.qcow-part ]]
    printf '99' >>new.raw.qcow-journal
    start_daemon qcow-copy --resume --rate 10M disk.qcow2 new.raw
    sleep 1
    run -1 qcow-copy --resume disk.qcow2 new.raw
    assert_output_has lock
    kill_daemon "$daemon_pid"
    run -0 qcow-copy --resume --output=json disk.qcow2 new.raw
    assert_json '."bytes-resumed" >= 67108864'
    assert_same_content disk.qcow2 new.raw
}

@test "copy --resume: SIGINT and SIGTERM lose less than a record's distance, at the beginning and later" {
    local options again signal=INT
    make_image disk.qcow2 64M
    guest_write_random disk.qcow2 0 40M 1
    guest_write disk.qcow2 50M 1M A
    for options in "-O raw" "-O qcow2" "-c -O qcow2" "-O qcow2 -o cluster_size=2M" \
        "-O qcow2 -o data_file=new.data"; do
        for again in 1 2; do
            # shellcheck disable=SC2086  # several words
            env --default-signal=INT qcow-copy --resume --no-reflink --rate 16M $options disk.qcow2 new \
                </dev/null >copy.log 2>&1 3>&- &
            sleep 1
            kill -s $signal $!
            status=0
            wait $! || status=$?
            [[ $status == $([[ $signal == INT ]] && echo 130 || echo 143) ]] || fail "$options: exit $status: $(<copy.log)"
            [[ -e new.qcow-part ]] || fail "$options: nothing was kept"
            tail -n 1 new.qcow-journal >record$again
            [[ $signal == INT ]] && signal=TERM || signal=INT
        done
        (($(awk '{ print $1 }' record2) > $(awk '{ print $1 }' record1)))
        # shellcheck disable=SC2086
        run -0 qcow-copy --resume --no-reflink --output=json $options disk.qcow2 new
        assert_json '."bytes-resumed" >= 16777216'
        assert_same_content disk.qcow2 new
        [[ $options == "-O raw" ]] || assert_clean new
        rm -f new new.data
    done
}

@test "copy --resume -p: shows what is left to be done" {
    make_image disk.qcow2 256M
    guest_write_random disk.qcow2 0 200M 1
    for format in raw qcow2; do
        interrupt_copy KILL -O $format disk.qcow2 new
        qcow-copy --resume -p --rate 200M -O $format disk.qcow2 new | tr '\r' '\n' |
            sed -n 's/ *(\([0-9]*\)[.].*/\1/p' >shown
        sort -n -c shown || fail "$format goes backwards: $(xargs <shown)"
        [[ $(tail -n 1 shown) == 100 ]] || fail "$format: $(xargs <shown)"
        (($(awk '$1 > 10 && $1 < 90' shown | wc -l) >= 2)) || fail "$format knows of no middle: $(xargs <shown)"
        rm new
    done
}

@test "copy --resume: only from files, to files" {
    require nbdkit
    make_image disk.qcow2 16M
    truncate -s 16M target.raw
    start_nbdkit target.sock file target.raw
    run -1 qcow-copy --resume disk.qcow2 'nbd+unix:///?socket=target.sock'
    assert_output_has "only a copy to a regular file can be resumed"
    run -1 qcow-copy --resume -f raw 'nbd+unix:///?socket=target.sock' new.raw
    assert_output_has "cannot be resumed"
    run -2 qcow-copy --resume -n disk.qcow2 target.raw
}

# ---- What is not gone on with ------------------------------------------------------------------------

@test "copy --resume: a journal without its part, or with a part that was cut, is of no use" {
    make_image disk.qcow2 256M
    guest_write_random disk.qcow2 0 200M 1
    for format in raw qcow2; do
        interrupt_copy KILL -O $format disk.qcow2 new
        # The next file that is made may get the inode of this one.
        rm new.qcow-part
        run -0 qcow-copy --resume --output=json -O $format disk.qcow2 new
        assert_json '."bytes-resumed" == 0'
        assert_same_content disk.qcow2 new
        rm new
    done
    for options in "-O raw" "-O qcow2" "-O qcow2 -o data_file=new.data"; do
        # shellcheck disable=SC2086  # several words
        interrupt_copy KILL $options disk.qcow2 new
        if [[ -e new.data.qcow-part ]]; then
            truncate -s 1M new.data.qcow-part
        else
            truncate -s 1M new.qcow-part
        fi
        # Killed again before there is a new record: what was cut has grown, and is no better.
        # shellcheck disable=SC2086
        timeout -s KILL 0.5 qcow-copy --resume --rate 20M $options disk.qcow2 new || true
        # shellcheck disable=SC2086
        run -0 qcow-copy --resume --output=json $options disk.qcow2 new
        assert_json '."bytes-resumed" == 0'
        assert_same_content disk.qcow2 new
        rm -f new new.data
    done
}

is_filled() {
    (($(df --output=avail -B1 "$1" | tail -n 1) < 24 * 1024 * 1024))
}

@test "copy --resume: the space of what is done over again is no need" {
    local options target
    require_root
    head -c 100M /dev/urandom >source.raw
    # The same, and one that is not gone on with.
    for options in "-O raw" "-O qcow2" "-O qcow2 -o data_file=small/new.data"; do
        for again in "" "-S 64k"; do
            small_disk 101M
            target=small/new
            # shellcheck disable=SC2086  # several words
            env --default-signal=INT qcow-copy --resume --rate 60M $options source.raw $target </dev/null 3>&- &
            wait_until eval 'grep -qs " [.]$" small/*.qcow-journal'
            wait_until is_filled small
            kill -s KILL $!
            wait $! || :
            # shellcheck disable=SC2086
            run -0 qcow-copy --resume --output=json $options $again source.raw $target
            if [[ -z $again ]]; then
                assert_json '."bytes-resumed" == 67108864'
            fi
            assert_same_content source.raw $target
            umount small
        done
    done
}

@test "copy --resume: a journal that outlived its copy does not vouch for another file" {
    make_image disk.qcow2 256M
    guest_write_random disk.qcow2 0 200M 1
    interrupt_copy KILL -O raw disk.qcow2 new.raw
    cp new.raw.qcow-journal kept
    run -0 qcow-copy --resume --output=json -O raw disk.qcow2 new.raw
    assert_json '."bytes-resumed" > 0'
    [[ ! -e new.raw.qcow-journal ]]
    rm new.raw    # its inode is free
    mv kept new.raw.qcow-journal
    run -0 qcow-copy --resume --output=json -O raw disk.qcow2 new.raw
    assert_json '."bytes-resumed" == 0'
    assert_same_content disk.qcow2 new.raw
}

@test "copy --resume: another part of the same file, or another format, is another source" {
    head -c 512M /dev/urandom >big.raw
    local a b
    a='json:{"driver":"raw","offset":0,"size":268435456,"file":{"driver":"file","filename":"big.raw"}}'
    b='json:{"driver":"raw","offset":268435456,"size":268435456,"file":{"driver":"file","filename":"big.raw"}}'
    interrupt_copy KILL "$a" new.raw
    run -0 qcow-copy --resume --output=json "$b" new.raw
    assert_json '."bytes-resumed" == 0'
    tail -c 256M big.raw | cmp - new.raw
    rm new.raw big.raw
    # As long as its disk is large, so that both formats have the same size.
    make_image disk.qcow2 256M
    guest_write_random disk.qcow2 0 200M 1
    truncate -s 256M disk.qcow2
    interrupt_copy KILL -f qcow2 disk.qcow2 new.raw
    run -0 qcow-copy --resume --output=json -f raw disk.qcow2 new.raw
    assert_json '."bytes-resumed" == 0'
    cmp disk.qcow2 new.raw
}

@test "copy --resume: what fails at once leaves nothing to go on with, and takes nothing away" {
    gunzip -c "$QCOW_SOURCE/tests/images/golden/qemu-7.2/luks.qcow2.gz" >disk.qcow2
    for format in raw qcow2; do
        run -1 qcow-copy --resume -O $format disk.qcow2 new
        assert_output_has encrypt
        run -0 ls
        assert_output disk.qcow2
    done
    make_image other.qcow2 256M
    guest_write_random other.qcow2 0 200M 1
    interrupt_copy KILL other.qcow2 new
    run -1 qcow-copy --resume none.qcow2 new
    run -0 qcow-copy --resume --output=json other.qcow2 new
    assert_json '."bytes-resumed" > 0'
}
