/* A process in which one allocation fails, chosen by its number.
 *
 * Replaces the allocator of a test program; included by its only source file. Sanitizers have their
 * own allocators: with them nothing fails, and the tests skip (sandbox_bounds_memory). */
#ifndef NIBBLE_TESTS_STARVE_H
#define NIBBLE_TESTS_STARVE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "data/sandbox.h"

static long starve_allowed = -1;         /* allocations until that one; below 0: none is refused */
static volatile bool *starve_is_refused; /* by this process or one of its own */
static long starve_step = 1;             /* each allocation, or fewer, where one takes long */
static uintptr_t starve_from, starve_to; /* code of who asks; both 0: anybody */

/* The code of the library whose file name contains `part`. */
static inline int starve_find(struct dl_phdr_info *library, size_t bytes, void *part) {
    (void)bytes;
    if (!strstr(library->dlpi_name, part)) return 0;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &library->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X)) continue;
        starve_from = library->dlpi_addr + segment->p_vaddr;
        starve_to = starve_from + segment->p_memsz;
    }
    return 1;
}

static inline bool starve_refuses(const void *caller) {
    uintptr_t place = (uintptr_t)caller;
    if (starve_allowed < 0) return false;
    if (starve_to && (place < starve_from || place >= starve_to)) return false;
    if (starve_allowed == 0) *starve_is_refused = true;
    if (starve_allowed-- > 0) return false;
    errno = ENOMEM;
    return true;
}

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define STARVE_NEVER
#endif
#endif
#if !defined STARVE_NEVER && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
#define STARVE_SEEN __attribute__((visibility("default")))
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

STARVE_SEEN void *malloc(size_t bytes) {
    return starve_refuses(__builtin_return_address(0)) ? NULL : __libc_malloc(bytes);
}

STARVE_SEEN void *calloc(size_t count, size_t bytes) {
    return starve_refuses(__builtin_return_address(0)) ? NULL : __libc_calloc(count, bytes);
}

STARVE_SEEN void *realloc(void *memory, size_t bytes) {
    return starve_refuses(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, bytes);
}
#endif

typedef enum StarveOutcome {
    STARVE_READ,    /* with all the memory it wanted */
    STARVE_EXIT,    /* exit code 1: the program's own end */
    STARVE_WITHOUT, /* read all the same */
    STARVE_FAILED,
    STARVE_CRASHED,
    STARVE_BLAMED_WRONGLY,
    STARVE_OUTCOMES
} StarveOutcome;

/* What libraries say of their input, and nobody may say of missing memory. */
static inline bool starve_is_well_blamed(const Error *err) {
    static const char *const wrong[] = {"stored outside", "damaged",      "has no ",  "not valid",
                                        "has something",  "is not",       "not an",   "is neither",
                                        "link to",        "element type", "cut short"};
    bool is_well = err->code == ERROR_SYSTEM;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        is_well &= !strstr(err->message, wrong[i]);
    if (!is_well) print_error("code %d: %s\n", err->code, err->message);
    return is_well;
}

/* `read` in a process of its own: after some failures a library is not itself again. What it prints
 * goes to the file "stderr". */
static inline StarveOutcome starve_once(long at, bool (*read)(Error *)) {
    int status;
    *starve_is_refused = false;
    pid_t child = fork();
    if (!child) {
        Error err = {0};
        alarm(60);
        signal(SIGSEGV, SIG_DFL);
        int fd = open("stderr", O_WRONLY | O_CREAT | O_TRUNC, 0666);
        dup2(fd, STDERR_FILENO);
        starve_allowed = at;
        bool is_read = read(&err);
        starve_allowed = -1;
        if (!is_read) _exit(starve_is_well_blamed(&err) ? STARVE_FAILED : STARVE_BLAMED_WRONGLY);
        _exit(*starve_is_refused ? STARVE_WITHOUT : STARVE_READ);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? (StarveOutcome)WEXITSTATUS(status) : STARVE_CRASHED;
}

static inline void starve_print(long at) {
    char text[1024] = "";
    FILE *file = fopen("stderr", "r");
    size_t count = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    print_error("allocation %ld: %.*s", at, (int)count, text);
}

/* Refuses each allocation of `library` (NULL: all) in turn, until one reading wants no more. */
static inline void starve_each(const char *library, bool (*read)(Error *),
                               long counts[STARVE_OUTCOMES]) {
    memset(counts, 0, sizeof *counts * STARVE_OUTCOMES);
    starve_from = starve_to = 0;
    if (library) dl_iterate_phdr(starve_find, (void *)(uintptr_t)library);
    assert_true(!library == !starve_to);
    starve_is_refused = mmap(NULL, sizeof *starve_is_refused, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(starve_is_refused != MAP_FAILED);
    for (long at = 0; !counts[STARVE_READ]; at += starve_step) {
        StarveOutcome outcome = starve_once(at, read);
        counts[outcome]++;
        if (outcome == STARVE_BLAMED_WRONGLY) starve_print(at);
    }
    munmap((void *)(uintptr_t)starve_is_refused, sizeof *starve_is_refused);
    unlink("stderr");
    assert_int_equal(counts[STARVE_BLAMED_WRONGLY], 0);
}

#endif
