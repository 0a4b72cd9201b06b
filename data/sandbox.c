#include "data/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/confine.h"

bool sandbox_bounds_memory(void) {
    return !confine_has_shadow_memory();
}

/* ---- The child ---- */

static int64_t address_space_now(void) {
    long long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (!statm) return 0;
    if (fscanf(statm, "%lld", &pages) != 1) pages = 0;
    fclose(statm);
    return pages * sysconf(_SC_PAGESIZE);
}

/* At the hard limit of processor time the signal would be SIGKILL, and the parent could give no
 * more of it: that one stays. */
static bool limit(int resource, int64_t value) {
    struct rlimit bound;
    if (getrlimit((__rlimit_resource_t)resource, &bound)) return false;
    if (resource != RLIMIT_CPU) bound.rlim_max = (rlim_t)value;
    bound.rlim_cur = (rlim_t)value < bound.rlim_max ? (rlim_t)value : bound.rlim_max;
    return !setrlimit((__rlimit_resource_t)resource, &bound);
}

static bool limit_all(SandboxLimits limits) {
    return limit(RLIMIT_CORE, 0) && limit(RLIMIT_FSIZE, 0) &&
           limit(RLIMIT_CPU, limits.processor_seconds) &&
           (!sandbox_bounds_memory() ||
            limit(RLIMIT_AS, address_space_now() + limits.memory_bytes));
}

/* Closes all but these two, which get numbers of our choice. Sanitizers print to standard error. */
static bool keep_only(int *output, int *errors) {
    enum { OUTPUT = 3, ERRORS, OTHERS, HIGH = 10 };
    int high_output = fcntl(*output, F_DUPFD, HIGH), high_errors = fcntl(*errors, F_DUPFD, HIGH);
    if (high_output < 0 || high_errors < 0 || dup2(high_output, OUTPUT) < 0) return false;
    *output = OUTPUT;
    if (dup2(high_errors, ERRORS) < 0) return false;
    *errors = ERRORS;
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    if (!confine_has_shadow_memory()) close(STDERR_FILENO);
    closefrom(OTHERS);
    return true;
}

static bool child_confine(SandboxLimits limits, int *output, int *errors, Error *err) {
    static const int ours[] = {SIGINT, SIGTERM, SIGHUP, SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGXCPU};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (signal(ours[i], SIG_DFL) == SIG_IGN) signal(ours[i], SIG_IGN); /* nohup */
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!limit_all(limits) || !keep_only(output, errors))
        return FAIL(err, ERROR_SYSTEM, "no limits can be set: %s", strerror(errno));
    return confine(err);
}

static _Noreturn void child_run(SandboxWork work, const void *context, SandboxLimits limits,
                                const char *name, int output, int errors) {
    Error err = {0};
    if (!child_confine(limits, &output, &errors, &err)) {
        error_prefix(&err, "%s is not read: what reads another program's file must be confined",
                     name);
        error_append(&err, "; use a Linux kernel that has seccomp, or files of another kind");
    } else if (work(context, output, &err)) {
        _exit(0);
    }
    (void)!write(errors, err.message, strlen(err.message));
    _exit(err.code == ERROR_INPUT ? 2 : 1);
}

bool sandbox_write(int output, const void *bytes, size_t count, Error *err) {
    for (size_t done = 0; done < count;) {
        ssize_t put = write(output, (const char *)bytes + done, count - done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return FAIL(err, ERROR_SYSTEM, "cannot pass data on: %s", strerror(errno));
        done += (size_t)put;
    }
    return true;
}

/* ---- The parent ---- */

bool sandbox_start(SandboxWork work, const void *context, SandboxLimits limits, const char *name,
                   Sandbox *out, Error *err) {
    int output[2], errors[2];
    if (pipe2(output, 0)) return FAIL(err, ERROR_SYSTEM, "%s: no pipe: %s", name, strerror(errno));
    if (pipe2(errors, 0)) {
        (void)FAIL(err, ERROR_SYSTEM, "%s: no pipe: %s", name, strerror(errno));
        close(output[0]);
        close(output[1]);
        return false;
    }
    fflush(NULL); /* what is buffered is ours to print, once */
    pid_t child = fork();
    if (child == 0) child_run(work, context, limits, name, output[1], errors[1]);
    int cause = errno;
    close(output[1]);
    close(errors[1]);
    *out = (Sandbox){child, output[0], errors[0], name};
    if (child > 0) return true;
    close(output[0]);
    close(errors[0]);
    return FAIL(err, ERROR_SYSTEM, "%s: no process: %s", name, strerror(cause));
}

static int child_wait(Sandbox *sandbox) {
    int status = 0;
    while (sandbox->child > 0 && waitpid(sandbox->child, &status, 0) < 0 && errno == EINTR) {
    }
    sandbox->child = 0;
    return status;
}

/* Why the child's output ended early. Of one that crashed nobody knows whose fault it was. */
static bool child_failed(Sandbox *sandbox, Error *err) {
    char message[sizeof err->message];
    ssize_t length = read(sandbox->errors, message, sizeof message - 1);
    int status = child_wait(sandbox);
    message[length > 0 ? length : 0] = '\0';
    if (length > 0 && WIFEXITED(status))
        return FAIL(err, WEXITSTATUS(status) == 2 ? ERROR_INPUT : ERROR_SYSTEM, "%s", message);
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (number == SIGXCPU)
        return FAIL(err, ERROR_INPUT, "%s: reading it takes too long", sandbox->name);
    if (number == SIGBUS)
        return FAIL(err, ERROR_SYSTEM,
                    "%s: cannot read: the device failed, or the file became shorter meanwhile",
                    sandbox->name);
    if (number == SIGINT || number == SIGTERM || number == SIGHUP)
        return FAIL(err, ERROR_STOPPED, "%s: stopped while it was read", sandbox->name);
    if (number == SIGKILL)
        return FAIL(err, ERROR_SYSTEM,
                    "%s: its reader was killed, as the system does where memory runs out",
                    sandbox->name);
    if (number)
        return FAIL(err, ERROR_SYSTEM,
                    "%s: its reader crashed (%s), as it may on an unsound file or without memory",
                    sandbox->name, strsignal(number));
    return FAIL(err, ERROR_SYSTEM,
                "%s: its reader ended early (wait status %d), as it may on an unsound file or "
                "without memory",
                sandbox->name, status);
}

bool sandbox_read(Sandbox *sandbox, const SandboxLimits *limits, void *bytes, size_t count,
                  Error *err) {
    for (size_t done = 0; done < count;) {
        struct pollfd wait = {sandbox->output, POLLIN, 0};
        int ready = poll(&wait, 1, limits->stall_seconds * 1000);
        if (ready < 0 && errno == EINTR) continue;
        if (ready == 0)
            return FAIL(err, ERROR_INPUT, "%s: reading it came to a halt for %d seconds",
                        sandbox->name, limits->stall_seconds);
        ssize_t got = ready < 0 ? -1 : read(sandbox->output, (char *)bytes + done, count - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return child_failed(sandbox, err);
        done += (size_t)got;
    }
    return true;
}

void sandbox_allow_time(const Sandbox *sandbox, int64_t processor_seconds) {
    struct rlimit bound;
    if (prlimit(sandbox->child, RLIMIT_CPU, NULL, &bound)) return; /* it has ended */
    bool is_endless = bound.rlim_cur == RLIM_INFINITY;
    rlim_t wanted = is_endless ? RLIM_INFINITY : bound.rlim_cur + (rlim_t)processor_seconds;
    bound.rlim_cur = wanted < bound.rlim_max ? wanted : bound.rlim_max;
    prlimit(sandbox->child, RLIMIT_CPU, &bound, NULL);
}

void sandbox_stop(Sandbox *sandbox) {
    if (sandbox->child > 0) kill(sandbox->child, SIGKILL);
    child_wait(sandbox);
    close(sandbox->output);
    close(sandbox->errors);
}
