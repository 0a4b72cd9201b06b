/* A tape: operations run when they are called and are recorded; tape_backward walks them in
 * reverse.
 *
 * Errors are sticky: after the first, every operation returns a placeholder, so that a model reads
 * as plain expressions and the training loop asks `tape->error` once. C evaluates arguments in any
 * order: never write two op calls in one expression.
 *
 * tape.c records; run.c runs, and alone knows plans; half.c keeps tensors in half precision;
 * finite.c looks for what is not finite.
 *
 * All memory of a step (values, gradients, what forward saves for backward) belongs to the tape's
 * arena and goes with tape_begin; once the arena has seen its largest step, a step allocates
 * nothing from the system. */
#ifndef NIBBLE_AUTOGRAD_TAPE_H
#define NIBBLE_AUTOGRAD_TAPE_H

#include "core/arena.h"
#include "core/conv.h"
#include "core/error.h"
#include "core/probe.h"
#include "core/random.h"
#include "core/tensor.h"

typedef struct Tape Tape;
typedef struct Var Var;
typedef struct Op Op;

enum { OP_INPUTS_MAX = 16 };

struct Var {
    Tensor value; /* f32; with scales it holds levels (core/tensor.h), as fake-quant leaves them */
    Tensor grad;  /* gradient to the values; data NULL until a reader writes it; f32, or half where
                     the tape keeps it so, outside the op's own backward */
    void *grad_memory; /* where a plan lays it; NULL: anywhere */
    bool *has_grad;    /* whether `grad` holds something to add to; own flag or the Param's */
    bool own_flag;
    bool needs_grad;
    const Op *op;           /* NULL: a leaf */
    Var *in[OP_INPUTS_MAX]; /* optional inputs may be NULL */
    int in_count;
    const void *attr;   /* the op's own attributes, copied at recording */
    void *saved;        /* what forward leaves for backward */
    uint32_t segment;   /* what its block recorded, from 1 on (TapeMode.recompute); 0: no block */
    const char *scope;  /* dotted name of the module that recorded it; "" outside */
    float *moments;     /* [2][channels]: mean and variance of what forward wrote; or NULL */
    bool wants_moments; /* somebody will read them */
    Probe *probe;       /* what is asked of the value, of whoever writes it; or NULL */
    bool is_seen;       /* and whether it was answered there */
    bool met_nan;       /* OP_QUANTIZES: among its input, of which its output may show nothing */
    Var *decoded;       /* the dequantized twin, once an op asked for it */
    uint32_t *mask;     /* of a map: where gradients pass (autograd/map.h); NULL: none is kept */
    uint8_t *notes;    /* of a map: what forward leaves for backward (Map.note_bytes); NULL: it need
                          leave nothing */
    bool is_probed;    /* see tape_probe */
    bool is_parameter; /* a parameter, or made of parameters and constants: a weight on its way */
    int readers;       /* ops that take it as an input */
    int index;         /* on the tape */
};

typedef enum OpFlags {
    OP_READS_LEVELS = 1,   /* inputs 0 and 1 may hold levels or be stored; all others get values */
    OP_IS_NONNEGATIVE = 2, /* the output is never below 0, so it quantizes unsigned */
    OP_KEEPS_SIGN = 4,     /* the output is below 0 only if an input is */
    OP_ALIASES = 8,        /* the output shares the data (and scales) of input 0: reshape */
    OP_SPARES_OUTPUT = 16, /* backward does not read v->value: its memory may be used again */
    OP_SPARES_INPUTS = 32, /* backward does not read the values of inputs */
    OP_READS_HALF = 64,    /* takes values and gradients as tensors of any precision (Var.grad,
                              tape_grad_tensor); for other ops the tape decodes and rounds */
    OP_GRADIENT_IN_PLACE = 128, /* backward may write the gradient of input 0 over its own */
    OP_NO_FLOPS = 1 << 8,       /* it makes no products: Op.flops is NULL, and counts as none */
    OP_DROPS = 1 << 9,          /* it drops elements in training, and scales those that stay */
    OP_GIVES_MOMENTS = 1 << 10, /* forward sets v->moments where v->wants_moments */
    OP_QUANTIZES = 1 << 11,     /* levels that it makes are kept as codes */
    OP_CASTS = 1 << 12, /* its output is kept in half precision even where it is a parameter's */
    OP_IS_HOMOGENEOUS = 1 << 13, /* a factor above 0 on a channel (of the last dimension) of its one
                                    input comes out on that channel: output channel modulo the
                                    input's count, where that divides the output's */
    OP_LOOKS_UP = 1 << 14,     /* rows of input 0 as the others say: of a parameter an activation */
    OP_IS_CHEAP = 1 << 15,     /* to make again what it made costs little (RECOMPUTE_CHEAP) */
    OP_READS_PANELS = 1 << 16, /* with OP_READS_LEVELS: they may lie in panels (core/panels.h) */
} OpFlags;

/* Floating-point operations, two per multiply-add. */
typedef struct Flops {
    double forward, input_grad, weight_grad;
} Flops;

struct Op {
    const char *name;
    unsigned flags;
    /* Sets v->value.shape from the inputs and attributes, or fails naming the shapes. */
    bool (*infer)(Var *v, Error *err);
    /* Computes v->value from the inputs. The tape has allocated v->value.data (f32) except for
     * OP_ALIASES. May set v->saved and v->value.scales (tape_alloc), and may answer v->probe
     * (core/probe.h) and set v->is_seen; else who asks reads the values. */
    void (*forward)(Tape *t, Var *v);
    /* Adds to the gradients of the inputs that need one, through tape_grad. */
    void (*backward)(Tape *t, Var *v);
    /* Small instances on fresh leaves (tape_sample_leaf) of a record in training, which tests check
     * against finite differences; NULL when `which` is past the last. Values keep clear of kinks
     * and ties. */
    Var *(*sample)(Tape *t, int which);
    /* The geometry of the scales of an output that will hold levels, or NULL where it will hold
     * values; forward sets the scales themselves. Called in dry runs. NULL: always values. */
    const Scales *(*describe)(Tape *t, Var *v);
    /* How it works element by element (autograd/map.h); NULL: it does not. Where a map fits, it is
     * taken instead of `forward` and `backward`; only a record that keeps residuals prefers
     * `forward`. */
    const struct Map *map;
    const struct MapTail *tail; /* how it ends a group of maps; NULL: it does not */
    const struct MapFeed *feed; /* how it hands blocks to a group while they are in cache; NULL */

    /* Bytes of the tape's arena, asked of a Var that is recorded but need have no data: dtypes,
     * `probe`, `wants_moments` and `needs_grad` of it and of its inputs say how it will run. NULL:
     * none. A test holds them to what samples take, to the byte (arena_padded). */
    int64_t (*saved_bytes)(const Tape *t, const Var *v); /* from forward until the record ends */
    int64_t (*forward_scratch)(const Var *v);  /* while forward runs; of a map: while it prepares */
    int64_t (*backward_scratch)(const Var *v); /* while backward runs; not of maps: map_scratch */
    /* With OP_READS_HALF: the gradients of so many inputs go where they are kept, in any precision
     * (tape_grad_tensor); those of others through copies in f32 (tape_grad). */
    int half_grads;
    /* Of its products, as if every input wanted its gradient; NULL: see OP_NO_FLOPS. */
    Flops (*flops)(const Var *v);
    /* Of a product of input 0 with a weight, input 1, whose rows make the output's channels: how
     * the two meet, as a convolution. Backward reads each only for the other's gradient. NULL: it
     * is none. */
    ConvGeometry (*geometry)(const Var *v);
};

/* What backward reads of a block is kept since forward, or made again: what ops with OP_IS_CHEAP
 * made, or everything. */
typedef enum Recompute { RECOMPUTE_NONE, RECOMPUTE_CHEAP, RECOMPUTE_BLOCK } Recompute;

/* What a record is made for: an argument of those who begin one, and the same until the next. */
typedef struct TapeMode {
    bool is_training; /* dropout drops, batch norm uses batch statistics and updates running ones,
                         observers observe */
    bool needs_grad;  /* record what backward needs; off in evaluation */
    bool is_dry;      /* shapes only: nothing is computed, no data is allocated */
    bool is_float;    /* the shadow: quantizing views let values pass, and nothing is folded */
    bool floats_weights, floats_activations; /* only those of weights do, or of activations; a layer
                                                whose weight passes is not folded */
    const char *only[2]; /* scopes, of a layer and of where its input is quantized: all quantizing
                            views outside of them let values pass; NULL: this asks nothing */
    bool is_rerun; /* of a batch that was seen: running statistics and ranges stay as they are */
    Recompute recompute;  /* the same bits; but in half precision with RECOMPUTE_CHEAP */
    bool is_watching;     /* backward looks for the first gradients that are not finite */
    bool keeps_residuals; /* fake-quant saves its rounding residuals (for tape_replay) */
    Dtype half;           /* f16, bf16: planned records keep activations, weights that products
                             read, and gradients so; products, sums and all arithmetic are f32 */
    bool keeps_f32_grads; /* but for the gradients of weights */
    double loss_scale;    /* of gradients to come, for whoever adds some of another origin */
} TapeMode;

#define TAPE_TRAINING   ((TapeMode){.is_training = true, .needs_grad = true, .loss_scale = 1})
#define TAPE_EVALUATION ((TapeMode){.loss_scale = 1})

struct Tape {
    Arena *arena;          /* lives for a step */
    Error error;           /* the first failure since tape_begin */
    TapeMode mode;         /* of this record */
    bool is_replay;        /* inside tape_replay: no side effects, rounding residuals stay frozen */
    const Var *overflowed; /* where gradients first were not finite: the highest Var; NULL: nowhere,
                              or nobody watched */
    uint64_t seed, step;   /* key of dropout */
    uint64_t generation;   /* of this record, unlike that of any other record of any tape, so that
                              others can cache what belongs to one record */
    const char *scope;
    uint32_t segment, segment_count; /* of the block at work, 0: none; begun in this record */
    Var **vars;
    int count, capacity;
    struct Plan *plan; /* where this record's buffers lie (autograd/plan.h); NULL: each apart */
    unsigned char *planned; /* the block that they share */
    struct Staged *staged;  /* gradients that the op at work writes in f32 */
    Arena *staging;         /* f32 copies of half-precision tensors, for one op */
    struct Plan *last_plan; /* kept, because the next record is likely the same */
    Arena *plan_arena;
};

Tape *tape_new(Arena *owner); /* the tape struct lives in `owner`, its step arena is its own */
void tape_free(Tape *t);      /* frees the step arena */

/* Starts a new record: forgets all Vars, resets the arena. */
void tape_begin(Tape *t, TapeMode mode);

/* What a model does on a tape: records, and returns the result (a loss, or logits). Called twice by
 * tape_run, so it must record the same both times. */
typedef Var *TapeBuild(void *context, Tape *t);

/* Records `build` in as little memory as its lifetimes allow: a dry run finds them. In between,
 * nothing but the result and what backward reads keeps its value. For a training step or an
 * evaluation; whoever wants to look at every value records after tape_begin alone. Errors as
 * ever in t->error; the result is then of no use. */
Var *tape_run(Tape *t, TapeMode mode, TapeBuild *build, void *context);

/* A leaf. A gradient buffer belongs to one leaf of a record. `grad` is where its gradient goes
 * (NULL: it needs none) and `has_grad` says whether that holds something already (set by backward;
 * cleared by whoever starts a new sum). */
Var *tape_leaf(Tape *t, Tensor value, float *grad, bool *has_grad);
Var *tape_constant(Tape *t, Tensor value);

/* Whoever wants to read x->value before the record is complete says so here, in the dry run as in
 * the real one. True: the values are there; false: this is a dry run, there are none. `probe` (or
 * NULL) is asked of who writes x in planned records: x->is_seen and x->probe == probe where it was
 * answered. It is kept with the plan, so it lives as long as the tape. */
bool tape_probe(Tape *t, Var *x, Probe *probe);

/* What op constructors call: copies the attributes, infers the shape, allocates, runs forward. */
Var *tape_record(Tape *t, const Op *op, int in_count, Var *const *in, const void *attr,
                 size_t attr_bytes);

/* The first half of tape_record: the Var and its shape, without memory or values. For run.c alone.
 */
Var *tape_append(Tape *t, const Op *op, int in_count, Var *const *in, const void *attr,
                 size_t attr_bytes);

/* Gradients of everything that needs one, from the scalar `loss`, whose own gradient is `seed_grad`
 * (1, a loss scale, 1 / micro-batches). */
void tape_backward(Tape *t, Var *loss, float seed_grad);

/* For backward functions: the gradient buffer of `in` (NULL if it needs none). *beta is 0 when the
 * buffer holds nothing yet (overwrite it all), else 1 (add). Call once per backward and input. */
float *tape_grad(Tape *t, Var *in, float *beta);
/* The same as a tensor of the precision that it is kept in; .data is NULL if `in` needs none. */
Tensor tape_grad_tensor(Tape *t, Var *in, float *beta);

void *tape_alloc(Tape *t, size_t bytes); /* step memory, 64-byte aligned, undefined contents */

/* Runs every forward of the record again with the leaves' current values. Rounding residuals are
 * frozen, so that the function is smooth and is the straight-through surrogate; fake-quant then
 * gives values, not levels. Needs keeps_residuals during the record. */
void tape_replay(Tape *t);

/* A leaf for samples: values drawn from [low, high) by element, with a gradient buffer. */
Var *tape_sample_leaf(Tape *t, Shape shape, float low, float high);

bool var_is_finite(const Var *v);
bool var_has_finite_grad(const Var *v); /* or none yet */
/* The first quantizer that met a NaN, or NULL. Codes cannot show it: whoever runs a planned record
 * asks. */
const Var *tape_find_nan(const Tape *t);
/* First Var whose values are not all finite, or NULL: to name the layer. */
const Var *tape_find_nonfinite(const Tape *t);
/* The same for values that are not below `limit` in magnitude: what half precision cannot hold. */
const Var *tape_find_beyond(const Tape *t, float limit);

/* Whether shape inference alone shows that v's values are never below 0. */
bool var_is_nonnegative(const Var *v);
static inline float *var_f32(const Var *v) {
    return tensor_f32(&v->value);
}
/* The gradient that came to v, for those to whom the tape gives it in f32. */
static inline float *var_grad_f32(const Var *v) {
    return tensor_f32(&v->grad);
}
static inline int64_t var_count(const Var *v) {
    return shape_count(v->value.shape);
}

#endif
