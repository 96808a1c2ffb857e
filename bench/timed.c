/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a command and says what it cost: timed FD COMMAND [ARGUMENT…]
 *
 * One line goes to descriptor FD: seconds by a clock that nobody sets, seconds in user mode and in the
 * kernel, peak memory in KiB, exit status (128 + the signal's number for one that was killed). What the
 * command started and waited for is in it: time added up, memory the largest of them.
 *
 * It is a program of its own, and small, because a process begins with the peak memory of whoever started it.
 * When it is terminated, or who started it ends, it takes with it what it has started.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double seconds(const struct timeval *time)
{
    return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

static void end_group(int signal_number)
{
    signal(signal_number, SIG_IGN);
    kill(0, signal_number);
    _exit(128 + signal_number);
}

int main(int argc, char **argv)
{
    struct rusage usage;
    pid_t child;
    int status;

    if (argc < 3) {
        fputs("usage: timed FD COMMAND [ARGUMENT...]\n", stderr);
        return 2;
    }
    setpgid(0, 0);
    signal(SIGTERM, end_group);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int report = atoi(argv[1]);
    fcntl(report, F_SETFD, FD_CLOEXEC);

    double start = now();
    int errnum = posix_spawnp(&child, argv[2], NULL, NULL, argv + 2, environ);
    if (errnum) {
        fprintf(stderr, "timed: %s: %s\n", argv[2], strerror(errnum));
        return 1;
    }
    while (wait4(child, &status, 0, &usage) < 0) {
        if (errno != EINTR) {
            perror("timed: wait4");
            return 1;
        }
    }
    double wall = now() - start;

    dprintf(report, "%.6f %.6f %.6f %ld %d\n", wall, seconds(&usage.ru_utime), seconds(&usage.ru_stime),
            usage.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}
