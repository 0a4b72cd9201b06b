#!/usr/bin/env python3
"""The live round trip: what transformers and PEFT write, nibble reads, and the other way round.

    pip install torch transformers peft tokenizers safetensors
    python3 experiments/peers/language.py [--seeds 1,2,3] [--nibble build/nibble] [--keep DIR]

For each seed a random model of each family is made (heads, head sizes, layers, tied or not, storage and sharding are
drawn), and compared:

eval       perplexity of a text, without and with a stride: relative difference of the loss
generate   the most likely tokens: the ids, up to the first that transformers finds nearly as likely as another
train      nibble fine-tunes an adapter on it; PEFT loads that adapter: perplexity of the text by both
adapter    an adapter that PEFT wrote (LoRA, rsLoRA with patterns, DoRA): nibble's perplexity with it
merge      the merged model, loaded by transformers: perplexity

The loss is of the whole text, so a difference in any logit shows in it. Exit code 1 if one is above its bound.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/golden"))
import make_llm  # noqa: E402  the same tokenizers, text, and rule for perplexity

BOUND = 2e-5  # of the loss, relative
NEW = 20
LENGTH = 32  # of rows that train
FAMILIES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
PROJECTIONS = make_llm.PROJECTIONS
ADAPTERS = {
    "lora": dict(r=4, lora_alpha=8, target_modules=PROJECTIONS),
    "rslora": dict(
        r=6, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "o_proj", "up_proj"],
        rank_pattern={r"layers\.0\.self_attn\.q_proj": 2}, alpha_pattern={"up_proj": 9},
    ),
    "dora": dict(r=3, lora_alpha=8, use_dora=True, target_modules=PROJECTIONS),
}  # fmt: skip


class Failure(Exception):
    """A comparison that cannot be made, or a program that failed."""


def draw_config(family: str, rng: random.Random):
    kv_heads = rng.choice([1, 2, 3])
    heads = kv_heads * rng.choice([1, 2, 4])
    head_dim = rng.choice([8, 16, 20])
    settings = dict(
        vocab_size=make_llm.VOCABULARY, hidden_size=heads * head_dim, intermediate_size=rng.choice([40, 72, 96]),
        num_hidden_layers=rng.choice([1, 2, 3]), num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=rng.choice([33, 64, 100]), tie_word_embeddings=rng.random() < 0.5,
        rms_norm_eps=rng.choice([1e-6, 1e-5]), bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": rng.choice([10000.0, 500000.0])}
    if family == "llama":
        settings["head_dim"] = head_dim
        settings["attention_bias"] = settings["mlp_bias"] = False
        if rng.random() < 0.5:
            rope |= make_llm.LLAMA3_ROPE
    if family == "mistral":
        settings |= {"sliding_window": None, "head_dim": rng.choice([8, 24])}
    if family == "qwen3":
        settings["head_dim"] = rng.choice([8, 24])
    return FAMILIES[family](**settings, rope_parameters=rope)


def make_model(directory: Path, family: str, rng: random.Random):
    config = draw_config(family, rng)
    model = AutoModelForCausalLM.from_config(config)
    make_llm.roughen(model)
    dtype = rng.choice([torch.float32, torch.float16, torch.bfloat16])
    model.to(dtype).save_pretrained(directory, max_shard_size=rng.choice(["40KB", "1GB"]))
    make_llm.make_tokenizer(family in ("llama", "mistral")).save_pretrained(directory)
    return load(directory)


def load(directory: Path):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


class Nibble:
    def __init__(self, program: str, scratch: Path) -> None:
        self.program, self.scratch = program, scratch

    def run(self, *arguments: object) -> str:
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"nibble {' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def perplexity(self, what: Path, stride: int | None = None) -> float:
        more = ["--stride", stride] if stride else []
        return json.loads(self.run("eval", what, "--text", make_llm.OUT / "text.txt", "--json", *more))["perplexity"]

    def generate(self, what: Path, prompt: str) -> dict[str, list[int]]:
        return json.loads(self.run("generate", what, "--prompt", prompt, "--greedy", "--tokens", NEW, "--json"))


class Report:
    def __init__(self) -> None:
        self.failures = 0

    def line(self, case: str, what: str, is_good: bool, detail: str) -> None:
        self.failures += not is_good
        print(f"{'ok  ' if is_good else 'FAIL'} {case:<12} {what:<18} {detail}", flush=True)

    def loss(self, case: str, what: str, ours: float, theirs: float) -> None:
        difference = abs(math.log(ours) - math.log(theirs)) / math.log(theirs)
        detail = f"perplexity {ours:.6g} and {theirs:.6g}: {difference:.1e} of the loss"
        self.line(case, what, difference <= BOUND, detail)

    def attempt(self, case: str, what: str, action) -> None:
        try:
            action()
        except Failure as failure:
            self.line(case, what, False, str(failure))


def perplexity(model, tokenizer, stride: int | None = None) -> float:
    window = model.config.max_position_embeddings
    ids = tokenizer.encode(make_llm.TEXT)
    return make_llm.perplexity(model, ids, window, stride or window)["perplexity"]


def compare_generation(report: Report, case: str, nibble: Nibble, directory: Path, model, tokenizer) -> None:
    prompt = "The first ship"
    found = nibble.generate(directory, prompt)
    ids = tokenizer.encode(prompt)
    new: list[int] = []
    doubtful = None
    while len(new) < NEW and model.config.eos_token_id not in new:
        best = make_llm.logits_of(model, ids + new)[-1].topk(2)
        if best.values[0] - best.values[1] < 1e-3:
            doubtful = len(new)
            break
        new.append(int(best.indices[0]))
    count = len(new) if doubtful is None else doubtful
    if new and new[-1] == model.config.eos_token_id:
        count = len(new) - 1
    is_good = found["prompt_ids"] == ids and found["new_ids"][:count] == new[:count]
    report.line(case, "generate", is_good, f"{count} ids" if is_good else f"{found} and {new}")


def train(nibble: Nibble, directory: Path, run: Path, base: str, adapter: str, rate: float, steps: int) -> None:
    config = run.with_suffix(".yaml")
    config.write_text(
        f"""seed: 1
model: {{kind: pretrained, path: {directory}, base: {{kind: {base}}}}}
adapter: {{kind: lora, {adapter}}}
data: {{kind: text, path: {make_llm.OUT / "text.txt"}, tokenizer: {directory}, length: {LENGTH}, batch: 2}}
optimizer: {{kind: adamw, lr: {rate}}}
train: {{steps: {steps}}}
"""
    )
    nibble.run("train", config, "--out", run)


def train_adapter(report: Report, case: str, nibble: Nibble, directory: Path, tokenizer) -> None:
    run, adapter, merged = (directory.with_name(f"{case}-{what}") for what in ("run", "adapter", "merged"))
    train(nibble, directory, run, "f32", "rank: 4, alpha: 8", 0.01, 20)
    nibble.run("export", run, "--format", "peft", "--out", adapter)
    model = PeftModel.from_pretrained(load(directory), adapter).eval()
    report.loss(case, "train, PEFT loads", nibble.perplexity(run), perplexity(model, tokenizer))
    nibble.run("merge", run, "--out", merged)
    report.loss(case, "merge", nibble.perplexity(merged), perplexity(load(merged), tokenizer))


def compare_adapters(report: Report, case: str, nibble: Nibble, directory: Path, tokenizer) -> None:
    """What PEFT wrote, in a run that changes next to nothing of it."""
    for name, settings in ADAPTERS.items():
        model = get_peft_model(load(directory), LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for param_name, param in model.named_parameters():
                if "lora_B" in param_name:
                    param.normal_(0, 0.2)
                if "magnitude" in param_name:
                    param.mul_(torch.empty_like(param).uniform_(0.8, 1.25))
        adapter, run = directory.with_name(f"{case}-{name}"), directory.with_name(f"{case}-{name}-run")
        model.save_pretrained(adapter)

        def compare() -> None:
            train(nibble, directory, run, "f32", f"from: {adapter}", 1e-12, 1)
            theirs = perplexity(model.eval(), tokenizer)
            report.loss(case, f"adapter {name}", nibble.perplexity(run), theirs)

        report.attempt(case, f"adapter {name}", compare)


def compare_model(report: Report, nibble: Nibble, family: str, seed: int) -> None:
    torch.manual_seed(seed)
    case = f"{family}-{seed}"
    directory = nibble.scratch / case
    model = make_model(directory, family, random.Random(f"{family} {seed}"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for stride in (None, 16):
        what = "eval" if stride is None else f"eval, stride {stride}"
        report.attempt(case, what, lambda: report.loss(
            case, what, nibble.perplexity(directory, stride), perplexity(model, tokenizer, stride)))  # fmt: skip
    report.attempt(
        case, "generate", lambda: compare_generation(report, case, nibble, directory, model, tokenizer)
    )
    report.attempt(case, "train", lambda: train_adapter(report, case, nibble, directory, tokenizer))
    compare_adapters(report, case, nibble, directory, tokenizer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--nibble", default=str(ROOT / "build/nibble"))
    parser.add_argument("--keep", type=Path, help="keep the files in this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scratch = options.keep or Path(tempfile.mkdtemp(prefix="nibble-language-"))
    scratch.mkdir(parents=True, exist_ok=True)
    report = Report()
    try:
        for seed in map(int, options.seeds.split(",")):
            for family in options.families.split(","):
                compare_model(report, Nibble(options.nibble, scratch), family, seed)
    finally:
        if not options.keep:
            shutil.rmtree(scratch)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
