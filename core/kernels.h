/* The choice of the inner loops, of which there is one build per instruction set (core/kernels/).
 *
 * Two variables of the environment, read whenever loops are chosen:
 *   NIBBLE_ISA  which loops to run (baseline, avx2, avx512) instead of the best there are
 *   NIBBLE_CPU  the most that the processor is taken to have, by the same names: everything behaves
 *               as on a machine without the rest. For tests of what other machines do. */
#ifndef NIBBLE_CORE_KERNELS_H
#define NIBBLE_CORE_KERNELS_H

#include "core/error.h"

/* Chooses. Fails if a name is unknown or the processor lacks what NIBBLE_ISA wants. Called by
 * parallel_init. */
bool kernels_init(Error *err);
const char *kernels_description(void); /* the name of the chosen row, for env.json */

/* true: gemm() and conv_forward() take the integer reference wherever both operands are levels. For
 * `verify --reference`, which proves that the network is integer arithmetic. */
void kernels_use_reference(bool use);
bool kernels_reference(void);

#endif
