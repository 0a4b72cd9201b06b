#include "experiments/commands/eval_perplexity.h"

#include <stdio.h>

#include "core/print.h"
#include "experiments/language/perplexity.h"
#include "experiments/language/run_text.h"
#include "experiments/models/pretrained.h"
#include "experiments/train/evaluate.h"

/* What is measured: a text, and the ids that a vocabulary makes of it. */
typedef struct Subject {
    const EvalPerplexityOptions *options;
    Span text;
    TokenIds ids;
    Json **out;
} Subject;

static Json *json_of(const Perplexity *p, const PerplexityOptions *o, int64_t tokens) {
    Json *json = json_new();
    json_set_number(json, "perplexity", p->perplexity);
    json_set_number(json, "loss", p->loss);
    json_set_int(json, "tokens", tokens);
    json_set_int(json, "scored", p->scored);
    json_set_int(json, "window", o->window);
    json_set_int(json, "stride", o->stride ? o->stride : o->window);
    json_set_number(json, "seconds", p->seconds);
    json_set_number(json, "tokens_per_second", (double)p->seen / p->seconds);
    return json;
}

static bool measure(Subject *s, Model *model, Tape *t, const PerplexityOptions *o, Error *err) {
    Perplexity result;
    if (perplexity_measure(model, t, o, s->ids.items, s->ids.count, &result, err)) {
        *s->out = json_of(&result, o, s->ids.count);
        return true;
    }
    error_prefix(err, "%s", s->options->text);
    return false;
}

/* ---- A model's directory ---- */

static bool vocabulary_check(const Vocabulary *vocabulary, const ModelDirectory *d, Error *err) {
    int64_t size = vocabulary->size, known = d->network.vocabulary;
    return size <= known ||
           FAIL(err, ERROR_INPUT,
                "%s has ids up to %ld, but the network of config.json knows %ld tokens: it is "
                "another model's",
                vocabulary->name, (long)size - 1, (long)known);
}

static bool encode_for_model(Subject *s, const ModelDirectory *d, Error *err) {
    Vocabulary vocabulary;
    bool ok = vocabulary_open(d->path, NULL, s->ids.arena, &vocabulary, err) &&
              vocabulary_check(&vocabulary, d, err) &&
              vocabulary_encode(&vocabulary, s->text, true, &s->ids, err);
    vocabulary_close(&vocabulary);
    return ok;
}

static bool measure_model(Subject *s, Error *err) {
    Pretrained network;
    ModelDirectory directory;
    Arena *arena = s->ids.arena;
    const char *path = s->options->directory;
    TRY(model_directory_read(path, arena, &directory, err));
    PerplexityOptions o = {
        .window = directory.context, .stride = s->options->stride, .mode = TAPE_EVALUATION};
    TRY(perplexity_check(&o, err) && encode_for_model(s, &directory, err));
    TRY(pretrained_open(path, arena, &network, err));
    Tape *t = tape_new(arena);
    bool ok = measure(s, network.model, t, &o, err);
    tape_free(t);
    return ok;
}

/* ---- A run ---- */

static bool measure_experiment(Subject *s, Experiment *e, Error *err) {
    PerplexityOptions o = {.stride = s->options->stride, .mode = evaluate_mode(NETWORK_TRAINED)};
    return run_text_check(e, s->options->directory, err) &&
           run_text_context(e, s->ids.arena, &o.window, err) && perplexity_check(&o, err) &&
           run_text_encode(e, s->text, &s->ids, err) && measure(s, e->model, e->tape, &o, err);
}

static bool measure_run(Subject *s, Error *err) {
    Experiment e = {0};
    bool ok = experiment_open_run(s->options->directory, &s->options->run, s->ids.arena, &e, err) &&
              measure_experiment(s, &e, err);
    experiment_close(&e);
    return ok;
}

bool eval_perplexity(const EvalPerplexityOptions *options, Json **out, Error *err) {
    Arena *arena = arena_new("model and text");
    Subject s = {.options = options, .ids = {.arena = arena}, .out = out};
    bool is_model = model_directory_is_one(options->directory);
    *out = NULL;
    bool ok = run_text_read(options->text, arena, &s.text, err) &&
              (is_model ? measure_model : measure_run)(&s, err);
    arena_free(arena);
    return ok;
}

void eval_perplexity_print(const Json *json) {
    print_out("perplexity %.4f, loss %.4f nats, of %.0f of %.0f tokens\n",
              json_number(json, "perplexity"), json_number(json, "loss"),
              json_number(json, "scored"), json_number(json, "tokens"));
    print_out("windows of %.0f tokens, one every %.0f; %.0f tokens/s\n",
              json_number(json, "window"), json_number(json, "stride"),
              json_number(json, "tokens_per_second"));
}
