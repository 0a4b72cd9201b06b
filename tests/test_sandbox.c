/* Work in a child that may die: what it says comes back, how it ended is told, and of what it could
 * do to others nothing succeeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/file.h"
#include "data/confine.h"
#include "data/sandbox.h"

static char folder[] = "/tmp/test_sandbox_XXXXXX";

static const SandboxLimits limits = {
    .memory_bytes = 64 << 20, .processor_seconds = 1, .stall_seconds = 100};

static int enter(void **state) {
    (void)state;
    return !mkdtemp(folder) || chdir(folder);
}

static int leave(void **state) {
    (void)state;
    return chdir("/") || rmdir(folder);
}

/* ---- Ways out ---- */

/* What the parent has open and the child would like to have. */
static int victim = -1;

/* Zeros, for calls that want a pointer. */
static char page[4096];

#define CALL(...) syscall(__VA_ARGS__)
#define WAY(name, call)                                                                            \
    static long name(void) {                                                                       \
        return call;                                                                               \
    }

WAY(way_socket, CALL(SYS_socket, AF_INET, SOCK_STREAM, 0))
WAY(way_socketpair, CALL(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, page))
WAY(way_connect, CALL(SYS_connect, 3, page, 16))
WAY(way_bind, CALL(SYS_bind, 3, page, 16))
WAY(way_sendto, CALL(SYS_sendto, 3, page, 1, 0, page, 16))
WAY(way_open_to_read, CALL(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY))
WAY(way_open_to_write, CALL(SYS_openat, AT_FDCWD, "victim", O_WRONLY))
WAY(way_create, CALL(SYS_openat, AT_FDCWD, "new", O_RDWR | O_CREAT, 0600))
WAY(way_openat2, CALL(SYS_openat2, AT_FDCWD, "victim", page, 24))
WAY(way_unlink, CALL(SYS_unlinkat, AT_FDCWD, "victim", 0))
WAY(way_rename, CALL(SYS_renameat2, AT_FDCWD, "victim", AT_FDCWD, "other", 0))
WAY(way_truncate, CALL(SYS_truncate, "victim", 0))
WAY(way_ftruncate, CALL(SYS_ftruncate, victim, 0))
WAY(way_pwrite, CALL(SYS_pwrite64, victim, "x", 1, 0))
WAY(way_read, CALL(SYS_read, victim, page, 1))
WAY(way_link, CALL(SYS_linkat, AT_FDCWD, "victim", AT_FDCWD, "other", 0))
WAY(way_symlink, CALL(SYS_symlinkat, "victim", AT_FDCWD, "other"))
WAY(way_mkdir, CALL(SYS_mkdirat, AT_FDCWD, "other", 0700))
WAY(way_mknod, CALL(SYS_mknodat, AT_FDCWD, "other", S_IFIFO | 0600, 0))
WAY(way_chmod, CALL(SYS_fchmodat, AT_FDCWD, "victim", 0))
WAY(way_chown, CALL(SYS_fchownat, AT_FDCWD, "victim", 1, 1, 0))
WAY(way_stat, CALL(SYS_newfstatat, AT_FDCWD, "victim", page, 0))
WAY(way_chdir, CALL(SYS_chdir, "/"))
WAY(way_chroot, CALL(SYS_chroot, "."))
WAY(way_mount, CALL(SYS_mount, "none", ".", "tmpfs", 0, NULL))
WAY(way_unshare, CALL(SYS_unshare, CLONE_NEWUSER))
WAY(way_setns, CALL(SYS_setns, 3, 0))
WAY(way_kill, CALL(SYS_kill, getppid(), SIGUSR1))
WAY(way_kill_all, CALL(SYS_kill, -1, 0))
WAY(way_tgkill, CALL(SYS_tgkill, getppid(), getppid(), SIGUSR1))
WAY(way_pidfd, CALL(SYS_pidfd_open, getppid(), 0))
WAY(way_ptrace, CALL(SYS_ptrace, PTRACE_SEIZE, getppid(), NULL, NULL))
WAY(way_process_read, CALL(SYS_process_vm_readv, getppid(), page, 1, page, 1, 0))
WAY(way_process_write, CALL(SYS_process_vm_writev, getppid(), page, 1, page, 1, 0))
WAY(way_exec, CALL(SYS_execve, "/bin/true", NULL, NULL))
WAY(way_execveat, CALL(SYS_execveat, AT_FDCWD, "/bin/true", NULL, NULL, 0))
WAY(way_fork, CALL(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL))
WAY(way_clone3, CALL(SYS_clone3, page, 64))
WAY(way_privileges, CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0))
WAY(way_dumpable, CALL(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0))
WAY(way_filter, CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, page))
WAY(way_capset, CALL(SYS_capset, page, page))
WAY(way_setuid, CALL(SYS_setuid, 0))
WAY(way_setrlimit, CALL(SYS_setrlimit, RLIMIT_CPU, page))
WAY(way_prlimit, CALL(SYS_prlimit64, 0, RLIMIT_CPU, page, NULL))
WAY(way_shmget, CALL(SYS_shmget, 0, 4096, 0600))
WAY(way_memfd, CALL(SYS_memfd_create, "name", 0))
WAY(way_io_uring, CALL(SYS_io_uring_setup, 1, page))
WAY(way_keyctl, CALL(SYS_keyctl, 0, -3, 1))
WAY(way_bpf, CALL(SYS_bpf, 0, page, 64))
WAY(way_perf, CALL(SYS_perf_event_open, page, 0, -1, -1, 0))
WAY(way_userfaultfd, CALL(SYS_userfaultfd, 0))
WAY(way_ioctl, CALL(SYS_ioctl, 0, 0x5412, page)) /* TIOCSTI: types into the terminal */
WAY(way_dup, CALL(SYS_dup, 3))
WAY(way_pipe, CALL(SYS_pipe2, page, 0))
WAY(way_signals, CALL(SYS_rt_sigaction, SIGXCPU, NULL, NULL, 8))
WAY(way_wait, CALL(SYS_futex, page, 0, 1, NULL))                  /* for what is 1; it is 0 */
WAY(way_hide, CALL(SYS_rt_sigprocmask, SIG_BLOCK, page, NULL, 8)) /* from the limit of time */
WAY(way_executable,
    CALL(SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
WAY(way_to_executable, CALL(SYS_mprotect, page, 0, PROT_READ | PROT_EXEC))

typedef struct Way {
    const char *name;
    long (*go)(void);
} Way;

#define ROW(name)                                                                                  \
    { #name, name }
static const Way ways[] = {
    ROW(way_socket),       ROW(way_socketpair),    ROW(way_connect),       ROW(way_bind),
    ROW(way_sendto),       ROW(way_open_to_read),  ROW(way_open_to_write), ROW(way_create),
    ROW(way_openat2),      ROW(way_unlink),        ROW(way_rename),        ROW(way_truncate),
    ROW(way_ftruncate),    ROW(way_pwrite),        ROW(way_read),          ROW(way_link),
    ROW(way_symlink),      ROW(way_mkdir),         ROW(way_mknod),         ROW(way_chmod),
    ROW(way_chown),        ROW(way_stat),          ROW(way_chdir),         ROW(way_chroot),
    ROW(way_mount),        ROW(way_unshare),       ROW(way_setns),         ROW(way_kill),
    ROW(way_kill_all),     ROW(way_tgkill),        ROW(way_pidfd),         ROW(way_ptrace),
    ROW(way_process_read), ROW(way_process_write), ROW(way_exec),          ROW(way_execveat),
    ROW(way_fork),         ROW(way_clone3),        ROW(way_privileges),    ROW(way_dumpable),
    ROW(way_filter),       ROW(way_capset),        ROW(way_setuid),        ROW(way_setrlimit),
    ROW(way_prlimit),      ROW(way_shmget),        ROW(way_memfd),         ROW(way_io_uring),
    ROW(way_keyctl),       ROW(way_bpf),           ROW(way_perf),          ROW(way_userfaultfd),
    ROW(way_ioctl),        ROW(way_dup),           ROW(way_pipe),          ROW(way_signals),
    ROW(way_wait),         ROW(way_hide),          ROW(way_executable),    ROW(way_to_executable),
};
enum { WAYS = sizeof ways / sizeof *ways };

static volatile sig_atomic_t signals;

static void count_signal(int number) {
    (void)number;
    signals++;
}

static bool go_all_ways(const void *context, int output, Error *err) {
    (void)context;
    for (int i = 0; i < WAYS; i++) {
        errno = 0;
        int refusal = ways[i].go() == -1 ? errno : 0;
        TRY(sandbox_write(output, &refusal, sizeof refusal, err));
    }
    return true;
}

static void make_victim(void) {
    victim = open("victim", O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(victim, "precious", 8), 8);
}

static void check_victim(void) {
    struct stat status;
    char text[9] = "";
    assert_int_equal(stat("victim", &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(status.st_nlink, 1);
    assert_int_equal(pread(victim, text, 8, 0), 8);
    assert_string_equal(text, "precious");
    assert_int_equal(close(victim), 0);
    assert_int_equal(unlink("victim"), 0); /* and `leave` finds nothing else */
}

static void test_no_way_out(void **state) {
    (void)state;
    Sandbox sandbox;
    Error err = {0};
    signals = 0;
    signal(SIGUSR1, count_signal);
    make_victim();
    assert_true(sandbox_start(go_all_ways, NULL, limits, "it", &sandbox, &err));
    for (int i = 0; i < WAYS; i++) {
        int refusal;
        if (!sandbox_read(&sandbox, &limits, &refusal, sizeof refusal, &err))
            fail_msg("%s: %s", ways[i].name, err.message);
        bool is_allowed =
            confine_has_shadow_memory() && (ways[i].go == way_wait || ways[i].go == way_hide);
        if (refusal != EPERM && !is_allowed) fail_msg("%s: %s", ways[i].name, strerror(refusal));
    }
    sandbox_stop(&sandbox);
    signal(SIGUSR1, SIG_DFL);
    assert_int_equal(signals, 0);
    check_victim();
}

/* Tried without a sandbox, these are ways: it is not the test that refuses. */
static void test_the_ways_are_ways(void **state) {
    (void)state;
    static long (*const open_ways[])(void) = {
        way_socket, way_open_to_read, way_open_to_write, way_create,  way_rename,
        way_link,   way_symlink,      way_mkdir,         way_unlink,  way_truncate,
        way_read,   way_pwrite,       way_ftruncate,     way_stat,    way_chmod,
        way_dup,    way_memfd,        way_dumpable,      way_signals, way_prlimit,
    };
    enum { OPEN_WAYS = sizeof open_ways / sizeof *open_ways };
    pid_t child = fork();
    if (child == 0) {
        int count = 0;
        for (int i = 0; i < OPEN_WAYS; i++) {
            make_victim();
            count += open_ways[i]() >= 0;
            close(victim);
            remove("victim");
            remove("other");
            remove("new");
        }
        _exit(count);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), OPEN_WAYS);
}

enum { DESCRIPTORS = 600 };

/* Writing nothing to a descriptor tells whether it is open. */
static bool find_descriptors(const void *context, int output, Error *err) {
    (void)context;
    unsigned char is_open[DESCRIPTORS];
    for (int fd = 0; fd < DESCRIPTORS; fd++) is_open[fd] = write(fd, "", 0) == 0 || errno != EBADF;
    return sandbox_write(output, is_open, sizeof is_open, err);
}

static void test_descriptors_are_closed(void **state) {
    (void)state;
    Sandbox sandbox;
    Error err = {0};
    unsigned char is_open[DESCRIPTORS];
    make_victim();
    int far = fcntl(victim, F_DUPFD, DESCRIPTORS - 10);
    assert_true(far > 0 && far < DESCRIPTORS);
    assert_true(sandbox_start(find_descriptors, NULL, limits, "it", &sandbox, &err));
    assert_true(sandbox_read(&sandbox, &limits, is_open, sizeof is_open, &err));
    sandbox_stop(&sandbox);
    close(far);
    check_victim();
    int count = 0;
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        count += is_open[fd] && !(fd == STDERR_FILENO && confine_has_shadow_memory());
    assert_int_equal(count, 2); /* its result and its message */
}

/* Waits without a call that waits: the pipe is full. */
static bool work_endlessly(const void *context, int output, Error *err) {
    while (sandbox_write(output, context, sizeof page, err)) {
    }
    return false;
}

/* The kernel's word on the child, once it is at work. */
static void test_privileges_are_gone(void **state) {
    (void)state;
    static const char *const lines[] = {"NoNewPrivs:\t1\n",
                                        "Seccomp:\t2\n",
                                        "CapInh:\t0000000000000000\n",
                                        "CapPrm:\t0000000000000000\n",
                                        "CapEff:\t0000000000000000\n",
                                        "CapAmb:\t0000000000000000\n"};
    Sandbox sandbox;
    Error err = {0};
    char byte, path[64], text[8192] = "";
    assert_true(sandbox_start(work_endlessly, page, limits, "it", &sandbox, &err));
    assert_true(sandbox_read(&sandbox, &limits, &byte, 1, &err));
    snprintf(path, sizeof path, "/proc/%d/status", (int)sandbox.child);
    int fd = open(path, O_RDONLY);
    ssize_t got = file_read_bytes(fd, text, sizeof text - 1);
    close(fd);
    sandbox_stop(&sandbox);
    assert_true(got > 0);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i])) fail_msg("lacks \"%s\": %s", lines[i], text);
}

/* The numbers of another architecture's calls mean other calls. */
#if defined(__x86_64__)
static bool work_otherwise(const void *context, int output, Error *err) {
    (void)context;
    long result = 20; /* getpid, in 32 bits */
    __asm__ volatile("int $0x80" : "+a"(result) : : "memory");
    return sandbox_write(output, &result, sizeof result, err);
}

static void test_calls_of_another_architecture_kill(void **state) {
    (void)state;
    Sandbox sandbox;
    Error err = {0};
    long result;
    assert_true(sandbox_start(work_otherwise, NULL, limits, "it", &sandbox, &err));
    assert_false(sandbox_read(&sandbox, &limits, &result, sizeof result, &err));
    assert_non_null(strstr(err.message, "its reader crashed")); /* Bad system call */
    sandbox_stop(&sandbox);
}
#endif

/* From now on no filter can be set in this process. */
static bool forbid_filters(void) {
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, __NR_prctl},
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, PR_SET_SECCOMP},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EINVAL},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

static void test_without_seccomp_nothing_is_read(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        Sandbox sandbox;
        Error err = {0};
        char byte;
        if (!forbid_filters()) _exit(2);
        if (!sandbox_start(work_endlessly, page, limits, "data.h5", &sandbox, &err)) _exit(3);
        if (sandbox_read(&sandbox, &limits, &byte, 1, &err)) _exit(4);
        sandbox_stop(&sandbox);
        bool is_told = strstr(err.message, "data.h5 is not read") &&
                       strstr(err.message, "must be confined") &&
                       strstr(err.message, "Invalid argument; use a Linux kernel that has seccomp");
        _exit(is_told && err.code == ERROR_SYSTEM ? 0 : 5);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- What comes back ---- */

static bool work_well(const void *context, int output, Error *err) {
    return sandbox_write(output, context, 5, err);
}

static bool work_badly(const void *context, int output, Error *err) {
    const char *way = context;
    TRY(sandbox_write(output, "12345", 5, err));
    if (!strcmp(way, "crash")) raise(SIGSEGV);
    if (!strcmp(way, "abort")) abort();
    if (!strcmp(way, "spin") || !strcmp(way, "halt"))
        for (volatile unsigned i = 0;; i++) {
        }
    if (!strcmp(way, "swell"))
        for (;;) {
            static void *volatile memory; /* or the compiler leaves the allocation out */
            memory = malloc(1 << 20);
            if (!memory) return FAIL(err, ERROR_INPUT, "no memory\n");
            memset(memory, 1, 1 << 20);
        }
    return FAIL(err, ERROR_INPUT, "said so");
}

static void test_data_come_back(void **state) {
    (void)state;
    Sandbox sandbox;
    Error err = {0};
    char bytes[6] = {0};
    assert_true(sandbox_start(work_well, "hello", limits, "it", &sandbox, &err));
    assert_true(sandbox_read(&sandbox, &limits, bytes, 2, &err));
    assert_true(sandbox_read(&sandbox, &limits, bytes + 2, 3, &err));
    assert_string_equal(bytes, "hello");
    assert_false(sandbox_read(&sandbox, &limits, bytes, 1, &err));
    assert_non_null(strstr(err.message, "ended early"));
    sandbox_stop(&sandbox);
}

static void test_deaths_are_told(void **state) {
    (void)state;
    static const struct {
        const char *way;
        ErrorCode code;
        const char *reason;
    } cases[] = {
        {"fail", ERROR_INPUT, "said so"},
        {"crash", ERROR_SYSTEM, "it: its reader "}, /* AddressSanitizer turns it into an exit */
        {"abort", ERROR_SYSTEM, "as it may on an unsound file or without memory"},
        {"spin", ERROR_INPUT, "takes too long"},
        {"halt", ERROR_INPUT, "came to a halt"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Sandbox sandbox;
        Error err = {0};
        char bytes[8];
        SandboxLimits own = limits;
        if (!strcmp(cases[i].way, "halt")) own = (SandboxLimits){limits.memory_bytes, 100, 1};
        assert_true(sandbox_start(work_badly, cases[i].way, own, "it", &sandbox, &err));
        assert_true(sandbox_read(&sandbox, &limits, bytes, 5, &err));
        assert_false(sandbox_read(&sandbox, &own, bytes, 1, &err));
        assert_int_equal(err.code, cases[i].code);
        if (!strstr(err.message, cases[i].reason)) fail_msg("%s: %s", cases[i].way, err.message);
        sandbox_stop(&sandbox);
    }
}

static void test_memory_is_bounded(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    Sandbox sandbox;
    Error err = {0};
    char bytes[8];
    assert_true(sandbox_start(work_badly, "swell", limits, "it", &sandbox, &err));
    assert_true(sandbox_read(&sandbox, &limits, bytes, 5, &err));
    assert_false(sandbox_read(&sandbox, &limits, bytes, 1, &err));
    assert_string_equal(err.message, "no memory\\n");
    sandbox_stop(&sandbox);
}

static void test_a_kill_is_told(void **state) {
    (void)state;
    Sandbox sandbox;
    Error err = {0};
    char bytes[1 << 10];
    assert_true(sandbox_start(work_endlessly, page, limits, "it", &sandbox, &err));
    assert_true(sandbox_read(&sandbox, &limits, bytes, 1, &err));
    assert_int_equal(kill(sandbox.child, SIGKILL), 0);
    while (sandbox_read(&sandbox, &limits, bytes, sizeof bytes, &err)) {
    }
    assert_int_equal(err.code, ERROR_SYSTEM); /* it says nothing of the file */
    assert_non_null(strstr(err.message, "was killed"));
    sandbox_stop(&sandbox);
}

static void test_more_time_is_given(void **state) {
    (void)state;
    Sandbox sandbox;
    Error err = {0};
    struct rlimit bound;
    char byte;
    assert_true(sandbox_start(work_endlessly, page, limits, "it", &sandbox, &err));
    assert_true(sandbox_read(&sandbox, &limits, &byte, 1, &err));
    sandbox_allow_time(&sandbox, 7);
    assert_int_equal(prlimit(sandbox.child, RLIMIT_CPU, NULL, &bound), 0);
    assert_int_equal(bound.rlim_cur, limits.processor_seconds + 7);
    sandbox_stop(&sandbox);
}

static bool send_bytes(const void *context, int output, Error *err) {
    const FileMap *map = context;
    int sum = 0;
    for (size_t i = 0; i < map->count; i++) sum += map->bytes[i];
    return sandbox_write(output, &sum, sizeof sum, err);
}

/* A file is read as it was mapped; one that becomes shorter meanwhile is not blamed. */
static void test_mapped_files(void **state) {
    (void)state;
    Sandbox sandbox;
    Error err = {0};
    FileMap map;
    int sum;
    make_victim();
    assert_int_equal(ftruncate(victim, 1 << 20), 0);
    for (int is_short = 0; is_short < 2; is_short++) {
        assert_true(file_map("victim", &map, &err));
        assert_int_equal(map.count, 1 << 20);
        if (is_short) assert_int_equal(ftruncate(victim, 8), 0);
        assert_true(sandbox_start(send_bytes, &map, limits, "it", &sandbox, &err));
        file_unmap(map);
        bool is_read = sandbox_read(&sandbox, &limits, &sum, sizeof sum, &err);
        sandbox_stop(&sandbox);
        assert_int_equal(is_read, !is_short);
        if (is_read) assert_int_equal(sum, 'p' + 'r' + 'e' + 'c' + 'i' + 'o' + 'u' + 's');
    }
    assert_true(err.code == ERROR_SYSTEM || confine_has_shadow_memory());
    check_victim();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_way_out),
        cmocka_unit_test(test_the_ways_are_ways),
        cmocka_unit_test(test_descriptors_are_closed),
        cmocka_unit_test(test_privileges_are_gone),
#if defined(__x86_64__)
        cmocka_unit_test(test_calls_of_another_architecture_kill),
#endif
        cmocka_unit_test(test_without_seccomp_nothing_is_read),
        cmocka_unit_test(test_data_come_back),
        cmocka_unit_test(test_deaths_are_told),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_a_kill_is_told),
        cmocka_unit_test(test_more_time_is_given),
        cmocka_unit_test(test_mapped_files),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
