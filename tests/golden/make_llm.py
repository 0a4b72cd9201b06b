#!/usr/bin/env python3
"""Makes tests/golden/llm: tiny random language models as Hugging Face's transformers save them, adapters as PEFT saves
them, and what both compute with them.

    pip install torch transformers peft bitsandbytes tokenizers safetensors
    python3 tests/golden/make_llm.py

For each model of MODELS there are a directory NAME (config.json, weights, tokenizer.json) and beside it

NAME.safetensors   ids I32 [length], logits F32 [length, vocabulary]: the logits of these ids, in f32
NAME.json          prompt, prompt_ids, new_ids (the most likely ones, without end), text (of new_ids);
                   of text.txt: token_count (with the template's), loss (mean, in nats), perplexity, scored; under
                   "stride" the same with windows that begin every `stride` tokens
                   margin: how far the best of new_ids were ahead at least, in logits

Perplexity: the text is tokenized whole; windows of max_position_embeddings do not overlap; the first token of a window
is not scored; a last window of one token is left out. With a stride, windows overlap, and a window scores what none
before it has seen.

For each adapter of ADAPTERS, on the model llama, a directory NAME (adapter_config.json, adapter_model.safetensors) and

NAME.safetensors   ids, logits: as above, with the adapter
                   tokens, labels I32 [2, 24]: a batch (labels: the token to be predicted after that one, or -1);
                   PARAM.grad, PARAM.after: the gradient of the mean loss, and the value after three steps of AdamW on
                   that batch; PARAM is the adapter's name of it, without `base_model.model.`
NAME.json          losses before each of the three steps; learning_rate, beta1, beta2, epsilon, weight_decay

llama_nf4 (with double quantization) and llama_fp4 are llama as bitsandbytes stores it on a CPU. What it computes with
them is no reference: on a CPU it takes rows for whole blocks, and these are shorter. So there is a wider network,
wide_nf4 and wide_fp4, without a tokenizer, and beside each

NAME.safetensors   ids, logits: as above
wide_nf4_lora.safetensors, .json   as an adapter's, without .after, of the adapter wide_lora on wide_nf4

Weights are larger than a new model's, and norms and biases are no ones and zeros, so that whatever is left out or
confused shows. Random numbers are PyTorch's, so another version of it may write other files, which agree with each
other.
"""

import json
import math
import pathlib
import shutil
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import (AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, MistralConfig,
                          PreTrainedTokenizerFast, Qwen2Config, Qwen3Config)  # fmt: skip

OUT = pathlib.Path(__file__).parent / "llm"
TEXT = (OUT / "text.txt").read_text()
VOCABULARY = 300
LENGTH = 16  # whose logits are kept
ROW = 24  # of the batch that trains
NEW = 12
WIDE = 64  # a block of bitsandbytes'
PROMPTS = ["captain", "lighthouse", "Sainte-Agnès", "Nobody", "4:15", "thought", "weather.", "Malmö,"]

SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=0,
    eos_token_id=1,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=100.0,  # of the four wavelengths, one is kept, one lies between, two are stretched
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)

# name: configuration, storage of the weights, bytes of a shard, whether a text begins with <|begin|>
MODELS = {
    "llama": (
        LlamaConfig(**SIZES, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE),
        torch.float32, "1GB", True,
    ),
    "mistral": (
        MistralConfig(**SIZES, tie_word_embeddings=False, sliding_window=64, head_dim=8), torch.bfloat16, "1GB", True,
    ),
    "qwen2": (Qwen2Config(**SIZES, tie_word_embeddings=True), torch.float32, "60KB", False),
    "qwen3": (Qwen3Config(**SIZES, tie_word_embeddings=False, head_dim=16), torch.float16, "1GB", False),
}  # fmt: skip

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "lora": dict(r=4, lora_alpha=8, target_modules=PROJECTIONS),
    "rslora": dict(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"layers.0.self_attn.q_proj": 2, "down_proj": 3},
        alpha_pattern={"layers.1.mlp.down_proj": 12, "self_attn.v_proj": 3},
    ),
    "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=PROJECTIONS),
}
ADAM = dict(learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.1)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer(begins):
    """Of bytes, with merges of text.txt; begins: as Llama 3's, otherwise as Qwen's."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=begins))
    pattern = LLAMA3 if begins else LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
    raw_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), raw_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    if begins:
        frame = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), frame])
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>" if begins else None, eos_token="<|end|>"
    )


def roughen(model):
    """Random weights of a spread that lets every part count."""
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name.endswith("norm.weight"):
                param.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                param.normal_(0, 0.5)
            elif "embed_tokens" in name:
                param.normal_(0, 0.3)
            else:
                param.normal_(0, 1.5 / math.sqrt(param.shape[1]))


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float()


def generate(model, ids):
    """The most likely next ids, without a cache; also how far each was ahead."""
    new, margins = [], []
    for _ in range(NEW):
        best = logits_of(model, ids + new)[-1].topk(2)
        new.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return new, min(margins)


def perplexity(model, ids, window, stride):
    total, scored, seen = 0.0, 0, 1
    for begin in range(0, len(ids), stride):
        part = ids[begin : begin + window]
        first = max(seen - begin, 1)  # of the part, that is scored
        if len(part) > first:
            log_likelihood = logits_of(model, part).double().log_softmax(-1)
            total -= sum(float(log_likelihood[i - 1, part[i]]) for i in range(first, len(part)))
            scored += len(part) - first
        seen = begin + len(part)
        if seen == len(ids):
            break
    loss = total / scored
    return {"loss": loss, "perplexity": math.exp(loss), "scored": scored}


def load(name):
    return AutoModelForCausalLM.from_pretrained(OUT / name, dtype=torch.float32, attn_implementation="eager").eval()


def make_model(name, config, dtype, shard, begins):
    tokenizer = make_tokenizer(begins)
    model = AutoModelForCausalLM.from_config(config)
    roughen(model)
    shutil.rmtree(OUT / name, ignore_errors=True)
    model.to(dtype).save_pretrained(OUT / name, max_shard_size=shard)
    tokenizer.save_pretrained(OUT / name)
    (OUT / name / "generation_config.json").unlink(missing_ok=True)

    model = load(name)
    ids = tokenizer.encode(TEXT)
    save_file(
        {"ids": torch.tensor(ids[:LENGTH], dtype=torch.int32), "logits": logits_of(model, ids[:LENGTH])},
        OUT / f"{name}.safetensors",
    )
    # Of the prompts, the one whose continuation is the surest, and does not end.
    found = []
    for prompt in PROMPTS:
        prompt_ids = tokenizer.encode(prompt)
        new, margin = generate(model, prompt_ids)
        if config.eos_token_id not in new:
            found.append((margin, prompt, prompt_ids, new))
    margin, prompt, prompt_ids, new = max(found)
    window = config.max_position_embeddings
    facts = {"prompt": prompt, "prompt_ids": prompt_ids, "new_ids": new, "text": tokenizer.decode(new)}
    facts |= {"margin": margin, "token_count": len(ids)} | perplexity(model, ids, window, window)
    facts["stride"] = {"stride": 24} | perplexity(model, ids, window, 24)
    (OUT / f"{name}.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    print(name, f"margin {margin:.3f}, perplexity {facts['perplexity']:.3f} and {facts['stride']['perplexity']:.3f}")


def make_batch():
    ids = PreTrainedTokenizerFast.from_pretrained(OUT / "llama").encode(TEXT)
    tokens = torch.tensor([ids[:ROW], ids[ROW : 2 * ROW]])
    labels = tokens.clone()
    labels[1, :8] = -100
    return ids[:LENGTH], tokens, labels


def facts_of(model, ids, tokens, labels):
    shifted = torch.cat([labels[:, 1:].clamp(min=-1), torch.full((2, 1), -1)], 1)
    return {
        "ids": torch.tensor(ids, dtype=torch.int32),
        "logits": logits_of(model, ids),
        "tokens": tokens.to(torch.int32),
        "labels": shifted.to(torch.int32),
    }


def adapter_params(model):
    """By the names of the adapter's file, without what all begin with."""
    params = {}
    for name, param in model.named_parameters():
        if param.requires_grad:
            short = name.removeprefix("base_model.model.").replace(".default", "")
            params[short.replace("magnitude_vector.weight", "magnitude_vector")] = param
    return params


def save_tensors(name, tensors):
    plain = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    save_file(plain, OUT / f"{name}.safetensors")


def save_adapter(model, name):
    shutil.rmtree(OUT / name, ignore_errors=True)
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink(missing_ok=True)
    path = OUT / name / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"].sort()  # of a set, in any order
    path.write_text(json.dumps(config, indent=2) + "\n")


def make_adapter(name, settings):
    base = load("llama")
    base.name_or_path = base.config._name_or_path = "tests/golden/llm/llama"
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for param_name, param in model.named_parameters():
            if "lora_B" in param_name:
                param.normal_(0, 0.2)
            if "magnitude" in param_name:
                param.mul_(torch.empty_like(param).uniform_(0.8, 1.25))
    save_adapter(model, name)
    ids, tokens, labels = make_batch()
    tensors = facts_of(model, ids, tokens, labels)
    params = adapter_params(model)
    optimizer = torch.optim.AdamW(
        params.values(), lr=ADAM["learning_rate"], betas=(ADAM["beta1"], ADAM["beta2"]), eps=ADAM["epsilon"],
        weight_decay=ADAM["weight_decay"], foreach=False,
    )  # fmt: skip
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            tensors |= {f"{n}.grad": p.grad.clone() for n, p in params.items()}
        optimizer.step()
    save_tensors(name, tensors | {f"{n}.after": p for n, p in params.items()})
    (OUT / f"{name}.json").write_text(json.dumps({"losses": losses} | ADAM, indent=1) + "\n")
    print(name, losses)


def load_quantized(path, kind, is_double):
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=is_double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", quantization_config=settings, device_map="cpu"
    ).train()  # where bitsandbytes evaluates on a CPU, it may multiply in bf16, and gradients stop


def make_quantized(name, path, kind, is_double):
    model = load_quantized(path, kind, is_double)
    shutil.rmtree(OUT / name, ignore_errors=True)
    model.save_pretrained(OUT / name)
    (OUT / name / "generation_config.json").unlink(missing_ok=True)
    return model


def make_llama_quantized(name, kind, is_double):
    make_quantized(name, OUT / "llama", kind, is_double)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(OUT / "llama" / file, OUT / name / file)


def make_wide():
    """Rows of whole blocks of 64, so that what bitsandbytes computes is what its numbers mean."""
    sizes = SIZES | dict(vocab_size=WIDE, hidden_size=WIDE, intermediate_size=2 * WIDE, num_hidden_layers=1)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, tie_word_embeddings=True, rms_norm_eps=1e-5))
    roughen(base)
    ids = torch.randint(WIDE, (LENGTH,)).tolist()
    tokens = torch.randint(WIDE, (2, ROW))
    labels = tokens.clone()
    labels[1, :8] = -100
    with tempfile.TemporaryDirectory() as path:
        base.save_pretrained(path)
        for kind, is_double in (("nf4", True), ("fp4", False)):
            model = make_quantized(f"wide_{kind}", path, kind, is_double)
            logits = logits_of(model, ids)
            save_tensors(f"wide_{kind}", {"ids": torch.tensor(ids, dtype=torch.int32), "logits": logits})
        model = load_quantized(path, "nf4", True)
    model.name_or_path = model.config._name_or_path = "tests/golden/llm/wide_nf4"
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=PROJECTIONS))
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name:
                param.normal_(0, 0.2)
    save_adapter(model, "wide_lora")
    facts = facts_of(model.train(), ids, tokens, labels)
    loss = model(input_ids=tokens, labels=labels).loss
    loss.backward()
    save_tensors("wide_nf4_lora", facts | {f"{n}.grad": p.grad for n, p in adapter_params(model).items()})
    (OUT / "wide_nf4_lora.json").write_text(json.dumps({"losses": [loss.item()]}, indent=1) + "\n")
    print("wide_nf4_lora", loss.item())


if __name__ == "__main__":
    torch.manual_seed(1)
    torch.set_num_threads(1)
    for name, arguments in MODELS.items():
        make_model(name, *arguments)
    for name, settings in ADAPTERS.items():
        make_adapter(name, settings)
    make_llama_quantized("llama_nf4", "nf4", True)
    make_llama_quantized("llama_fp4", "fp4", False)
    make_wide()
