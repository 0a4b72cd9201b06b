/* Maps: ops whose output element depends on the same element of inputs of the same shape, on what
 * belongs to its channel (the last dimension), and on sums over all elements that are known before.
 * Activations, batch norm, sums, products, dropout and fake quantization are maps.
 *
 * A run of maps over the same shape is executed as a group: piece by piece (autograd/piece.h),
 * every op in turn while the piece is in cache, so that only what somebody else reads goes through
 * memory. Backward makes the values that it needs again, from what the group read. A plan
 * (autograd/plan.h) finds the groups; without one each op is a group of its own, with the same
 * bits: pieces depend on the shape only, elements are computed alike, and sums are added in the
 * same order.
 *
 * A product can feed a group: its blocks go through the maps before they leave the cache. Forward
 * the group reads what a linear layer makes, backward the gradient that it makes for its input.
 *
 * An op that reads the last map's output in windows of whole pieces, a pooling, can be a group's
 * tail: what it reads then never leaves the cache, forward and backward. */
#ifndef NIBBLE_AUTOGRAD_MAP_H
#define NIBBLE_AUTOGRAD_MAP_H

#include "autograd/piece.h"
#include "autograd/tape.h"
#include "core/gemm.h"

enum {
    MAP_INPUTS_MAX = 2,
    MAP_OPERANDS_MAX = 4, /* inputs and parameters */
    MAP_GROUP_MAX = 24,   /* ops in a group */
};

/* What an op does at a time. Blocks are dense, `count` elements: the piece's rows. */
typedef struct MapBlock {
    Piece piece;
    int64_t count;
    const float *in[MAP_INPUTS_MAX]; /* of the mapped inputs; levels where the input holds levels */
    float *out;                      /* forward: to be written; backward: the values */
    const float *dy;                 /* the gradient of the output */
    float *dx[MAP_INPUTS_MAX];       /* to be overwritten; NULL: not wanted */
    double *sums;                    /* [sum_count] to add to, once each; NULL: not wanted */
    bool *met_nan;                   /* forward: Var.met_nan, to be set by many threads */
} MapBlock;

/* Where the gradients of inputs go, with how much of what is there stays (tape_grad). */
typedef struct MapGrads {
    float *grad[MAP_OPERANDS_MAX], beta[MAP_OPERANDS_MAX];
} MapGrads;

/* What the gradient of an input takes besides that of the output. */
typedef enum MapFlow {
    MAP_FLOW_VALUES, /* values, as the op's flags say */
    MAP_FLOW_MASK,   /* it is the output's where the input was in range, else 0: a bit says so */
    MAP_FLOW_PLAIN,  /* nothing: it is the output's */
} MapFlow;

/* How an op maps. Backward reads in[] and out only as far as the op's flags say (OP_SPARES_...). */
typedef struct Map {
    int input_count; /* the first 1 or 2 inputs are mapped, those after them are parameters */
    bool is_whole;   /* prepare reads all of input 0 (batch statistics) */
    /* Whether this instance wants the moments of input 0: whoever writes it may leave them there
     * (Var.moments). NULL: no. */
    bool (*takes_moments)(const Var *v);
    /* Whether this instance maps; NULL: all do. Others go through Op.forward and Op.backward. */
    bool (*fits)(const Var *v);
    /* Before the first block: statistics, v->saved, v->value.scales. May be NULL. */
    void (*prepare)(Tape *t, Var *v);
    void (*forward)(const Var *v, const MapBlock *block);
    MapFlow flow;                     /* of a map with `backward`; one without is MAP_FLOW_PLAIN */
    MapFlow (*flow_of)(const Var *v); /* where it depends on the instance; NULL: `flow` */
    /* NULL: the gradient of the output is that of every mapped input. */
    void (*backward)(const Var *v, const MapBlock *block);
    /* Bytes that forward leaves for backward at v->notes: memory that a plan lays with values,
     * where what is saved otherwise stays until the record ends. Without a plan there is none, nor
     * where backward will not come or forward runs again before it. NULL: none; never with a flow
     * of masks. */
    size_t (*note_bytes)(const Var *v);
    /* Sums over all elements that gradients need: how many, and what a block adds. Without `reduce`
     * backward adds them as it goes; with it they are there (and `settle` was called) before the
     * first call of backward. Where the flow is plain, `reduce` reads the gradient alone. */
    int64_t (*sum_count)(const Var *v);
    /* Whether the parameters of this instance get gradients; NULL: yes. */
    bool (*learns)(const Var *v);
    void (*reduce)(const Var *v, const MapBlock *block);
    /* When the sums are complete: the gradients of parameters (by input; NULL where not wanted),
     * and what backward takes from the sums. */
    void (*settle)(Var *v, const double *sums, const MapGrads *grads);
} Map;

/* How an op feeds a group, where its values are cut in tiles (Pieces.are_tiles): as Op.forward, but
 * the value goes to `take` block by block and nowhere else; as Op.backward, but so does the
 * gradient of input 0, of which there is none yet. */
typedef struct MapFeed {
    void (*forward)(Tape *t, Var *v, GemmTake *take, void *context);
    void (*backward)(Tape *t, Var *v, GemmTake *take, void *context);
} MapFeed;

/* How an op works as a tail. Blocks are `count` elements of its input from `first` on; those of the
 * output and its gradient are `ratio` times smaller. */
typedef struct MapTail {
    bool (*fits)(const Var *v, int64_t block_rows); /* whether windows lie within blocks */
    int64_t (*ratio)(const Var *v);
    void (*prepare)(Tape *t, Var *v);
    void (*forward)(const Var *v, int64_t first, int64_t count, const float *x, float *y);
    void (*backward)(const Var *v, int64_t first, int64_t count, const float *dy, float *dx);
} MapTail;

bool map_fits(const Var *v); /* whether v's op is a map, and this instance fits */
void map_prepare(Tape *t, Var *v);
bool map_fits_tail(const Var *v); /* whether v can be the tail of the group that makes its input */

/* Maps that run as one, in the order of the tape. Values go where value.data says, NULL: they are
 * not kept. */
typedef struct MapGroup {
    Var *ops[MAP_GROUP_MAX];
    int count;
    Var *feed; /* forward: whose value they read; backward: that reads theirs; or NULL */
    Var *tail; /* or NULL */
} MapGroup;

void map_forward(Tape *t, const MapGroup *group);
void map_backward(Tape *t, const MapGroup *group); /* with that of the feed */

MapFlow map_flow(const Var *v);

/* Which values backward needs: is_made[i] for those that it makes again, and for each op's mapped
 * inputs whether they are read: of the group those that are not made are read where they lie.
 * `has_masks`: forward leaves masks (Var.mask) where the flow is one. */
void map_needs(Var *const *ops, int count, bool has_masks, bool *is_made,
               bool (*reads)[MAP_INPUTS_MAX]);

/* Whether backward reads no value at all if masks are there, but would without them: a bit per
 * element is then kept instead of what the group read. */
bool map_takes_masks(Var *const *ops, int count);
size_t map_note_bytes(const Var *v); /* 0: it leaves none */
size_t map_mask_bytes(const Var *v); /* of v's mask: its pieces', one after the other */

/* Bytes of the step's arena that a group takes while it runs, but for its feed's own. */
int64_t map_scratch(const MapGroup *group, bool is_backward);

#endif
