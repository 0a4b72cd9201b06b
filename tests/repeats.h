/* How often a test draws a case at random. Sanitizers are slow: ThreadSanitizer finds a race in the
 * first case that has it, AddressSanitizer an access in the first shape that leads to it. There the
 * same kinds of case are drawn, fewer of each. */
#ifndef NIBBLE_TESTS_REPEATS_H
#define NIBBLE_TESTS_REPEATS_H

#include <stdint.h>

#ifdef __has_feature /* clang */
#if __has_feature(thread_sanitizer)
#define FEWER 8
#elif __has_feature(address_sanitizer)
#define FEWER 4
#endif
#endif
#ifdef __SANITIZE_THREAD__ /* gcc */
#define FEWER 8
#elif defined(__SANITIZE_ADDRESS__)
#define FEWER 4
#endif
#ifndef FEWER
#define FEWER 1
#endif

/* Of `usual` draws, some at least of each of `kinds` kinds that take turns. */
static inline int64_t repeats(int64_t usual, int64_t kinds) {
    int64_t fewer = usual / FEWER;
    return fewer > kinds ? fewer : kinds;
}

enum { BITS_STEP = FEWER > 1 ? 3 : 1 /* from 2 to 8: all widths, or 2, 5 and 8 */ };

#endif
