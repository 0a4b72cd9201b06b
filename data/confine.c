#include "data/confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SHADOW_MEMORY true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_SHADOW_MEMORY true
#endif
#endif
#ifndef HAS_SHADOW_MEMORY
#define HAS_SHADOW_MEMORY false
#endif

bool confine_has_shadow_memory(void) {
    return HAS_SHADOW_MEMORY;
}

/* The same call has another number on each. */
#if defined(__x86_64__)
enum { ARCHITECTURE = (int)AUDIT_ARCH_X86_64 };
#elif defined(__aarch64__)
enum { ARCHITECTURE = (int)AUDIT_ARCH_AARCH64 };
#else
enum { ARCHITECTURE = 0 };
#endif

/* ---- What stays allowed ---- */

/* `argument` and `mask`: only where the argument's bits in the mask are those of `value`. */
typedef struct Rule {
    int call;
    uint32_t mask;
    int argument;
    uint32_t value;
} Rule;

static const Rule rules[] = {
    {.call = __NR_write},
    {.call = __NR_brk},
    {.call = __NR_mmap, .argument = 2, .mask = PROT_EXEC},
    {.call = __NR_mprotect, .argument = 2, .mask = PROT_EXEC},
    {.call = __NR_mremap},
    {.call = __NR_munmap},
    {.call = __NR_madvise},
#if HAS_SHADOW_MEMORY
    {.call = __NR_futex},
    {.call = __NR_sched_yield},
    {.call = __NR_sigaltstack},
    {.call = __NR_rt_sigprocmask},
#else /* of locks, to give them back: there is nobody to wait for */
    {.call = __NR_futex, .argument = 1, .mask = FUTEX_CMD_MASK, .value = FUTEX_WAKE},
#endif
    {.call = __NR_rt_sigreturn},
    {.call = __NR_getpid},
    {.call = __NR_gettid},
    {.call = __NR_exit},
    {.call = __NR_exit_group},
};
enum { RULES = sizeof rules / sizeof *rules, ENTRY = 4, PER_RULE = 6 };

/* ---- The filter: a program of the kernel's packet filter over struct seccomp_data ---- */

typedef struct Filter {
    struct sock_filter code[ENTRY + PER_RULE * (RULES + 1) + 1];
    unsigned short length;
} Filter;

static void put(Filter *f, uint16_t code, uint32_t k, uint8_t if_true, uint8_t if_false) {
    f->code[f->length++] = (struct sock_filter){code, if_true, if_false, k};
}

static void put_load(Filter *f, size_t offset) {
    put(f, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void put_return(Filter *f, uint32_t action) {
    put(f, BPF_RET | BPF_K, action, 0, 0);
}

/* The number of the call is loaded; another one falls through to the next rule. The kernel looks at
 * no more than the low half of these arguments, which comes first. */
static void put_rule(Filter *f, Rule rule) {
    if (!rule.mask) {
        put(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)rule.call, 0, 1);
        put_return(f, SECCOMP_RET_ALLOW);
        return;
    }
    put(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)rule.call, 0, PER_RULE - 1);
    put_load(f, offsetof(struct seccomp_data, args) + sizeof(uint64_t) * (size_t)rule.argument);
    put(f, BPF_ALU | BPF_AND | BPF_K, rule.mask, 0, 0);
    put(f, BPF_JMP | BPF_JEQ | BPF_K, rule.value, 0, 1);
    put_return(f, SECCOMP_RET_ALLOW);
    put_return(f, SECCOMP_RET_ERRNO | EPERM);
}

static void filter_build(Filter *f) {
    f->length = 0;
    put_load(f, offsetof(struct seccomp_data, arch));
    put(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)ARCHITECTURE, 1, 0);
    put_return(f, SECCOMP_RET_KILL_PROCESS);
    put_load(f, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < RULES; i++) put_rule(f, rules[i]);
    /* abort() is to end the process as such: signals to itself, no other */
    put_rule(f, (Rule){__NR_tgkill, UINT32_MAX, 0, (uint32_t)getpid()});
    put_return(f, SECCOMP_RET_ERRNO | EPERM);
}

/* ---- Giving up ---- */

static bool drop_capabilities(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    return !syscall(SYS_capset, &header, none);
}

bool confine(Error *err) {
    Filter filter;
    filter_build(&filter);
    struct sock_fprog program = {filter.length, filter.code};
    bool is_done = ARCHITECTURE != 0 && !prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) &&
                   !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && drop_capabilities() &&
                   !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
    if (is_done) return true;
    return FAIL(err, ERROR_SYSTEM, "this system lets no process be confined: %s",
                ARCHITECTURE ? strerror(errno) : "not known for this processor");
}
