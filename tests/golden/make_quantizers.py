#!/usr/bin/env python3
"""Writes tests/golden/quantizers.txt: scales and zero points of PyTorch's observers, quantiles of
torch.quantile, entropy calibration written out with numpy, and the quantizers of papers with torch's
autograd. Needs torch 2 and numpy; run in the source root.

A case is a line `case KIND ROLE BITS SYMMETRY SIGN GRANULARITY ROWS COLUMNS BATCHES`, then its batches as
lines `x`, what they lead to as lines `scale`, `zero`, `levels`, and for learned ranges, at the scale `at`
or `moved` to another and for the gradient `dy` of the output, the gradients `dx` and `dscale`."""

import math
import warnings

import numpy
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


def merge_pairs(side):
    return numpy.concatenate([side.reshape(-1, 2).sum(1), numpy.zeros(side.size // 2)])


def used(side):
    return side.nonzero()[0].max(initial=-1) + 1


def divergence(counts, first, kept, levels):
    """Of a reference P, which takes what lies outside, and of Q, its inside in `levels` runs."""
    inside = counts[first:first + kept]
    p, q = inside.copy(), numpy.zeros(kept)
    p[0] += counts[:first].sum()
    p[-1] += counts[first + kept:].sum()
    for level in range(levels):
        run = slice(level * kept // levels, (level + 1) * kept // levels)
        if p[run].any():
            q[run] = numpy.where(p[run] > 0, inside[run].sum() / numpy.count_nonzero(p[run]), 0)
    if (q[p > 0] == 0).any():
        return math.inf
    p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
    return (p * numpy.log(p / q)).sum()


def entropy_range(counts, limit, levels, affine, ends):
    """How far the range reaches below and above 0: Migacz's search over the bins of [-limit, limit]; at
    most to the ends."""
    half = counts.size // 2
    below, above, width = counts[half - 1::-1].astype(float), counts[half:].astype(float), limit / half
    if not affine:
        below, above, ends = numpy.zeros(half), below + above, [0, max(ends)]
    below[0], above[0] = below[1], above[1]
    while used(below) + used(above) > levels and \
            below.sum() + above.sum() < 4 * (used(below) + used(above)):
        below, above, width = merge_pairs(below), merge_pairs(above), 2 * width
    low, high = used(below), used(above)
    bins = numpy.concatenate([below[:low][::-1], above[:high]])
    best = None
    for kept in range(bins.size, levels - 1, -1):
        under = math.floor(kept * low / bins.size + 0.5)
        d = divergence(bins, low - under, kept, levels)
        if best is None or d < best[0]:
            best = d, under, kept - under
    return [min((n + 0.5) * width, end) if n else 0 for n, end in zip(best[1:], ends)]


def write_entropy(writer):
    """Weights over a histogram of their own, activations over one that decays from batch to batch; values
    that two or three digits name exactly enough to lie in the same bins anywhere."""
    def draw(*shape):
        x = torch.randn(*shape) * torch.randn(*shape).abs()
        return torch.tensor([float("%.3g" % v) for v in x.flatten()]).view(*shape)

    bins = 4096
    cases = [("weight", b, a, True, [draw(4, 100)]) for b in (2, 3, 4) for a in (False, True)]
    cases += [("activation", b, a, s, [draw(4, 50) if s else draw(4, 50).relu() for _ in range(5)])
              for b in (2, 4, 6) for a, s in ((False, False), (False, True), (True, True))]
    for role, bits, affine, signed, batches in cases:
        everything = torch.cat(batches).numpy()
        low, high = min(everything.min(), 0), max(everything.max(), 0)
        limit = max(-low, high)
        limit = float(limit) if role == "weight" else 2.0 ** math.frexp(limit)[1]
        counts = numpy.zeros(bins, numpy.float32)
        for x in batches:
            place = numpy.floor(x.numpy().flatten() / (limit / (bins // 2))).astype(int) + bins // 2
            counts = counts * numpy.float32(0.99)
            counts += numpy.bincount(place.clip(0, bins - 1), minlength=bins).astype(numpy.float32)
        levels = 2 ** (bits - 1) if signed and not affine else 2 ** bits
        ends = [-low, high]
        if role == "activation":  # as far as bins tell
            width = limit / (bins // 2)
            ends = [math.ceil(-low / width) * width, (math.floor(high / width) + 1) * width]
        below, above = entropy_range(counts, limit, levels, affine, ends)
        if not affine:
            scale, zero = above / ((2 ** bits - 1) / (2 if signed else 1)), 0
        else:
            scale = (below + above) / (2 ** bits - 1)
            zero = round(below / scale)
        writer.case("kl", role, bits, affine, signed, "tensor", batches, scale=torch.tensor(scale),
                    zero=torch.tensor(float(zero)))


class Binary(torch.autograd.Function):
    """alpha sign(w), a weight of 0 below; straight through where |w| <= alpha."""

    @staticmethod
    def forward(context, w, alpha):
        context.save_for_backward(w, alpha)
        return torch.where(w > 0, alpha, -alpha)

    @staticmethod
    def backward(context, dy):
        w, alpha = context.saved_tensors
        sign = torch.where(w > 0, 1.0, -1.0)
        return dy * (w.abs() <= alpha), (dy * sign).sum(1, keepdim=True)


def stretched(w, alpha, bits):
    """Three and four balanced values that share 2 alpha evenly."""
    n, h = (1.5, 0) if bits == 1.58 else (2, 0.5)
    return alpha * (round_straight((w / alpha).clamp(-0.99, 0.99) * n - h) + h) / n


def write_paretoq(writer):
    """Where alpha starts, and what it gives when moved to clip more: s is alpha over as many steps as a
    stretched grid has on a side, and a step on s moves alpha as a step on alpha would."""
    for bits, levels_to, steps in [(1, 1, 1), (1.58, 1, 1.5), (2, 1, 4), (3, 3, 3), (4, 7, 7)]:
        for granularity in ("tensor", "channel"):
            w = torch.randn(4, 9) * torch.tensor([[1.0], [0.01], [30], [0.2]])
            w[1, 3] = 0
            rows = w if granularity == "channel" else w.reshape(1, -1)
            size = rows.abs().mean(1) if bits == 1 else rows.abs().amax(1)
            start = size / steps
            moved = start * torch.tensor([0.5, 0.7, 0.45, 1.3])[:len(start)]
            dy = torch.randn(4, 9)
            v = rows.clone().requires_grad_()
            share = 1 / math.sqrt(rows.shape[1] * levels_to)
            if bits >= 3:
                s = moved[:, None].clone().requires_grad_()
                step = scale_gradient(s, share)
                values = round_straight(v / step).clamp(-levels_to - 1, levels_to) * step
                dscale = values.backward(dy.reshape(rows.shape)) or s.grad
            else:
                alpha = (moved * steps)[:, None].clone().requires_grad_()
                learned = scale_gradient(alpha, share)
                values = Binary.apply(v, learned) if bits == 1 else stretched(v, learned, bits)
                dscale = values.backward(dy.reshape(rows.shape)) or alpha.grad / steps
            levels = (values / moved[:, None]).round()
            writer.case("paretoq", "weight", "%g" % bits, False, True, granularity, [w], scale=start,
                        moved=moved, dy=dy, levels=levels, dx=v.grad, dscale=dscale)


def main():
    torch.manual_seed(1)
    with open("tests/golden/quantizers.txt", "w") as file:
        print("# by tests/golden/make_quantizers.py, torch", torch.__version__.split("+")[0], file=file)
        writer = Writer(file)
        for write in (write_observers, write_quantiles, write_lsq, write_pact, write_dorefa, write_entropy,
                      write_paretoq):
            write(writer)


if __name__ == "__main__":
    main()
