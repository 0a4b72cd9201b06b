/* The page about a comparison: one self-contained HTML file, no scripts, light and dark.
 *
 * It reads what the comparison's directory holds (docs/formats.md) and computes nothing that
 * trains: results.json, config.yaml, evaluations/<run>.json and runs/<run>/metrics.jsonl. Whatever
 * is not there yet is left out, and the page says which runs are still to come. The same files give
 * the same bytes. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_PAGE_H
#define NIBBLE_EXPERIMENTS_COMPARE_PAGE_H

#include <stdbool.h>

#include "core/error.h"

/* Writes report.html into the directory, replacing an older one whole. Fails where results.json is
 * missing or damaged, or the page cannot be written. */
bool comparison_page_write(const char *directory, Error *err);

#endif
