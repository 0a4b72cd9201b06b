/* What quantization does to each layer, as a table: bits, signal to noise, and what else is known.
 */
#ifndef NIBBLE_EXPERIMENTS_REPORT_LAYER_TABLE_H
#define NIBBLE_EXPERIMENTS_REPORT_LAYER_TABLE_H

#include "core/json.h"
#include "experiments/report/page.h"

/* Of layers[] as summary.json has them, or an evaluation of a comparison (docs/formats.md).
 * Columns of which no layer knows anything are left out. */
void layer_table_put(Page *page, const Json *json);

#endif
