#include "experiments/commands/eval_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/print.h"

void eval_text_cell(const Json *json, const char *path, int width, const char *format,
                    const char *none) {
    char text[64];
    double value = json_number(json, path);
    snprintf(text, sizeof text, format, value);
    print_out(" %*s", width, isnan(value) ? none : text);
}

/* ---- Networks ---- */

typedef struct NetworkColumn {
    const char *title, *path;
} NetworkColumn;

static void score_row(const Json *json, const NetworkColumn *columns, int count, const char *name,
                      const char *key, int decimals, Arena *arena) {
    print_out("%-24s", name);
    for (int i = 0; i < count; i++) {
        const char *path = arena_format(arena, "%s.%s", columns[i].path, key);
        eval_text_cell(json, path, 16, arena_format(arena, "%%.%df", decimals), "-");
    }
    putchar('\n');
}

static void print_networks(const Json *json, const Task *task, bool has_causes, Arena *arena) {
    static const NetworkColumn columns[] = {{"quantized", "quantized"},
                                            {"shadow", "shadow"},
                                            {"weights only", "split.weights"},
                                            {"activations only", "split.activations"}};
    int count = has_causes ? 4 : 2;
    print_out("%-24s", "test set");
    for (int i = 0; i < count; i++) print_out(" %16s", columns[i].title);
    putchar('\n');
    for (int i = 0; i < task->score_count; i++)
        score_row(json, columns, count, task->scores[i].name, task->scores[i].key, 4, arena);
    score_row(json, columns, count, "loss", "loss", 4, arena);
    score_row(json, columns, count, "KL from the shadow", "kl", 6, arena);
    score_row(json, columns, count, "changed predictions", "changed", 0, arena);
    print_out("of %.0f; KL in nats. The shadow is the same weights with nothing quantized: a "
              "diagnostic, no\nbaseline.\n",
              json_number(json, "outputs"));
}

/* Nothing is quantized. */
static void print_test(const Json *json, const Task *task, Arena *arena) {
    const NetworkColumn column = {"", "test"};
    for (int i = 0; i < task->score_count; i++)
        score_row(json, &column, 1, arena_format(arena, "test %s", task->scores[i].name),
                  task->scores[i].key, 4, arena);
    score_row(json, &column, 1, "test loss", "loss", 4, arena);
}

/* ---- Layers ---- */

int eval_text_width(const Json *json, const char *list) {
    int width = 24, most = 40;
    for (int i = 0; i < json_count(json, list); i++) {
        const char *name = json_get_text(json_element(json, list, i), "name");
        if ((int)strlen(name) > width) width = (int)strlen(name);
    }
    return width < most ? width : most;
}

static void print_layer(const Json *layer, int width, Arena *arena) {
    static const char *const parts[] = {"weight", "input"};
    print_out("%-*s", width, json_get_text(layer, "name"));
    eval_text_cell(layer, "bits", 6, "%.4g", "-");
    eval_text_cell(layer, "activation_bits", 5, "%.4g", "-");
    eval_text_cell(layer, "sqnr_db", 8, "%.1f", "exact");
    eval_text_cell(layer, "cosine", 8, "%.5f", "-");
    eval_text_cell(layer, "error_max", 9, "%.3g", "-");
    eval_text_cell(layer, "error_mean", 9, "%.3g", "-");
    const char *per_cent[2];
    for (int i = 0; i < 2; i++) {
        double share = json_number(layer, arena_format(arena, "clipped_%s", parts[i]));
        per_cent[i] = isnan(share) ? "-" : arena_format(arena, "%.2f", 100 * share);
    }
    print_out("  %6s %6s ", per_cent[0], per_cent[1]);
    for (int i = 0; i < 2; i++)
        eval_text_cell(layer, arena_format(arena, "unused_codes_%s", parts[i]), 6, "%.0f", "-");
    putchar('\n');
}

static void print_causes(const Json *layer, int width) {
    static const char *const paths[] = {
        "split.weights.local.sqnr_db", "split.weights.cumulative.sqnr_db",
        "split.activations.local.sqnr_db", "split.activations.cumulative.sqnr_db"};
    print_out("%-*s", width, json_get_text(layer, "name"));
    for (int i = 0; i < 4; i++) eval_text_cell(layer, paths[i], i % 2 ? 12 : 14, "%.1f", "exact");
    putchar('\n');
}

static void print_layers(const Json *json, const Task *task, bool has_causes, Arena *arena) {
    int count = json_count(json, "layers"), width = eval_text_width(json, "layers");
    print_out("\nLayers' outputs beside the shadow's, over %.0f %s\n",
              json_number(json, "layer_rows"), task->rows);
    print_out("%-*s %12s %29s %17s %17s\n", width, "", "bits", "error", "clipped %",
              "unused codes");
    print_out("%-*s %6s %5s %8s %8s %9s %9s  %6s %6s  %6s %6s\n", width, "layer", "weight", "input",
              "SQNR dB", "cosine", "largest", "mean", "weight", "input", "weight", "input");
    for (int i = 0; i < count; i++) print_layer(json_element(json, "layers", i), width, arena);
    if (!has_causes) return;
    print_out(
        "\nSQNR in dB where only weights, or only activations, are quantized; local: in this layer "
        "alone\n");
    print_out("%-*s %14s %12s %14s %12s\n", width, "layer", "weights local", "cumulative",
              "input local", "cumulative");
    for (int i = 0; i < count; i++) print_causes(json_element(json, "layers", i), width);
}

void eval_text_print(const Json *json, const Task *task, Arena *arena) {
    bool has_causes = isfinite(json_number(json, "split.weights.loss"));
    if (isnan(json_number(json, "shadow.loss"))) {
        print_test(json, task, arena);
        return;
    }
    print_networks(json, task, has_causes, arena);
    print_layers(json, task, has_causes, arena);
}
