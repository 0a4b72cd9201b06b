#include "experiments/export/exporter.h"

static const Kind *const kinds[] = {
#define EXPORTER(name) &exporter_##name.kind,
#include "experiments/export/exporters.def"
#undef EXPORTER
};
const KindTable exporter_kinds = {"format", kinds, sizeof kinds / sizeof *kinds};
