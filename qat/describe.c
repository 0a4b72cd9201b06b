/* What was prepared, in words: a line for each edge and each weight. */
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "qat/prepare.h"

static const char *granularity_text(const Quant *q) {
    static const char *const texts[] = {"per tensor", "per channel", "per group", "per token"};
    return texts[q->spec.granularity];
}

static void describe_edge(const Edge *edge) {
    const Quant *q = edge->quant;
    char readers[512] = "";
    for (int i = 0; i < edge->reader_count; i++) {
        size_t used = strlen(readers);
        snprintf(readers + used, sizeof readers - used, "%s%s", i ? ", " : "", edge->readers[i]);
    }
    log_info("edge   %-18s -> %-18s %g bits %s, %s, %s", edge->producer, readers,
             bits_number(q->spec.bits),
             q->spec.is_signed || q->spec.is_affine ? "signed" : "unsigned", q->row->kind.name,
             granularity_text(q));
}

static void describe_weight(const WeightSite *site) {
    const Quant *q = site->quant;
    if (!q) {
        log_info("weight %-40s stays float", site->weight->name);
        return;
    }
    log_info("weight %-40s %g %s, %s, %s%s%s", site->weight->name, bits_number(q->spec.bits),
             bits_noun(q->spec.bits), q->row->kind.name, granularity_text(q),
             site->norm ? ", folds " : "", site->norm ? site->norm->name : "");
}

void qat_describe(const Qat *qat) {
    for (int i = 0; i < qat->edge_count; i++) describe_edge(&qat->edges[i]);
    for (int i = 0; i < qat->site_count; i++) describe_weight(&qat->sites[i]);
}
