/* Several paths over the same input, concatenated along the channels or added. */
#include <assert.h>

#include "autograd/layers.h"
#include "autograd/ops.h"

static const char *const joins[] = {"concat", "add", NULL};

static const Field branch_fields[] = {
    FIELD_VARIANTS(BranchConfig, layers, REQUIRED, &layer_kinds,
                   "the branch's layers; []: x itself"),
    FIELD_END,
};

static const Field fields[] = {
    LAYER_FIELDS(BranchesConfig),
    FIELD_STRUCTS(BranchesConfig, branches, REQUIRED, BranchConfig, branch_fields, "the branches"),
    FIELD_CHOICE(BranchesConfig, join, "concat", joins, "how the branches' outputs become one"),
    FIELD_END,
};

static bool build(Module *self, Var *const *in, Error *err) {
    (void)in;
    const BranchesConfig *c = self->config;
    Arena *arena = self->model->arena;
    int count = c->branches.count;
    if (count < 1 || count > OP_INPUTS_MAX)
        return FAIL(err, ERROR_INPUT, "branches must be from 1 to %d, not %d", OP_INPUTS_MAX,
                    count);
    for (int i = 0; i < count; i++) {
        SequentialConfig *config = arena_new_array(arena, SequentialConfig, 1);
        config->layers = ((const BranchConfig *)c->branches.items)[i].layers;
        module_child(self, &layer_sequential, config, arena_format(arena, "branch%d", i + 1));
    }
    for (int i = 1; c->join == JOIN_ADD && i < count; i++)
        module_child(self, &layer_add, arena_new_array(arena, PlainConfig, 1),
                     arena_format(arena, "add%d", i));
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    const BranchesConfig *c = self->config;
    int count = c->branches.count;
    Var *parts[OP_INPUTS_MAX] = {0};
    for (int i = 0; i < count; i++) parts[i] = module_apply_one(self->children[i], t, in[0]);
    if (c->join == JOIN_CONCAT) return op_concat(t, parts, count, parts[0]->value.shape.rank - 1);
    Var *sum = parts[0];
    for (int i = 1; i < count; i++)
        sum = module_apply(self->children[count + i - 1], t, (Var *[]){sum, parts[i]});
    return sum;
}

const Layer layer_branches = {
    .kind = {"branches", "several paths, joined", sizeof(BranchesConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
