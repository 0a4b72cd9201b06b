#!/usr/bin/env python3
"""Trains one CNN with nibble and with Brevitas by one recipe, and prints accuracy and minutes.

Run it from the root of the project after building nibble; README.md in this folder tells more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import torch

from batches import Batches
from recipe import Recipe, Training
from student import student

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = {4: "fashion_cnn_w4a4.yaml", 2: "fashion_cnn_w2a2.yaml", 32: "fashion_cnn_fp32.yaml"}


class Failure(Exception):
    """A message for the user."""


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def config_of(bits: int) -> Path:
    return ROOT / "configs" / CONFIGS[bits]


def recipe_of(bits: int, options: argparse.Namespace) -> Recipe:
    recipe = Recipe.read(config_of(bits))
    return replace(recipe, epochs=options.epochs or recipe.epochs)


# ---- Results: one JSON file, written whole after each run, so that a stopped script goes on. ----


class Results:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, key: str, run: dict) -> None:
        self.runs[key] = run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(self.runs, indent=1) + "\n")
        beside.replace(self.path)


def key_of(side: str, bits: int, seed: int, epochs: float) -> str:
    return f"{side}-w{bits}a{bits}-s{seed}-e{epochs:g}"


# ---- nibble ----


def nibble(options: argparse.Namespace, out: Path, bits: int, seed: int, *settings: str) -> None:
    is_begun = (out / "checkpoint.h5").exists()
    data = [f"data.path={options.data}"]
    new = [config_of(bits), "--out", out, f"seed={seed}", *data, *settings]
    words = [options.program, "train", *(["--resume", out] if is_begun else new)]
    try:
        done = subprocess.run([str(w) for w in words], stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise Failure(f"{words[0]}: {error.strerror}; build nibble, or give --program") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failure(f"{' '.join(map(str, words))}: exit {done.returncode}: {last}")


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_run(folder: Path) -> tuple[int, int, float, dict]:
    """Bits, seed and epochs of a finished run of the CNN, and what it reached."""
    try:
        config = (folder / "config.yaml").read_text()
        summary = json.loads((folder / "summary.json").read_text())
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}; name run directories that ended") from error
    quant = config[config.index("\nquant:") :]
    bits = int(re.search(r"\n  bits: (\d+)", quant)[1])
    seed, epochs = re.search(r"^seed: (\d+)", config)[1], re.search(r"\n  epochs: (\S+)", config)[1]
    run = {"accuracy": summary["test"]["accuracy"], "validation": summary["best"]["validation_accuracy"],
           "seconds": summary["train_seconds"], "steps": summary["steps"]}  # fmt: skip
    return bits, int(seed), float(epochs), run


def train_nibble(options: argparse.Namespace, results: Results, bits: int, seed: int) -> None:
    epochs = recipe_of(bits, options).epochs
    key = key_of("nibble", bits, seed, epochs)
    out = options.results.parent / "runs" / key
    note(f"nibble, {bits} bits, seed {seed}: {out}")
    nibble(options, out, bits, seed, f"train.epochs={epochs:g}")
    results.add(key, read_run(out)[3])


# ---- Brevitas ----


def train_brevitas(options: argparse.Namespace, results: Results, bits: int, seed: int) -> None:
    recipe = recipe_of(bits, options)
    note(f"Brevitas, {bits} bits, seed {seed}")
    batches = Batches(options.data, seed, recipe.batch, recipe.validation)
    key = key_of("brevitas", bits, seed, recipe.epochs)
    state = options.results.parent / "runs" / f"{key}.pt"
    state.parent.mkdir(parents=True, exist_ok=True)
    results.add(key, Training(recipe, batches, seed).run(state))
    state.unlink()


# ---- Statistics ----


def paired(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """The mean difference and half the width of its 95 % interval."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len(differences) < 2:
        return mean(differences), math.nan
    half = stdev(differences) / math.sqrt(len(differences))
    return mean(differences), student(0.975, len(differences) - 1) * half


def welch(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    if min(len(ours), len(theirs)) < 2:
        return mean(ours) - mean(theirs), math.nan
    parts = [stdev(values) ** 2 / len(values) for values in (ours, theirs)]
    if not sum(parts):
        return mean(ours) - mean(theirs), 0.0
    shares = [part**2 / (len(v) - 1) for part, v in zip(parts, (ours, theirs))]
    freedom = sum(parts) ** 2 / sum(shares)
    return mean(ours) - mean(theirs), student(0.975, freedom) * math.sqrt(sum(parts))


# ---- The table ----

HEADERS = ("bits", "seeds", "nibble, %", "Brevitas, %", "difference, points",
           "paired 95 %", "Welch 95 %", "nibble, min", "Brevitas, min")  # fmt: skip


def interval(middle: float, half: float) -> str:
    return "one seed" if math.isnan(half) else f"{100 * (middle - half):+.2f} to {100 * (middle + half):+.2f}"


def spread(values: list[float]) -> str:
    return f"{100 * mean(values):.2f}" + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


def table_row(bits: int, options: argparse.Namespace, results: Results) -> list[str] | None:
    epochs = recipe_of(bits, options).epochs
    sides = [[results.runs.get(key_of(side, bits, seed, epochs)) for seed in options.seeds]
             for side in ("nibble", "brevitas")]  # fmt: skip
    pairs = [pair for pair in zip(*sides) if all(pair)]
    if not pairs:
        return None
    ours, theirs = ([run["accuracy"] for run in side] for side in zip(*pairs))
    middle, half = paired(list(ours), list(theirs))
    minutes = [f"{mean(run['seconds'] for run in side) / 60:.1f}" for side in zip(*pairs)]
    return [f"W{bits}A{bits}", str(len(pairs)), spread(ours), spread(theirs), f"{100 * middle:+.2f}",
            interval(middle, half), interval(*welch(list(ours), list(theirs))), *minutes]  # fmt: skip


def print_markdown(headers: tuple[str, ...], rows: list[list[str]]) -> None:
    for row in [list(headers), ["---"] + ["---:"] * (len(headers) - 1), *rows]:
        print("| " + " | ".join(row) + " |")


def print_table(options: argparse.Namespace, results: Results) -> None:
    rows = [table_row(bits, options, results) for bits in options.bits]
    print("\nFashion-MNIST, test accuracy of the network that is best on the validation split; mean and "
          "deviation over seeds. Minutes: as the runs went, whatever else ran (--time has the ratio).\n")
    print_markdown(HEADERS, [row for row in rows if row])


# ---- Times, in turns ----

TIME_HEADERS = ("bits", "nibble, s an epoch", "Brevitas, s an epoch", "nibble / Brevitas", "rounds")


def time_nibble(options: argparse.Namespace, bits: int, epochs: float) -> float:
    """Seconds per image of training steps alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        nibble(options, out, bits, 1, f"train.epochs={epochs:g}", "train.log_every=1")
        steps = [line for line in metrics_of(out) if "samples_per_second" in line]
        return 1 / steps[-1]["samples_per_second"]


def time_brevitas(bits: int, batches: Batches, recipe: Recipe) -> float:
    training = Training(recipe, batches, 1)
    training.epoch(0)
    return training.step_seconds / (training.steps * recipe.batch)


def time_row(bits: int, options: argparse.Namespace) -> list[str]:
    whole = Recipe.read(config_of(bits))
    batches = Batches(options.data, 1, whole.batch, whole.validation)
    short = replace(whole, epochs=(options.steps - 0.5) / batches.steps)
    images, ours, theirs = batches.steps * whole.batch, [], []
    for number in range(options.rounds):
        turn = [lambda: ours.append(images * time_nibble(options, bits, short.epochs)),
                lambda: theirs.append(images * time_brevitas(bits, batches, short))]  # fmt: skip
        for measure in turn if number % 2 == 0 else reversed(turn):
            measure()
        note(f"{bits} bits, round {number + 1}: nibble {ours[-1]:.1f} s an epoch, Brevitas {theirs[-1]:.1f}")
    ratios = sorted(a / b for a, b in zip(ours, theirs))
    return [f"W{bits}A{bits}", f"{median(ours):.1f}", f"{median(theirs):.1f}",
            f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})", str(len(ratios))]  # fmt: skip


def print_times(options: argparse.Namespace) -> None:
    rows = [time_row(bits, options) for bits in options.bits]
    print(f"\nTraining steps, {options.threads} threads, in turns of {options.steps} steps; medians, and the "
          "median ratio (least to largest).\n")  # fmt: skip
    print_markdown(TIME_HEADERS, rows)


# ---- Is it the same training? ----


def check(options: argparse.Namespace) -> int:
    """The losses of the first FP32 steps, without dropout: the same images, weights and updates."""
    recipe = replace(Recipe.read(config_of(32)), dropout=0.0)
    batches, steps = Batches(options.data, 1, recipe.batch, recipe.validation), 8
    training = Training(recipe, batches, 1)
    theirs = [training.step(*batch) for batch, _ in zip(batches.epoch(0), range(steps))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        nibble(options, out, 32, 1, "model.dropout=0", f"train.steps={steps}", "train.log_every=1")
        ours = [line["loss"] for line in metrics_of(out) if "loss" in line][:steps]
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        print(f"step {number + 1}: loss of nibble {a:.6f}, of PyTorch {b:.6f}")
    worst = max(abs(a - b) / b for a, b in zip(ours, theirs))
    print(f"largest difference {worst:.1e}: {'the same' if worst < 1e-5 else 'DIFFERENT'}")
    return 0 if worst < 1e-5 else 1


# ---- Options ----


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=numbers, default=[4, 2], help="default: 4,2")
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3], help="default: 1,2,3")
    parser.add_argument("--epochs", type=float, help="default: as the configuration has it")
    parser.add_argument("--nibble", type=Path, nargs="+", metavar="RUN", default=[],
                        help="finished run directories to read instead of training them")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "nibble", metavar="PATH")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--results", type=Path, default=Path("runs/brevitas/results.json"),
                        help="what is there is not trained again; default: %(default)s")
    parser.add_argument("--only", choices=("nibble", "brevitas"), help="train one side")
    parser.add_argument("--time", action="store_true", help="measure speeds instead, in turns")
    parser.add_argument("--rounds", type=int, default=5, help="of --time; default: 5")
    parser.add_argument("--steps", type=int, default=60, help="of each turn of --time; default: 60")
    parser.add_argument("--check", action="store_true", help="only compare the first steps' losses")
    options = parser.parse_args()
    unknown = [bits for bits in options.bits if bits not in CONFIGS]
    if unknown:
        parser.error(f"no configuration of {unknown[0]} bits; there are {', '.join(map(str, CONFIGS))}")
    if options.rounds < 1 or options.steps < 2 or (options.epochs or 1) <= 0:
        parser.error("--rounds must be at least 1, --steps 2 and --epochs more than 0")
    options.threads = int(os.environ.setdefault("OMP_NUM_THREADS", "2"))
    return options


def adopt(options: argparse.Namespace, results: Results) -> None:
    for folder in options.nibble:
        bits, seed, epochs, run = read_run(folder)
        results.add(key_of("nibble", bits, seed, epochs), run)


def train_all(options: argparse.Namespace) -> None:
    results = Results(options.results)
    adopt(options, results)
    sides = {"nibble": train_nibble, "brevitas": train_brevitas}
    for seed in options.seeds:  # a script that is stopped has told something about every width
        for bits in options.bits:
            for side, train in sides.items():
                key = key_of(side, bits, seed, recipe_of(bits, options).epochs)
                if key not in results.runs and options.only in (None, side):
                    train(options, results, bits, seed)
    print_table(options, results)


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    try:
        if options.check:
            return check(options)
        print_times(options) if options.time else train_all(options)
    except (Failure, FileNotFoundError) as failure:
        note(f"accuracy.py: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
