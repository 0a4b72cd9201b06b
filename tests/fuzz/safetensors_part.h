/* Files of safetensors for targets. */
#ifndef NIBBLE_TESTS_FUZZ_SAFETENSORS_PART_H
#define NIBBLE_TESTS_FUZZ_SAFETENSORS_PART_H

#include "tests/fuzz/fuzz.h"

/* Writes the file of that name: of the whole rest of the input; where it begins with a brace, of
 * the header up to a zero, with its length before it, and the rest behind it. Its path. */
static inline const char *safetensors_part(const char *name, FuzzPart *input, Arena *arena) {
    if (!input->bytes || *input->data != '{') return fuzz_file(name, *input);
    FuzzPart header = fuzz_take_text(input);
    uint8_t *file = arena_zalloc(arena, 8 + header.bytes + input->bytes);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)header.bytes >> 8 * i);
    memcpy(file + 8, header.data, header.bytes);
    if (input->bytes) memcpy(file + 8 + header.bytes, input->data, input->bytes);
    return fuzz_file(name, (FuzzPart){file, 8 + header.bytes + input->bytes});
}

#endif
