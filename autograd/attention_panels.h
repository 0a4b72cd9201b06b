/* Keys and values as the products of attention read them. Of a head, with room for so many
 * positions, a multiple of PANEL:
 *     keys    [room / PANEL][dim][PANEL]: positions side by side, for products over dim
 *     values  [dim / PANEL, rounded up][room][PANEL]: numbers side by side, zeros behind the last
 *             one, for products over positions
 * In backward queries and gradients lie so too. */
#ifndef NIBBLE_AUTOGRAD_ATTENTION_PANELS_H
#define NIBBLE_AUTOGRAD_ATTENTION_PANELS_H

#include <stdint.h>

/* Those of one sequence and all heads of keys, one after the other. */
typedef struct AttentionPanels {
    float *keys, *values;
    int64_t room, length; /* positions; those that are there */
} AttentionPanels;

int64_t attention_room(int64_t length); /* for at least so many positions */
/* Of a head. */
int64_t attention_key_floats(int64_t dim, int64_t room);
int64_t attention_value_floats(int64_t dim, int64_t room);

/* One position. The first of a panel clears those beside it, which are computed with before they
 * are there, and seen by nobody. */
void attention_put_key(const float *key, int64_t dim, int64_t position, float *keys);
void attention_put_value(const float *value, int64_t dim, int64_t room, int64_t position,
                         float *values);

/* The same of a panel of positions, `rows` rows of x [length][stride] from panel x PANEL on. */
void attention_put_keys(const float *x, int64_t stride, int64_t rows, int64_t dim, int64_t panel,
                        float *keys);

#endif
