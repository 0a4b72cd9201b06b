"""nibble's batches in PyTorch: for a seed the same images, split, order and mirroring.

Numbers come from Philox4x32-10 (Salmon et al., SC 2011) under nibble's keys (core/random.h), so that a
seed means one and the same run on both sides: batches, and the weights that a network starts with.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

INIT, SHUFFLE, AUGMENT, SPLIT = 0, 1, 2, 4  # RandomStream
EVAL_BATCH = 500
LOW = np.uint64(0xFFFFFFFF)


def philox(seed: int, stream: int, step: int, elements: np.ndarray) -> list[np.ndarray]:
    """Four words of 32 bits for each element."""
    shift = np.uint64(32)
    elements = elements.astype(np.uint64)
    a, b = elements & LOW, elements >> shift
    c, d = np.full_like(a, step & 0xFFFFFFFF), np.full_like(a, stream)
    low, high = (seed & 0xFFFFFFFF) ^ (step >> 32), seed >> 32
    for _ in range(10):
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (second >> shift) ^ b ^ np.uint64(low), second & LOW, \
                     (first >> shift) ^ d ^ np.uint64(high), first & LOW  # fmt: skip
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


def permutation(seed: int, stream: int, step: int, count: int) -> np.ndarray:
    places = np.arange(count, dtype=np.uint64)
    high, low, *_ = philox(seed, stream, step, places)
    bound, shift = places + np.uint64(1), np.uint64(32)
    other = ((high * bound + (low * bound >> shift)) >> shift).tolist()  # (high, low) bound / 2^64
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = other[i]
        order[i], order[j] = order[j], order[i]
    return np.array(order)


def normal(seed: int, step: int, count: int, deviation: float) -> np.ndarray:
    first, second, *_ = philox(seed, INIT, step, np.arange(count))
    unit = [(word >> np.uint64(8)).astype(np.float64) * 2.0**-24 for word in (first, second)]
    values = np.sqrt(-2 * np.log(1 - unit[0])) * np.cos(2 * np.pi * unit[1])
    return np.float32(deviation) * values.astype(np.float32)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An array of bytes; its header is 0, 0, 8, the rank, then each dimension in four bytes."""
    for path, opener in ((folder / name, open), (folder / f"{name}.gz", gzip.open)):
        if path.exists():
            with opener(path, "rb") as file:
                data = file.read()
            shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
            return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    raise FileNotFoundError(f"{folder}: has no {name}, plain or .gz; give --data")


class Batches:
    """Images [n, 1, height, width], normalised by the training split's mean and deviation."""

    def __init__(self, folder: Path, seed: int, batch: int, validation: float) -> None:
        images, labels = (read_idx(folder, f"train-{part}") for part in
                          ("images-idx3-ubyte", "labels-idx1-ubyte"))  # fmt: skip
        tests = [read_idx(folder, f"t10k-{part}") for part in
                 ("images-idx3-ubyte", "labels-idx1-ubyte")]  # fmt: skip
        order = permutation(seed, SPLIT, 0, len(labels))
        kept = round(validation * len(labels))
        self.seed, self.batch = seed, batch
        self.rows = np.sort(order[kept:])
        rows = np.sort(order[:kept])
        bytes_of = images[self.rows].astype(np.float64)
        self.mean, self.deviation = np.float32(bytes_of.mean()), np.float32(bytes_of.std())
        self.images, self.labels = self.tensors(images, labels)
        self.splits = {"validation": self.tensors(images[rows], labels[rows]),
                       "test": self.tensors(*tests)}  # fmt: skip
        self.steps = len(self.rows) // batch

    def tensors(self, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        values = (images.astype(np.float32) - self.mean) / self.deviation
        return torch.from_numpy(values[:, None]), torch.from_numpy(labels.astype(np.int64))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = permutation(self.seed, SHUFFLE, number, len(self.rows))
        flips = philox(self.seed, AUGMENT, number, np.arange(len(self.labels)))[2] >> np.uint64(31)
        mirrored = torch.from_numpy(flips.astype(bool))
        for index in range(self.steps):
            rows = torch.from_numpy(self.rows[order[index * self.batch : (index + 1) * self.batch]])
            images = self.images[rows]
            turn = mirrored[rows].view(-1, 1, 1, 1)
            yield torch.where(turn, images.flip(-1), images), self.labels[rows]

    def split(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.splits[name]
        for first in range(0, len(labels), EVAL_BATCH):
            yield images[first : first + EVAL_BATCH], labels[first : first + EVAL_BATCH]


@torch.no_grad()
def start_as_nibble(net: nn.Sequential, seed: int) -> None:
    """The weights that nibble starts with. Its numbers are keyed by a parameter's place, running
    statistics included, and lie channels last; biases start at 0."""
    place, channels, side = 0, 1, 28
    for module in net:
        if isinstance(module, nn.Conv2d):
            outputs, inputs, height, width = module.weight.shape
            fan_in = inputs * height * width
            values = normal(seed, place, outputs * fan_in, np.sqrt(np.float32(2 / fan_in)))
            values = values.reshape(outputs, height, width, inputs).transpose(0, 3, 1, 2)
            module.weight.copy_(torch.from_numpy(values.copy()))
            place, channels = place + 1, outputs
        elif isinstance(module, nn.BatchNorm2d):
            place += 4
        elif isinstance(module, nn.MaxPool2d):
            side //= 2
        elif isinstance(module, nn.Linear):
            outputs, features = module.weight.shape
            values = normal(seed, place, outputs * features, 1 / np.sqrt(np.float32(features)))
            if channels:  # behind a flatten
                values = values.reshape(outputs, side, side, channels).transpose(0, 3, 1, 2)
            module.weight.copy_(torch.from_numpy(values.reshape(outputs, features).copy()))
            module.bias.zero_()
            place, channels = place + 2, 0
