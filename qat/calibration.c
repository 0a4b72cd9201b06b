#include "qat/calibration.h"

/* Quantizer `i` of all, or NULL where a weight has none. */
static Quant *quant_at(const Qat *qat, int i) {
    return i < qat->site_count ? qat->sites[i].quant : qat->edges[i - qat->site_count].quant;
}

const Quant *calibration_find_missing(const Qat *qat) {
    for (int i = 0; i < qat->site_count + qat->edge_count; i++) {
        const Quant *q = quant_at(qat, i);
        if (q && !quant_is_calibrated(q)) return q;
    }
    return NULL;
}

int calibration_begin(Qat *qat) {
    int count = 0;
    qat_set_evaluation(qat);
    for (int i = 0; i < qat->site_count + qat->edge_count; i++) {
        Quant *q = quant_at(qat, i);
        if (q) q->is_calibrating = !quant_is_calibrated(q);
        if (q) count += q->is_calibrating;
    }
    return count;
}

int calibration_learned(const Qat *qat) {
    int count = 0;
    for (int i = 0; i < qat->edge_count; i++) {
        const Quant *q = qat->edges[i].quant;
        count += q->is_calibrating && q->row->learns;
    }
    return count;
}

void calibration_end(Qat *qat) {
    for (int i = 0; i < qat->site_count + qat->edge_count; i++) {
        Quant *q = quant_at(qat, i);
        if (q) q->is_calibrating = false;
    }
}
