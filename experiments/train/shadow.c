#include "experiments/train/shadow.h"

#include <math.h>
#include <string.h>

#include "core/parallel.h"

/* ---- Outputs ---- */

typedef struct Softmax {
    int64_t largest; /* the first of these */
    double log_sum;  /* of exp(x - x[largest]) */
} Softmax;

static Softmax softmax_of(const float *x, int64_t count) {
    Softmax s = {0};
    for (int64_t i = 1; i < count; i++)
        if (x[i] > x[s.largest]) s.largest = i;
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += exp((double)x[i] - (double)x[s.largest]);
    s.log_sum = log(sum);
    return s;
}

/* Of probabilities p and q with ln p = x - max x - ln sum. */
static double divergence(const float *exact, Softmax p, const float *given, Softmax q,
                         int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        double log_p = (double)exact[i] - (double)exact[p.largest] - p.log_sum;
        double log_q = (double)given[i] - (double)given[q.largest] - q.log_sum;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum > 0 ? sum : 0; /* but for rounding it is never below */
}

void output_change_add(OutputChange *sum, const float *exact, const float *given, int64_t rows,
                       int64_t classes) {
    for (int64_t i = 0; i < rows; i++) {
        const float *a = exact + i * classes, *b = given + i * classes;
        Softmax p = softmax_of(a, classes), q = softmax_of(b, classes);
        sum->kl += divergence(a, p, b, q, classes);
        sum->changed += p.largest != q.largest;
    }
    sum->outputs += rows;
}

void output_change_end(OutputChange *sum) {
    if (sum->outputs) sum->kl /= (double)sum->outputs;
}

/* ---- Networks ---- */

/* The shadow first: the others' outputs are compared with its own. */
static const Network order[] = {NETWORK_SHADOW, NETWORK_TRAINED, NETWORK_WEIGHTS,
                                NETWORK_ACTIVATIONS};

typedef struct Run {
    Experiment *e;
    int networks; /* of `order` */
    TaskTally tallies[NETWORK_COUNT];
    Arena *arena;
} Run;

static bool run_batch(Run *r, const Batch *batch, Shadow *out, Error *err) {
    ArenaMark mark = arena_mark(r->arena);
    float *exact = NULL;
    parallel_adapt();
    for (int i = 0; i < r->networks; i++) {
        TaskStep step = {.e = r->e, .batch = *batch, .wants_outputs = true};
        TRY(evaluate_batch(&step, evaluate_mode(order[i]), err));
        task_tally(&step, &r->tallies[order[i]]);
        const float *output = var_f32(step.output);
        int64_t count = var_count(step.output), classes = shape_last(step.output->value.shape);
        if (i == 0) {
            exact = arena_new_array(r->arena, float, count);
            memcpy(exact, output, sizeof *exact * (size_t)count);
        } else {
            output_change_add(&out->changes[order[i]], exact, output, count / classes, classes);
        }
        out->networks[order[i]].rows += batch->count;
    }
    arena_rewind(r->arena, mark);
    return true;
}

static bool run_networks(Run *r, const ShadowOptions *options, Shadow *out, Error *err) {
    for (int64_t i = 0, rows = 0;; i++) {
        Batch batch = evaluate_rows(r->e, options->split, i, rows, options->rows);
        if (!batch.count) break;
        TRY(run_batch(r, &batch, out, err));
        rows += batch.count;
    }
    for (int i = 0; i < r->networks; i++) {
        evaluate_score(r->e->task, &r->tallies[order[i]], &out->networks[order[i]]);
        output_change_end(&out->changes[order[i]]);
    }
    return true;
}

bool shadow_evaluate(Experiment *e, const ShadowOptions *options, int64_t *confusion, Arena *arena,
                     Shadow *out, Error *err) {
    *out = (Shadow){.layers = arena_new_array(arena, LayerReport, e->qat->site_count)};
    Arena *scratch = arena_new("shadow");
    Run r = {.e = e, .networks = options->has_causes ? NETWORK_COUNT : 2, .arena = scratch};
    r.tallies[NETWORK_TRAINED].confusion = confusion;
    bool ok = run_networks(&r, options, out, err);
    arena_free(scratch);
    int64_t rows = out->networks[NETWORK_SHADOW].rows, asked = options->layer_rows;
    out->layer_rows = asked && asked < rows ? asked : rows;
    return ok && layers_compare(e, options->split, out->layer_rows, options->has_causes,
                                out->layers, err);
}
