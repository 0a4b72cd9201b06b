#include "experiments/compare/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/print.h"

enum { CODE_NONE = -1 }; /* the job has not said yet how it ended */

/* The parent tells it once; a second signal would end it before it has saved. */
static void leave_signals_to_parent(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

/* In the new process; does not return. */
static void work(pid_t parent, Error *error, WorkerJob job, void *context, int log) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1); /* it ended before that call */
    leave_signals_to_parent();
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close(log);
    Error err = {0};
    bool ok = job(context, &err);
    if (err.code != ERROR_NONE) print_to(stderr, "%s\n", err.message);
    fflush(NULL);
    *error = err; /* the code is what the parent goes by */
    exit(ok ? 0 : 1);
}

bool worker_start(Worker *worker, WorkerJob job, void *context, const char *log, Error *err) {
    *worker = (Worker){0};
    int file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) return FAIL(err, ERROR_SYSTEM, "%s: cannot open it: %s", log, strerror(errno));
    Error *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bool is_mapped = shared != MAP_FAILED;
    pid_t parent = getpid(), pid = -1;
    fflush(NULL); /* what is buffered would be printed twice */
    if (is_mapped) {
        shared->code = (ErrorCode)CODE_NONE;
        pid = fork();
    }
    if (!pid) work(parent, shared, job, context, file);
    int cause = errno;
    close(file);
    if (pid < 0) {
        if (is_mapped) munmap(shared, sizeof *shared);
        return FAIL(err, ERROR_SYSTEM, "cannot start a process: %s", strerror(cause));
    }
    *worker = (Worker){pid, shared};
    return true;
}

/* A crash, or the system's killer. */
static bool fail_untold(int status, Error *err) {
    if (!WIFSIGNALED(status)) return FAIL(err, ERROR_MISMATCH, "its process ended without a word");
    int number = WTERMSIG(status);
    return FAIL(err, ERROR_MISMATCH, "its process was ended by signal %d (%s)%s", number,
                strsignal(number),
                number == SIGKILL ? "; the system does that when memory runs out" : "");
}

bool worker_has_ended(Worker *worker, bool *ok, Error *err) {
    int status = 0;
    pid_t ended = waitpid(worker->pid, &status, WNOHANG);
    if (ended == 0 || (ended < 0 && errno == EINTR)) return false;
    Error told = *worker->error;
    munmap(worker->error, sizeof *worker->error);
    *worker = (Worker){0};
    bool is_told = (int)told.code != CODE_NONE;
    *ok = is_told && told.code == ERROR_NONE && WIFEXITED(status) && !WEXITSTATUS(status);
    if (!*ok && is_told && told.code != ERROR_NONE)
        *err = told;
    else if (!*ok)
        fail_untold(status, err);
    return true;
}

void worker_stop(const Worker *worker) {
    if (worker->pid) kill(worker->pid, SIGTERM);
}
