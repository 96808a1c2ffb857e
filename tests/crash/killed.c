/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a command and kills it before its N-th system call that could change a file: crash-killed N LOG
 * COMMAND… LOG gets a line for each such call up to there: what it does, and to which file. Exit status:
 * that of the command, or 137.
 *
 * Calls that change nothing are not counted: killed before one of them, the command leaves what it leaves
 * when it is killed before the next one that is. A call that is not known counts.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILLED 137
#define N_ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Calls ---------------------------------------------------------------------------------------- */

static const long harmless[] = {
    SYS_read, SYS_pread64, SYS_readv, SYS_preadv, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap,
    SYS_madvise, SYS_brk, SYS_close, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_lseek, SYS_futex,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_getpid, SYS_gettid, SYS_getuid,
    SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getrandom, SYS_set_tid_address, SYS_set_robust_list,
    SYS_rseq, SYS_prlimit64, SYS_clone, SYS_clone3, SYS_exit, SYS_exit_group, SYS_sched_getaffinity,
    SYS_sched_yield, SYS_clock_gettime, SYS_clock_nanosleep, SYS_getdents64, SYS_fcntl, SYS_fgetxattr,
    SYS_flistxattr, SYS_faccessat, SYS_readlinkat, SYS_pselect6, SYS_ppoll, SYS_uname, SYS_sysinfo,
    SYS_fadvise64, SYS_sync_file_range, SYS_eventfd2, SYS_pipe2, SYS_dup, SYS_fstatfs, SYS_statfs,
    SYS_getcwd, SYS_umask, SYS_prctl,
#ifdef SYS_open
    SYS_access, SYS_stat, SYS_lstat, SYS_readlink, SYS_arch_prctl, SYS_poll, SYS_select, SYS_pipe, SYS_time,
#endif
};

typedef struct Call {
    long number;
    const char *name;
    int fd;                   /* which argument is the file's descriptor; -1: none */
} Call;

static const Call known[] = {
    { SYS_write, "write", 0 },
    { SYS_writev, "write", 0 },
    { SYS_pwrite64, "write", 0 },
    { SYS_pwritev, "write", 0 },
    { SYS_copy_file_range, "write", 2 },
    { SYS_ftruncate, "truncate", 0 },
    { SYS_fallocate, "truncate", 0 },
    { SYS_ioctl, "ioctl", 0 },
    { SYS_fsync, "flush", 0 },
    { SYS_fdatasync, "flush", 0 },
    { SYS_fchmod, "access", 0 },
    { SYS_fchown, "access", 0 },
    { SYS_fsetxattr, "access", 0 },
    { SYS_openat, "open", -1 },
    { SYS_renameat2, "rename", -1 },
    { SYS_linkat, "link", -1 },
    { SYS_unlinkat, "unlink", -1 },
    { SYS_mkdirat, "mkdir", -1 },
#ifdef SYS_open
    { SYS_open, "open", -1 },
    { SYS_rename, "rename", -1 },
    { SYS_link, "link", -1 },
    { SYS_unlink, "unlink", -1 },
    { SYS_mkdir, "mkdir", -1 },
    { SYS_rmdir, "rmdir", -1 },
#endif
};

static const Call *find_call(long number)
{
    for (size_t i = 0; i < N_ELEMENTS(known); i++) {
        if (known[i].number == number) {
            return &known[i];
        }
    }
    return NULL;
}

static bool is_harmless(const struct __ptrace_syscall_info *info)
{
    for (size_t i = 0; i < N_ELEMENTS(harmless); i++) {
        if (harmless[i] == (long)info->entry.nr) {
            return true;
        }
    }
    return info->entry.nr == SYS_openat && !(info->entry.args[2] & (O_CREAT | O_TRUNC));
}

static void log_call(FILE *log, pid_t pid, const struct __ptrace_syscall_info *info)
{
    const Call *call = find_call((long)info->entry.nr);
    char link[64], path[PATH_MAX] = "";

    if (call && call->fd >= 0) {
        snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, (int)info->entry.args[call->fd]);
        if (readlink(link, path, sizeof(path) - 1) < 0) {
            path[0] = '\0';
        }
    }
    if (call) {
        fprintf(log, "%s %s\n", call->name, path);
    } else {
        fprintf(log, "call-%ld\n", (long)info->entry.nr);
    }
}

/* ---- Tracing -------------------------------------------------------------------------------------- */

typedef struct Tracer {
    pid_t command;
    unsigned long wanted, n_calls;    /* to be killed at; so far */
    bool has_begun;                   /* the program is loaded */
    FILE *log;
} Tracer;

static void fail(const char *what)
{
    fprintf(stderr, "crash-killed: %s: %s\n", what, strerror(errno));
    exit(2);
}

static pid_t start(char **argv)
{
    pid_t pid = fork();

    if (pid < 0) {
        fail("fork");
    }
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) {
            fail("ptrace");
        }
        raise(SIGSTOP);
        execvp(argv[0], argv);
        fail(argv[0]);
    }
    return pid;
}

/* At a system call's entry; whether this is the one. */
static bool is_the_call(Tracer *tracer, pid_t pid)
{
    struct __ptrace_syscall_info info;

    if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof(info), &info) <= 0
        || info.op != PTRACE_SYSCALL_INFO_ENTRY || !tracer->has_begun || is_harmless(&info)) {
        return false;
    }
    log_call(tracer->log, pid, &info);
    return ++tracer->n_calls == tracer->wanted;
}

/* The signal to hand on to a thread that has stopped. */
static int look_at_stop(Tracer *tracer, pid_t pid, int status)
{
    int signal = WSTOPSIG(status);

    if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8)) {
        tracer->has_begun = true;
    }
    if (signal == (SIGTRAP | 0x80)) {
        if (is_the_call(tracer, pid)) {
            kill(tracer->command, SIGKILL);
        }
        return 0;
    }
    /* Threads begin with a stop of their own. */
    return signal == SIGTRAP || signal == SIGSTOP ? 0 : signal;
}

static int trace(Tracer *tracer)
{
    int status;
    pid_t pid = waitpid(tracer->command, &status, 0);

    const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK
                       | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;

    if (pid < 0 || !WIFSTOPPED(status) || ptrace(PTRACE_SETOPTIONS, pid, NULL, options) < 0) {
        fail("ptrace");
    }
    ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
    while ((pid = waitpid(-1, &status, __WALL)) > 0) {
        if (WIFSTOPPED(status)) {
            ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(intptr_t)look_at_stop(tracer, pid, status));
        } else if (pid == tracer->command) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
    return 2;
}

int main(int argc, char **argv)
{
    Tracer tracer = { 0 };

    if (argc < 4) {
        fprintf(stderr, "usage: crash-killed N LOG COMMAND…\n");
        return 2;
    }
    tracer.wanted = strtoul(argv[1], NULL, 10);
    tracer.log = fopen(argv[2], "we");
    if (!tracer.log) {
        fail(argv[2]);
    }
    tracer.command = start(argv + 3);
    int status = trace(&tracer);
    fclose(tracer.log);
    return status;
}
