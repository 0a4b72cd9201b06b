#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/print.h"
#include "core/settings/field.h"

void faults_add(Faults *faults, Mark mark, const char *format, ...) {
    if (faults->count++ >= FAULTS_KEPT) return;
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    char *text = arena_alloc(faults->arena, (size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(args);
    va_end(again);
    Fault *fault = arena_zalloc(faults->arena, sizeof *fault);
    *fault = (Fault){.mark = mark, .message = print_line(text, strlen(text), faults->arena)};
    if (faults->last) {
        faults->last->next = fault;
    } else {
        faults->first = fault;
    }
    faults->last = fault;
}

static int compare_numbers(int a, int b) {
    return (a > b) - (a < b);
}

typedef struct Place {
    const Fault *fault;
    int order; /* qsort is not stable */
} Place;

/* What has no line is from the command line: after the file, in the order of the arguments. */
static int compare_places(const void *left, const void *right) {
    const Place *a = left, *b = right;
    const Mark *m = &a->fault->mark, *n = &b->fault->mark;
    int order = compare_numbers(m->line == 0, n->line == 0);
    if (!order && m->line && m->file && n->file) order = strcmp(m->file, n->file);
    if (!order) order = compare_numbers(m->line, n->line);
    if (!order) order = compare_numbers(m->column, n->column);
    return order ? order : compare_numbers(a->order, b->order);
}

static const char *fault_text(const Fault *fault, Arena *arena) {
    const Mark *mark = &fault->mark;
    if (!mark->file) return fault->message;
    const char *file = print_line(mark->file, strlen(mark->file), arena);
    if (!mark->line) return arena_format(arena, "%s: %s", file, fault->message);
    return arena_format(arena, "%s:%d:%d: %s", file, mark->line, mark->column, fault->message);
}

void faults_print(const Faults *faults, Arena *arena, FieldLine line, void *context) {
    Place places[FAULTS_KEPT];
    int count = 0;
    for (const Fault *f = faults->first; f; f = f->next, count++) places[count] = (Place){f, count};
    qsort(places, (size_t)count, sizeof *places, compare_places);
    for (int i = 0; i < count; i++) line(context, fault_text(places[i].fault, arena));
    if (faults->count > count) {
        line(context, arena_format(arena, "and %d more mistakes", faults->count - count));
    }
}
