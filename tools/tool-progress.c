/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-progress.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool-output.h"

/* From the first signal on; a safe point is nearer unless a server hangs. */
#define PATIENCE_SECONDS 30u

struct ToolProgress {
    Qcow2Progress *progress;
    FILE *stream;                 /* where the line goes; NULL when there is none */
    bool fancy;                   /* a bar for people, not qemu-img's plain form */
    bool line_open;               /* the cursor stands behind a progress line */
    gint64 start_us;
};

/*
 * What signal handlers know. A handler has no argument of ours, so these are the process's; it may run
 * in any thread, so they are atomic.
 */
static _Atomic(Qcow2Progress *) cancel_target;
static atomic_int caught_signal;
static atomic_uint done_permyriad;  /* hundredths of a percent */
static atomic_llong first_stop_at;  /* seconds since 1970; 0: not yet */

/* ---- Signals ----------------------------------------------------------------------------------- */

static size_t put_number(char *buffer, unsigned value, unsigned min_digits)
{
    char digits[16];
    size_t n = 0, len = 0;

    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value || n < min_digits);
    while (n) {
        buffer[len++] = digits[--n];
    }
    return len;
}

/* "    (12.34/100%)\n", made by hand: printf may not be called in a signal handler. */
static void on_tell(int signal_number)
{
    static const char end[] = "/100%)\n";
    int saved_errno = errno;
    unsigned permyriad = atomic_load(&done_permyriad);
    char line[48] = "    (";
    size_t len = 5;
    ssize_t ignored;

    (void)signal_number;
    len += put_number(line + len, permyriad / 100, 1);
    line[len++] = '.';
    len += put_number(line + len, permyriad % 100, 2);
    memcpy(line + len, end, sizeof(end) - 1);
    len += sizeof(end) - 1;
    ignored = write(STDERR_FILENO, line, len);
    (void)ignored;
    errno = saved_errno;
}

/* As if there were no handler: what a crash may leave is safe as well. */
static void end_process(int signal_number)
{
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void on_patience_lost(int signal_number)
{
    (void)signal_number;
    end_process(atomic_load(&caught_signal));
}

/*
 * The first signal asks the library to stop. It cannot be heard while a server that hangs owes an answer, so
 * a later one, or enough time, ends the process. Two at once are one: timeout(1) sends it to the process and
 * to its group.
 */
static void on_stop(int signal_number)
{
    Qcow2Progress *progress = atomic_load(&cancel_target);
    long long now = (long long)time(NULL), first = 0;

    if (!atomic_compare_exchange_strong(&first_stop_at, &first, now) && now - first >= 2) {
        end_process(signal_number);
        return;
    }
    atomic_store(&caught_signal, signal_number);
    signal(SIGALRM, on_patience_lost);
    alarm(PATIENCE_SECONDS);
    if (progress) {
        qcow2_progress_cancel(progress);
    }
}

static void handle(int signal_number, void (*handler)(int))
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };

    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
}

/* A signal that was ignored when the command started, as under nohup, stays ignored. */
static void handle_unless_ignored(int signal_number, void (*handler)(int))
{
    struct sigaction old;

    if (sigaction(signal_number, NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
        handle(signal_number, handler);
    }
}

void tool_progress_catch_early(void)
{
    handle(SIGPIPE, SIG_IGN);
    handle(SIGUSR1, on_tell);
}

/* ---- The line ---------------------------------------------------------------------------------- */

static void print_seconds(FILE *stream, double seconds)
{
    unsigned s = (unsigned)MIN(seconds, 359999.0);

    if (s >= 3600) {
        fprintf(stream, "%u:%02u:%02u", s / 3600, s / 60 % 60, s % 60);
    } else {
        fprintf(stream, "%u:%02u", s / 60, s % 60);
    }
}

/* "[=======>            ]  38.2%  512 MiB/s  0:07 left", over the line that was there. */
static void print_bar(ToolProgress *self, uint64_t done, uint64_t total, double fraction)
{
    enum { WIDTH = 30 };
    int filled = (int)(fraction * WIDTH);
    double seconds = tool_progress_seconds(self);

    fprintf(self->stream, "\r[%.*s%*s] %5.1f%%", filled, "==============================",
            WIDTH - filled, "", fraction * 100);
    if (seconds > 0.2 && done > 0) {
        double rate = (double)done / seconds;
        g_autofree char *rate_text = qcow2_format_size((uint64_t)rate);
        fprintf(self->stream, "  %s/s", rate_text);
        if (done < total) {
            fputs("  ", self->stream);
            print_seconds(self->stream, (double)(total - done) / rate);
            fputs(" left", self->stream);
        }
    }
    fputs("\033[K", self->stream);
}

/* From a worker thread; never two at a time. */
static void on_progress(uint64_t done, uint64_t total, void *data)
{
    ToolProgress *self = data;
    double fraction = total ? MIN((double)done / (double)total, 1.0) : 1.0;

    atomic_store(&done_permyriad, (unsigned)(fraction * 10000));
    if (!self->stream) {
        return;
    }
    if (self->fancy) {
        print_bar(self, done, total, fraction);
    } else {
        fprintf(self->stream, "    (%3.2f/100%%)\r", fraction * 100);
    }
    (void)fflush(self->stream);
    self->line_open = true;
}

ToolProgress *tool_progress_start(const Tool *tool, bool stdout_taken)
{
    ToolProgress *self = g_new0(ToolProgress, 1);

    if (tool->progress && !tool->quiet) {
        bool to_stderr = stdout_taken || isatty(STDOUT_FILENO);
        self->stream = to_stderr ? stderr : stdout;
        self->fancy = to_stderr && isatty(STDERR_FILENO);
    }
    self->start_us = g_get_monotonic_time();
    self->progress = qcow2_progress_new(on_progress, self);
    qcow2_progress_set_rate(self->progress, tool->rate);

    atomic_store(&cancel_target, self->progress);
    handle_unless_ignored(SIGINT, on_stop);
    handle_unless_ignored(SIGTERM, on_stop);
    return self;
}

Qcow2Progress *tool_progress_get(ToolProgress *self)
{
    return self->progress;
}

void tool_progress_end(ToolProgress *self)
{
    if (self->line_open) {
        fputc('\n', self->stream);
        (void)fflush(self->stream);
        self->line_open = false;
    }
}

int tool_progress_interrupted(ToolProgress *self, const Tool *tool, const GError *error,
                              const char *how_to_go_on)
{
    int signal_number = atomic_load(&caught_signal);

    tool_progress_end(self);
    if (!signal_number || !g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_CANCELLED)) {
        return 0;
    }
    tool_fail_message(tool, "interrupted: %s", how_to_go_on);
    return 128 + signal_number;
}

double tool_progress_seconds(const ToolProgress *self)
{
    return (double)(g_get_monotonic_time() - self->start_us) / G_USEC_PER_SEC;
}

void tool_progress_free(ToolProgress *self)
{
    if (self) {
        tool_progress_end(self);
        atomic_store(&cancel_target, NULL);
        qcow2_progress_free(self->progress);
        g_free(self);
    }
}
