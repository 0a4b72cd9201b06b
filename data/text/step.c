#include "data/text/step.h"

#include <string.h>

enum { STEPS_MAX = 64 };

void spans_add(Spans *spans, Span span) {
    if (spans->count == spans->capacity) {
        int64_t capacity = 2 * spans->capacity + 16;
        Span *items = arena_alloc(spans->arena, checked_mul(sizeof *items, (size_t)capacity));
        if (spans->count) memcpy(items, spans->items, sizeof *items * (size_t)spans->count);
        spans->items = items;
        spans->capacity = capacity;
    }
    spans->items[spans->count++] = span;
}

/* ---- Members ---- */

const char *const step_schemes[] = {"always", "never", "first", NULL};

bool step_text(const Json *json, const char *name, Span *out, Arena *arena, Error *err) {
    const char *text = json_get_text(json, name);
    if (!text) return FAIL(err, ERROR_INPUT, "'%s' must be text", name);
    *out = (Span){arena_strdup(arena, text), (int64_t)strlen(text)};
    return true;
}

bool step_character(const Json *json, const char *name, Span *out, Arena *arena, Error *err) {
    int64_t bytes = 0;
    TRY(step_text(json, name, out, arena, err));
    if (out->bytes) unicode_at(*out, 0, &bytes);
    return (bytes && bytes == out->bytes) ||
           FAIL(err, ERROR_INPUT, "'%s' must be one character", name);
}

bool step_check_growth(int64_t before, int64_t after, Error *err) {
    enum { TIMES_MAX = 32, FREE_BYTES = 64 << 10 };
    return after <= TIMES_MAX * before + FREE_BYTES ||
           FAIL(err, ERROR_INPUT,
                "the tokenizer makes a text of %ld bytes out of one of %ld; texts may grow %d "
                "times",
                (long)after, (long)before, TIMES_MAX);
}

bool step_flag(const Json *json, const char *name, bool *out, Error *err) {
    return json_get_bool(json, name, out) ||
           FAIL(err, ERROR_INPUT, "'%s' must be true or false", name);
}

bool step_flag_if(const Json *json, const char *name, bool *out, Error *err) {
    return !json_has(json, name) || step_flag(json, name, out, err);
}

bool step_choice(const Json *json, const char *name, const char *const *choices, int *out,
                 Error *err) {
    const char *text = json_get_text(json, name);
    for (*out = 0; text && choices[*out]; ++*out)
        if (!strcmp(text, choices[*out])) return true;
    return FAIL(err, ERROR_INPUT, "'%s' is '%s', which nibble does not know", name,
                text ? text : "no text");
}

bool step_pattern(Step *step, const Json *json, Arena *arena, Error *err) {
    const char *regex = json_get_text(json, "pattern.Regex");
    if (!regex) return step_text(json, "pattern.String", &step->pattern, arena, err);
    step->regex = regex_new(regex, err);
    return step->regex != NULL;
}

bool step_find(const Step *step, Span text, int64_t from, int64_t *start, int64_t *end,
               Error *err) {
    *start = *end = -1;
    while (from < text.bytes) {
        if (!step->regex) {
            const char *found = NULL;
            if (step->pattern.bytes)
                found = memmem(text.text + from, (size_t)(text.bytes - from), step->pattern.text,
                               (size_t)step->pattern.bytes);
            if (!found) return true;
            *start = found - text.text;
            *end = *start + step->pattern.bytes;
            return true;
        }
        TRY(regex_find(step->regex, text, from, start, end, err));
        if (*start < 0 || *end > *start) return true;
        int64_t bytes; /* an empty match: behind the next character */
        if (*start >= text.bytes) break;
        unicode_at(text, *start, &bytes);
        from = *start + bytes;
    }
    *start = *end = -1;
    return true;
}

/* ---- Sections ---- */

typedef struct Known {
    const StepRow *row;
    Error *err;
} Known;

static bool check_member(void *context, const JsonMember *member) {
    const Known *known = context;
    if (!strcmp(member->name, "type") || member->type == JSON_NOTHING) return true;
    size_t length = strlen(member->name);
    for (const char *at = known->row->members; *(at += strspn(at, " ")); at += strcspn(at, " "))
        if (strcspn(at, " ") == length && !memcmp(at, member->name, length)) return true;
    return FAIL(known->err, ERROR_INPUT, "%s: nibble does not know '%s'", known->row->type,
                member->name);
}

static bool read_step(const Json *json, const StepRow *rows, const char *type, Arena *arena,
                      Step *step, Error *err) {
    const StepRow *row = rows;
    while (row->type && strcmp(row->type, type)) row++;
    if (!row->type) return FAIL(err, ERROR_INPUT, "nibble does not know the type '%s'", type);
    *step = (Step){.row = row};
    Known known = {row, err};
    TRY(json_each_member(json, "", check_member, &known));
    if (!row->read || row->read(step, json, arena, err)) return true;
    error_prefix(err, "%s", type);
    return false;
}

static bool read_steps(const Json *json, const char *inner, const StepRow *rows, Arena *arena,
                       Steps *out, Error *err) {
    const char *type = json_get_text(json, "type");
    if (!type) return FAIL(err, ERROR_INPUT, "a step has no 'type'");
    if (strcmp(type, "Sequence")) {
        if (out->count == STEPS_MAX) return FAIL(err, ERROR_INPUT, "more than %d steps", STEPS_MAX);
        return read_step(json, rows, type, arena, &out->items[out->count++], err);
    }
    if (json_type_at(json, inner) != JSON_LIST)
        return FAIL(err, ERROR_INPUT, "'%s' must be a list", inner);
    for (int i = 0; i < json_count(json, inner); i++) {
        const Json *element = json_element(json, inner, i);
        if (!element) return FAIL(err, ERROR_INPUT, "'%s' holds what is no step", inner);
        TRY(read_steps(element, inner, rows, arena, out, err));
    }
    return true;
}

bool step_section(const Json *json, const char *name, const Json **out, Error *err) {
    *out = json_inside(json, name);
    return *out || !json_has(json, name) || FAIL(err, ERROR_INPUT, "%s: is no object", name);
}

bool steps_read(const Json *json, const char *name, const char *inner, const StepRow *rows,
                Arena *arena, Steps *out, Error *err) {
    *out = (Steps){.items = arena_new_array(arena, Step, STEPS_MAX)};
    const Json *section;
    TRY(step_section(json, name, &section, err));
    if (!section || read_steps(section, inner, rows, arena, out, err)) return true;
    error_prefix(err, "%s", name);
    return false;
}

void steps_close(Steps *steps) {
    for (int i = 0; i < steps->count; i++) {
        regex_free(steps->items[i].regex);
        steps->items[i].regex = NULL;
    }
}
