/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GLib's locks, told to ThreadSanitizer. They are futexes inside a library that is not instrumented, so the
 * sanitizer does not see that they order anything, and every use of shared data looks like a race. These
 * wrappers stand before GLib's own in test programs that are built with -Db_sanitize=thread.
 */
#include <dlfcn.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

/* Of the sanitizer's own interface. */
void __tsan_acquire(void *address);
void __tsan_release(void *address);
const char *__tsan_default_suppressions(void);

/*
 * GErrors come from GLib's own allocator, which reuses memory behind locks that the wrappers cannot reach. A
 * static GRWLock gets its lock at its first use, by an atomic exchange inside GLib; from then on it is one of
 * pthread's.
 */
const char *__tsan_default_suppressions(void)
{
    return "race:g_slice_alloc\nrace:g_slice_free\nrace:g_rw_lock_reader_lock\nrace:g_rw_lock_writer_lock\n";
}

/* Declares @real, GLib's own function of the same name and type. */
#define FIND_REAL(name)                                         \
    __typeof__(&name) real;                                     \
    void *symbol = dlsym(RTLD_NEXT, G_STRINGIFY(name));         \
    memcpy(&real, &symbol, sizeof(real))

#define WRAP_LOCK(name, Type)                                   \
    void name(Type *lock)                                       \
    {                                                           \
        FIND_REAL(name);                                        \
        real(lock);                                             \
        __tsan_acquire(lock);                                   \
    }

#define WRAP_UNLOCK(name, Type)                                 \
    void name(Type *lock)                                       \
    {                                                           \
        FIND_REAL(name);                                        \
        __tsan_release(lock);                                   \
        real(lock);                                             \
    }

WRAP_LOCK(g_mutex_lock, GMutex)
WRAP_UNLOCK(g_mutex_unlock, GMutex)
WRAP_LOCK(g_rw_lock_reader_lock, GRWLock)
WRAP_UNLOCK(g_rw_lock_reader_unlock, GRWLock)
WRAP_LOCK(g_rw_lock_writer_lock, GRWLock)
WRAP_UNLOCK(g_rw_lock_writer_unlock, GRWLock)

gboolean g_mutex_trylock(GMutex *mutex)
{
    FIND_REAL(g_mutex_trylock);
    gboolean locked = real(mutex);

    if (locked) {
        __tsan_acquire(mutex);
    }
    return locked;
}

/*
 * The sanitizer holds a signal back while its thread is in code that it does not know, so that nothing would
 * end this wait. Whoever waits has to look again in any case.
 */
void g_cond_wait(GCond *cond, GMutex *mutex)
{
    FIND_REAL(g_cond_wait_until);
    __tsan_release(mutex);
    real(cond, mutex, g_get_monotonic_time() + G_TIME_SPAN_SECOND / 10);
    __tsan_acquire(mutex);
    usleep(0);    /* here it comes */
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time)
{
    FIND_REAL(g_cond_wait_until);
    __tsan_release(mutex);
    gboolean woken = real(cond, mutex, end_time);
    __tsan_acquire(mutex);
    return woken;
}
