/* The longest rows of tokens that fit, by dry records of steps. */
#include "experiments/plan/footprint.h"

enum { GRAIN = 64, MOST = 1 << 24 };

typedef struct Search {
    Experiment *e;
    Tape *t;
    int64_t now;  /* tokens of a row */
    int64_t left; /* bytes for a step */
} Search;

/* The loader's batch with rows of another length. */
static Batch batch_of(const Search *s, int64_t length) {
    Batch batch = loader_sketch(s->e->loader, loader_config(s->e->loader)->batch);
    for (int i = 0; i < batch.column_count; i++) {
        Shape *shape = &batch.columns[i].shape;
        if (shape->rank == 1 && shape->dim[0] == s->now) shape->dim[0] = length;
    }
    return batch;
}

/* What cannot be recorded at such a length does not fit either. */
static bool fits(const Search *s, int64_t length) {
    RecordBytes bytes;
    Error ignored = {0};
    return footprint_step_bytes(s->e, s->t, batch_of(s, length), &bytes, &ignored) &&
           record_arena(&bytes) + bytes.staged <= s->left;
}

/* In grains. */
static int64_t most_that_fit(const Search *s) {
    int64_t low = 0, high = 1;
    while (high * GRAIN <= MOST && fits(s, high * GRAIN)) {
        low = high;
        high *= 2;
    }
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        *(fits(s, middle * GRAIN) ? &low : &high) = middle;
    }
    return low;
}

int64_t footprint_context(Experiment *e, const Footprint *f, int64_t available) {
    if (e->model->input.rank != 1 || available == INT64_MAX) return 0;
    Arena *arena = arena_new("context");
    Search s = {.e = e, .t = tape_new(arena), .now = e->model->input.dim[0]};
    s.left = available - f->total + f->bytes[FOOTPRINT_ACTIVATIONS] +
             f->bytes[FOOTPRINT_ACTIVATION_GRADIENTS] + f->bytes[FOOTPRINT_SCRATCH];
    int64_t grains = most_that_fit(&s);
    tape_free(s.t);
    arena_free(arena);
    return grains * GRAIN;
}
