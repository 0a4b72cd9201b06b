#include "core/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/kernels/isa.h"

extern const Isa isa_baseline;
#if defined(__x86_64__)
extern const Isa isa_avx2, isa_avx512;
#endif

/* Each row has what those below it have, and more. */
static const Isa *const rows[] = {
#if defined(__x86_64__)
    &isa_avx512,
    &isa_avx2,
#endif
    &isa_baseline,
};

enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

static const Isa *active;
static bool is_reference;

/* ROW_COUNT: not known. */
static int row_find(const char *name) {
    int i = 0;
    while (i < ROW_COUNT && strcmp(rows[i]->name, name) != 0) i++;
    return i;
}

/* NULL: not set, or set to nothing. */
static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static bool row_is_supported(int row) {
    const char *cpu = variable("NIBBLE_CPU");
    return rows[row]->is_supported() && (!cpu || row >= row_find(cpu));
}

static const Isa *row_best(void) {
    int i = 0;
    while (i < ROW_COUNT - 1 && !row_is_supported(i)) i++;
    return rows[i];
}

const Isa *isa_active(void) {
    if (!active) active = row_best();
    return active;
}

/* Of all rows, or of those that this processor can run. */
static const char *row_names(bool is_supported, char *text, size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < ROW_COUNT; i++)
        if ((!is_supported || row_is_supported(i)) && used < bytes)
            used += (size_t)snprintf(text + used, bytes - used, "%s%s", used ? ", " : "",
                                     rows[i]->name);
    return text;
}

bool kernels_init(Error *err) {
    char names[96];
    const char *cpu = variable("NIBBLE_CPU"), *wanted = variable("NIBBLE_ISA");
    if (cpu && row_find(cpu) == ROW_COUNT)
        return FAIL(err, ERROR_INPUT, "NIBBLE_CPU=%s is not known; choose from %s, or unset it",
                    cpu, row_names(false, names, sizeof names));
    if (!wanted) {
        active = row_best();
        return true;
    }
    int row = row_find(wanted);
    if (row == ROW_COUNT)
        return FAIL(err, ERROR_INPUT, "NIBBLE_ISA=%s is not known; choose from %s, or unset it",
                    wanted, row_names(true, names, sizeof names));
    if (!row_is_supported(row))
        return FAIL(err, ERROR_INPUT,
                    "NIBBLE_ISA=%s: this processor cannot run it; choose from %s, or unset it",
                    wanted, row_names(true, names, sizeof names));
    active = rows[row];
    return true;
}

const char *kernels_description(void) {
    return isa_active()->name;
}

void kernels_use_reference(bool use) {
    is_reference = use;
}

bool kernels_reference(void) {
    return is_reference;
}
