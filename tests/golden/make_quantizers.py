#!/usr/bin/env python3
"""Writes tests/golden/quantizers.txt: scales and zero points of PyTorch's observers, quantiles of
torch.quantile, and the quantizers of papers written out with torch's autograd. Needs torch 2; run in the
source root.

A case is a line `case KIND ROLE BITS SYMMETRY SIGN GRANULARITY ROWS COLUMNS BATCHES`, then its batches as
lines `x`, what they lead to as lines `scale`, `zero`, `levels`, and for learned ranges, at the scale `at`
and for the gradient `dy` of the output, the gradients `dx` and `dscale`."""

import math
import warnings

import torch
from torch.ao.quantization import observer

warnings.filterwarnings("ignore")  # ranges of fewer bits than the dtype has
TINY = torch.finfo(torch.float32).tiny


def numbers(values):
    return " ".join("%.9g" % v for v in values.flatten().tolist())


class Writer:
    def __init__(self, file):
        self.file = file

    def case(self, kind, role, bits, affine, signed, granularity, batches, **results):
        rows, columns = batches[0].shape
        words = [kind, role, bits, "affine" if affine else "symmetric",
                 "signed" if signed else "unsigned", granularity, rows, columns, len(batches)]
        print("case", *words, file=self.file)
        for x in batches:
            print("x", numbers(x), file=self.file)
        for name, values in results.items():
            print(name, numbers(values), file=self.file)


def observed(kind, bits, affine, signed, batches, **arguments):
    """Scales, and zero points counted from the lowest level as nibble does."""
    low = 0 if affine or not signed else -2 ** (bits - 1)
    scheme = "per_channel" if "PerChannel" in kind else "per_tensor"
    # An unsigned symmetric range is an affine one of values that are never negative.
    scheme += "_symmetric" if signed and not affine else "_affine"
    dtype = torch.qint8 if low < 0 else torch.quint8
    if "PerChannel" not in kind:
        arguments.pop("ch_axis", None)
    watcher = getattr(observer, kind)(dtype=dtype, qscheme=getattr(torch, scheme), quant_min=low,
                                      quant_max=low + 2 ** bits - 1, eps=TINY, **arguments)
    for x in batches:
        watcher(x)
    scale, zero = watcher.calculate_qparams()
    return dict(scale=scale, zero=zero)


def write_observers(writer):
    for bits in range(2, 9):
        wide = [torch.randn(4, 9) * 2 ** i + 0.3 for i in range(3)]
        never_negative = [x.relu() for x in wide]
        for kind, name in (("MinMaxObserver", "minmax"), ("MovingAverageMinMaxObserver", "ema")):
            for affine, signed, batches in ((True, True, wide), (False, True, wide),
                                            (True, False, never_negative), (False, False, never_negative)):
                results = observed(kind, bits, affine, signed, batches)
                writer.case(name, "activation", bits, affine, signed, "tensor", batches, **results)
        for affine in (True, False):
            w = [torch.randn(5, 12) * torch.tensor([[0.01], [1], [30], [0.2], [1e-6]])]
            results = observed("PerChannelMinMaxObserver", bits, affine, True, w, ch_axis=0)
            writer.case("minmax", "weight", bits, affine, True, "channel", w, **results)
            results = observed("MinMaxObserver", bits, affine, True, w)
            writer.case("minmax", "weight", bits, affine, True, "tensor", w, **results)


def write_quantiles(writer):
    w = [torch.randn(3, 40)]
    for bits in (2, 4, 8):
        scale = torch.quantile(w[0].double().abs(), 0.999, dim=1) / ((2 ** bits - 1) / 2)
        writer.case("percentile", "weight", bits, False, True, "channel", w, scale=scale)


def scale_gradient(x, factor):
    return (x - x * factor).detach() + x * factor


def round_straight(x):
    return (x.round() - x).detach() + x


def write_lsq(writer):
    """The paper's formulas, with the mask on the rounded code (as PyTorch's learnable fake quantize has
    it): round, then clamp. One sample per row of an activation."""
    for role, bits, signed in [("weight", b, True) for b in (2, 3, 4, 8)] + \
                              [("activation", b, s) for b in (2, 4, 8) for s in (False, True)]:
        x = torch.randn(4, 9)
        x = x if signed else x.relu()
        low, high = (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2 ** bits - 1)
        start = 2 * x.abs().mean() / math.sqrt(high)
        sharing = x.numel() if role == "weight" else x[0].numel()
        s = start.clone().requires_grad_()
        v = x.clone().requires_grad_()
        step = scale_gradient(s, 1 / math.sqrt(sharing * high))
        levels = round_straight(v / step).clamp(low, high)
        dy = torch.randn(4, 9)
        (levels * step).backward(dy)
        writer.case("lsq", role, bits, False, signed, "tensor", [x], scale=start, levels=levels, at=start,
                    dy=dy, dx=v.grad, dscale=s.grad)


def write_pact(writer):
    """x straight through where its code is at most n, alpha beyond. The gradient of s = alpha / n is
    written so that a step on s moves alpha as a step on alpha would: d alpha / n."""
    for bits in (2, 4, 8):
        n = 2 ** bits - 1
        x = torch.randn(4, 9).abs() * 5
        alpha = torch.tensor(6.0, requires_grad=True)
        v = x.clone().requires_grad_()
        code = (x * n / alpha.detach()).round()
        quantized = torch.where(code <= n, (code * alpha.detach() / n - x) + v, alpha)
        dy = torch.randn(4, 9)
        quantized.backward(dy)
        writer.case("pact", "activation", bits, False, False, "tensor", [x], scale=alpha / n,
                    levels=code.clamp(max=n), at=alpha / n, dy=dy, dx=v.grad, dscale=alpha.grad / n)


def write_dorefa(writer):
    for bits in (2, 3, 4, 8):
        n = 2 ** bits - 1
        w = torch.randn(4, 9)
        v = w.clone().requires_grad_()
        r = v.tanh() / (2 * v.tanh().abs().max()) + 0.5
        quantized = 2 * round_straight(n * r) / n - 1
        dy = torch.randn(4, 9)
        quantized.backward(dy)
        writer.case("dorefa", "weight", bits, False, True, "tensor", [w], scale=torch.tensor(1 / n),
                    levels=(quantized * n).round(), dy=dy, dx=v.grad)
        x = torch.rand(4, 9) * 1.5
        levels = (x.clamp(0, 1) * n).round()
        writer.case("dorefa", "activation", bits, False, False, "tensor", [x], scale=torch.tensor(1 / n),
                    levels=levels)


def main():
    torch.manual_seed(1)
    with open("tests/golden/quantizers.txt", "w") as file:
        print("# by tests/golden/make_quantizers.py, torch", torch.__version__.split("+")[0], file=file)
        writer = Writer(file)
        for write in (write_observers, write_quantiles, write_lsq, write_pact, write_dorefa):
            write(writer)


if __name__ == "__main__":
    main()
