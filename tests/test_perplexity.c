/* Perplexity: that of transformers for the same directories (tests/golden/make_llm.py), windows by
 * hand, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "core/file.h"
#include "core/parallel.h"
#include "data/text/tokenizer.h"
#include "experiments/language/perplexity.h"
#include "tests/llm_golden.h"
#include "tests/model_source.h"

static Tape *tape;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

static const PerplexityOptions options = {.window = 64, .mode = {.loss_scale = 1}};

/* ---- Against transformers ---- */

#define NETWORK "kind: transformer, vocabulary: 300, width: 32, layers: 2, heads: 4, ff: 48"

/* As their config.json has them. */
static const char *const networks[LLM_MODEL_COUNT] = {
    "model: {" NETWORK ", kv_heads: 2, head_dim: 8, rope_theta: 100, epsilon: 1e-5, rope_scaling: "
    "{factor: 4, low_freq_factor: 1, high_freq_factor: 4, original_length: 32}}",
    "model: {" NETWORK ", kv_heads: 2, head_dim: 8, epsilon: 1e-6, tied: false}",
    "model: {" NETWORK ", kv_heads: 2, attention_bias: qkv, epsilon: 1e-6}",
    "model: {" NETWORK ", kv_heads: 2, head_dim: 16, qk_norm: true, epsilon: 1e-6, tied: false}",
};

static Model *load(const LlmGolden *g, const char *settings) {
    ModelSource source = model_source(settings);
    Model *model = model_of(&source, SHAPE(64), 300, 1);
    SafeTensors st;
    Error err = {0};
    if (!safetensors_open(g->directory, arena, &st, &err)) fail_msg("%s", err.message);
    assert_int_equal(st.count, model->param_count);
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        const SafeTensor *tensor = safetensors_find(&st, p->name);
        if (!tensor) fail_msg("%s has no %s", g->directory, p->name);
        assert_true(shape_equal(tensor->shape, p->value.shape));
        assert_true(
            safetensors_read(&st, tensor, 0, tensor_count(&p->value), tensor_f32(&p->value), &err));
    }
    safetensors_close(&st);
    return model;
}

static TokenIds text_ids(const LlmGolden *g) {
    Error err = {0};
    Tokenizer *tokenizer;
    size_t bytes;
    TokenIds ids = {.arena = arena};
    const char *text = file_read(LLM_GOLDEN "text.txt", 1 << 20, arena, &bytes, &err);
    const char *path = arena_format(arena, "%s/tokenizer.json", g->directory);
    assert_true(tokenizer_open(path, arena, &tokenizer, &err));
    assert_true(tokenizer_encode(tokenizer, (Span){text, (int64_t)bytes}, true, &ids, &err));
    tokenizer_close(tokenizer);
    return ids;
}

static void check(Model *model, const TokenIds *ids, const LlmGolden *g, const char *under,
                  int64_t stride) {
    PerplexityOptions o = options;
    Perplexity p;
    Error err = {0};
    o.stride = stride;
    if (!perplexity_measure(model, tape, &o, ids->items, ids->count, &p, &err))
        fail_msg("%s", err.message);
    double wanted = json_number(g->facts, arena_format(arena, "%sperplexity", under));
    int64_t scored = (int64_t)json_number(g->facts, arena_format(arena, "%sscored", under));
    if (!(fabs(p.perplexity - wanted) < 1e-4 * wanted))
        fail_msg("%s: perplexity %.9g, transformers has %.9g", g->directory, p.perplexity, wanted);
    assert_int_equal(p.scored, scored);
    assert_true(p.seen >= ids->count - 1 && p.seconds > 0);
}

static void it_is_that_of_transformers(void **state) {
    (void)state;
    for (int i = 0; i < LLM_MODEL_COUNT; i++) {
        LlmGolden g = llm_golden_open(llm_models[i], arena);
        Model *model = load(&g, networks[i]);
        TokenIds ids = text_ids(&g);
        check(model, &ids, &g, "", 0);
        check(model, &ids, &g, "", 64);
        check(model, &ids, &g, "stride.", 24);
        llm_golden_close(&g);
    }
}

/* ---- Windows ---- */

enum { VOCABULARY = 13 };

static Model *small(void) {
    ModelSource source = model_source("model: {kind: transformer, vocabulary: 13, width: 8, "
                                      "layers: 1, heads: 2, ff: 12}");
    return model_of(&source, SHAPE(8), VOCABULARY, 3);
}

static int32_t *some_ids(int64_t count) {
    int32_t *ids = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)((i * i + 3 * i + 1) % VOCABULARY);
    return ids;
}

/* The sum of the losses of ids[first .. count - 1], from the logits of the whole. */
static double loss_sum(Model *model, const int32_t *ids, int64_t count, int64_t first) {
    Tensor x = tensor_new(arena, DTYPE_F32, SHAPE(1, count));
    for (int64_t i = 0; i < count; i++) tensor_f32(&x)[i] = (float)ids[i];
    Tensor logits = logits_of(model, tape, x);
    double sum = 0;
    for (int64_t i = first; i < count; i++) {
        const float *z = tensor_f32(&logits) + (i - 1) * VOCABULARY;
        double all = 0;
        for (int c = 0; c < VOCABULARY; c++) all += exp((double)z[c]);
        sum += log(all) - (double)z[ids[i]];
    }
    return sum;
}

typedef struct WindowCase {
    int64_t count, window, stride;
    struct {
        int64_t begin, end, first; /* `first` scored, of the text */
    } windows[4];
} WindowCase;

/* 17 tokens: a window of one is left out; 18: the last has two. */
static void windows_are_those_that_the_header_names(void **state) {
    (void)state;
    static const WindowCase cases[] = {
        {17, 8, 0, {{0, 8, 1}, {8, 16, 9}}},
        {18, 8, 0, {{0, 8, 1}, {8, 16, 9}, {16, 18, 17}}},
        {18, 8, 5, {{0, 8, 1}, {5, 13, 8}, {10, 18, 13}}},
        {9, 8, 1, {{0, 8, 1}, {1, 9, 8}}},
        {9, 8, 7, {{0, 8, 1}, {7, 9, 8}}},
        {2, 2, 0, {{0, 2, 1}}},
        {5, 1000, 0, {{0, 5, 1}}},
    };
    Model *model = small();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const WindowCase *c = &cases[i];
        const int32_t *ids = some_ids(c->count);
        double sum = 0;
        int64_t scored = 0, seen = 0;
        for (int k = 0; k < 4 && c->windows[k].end; k++) {
            int64_t begin = c->windows[k].begin, length = c->windows[k].end - begin;
            int64_t first = c->windows[k].first - begin;
            sum += loss_sum(model, ids + begin, length, first);
            scored += length - first;
            seen += length;
        }
        PerplexityOptions o = {.window = c->window, .stride = c->stride, .mode = TAPE_EVALUATION};
        Perplexity p;
        Error err = {0};
        assert_true(perplexity_measure(model, tape, &o, ids, c->count, &p, &err));
        assert_int_equal(p.scored, scored);
        assert_int_equal(p.seen, seen);
        assert_true(fabs(p.loss - sum / (double)scored) < 1e-5);
        assert_true(fabs(p.perplexity - exp(p.loss)) < 1e-12 * p.perplexity);
    }
}

static void same_bits_on_any_threads(void **state) {
    (void)state;
    Model *model = small();
    double losses[5];
    Error err = {0};
    for (int threads = 1; threads <= 4; threads++) {
        Perplexity p;
        PerplexityOptions o = {.window = 8, .stride = 3, .mode = TAPE_EVALUATION};
        assert_true(parallel_init(threads, &err));
        assert_true(perplexity_measure(model, tape, &o, some_ids(50), 50, &p, &err));
        losses[threads] = p.loss;
        assert_true(losses[threads] == losses[1]);
    }
    assert_true(parallel_init(0, &err));
}

/* ---- What is refused ---- */

static void refuse(PerplexityOptions o, const int32_t *ids, int64_t count, ErrorCode code,
                   const char *message) {
    Perplexity p;
    Error err = {0};
    assert_false(perplexity_measure(small(), tape, &o, ids, count, &p, &err));
    assert_int_equal(err.code, code);
    if (!strstr(err.message, message)) fail_msg("'%s' lacks '%s'", err.message, message);
}

static void what_makes_no_sense_is_refused(void **state) {
    (void)state;
    static const int32_t beyond[] = {1, 2, VOCABULARY}, below[] = {-1, 2};
    PerplexityOptions o = {.window = 8, .mode = TAPE_EVALUATION};
    refuse(o, some_ids(1), 1, ERROR_INPUT, "the text has 1 tokens");
    refuse(o, some_ids(1), 0, ERROR_INPUT, "the text has 0 tokens");
    refuse(o, beyond, 3, ERROR_INPUT, "token 2 of the text has the id 13, but the model knows 13");
    refuse(o, below, 2, ERROR_INPUT, "token 0 of the text has the id -1");
    o.window = 1;
    refuse(o, some_ids(9), 9, ERROR_INPUT, "a window of 1 tokens scores none");
    o = (PerplexityOptions){.window = 8, .stride = 9, .mode = TAPE_EVALUATION};
    refuse(o, some_ids(9), 9, ERROR_INPUT, "a stride of 9 does not fit windows of 8");
    o.stride = -1;
    refuse(o, some_ids(9), 9, ERROR_INPUT, "a stride of -1");
}

static void a_loss_that_is_not_finite_is_named(void **state) {
    (void)state;
    Model *model = small();
    PerplexityOptions o = {.window = 8, .mode = TAPE_EVALUATION};
    Perplexity p;
    Error err = {0};
    Param *norm = model_find_param(model, "model.norm.weight");
    tensor_f32(&norm->value)[0] = NAN;
    assert_false(perplexity_measure(model, tape, &o, some_ids(9), 9, &p, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_that_of_transformers),
        cmocka_unit_test(windows_are_those_that_the_header_names),
        cmocka_unit_test(same_bits_on_any_threads),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(a_loss_that_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
