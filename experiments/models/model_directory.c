#include "experiments/models/model_directory.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"

/* What sets the members of the family apart; defaults are those of transformers. */
typedef struct Family {
    const char *type, *architecture;
    int bias;           /* AttentionBias, where attention_bias says nothing */
    bool has_bias;      /* attention_bias: of all four projections */
    bool has_mlp_bias;  /* mlp_bias */
    bool qk_norm;       /* of each head */
    bool needs_heads;   /* num_key_value_heads and head_dim follow from nothing else */
    bool always_window; /* sliding_window holds unless it is null */
} Family;

static const Family families[] = {
    {.type = "llama", .architecture = "LlamaForCausalLM", .has_bias = true, .has_mlp_bias = true},
    {.type = "mistral", .architecture = "MistralForCausalLM", .always_window = true},
    {.type = "qwen2", .architecture = "Qwen2ForCausalLM", .bias = ATTENTION_BIAS_QKV},
    {.type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .has_bias = true,
     .qk_norm = true,
     .needs_heads = true},
};
enum { FAMILIES = sizeof families / sizeof *families };

typedef struct Reader {
    const Json *json;
    const char *file; /* for messages */
    const Family *family;
    Error *err;
} Reader;

static bool is_given(const Reader *r, const char *key) {
    return json_has(r->json, key);
}

static bool fail_missing(const Reader *r, const char *key) {
    return FAIL(r->err, ERROR_INPUT, "%s: %s is missing; nothing is guessed", r->file, key);
}

static bool get_int(const Reader *r, const char *key, int64_t most, int64_t *out) {
    if (!is_given(r, key)) return fail_missing(r, key);
    if (json_get_int(r->json, key, out) && *out >= 1 && *out <= most) return true;
    return FAIL(r->err, ERROR_INPUT, "%s: %s must be a whole number from 1 to %ld", r->file, key,
                (long)most);
}

static bool get_number(const Reader *r, const char *key, double least, double most, double *out) {
    if (!is_given(r, key)) return fail_missing(r, key);
    if (json_get_number(r->json, key, out) && *out >= least && *out <= most) return true;
    return FAIL(r->err, ERROR_INPUT, "%s: %s must be a number from %g to %g", r->file, key, least,
                most);
}

static bool get_bool(const Reader *r, const char *key, bool *out) {
    if (!is_given(r, key)) return fail_missing(r, key);
    return json_get_bool(r->json, key, out) ||
           FAIL(r->err, ERROR_INPUT, "%s: %s must be true or false", r->file, key);
}

/* Left out, it is as `*out` is. */
static bool get_optional_bool(const Reader *r, const char *key, bool *out) {
    return !is_given(r, key) || get_bool(r, key, out);
}

/* ---- Which network it is ---- */

static bool find_family(Reader *r) {
    const char *type = json_get_text(r->json, "model_type");
    if (!type) return fail_missing(r, "model_type");
    for (int i = 0; i < FAMILIES; i++)
        if (!strcmp(families[i].type, type)) r->family = &families[i];
    if (!r->family)
        return FAIL(r->err, ERROR_INPUT,
                    "%s: model_type '%s' is not read; there are llama, mistral, qwen2 and qwen3",
                    r->file, type);
    const char *architecture = json_get_text(r->json, "architectures.0");
    if (!architecture || !strcmp(architecture, r->family->architecture)) return true;
    return FAIL(r->err, ERROR_INPUT, "%s: architectures is '%s', and only '%s' is read", r->file,
                architecture, r->family->architecture);
}

static bool check_activation(const Reader *r) {
    const char *name = json_get_text(r->json, "hidden_act");
    if (!name) return fail_missing(r, "hidden_act");
    return !strcmp(name, "silu") ||
           FAIL(r->err, ERROR_INPUT, "%s: hidden_act '%s' is not supported, only 'silu'", r->file,
                name);
}

static bool read_sizes(const Reader *r, TransformerConfig *c) {
    DecoderConfig *block = &c->block;
    AttentionConfig *attention = &block->attention;
    TRY(get_int(r, "vocab_size", 1 << 24, &c->vocabulary));
    TRY(get_int(r, "hidden_size", 65536, &c->width));
    TRY(get_int(r, "num_hidden_layers", LAYERS_MAX, &c->layers));
    TRY(get_int(r, "intermediate_size", 1 << 24, &block->ff));
    TRY(get_int(r, "num_attention_heads", 65536, &attention->heads));
    TRY(get_number(r, "rms_norm_eps", 1e-12, 1, &attention->epsilon));
    TRY(get_bool(r, "tie_word_embeddings", &c->tied));
    bool needs = r->family->needs_heads;
    if (needs || is_given(r, "num_key_value_heads"))
        TRY(get_int(r, "num_key_value_heads", 65536, &attention->kv_heads));
    if (needs || is_given(r, "head_dim")) TRY(get_int(r, "head_dim", 65536, &attention->head_dim));
    return true;
}

static bool read_biases(const Reader *r, DecoderConfig *block) {
    bool has_bias = false;
    block->attention.attention_bias = r->family->bias;
    block->attention.qk_norm = r->family->qk_norm;
    if (r->family->has_bias) TRY(get_optional_bool(r, "attention_bias", &has_bias));
    if (has_bias) block->attention.attention_bias = ATTENTION_BIAS_ALL;
    if (r->family->has_mlp_bias) TRY(get_optional_bool(r, "mlp_bias", &block->mlp_bias));
    return true;
}

/* Members that other networks of these shapes have, and the value with which they do nothing. */
static const struct {
    const char *key;
    double neutral; /* beside null and false */
} unsupported[] = {
    {"alibi", 0},
    {"attention_chunk_size", 0},
    {"attention_multiplier", 1},
    {"attn_logit_softcapping", 0},
    {"clip_qkv", 0},
    {"embedding_multiplier", 1},
    {"final_logit_softcapping", 0},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"no_rope_layers", 0},
    {"num_experts", 0},
    {"num_local_experts", 0},
    {"residual_multiplier", 1},
    {"rope_interleaved", 0},
    {"scale_depth", 0},
    {"scale_emb", 1},
    {"use_bidirectional_attention", 0},
    {"use_dynamic_ntk", 0},
    {"use_logn_attn", 0},
    {"use_mrope", 0},
    {"use_parallel_residual", 0},
    {"use_qk_norm", 0},
};

static bool check_unsupported(const Reader *r) {
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        const char *key = unsupported[i].key;
        double value = NAN;
        bool is_on = true;
        if (!is_given(r, key) || (json_get_bool(r->json, key, &is_on) && !is_on)) continue;
        if (json_get_number(r->json, key, &value) && value == unsupported[i].neutral) continue;
        if (json_type_at(r->json, key) == JSON_LIST && !json_count(r->json, key)) continue;
        return FAIL(r->err, ERROR_INPUT, "%s: %s is set, which is not supported", r->file, key);
    }
    bool is_causal = true;
    TRY(get_optional_bool(r, "is_causal", &is_causal));
    if (!is_causal)
        return FAIL(r->err, ERROR_INPUT, "%s: is_causal false is not supported; true is", r->file);
    return !is_given(r, "auto_map.AutoModelForCausalLM") ||
           FAIL(r->err, ERROR_INPUT,
                "%s: auto_map.AutoModelForCausalLM names a network of the directory's own code, "
                "which is not run",
                r->file);
}

/* ---- Rotary positions ---- */

/* Heads of which only a part is turned. */
static bool check_whole_heads(const Reader *r, const char *name) {
    double share = 1;
    if (is_given(r, name)) TRY(get_number(r, name, 0, 1, &share));
    return share == 1 ||
           FAIL(r->err, ERROR_INPUT, "%s: %s %g is not supported; 1 is", r->file, name, share);
}

/* The length that was stretched may stand outside too, where transformers believes it. */
static bool check_original(const Reader *r, const char *at, int64_t length) {
    static const char key[] = "original_max_position_embeddings";
    int64_t other = length;
    if (is_given(r, key)) TRY(get_int(r, key, 1 << 30, &other));
    return other == length || FAIL(r->err, ERROR_INPUT, "%s: %s is %ld, and in %s %ld", r->file,
                                   key, (long)other, at, (long)length);
}

/* As transformers writes it since version 5, or before. */
static bool read_rope(const Reader *r, AttentionConfig *c, Arena *arena) {
    bool is_new = is_given(r, "rope_parameters");
    const char *at = is_new ? "rope_parameters" : "rope_scaling";
    if (is_new && is_given(r, "rope_scaling"))
        return FAIL(r->err, ERROR_INPUT,
                    "%s: rope_scaling and rope_parameters say the same thing; leave one of them",
                    r->file);
#define MEMBER(name) arena_format(arena, "%s." name, at)
    TRY(get_number(r, is_new ? MEMBER("rope_theta") : "rope_theta", 1, 1e12, &c->rope_theta));
    TRY(check_whole_heads(r, "partial_rotary_factor"));
    if (!is_given(r, at)) return true;
    TRY(check_whole_heads(r, MEMBER("partial_rotary_factor")));
    const char *type = json_get_text(r->json, MEMBER("rope_type"));
    if (!type) type = json_get_text(r->json, MEMBER("type"));
    if (!type) return fail_missing(r, MEMBER("rope_type"));
    if (!strcmp(type, "default")) return true;
    if (strcmp(type, "llama3") != 0)
        return FAIL(r->err, ERROR_INPUT,
                    "%s: %s.rope_type '%s' is not supported; 'default' and 'llama3' are", r->file,
                    at, type);
    RopeScaling *s = c->rope_scaling = arena_new_array(arena, RopeScaling, 1);
    TRY(get_number(r, MEMBER("factor"), 1, 1e6, &s->factor));
    TRY(get_number(r, MEMBER("low_freq_factor"), 1e-3, 1e6, &s->low_freq_factor));
    TRY(get_number(r, MEMBER("high_freq_factor"), 1e-3, 1e6, &s->high_freq_factor));
    TRY(get_int(r, MEMBER("original_max_position_embeddings"), 1 << 30, &s->original_length));
    return check_original(r, at, s->original_length);
#undef MEMBER
}

/* ---- What positions see ---- */

/* A context of one position predicts nothing. */
static bool read_context(const Reader *r, int64_t *out) {
    static const char key[] = "max_position_embeddings";
    TRY(get_int(r, key, 1 << 24, out));
    return *out >= 2 ||
           FAIL(r->err, ERROR_INPUT, "%s: %s must be at least 2: of one token none is predicted",
                r->file, key);
}

static bool check_window(const Reader *r, int64_t context) {
    bool is_used = r->family->always_window;
    if (is_used && json_type_at(r->json, "sliding_window") == JSON_ABSENT)
        return fail_missing(r, "sliding_window (null: none)");
    TRY(get_optional_bool(r, "use_sliding_window", &is_used));
    int64_t window;
    if (!is_used || !is_given(r, "sliding_window")) return true;
    TRY(get_int(r, "sliding_window", INT64_MAX, &window));
    return window >= context ||
           FAIL(r->err, ERROR_INPUT,
                "%s: sliding_window %ld is shorter than the context of %ld positions, which is not "
                "supported yet",
                r->file, (long)window, (long)context);
}

static bool is_full(void *context, const JsonMember *member) {
    (void)context;
    return member->type == JSON_TEXT && !strcmp(member->text, "full_attention");
}

static bool check_layer_types(const Reader *r) {
    if (!is_given(r, "layer_types")) return true;
    return (json_type_at(r->json, "layer_types") == JSON_LIST &&
            json_each_element(r->json, "layer_types", is_full, NULL)) ||
           FAIL(r->err, ERROR_INPUT,
                "%s: layer_types must be a list of 'full_attention'; others are not supported yet",
                r->file);
}

/* ---- What ends a text ---- */

static bool add_end(void *context, const JsonMember *member) {
    ModelDirectory *d = context;
    if (member->type != JSON_INT || d->end_count == MODEL_ENDS_MAX) return false;
    if (member->integer < 0 || member->integer >= d->network.vocabulary) return false;
    d->ends[d->end_count++] = (int32_t)member->integer;
    return true;
}

/* A token or a list of them. */
static bool read_ends(const Reader *r, ModelDirectory *d) {
    JsonMember one = {.type = JSON_INT};
    if (!is_given(r, "eos_token_id")) return true;
    d->end_count = 0;
    bool ok = json_get_int(r->json, "eos_token_id", &one.integer)
                  ? add_end(d, &one)
                  : json_type_at(r->json, "eos_token_id") == JSON_LIST &&
                        json_each_element(r->json, "eos_token_id", add_end, d);
    return ok || FAIL(r->err, ERROR_INPUT,
                      "%s: eos_token_id must be a token of the vocabulary of %ld, or a list of at "
                      "most %d",
                      r->file, (long)d->network.vocabulary, MODEL_ENDS_MAX);
}

/* generation_config.json, where there is one, knows all of them. */
static bool read_generation(ModelDirectory *d, Arena *arena, Error *err) {
    const char *file =
        file_resolve(arena_format(arena, "%s/generation_config.json", d->path), arena);
    FileState state = file_find(file, err);
    if (state != FILE_REGULAR) return state == FILE_ABSENT;
    Json *json = json_read_small(file, JSON_SETTINGS_MAX, err);
    if (!json) return false;
    bool ok = read_ends(&(Reader){.json = json, .file = file, .err = err}, d);
    json_free(json);
    return ok;
}

/* ---- How weights are stored ---- */

static bool read_stored(const Reader *r, ModelDirectory *d, Arena *arena) {
    bool is_int8 = false;
    if (!is_given(r, "quantization_config")) return true;
    const char *method = json_get_text(r->json, "quantization_config.quant_method");
    if (!method) return fail_missing(r, "quantization_config.quant_method");
    d->stored = arena_strdup(arena, method);
    TRY(get_optional_bool(r, "quantization_config.load_in_8bit", &is_int8));
    return !is_int8 || FAIL(r->err, ERROR_INPUT,
                            "%s: quantization_config.load_in_8bit is not supported; take the model "
                            "that it was made from",
                            r->file);
}

/* ---- All of it ---- */

static bool read_config(Reader *r, ModelDirectory *d, Arena *arena) {
    TransformerConfig *c = &d->network;
    TRY(find_family(r));
    d->type = r->family->type;
    TRY(check_activation(r));
    TRY(read_sizes(r, c));
    TRY(read_biases(r, &c->block));
    TRY(check_unsupported(r));
    TRY(read_rope(r, &c->block.attention, arena));
    TRY(read_context(r, &d->context));
    TRY(check_window(r, d->context));
    TRY(check_layer_types(r));
    TRY(read_ends(r, d));
    return read_stored(r, d, arena);
}

bool model_directory_is_one(const char *path) {
    Arena *arena = arena_new("path");
    struct stat status;
    bool is_one = !stat(arena_format(arena, "%s/config.json", path), &status);
    arena_free(arena);
    return is_one;
}

bool model_directory_read(const char *path, Arena *arena, ModelDirectory *out, Error *err) {
    const char *file = arena_format(arena, "%s/config.json", path);
    *out = (ModelDirectory){.path = arena_strdup(arena, path)};
    Json *json = json_read_small(file_resolve(file, arena), JSON_SETTINGS_MAX, err);
    if (!json) return false;
    Reader r = {.json = json, .file = file, .err = err};
    bool ok = read_config(&r, out, arena) && read_generation(out, arena, err);
    json_free(json);
    return ok;
}
