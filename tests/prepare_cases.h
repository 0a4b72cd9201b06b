/* For tests of preparing: graphs written in YAML, and what is installed in them as text. */
#ifndef NIBBLE_TESTS_PREPARE_CASES_H
#define NIBBLE_TESTS_PREPARE_CASES_H

#include "tests/model_source.h"

static Tape *tape;

static inline int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static inline int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

enum { CLASSES = 3 };

/* A prepared model for images [8, 8, 2]. */
static inline Qat *prepare(const char *text) {
    ModelSource source = model_source(text);
    return qat_of(&source, model_of(&source, SHAPE(8, 8, 2), CLASSES, 1));
}

/* "producer > reader reader 4u; ...": the bits, and whether signed or unsigned. */
static inline const char *edges_text(const Qat *qat) {
    const char *text = "";
    for (int i = 0; i < qat->edge_count; i++) {
        const Edge *edge = &qat->edges[i];
        const QuantSpec *spec = &edge->quant->spec;
        assert_int_equal(edge->quant->shape.dim[0], 1);
        text = arena_format(arena, "%s%s >", text, edge->producer);
        for (int j = 0; j < edge->reader_count; j++)
            text = arena_format(arena, "%s %s", text, edge->readers[j]);
        text = arena_format(arena, "%s %d%c; ", text, spec->bits, spec->is_signed ? 's' : 'u');
    }
    return text;
}

/* "layer 4 +norm; ...": the bits and the norm that is folded; "-" where the weight stays float. */
static inline const char *weights_text(const Qat *qat) {
    const char *text = "";
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        const char *bits = site->quant ? arena_format(arena, "%d", site->quant->spec.bits) : "-";
        const char *norm = site->norm ? arena_format(arena, " +%s", site->norm->name) : "";
        text = arena_format(arena, "%s%s %s%s; ", text, site->name, bits, norm);
    }
    return text;
}

typedef struct Case {
    const char *model, *quant, *edges, *weights;
} Case;

/* Products in evaluation and training read levels of the bits that the site says. */
static inline void assert_products_read_levels(const Qat *qat) {
    for (int i = 0; i < tape->count; i++) {
        const Var *v = tape->vars[i];
        const Module *module = model_find_module(qat->model, v->scope);
        if (!v->op || (v->op != &op_row_conv2d && v->op != &op_row_linear)) continue;
        const WeightSite *site = qat_find_site(qat, module);
        const Scales *x = v->in[0]->value.scales, *w = v->in[1]->value.scales;
        assert_true((w != NULL) == (site->quant != NULL));
        assert_true(!w || w->grid.bits == site->quant->spec.bits);
        assert_true(!site->input || (x && x->grid.bits == site->input->spec.bits));
    }
}

static inline void run_case(const Case *c) {
    Qat *qat = prepare(arena_format(arena, "model: %s\nquant: %s\n", c->model, c->quant));
    assert_string_equal(edges_text(qat), c->edges);
    if (c->weights) assert_string_equal(weights_text(qat), c->weights);
    Tensor x = batch_of(qat->model, 3, 1);
    train_step(qat->model, tape, x, 0.01f);
    logits_of(qat->model, tape, x);
    assert_products_read_levels(qat);
}

static inline void run_cases(const Case *cases, size_t count) {
    for (size_t i = 0; i < count; i++) run_case(&cases[i]);
}
#define RUN_CASES(cases) run_cases(cases, sizeof(cases) / sizeof *(cases))

/* Layers before the two that make logits of them. */
#define LAYERS(text)   "{kind: sequential, layers: [" text ", flatten, linear: {units: 3}]}"
#define CONV(name)     "conv: {name: " #name "}"
#define BRANCH(layers) "{layers: [" layers "]}"

#endif
