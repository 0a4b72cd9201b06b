/* Exporters: formats of other programs that `nibble export` writes a run's network in. */
#ifndef NIBBLE_EXPERIMENTS_EXPORT_EXPORTER_H
#define NIBBLE_EXPERIMENTS_EXPORT_EXPORTER_H

#include "experiments/train/experiment.h"

/* A row of exporters.def. */
typedef struct Exporter {
    Kind kind;
    const char *file; /* in the directory, which is made last and without which nothing is there */
    /* `e` is open as experiment_open_run opens it. The directory is there. */
    bool (*write)(Experiment *e, const char *directory, Error *err);
} Exporter;

#define EXPORTER(name) extern const Exporter exporter_##name;
#include "experiments/export/exporters.def"
#undef EXPORTER

extern const KindTable exporter_kinds;

#endif
