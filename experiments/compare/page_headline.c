#include <math.h>
#include <string.h>

#include "experiments/compare/page_parts.h"

static const double NONSENSE = 1e6; /* of a fraction */

void page_number(Page *page, double value, int decimals) {
    if (fabs(value) < 100 * NONSENSE)
        page_format(page, "%.*f", decimals, value);
    else
        page_put(page, "\xe2\x80\x93");
}

void page_score_put(ComparisonPage *c, double value) {
    const Score *score = c->score;
    page_number(&c->page, score->factor * value, score->decimals);
    if (*score->unit) page_format(&c->page, "&#8239;%s", score->unit);
}

const char *page_unit(const ComparisonPage *c) {
    return *c->score->unit ? arena_format(c->arena, " (%s)", c->score->unit) : "";
}

void page_points(Page *page, double fraction) {
    if (!(fabs(fraction) < NONSENSE)) {
        page_put(page, "\xe2\x80\x93");
        return;
    }
    double points = round(10000 * fraction) / 100;
    page_format(page, "%s%.2f", points < 0 ? "\xe2\x88\x92" : points > 0 ? "+" : "", fabs(points));
}

/* ---- What came out, in a sentence. ---- */

static void size_put(ComparisonPage *c, const PageGroup *group) {
    Page *page = &c->page;
    if (isfinite(group->bits_per_weight))
        page_format(page, ", with %.3g bits per weight", group->bits_per_weight);
    if (!(group->bytes > 0)) return;
    page_put(page, isfinite(group->bits_per_weight) ? ": " : ", in ");
    page_bytes(page, group->bytes);
    if (!(c->fp32->bytes > 0)) return;
    page_put(page, " instead of ");
    page_bytes(page, c->fp32->bytes);
}

static void difference_put(ComparisonPage *c, const Interval *difference) {
    Page *page = &c->page;
    double points = round(10000 * difference->mean) / 100;
    if (!(fabs(difference->mean) < NONSENSE)) return;
    if (points == 0) {
        page_put(page, ", the same as FP32");
    } else {
        page_format(page, ", %.2f %s %s FP32", fabs(points), c->points,
                    points < 0 ? "below" : "above");
    }
    if (!isfinite(difference->low + difference->high)) return;
    page_put(page, " (95 % interval ");
    page_points(page, difference->low);
    page_put(page, " to ");
    page_points(page, difference->high);
    page_put(page, ")");
}

static void sentence_put(ComparisonPage *c) {
    Page *page = &c->page;
    const PageGroup *group = c->chosen;
    bool is_close = group && group == page_data_fewest(c, true);
    page_put(page, "<p class=\"lead\">");
    if (!c->group_count) {
        page_put(page, "No run is complete yet.");
    } else if (!c->fp32) {
        page_put(page, "The FP32 network that the others are compared with is not there yet.");
    } else if (!group) {
        page_put(page, "FP32 reaches ");
        page_score_put(c, c->fp32->score.mean);
        page_put(page, "; no quantized network is complete yet.");
    } else {
        if (!is_close)
            page_format(page,
                        "Nothing quantized stays within %s of FP32. Closest: ", c->half_a_point);
        page_put(page, "<strong>");
        page_text(page, group->label);
        page_put(page, "</strong> reaches ");
        page_score_put(c, group->score.mean);
        difference_put(c, &group->difference);
        size_put(c, group);
        page_put(page, ".");
    }
    page_put(page, "</p>\n");
}

/* ---- What one wants to know first. ---- */

static void tile_begin(Page *page, const char *title) {
    page_format(page, "<div><dt>%s</dt><dd>", title);
}

static void fewest_tile(ComparisonPage *c, const char *title, bool is_trained) {
    Page *page = &c->page;
    const PageGroup *group = page_data_fewest(c, is_trained);
    tile_begin(page, title);
    page_text(page, group ? group->label : "none");
    page_put(page, "<small>");
    if (group) {
        page_points(page, group->difference.mean);
        page_format(page, " %s", c->points);
        if (isfinite(group->bits_per_weight))
            page_format(page, ", %.3g bits per weight", group->bits_per_weight);
    } else {
        page_format(page, "each loses more than %s", c->half_a_point);
    }
    page_put(page, "</small></dd></div>\n");
}

/* The layer with the least signal to noise. */
static void layer_tile(ComparisonPage *c) {
    const Json *evaluation = c->chosen ? c->chosen->evaluation : NULL;
    const char *name = NULL;
    double least = INFINITY;
    for (int i = 0; evaluation && i < json_count(evaluation, "layers"); i++) {
        const Json *layer = json_element(evaluation, "layers", i);
        double sqnr = json_number(layer, "sqnr_db");
        if (!(sqnr < least)) continue;
        least = sqnr;
        name = json_get_text(layer, "name");
    }
    if (!name) return;
    tile_begin(&c->page, "Layer that loses most");
    page_name(&c->page, name);
    page_format(&c->page, "<small>%.1f dB signal to noise in ", least);
    page_text(&c->page, c->chosen->label);
    page_put(&c->page, "</small></dd></div>\n");
}

static void fp32_tile(ComparisonPage *c) {
    Page *page = &c->page;
    const PageGroup *fp32 = c->fp32;
    tile_begin(page, "FP32, trained in full precision");
    page_score_put(c, fp32->score.mean);
    page_put(page, "<small>");
    if (fp32->seeds >= 1 && fp32->seeds < 1e6)
        page_format(page, "%.0f seed%s", fp32->seeds, fp32->seeds > 1 ? "s" : "");
    if (fp32->bytes > 0) {
        page_put(page, ", ");
        page_bytes(page, fp32->bytes);
    }
    page_put(page, "</small></dd></div>\n");
}

static void tiles_put(ComparisonPage *c) {
    bool has_ptq = false, has_qat = false;
    for (int i = 0; i < c->group_count; i++) {
        has_qat |= c->groups[i].is_trained;
        has_ptq |= !c->groups[i].is_fp32 && !c->groups[i].is_trained;
    }
    if (!c->fp32) return;
    page_put(&c->page, "<dl class=\"tiles\">\n");
    fp32_tile(c);
    const char *title = arena_format(c->arena, "Fewest bits within %s", c->half_a_point);
    if (has_qat) fewest_tile(c, title, true);
    if (has_ptq) fewest_tile(c, "Fewest bits without training", false);
    layer_tile(c);
    page_put(&c->page, "</dl>\n");
}

/* ---- What is left. ---- */

static bool is_done(const ComparisonPage *c, const char *run) {
    for (int i = 0; i < c->run_count; i++) {
        const char *done = json_get_text(json_element(c->results, "rows", i), "run");
        if (done && !strcmp(done, run)) return true;
    }
    return false;
}

static void left_put(ComparisonPage *c) {
    enum { NAMED_MAX = 12 };
    Page *page = &c->page;
    bool is_complete = false;
    int planned = json_count(c->results, "planned"), left = 0;
    json_get_bool(c->results, "is_complete", &is_complete);
    if (is_complete) return;
    page_put(page, "<p class=\"note\" role=\"status\">This comparison is not complete.");
    for (int i = 0; i < planned; i++) {
        const char *run = json_get_text(c->results, arena_format(c->arena, "planned.%d", i));
        if (!run || is_done(c, run)) continue;
        if (left < NAMED_MAX) {
            page_put(page, left ? ", " : " Still to come: ");
            page_text(page, run);
        }
        left++;
    }
    if (left > NAMED_MAX) page_format(page, " and %d more", left - NAMED_MAX);
    if (left) page_format(page, " (%d of %d runs).", left, planned);
    page_put(page, "</p>\n");
}

static void failed_put(ComparisonPage *c) {
    Page *page = &c->page;
    int count = json_count(c->results, "failed");
    if (!count) return;
    page_put(page, "<div class=\"note failed\" role=\"alert\">Runs that failed:<ul>");
    for (int i = 0; i < count; i++) {
        const Json *failure = json_element(c->results, "failed", i);
        page_put(page, "<li>");
        page_text(page, json_get_text(failure, "run"));
        page_put(page, ": ");
        page_text(page, json_get_text(failure, "reason"));
        page_put(page, "</li>");
    }
    page_put(page, "</ul></div>\n");
}

void page_headline_put(ComparisonPage *c) {
    sentence_put(c);
    left_put(c);
    failed_put(c);
    tiles_put(c);
}
