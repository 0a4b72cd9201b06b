#!/usr/bin/env python3
"""Writes tests/golden/fake_quant.txt: PyTorch's fake quantization, values and gradients: with fixed
scales (torch.fake_quantize_per_tensor_affine and per_channel) and with learned ones
(torch._fake_quantize_learnable_*). Needs torch 2; run in the source root.

The format is tests/golden.h's; zero is PyTorch's zero point. Some inputs lie on ties between two
codes, but not where a zero point is learned: there PyTorch's gradient of the scale rounds ties in
another direction than its own forward does."""

import torch

torch.manual_seed(11)


def inputs(scale, low, high, zero, shape, has_ties):
    """Values that reach past both ends."""
    span = high - low
    code = torch.rand(shape) * (span * 1.5 + 2) + low - span * 0.25 - 1
    flat = code.view(-1)
    if has_ties:
        flat[::5] = torch.floor(flat[::5]) + 0.5
    else:
        flat[(flat - torch.floor(flat) - 0.5).abs() < 0.01] += 0.1
    return (code - zero) * scale


def case(out, bits, low, scale, zero, kind, factor=1.0):
    high, is_channel = low + 2**bits - 1, len(scale) > 1
    shape = (len(scale), 24) if is_channel else (6, 11)
    scale, zero = torch.tensor(scale), torch.tensor(zero, dtype=torch.float32)
    column = [-1, 1] if is_channel else [-1]
    x = inputs(scale.view(column), low, high, zero.view(column), shape,
               kind == "fixed" or not zero.any()).requires_grad_()
    dy = torch.randn(shape)
    if kind == "fixed" and is_channel:
        y = torch.fake_quantize_per_channel_affine(x, scale, zero.int(), 0, low, high)
    elif kind == "fixed":
        y = torch.fake_quantize_per_tensor_affine(x, scale.item(), int(zero), low, high)
    else:
        scale.requires_grad_(), zero.requires_grad_()
        y = (torch._fake_quantize_learnable_per_channel_affine(x, scale, zero, 0, low, high, factor)
             if is_channel else
             torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, low, high, factor))
    y.backward(dy)
    out.write(f"\ncase {kind}\n")
    shown = {"grid": torch.tensor([bits, low]), "factor": torch.tensor(factor), "x": x, "scale": scale,
             "zero": zero, "dy": dy, "y": y, "dx": x.grad}
    if kind == "learned":
        shown |= {"dscale": scale.grad, "dzero": zero.grad}
    for name, tensor in shown.items():
        values = " ".join(f"{value:.9g}" for value in tensor.detach().flatten().tolist())
        out.write(" ".join([name, *map(str, tensor.shape), "=", values]) + "\n")


RANGES = [(4, -8, [0.11], [0]), (8, 0, [0.037], [0]), (8, 0, [0.0213], [97]), (2, -2, [0.8], [0]),
          (3, 0, [0.3], [5]), (4, -8, [0.11, 0.07, 0.5], [0, 0, 0]), (4, 0, [0.13, 0.07, 0.3], [8, 3, 15])]
CASES = [(*r, kind) for kind in ["fixed", "learned"] for r in RANGES] + [(*RANGES[0], "learned", 0.0625)]

with open("tests/golden/fake_quant.txt", "w") as file:
    file.write(f"# by tests/golden/make_fake_quant.py, torch {torch.__version__}\n")
    for arguments in CASES:
        case(file, *arguments)
