/* The results of a comparison as text, at most 80 columns wide for usual names. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_TEXT_TABLE_H
#define NIBBLE_EXPERIMENTS_COMPARE_TEXT_TABLE_H

#include "experiments/compare/results.h"

/* `groups` [count] as results_groups gives them; those without a run that is done are left out. */
const char *text_table(const Group *groups, int count, Arena *arena);

#endif
