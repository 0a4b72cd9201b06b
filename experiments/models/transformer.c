#include "experiments/models/transformer.h"

static const Field fields[] = {
    FIELD_INT(TransformerConfig, vocabulary, "0", 0, 1 << 24, "tokens; 0: those of the data"),
    FIELD_INT(TransformerConfig, width, "256", 2, 65536, "numbers for each position"),
    FIELD_INT(TransformerConfig, layers, "4", 1, LAYERS_MAX, "decoder blocks"),
    DECODER_FIELDS,
    FIELD_BOOL(TransformerConfig, tied, "true", "the head multiplies with the embedding's table"),
    FIELD_END,
};

static void add_sequence(LayerList *l, const char *name, List layers) {
    SequentialConfig *config = kind_defaults(&layer_sequential.kind, l->arena);
    config->layer.name = name;
    config->layers = layers;
    layer_list_add(l, &layer_sequential, config);
}

static List blocks(const TransformerConfig *c, Arena *arena) {
    LayerList l = {.arena = arena};
    for (int64_t i = 0; i < c->layers; i++) {
        DecoderConfig *block = arena_new_array(arena, DecoderConfig, 1);
        *block = c->block;
        block->attention.layer.name = arena_format(arena, "%ld", (long)i);
        layer_list_add(&l, &layer_decoder_block, block);
    }
    return l.list;
}

static List body(const TransformerConfig *c, Arena *arena) {
    LayerList l = {.arena = arena};
    EmbeddingConfig *embedding = kind_defaults(&layer_embedding.kind, arena);
    embedding->layer.name = "embed_tokens";
    embedding->rows = c->vocabulary;
    embedding->units = c->width;
    layer_list_add(&l, &layer_embedding, embedding);
    add_sequence(&l, "layers", blocks(c, arena));
    NormConfig *norm = kind_defaults(&layer_rms_norm.kind, arena);
    norm->layer.name = "norm";
    norm->epsilon = c->block.attention.epsilon;
    layer_list_add(&l, &layer_rms_norm, norm);
    return l.list;
}

List transformer_layers(const TransformerConfig *c, Arena *arena) {
    LayerList l = {.arena = arena};
    add_sequence(&l, "model", body(c, arena));
    HeadConfig *head = kind_defaults(&layer_head.kind, arena);
    head->layer.name = "lm_head";
    head->units = c->vocabulary;
    head->tied = c->tied;
    layer_list_add(&l, &layer_head, head);
    return l.list;
}

static bool layers(const void *config, int64_t classes, Arena *arena, List *out, Error *err) {
    TransformerConfig c = *(const TransformerConfig *)config;
    (void)err;
    if (!c.vocabulary) c.vocabulary = classes;
    *out = transformer_layers(&c, arena);
    return true;
}

const ModelKind model_transformer = {
    .kind = {"transformer", "decoder of a language model, as in Llama", sizeof(TransformerConfig),
             fields},
    .layers = layers,
};
