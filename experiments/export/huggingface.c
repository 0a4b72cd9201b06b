/* A decoder as Hugging Face's transformers keep it: config.json, model.safetensors, tokenizer.json.
 * Names and layout of the weights are theirs already; they are written in f32. A network that came
 * out of such a directory keeps its config.json and what lay beside it. */
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "data/datasets/text.h"
#include "data/safetensors.h"
#include "data/text/byte_level.h"
#include "experiments/export/exporter.h"
#include "experiments/export/model_files.h"
#include "experiments/models/pretrained.h"
#include "experiments/models/transformer.h"
#include "experiments/report/text.h"

#define MODEL_CONFIG    "config.json"
#define MODEL_WEIGHTS   "model.safetensors"
#define MODEL_TOKENIZER "tokenizer.json"

/* ---- config.json ---- */

/* The family that has what the network has. */
typedef struct Family {
    const char *name, *architecture;
    int attention_bias; /* -1: any but those of q, k and v alone */
    bool has_qk_norm, may_bias_mlp, may_set_head_dim;
} Family;

static const Family families[] = {
    {"llama", "LlamaForCausalLM", -1, false, true, true},
    {"qwen2", "Qwen2ForCausalLM", ATTENTION_BIAS_QKV, false, false, false},
    {"qwen3", "Qwen3ForCausalLM", ATTENTION_BIAS_NONE, true, false, true},
};

static bool fits(const Family *f, const TransformerConfig *c) {
    const AttentionConfig *a = &c->block.attention;
    bool has_bias = f->attention_bias < 0 ? a->attention_bias != ATTENTION_BIAS_QKV
                                          : a->attention_bias == f->attention_bias;
    bool has_own_dim = a->head_dim && a->head_dim * a->heads != c->width;
    return has_bias && a->qk_norm == f->has_qk_norm && (f->may_bias_mlp || !c->block.mlp_bias) &&
           (f->may_set_head_dim || !has_own_dim);
}

static const Family *find_family(const TransformerConfig *c) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (fits(&families[i], c)) return &families[i];
    return NULL;
}

static void set_rope(Json *json, const AttentionConfig *a) {
    const RopeScaling *s = a->rope_scaling;
    json_set_text(json, "rope_parameters.rope_type", s ? "llama3" : "default");
    json_set_number(json, "rope_parameters.rope_theta", a->rope_theta);
    if (!s) return;
    json_set_number(json, "rope_parameters.factor", s->factor);
    json_set_number(json, "rope_parameters.low_freq_factor", s->low_freq_factor);
    json_set_number(json, "rope_parameters.high_freq_factor", s->high_freq_factor);
    json_set_int(json, "rope_parameters.original_max_position_embeddings", s->original_length);
}

/* `end`: the id of the token that ends a text, or -1. */
static void set_config(Json *json, const TransformerConfig *c, const Family *family, Shape table,
                       int64_t context, int64_t end) {
    const AttentionConfig *a = &c->block.attention;
    json_append_text(json, "architectures", family->architecture);
    json_set_text(json, "model_type", family->name);
    json_set_text(json, "dtype", "float32");
    json_set_int(json, "vocab_size", table.dim[0]);
    json_set_int(json, "hidden_size", table.dim[1]);
    json_set_int(json, "intermediate_size", c->block.ff);
    json_set_int(json, "num_hidden_layers", c->layers);
    json_set_int(json, "num_attention_heads", a->heads);
    json_set_int(json, "num_key_value_heads", a->kv_heads ? a->kv_heads : a->heads);
    json_set_int(json, "head_dim", a->head_dim ? a->head_dim : c->width / a->heads);
    json_set_text(json, "hidden_act", "silu");
    json_set_int(json, "max_position_embeddings", context);
    json_set_number(json, "rms_norm_eps", a->epsilon);
    json_set_bool(json, "tie_word_embeddings", c->tied);
    json_set_bool(json, "attention_bias", a->attention_bias == ATTENTION_BIAS_ALL);
    json_set_bool(json, "mlp_bias", c->block.mlp_bias);
    set_rope(json, a);
    json_set_text(json, "bos_token_id", NULL);
    json_set_text(json, "eos_token_id", NULL);
    if (end >= 0) json_set_int(json, "eos_token_id", end);
}

/* ---- The files ---- */

static bool write_weights(const Model *model, const char *path, Arena *arena, Error *err) {
    static const char *const metadata[] = {"format", "pt", NULL};
    SafeTensorData *tensors = arena_new_array(arena, SafeTensorData, model->param_count);
    for (int i = 0; i < model->param_count; i++)
        tensors[i] = (SafeTensorData){model->params[i]->name, model->params[i]->value};
    return safetensors_write(path, tensors, model->param_count, metadata, err);
}

/* Bytes are tokens, and nothing is merged; behind them the token that ends a text. */
static Json *tokenizer_of_bytes(const Vocabulary *vocabulary, Arena *arena) {
    static const char end[] = "<|endoftext|>";
    Json *json = json_new();
    json_set_text(json, "version", "1.0");
    Json *added = json_append(json, "added_tokens");
    json_set_int(added, "id", vocabulary->end);
    json_set_text(added, "content", end);
    json_set_bool(added, "single_word", false);
    json_set_bool(added, "lstrip", false);
    json_set_bool(added, "rstrip", false);
    json_set_bool(added, "normalized", false);
    json_set_bool(added, "special", true);
    json_set_text(json, "normalizer", NULL);
    static const char *const steps[] = {"pre_tokenizer", "decoder"};
    for (int i = 0; i < 2; i++) {
        json_set_text(json, arena_format(arena, "%s.type", steps[i]), "ByteLevel");
        json_set_bool(json, arena_format(arena, "%s.add_prefix_space", steps[i]), false);
        json_set_bool(json, arena_format(arena, "%s.trim_offsets", steps[i]), true);
        json_set_bool(json, arena_format(arena, "%s.use_regex", steps[i]), false);
    }
    json_set_text(json, "post_processor", NULL);
    json_set_text(json, "model.type", "BPE");
    json_set_text(json, "model.unk_token", NULL);
    json_set_bool(json, "model.byte_fallback", false);
    for (int i = 0; i < VOCABULARY_BYTES_END; i++) {
        char byte = (char)i;
        Span name = byte_level_encode((Span){&byte, 1}, arena);
        json_set_member(json, "model.vocab",
                        arena_format(arena, "%.*s", (int)name.bytes, name.text), i);
    }
    json_set_ints(json, "model.merges", NULL, 0);
    return json;
}

static bool write_tokenizer(const Vocabulary *vocabulary, const char *path, Arena *arena,
                            Error *err) {
    if (vocabulary->tokenizer) {
        size_t bytes;
        const char *text = file_read(vocabulary->name, JSON_BYTES_MAX, arena, &bytes, err);
        return text && text_write(path, text, err);
    }
    Json *json = tokenizer_of_bytes(vocabulary, arena);
    bool ok = text_write_json(json, path, err);
    json_free(json);
    return ok;
}

/* The files of a tokenizer belong together: those of the directory, if the run reads by it. */
static bool copy_beside(const Vocabulary *vocabulary, const char *from, const char *directory,
                        Arena *arena, Error *err) {
    Vocabulary own;
    char digests[2][ENVELOPE_DIGEST_TEXT];
    Error ignored = {0};
    bool is_own = vocabulary_open(from, NULL, arena, &own, &ignored);
    if (is_own) {
        vocabulary_digest(vocabulary, digests[0]);
        vocabulary_digest(&own, digests[1]);
        is_own = !strcmp(digests[0], digests[1]);
    }
    vocabulary_close(&own);
    return !is_own || model_files_copy(from, directory, err);
}

static bool write_config(const Experiment *e, const Family *family, const Vocabulary *vocabulary,
                         const char *directory, Arena *arena, Error *err) {
    const TransformerConfig *c = e->config.model.config;
    const TextConfig *text = e->config.data.config;
    Shape table = model_find_param(e->model, "model.embed_tokens.weight")->value.shape;
    Json *json = json_new();
    set_config(json, c, family, table, text->length, vocabulary->end);
    bool ok = text_write_json(json, arena_format(arena, "%s/" MODEL_CONFIG, directory), err);
    json_free(json);
    return ok;
}

static bool write_files(const Experiment *e, const Family *family, const Vocabulary *vocabulary,
                        const char *directory, Arena *arena, Error *err) {
    const char *from = e->base_directory;
    TRY(write_weights(e->model, arena_format(arena, "%s/" MODEL_WEIGHTS, directory), arena, err));
    TRY(!from || copy_beside(vocabulary, from, directory, arena, err));
    const char *path = arena_format(arena, "%s/" MODEL_TOKENIZER, directory);
    TRY(write_tokenizer(vocabulary, path, arena, err));
    return from ? model_files_config(from, directory, "float32", err)
                : write_config(e, family, vocabulary, directory, arena, err);
}

static bool check(const Experiment *e, const Family **family, Error *err) {
    bool is_decoder = e->base_directory || e->config.model.kind == &model_transformer.kind;
    if (!is_decoder || e->config.data.kind != &dataset_text.kind)
        return FAIL(err, ERROR_INPUT, "the run is not of a transformer that was trained on text");
    if (e->adapter)
        return FAIL(err, ERROR_INPUT,
                    "the run has an adapter: export it as peft, or merge it (nibble merge)");
    if (qat_is_active(e->qat))
        return FAIL(err, ERROR_INPUT,
                    "the run is quantized, and these files hold float weights: another network");
    if (e->base_directory) return true;
    *family = find_family(e->config.model.config);
    return *family || FAIL(err, ERROR_INPUT,
                           "no family of models has attention_bias, mlp_bias, qk_norm and head_dim "
                           "as the run has them");
}

/* With --force its files would be replaced, and other runs stand on them. */
static bool check_place(const Experiment *e, const char *directory, Error *err) {
    struct stat from, to;
    bool is_same = e->base_directory && !stat(e->base_directory, &from) && !stat(directory, &to) &&
                   from.st_dev == to.st_dev && from.st_ino == to.st_ino;
    return !is_same ||
           FAIL(err, ERROR_INPUT,
                "%s is the directory that the network came from; name another --out", directory);
}

static bool write(Experiment *e, const char *directory, Error *err) {
    const Family *family = NULL;
    Vocabulary vocabulary = {0};
    TRY(check(e, &family, err) && check_place(e, directory, err));
    Arena *arena = arena_new("export");
    bool ok = text_vocabulary_open(e->config.data.config, arena, &vocabulary, err) &&
              write_files(e, family, &vocabulary, directory, arena, err);
    vocabulary_close(&vocabulary);
    arena_free(arena);
    return ok;
}

const Exporter exporter_huggingface = {
    .kind = {.name = "huggingface",
             .help = "a transformer's model directory, as transformers reads it"},
    .file = MODEL_CONFIG,
    .write = write,
};
