/* The pre-tokenizers of a tokenizer.json: text falls into words, which are merged one by one. */
#include <string.h>

#include "data/text/byte_level.h"
#include "data/text/step.h"

/* What text falls into: matches, and what lies between them. */
typedef struct Part {
    Span text;
    bool is_match;
} Part;

typedef struct Parts {
    Arena *arena;
    Part *items;
    int64_t count, capacity;
} Parts;

static void add_part(Parts *parts, Span text, bool is_match) {
    if (!text.bytes) return;
    if (parts->count == parts->capacity) {
        int64_t capacity = 2 * parts->capacity + 16;
        Part *items = arena_alloc(parts->arena, checked_mul(sizeof *items, (size_t)capacity));
        if (parts->count) memcpy(items, parts->items, sizeof *items * (size_t)parts->count);
        parts->items = items;
        parts->capacity = capacity;
    }
    parts->items[parts->count++] = (Part){text, is_match};
}

static Span between(Span text, int64_t start, int64_t end) {
    return (Span){text.text + start, end - start};
}

static bool find_parts(const Step *step, Span text, Parts *parts, Error *err) {
    for (int64_t at = 0, start, end; at < text.bytes; at = end) {
        TRY(step_find(step, text, at, &start, &end, err));
        if (start < 0) start = end = text.bytes;
        add_part(parts, between(text, at, start), step->is_inverted);
        add_part(parts, between(text, start, end), !step->is_inverted);
    }
    return true;
}

/* Whether a part goes together with the one before it. */
static bool joins(const Part *part, int behavior) {
    const Part *before = part - 1;
    switch ((StepBehavior)behavior) {
    case STEP_REMOVED:
    case STEP_ISOLATED:
        return false;
    case STEP_CONTIGUOUS:
        return part->is_match == before->is_match;
    case STEP_MERGED_WITH_PREVIOUS:
        return part->is_match && !before->is_match;
    case STEP_MERGED_WITH_NEXT:
        return before->is_match && !part->is_match;
    }
    return false;
}

static void add_parts(const Parts *parts, int behavior, Spans *out) {
    for (int64_t i = 0; i < parts->count; i++) {
        const Part *part = &parts->items[i];
        if (behavior == STEP_REMOVED && part->is_match) continue;
        if (i > 0 && joins(part, behavior))
            out->items[out->count - 1].bytes += part->text.bytes;
        else
            spans_add(out, part->text);
    }
}

static bool split_parts(const Step *step, Span text, bool begins, Spans *out, Error *err) {
    (void)begins;
    Parts parts = {.arena = out->arena};
    TRY(find_parts(step, text, &parts, err));
    add_parts(&parts, step->behavior, out);
    return true;
}

/* ---- Rows ---- */

static bool split_read(Step *step, const Json *json, Arena *arena, Error *err) {
    static const char *const behaviors[] = {"Removed",        "Isolated",   "MergedWithPrevious",
                                            "MergedWithNext", "Contiguous", NULL};
    return step_pattern(step, json, arena, err) &&
           step_choice(json, "behavior", behaviors, &step->behavior, err) &&
           step_flag(json, "invert", &step->is_inverted, err);
}

static bool regex_read(Step *step, const char *pattern, int behavior, Error *err) {
    step->behavior = behavior;
    step->regex = regex_new(pattern, err);
    return step->regex != NULL;
}

static bool digits_read(Step *step, const Json *json, Arena *arena, Error *err) {
    (void)arena;
    bool are_single;
    TRY(step_flag(json, "individual_digits", &are_single, err));
    return regex_read(step, "\\p{N}", are_single ? STEP_ISOLATED : STEP_CONTIGUOUS, err);
}

static bool whitespace_read(Step *step, const Json *json, Arena *arena, Error *err) {
    (void)json;
    (void)arena;
    step->is_inverted = true;
    return regex_read(step, "\\w+|[^\\w\\s]+", STEP_REMOVED, err);
}

static bool whitespace_split_read(Step *step, const Json *json, Arena *arena, Error *err) {
    (void)json;
    (void)arena;
    return regex_read(step, "\\s", STEP_REMOVED, err);
}

/* GPT-2's words: contractions, letters, numbers and others, each with the space before them. */
static const char byte_level_words[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
    "|\\s+(?!\\S)|\\s+";

static bool byte_level_read(Step *step, const Json *json, Arena *arena, Error *err) {
    (void)arena;
    step->uses_regex = true; /* where an older file does not say */
    TRY(step_flag(json, "add_prefix_space", &step->adds_space, err));
    TRY(step_flag_if(json, "use_regex", &step->uses_regex, err));
    return !step->uses_regex || regex_read(step, byte_level_words, STEP_ISOLATED, err);
}

static Span with_prefix(Span prefix, Span text, Arena *arena) {
    char *out = arena_alloc(arena, (size_t)(prefix.bytes + text.bytes));
    memcpy(out, prefix.text, (size_t)prefix.bytes);
    memcpy(out + prefix.bytes, text.text, (size_t)text.bytes);
    return (Span){out, prefix.bytes + text.bytes};
}

static bool byte_level(const Step *step, Span text, bool begins, Spans *out, Error *err) {
    int64_t first = out->count;
    if (step->adds_space && text.bytes && text.text[0] != ' ')
        text = with_prefix((Span){" ", 1}, text, out->arena);
    if (step->uses_regex)
        TRY(split_parts(step, text, begins, out, err));
    else if (text.bytes)
        spans_add(out, text);
    for (int64_t i = first; i < out->count; i++)
        out->items[i] = byte_level_encode(out->items[i], out->arena);
    return true;
}

static bool metaspace_read(Step *step, const Json *json, Arena *arena, Error *err) {
    TRY(step_character(json, "replacement", &step->pattern, arena, err));
    step->behavior = STEP_MERGED_WITH_NEXT;
    step->is_split = true; /* where an older file does not say */
    bool adds = true;
    TRY(step_flag_if(json, "add_prefix_space", &adds, err));
    step->scheme = adds ? STEP_ALWAYS : STEP_NEVER;
    if (json_has(json, "prepend_scheme"))
        TRY(step_choice(json, "prepend_scheme", step_schemes, &step->scheme, err));
    return step_flag_if(json, "split", &step->is_split, err);
}

static Span spaces_replaced(Span text, Span replacement, Arena *arena) {
    int64_t spaces = 0;
    for (int64_t i = 0; i < text.bytes; i++) spaces += text.text[i] == ' ';
    char *out = arena_alloc(arena, (size_t)(text.bytes + spaces * replacement.bytes)), *at = out;
    for (int64_t i = 0; i < text.bytes; i++) {
        if (text.text[i] != ' ') {
            *at++ = text.text[i];
        } else {
            memcpy(at, replacement.text, (size_t)replacement.bytes);
            at += replacement.bytes;
        }
    }
    return (Span){out, at - out};
}

static bool starts_with(Span text, Span with) {
    return text.bytes >= with.bytes && !memcmp(text.text, with.text, (size_t)with.bytes);
}

static bool metaspace(const Step *step, Span text, bool begins, Spans *out, Error *err) {
    text = spaces_replaced(text, step->pattern, out->arena);
    bool adds = step->scheme == STEP_ALWAYS || (step->scheme == STEP_FIRST && begins);
    if (adds && !starts_with(text, step->pattern))
        text = with_prefix(step->pattern, text, out->arena);
    if (step->is_split) return split_parts(step, text, begins, out, err);
    if (text.bytes) spans_add(out, text);
    return true;
}

const StepRow pre_tokenizer_rows[] = {
    {"Split", " pattern behavior invert ", split_read, .split = split_parts},
    {"ByteLevel", " add_prefix_space trim_offsets use_regex ", byte_level_read,
     .split = byte_level},
    {"Metaspace", " replacement add_prefix_space prepend_scheme split ", metaspace_read,
     .split = metaspace},
    {"Digits", " individual_digits ", digits_read, .split = split_parts},
    {"Whitespace", "", whitespace_read, .split = split_parts},
    {"WhitespaceSplit", "", whitespace_split_read, .split = split_parts},
    {0},
};
