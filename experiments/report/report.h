/* The page about a run: one self-contained HTML file, no scripts, light and dark.
 *
 * It reads what the run directory holds and computes nothing that trains:
 *   summary.json   steps, samples_per_second, train_seconds, timed_from_step, peak_rss_bytes,
 * test.{SCORE,loss}, quantized.SCORE, shadow.SCORE (a task's scores: accuracy),
 * model_bytes, quantized_bytes; layers[] of {name, bits, activation_bits, sqnr_db}; confusion[][]
 * (rows: true classes) of at most REPORT_CLASSES_MAX classes, and classes[], where they have names
 *   metrics.jsonl  training lines {step, loss, lr, samples_per_second}, evaluation lines {step,
 *                  validation.{loss,SCORE}, shadow.SCORE}; a torn line is counted and left out
 *   config.yaml    the resolved settings, as text
 *   env.json       experiments/train/environment.h
 * Each may be missing or damaged: the page says so. The same files give the same bytes. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_REPORT_H
#define NIBBLE_EXPERIMENTS_REPORT_REPORT_H

#include <stdbool.h>

#include "experiments/train/task.h"

enum { REPORT_CLASSES_MAX = 200 }; /* more make no matrix that can be read, and a large file */

/* Writes report.html into the run directory, in the words and scores of `task`, replacing an older
 * one whole. Fails when there is no such directory or it cannot be written. */
bool report_write(const char *run_directory, const Task *task, Error *err);

#endif
