/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

#define MAGIC "qcow-copy journal 2 "

/* Longer ones are none of ours; a record for each 64 MiB of 1 TiB takes less. */
#define MAX_JOURNAL_BYTES (4 << 20)

struct Qcow2Journal {
    char *path;
    char *identity;
    int fd;
    bool has_records;
};

void qcow2_journal_free(Qcow2Journal *journal)
{
    if (journal) {
        if (journal->fd >= 0) {
            close(journal->fd);
        }
        g_free(journal->path);
        g_free(journal->identity);
        g_free(journal);
    }
}

/* ---- Reading ----------------------------------------------------------------------------------- */

/* A line that a crash has cut has no end mark. */
static bool parse_record(const char *line, Qcow2JournalRecord *ret)
{
    Qcow2JournalRecord record;
    char mark = 0;
    Qcow2NewImagePosition *position = &record.position;
    int n = sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %c", &record.guest_end,
                   &position->data_start, &position->next_data, &position->stream_end, &position->file_size,
                   &mark);

    if (n != 6 || mark != '.') {
        return false;
    }
    *ret = record;
    return true;
}

/* The last whole record of a journal of this identity. Returns: where whole lines end; 0: of another one. */
static size_t read_records(const char *text, const char *identity, Qcow2JournalRecord *ret_last)
{
    g_autofree char *head = g_strconcat(MAGIC, identity, "\n", NULL);
    const char *at = text, *end;

    if (!g_str_has_prefix(text, head)) {
        return 0;
    }
    at += strlen(head);
    while ((end = strchr(at, '\n')) && parse_record(at, ret_last)) {
        at = end + 1;
    }
    return (size_t)(at - text);
}

static char *read_all(int fd)
{
    g_autofree char *text = g_malloc0(MAX_JOURNAL_BYTES + 1);
    ssize_t len = pread(fd, text, MAX_JOURNAL_BYTES, 0);

    return len > 0 ? g_strndup(text, (gsize)len) : g_strdup("");
}

/* ---- Writing ----------------------------------------------------------------------------------- */

static bool append(Qcow2Journal *journal, const char *text, GError **error)
{
    size_t len = strlen(text);
    ssize_t written;

    do {
        written = write(journal->fd, text, len);
    } while (written < 0 && errno == EINTR);
    if (written < 0 || (size_t)written < len || fdatasync(journal->fd) < 0) {
        return qcow2_fail_errno(error, written < 0 || (size_t)written == len ? errno : ENOSPC, "'%s'",
                                journal->path);
    }
    return true;
}

bool qcow2_journal_restart(Qcow2Journal *journal, GError **error)
{
    g_autofree char *head = g_strconcat(MAGIC, journal->identity, "\n", NULL);

    journal->has_records = false;
    if (ftruncate(journal->fd, 0) < 0) {
        return qcow2_fail_errno(error, errno, "'%s'", journal->path);
    }
    return append(journal, head, error);
}

Qcow2Journal *qcow2_journal_open(const char *path, const char *identity, Qcow2JournalRecord *ret_last,
                                 GError **error)
{
    g_autoptr(Qcow2Journal) journal = g_new0(Qcow2Journal, 1);
    struct stat status;

    *ret_last = (Qcow2JournalRecord) { 0 };
    journal->path = g_strdup(path);
    journal->identity = g_strdup(identity);
    journal->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (journal->fd < 0) {
        qcow2_fail_errno(error, errno, "'%s'", path);
        return NULL;
    }
    if (fstat(journal->fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s': it is no regular file", path);
        return NULL;
    }
    g_autofree char *text = read_all(journal->fd);
    size_t len = read_records(text, identity, ret_last);
    if (len == 0) {
        return qcow2_journal_restart(journal, error) ? g_steal_pointer(&journal) : NULL;
    }
    journal->has_records = ret_last->guest_end > 0;
    /* What a crash has left of a line would be the beginning of the next one. */
    if (ftruncate(journal->fd, (off_t)len) < 0) {
        qcow2_fail_errno(error, errno, "'%s'", path);
        return NULL;
    }
    return g_steal_pointer(&journal);
}

bool qcow2_journal_note(Qcow2Journal *journal, const Qcow2JournalRecord *record, GError **error)
{
    g_autofree char *line =
        g_strdup_printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " .\n", record->guest_end,
                        record->position.data_start, record->position.next_data, record->position.stream_end,
                        record->position.file_size);

    journal->has_records = true;
    return append(journal, line, error);
}

bool qcow2_journal_is_empty(const Qcow2Journal *journal)
{
    return !journal->has_records;
}

void qcow2_journal_remove(Qcow2Journal *journal)
{
    unlink(journal->path);
}
