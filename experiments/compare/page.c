#include "experiments/compare/page.h"

#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "experiments/compare/comparison.h"
#include "experiments/compare/page_parts.h"
#include "experiments/report/text.h"

enum { CONFIG_BYTES_MAX = 4 << 20 };

/* "cnn on fashion_mnist" */
static const char *title_of(const ComparisonPage *c) {
    const char *model = json_get_text(c->results, "model");
    const char *data = json_get_text(c->results, "data.name");
    if (model && data) return arena_format(c->arena, "%s on %s, quantized", model, data);
    if (data) return arena_format(c->arena, "Quantization on %s", data);
    return "Comparison";
}

static void contents_put(Page *page, const char *body) {
    static const struct {
        const char *id, *name;
    } parts[] = {
        {"results", "Results"}, {"charts", "Bits and bytes"}, {"layers", "Layers"},
        {"costs", "Costs"},     {"histograms", "Histograms"}, {"training", "Training"},
        {"changes", "Changes"}, {"confusion", "Confusion"},   {"settings", "Settings"},
    };
    page_put(page, "<nav aria-label=\"Contents\">");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char id[64];
        snprintf(id, sizeof id, " id=\"%s\"", parts[i].id);
        if (strstr(body, id))
            page_format(page, "<a href=\"#%s\">%s</a> ", parts[i].id, parts[i].name);
    }
    page_put(page, "</nav>\n");
}

static void machine_put(ComparisonPage *c) {
    const struct {
        const char *name, *path;
    } rows[] = {{"Processor", "machine.cpu"},
                {"Cores", "machine.cores"},
                {"Threads", "machine.threads"},
                {"Kernels", "machine.isa"},
                {"Memory, bytes", "machine.memory_bytes"},
                {arena_format(c->arena, "Test %s", c->task->rows), "data.test_rows"}};
    Page *page = &c->page;
    page_put(page, "<div class=\"scroll\"><table>\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *text = json_get_text(c->results, rows[i].path);
        int64_t count = 0;
        bool is_count = json_get_int(c->results, rows[i].path, &count);
        if (!text && !is_count) continue;
        page_format(page, "<tr><th scope=\"row\">%s</th><td>", rows[i].name);
        if (is_count) page_count(page, count);
        page_text(page, text);
        page_put(page, "</td></tr>\n");
    }
    double seconds = json_number(c->results, "seconds");
    if (seconds > 0) {
        page_put(page, "<tr><th scope=\"row\">Time, all runs</th><td>");
        page_duration(page, seconds);
        page_put(page, "</td></tr>\n");
    }
    page_put(page, "</table></div>\n");
}

static void settings_put(ComparisonPage *c) {
    Page *page = &c->page;
    Error err = {0};
    size_t bytes = 0;
    const char *path = arena_format(c->arena, "%s/" COMPARISON_CONFIG, c->directory);
    bool is_absent = file_find(path, &err) == FILE_ABSENT;
    const char *text = is_absent ? NULL : file_read(path, CONFIG_BYTES_MAX, c->arena, &bytes, &err);
    page_put(page, "<h2 id=\"settings\">Machine and settings</h2>\n");
    machine_put(c);
    if (!text) {
        page_note(page, "config.yaml is missing.");
        return;
    }
    page_put(page, "<details><summary>The resolved comparison</summary>\n<pre>");
    page_text(page, text);
    page_put(page, "</pre></details>\n");
}

static void page_fill(ComparisonPage *c) {
    Page body = {.arena = c->arena};
    Page head = {.arena = c->arena};
    const char *title = title_of(c);
    c->page = body;
    page_table_put(c);
    page_charts_put(c);
    page_layers_put(c);
    page_costs_put(c);
    page_histograms_put(c);
    page_training_put(c);
    page_images_put(c);
    settings_put(c);
    body = c->page;
    c->page = head;
    page_begin(&c->page, title);
    page_put(&c->page, "<main>\n<header><h1>");
    page_text(&c->page, title);
    page_put(&c->page, "</h1>\n");
    page_headline_put(c);
    contents_put(&c->page, body.text);
    page_put(&c->page, "</header>\n");
    page_put(&c->page, body.text);
    page_put(&c->page, "</main>\n");
    page_end(&c->page);
}

bool comparison_page_write(const char *directory, Error *err) {
    Arena *arena = arena_new("page");
    ComparisonPage c = {.directory = directory, .arena = arena};
    bool ok = page_data_read(&c, err);
    if (ok) {
        page_fill(&c);
        ok = text_write(arena_format(arena, "%s/" COMPARISON_REPORT, directory), c.page.text, err);
    }
    page_data_free(&c);
    arena_free(arena);
    return ok;
}
