/* For tests of PEFT's adapters: a small network of linear layers fc1, fc2 and classes, and an
 * adapter that comes out of a directory. */
#ifndef NIBBLE_TESTS_PEFT_NETWORK_H
#define NIBBLE_TESTS_PEFT_NETWORK_H

#include "data/peft.h"
#include "data/safetensors.h"
#include "experiments/adapter/import.h"
#include "qat/adapters/lora.h"
#include "tests/model_source.h"

static const char network_text[] =
    "model: {kind: sequential, layers: [{kind: linear, name: fc1, units: 7}, relu, "
    "{kind: linear, name: fc2, units: 6, bias: false}, relu, "
    "{kind: linear, name: classes, units: 3}]}";

static inline ExperimentConfig config_from(const char *directory) {
    LoraConfig *lora = kind_defaults(&adapter_lora.kind, arena);
    lora->from = directory;
    return (ExperimentConfig){.adapter = {&adapter_lora.kind, lora}};
}

static inline Model *network(void) {
    ModelSource source = model_source(network_text);
    return model_of(&source, SHAPE(5), 3, 11);
}

static inline bool open_import(const char *directory, Experiment *e, Error *err) {
    *e = (Experiment){.config = config_from(directory), .arena = arena, .model = network()};
    return import_settings(&e->config, arena, err) &&
           adapter_install(e->model, &e->config.adapter, arena, &e->adapter, err) &&
           import_weights(e, err);
}

static inline Experiment import(const char *directory) {
    Experiment e;
    Error err = {0};
    if (!open_import(directory, &e, &err)) fail_msg("%s", err.message);
    return e;
}

#endif
