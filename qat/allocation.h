/* Bits for each layer under a budget: the multiple-choice knapsack problem, solved exactly.
 *
 *     AllocationProblem p = {.layers = 3, .choices = 2, .cost = cost, .bytes = bytes, .budget =
 * 90}; if (allocation_solve(&p, chosen)) ...       chosen[layer]: the number of its choice
 *
 * Of all allocations whose bytes sum to at most the budget, the one with the least sum of costs; of
 * those, the one with the fewest bytes; of those, the first in the order of their choices, earlier
 * layers first. A pure function: the same bits again. Costs are summed in the order of the layers.
 *
 * Prefixes of the layers are extended one layer at a time. A prefix that costs no less and takes no
 * fewer bytes than another is dropped, and so is one that a lower bound of what follows (the linear
 * relaxation, on the convex hulls of the layers' choices) shows to be dearer than an allocation
 * that is known (Martello and Toth, Knapsack Problems, 1990, chapter 2; Sinha and Zoltners 1979).
 */
#ifndef NIBBLE_QAT_ALLOCATION_H
#define NIBBLE_QAT_ALLOCATION_H

#include <stdbool.h>
#include <stdint.h>

typedef struct AllocationProblem {
    int layers, choices;  /* choices of each layer */
    const double *cost;   /* [layers][choices], finite, of any sign */
    const int64_t *bytes; /* [layers][choices], at least 0 */
    int64_t budget;
} AllocationProblem;

/* False: not even the smallest choice of each layer fits. */
bool allocation_solve(const AllocationProblem *problem, int *chosen);

/* The sum of each layer's smallest choice. */
int64_t allocation_smallest(const AllocationProblem *problem);

#endif
