/* adapter_config.json up to a zero, then adapter_model.safetensors as the target safetensors has
 * it. Patterns are asked about every module, and whether both files agree. What is accepted is the
 * same when it is written and read again. */
#include "data/peft.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/safetensors_part.h"

static void check_patterns(const Peft *p, const PeftPatterns *patterns) {
    double out;
    for (int i = 0; i < p->module_count; i++) {
        Error err = {0};
        if (!peft_pattern(p, patterns, p->modules[i], 8, &out, &err))
            fuzz_check_refusal(&err);
        else
            FUZZ_CHECK(out > 0);
    }
}

static void check_again(const Peft *p, Arena *arena) {
    Json *json = peft_config_json(&p->config);
    const char *line = json_line(json, arena);
    Peft again;
    Error err = {0};
    fuzz_file(PEFT_CONFIG, (FuzzPart){(const uint8_t *)line, strlen(line)});
    FUZZ_CHECK(peft_open(fuzz_folder(), arena, &again, &err));
    FUZZ_CHECK(again.config.rank == p->config.rank && again.module_count == p->module_count);
    FUZZ_CHECK(again.config.ranks.count == p->config.ranks.count);
    peft_close(&again);
    json_free(json);
}

static void check(const Peft *p, Arena *arena) {
    FUZZ_CHECK(p->config.rank > 0 && p->module_count > 0);
    for (int i = 0; i < p->module_count; i++) peft_find(p, p->modules[i], "lora_A.weight", arena);
    check_patterns(p, &p->config.ranks);
    check_patterns(p, &p->config.alphas);
    Error err = {0};
    if (!peft_check(p, &err)) fuzz_check_refusal(&err);
    check_again(p, arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz"), *scratch = arena_new("file");
    FuzzPart input = {data, bytes};
    fuzz_file(PEFT_CONFIG, fuzz_take_text(&input));
    safetensors_part(PEFT_MODEL, &input, scratch);
    Peft peft;
    Error err = {0};
    if (peft_open(fuzz_folder(), arena, &peft, &err))
        check(&peft, scratch);
    else
        fuzz_check_refusal(&err);
    peft_close(&peft);
    fuzz_check_memory(arena, bytes, 256);
    arena_free(arena);
    arena_free(scratch);
    return 0;
}
