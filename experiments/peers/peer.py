"""One PyTorch model in one variant, trained step by step on demand.

Prints one line of JSON when ready: {"ready": true, "parameters": ...}, or {"unavailable": why}.
Then reads requests from standard input, one a line: a number of seconds to train for. Answers each
with {"seconds": [one per step], "growth_bytes": n}, where growth is that of resident memory, at its
peak, since just before the model was made.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn

import models
import variants

BATCHES = 8  # different ones, in turn: no batch is learnt by heart
STEPS_MIN = 3

# The update of `nibble bench`; one kernel per parameter is the fastest that PyTorch has on CPUs.
SGD = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "fused": True}


def resident_peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no line VmHWM")


def reset_resident_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): VmHWM becomes what is resident now


class Trainer:
    def __init__(self, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.model, self.batches = model, batches
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(model.parameters(), **SGD)
        self.steps = 0

    def step(self) -> float:
        images, labels = self.batches[self.steps % len(self.batches)]
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        seconds = time.perf_counter() - start
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} after {self.steps} steps")
        self.steps += 1
        return seconds

    def train(self, seconds: float) -> list[float]:
        self.step()  # not counted: another process has just had the caches
        end, times = time.perf_counter() + seconds, []
        while len(times) < STEPS_MIN or time.perf_counter() < end:
            times.append(self.step())
        return times


def load_libraries(variant: str) -> None:
    """Prepares and trains a tiny model, so that PyTorch's own code is resident."""
    batches = [variants.batch(variant, 2)]
    trainer = Trainer(variants.make(variant, models.tiny, batches[0][0]), batches)
    trainer.step()


def serve(trainer: Trainer, baseline: int, out: TextIO) -> None:
    for line in sys.stdin:
        times = trainer.train(float(line))
        answer(out, seconds=times, growth_bytes=resident_peak_bytes() - baseline)


def answer(out: TextIO, **fields: object) -> None:
    print(json.dumps(fields), file=out, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(models.MODELS))
    parser.add_argument("variant", help="such as f32-nhwc or qat_eager-nchw+compile")
    parser.add_argument("--batch", type=int, default=128)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(1)
    build = models.MODELS[options.model]
    try:
        load_libraries(options.variant)
        reset_resident_peak()
        baseline = resident_peak_bytes()
        batches = [variants.batch(options.variant, options.batch) for _ in range(BATCHES)]
        trainer = Trainer(variants.make(options.variant, build, batches[0][0]), batches)
        trainer.train(0)
    except variants.Unavailable as error:
        answer(out, unavailable=str(error))
        return
    parameters = models.parameter_count(trainer.model)
    answer(out, ready=True, parameters=parameters, torch=torch.__version__)
    serve(trainer, baseline, out)


if __name__ == "__main__":
    main()
