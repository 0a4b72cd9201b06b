/* Merging: an adapter's update goes into the weights that it stands on.
 *
 *     route        the merged weight                    of a base stored in few bits
 *     f16          f16(W + update)                      W: as it was before it was stored
 *     dequantized  f16(Q(W) + update)                   the network that was trained
 *     requantized  f16(Q(Q(W) + update))                on the grid of the base again
 *
 * The update is what the adapter makes of Q(W), less Q(W). What a route keeps of it is measured:
 * got is the merged weight less the weight that the route begins with, gain = <got, update> /
 * <update, update>,    SQNR = 10 log10(|update|^2 / |update - got|^2). A small update is erased by
 * re-quantizing: Q(W) lies on the grid, and nearest to itself. */
#ifndef NIBBLE_EXPERIMENTS_ADAPTER_MERGE_H
#define NIBBLE_EXPERIMENTS_ADAPTER_MERGE_H

#include "experiments/train/deviation.h"
#include "experiments/train/experiment.h"
#include "experiments/train/shadow.h"

typedef enum MergeRoute {
    MERGE_F16,
    MERGE_DEQUANTIZED,
    MERGE_REQUANTIZED,
    MERGE_ROUTES
} MergeRoute;

extern const char *const merge_route_names[MERGE_ROUTES];

#define MERGE_GAIN_MIN 0.9 /* a route that keeps less is refused */

typedef struct MergeKept {
    bool is_possible; /* f16: the weights as they were are at hand; requantized: there is a grid */
    DeviationSums sums; /* of the update, and what a route got of it */
} MergeKept;

double merge_gain(const MergeKept *kept); /* 1 where there is no update */

typedef struct MergeLayer {
    const char *name;
    MergeKept kept[MERGE_ROUTES];
} MergeLayer;

typedef struct Merge {
    MergeRoute route;
    MergeLayer *layers; /* [count], in the order of the adapter's sites */
    int count;
    MergeKept all[MERGE_ROUTES];
    int64_t rows;        /* of the test set or windows of a text, on which outputs were compared */
    OutputChange change; /* of the merged network's outputs from the run's */
} Merge;

/* Measures all routes, weight by weight. Refuses a route that is not possible, and, unless `force`,
 * one that keeps less than MERGE_GAIN_MIN of the update. */
bool merge_measure(const Experiment *e, MergeRoute route, bool force, Arena *arena, Merge *out,
                   Error *err);

/* What the route makes of one Param of the base, rounded to f16, in `values`. Beside them it takes
 * two copies in f32. ERROR_NUMERIC, with the element: f16 cannot hold it. */
bool merge_values(const Experiment *e, MergeRoute route, const Param *p, float *values, Error *err);
/* Whether that is more than rounding. */
bool merge_changes(const Experiment *e, MergeRoute route, const Param *p);

/* Compares about so many outputs, of the first rows of the test set or, where `text` names a file
 * of UTF-8, of its first windows. Merged weights are made when a layer reads them, one at a time,
 * and outputs are looked at in parts of 32 MiB: the merged network is never in memory.
 * ERROR_INPUT: there is nothing to compare. */
bool merge_compare(Experiment *e, Merge *merge, const char *text, int64_t outputs, Error *err);

/* Writes model.safetensors in f16, weight by weight, and beside it, where the base is a directory
 * of Hugging Face's, its config.json and the files of its tokenizer. */
bool merge_write(const Experiment *e, const Merge *merge, const char *directory, Error *err);

#endif
