#!/usr/bin/env python3
"""Makes tests/fuzz/seeds: a small file for each way through each parser, and beside them what once
broke one. Files that are there and not made here stay.

    tests/fuzz/make_seeds.py             from the source root
    tests/fuzz/make_seeds.py PROGRAM     those too that nibble and libhdf5 (h5py) write
"""
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib

ROOT = "tests/fuzz/seeds"
GOLDEN = "tests/golden"


def put(noun, name, *parts):
    """Parts are joined by zeros; texts are UTF-8, other things JSON."""
    os.makedirs(f"{ROOT}/{noun}", exist_ok=True)
    data = b"\0".join(
        p if isinstance(p, bytes) else p.encode() if isinstance(p, str) else json.dumps(p).encode()
        for p in parts)
    with open(f"{ROOT}/{noun}/{name}", "wb") as f:
        f.write(data)


def read(path):
    with open(f"{GOLDEN}/{path}", "rb") as f:
        return f.read()


# ---- Settings ----

put("yaml", "example", """seed: 3
precision: bf16
name: "a\\tb"
optimizer: {kind: adam, lr: 1e-3, betas: [0.8, 0.9]}
layers:
  - linear: {units: 4}
  - kind: branch
    layers: [{kind: linear, units: 2}]
rules:
- {match: first, bits: 8, granularity: channel}
milestones: [1, 2]
train:
  epochs: 2
  data: {path: /x, validation: 0.5}
train.steps=4""")
put("yaml", "folded", "train: {data: {path: >-\n  /a\n  b\n}}\nlayers: []\n~seed\n")
put("yaml", "refused", "a: &b [*b]\n? x\n: !!int y\n<<: {}\n--- \nc")

SMALL = """seed: 1
model: {kind: cnn, widths: [4, 8], hidden: 16}
data: {kind: synthetic, classes: 4, height: 8, width: 8, train: 512, test: 128, batch: 32}
optimizer: {kind: sgd, lr: 0.05, momentum: 0.9, weight_decay: 5e-4}
schedule: {kind: cosine, warmup: 0.05}
train: {epochs: 3, log_every: 4}
quant:
  bits: 4
  rules: [{layers: "first, last", bits: 8}]
"""
put("config", "images", SMALL, "train.epochs=2", "~schedule", "quant.rules.0.bits=6")
put("config", "text", """model: {kind: transformer, layers: 2, width: 32, block: {attention: {heads: 2}}}
data: {kind: text, sample: "some text", length: 16, validation: 0.2, test: 0.2}
optimizer: {kind: adamw, lr: 1e-3}
train: {steps: 4, recompute: block}
precision: bf16
""", "optimizer.lr=3e-4")
put("config", "sequential", """model:
  kind: sequential
  layers: [flatten, {kind: linear, units: 32}, relu, {dropout: {rate: 0.5}}, {kind: linear, units: 10}]
data: {kind: idx, path: /x}
quant: {bits: auto, weights: {quantizer: {kind: lsq}}, activations: {quantizer: pact}}
train: {distill: {teacher: runs/t, weight: 0.5}}
quantize: [round, {kind: gptq}]
""")
put("config", "adapter", """model: {kind: pretrained, path: /m, base: nf4}
data: {kind: text, path: /t, format: chat, template: chatml, tokenizer: /m}
adapter: {kind: lora, rank: 4, rules: [{layers: q_proj, rank: 8}]}
""")
put("config", "empty_path", "model: {kind: pretrained, path: ''}\ndata: {kind: synthetic}\n")
put("override", "each", "train.epochs=2\nmodel.layers.1.units=3\n~quant.rules\n"
    "optimizer={kind: adam, lr: 1e-3}\noptimizer.lr=1\nquant.rules.0.layers=\"a, b\"\nseed=")
put("override", "wrong", "x=1\nmodel.layers.9.units=3\n=\n~\na..b=[\nquant.rules.-1.bits=2\nseed=*a")

# ---- Images and labels ----


def idx(dims, values=None):
    count = 1
    for d in dims:
        count *= d
    head = bytes([0, 0, 8, len(dims)]) + b"".join(struct.pack(">I", d) for d in dims)
    return head + (bytes(range(count)) if values is None else values)


put("idx", "labels", idx([5]))
put("idx", "images", idx([2, 3, 4]))
put("idx", "gzip", gzip.compress(idx([2, 3, 4]), mtime=0))
put("idx", "members", gzip.compress(idx([6])[:5], mtime=0) + gzip.compress(idx([6])[5:], mtime=0))
put("idx", "bomb", gzip.compress(idx([1 << 16], bytes(1 << 16)), mtime=0))
put("idx", "claims", idx([1 << 31, 1 << 31, 7], b"x"))

put("cifar", "ten", b"\0\0airplane\nautomobile", b"\x03\x07\x80")
put("cifar", "hundred", b"\x03\0" + b"\n".join(b"n%d" % i for i in range(100)), b"\x01\x02")
put("cifar", "short", b"\1\xfb", b"\x01")


def chunk(kind, data):
    return (struct.pack(">I", len(data)) + kind + data +
            struct.pack(">I", zlib.crc32(kind + data)))


def png(width, height, depth, colour, rows, *extra, interlace=0):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


put("image", "grey", b"\0" + png(4, 4, 8, 0, b"\0abcd" * 4))
put("image", "colour", b"\1" + png(4, 4, 8, 2, b"\1abcdefghijkl" * 4))
put("image", "palette", b"\1" + png(4, 4, 2, 3, b"\0\x1b" * 4, chunk(b"PLTE", bytes(range(12)))))
put("image", "deep", b"\0" + png(4, 4, 16, 0, b"\2abcdefgh" * 4))
put("image", "interlaced", b"\0" + png(4, 4, 8, 0, b"\0a\0a\0aa\0aa\0aaaa\0aaaa", interlace=1))
put("image", "text", b"\0" + png(4, 4, 8, 0, b"\0abcd" * 4, chunk(b"tEXt", b"a\0b"),
                                 chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 99)),
                                 chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(132)))))
put("image", "alpha", b"\0" + png(4, 4, 8, 4, b"\0abababab" * 4))
put("image", "claims", b"\0" + png(4, 4, 8, 0, b"\0abcd" * 4, b"\x30\0\0\0zTXta\0\0"))
put("image", "pgm", b"\0P5 # note\n4 4\n255\n" + bytes(16))
put("image", "ppm", b"\1P6\t4\r4 255 " + bytes(48))

# ---- safetensors ----


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = {"a": tensor("F32", [2], 0, 8), "b.c": tensor("F16", [1, 3], 8, 14)}
put("safetensors", "two", {"__metadata__": {"format": "pt"}, **TWO}, bytes(14))
put("safetensors", "types", {
    "bf": tensor("BF16", [], 0, 2), "u": tensor("U8", [0, 9], 2, 2), "q": tensor("F4", [4], 2, 4),
    "i": tensor("I64", [1], 4, 12)}, bytes(12))
put("safetensors", "whole", struct.pack("<Q", 2) + b"{}")
put("safetensors", "golden", read("safetensors/model.safetensors"))
put("safetensors", "long", struct.pack("<Q", 1 << 60) + b"{}")
put("safetensors", "overlap", {"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)},
    bytes(12))
put("safetensors", "hole", {"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 4, 6)}, bytes(6))
put("safetensors", "twice", '{"a": %s, "a": %s}' % ((json.dumps(tensor("U8", [1], 0, 1)),) * 2), b"x")
put("safetensors", "shape", {"a": tensor("F32", [4194305, 4194305, 211106198978564], 0, 16)},
    bytes(16))

put("safetensors_index", "one", {"weight_map": {"a": "a.safetensors", "b.c": "a.safetensors"}}, TWO,
    bytes(14))
put("safetensors_index", "outside", {"weight_map": {"a": "../a.safetensors"}}, TWO, bytes(14))
put("safetensors_index", "long_name", {"weight_map": {"a": "a" * 256}}, TWO, bytes(14))
put("safetensors_index", "missing", {"weight_map": {"z": "a.safetensors"}}, TWO, bytes(14))
put("safetensors_index", "empty_file", {"weight_map": {"z": "a.safetensors"}}, {})
put("safetensors_index", "none", {"weights": {}}, TWO, bytes(14))

# ---- Models ----

for name in ("llama", "mistral", "qwen2", "qwen3"):
    put("model_directory", name, json.loads(read(f"llm/{name}/config.json")))
LLAMA = json.loads(read("llm/llama/config.json"))
put("model_directory", "ends", LLAMA, {"eos_token_id": [1, 2]})
put("model_directory", "scaling", {
    **LLAMA, "rope_parameters": None, "rope_theta": 1e4,
    "rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4,
                     "original_max_position_embeddings": 32}})
put("model_directory", "stored", {**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"},
                                  "sliding_window": 8, "use_sliding_window": True,
                                  "layer_types": ["full_attention"]})

LORA = json.loads(read("adapter/lora/adapter_config.json"))


def lora(modules, dora=False):
    header, at = {}, 0
    for m in modules:
        parts = [("lora_A.weight", [1, 2]), ("lora_B.weight", [2, 1])]
        for part, shape in parts + [("lora_magnitude_vector", [2])] * dora:
            header[f"base_model.model.{m}.{part}"] = tensor("F32", shape, at, at + 8)
            at += 8
    return header, bytes(at)


put("peft", "lora", {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]},
    *lora(["layers.0.q_proj"]))
put("peft", "golden", LORA, *lora(["fc"]))
put("peft", "dora", {"peft_type": "LORA", "r": 1, "use_dora": True, "use_rslora": True,
                     "bias": "none", "lora_dropout": 0.1, "target_modules": "all-linear",
                     "layers_to_transform": [0]}, *lora(["a.b"], True))
put("peft", "patterns", {"peft_type": "LORA", "r": 2, "rank_pattern": {"0.*q_proj": 1, "v$": 4},
                         "alpha_pattern": {"layers\\.[0-9]+\\.q": 3}},
    *lora(["layers.0.q_proj", "layers.1.v"]))
put("peft", "backtracking", {"peft_type": "LORA", "rank_pattern": {"(a+)+[bc]": 1, "(x|x)*y": 2}},
    *lora(["a" * 60, "x" * 60]))
put("peft", "broken", {"peft_type": "LORA", "rank_pattern": {"(((": 1}}, *lora(["a"]))

STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, 16]}
put("bitsandbytes", "nf4", bytes([0, 64, 2, 0]) + json.dumps(STATE).encode(), bytes(range(64)))
put("bitsandbytes", "fp4", bytes([1, 3, 1, 0]) + json.dumps(
    {**STATE, "quant_type": "fp4", "shape": [5]}).encode(), bytes(range(9)))
put("bitsandbytes", "nested", bytes([6, 64, 2, 1]) + json.dumps(
    {**STATE, "nested_blocksize": 256, "nested_offset": 0.5}).encode(), bytes(range(64)))
put("bitsandbytes", "claims", bytes([0, 64, 2, 0]) + json.dumps(
    {**STATE, "shape": [1 << 31, 1 << 31]}).encode(), b"")
put("bitsandbytes", "map", bytes([8, 64, 2, 0]) + json.dumps(STATE).encode(), b"")

# ---- Text ----

BYTES = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]]
BYTES += [chr(256 + i) for i in range(256 - len(BYTES))]
SMALL_VOCABULARY = {c: i for i, c in enumerate("abchelo ")}


def tokenizer(vocabulary, merges, **sections):
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None, **sections,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}


def added(id, content, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True, **flags}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+(?!\\S)|\\s+"},
         "behavior": "Isolated", "invert": False}
put("tokenizer", "bytes", tokenizer({c: i for i, c in enumerate(BYTES)} | {"he": 256}, [["h", "e"]],
                                    pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL),
    "he said: 1234\u00e9 \u65e5\u672c")
put("tokenizer", "split", tokenizer(
    SMALL_VOCABULARY | {"he": 8, "<s>": 9}, ["h e"], added_tokens=[added(9, "<s>", lstrip=True)],
    pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, {"type": "Digits",
                                                                 "individual_digits": True}]}),
    "hello <s>hello  cab")
WORDS = {"<unk>": 0, "<s>": 1, "\u2581": 2, "a": 3, "b": 4, "\u2581a": 5, "<0x0A>": 6, "<0xE2>": 7}
SENTENCE = tokenizer(
    WORDS, [["\u2581", "a"]], added_tokens=[added(0, "<unk>"), added(1, "<s>")],
    normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, {"type": "NFKC"}]},
    post_processor={"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
    decoder={"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
SENTENCE["model"].update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
put("tokenizer", "sentence", SENTENCE, "a b\na \u00e9")
META = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
put("tokenizer", "metaspace", tokenizer(WORDS, [["\u2581", "a"]], pre_tokenizer=META, decoder=META),
    "a a")
put("tokenizer", "growth", tokenizer({"a": 0}, [], normalizer={"type": "Sequence", "normalizers": [
    {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30}), "a")
put("tokenizer", "empty_member", tokenizer({"a": 0}, [], normalizer={"type": "NFC", "": 1}), "a")
put("tokenizer", "backtracking", tokenizer({"a": 0}, [], pre_tokenizer={
    **SPLIT, "pattern": {"Regex": "(a+)+b|(a|a)*c"}}), "a" * 40)

for i, name in enumerate(("plain", "chatml", "llama2", "llama3", "mistral")):
    put("corpus", f"prompts_{name}", bytes([1 + 3 * i]) + b'{"prompt": "a", "completion": "b"}\n'
        b'\n{"completion": "\\u00e9", "prompt": "\\n"}')
    put("corpus", f"chat_{name}", bytes([2 + 3 * i]) + json.dumps({"messages": [
        {"role": "system", "content": "s"}, {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"},
        {"role": "assistant", "content": ""}]}).encode())
put("corpus", "text", b"\0" + "some text, \u65e5\u672c\n".encode())
put("corpus", "not_utf8", b"\0ab\xff\xfe")

# ---- What a run leaves ----

put("json", "all", {"a": [1, -2.5, "x\u00e9\n", None, True, [], {}], "b": {"c": 1e300, "d": 1 << 62}})
put("json", "bad", '{"a": 1, "a": 2}')
METRICS = """{"step": 1, "loss": 2.5, "lr": 0.1, "samples_per_second": 100}
{"step": 2, "validation": {"loss": 2, "accuracy": 0.5}, "shadow": {"accuracy": 0.25}}
{"step":2,"shadow":{"kl":0.5,"layers":[{"name":"a<b","sqnr_db":20},{"name":"c"}]}}
{"step": 3, "lo"""
put("metrics", "lines", METRICS)
SUMMARY = {
    "steps": 3, "samples_per_second": 10.5, "train_seconds": 2, "peak_rss_bytes": 1 << 20,
    "test": {"accuracy": 0.5, "loss": 1}, "quantized": {"accuracy": 0.25}, "shadow": {"accuracy": 1},
    "model_bytes": 400, "quantized_bytes": 100, "confusion": [[1, 2], [3, 4]], "classes": ["<a>", "b"],
    "layers": [{"name": "a", "bits": 4, "activation_bits": 8, "sqnr_db": 20.5}]}
put("report", "run", SUMMARY, {"machine": {"cpu": "c", "cores": 2}, "threads": 2}, SMALL, METRICS)
put("report", "nothing", "", "", "", "")
GROUP = {"row": "qat4", "method": "qat", "label": "QAT W4A4", "weight_bits": 4, "activation_bits": 4,
         "seeds": 2, "accuracy": {"mean": 0.9, "low": 0.8, "high": 1},
         "difference": {"mean": -0.01, "low": -0.02, "high": 0, "paired_by": "row"}, "kl": 0.1,
         "mcnemar": {"better": 1, "worse": 2, "p": 0.5}, "recovered": 0.5, "bits_per_weight": 4.2,
         "bytes": 100, "train_seconds": 3}
EVALUATION = {
    "run": "a", "accuracy": 0.9, "confusion": [[3, 1], [0, 4]], "classes": ["x", "y"],
    "layers": [{"name": "l", "bits": 4, "sqnr_db": 20}],
    "costs": [{"layer": "l", "bits": 4, "kl": 0.5}],
    "histograms": [{"layer": "l", "of": "weight", "unit": "value", "low": -1, "high": 1,
                    "counts": [1] * 64, "grid": [-1, 0, 1]}],
    "examples": [{"index": 0, "label": 1, "height": 1, "width": 1, "channels": 1, "pixels": [9]}],
    "before": [0, 1], "answers": [1, 1], "activations_of": "the first 2 test images"}
put("comparison_page", "two", {
    "seconds": 3, "task": "classify", "runs": 2, "is_complete": True, "model": "cnn",
    "data": {"name": "d", "test_rows": 8, "class_count": 2, "classes": ["x", "y"]},
    "planned": ["a", "b"], "failed": [{"run": "b", "reason": "<r>"}],
    "machine": {"cpu": "c", "cores": 2},
    "rows": [{"run": "a", "row": "fp32", "seed": 1, "accuracy": 0.9},
             {"run": "a", "row": "qat4", "seed": 1, "accuracy": 0.9}],
    "groups": [{**GROUP, "row": "fp32", "method": "fp32", "label": "FP32"}, GROUP]}, EVALUATION)

put("comparison_page", "no_size", {"groups": [{**GROUP, "bytes": -1}]}, "")

# ---- HDF5 ----


def header(element, *dims):
    return struct.pack("<ii4q", element, len(dims), *dims, *[0] * (4 - len(dims)))


U8, I32, F32 = 0, 4, 8
NAMES = struct.pack("<qq2sq1s", 2, 2, b"ab", 1, b"c")
put("hdf5", "named", b"\0" + NAMES + header(U8, 2, 2, 2) + header(I32, 2) + header(U8, 1, 2, 2) +
    header(I32, 1) + bytes(8) + struct.pack("<2i", 0, 1) + bytes(4) + struct.pack("<i", 1))
put("hdf5", "test", b"\1" + struct.pack("<q", -1) + header(F32, 2, 3) + header(U8, 2, 2) + bytes(24) +
    b"\1\0\0\1")
put("hdf5", "claims", b"\1" + struct.pack("<q", -1) + header(F32, 1 << 40, 3) + header(U8, 1 << 40))

TINY = """seed: 1
model: {kind: mlp, widths: [2]}
data: {kind: synthetic, classes: 2, height: 2, width: 2, train: 16, test: 4, batch: 4, validation: 4}
optimizer: {kind: sgd, lr: 0.05, momentum: 0.9}
train: {epochs: 1}
quant: {bits: 4}
"""
TRAILER_BYTES = 40


def made_by(program, folder):
    config, run = f"{folder}/tiny.yaml", f"{folder}/run"
    with open(config, "w") as f:
        f.write(TINY)
    for arguments in (["train", config, "--out", run], ["convert", run]):
        subprocess.run([program, *arguments], check=True, capture_output=True)
    for noun, file in (("checkpoint", "checkpoint.h5"), ("packed", "quantized.h5")):
        with open(f"{run}/{file}", "rb") as f:
            body = f.read()[:-TRAILER_BYTES]
        put(noun, "tiny", body)
        put("h5_tree", noun, body)


def made_by_hdf5(path, links, numbers):
    import h5py
    with h5py.File(path, "w", libver=("v110", "v110"), track_order=False) as f:
        group = f.create_group("many", track_times=False) if links else f
        for i in range(links):
            group.create_dataset(f"d{i}", data=i, track_times=False)
        for i in range(numbers):
            group.attrs[f"n{i}"] = i
    with open(path, "rb") as f:
        put("h5_tree", f"links{links}_numbers{numbers}", f.read())


if len(sys.argv) > 1:
    with tempfile.TemporaryDirectory() as folder:
        made_by(sys.argv[1], folder)
        for links, numbers in ((0, 0), (2, 2), (9, 9), (40, 0)):
            made_by_hdf5(f"{folder}/x.h5", links, numbers)
