/* Any processor: vectors of four floats, which every 64-bit one has. */
#include "core/kernels/isa.h"

#define WIDTH                 4
#define ROWS                  3
#define POINTED_ROWS          3
#define BLOCKS                1
#define BROADCAST(x)          ((Vector){(x), (x), (x), (x)})
#define MULTIPLY_ADD(a, b, c) ((c) + (a) * (b))
#define TILE_CASES(tile, job)                                                                      \
    TILE_CASE(1, tile, job) TILE_CASE(2, tile, job) TILE_CASE(3, tile, job)
#define ISA           isa_baseline
#define ISA_NAME      "baseline"
#define ISA_SUPPORTED true

extern const Isa ISA;

#include "core/kernels/body.inc"
