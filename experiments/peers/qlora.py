#!/usr/bin/env python3
"""Steps of QLoRA by nibble and by PEFT with bitsandbytes: the same random Llama, the same shapes, the same cores.

    pip install torch transformers peft bitsandbytes tokenizers safetensors
    OMP_NUM_THREADS=2 python3 experiments/peers/qlora.py --sizes 100m,1b --tokens 64,512 --json > qlora.json

A step is forward, loss, backward and AdamW of adapters of rank 16 on all seven projections, batch 1. Each measurement
is a process of its own that loads the model, takes one step to warm up, and then --steps of them; --rounds of those
go in turn. tokens/s is that of the median step; the memory is the peak of the process, and what it held when the model
was loaded.

variants   peft-nf4        bitsandbytes' nf4 (double quantization), f32 compute
           peft-nf4-bf16   the same with everything in bf16, which some processors multiply twice as fast
           peft-nf4-fork   the same with the bitsandbytes that lies in --fork DIR
           peft-f32        LoRA on f32 weights
           peft-f32-rec    the same with recomputation (gradient checkpointing)
           nibble-nf4, nibble-f32, nibble-nf4-rec   the same by `nibble train`
           nibble-nf4-bf16   with activations in bf16
           nibble-nf4-cheap  with what norms and gates make made again for backward
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent
RANK, ALPHA = 16, 32
VOCABULARY = 32000
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# About 10^8 and 10^9 parameters; `tiny` is for trying this script.
SIZES = {
    "tiny": dict(hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4),
    "100m": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12),
    "1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32),
}
VARIANTS = ["peft-nf4", "peft-nf4-bf16", "peft-f32", "peft-f32-rec", "nibble-nf4", "nibble-f32", "nibble-nf4-rec",
            "nibble-nf4-bf16", "nibble-nf4-cheap"]


def make_tokenizer(directory: Path) -> None:
    """Of bytes; the other names are never met, but a model's tokenizer is as large as its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    names = sorted(pre_tokenizers.ByteLevel.alphabet()) + [f"<unused {i}>" for i in range(VOCABULARY - 256)]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))


def make_model(directory: Path, size: str) -> None:
    """A random Llama in f16, as files are."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(1)
    heads = SIZES[size]["num_attention_heads"]
    config = LlamaConfig(
        **SIZES[size], num_key_value_heads=4, vocab_size=VOCABULARY, max_position_embeddings=2048,
        tie_word_embeddings=size != "1b", head_dim=SIZES[size]["hidden_size"] // heads,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).half()
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    make_tokenizer(directory)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_peft(directory: str, variant: str):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = {}
    dtype = torch.bfloat16 if variant.endswith("-bf16") else torch.float32
    if "nf4" in variant:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )  # fmt: skip
        settings["device_map"] = "cpu"
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, **settings)
    model.config.use_cache = False
    if variant.endswith("-rec"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=PROJECTIONS)
    )
    return model.train()


def measure_peft(directory: str, variant: str, tokens: int, steps: int) -> dict[str, object]:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    start = time.perf_counter()
    model = load_peft(directory, variant)
    loaded = {"load_seconds": time.perf_counter() - start, "loaded_bytes": peak_bytes()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    seconds = []
    for _ in range(steps + 1):
        ids = torch.randint(0, 256, (1, tokens), generator=generator)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    assert torch.isfinite(loss)
    return loaded | {"seconds": seconds[1:], "peak_bytes": peak_bytes()}


def nibble_config(directory: str, variant: str, tokens: int, steps: int, text: str) -> str:
    base = "kind: nf4, double_quantization: true" if "nf4" in variant else "kind: f32"
    ways = {"rec": ", recompute: block", "cheap": ", recompute: cheap"}
    recompute = ways.get(variant.rsplit("-", 1)[1], "")
    precision = "bf16" if variant.endswith("-bf16") else "f32"
    return f"""seed: 1
precision: {precision}
model: {{kind: pretrained, path: {directory}, base: {{{base}}}}}
adapter: {{kind: lora, rank: {RANK}, alpha: {ALPHA}}}
data: {{kind: text, path: {text}, tokenizer: {directory}, length: {tokens}, batch: 1, validation: 0, eval_batch: 1}}
optimizer: {{kind: adamw, lr: 1e-4}}
train: {{steps: {steps}, log_every: 1{recompute}}}
"""


def measure_nibble(program: str, directory: str, variant: str, tokens: int, steps: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "text.txt"  # each byte is a token
        text.write_text("The quick brown fox jumps over the lazy dog. " * (tokens * (steps + 4) // 40 + 2))
        config = Path(scratch) / "config.yaml"
        config.write_text(nibble_config(directory, variant, tokens, steps + 1, str(text)))
        run = Path(scratch) / "run"
        process = subprocess.Popen(
            [program, "train", str(config), "--out", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        errors = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise RuntimeError(f"nibble: {errors.strip()[-400:]}")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = [line["seconds"] for line in lines if "lr" in line]
    seconds = [after - before for before, after in zip(clock, clock[1:])]
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}


def measure(options: argparse.Namespace, directory: Path, variant: str, tokens: int) -> dict[str, object]:
    if variant.startswith("nibble"):
        return measure_nibble(options.nibble, str(directory), variant, tokens, options.steps)
    command = [sys.executable, __file__, "--worker", variant, "--model", str(directory), "--tokens", str(tokens)]
    environment = dict(os.environ)
    if variant.endswith("-fork"):
        environment["PYTHONPATH"] = options.fork
    done = subprocess.run(
        [*command, "--steps", str(options.steps)], capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-400:])
    return json.loads(done.stdout.splitlines()[-1])


def report(size: str, tokens: int, variant: str, rounds: list[dict[str, object]]) -> dict[str, object]:
    rates = [tokens / median(each["seconds"]) for each in rounds]
    row = {"size": size, "tokens": tokens, "variant": variant, "tokens_per_second": median(rates), "rounds": rates}
    row["peak_bytes"] = max(each["peak_bytes"] for each in rounds)
    for key in ("loaded_bytes", "load_seconds"):
        if all(key in each for each in rounds):
            row[key] = median(each[key] for each in rounds)
    return row


def run_all(options: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    for size in options.sizes.split(","):
        directory = options.models / f"llama-{size}"
        if not (directory / "tokenizer.json").exists():
            subprocess.run([sys.executable, __file__, "--make", size, "--model", str(directory)], check=True)
        for tokens in map(int, options.tokens.split(",")):
            found: dict[str, list[dict[str, object]]] = {variant: [] for variant in options.variants.split(",")}
            for _ in range(options.rounds):
                for variant, rounds in found.items():
                    try:
                        rounds.append(measure(options, directory, variant, tokens))
                    except RuntimeError as error:
                        print(f"{size}, {tokens} tokens, {variant}: {error}", file=sys.stderr)
            rows += [report(size, tokens, variant, rounds) for variant, rounds in found.items() if rounds]
            for row in rows[-len(found) :]:
                print(
                    f"{row['size']:>5} {row['tokens']:>5} tokens  {row['variant']:<15}"
                    f"{row['tokens_per_second']:8.1f} tokens/s {row['peak_bytes'] / 2**20:8.0f} MiB",
                    file=sys.stderr,
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100m")
    parser.add_argument("--tokens", default="64,512")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nibble", default=str(ROOT / "build/nibble"))
    parser.add_argument("--models", type=Path, default=ROOT / "runs/peers")
    parser.add_argument("--fork", default="", help="folder with another bitsandbytes, for peft-nf4-fork")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make_model(options.model, options.make)
    elif options.worker:
        print(json.dumps(measure_peft(str(options.model), options.worker, int(options.tokens), options.steps)))
    else:
        rows = run_all(options)
        if options.json:
            print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
