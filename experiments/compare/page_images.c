#include <math.h>
#include <string.h>

#include "experiments/compare/page_parts.h"
#include "experiments/report/image.h"
#include "experiments/report/table.h"

enum { CLASSES_MAX = 200 }; /* more make no matrix that can be read */

/* ---- Confusion. ---- */

/* NULL unless it is a square of counts. */
static int64_t *confusion_read(const Json *evaluation, int count, Arena *arena) {
    int64_t *values = arena_new_array(arena, int64_t, (size_t)count * (size_t)count);
    for (int row = 0; row < count; row++) {
        if (json_count(evaluation, arena_format(arena, "confusion.%d", row)) != count) return NULL;
        for (int column = 0; column < count; column++) {
            int64_t *value = &values[row * count + column];
            const char *path = arena_format(arena, "confusion.%d.%d", row, column);
            if (!json_get_int(evaluation, path, value) || *value < 0) return NULL;
        }
    }
    return values;
}

static void matrix_put(ComparisonPage *c, const char *label, const Json *evaluation) {
    int count = evaluation ? json_count(evaluation, "confusion") : 0;
    if (!count || count > CLASSES_MAX) return;
    int64_t *values = confusion_read(evaluation, count, c->arena);
    if (!values) return;
    const char **names = arena_new_array(c->arena, const char *, count);
    for (int i = 0; i < count; i++) names[i] = page_data_class(c, i);
    table_matrix(&c->page, &(ConfusionMatrix){label, count, names, values});
}

static bool has_matrix(const Json *evaluation) {
    return evaluation && json_count(evaluation, "confusion");
}

static void confusion_put(ComparisonPage *c, const Json *fp32, const Json *chosen) {
    if (!has_matrix(fp32) && !has_matrix(chosen)) return;
    page_put(&c->page, "<h2 id=\"confusion\">Confusion matrix of the test set</h2>\n");
    page_note(&c->page, "Rows are true classes, columns what the network answered.");
    page_put(&c->page, "<div class=\"charts\">\n<div>");
    matrix_put(c, "FP32", fp32);
    page_put(&c->page, "</div>\n<div>");
    if (c->chosen) matrix_put(c, c->chosen->label, chosen);
    page_put(&c->page, "</div>\n</div>\n");
}

/* ---- What changes. ---- */

static bool has_changes(const PageGroup *group) {
    bool is_counted = isfinite(json_number(group->evaluation, "changed"));
    return !group->is_fp32 && (is_counted || isfinite(group->better + group->worse));
}

static void changes_put(ComparisonPage *c) {
    Page *page = &c->page;
    page_note(page,
              "Of the test images, those whose answer is not FP32's (one seed), and those that "
              "one of the two alone gets right (all seeds); p: how likely so uneven a count "
              "is if both are as good.");
    page_put(page,
             "<div class=\"scroll\"><table class=\"results\"><thead><tr><th scope=\"col\">Row</th>"
             "<th scope=\"col\" class=\"n\">Changed</th>"
             "<th scope=\"col\" class=\"n\">Right only in FP32</th>"
             "<th scope=\"col\" class=\"n\">Right only here</th>"
             "<th scope=\"col\" class=\"n\">McNemar's p</th>"
             "<th scope=\"col\" class=\"n\">KL divergence, nats</th></tr></thead><tbody>\n");
    for (int i = 0; i < c->group_count; i++) {
        const PageGroup *group = &c->groups[i];
        if (!has_changes(group)) continue;
        page_put(page, "<tr><th scope=\"row\">");
        page_name_put(page, group);
        page_put(page, "</th>");
        table_number(page, json_number(group->evaluation, "changed"), "%.0f");
        table_number(page, group->worse, "%.0f");
        table_number(page, group->better, "%.0f");
        if (group->p < 0.001) {
            page_put(page, "<td class=\"n\">&lt;&#8239;0.001</td>");
        } else {
            table_number(page, group->p, "%.3f");
        }
        table_number(page, group->kl, "%.4f");
        page_put(page, "</tr>\n");
    }
    page_put(page, "</tbody></table></div>\n");
}

/* ---- Images. ---- */

static bool pixels_read(const Json *example, Image *image, Arena *arena) {
    int64_t height = 0, width = 0, channels = 0;
    bool has_shape = json_get_int(example, "height", &height) &&
                     json_get_int(example, "width", &width) &&
                     json_get_int(example, "channels", &channels);
    bool fits = has_shape && height >= 1 && width >= 1 && height <= IMAGE_SIDE_MAX &&
                width <= IMAGE_SIDE_MAX && (channels == 1 || channels == 3);
    int count = fits ? (int)(height * width * channels) : 0;
    if (!fits || json_count(example, "pixels") != count) return false;
    uint8_t *pixels = arena_new_array(arena, uint8_t, count);
    for (int i = 0; i < count; i++) {
        double value = json_number(example, arena_format(arena, "pixels.%d", i));
        pixels[i] = (uint8_t)fmin(255, fmax(0, value)); /* fmax passes over NAN */
    }
    *image = (Image){(int)height, (int)width, (int)channels, pixels};
    return true;
}

static void answer_put(ComparisonPage *c, const char *who, int64_t class, int64_t truth) {
    Page *page = &c->page;
    page_put(page, "<dt>");
    page_text(page, who);
    page_put(page, class == truth ? "</dt><dd class=\"right\">" : "</dt><dd class=\"wrong\">");
    page_text(page, page_data_class(c, class));
    page_put(page, class == truth ? "<span> \xe2\x9c\x93</span></dd>"
                                  : "<span> \xe2\x9c\x97</span></dd>");
}

static void example_put(ComparisonPage *c, const Json *example, const Json *fp32,
                        const Json *chosen) {
    Page *page = &c->page;
    int64_t index = -1, label = -1, before = -1, after = -1;
    Image image;
    json_get_int(example, "index", &index);
    json_get_int(example, "label", &label);
    const char *path = arena_format(c->arena, "predictions.%lld", (long long)index);
    bool is_known = index >= 0 && label >= 0 && json_get_int(chosen, path, &after);
    if (!is_known || !pixels_read(example, &image, c->arena)) return;
    page_put(page, "<figure class=\"example\">");
    image_put(page, &image, arena_format(c->arena, "Test image %lld", (long long)index));
    page_put(page, "<figcaption>");
    page_text(page, page_data_class(c, label));
    page_format(page, " <small>#%lld</small></figcaption><dl>", (long long)index);
    if (fp32 && json_get_int(fp32, path, &before)) answer_put(c, "FP32", before, label);
    answer_put(c, c->chosen->label, after, label);
    page_put(page, "</dl></figure>\n");
}

static void examples_put(ComparisonPage *c, const Json *fp32, const Json *chosen) {
    int count = chosen ? json_count(chosen, "examples") : 0;
    if (!count) return;
    page_put(&c->page, "<h3>Test images that ");
    page_text(&c->page, c->chosen->label);
    page_put(&c->page, " sees otherwise than FP32</h3>\n");
    page_note(&c->page, "In bold what it is; below, what each network says.");
    page_put(&c->page, "<div class=\"examples\">\n");
    for (int i = 0; i < count; i++) {
        const Json *example = json_element(chosen, "examples", i);
        if (example) example_put(c, example, fp32, chosen);
    }
    page_put(&c->page, "</div>\n");
}

void page_images_put(ComparisonPage *c) {
    const Json *chosen = c->chosen ? c->chosen->evaluation : NULL;
    const Json *fp32 = c->chosen ? page_data_fp32(c, c->chosen)
                       : c->fp32 ? c->fp32->evaluation
                                 : NULL;
    bool has_any = false;
    for (int i = 0; i < c->group_count; i++) has_any |= has_changes(&c->groups[i]);
    if (has_any) {
        page_put(&c->page, "<h2 id=\"changes\">What changes its class</h2>\n");
        changes_put(c);
        examples_put(c, fp32, chosen);
    }
    confusion_put(c, fp32, chosen);
}
