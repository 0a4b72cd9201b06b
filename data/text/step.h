/* Steps of a tokenizer.json: what its sections normalizer, pre_tokenizer and decoder list. A step
 * is a row of a table in normalizer.c, pre_tokenizer.c or decoder.c, by the `type` that the file
 * names. A type or a member that no row knows is an error: leaving it out would give other tokens.
 */
#ifndef NIBBLE_DATA_TEXT_STEP_H
#define NIBBLE_DATA_TEXT_STEP_H

#include "core/json.h"
#include "data/text/regex.h"

typedef struct Spans { /* grows in its arena */
    Arena *arena;
    Span *items;
    int64_t count, capacity;
} Spans;

void spans_add(Spans *spans, Span span);

typedef struct Step Step;

typedef struct StepRow {
    const char *type;
    const char *members; /* those that the row knows, with a space around each; besides "type" */
    bool (*read)(Step *step, const Json *json, Arena *arena,
                 Error *err); /* NULL: nothing to read */
    /* One of them, as the table is for. */
    bool (*normalize)(const Step *step, Span *text, Arena *arena, Error *err);
    /* Adds the parts of `text`; begins: it is the beginning of the whole text. */
    bool (*split)(const Step *step, Span text, bool begins, Spans *out, Error *err);
    /* Changes the items, or how many there are. */
    bool (*decode)(const Step *step, Spans *tokens, Error *err);
} StepRow;

typedef enum StepBehavior {
    STEP_REMOVED,
    STEP_ISOLATED,
    STEP_MERGED_WITH_PREVIOUS,
    STEP_MERGED_WITH_NEXT,
    STEP_CONTIGUOUS,
} StepBehavior;

typedef enum StepScheme { STEP_ALWAYS, STEP_NEVER, STEP_FIRST } StepScheme;
extern const char *const step_schemes[]; /* their names, then NULL */

struct Step {
    const StepRow *row;
    Span pattern, content; /* what is looked for, what takes its place */
    Regex *regex;          /* NULL: the pattern is plain text */
    int behavior, scheme;
    bool is_inverted, adds_space, uses_regex, is_split;
    int64_t start, stop; /* counts */
};

typedef struct Steps {
    Step *items;
    int count;
} Steps;

/* The section `name` of a tokenizer.json, in which sequences are unfolded; null or absent: no
 * steps. `inner`: what a Sequence calls its list. Regexes are closed by steps_close, whatever the
 * result. */
bool steps_read(const Json *json, const char *name, const char *inner, const StepRow *rows,
                Arena *arena, Steps *out, Error *err);
void steps_close(Steps *steps);

/* The object that is the section `name`; null or absent: NULL. */
bool step_section(const Json *json, const char *name, const Json **out, Error *err);

/* For rows: a member that must be there. */
bool step_text(const Json *json, const char *name, Span *out, Arena *arena, Error *err);
bool step_character(const Json *json, const char *name, Span *out, Arena *arena, Error *err);
bool step_flag(const Json *json, const char *name, bool *out, Error *err);
bool step_flag_if(const Json *json, const char *name, bool *out, Error *err); /* it is there */
bool step_choice(const Json *json, const char *name, const char *const *choices, int *out,
                 Error *err);
/* `pattern`: {"String": text} or {"Regex": text}. */
bool step_pattern(Step *step, const Json *json, Arena *arena, Error *err);

/* A file may ask for texts that grow without end, step by step: more than 32 times the text and
 * 64 KiB is ERROR_INPUT. To be called before so much memory is taken. */
bool step_check_growth(int64_t before, int64_t after, Error *err);

/* The next occurrence of the step's pattern from `from` on, as regex_find. Never empty. */
bool step_find(const Step *step, Span text, int64_t from, int64_t *start, int64_t *end, Error *err);

extern const StepRow normalizer_rows[], pre_tokenizer_rows[], decoder_rows[]; /* end with no type */

#endif
