/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libnbd's handle is used by the connection's own thread alone: it holds a lock while it works, and its own
 * nbd_poll() would hold it while it sleeps. Callers leave their requests in a queue, wake the thread through
 * an eventfd, and sleep until their request is answered, so that N callers are N requests in flight.
 *
 *     caller                                       connection's thread
 *     put request into the queue, wake    ----->   give it to libnbd, send, poll
 *     sleep                                        poll: receive, libnbd calls on_complete()
 *     awake with the answer               <-----   request->done
 */
#include "io/nbd-connection.h"

#include <errno.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

typedef enum {
    STATE_CONNECTING,
    STATE_READY,
    STATE_DEAD,
} State;

struct Qcow2NbdConnection {
    char *uri;
    int wake_fd;                     /* eventfd: there is something new in the fields below */
    GThread *thread;

    struct nbd_handle *handle;       /* the thread's alone */
    char *last_error;                /* the thread's alone: what libnbd said last */

    GMutex mutex;                    /* guards the fields below, and the requests' @done and @errnum */
    GCond state_changed;
    State state;
    bool quit;
    Qcow2NbdExport export;           /* once ready */
    char *reason;                    /* why it is dead */
    GQueue queue;                    /* of Job: not given to libnbd yet */
    unsigned n_running;
};

/* A request and its caller, on the caller's stack. */
typedef struct Job {
    Qcow2NbdConnection *connection;
    Qcow2NbdRequest *request;
    GList link;                      /* in the queue */
    GCond answered;
    bool done;
    int errnum;
} Job;

static void wake(Qcow2NbdConnection *connection)
{
    uint64_t one = 1;

    /* Fails only when the counter is full, and then the thread is awake already. */
    ssize_t ignored = write(connection->wake_fd, &one, sizeof(one));
    (void) ignored;
}

/* ---- The thread: answers ---------------------------------------------------------------------- */

static void complete(Job *job, int errnum)
{
    Qcow2NbdConnection *connection = job->connection;

    g_mutex_lock(&connection->mutex);
    job->errnum = errnum;
    job->done = true;
    g_cond_signal(&job->answered);
    g_mutex_unlock(&connection->mutex);
}

/* Called by libnbd, once for each command that it took; 1 makes it forget the command. */
static int on_complete(void *data, int *errnum)
{
    complete(data, *errnum);
    return 1;
}

/* Entries are pairs of a length and flags; neighbours that are alike come as one. */
static int on_extents(void *data, const char *context, uint64_t offset, uint32_t *entries, size_t n_entries,
                      int *errnum)
{
    GArray *extents = ((Job *) data)->request->extents;
    (void) offset;
    (void) errnum;

    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0) {
        return 0;
    }
    for (size_t i = 0; i + 1 < n_entries; i += 2) {
        Qcow2IoExtent extent = {
            .len_bytes = entries[i],
            .zero = entries[i + 1] & LIBNBD_STATE_ZERO,
            .hole = entries[i + 1] & LIBNBD_STATE_HOLE,
        };
        Qcow2IoExtent *last = extents->len ? &g_array_index(extents, Qcow2IoExtent, extents->len - 1) : NULL;
        if (last && last->zero == extent.zero && last->hole == extent.hole) {
            last->len_bytes += extent.len_bytes;
        } else {
            g_array_append_val(extents, extent);
        }
    }
    return 0;
}

/* ---- The thread: requests --------------------------------------------------------------------- */

static int64_t give_to_libnbd(struct nbd_handle *handle, Job *job)
{
    Qcow2NbdRequest *request = job->request;
    nbd_completion_callback completion = { .callback = on_complete, .user_data = job };
    nbd_extent_callback extents = { .callback = on_extents, .user_data = job };
    uint32_t fua = request->fua ? LIBNBD_CMD_FLAG_FUA : 0;
    uint32_t no_hole = request->keep_allocated ? LIBNBD_CMD_FLAG_NO_HOLE : 0;

    switch (request->kind) {
    case QCOW2_NBD_READ:
        return nbd_aio_pread(handle, request->read_into, request->len_bytes, request->offset, completion, 0);
    case QCOW2_NBD_WRITE:
        return nbd_aio_pwrite(handle, request->write_from, request->len_bytes, request->offset, completion,
                              fua);
    case QCOW2_NBD_ZERO:
        return nbd_aio_zero(handle, request->len_bytes, request->offset, completion, fua | no_hole);
    case QCOW2_NBD_FLUSH:
        return nbd_aio_flush(handle, completion, 0);
    case QCOW2_NBD_EXTENTS:
        return nbd_aio_block_status(handle, request->len_bytes, request->offset, extents, completion, 0);
    }
    return -1;
}

static Job *take_job(Qcow2NbdConnection *connection)
{
    g_mutex_lock(&connection->mutex);
    GList *link = g_queue_pop_head_link(&connection->queue);
    g_mutex_unlock(&connection->mutex);
    return link ? link->data : NULL;
}

static void start_jobs(Qcow2NbdConnection *connection)
{
    Job *job;

    while ((job = take_job(connection))) {
        if (give_to_libnbd(connection->handle, job) < 0) {
            int errnum = nbd_get_errno();
            complete(job, errnum ? errnum : EIO);
        }
    }
}

/* ---- The thread: its life --------------------------------------------------------------------- */

static void keep_error(Qcow2NbdConnection *connection)
{
    const char *message = nbd_get_error();

    g_free(connection->last_error);
    connection->last_error = g_strdup(message ? message : "the connection failed");
}

/* Finds out in some minutes that the server's machine is gone; on other sockets the calls just fail. */
static void set_keepalive(int fd)
{
    static const struct {
        int level, option, value;
    } options[] = {
        { SOL_SOCKET, SO_KEEPALIVE, 1 },
        { IPPROTO_TCP, TCP_KEEPIDLE, 60 },
        { IPPROTO_TCP, TCP_KEEPINTVL, 15 },
        { IPPROTO_TCP, TCP_KEEPCNT, 4 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        setsockopt(fd, options[i].level, options[i].option, &options[i].value, sizeof(options[i].value));
    }
}

static bool start_connecting(Qcow2NbdConnection *connection)
{
    struct nbd_handle *handle = nbd_create();

    connection->handle = handle;
    if (!handle
        || nbd_set_uri_allow_local_file(handle, true) < 0      /* tls-psk-file=… */
        || nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0
        || nbd_set_pread_initialize(handle, false) < 0         /* after an error nobody looks at the buffer */
        || nbd_aio_connect_uri(handle, connection->uri) < 0) {
        keep_error(connection);
        return false;
    }
    return true;
}

static void note_ready(Qcow2NbdConnection *connection)
{
    struct nbd_handle *handle = connection->handle;
    Qcow2NbdExport export = {
        .size = (uint64_t) MAX(nbd_get_size(handle), 0),
        .min_block = (uint64_t) MAX(nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM), 0),
        .max_block = (uint64_t) MAX(nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM), 0),
        .read_only = nbd_is_read_only(handle) > 0,
        .multi_conn = nbd_can_multi_conn(handle) > 0,
        .can_flush = nbd_can_flush(handle) > 0,
        .can_fua = nbd_can_fua(handle) > 0,
        .can_zero = nbd_can_zero(handle) > 0,
        .can_extents = nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0,
    };

    set_keepalive(nbd_aio_get_fd(handle));
    g_mutex_lock(&connection->mutex);
    connection->export = export;
    connection->state = STATE_READY;
    g_cond_broadcast(&connection->state_changed);
    g_mutex_unlock(&connection->mutex);
}

/* Sleeps until the socket or a caller wants something, and serves the socket. */
static void poll_once(Qcow2NbdConnection *connection)
{
    struct nbd_handle *handle = connection->handle;
    unsigned direction = nbd_aio_get_direction(handle);
    bool reads = direction & LIBNBD_AIO_DIRECTION_READ;
    bool writes = direction & LIBNBD_AIO_DIRECTION_WRITE;
    struct pollfd fds[] = {
        { .fd = nbd_aio_get_fd(handle), .events = (reads ? POLLIN : 0) | (writes ? POLLOUT : 0) },
        { .fd = connection->wake_fd, .events = POLLIN },
    };
    uint64_t n_wakes;
    int result = 0;

    if (poll(fds, G_N_ELEMENTS(fds), -1) < 0) {
        return;
    }
    if (fds[1].revents) {
        ssize_t ignored = read(connection->wake_fd, &n_wakes, sizeof(n_wakes));
        (void) ignored;
    }
    /* One of the two: the first changes what libnbd waits for. An error shows in either. */
    short failed = fds[0].revents & (POLLERR | POLLHUP | POLLNVAL);
    if (reads && (fds[0].revents & POLLIN || failed)) {
        result = nbd_aio_notify_read(handle);
    } else if (writes && (fds[0].revents & POLLOUT || failed)) {
        result = nbd_aio_notify_write(handle);
    }
    if (result < 0) {
        keep_error(connection);
    }
}

static bool is_over(Qcow2NbdConnection *connection)
{
    g_mutex_lock(&connection->mutex);
    bool quit = connection->quit;
    g_mutex_unlock(&connection->mutex);

    return quit || nbd_aio_is_dead(connection->handle) || nbd_aio_is_closed(connection->handle);
}

static void serve(Qcow2NbdConnection *connection)
{
    bool ready = false;

    while (!is_over(connection)) {
        if (!ready && nbd_aio_is_ready(connection->handle)) {
            note_ready(connection);
            ready = true;
        }
        if (ready) {
            start_jobs(connection);
        }
        if (!is_over(connection)) {
            poll_once(connection);
        }
    }
}

/* What libnbd took was answered when it found the connection dead; after this nothing enters the queue. */
static void end(Qcow2NbdConnection *connection)
{
    struct nbd_handle *handle = connection->handle;
    Job *job;

    if (handle && nbd_aio_is_ready(handle)) {
        nbd_aio_disconnect(handle, 0);
    }
    g_mutex_lock(&connection->mutex);
    connection->state = STATE_DEAD;
    connection->reason = g_strdup(connection->last_error ? connection->last_error
                                                         : "the server closed the connection");
    g_cond_broadcast(&connection->state_changed);
    g_mutex_unlock(&connection->mutex);

    nbd_close(handle);
    while ((job = take_job(connection))) {
        complete(job, ENOTCONN);
    }
}

static void *connection_thread(void *data)
{
    Qcow2NbdConnection *connection = data;
    sigset_t all;

    /* Signals are for the program's own threads; SIGPIPE would end it when the server goes away. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    if (start_connecting(connection)) {
        serve(connection);
    }
    end(connection);
    return NULL;
}

/* ---- The callers ------------------------------------------------------------------------------ */

Qcow2NbdConnection *qcow2_nbd_connection_new(const char *uri, GError **error)
{
    g_autoptr(Qcow2NbdConnection) connection = g_new0(Qcow2NbdConnection, 1);
    g_autoptr(GError) cause = NULL;

    connection->uri = g_strdup(uri);
    g_mutex_init(&connection->mutex);
    g_cond_init(&connection->state_changed);
    g_queue_init(&connection->queue);
    connection->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (connection->wake_fd < 0) {
        qcow2_fail_errno(error, errno, "eventfd");
        return NULL;
    }
    connection->thread = g_thread_try_new("qcow2-nbd", connection_thread, connection, &cause);
    if (!connection->thread) {
        qcow2_fail(error, QCOW2_ERROR_FAILED, "thread for an NBD connection: %s", cause->message);
        return NULL;
    }
    return g_steal_pointer(&connection);
}

void qcow2_nbd_connection_free(Qcow2NbdConnection *connection)
{
    if (!connection) {
        return;
    }
    if (connection->thread) {
        g_mutex_lock(&connection->mutex);
        connection->quit = true;
        g_mutex_unlock(&connection->mutex);
        wake(connection);
        g_thread_join(connection->thread);
    }
    if (connection->wake_fd >= 0) {
        close(connection->wake_fd);
    }
    g_mutex_clear(&connection->mutex);
    g_cond_clear(&connection->state_changed);
    g_free(connection->last_error);
    g_free(connection->reason);
    g_free(connection->uri);
    g_free(connection);
}

bool qcow2_nbd_connection_wait(Qcow2NbdConnection *connection, gint64 timeout_usec,
                               Qcow2NbdExport *ret_export, GError **error)
{
    gint64 deadline = timeout_usec < 0 ? G_MAXINT64 : g_get_monotonic_time() + timeout_usec;
    bool in_time = true;

    g_mutex_lock(&connection->mutex);
    while (connection->state == STATE_CONNECTING && in_time) {
        if (timeout_usec < 0) {
            g_cond_wait(&connection->state_changed, &connection->mutex);
        } else {
            in_time = g_cond_wait_until(&connection->state_changed, &connection->mutex, deadline);
        }
    }
    bool ready = connection->state == STATE_READY;
    if (ready) {
        *ret_export = connection->export;
    } else {
        qcow2_fail(error, QCOW2_ERROR_IO, "%s",
                   connection->reason ? connection->reason : "the server does not answer");
    }
    g_mutex_unlock(&connection->mutex);
    return ready;
}

unsigned qcow2_nbd_connection_load(Qcow2NbdConnection *connection)
{
    g_mutex_lock(&connection->mutex);
    unsigned load = connection->state == STATE_READY ? connection->n_running : UINT_MAX;
    g_mutex_unlock(&connection->mutex);
    return load;
}

/* Waits for the answer; the caller holds the mutex. */
static void run_job(Job *job)
{
    Qcow2NbdConnection *connection = job->connection;
    bool was_empty = g_queue_is_empty(&connection->queue);

    job->link.data = job;
    g_queue_push_tail_link(&connection->queue, &job->link);
    connection->n_running++;
    if (was_empty) {
        wake(connection);
    }
    while (!job->done) {
        g_cond_wait(&job->answered, &connection->mutex);
    }
    connection->n_running--;
}

bool qcow2_nbd_connection_run(Qcow2NbdConnection *connection, Qcow2NbdRequest *request, int *ret_errnum,
                              GError **error)
{
    Job job = { .connection = connection, .request = request, .errnum = ENOTCONN };
    g_autofree char *reason = NULL;

    g_cond_init(&job.answered);
    g_mutex_lock(&connection->mutex);
    if (connection->state == STATE_READY) {
        run_job(&job);
    }
    if (job.errnum == ENOTCONN) {      /* libnbd's own: no server answers that */
        while (connection->state != STATE_DEAD) {
            g_cond_wait(&connection->state_changed, &connection->mutex);
        }
        reason = g_strdup(connection->reason);
    }
    g_mutex_unlock(&connection->mutex);
    g_cond_clear(&job.answered);

    *ret_errnum = job.errnum;
    if (job.errnum == 0) {
        return true;
    }
    if (reason) {
        return qcow2_fail(error, QCOW2_ERROR_IO, "connection to the NBD server lost: %s", reason);
    }
    return qcow2_fail_system(error, job.errnum);
}
