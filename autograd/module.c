#include "autograd/module.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "autograd/layers.h"
#include "autograd/ops.h"
#include "core/panels.h"

static const Kind *const kinds[] = {
#define LAYER(name) &layer_##name.kind,
#include "autograd/layers.def"
#undef LAYER
};
const KindTable layer_kinds = {"layer", kinds, sizeof kinds / sizeof *kinds};

const char *layer_kinds_with(LayerFlags flag, Arena *arena) {
    const char *text = "";
    for (int i = 0; i < layer_kinds.count; i++)
        if (((const Layer *)kinds[i])->flags & flag)
            text = arena_format(arena, "%s%s%s", text, *text ? ", " : "", kinds[i]->name);
    return text;
}

static const char *join_names(Arena *arena, const char *parent, const char *name) {
    return *parent ? arena_format(arena, "%s.%s", parent, name) : arena_strdup(arena, name);
}

/* Room for one more pointer in a growing array of the model's arena. */
static void *grown(Arena *arena, void *items, int count, int *capacity) {
    if (count < *capacity) return items;
    *capacity = *capacity ? 2 * *capacity : 8;
    void **wider = arena_new_array(arena, void *, *capacity);
    if (count) memcpy(wider, items, sizeof *wider * (size_t)count);
    return wider;
}

static void init_values(const Model *model, int index, Init init, Tensor value) {
    int64_t count = tensor_count(&value);
    float *x = tensor_f32(&value);
    RandomKey key = {.seed = model->seed, .stream = RANDOM_INIT, .step = (uint64_t)index};
    switch (init.kind) {
    case INIT_ZERO:
        memset(x, 0, sizeof *x * (size_t)count);
        break;
    case INIT_ONE:
        for (int64_t i = 0; i < count; i++) x[i] = 1;
        break;
    case INIT_NORMAL:
        random_fill_normal(key, init.spread, count, x);
        break;
    case INIT_UNIFORM:
        random_fill_uniform(key, -init.spread, init.spread, count, x);
        break;
    }
}

Param *model_param(Model *model, const char *full_name, Shape shape, ParamRole role, Init init) {
    assert(!model_find_param(model, full_name) && "parameter names are unique");
    Arena *arena = model->arena;
    Param *p = arena_new_array(arena, Param, 1);
    p->name = arena_strdup(arena, full_name);
    p->role = role;
    if (model->is_sketch) {
        p->value = (Tensor){.dtype = DTYPE_F32, .shape = shape};
    } else {
        p->value = tensor_new(arena, DTYPE_F32, shape);
        if (role != PARAM_BUFFER && !model->is_frozen)
            p->grad = tensor_zeros(arena, DTYPE_F32, shape).data;
        init_values(model, model->param_count, init, p->value);
    }
    model->params = grown(arena, model->params, model->param_count, &model->param_capacity);
    model->params[model->param_count++] = p;
    return p;
}

Param *module_param(Module *self, const char *name, Shape shape, ParamRole role, Init init) {
    Model *model = self->model;
    Param *p = model_param(model, join_names(model->arena, self->name, name), shape, role, init);
    p->owner = self;
    self->params = grown(model->arena, self->params, self->param_count, &self->param_capacity);
    self->params[self->param_count++] = p;
    return p;
}

Param *module_find_param(const Module *self, const char *name) {
    size_t skip = *self->name ? strlen(self->name) + 1 : 0;
    for (int i = 0; i < self->param_count; i++)
        if (!strcmp(self->params[i]->name + skip, name)) return self->params[i];
    return NULL;
}

int module_weight_count(const Module *self) {
    int count = 0;
    for (int i = 0; i < self->param_count; i++) count += self->params[i]->role == PARAM_WEIGHT;
    return count;
}

const char *param_weight_name(const Param *weight) {
    return module_weight_count(weight->owner) == 1 ? weight->owner->name : weight->name;
}

Module *module_child(Module *self, const Layer *layer, const void *config, const char *name) {
    Model *model = self->model;
    Module *child = arena_new_array(model->arena, Module, 1);
    *child = (Module){.layer = layer, .config = config, .model = model, .parent = self};
    child->name = join_names(model->arena, self->name, name);
    self->children = grown(model->arena, self->children, self->child_count, &self->child_capacity);
    self->children[self->child_count++] = child;
    return child;
}

void module_children(Module *self, const List *layers) {
    const Variant *items = layers->items;
    for (int i = 0; i < layers->count; i++) {
        const LayerConfig *config = items[i].config;
        const char *name = config ? config->name : NULL;
        if (!name) {
            int number = 1;
            for (int j = 0; j < i; j++) number += items[j].kind == items[i].kind;
            name = arena_format(self->model->arena, "%s%d", items[i].kind->name, number);
        }
        module_child(self, (const Layer *)items[i].kind, config, name);
    }
}

/* Names become parts of parameters' names, of paths in files and of rules. They are checked before
 * the children make anything: two siblings of one name would share parameters' names. */
static bool check_names(const Module *parent, Error *err) {
    enum { BYTES_MAX = 255 }; /* with those of its parents; files add a few */
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t skip = *parent->name ? strlen(parent->name) + 1 : 0;
    for (int i = 0; i < parent->child_count; i++) {
        const char *name = parent->children[i]->name + skip;
        if (!*name || name[strspn(name, allowed)])
            return FAIL(err, ERROR_INPUT,
                        "a layer is named '%s'; names are letters, digits, '_' and '-'", name);
        if (strlen(parent->children[i]->name) > BYTES_MAX)
            return FAIL(err, ERROR_INPUT,
                        "the name of layer %d, with those of the layers around it, is longer than "
                        "%d letters: %.40s...; shorten it",
                        i + 1, BYTES_MAX, parent->children[i]->name);
        if (!strcmp(parent->children[i]->name, "input"))
            return FAIL(err, ERROR_INPUT, "'input' is what the network reads; rename the layer");
        for (int j = 0; j < i; j++)
            if (!strcmp(name, parent->children[j]->name + skip))
                return FAIL(err, ERROR_INPUT, "two layers are named '%s'; rename one", name);
    }
    return true;
}

static bool module_build(Module *self, Tape *t, Var *const *in) {
    if (self->is_built) return true;
    self->is_built = true;
    self->order = self->model->module_count++;
    if (!self->layer->build || t->error.code != ERROR_NONE) return t->error.code == ERROR_NONE;
    if (self->layer->build(self, in, &t->error) && check_names(self, &t->error)) return true;
    if (*self->name) error_prefix(&t->error, "%s", self->name);
    return false;
}

/* The outermost of blocks within blocks. */
static bool segment_begin(const Module *self, Tape *t) {
    if (!(self->layer->flags & LAYER_IS_BLOCK) || t->segment) return false;
    t->segment = ++t->segment_count;
    return true;
}

Var *module_apply(Module *self, Tape *t, Var *const *in) {
    const char *outer = t->scope;
    bool is_block = segment_begin(self, t);
    t->scope = self->name;
    Var *seen[MODULE_INPUTS_MAX] = {0};
    for (int i = 0; i < self->layer->input_count; i++) {
        self->last_in[i] = seen[i] = in[i];
        const View *view = &self->inputs[i];
        if (view->apply) seen[i] = view->apply(view->self, t, in[i]);
        self->last_seen[i] = seen[i];
    }
    Var *out = seen[0];
    if (module_build(self, t, seen)) out = self->layer->forward(self, t, seen);
    if (self->output.apply) out = self->output.apply(self->output.self, t, out);
    for (int i = 0; i < self->output_count; i++) {
        const View *view = &self->outputs[i];
        view->apply(view->self, t, out);
    }
    self->last_out = out;
    t->scope = outer;
    if (is_block) t->segment = 0;
    return out;
}

void module_add_output(Module *self, View view) {
    if (self->output_count == self->output_capacity) {
        self->output_capacity = self->output_capacity ? 2 * self->output_capacity : 2;
        View *wider = arena_new_array(self->model->arena, View, self->output_capacity);
        if (self->output_count)
            memcpy(wider, self->outputs, sizeof *wider * (size_t)self->output_count);
        self->outputs = wider;
    }
    self->outputs[self->output_count++] = view;
}

Var *module_apply_one(Module *self, Tape *t, Var *x) {
    return module_apply(self, t, &x);
}

static bool reads_origin(const Param *param, const Tape *t) {
    return param->origin && (t->mode.is_float || t->mode.floats_weights);
}

float *param_numbers(const Param *param, const Tape *t) {
    return reads_origin(param, t) ? param->origin : tensor_f32(&param->value);
}

Var *param_leaf(Param *param, Tape *t) {
    if (param->generation != t->generation) {
        float *grad = param->is_frozen ? NULL : param->grad;
        Tensor value = param->value;
        if (reads_origin(param, t)) value.data = param->origin;
        param->leaf = tape_leaf(t, value, grad, &param->has_grad);
        param->leaf->is_parameter = true;
        param->read = NULL;
        param->generation = t->generation;
    }
    return param->leaf;
}

void param_store(Param *param, Tensor value) {
    assert(shape_equal(param->value.shape, value.shape));
    param->value = value;
    param->grad = NULL;
    param->is_frozen = true;
}

/* What a view reads, or multiplies as levels, stays. */
static void weight_lay(Param *p) {
    bool is_read = !p->view.apply && !p->origin && !p->owner->inputs[0].apply;
    if (is_read && panels_fit(&p->value)) panels_lay(&p->value, p->owner->model->arena);
}

static bool weights_lay(void *context, Module *module) {
    (void)context;
    if (module->layer == &layer_head) weight_lay(head_weight(module));
    for (int i = 0; i < module->param_count; i++)
        if (module->params[i]->role == PARAM_WEIGHT) weight_lay(module->params[i]);
    return true;
}

void model_lay_weights(Model *model) {
    model_visit(model, weights_lay, NULL);
}

Var *param_read(Param *param, Tape *t) {
    if (!param) return NULL;
    Var *leaf = param_leaf(param, t);
    bool is_cast =
        t->mode.half != DTYPE_F32 && param->role == PARAM_WEIGHT && param->value.dtype == DTYPE_F32;
    if (!param->view.apply && !is_cast) return leaf;
    if (param->read) return param->read;
    Var *seen = param->view.apply ? param->view.apply(param->view.self, t, leaf) : leaf;
    return param->read = seen == leaf && is_cast ? op_cast(t, leaf) : seen;
}

Var *model_forward(Model *model, Tape *t, Var *x) {
    return module_apply_one(model->root, t, x);
}

TokenContext *model_tokens(Model *model, const Tape *t) {
    if (model->tokens.generation != t->generation)
        model->tokens = (TokenContext){.generation = t->generation};
    return &model->tokens;
}

/* One shape-only run over a batch of one builds everything. */
static bool build_by_dry_run(Model *model, Error *err) {
    Tape *t = tape_new(model->arena);
    tape_begin(t, (TapeMode){.is_dry = true});
    Shape batch = {.rank = model->input.rank + 1, .dim = {1}};
    memcpy(batch.dim + 1, model->input.dim, sizeof(int64_t) * (size_t)model->input.rank);
    Var *x = tape_constant(t, (Tensor){.dtype = DTYPE_F32, .shape = batch});
    model->output = model_forward(model, t, x)->value.shape;
    bool ok = t->error.code == ERROR_NONE;
    if (!ok) *err = t->error;
    tape_free(t);
    return ok;
}

static bool model_make(const List *layers, const Model *start, Model **out, Error *err) {
    Arena *arena = start->arena;
    assert(start->input.rank < SHAPE_RANK_MAX);
    Model *model = arena_new_array(arena, Model, 1);
    *model = *start;
    SequentialConfig *config = arena_new_array(arena, SequentialConfig, 1);
    config->layers = *layers;
    Module *root = arena_new_array(arena, Module, 1);
    *root = (Module){.layer = &layer_sequential, .name = "", .config = config, .model = model};
    model->root = root;
    TRY(build_by_dry_run(model, err));
    *out = model;
    return true;
}

bool model_new(const List *layers, Shape input, uint64_t seed, Arena *arena, Model **out,
               Error *err) {
    return model_make(layers, &(Model){.arena = arena, .input = input, .seed = seed}, out, err);
}

bool model_new_frozen(const List *layers, Shape input, uint64_t seed, Arena *arena, Model **out,
                      Error *err) {
    const Model start = {.arena = arena, .input = input, .seed = seed, .is_frozen = true};
    return model_make(layers, &start, out, err);
}

bool model_sketch(const List *layers, Shape input, Arena *arena, Model **out, Error *err) {
    return model_make(layers, &(Model){.arena = arena, .input = input, .is_sketch = true}, out,
                      err);
}

void model_clear_grads(Model *model) {
    for (int i = 0; i < model->param_count; i++) model->params[i]->has_grad = false;
}

Param *model_find_param(const Model *model, const char *name) {
    for (int i = 0; i < model->param_count; i++)
        if (!strcmp(model->params[i]->name, name)) return model->params[i];
    return NULL;
}

static bool visit_tree(Module *module, bool (*visit)(void *, Module *), void *context) {
    if (!visit(context, module)) return false;
    for (int i = 0; i < module->child_count; i++)
        if (!visit_tree(module->children[i], visit, context)) return false;
    return true;
}

bool model_visit(Model *model, bool (*visit)(void *context, Module *module), void *context) {
    return visit_tree(model->root, visit, context);
}

typedef struct Search {
    const char *name;
    Module *found;
} Search;

static bool match_name(void *context, Module *module) {
    Search *search = context;
    if (!strcmp(module->name, search->name)) search->found = module;
    return !search->found;
}

Module *model_find_module(const Model *model, const char *name) {
    Search search = {.name = name};
    visit_tree(model->root, match_name, &search);
    return search.found;
}

int64_t model_trainable_count(const Model *model) {
    int64_t count = 0;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (p->grad && p->role != PARAM_SCALE) count += tensor_count(&p->value);
    }
    return count;
}
