/* Fuzzing: what a parser is given by a stranger. A target is one file, tests/fuzz/NOUN.c, that
 * defines LLVMFuzzerTestOneInput for libFuzzer; its seeds are the files in tests/fuzz/seeds/NOUN,
 * words for mutations stand in tests/fuzz/NOUN.dict where they help. Every input is read, or
 * refused with a message, in memory that is in proportion to it. tests/fuzz/run fuzzes; in builds
 * without libFuzzer the seeds alone run, as tests (tests/fuzz/main.c). */
#ifndef NIBBLE_TESTS_FUZZ_FUZZ_H
#define NIBBLE_TESTS_FUZZ_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Whatever NDEBUG says. */
#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* A part of the input. */
typedef struct FuzzPart {
    const uint8_t *data;
    size_t bytes;
} FuzzPart;

/* Takes what stands before the first zero, and the zero; all of it where there is none. */
FuzzPart fuzz_take_text(FuzzPart *input);
/* Takes one byte; 0 where there is none. */
uint8_t fuzz_take_byte(FuzzPart *input);

/* With a zero behind it. */
const char *fuzz_text(FuzzPart part, Arena *arena);

/* A file of that name in this process's own folder, which is memory and goes with the process; its
 * path. */
const char *fuzz_file(const char *name, FuzzPart content);
/* That there is no such file. */
void fuzz_no_file(const char *name);
const char *fuzz_folder(void);

/* That a refusal is the input's fault and says why. */
void fuzz_check_refusal(const Error *err);
/* That an arena never held more than `each` bytes for a byte of input, beside 256 KiB. */
void fuzz_check_memory(const Arena *arena, size_t input_bytes, size_t each);

#endif
