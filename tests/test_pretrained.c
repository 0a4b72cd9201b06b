/* Models' directories: logits beside those of transformers (golden/make_llm.py), training from
 * one, and directories that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "experiments/models/pretrained.h"
#include "tests/llm_golden.h"
#include "tests/model_source.h"

static Tape *tape;
static char directory[] = "/tmp/nibble_pretrained_XXXXXX";

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

static int make_directory(void **state) {
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", directory);
    return system(command);
}

/* ---- Logits ---- */

static Tensor ids_of(const LlmGolden *g) {
    const SafeTensor *tensor = llm_golden_tensor(g, "ids");
    const int32_t *ids = llm_golden_ids(g, "ids");
    Tensor x = tensor_new(arena, DTYPE_F32, SHAPE(1, tensor->shape.dim[0]));
    for (int64_t i = 0; i < tensor->shape.dim[0]; i++) tensor_f32(&x)[i] = (float)ids[i];
    return x;
}

/* The largest difference, as a share of the range of the expected logits. */
static double distance(const LlmGolden *g, Tensor logits) {
    const float *expected = llm_golden_values(g, "logits");
    double low = INFINITY, high = -INFINITY, most = 0;
    for (int64_t i = 0; i < tensor_count(&logits); i++) {
        low = fmin(low, (double)expected[i]);
        high = fmax(high, (double)expected[i]);
        most = fmax(most, fabs((double)tensor_f32(&logits)[i] - (double)expected[i]));
    }
    return most / (high - low);
}

static void logits_are_those_of_transformers(void **state) {
    (void)state;
    for (int i = 0; i < LLM_MODEL_COUNT; i++) {
        Error err = {0};
        Pretrained p;
        LlmGolden g = llm_golden_open(llm_models[i], arena);
        if (!pretrained_open(g.directory, arena, &p, &err)) fail_msg("%s", err.message);
        double share = distance(&g, logits_of(p.model, tape, ids_of(&g)));
        printf("%s: %.2g of the range\n", llm_models[i], share);
        if (!(share < 1e-5)) fail_msg("%s: %g of the range", llm_models[i], share);
        assert_string_equal(p.directory.type, llm_models[i]);
        assert_int_equal(p.directory.context, 64);
        assert_int_equal(p.directory.end_count, 1);
        assert_int_equal(p.directory.ends[0], 1);
        for (int k = 0; k < p.model->param_count; k++) assert_null(p.model->params[k]->grad);
        llm_golden_close(&g);
    }
}

/* Masters in f32, which learn; the same logits. */
static void a_training_begins_from_it(void **state) {
    (void)state;
    for (int i = 0; i < LLM_MODEL_COUNT; i++) {
        LlmGolden g = llm_golden_open(llm_models[i], arena);
        ModelSource source =
            model_source(arena_format(arena, "model: {kind: pretrained, path: %s}", g.directory));
        Model *model = model_of(&source, SHAPE(12), 300, 1);
        Tensor ids = ids_of(&g), logits = logits_of(model, tape, ids);
        assert_true(distance(&g, logits) < 1e-5);
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_constant(tape, ids);
        Var *y = model_forward(model, tape, x);
        Var *loss = op_mean(tape, y, -1);
        tape_backward(tape, loss, 1);
        for (int k = 0; k < model->param_count; k++) {
            assert_int_equal(model->params[k]->value.dtype, DTYPE_F32);
            assert_true(model->params[k]->has_grad);
        }
        llm_golden_close(&g);
    }
    assert_string_equal(
        model_error("model: {kind: pretrained, path: " LLM_GOLDEN "llama}", SHAPE(12), 301),
        "model: the network has 300 tokens, but the data's tokenizer 301; take the tokenizer that "
        "belongs to it");
}

/* What bitsandbytes stored in 4 bits stays so, and is multiplied as the values that it means. */
static void weights_of_bitsandbytes_are_read(void **state) {
    (void)state;
    static const char *const names[] = {"wide_nf4", "wide_fp4"};
    for (int i = 0; i < 2; i++) {
        Error err = {0};
        Pretrained p;
        LlmGolden g = {.arena = arena, .directory = arena_format(arena, LLM_GOLDEN "%s", names[i])};
        const char *path = arena_format(arena, "%s.safetensors", g.directory);
        if (!safetensors_open(path, arena, &g.tensors, &err) ||
            !pretrained_open(g.directory, arena, &p, &err))
            fail_msg("%s", err.message);
        Tensor ids = ids_of(&g), logits = logits_of(p.model, tape, ids);
        double share = distance(&g, logits);
        printf("%s: %.2g of the range\n", names[i], share);
        assert_true(share < 1e-5); /* asked for: 1e-4 */
        for (int k = 0; k < p.model->param_count; k++) {
            Param *param = p.model->params[k];
            bool is_linear = param->role == PARAM_WEIGHT;
            Dtype stored = i ? DTYPE_FP4 : DTYPE_NF4;
            assert_int_equal(param->value.dtype, is_linear ? stored : DTYPE_F32);
            Tensor values = tensor_new(arena, DTYPE_F32, param->value.shape);
            tensor_decode(&param->value, values.data);
            param_store(param, values);
        }
        assert_same_bits(logits_of(p.model, tape, ids), logits);
        assert_string_equal(
            model_error(arena_format(arena, "model: {kind: pretrained, path: %s}", g.directory),
                        SHAPE(12), 64),
            arena_format(arena,
                         "%s/config.json: the weights are quantized "
                         "(quantization_config.quant_method 'bitsandbytes'), and would have to "
                         "learn; give model.base and an adapter, or take the model that they were "
                         "made from",
                         g.directory));
        safetensors_close(&g.tensors);
    }
}

static Model *with_base(const char *base, const char *more) {
    ModelSource source = model_source(arena_format(
        arena, "model: {kind: pretrained, path: " LLM_GOLDEN "llama, base: %s%s}", base, more));
    return model_of(&source, SHAPE(12), 300, 1);
}

/* Weights of linear layers as the base says, all others as they are; nothing learns. */
static void a_base_keeps_weights_in_few_bits(void **state) {
    (void)state;
    static const struct {
        const char *base;
        Dtype dtype;
        double share; /* of the logits' range, at most */
    } cases[] = {
        {"f32", DTYPE_F32, 1e-5}, {"f16", DTYPE_F16, 3e-3}, {"nf4", DTYPE_NF4, 0.6},
        {"i8", DTYPE_INT8, 0.05}, {"i4", DTYPE_INT4, 0.6},
    };
    LlmGolden g = llm_golden_open("llama", arena);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Model *model = with_base(cases[i].base, "");
        assert_false(model->is_sketch);
        assert_int_equal(model_trainable_count(model), 0);
        for (int k = 0; k < model->param_count; k++) {
            const Param *p = model->params[k];
            bool is_linear = p->role == PARAM_WEIGHT;
            assert_true(p->is_frozen && !p->grad);
            assert_int_equal(p->value.dtype, is_linear ? cases[i].dtype : DTYPE_F32);
        }
        double share = distance(&g, logits_of(model, tape, ids_of(&g)));
        if (!(share < cases[i].share)) fail_msg("%s: %g", cases[i].base, share);
    }
    llm_golden_close(&g);
}

static void a_base_is_kept_in_its_cache(void **state) {
    (void)state;
    const char *cache = arena_format(arena, ", cache: %s/base.cache", directory);
    LlmGolden g = llm_golden_open("llama", arena);
    Tensor ids = ids_of(&g), first = logits_of(with_base("nf4", ""), tape, ids);
    assert_same_bits(logits_of(with_base("nf4", cache), tape, ids), first);
    struct stat status;
    assert_int_equal(stat(arena_format(arena, "%s/base.cache", directory), &status), 0);
    assert_same_bits(logits_of(with_base("nf4", cache), tape, ids), first);
    llm_golden_close(&g);
}

/* ---- What is refused ---- */

static void write_text(const char *name, const char *text) {
    FILE *file = fopen(arena_format(arena, "%s/%s", directory, name), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* The config of a golden model, with `from` (NULL: nothing) replaced. */
static void write_config(const char *model, const char *from, const char *to) {
    Error err = {0};
    size_t bytes;
    const char *path = arena_format(arena, LLM_GOLDEN "%s/config.json", model);
    char *text = file_read(path, 1 << 20, arena, &bytes, &err);
    assert_non_null(text);
    const char *at = from ? strstr(text, from) : text;
    if (!at) fail_msg("%s has no %s", path, from);
    if (from)
        text = (char *)(uintptr_t)arena_format(arena, "%.*s%s%s", (int)(at - text), text, to,
                                               at + strlen(from));
    write_text("config.json", text);
}

static const char *config_error(void) {
    ModelDirectory d;
    Error *err = arena_new_array(arena, Error, 1);
    if (model_directory_read(directory, arena, &d, err)) fail_msg("was accepted");
    assert_int_equal(err->code, ERROR_INPUT);
    const char *prefix = arena_format(arena, "%s/config.json: ", directory);
    assert_memory_equal(err->message, prefix, strlen(prefix));
    return err->message + strlen(prefix);
}

static void configs_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *model, *from, *to, *message;
    } cases[] = {
        {"llama", "\"model_type\": \"llama\"", "\"model_type\": \"gemma\"",
         "model_type 'gemma' is not read; there are llama, mistral, qwen2 and qwen3"},
        {"llama", "\"model_type\": \"llama\",", "", "model_type is missing; nothing is guessed"},
        {"llama", "LlamaForCausalLM", "LlamaForTokenClassification",
         "architectures is 'LlamaForTokenClassification', and only 'LlamaForCausalLM' is read"},
        {"llama", "\"hidden_size\": 32,", "", "hidden_size is missing; nothing is guessed"},
        {"llama", "\"hidden_size\": 32", "\"hidden_size\": -32",
         "hidden_size must be a whole number from 1 to 65536"},
        {"llama", "\"hidden_size\": 32", "\"hidden_size\": 1e9",
         "hidden_size must be a whole number from 1 to 65536"},
        {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 513",
         "num_hidden_layers must be a whole number from 1 to 512"},
        {"llama", "\"vocab_size\": 300", "\"vocab_size\": 99999999999",
         "vocab_size must be a whole number from 1 to 16777216"},
        {"llama", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"",
         "hidden_act 'gelu' is not supported, only 'silu'"},
        {"llama", "\"hidden_act\": \"silu\",", "", "hidden_act is missing; nothing is guessed"},
        {"llama", "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": \"small\"",
         "rms_norm_eps must be a number from 1e-12 to 1"},
        {"llama", "\"tie_word_embeddings\": true,", "",
         "tie_word_embeddings is missing; nothing is guessed"},
        {"llama", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": 1",
         "tie_word_embeddings must be true or false"},
        {"llama", "\"attention_bias\": false", "\"attention_bias\": \"no\"",
         "attention_bias must be true or false"},
        {"llama", "\"rope_theta\": 100.0,", "",
         "rope_parameters.rope_theta is missing; nothing is guessed"},
        {"llama", "\"rope_type\": \"llama3\"", "\"rope_type\": \"yarn\"",
         "rope_parameters.rope_type 'yarn' is not supported; 'default' and 'llama3' are"},
        {"llama", "\"low_freq_factor\": 1.0,", "",
         "rope_parameters.low_freq_factor is missing; nothing is guessed"},
        {"mistral", "\"rope_type\": \"default\"",
         "\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5",
         "rope_parameters.partial_rotary_factor 0.5 is not supported; 1 is"},
        {"mistral", "\"rope_parameters\"", "\"partial_rotary_factor\": 0.5, \"rope_parameters\"",
         "partial_rotary_factor 0.5 is not supported; 1 is"},
        {"mistral", "\"rope_parameters\"", "\"rope_scaling\"",
         "rope_theta is missing; nothing is guessed"},
        {"mistral", "\"sliding_window\": 64", "\"sliding_window\": 63",
         "sliding_window 63 is shorter than the context of 64 positions, which is not supported "
         "yet"},
        {"mistral", "\"sliding_window\": 64,", "",
         "sliding_window (null: none) is missing; nothing is guessed"},
        {"qwen2",
         "null,\n  \"tie_word_embeddings\": true,\n  \"transformers_version\": \"5.24.0\",\n  "
         "\"use_cache\": true,\n  \"use_sliding_window\": false",
         "8, \"tie_word_embeddings\": true, \"use_sliding_window\": true",
         "sliding_window 8 is shorter than the context of 64 positions, which is not supported "
         "yet"},
        {"qwen3", "\"full_attention\"\n  ]", "\"sliding_attention\"\n  ]",
         "layer_types must be a list of 'full_attention'; others are not supported yet"},
        {"qwen3", "\"head_dim\": 16,", "", "head_dim is missing; nothing is guessed"},
        {"qwen3", "\"num_key_value_heads\": 2,", "",
         "num_key_value_heads is missing; nothing is guessed"},
        {"llama", "\"eos_token_id\": 1", "\"eos_token_id\": [1, 300]",
         "eos_token_id must be a token of the vocabulary of 300, or a list of at most 16"},
        {"llama", "\"eos_token_id\": 1", "\"eos_token_id\": \"end\"",
         "eos_token_id must be a token of the vocabulary of 300, or a list of at most 16"},
        {"llama", "\"vocab_size\": 300", "\"vocab_size\": 300, \"quantization_config\": {}",
         "quantization_config.quant_method is missing; nothing is guessed"},
        {"llama", "\"vocab_size\": 300",
         "\"vocab_size\": 300, \"quantization_config\": {\"quant_method\": \"bitsandbytes\", "
         "\"load_in_8bit\": true}",
         "quantization_config.load_in_8bit is not supported; take the model that it was made from"},
        {"llama", "\"max_position_embeddings\": 64", "\"max_position_embeddings\": 1",
         "max_position_embeddings must be at least 2: of one token none is predicted"},
        {"llama", "\"rope_parameters\"",
         "\"rope_scaling\": {\"rope_type\": \"default\"}, "
         "\"rope_parameters\"",
         "rope_scaling and rope_parameters say the same thing; leave one of them"},
        {"llama", "\"vocab_size\": 300",
         "\"vocab_size\": 300, \"original_max_position_embeddings\": 16",
         "original_max_position_embeddings is 16, and in rope_parameters 32"},
        {"qwen2", "\"vocab_size\": 300", "\"vocab_size\": 300, \"use_mrope\": true",
         "use_mrope is set, which is not supported"},
        {"qwen3", "\"vocab_size\": 300", "\"vocab_size\": 300, \"final_logit_softcapping\": 30.0",
         "final_logit_softcapping is set, which is not supported"},
        {"llama", "\"vocab_size\": 300", "\"vocab_size\": 300, \"embedding_multiplier\": 12",
         "embedding_multiplier is set, which is not supported"},
        {"llama", "\"vocab_size\": 300", "\"vocab_size\": 300, \"no_rope_layers\": [1, 0]",
         "no_rope_layers is set, which is not supported"},
        {"llama", "\"vocab_size\": 300", "\"vocab_size\": 300, \"is_causal\": false",
         "is_causal false is not supported; true is"},
        {"llama", "\"vocab_size\": 300",
         "\"vocab_size\": 300, \"auto_map\": {\"AutoModelForCausalLM\": \"own.Model\"}",
         "auto_map.AutoModelForCausalLM names a network of the directory's own code, which is not "
         "run"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_config(cases[i].model, cases[i].from, cases[i].to);
        assert_string_equal(config_error(), cases[i].message);
    }
}

/* Members that would change the logits, with values that do not. */
static void neutral_members_are_read(void **state) {
    (void)state;
    ModelDirectory d;
    Error err = {0};
    write_config("llama", "\"vocab_size\": 300",
                 "\"vocab_size\": 300, \"use_mrope\": false, \"rope_interleaved\": null, "
                 "\"final_logit_softcapping\": 0, \"embedding_multiplier\": 1.0, "
                 "\"no_rope_layers\": [], \"partial_rotary_factor\": 1, \"is_causal\": true, "
                 "\"original_max_position_embeddings\": 32, \"auto_map\": {}, "
                 "\"rope_scaling\": null");
    if (!model_directory_read(directory, arena, &d, &err)) fail_msg("%s", err.message);
}

/* As files of before version 5 of transformers have it: the same network. */
static void older_configs_are_read(void **state) {
    (void)state;
    ModelDirectory now, then;
    Error err = {0};
    assert_true(model_directory_read(LLM_GOLDEN "llama", arena, &now, &err));
    write_config("llama", "\"rope_parameters\": {", "\"rope_theta\": 100, \"rope_scaling\": {");
    if (!model_directory_read(directory, arena, &then, &err)) fail_msg("%s", err.message);
    RopeScaling *a = now.network.block.attention.rope_scaling;
    RopeScaling *b = then.network.block.attention.rope_scaling;
    assert_memory_equal(a, b, sizeof *a);
    assert_true(then.network.block.attention.rope_theta == 100);
    write_config("qwen2", "\"rope_parameters\": {", "\"rope_theta\": 7, \"was\": {");
    assert_true(model_directory_read(directory, arena, &then, &err));
    assert_true(then.network.block.attention.rope_theta == 7);
    assert_null(then.network.block.attention.rope_scaling);
}

static void all_ends_are_known(void **state) {
    (void)state;
    ModelDirectory d;
    Error err = {0};
    write_config("llama", NULL, NULL);
    write_text("generation_config.json", "{\"eos_token_id\": [2, 5]}");
    assert_true(model_directory_read(directory, arena, &d, &err));
    assert_int_equal(d.end_count, 2);
    assert_true(d.ends[0] == 2 && d.ends[1] == 5);
    write_text("generation_config.json", "{\"eos_token_id\": [2, -5]}");
    assert_false(model_directory_read(directory, arena, &d, &err));
    assert_non_null(strstr(err.message, "/generation_config.json: eos_token_id must be a token"));
    unlink(arena_format(arena, "%s/generation_config.json", directory));
}

static const char *open_error(void) {
    Pretrained p;
    Error *err = arena_new_array(arena, Error, 1);
    if (pretrained_open(directory, arena, &p, err)) fail_msg("was accepted");
    assert_int_equal(err->code, ERROR_INPUT);
    const char *message = err->message;
    if (!strncmp(message, directory, strlen(directory))) message += strlen(directory);
    return message;
}

static void weights_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *model, *from, *to, *message;
    } cases[] = {
        {"llama", "\"intermediate_size\": 48", "\"intermediate_size\": 50",
         "/model.safetensors: model.layers.0.mlp.gate_proj.weight is [48, 32], and in the network "
         "of config.json [50, 32]"},
        {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
         ": no file has model.layers.2.input_layernorm.weight, which the network of config.json "
         "needs"},
        {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1",
         ": there is a tensor model.layers.1.input_layernorm.weight, and in the network of "
         "config.json none"},
        {"llama", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
         ": no file has lm_head.weight, which the network of config.json needs"},
        {"llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
         "/config.json: model.layers.0.self_attn: kv_heads 3 does not divide heads 4"},
        {"llama", "\"vocab_size\": 300",
         "\"vocab_size\": 300, \"quantization_config\": {\"quant_method\": \"gptq\"}",
         "/config.json: the weights are quantized (quantization_config.quant_method 'gptq'), which "
         "is not read; take the model that they were made from"},
    };
    char command[200];
    snprintf(command, sizeof command, "cp " LLM_GOLDEN "llama/model.safetensors %s", directory);
    assert_int_equal(system(command), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_config(cases[i].model, cases[i].from, cases[i].to);
        assert_string_equal(open_error(), cases[i].message);
    }
}

/* The last number of this tensor becomes this one. */
static void spoil(const char *name, float x) {
    SafeTensors files;
    Error err = {0};
    const char *path = arena_format(arena, "%s/model.safetensors", directory);
    if (!safetensors_open(path, arena, &files, &err)) fail_msg("%s", err.message);
    const SafeTensor *tensor = safetensors_find(&files, name);
    assert_true(tensor && tensor->dtype == DTYPE_F32);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)(tensor->offset + tensor->bytes) - 4, SEEK_SET), 0);
    assert_int_equal(fwrite(&x, sizeof x, 1, file), 1);
    fclose(file);
    safetensors_close(&files);
}

/* Wherever they stand, however the weights are to be kept; NaN's sign is any. */
static void numbers_that_are_not_finite_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        long number;
        float x;
    } cases[] = {
        {"model.embed_tokens.weight", 9599, INFINITY},
        {"model.embed_tokens.weight", 9599, NAN},
        {"model.norm.weight", 31, -INFINITY},
        {"model.layers.0.mlp.down_proj.weight", 1535, INFINITY},
        {"model.layers.1.self_attn.q_proj.weight", 1023, NAN},
    };
    static const char *const bases[] = {
        "",           ", base: stored", ", base: f16", ", base: bf16", ", base: nf4", ", base: fp4",
        ", base: i4", ", base: i8"};
    write_config("llama", NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char command[200];
        snprintf(command, sizeof command, "cp " LLM_GOLDEN "llama/model.safetensors %s", directory);
        assert_int_equal(system(command), 0);
        spoil(cases[i].name, cases[i].x);
        const char *file = arena_format(arena, "%s/model.safetensors", directory);
        const char *number = arena_format(arena, " %ld is ", cases[i].number);
        for (size_t k = 0; k < sizeof bases / sizeof *bases; k++) {
            const char *message = model_error(
                arena_format(arena, "model: {kind: pretrained, path: %s%s}", directory, bases[k]),
                SHAPE(12), 300);
            bool is_named =
                strstr(message, file) && strstr(message, cases[i].name) && strstr(message, number);
            if (!is_named) fail_msg("base '%s' says: %s", bases[k], message);
        }
        (void)open_error();
    }
}

/* A head beside a tied table is no matter where it is the same, and another network where not. */
static void a_head_beside_a_tied_table_is_compared(void **state) {
    (void)state;
    static const struct {
        float change;
        int64_t rows;
        bool is_read;
    } cases[] = {{0, 300, true}, {1, 300, false}, {0, 299, false}};
    write_config("llama", NULL, NULL);
    for (int i = 0; i < 3; i++) {
        SafeTensors files;
        Error err = {0};
        Pretrained p;
        if (!safetensors_open(LLM_GOLDEN "llama", arena, &files, &err)) fail_msg("%s", err.message);
        SafeTensorData *all = arena_new_array(arena, SafeTensorData, files.count + 1);
        for (int k = 0; k < files.count; k++) {
            const SafeTensor *t = &files.items[k];
            all[k] = (SafeTensorData){t->name, tensor_new(arena, DTYPE_F32, t->shape)};
            assert_true(safetensors_read_bytes(&files, t, all[k].tensor.data, &err));
            if (strcmp(t->name, "model.embed_tokens.weight") != 0) continue;
            Tensor head = tensor_new(arena, DTYPE_F32, SHAPE(cases[i].rows, 32));
            memcpy(head.data, all[k].tensor.data, sizeof(float) * (size_t)tensor_count(&head));
            tensor_f32(&head)[tensor_count(&head) - 1] += cases[i].change;
            all[files.count] = (SafeTensorData){"lm_head.weight", head};
        }
        const char *path = arena_format(arena, "%s/model.safetensors", directory);
        assert_true(safetensors_write(path, all, files.count + 1, NULL, &err));
        safetensors_close(&files);
        if (cases[i].is_read) {
            if (!pretrained_open(directory, arena, &p, &err)) fail_msg("%s", err.message);
        } else {
            assert_string_equal(open_error(),
                                "/model.safetensors: lm_head.weight is not the table "
                                "model.embed_tokens.weight, and tie_word_embeddings of config.json "
                                "says that it is");
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(logits_are_those_of_transformers),
        TEST(a_training_begins_from_it),
        TEST(weights_of_bitsandbytes_are_read),
        TEST(a_base_keeps_weights_in_few_bits),
        TEST(a_base_is_kept_in_its_cache),
        TEST(configs_are_refused_by_name),
        TEST(neutral_members_are_read),
        TEST(older_configs_are_read),
        TEST(all_ends_are_known),
        TEST(weights_that_do_not_fit_are_refused),
        TEST(numbers_that_are_not_finite_are_refused),
        TEST(a_head_beside_a_tied_table_is_compared),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
