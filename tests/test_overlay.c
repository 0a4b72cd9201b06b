/* Settings over others (fields_overlay), and trees of settings that are kept for later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/settings_example.h"

static Node *tree(Arena *arena, const char *text) {
    return yaml_read_own(text, (Mark){"t", 1, 1}, arena);
}

static void check(const char *below, const char *above, const char *expected) {
    Arena *arena = arena_new("test");
    Node *joined = fields_overlay(example_fields, tree(arena, below), tree(arena, above), arena);
    assert_string_equal(node_to_yaml(joined, arena), node_to_yaml(tree(arena, expected), arena));
    arena_free(arena);
}

static void test_sections_join(void **state) {
    (void)state;
    check("{seed: 1, train: {epochs: 3, data: {path: a, note: b}}}",
          "{train: {data: {note: c}}, precision: f16}",
          "{seed: 1, train: {epochs: 3, data: {path: a, note: c}}, precision: f16}");
    check("{seed: 1}", "{}", "{seed: 1}");
    check("{train: {epochs: 3}}", "{train: null}", "{train: null}");
}

static void test_lists_are_replaced(void **state) {
    (void)state;
    check("{milestones: [1, 2, 3]}", "{milestones: [4]}", "{milestones: [4]}");
    check("{rules: [{match: a}, {match: b}]}", "{rules: []}", "{rules: []}");
}

static void test_variants_join_where_they_are_of_one_kind(void **state) {
    (void)state;
    check("{optimizer: {kind: sgd, lr: 1, momentum: 0}}", "{optimizer: {lr: 2}}",
          "{optimizer: {kind: sgd, lr: 2, momentum: 0}}");
    check("{optimizer: {kind: sgd, lr: 1}}", "{optimizer: {sgd: {momentum: 0}}}",
          "{optimizer: {kind: sgd, lr: 1, momentum: 0}}");
    check("{optimizer: {kind: sgd, lr: 1}}", "{optimizer: sgd}", "{optimizer: {kind: sgd, lr: 1}}");
    check("{optimizer: {sgd: {lr: 1}}}", "{optimizer: {lr: 2}}", "{optimizer: {kind: sgd, lr: 2}}");
    check("{optimizer: {kind: sgd, lr: 1}}", "{optimizer: {kind: adam, lr: 2}}",
          "{optimizer: {kind: adam, lr: 2}}");
    check("{optimizer: {kind: sgd, lr: 1}}", "{optimizer: adam}", "{optimizer: adam}");
    check("{clip: {kind: sgd}}", "{clip: null}", "{clip: null}");
}

/* What is wrong stays there for who reads the result. */
static void test_mistakes_stay(void **state) {
    (void)state;
    check("{seed: 1}", "{sede: 2}", "{seed: 1, sede: 2}");
    Arena *arena = arena_new("test");
    Node *above = tree(arena, "{seed: 2}");
    node_append(above, node_new(arena, NODE_SCALAR, "seed", "3", above->mark));
    Node *joined = fields_overlay(example_fields, tree(arena, "{seed: 1}"), above, arena);
    assert_int_equal(joined->count, 2);
    arena_free(arena);
}

/* ---- Trees ---- */

typedef struct Holder {
    const Node *train, *optimizer;
} Holder;

static const Field place_fields[] = {
    FIELD_STRING(DataConfig, path, "", "directory", .is_path = true),
    FIELD_END,
};
static const Field section_fields[] = {
    FIELD_STRUCT(TrainConfig, data, place_fields, "where it comes from"),
    FIELD_END,
};

static const Field holder_fields[] = {
    FIELD_TREE(Holder, train, "of the training", .fields = section_fields),
    FIELD_TREE(Holder, optimizer, "how to move", .kinds = &example_optimizers),
    FIELD_END,
};

static const char *read_holder(Arena *arena, const char *text, Holder *out) {
    char *lines = arena_zalloc(arena, EXAMPLE_TEXT_BYTES);
    Faults faults = {.arena = arena};
    fields_read(holder_fields, tree(arena, text), (Mark){"t", 1, 1}, out, arena, &faults);
    faults_print(&faults, arena, example_add_line, lines);
    return lines;
}

static void test_a_tree_is_kept_as_it_stands(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Holder holder;
    const char *text = "{train: {epochs: 3, data: {path: here}}, optimizer: adam}";
    assert_string_equal(read_holder(arena, text, &holder), "");
    assert_string_equal(node_to_yaml(holder.train, arena), "epochs: 3\ndata:\n  path: here\n");
    Node *written = fields_write_in(holder_fields, &holder, "/there", arena);
    assert_string_equal(node_to_yaml(written, arena),
                        "train:\n  epochs: 3\n  data:\n    path: /there/here\noptimizer: adam\n");
    assert_string_equal(read_holder(arena, "{train: {data: {path: null}}}", &holder), "");
    written = fields_write_in(holder_fields, &holder, "/there", arena);
    assert_string_equal(node_to_yaml(written, arena),
                        "train:\n  data:\n    path: null\noptimizer: null\n");
    assert_string_equal(read_holder(arena, "{}", &holder), "");
    assert_true(!holder.train && !holder.optimizer);
    assert_string_equal(read_holder(arena, "{train: 3}", &holder),
                        "t:1:1: 'train': expected a map of settings, found '3'");
    assert_string_equal(read_holder(arena, "{optimizer: [sgd]}", &holder),
                        "t:1:1: 'optimizer': expected a map of settings, found a list");
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sections_join),
        cmocka_unit_test(test_lists_are_replaced),
        cmocka_unit_test(test_variants_join_where_they_are_of_one_kind),
        cmocka_unit_test(test_mistakes_stay),
        cmocka_unit_test(test_a_tree_is_kept_as_it_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
