/* For tests of adapters: one as a user writes it, on a network. */
#ifndef NIBBLE_TESTS_MODEL_ADAPTER_H
#define NIBBLE_TESTS_MODEL_ADAPTER_H

#include "qat/adapter.h"
#include "tests/model_source.h"

typedef struct AdapterText {
    Variant adapter;
} AdapterText;

static const Field adapter_text_fields[] = {
    FIELD_VARIANT(AdapterText, adapter, "null", &adapter_kinds, "the adapter"),
    FIELD_END,
};

static inline Variant adapter_of(const char *text) {
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    AdapterText source = {0};
    if (!yaml_read_text(text, strlen(text), "test", arena, &root, &faults, &err))
        fail_msg("%s", err.message);
    fields_read(adapter_text_fields, root, root->mark, &source, arena, &faults);
    if (faults.count) fail_msg("%s", faults.first->message);
    return source.adapter;
}

/* From YAML text with `adapter:`. */
static inline Adapter *install(Model *model, const char *text) {
    Variant choice = adapter_of(text);
    Error err = {0};
    Adapter *adapter = NULL;
    if (!adapter_install(model, &choice, arena, &adapter, &err)) fail_msg("%s", err.message);
    return adapter;
}

#endif
