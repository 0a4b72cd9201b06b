#!/usr/bin/env python3
"""Writes tests/golden/state.txt: 20 steps of AdamW whose state is kept in 8 bits, by the algorithm as published
(Dettmers et al. 2022: blocks of 256, dynamic maps, nearest entry) in plain numpy, and by bitsandbytes on a CPU,
which rounds to the maps through a table of 65,536 places. Needs numpy, torch 2 and bitsandbytes; run in the
source root.

Start and gradients are a formula of step and element (noise), which tests/test_state.c repeats."""

import bitsandbytes
import bitsandbytes.functional as F
import numpy as np
import torch

COUNT, BLOCK, STEPS, SHOWN = 4500, 256, 20, [1, 5, 20]
LR, BETA1, BETA2, EPSILON, DECAY = 0.01, 0.9, 0.99, 1e-8, 0.1
f32 = np.float32


def noise(step):
    """In [-1/2, 1/2), exact in f32; blocks differ in size, and every 97th element is 0."""
    x = (np.arange(COUNT, dtype=np.uint64) + np.uint64(step * 1000003)) & 0xFFFFFFFF
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13), (1, 16)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    u = (x >> np.uint64(8)).astype(f32) / f32(2**24) - f32(0.5)
    u *= f32(0.5) ** (np.arange(COUNT) // BLOCK % 5).astype(f32)
    u[::97] = 0
    return u


def encode(x, entries):
    """Codes, scales, and the values that are read back."""
    codes, scales = np.zeros(COUNT, int), []
    middles = (entries[1:] + entries[:-1]) / f32(2)
    for first in range(0, COUNT, BLOCK):
        part = x[first : first + BLOCK]
        scale = np.abs(part).max()
        unit = part / scale
        code = (unit[:, None] > middles).sum(1)
        if entries[0] == 0:  # the one deviation: what is above 0 stays so
            code = np.where((code == 0) & (unit > 0), 1, code)
        codes[first : first + BLOCK] = code
        scales.append(scale)
    return codes, np.array(scales), np.repeat(scales, BLOCK)[:COUNT] * entries[codes]


def published():
    signed, unsigned = (F.create_dynamic_map(s).numpy() for s in (True, False))
    x, mean, square = noise(0), np.zeros(COUNT, f32), np.zeros(COUNT, f32)
    for step in range(1, STEPS + 1):
        g = noise(step)
        mean = mean + f32(1 - BETA1) * (g - mean)
        square = f32(BETA2) * square + f32(1 - BETA2) * g * g
        x = x * f32(1 - LR * DECAY)
        x = x - f32(LR / (1 - BETA1**step)) * mean / (
            np.sqrt(square) / f32(np.sqrt(1 - BETA2**step)) + f32(EPSILON))
        mean_codes, mean_scales, mean = encode(mean, signed)
        square_codes, square_scales, square = encode(square, unsigned)
        if step in SHOWN:
            yield step, dict(value=x, mean=mean_codes, mean_scales=mean_scales, mean_square=square_codes,
                             mean_square_scales=square_scales)


def by_bitsandbytes():
    x = torch.nn.Parameter(torch.tensor(noise(0)))
    optimizer = bitsandbytes.optim.AdamW8bit([x], lr=LR, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=DECAY)
    for step in range(1, STEPS + 1):
        x.grad = torch.tensor(noise(step))
        optimizer.step()
    return x.detach().numpy()


def show(label, values):
    values = values if "scales" in label else values[::11]
    print(label, len(values), "=", " ".join("%.9g" % v for v in values), file=out)


with open("tests/golden/state.txt", "w") as out:
    print(f"# by tests/golden/make_state.py, bitsandbytes {bitsandbytes.__version__}", file=out)
    for step, tensors in published():
        print(f"\ncase step{step}", file=out)
        print("step 1 =", step, file=out)
        for label, values in tensors.items():
            show(label, values)
    print("\ncase bitsandbytes", file=out)
    show("value", by_bitsandbytes())
