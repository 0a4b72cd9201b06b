/* What tests of operations and plans have in common: an arena, a tape, the mode that a test gives
 * its records, and as many threads as there are once more when a test is over. */
#ifndef NIBBLE_TESTS_TAPE_FIXTURE_H
#define NIBBLE_TESTS_TAPE_FIXTURE_H

#include "autograd/tape.h"
#include "core/parallel.h"

static Arena *arena;
static Tape *tape;
static TapeMode mode;

/* For a test's own set_up. */
static void tape_fixture(void) {
    arena = arena_new("test");
    tape = tape_new(arena);
    mode = TAPE_TRAINING;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    Error err = {0};
    return parallel_init(0, &err) ? 0 : -1;
}

#endif
