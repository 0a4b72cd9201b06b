/* A group of maps at work: what its two ways (map.c, map_backward.c) share. For them alone. */
#ifndef NIBBLE_AUTOGRAD_MAP_GROUP_H
#define NIBBLE_AUTOGRAD_MAP_GROUP_H

#include "autograd/map.h"

typedef struct MapNode {
    Var *v;
    const Map *map;
    int from[MAP_INPUTS_MAX];   /* the node whose output is read, or -1: from outside */
    int target[MAP_INPUTS_MAX]; /* whose gradient from outside is written, or -1 */
    bool reads[MAP_INPUTS_MAX]; /* backward: the input's values are needed */
    bool is_made;               /* backward: the output's values are made again */
    bool is_live;               /* backward: a gradient comes here */
    bool has_outside;           /* part of it from v->grad */
    bool is_plain;              /* MAP_FLOW_PLAIN */
    int64_t sum_at, sum_count;
    MapGrads grads; /* of parameters */
} MapNode;

typedef struct Target {
    Var *v;
    Tensor grad;
    float beta;
} Target;

typedef struct GroupRun {
    MapNode nodes[MAP_GROUP_MAX];
    Target targets[MAP_GROUP_MAX * MAP_INPUTS_MAX];
    int count, target_count;
    Pieces pieces;
    int64_t chunks, sum_count;
    double *sums;    /* backward: [chunk][sum_count], or where there is a feed [piece][sum_count] */
    bool has_reduce; /* of an op that waits for its sums */
    int64_t block_elements;
    Var *feed, *tail; /* or NULL; backward: only those that have a gradient */
    int last_from;    /* the node that the tail (backward: or the feed) reads */
    ProbeRun probe;   /* forward: at the last value; of no probe where none is asked */
    float *scratch;   /* per thread: see Lane */
} GroupRun;

/* Blocks of one thread: of every node its output, its gradient and its decoded inputs. */
typedef struct Lane {
    float *out, *grad, *input, *spare; /* [node], [node], [node][MAP_INPUTS_MAX], [MAP_SPARES] */
} Lane;

enum { MAP_SPARES = MAP_INPUTS_MAX + 1 };

#define MAP_LANE_BLOCKS(nodes) ((nodes) * (2 + MAP_INPUTS_MAX) + MAP_SPARES)

void map_group_init(GroupRun *g, const MapGroup *group, Pieces pieces);
Pieces map_pieces_forward(const MapGroup *group);
void map_scratch_init(GroupRun *g, Arena *arena);
Lane map_lane(const GroupRun *g); /* of this thread */

int map_index(Var *const *ops, int count, const Var *v); /* -1: it is not among them */

/* The piece of an input from outside: the memory itself, or decoded to the lane. */
const float *map_outside_block(const GroupRun *g, const Lane *lane, int node, int j,
                               const Piece *piece);

/* The piece that a product's block is; its values become dense. */
Piece map_piece_fed(const GroupRun *g, const GemmBlock *block, float **dense);

uint32_t *map_mask_block(const GroupRun *g, const Var *v, const Piece *piece);

#endif
