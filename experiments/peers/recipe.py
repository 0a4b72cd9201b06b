"""A training of the CNN in PyTorch with Brevitas by the recipe of a nibble configuration."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import models
import quantized
from batches import Batches, start_as_nibble


@dataclass
class Recipe:
    bits: int
    epochs: float
    batch: int
    validation: float
    dropout: float
    lr: float
    momentum: float
    weight_decay: float
    scale_lr: float
    warmup: float
    start: float
    freeze_batch_norm: float

    @classmethod
    def read(cls, path: Path) -> Recipe:
        c = yaml.safe_load(path.read_text())
        optimizer, quant = c["optimizer"], c.get("quant", {"bits": 32})
        assert c["model"]["widths"] == [32, 64] and c["model"]["hidden"] == 128, path
        assert optimizer["kind"] == "sgd" and optimizer["nesterov"] is True, path
        assert c["schedule"]["kind"] == "cosine" and c["data"]["augment"] == {"flip": True}, path
        return cls(
            bits=quant["bits"], epochs=c["train"]["epochs"], batch=c["data"]["batch"],
            validation=c["data"]["validation"], dropout=c["model"]["dropout"], lr=optimizer["lr"],
            momentum=optimizer["momentum"], weight_decay=float(optimizer["weight_decay"]),
            scale_lr=optimizer.get("scale_lr", 0.1), warmup=c["schedule"]["warmup"],
            start=quant.get("start", 0), freeze_batch_norm=quant.get("freeze_batch_norm", 1),
        )  # fmt: skip


class Training:
    """One run. `step_seconds` is the time of its training steps, batches made included, and nothing else."""

    def __init__(self, recipe: Recipe, batches: Batches, seed: int) -> None:
        torch.manual_seed(seed)  # dropout
        self.recipe, self.batches = recipe, batches
        self.total = math.ceil(recipe.epochs * batches.steps)
        self.warmup, self.start, self.freeze = (
            self.point(p) for p in (recipe.warmup, recipe.start, recipe.freeze_batch_norm)
        )
        self.collect = max(1, self.total // 30)  # Brevitas' 300 steps are a thirtieth of 20 epochs
        self.is_quantized = False
        self.net = quantized.with_dropout(models.cnn(), recipe.dropout)
        start_as_nibble(self.net, seed)
        self.optimizer = self.new_optimizer()
        self.steps, self.step_seconds = 0, 0.0
        self.epochs, self.seconds, self.best, self.test = 0, 0.0, 0.0, 0.0

    def point(self, setting: float) -> int:
        """A fraction of the training, 1 being its end, or a number of steps."""
        return math.floor((setting * self.total if setting <= 1 else setting) + 0.5)

    def new_optimizer(self) -> torch.optim.SGD:
        r, groups = self.recipe, {name: [] for name in ("weight", "plain", "scale")}
        for name, value in self.net.named_parameters():
            is_weight = value.ndim > 1 and not quantized.is_scale(name)
            kind = "scale" if quantized.is_scale(name) else "weight" if is_weight else "plain"
            groups[kind].append(value)
        settings = [
            dict(params=groups["weight"], weight_decay=r.weight_decay, share=1.0),
            dict(params=groups["plain"], weight_decay=0.0, share=1.0),
            dict(params=groups["scale"], weight_decay=0.0, share=r.scale_lr),
        ]
        used = [group for group in settings if group["params"]]
        return torch.optim.SGD(used, lr=r.lr, momentum=r.momentum, nesterov=True)

    def factor(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return (1 + math.cos(math.pi * (step - self.warmup) / (self.total - self.warmup))) / 2

    def quantize(self) -> None:
        """Parameters and momenta go on; scales are new."""
        own, state = list(self.net.parameters()), self.optimizer.state
        self.net = quantized.quantized(self.net, self.recipe.bits, self.collect)
        self.optimizer = self.new_optimizer()
        kept = [p for n, p in self.net.named_parameters() if not quantized.is_scale(n)]
        for old, new in zip(own, kept, strict=True):
            if old in state:
                self.optimizer.state[new] = state[old]
        self.is_quantized = True

    def prepare(self) -> None:
        if not self.is_quantized and self.steps >= self.start and self.recipe.bits < 32:
            self.quantize()
        self.net.train()
        if self.steps >= self.freeze:
            for module in self.net:
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.factor(self.steps) * group["share"]

    def step(self, images: Tensor, labels: Tensor) -> float:
        self.prepare()
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.net(images), labels)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        value = loss.item()
        if not math.isfinite(value):
            raise RuntimeError(f"PyTorch: the loss is {value} after {self.steps} steps")
        return value

    def epoch(self, number: int) -> float:
        """The mean loss of its steps."""
        losses, then = [], time.perf_counter()
        for images, labels in self.batches.epoch(number):
            if self.steps == self.total:
                break
            losses.append(self.step(images, labels))
        self.step_seconds += time.perf_counter() - then
        return sum(losses) / len(losses)

    @torch.no_grad()
    def accuracy(self, split: str) -> float:
        self.net.eval()
        right = total = 0
        for images, labels in self.batches.split(split):
            right += int((self.net(images).argmax(1) == labels).sum())
            total += len(labels)
        return right / total

    # What an interrupted run goes on from. Brevitas does not save how many steps of ranges it has seen,
    # so there is nothing to go on from while it collects them.

    KEPT = ("steps", "step_seconds", "epochs", "seconds", "best", "test", "is_quantized")

    def save(self, path: Path) -> None:
        if self.is_quantized and self.steps < self.start + self.collect:
            return
        beside = path.with_suffix(".new")
        torch.save({"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "random": torch.get_rng_state(), "kept": {k: getattr(self, k) for k in self.KEPT}},
                   beside)  # fmt: skip
        beside.replace(path)

    def load(self, path: Path) -> None:
        saved = torch.load(path)
        if saved["kept"]["is_quantized"]:
            self.quantize()
        self.net.load_state_dict(saved["net"])
        self.optimizer = self.new_optimizer()  # Brevitas makes its scales anew when it loads
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        self.__dict__.update(saved["kept"])

    def run(self, path: Path) -> dict[str, float]:
        """The test accuracy of the network, quantized, that is best on the validation split. `path` holds
        what an interrupted run goes on from."""
        if path.exists():
            self.load(path)
        while self.steps < self.total:
            then = time.perf_counter()
            loss = self.epoch(self.epochs)
            self.epochs += 1
            validation = self.accuracy("validation")
            if (self.is_quantized or self.recipe.bits == 32) and validation > self.best:
                self.best, self.test = validation, self.accuracy("test")
            self.seconds += time.perf_counter() - then
            self.save(path)
            print(f"Brevitas: epoch {self.epochs}/{math.ceil(self.recipe.epochs)}  loss {loss:.4f}  "
                  f"validation {validation:.2%}  best {self.best:.2%}  {self.seconds / 60:.1f} min",
                  file=sys.stderr, flush=True)  # fmt: skip
        return {"accuracy": self.test, "validation": self.best, "seconds": self.seconds,
                "step_seconds": self.step_seconds, "steps": self.steps}  # fmt: skip
