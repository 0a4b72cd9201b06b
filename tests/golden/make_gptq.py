#!/usr/bin/env python3
"""Writes tests/golden/gptq.txt: GPTQ (Frantar et al. 2022) in float64, step by step as its authors' program
works. Needs numpy; run in the source root.

Inputs x [samples, columns] are small integers, correlated along the columns, weights w [rows, columns]
multiples of 1 / 512, whose extremes of each scale are positive (a symmetric grid puts a negative extreme
where rounding turns); results are the weights' values, scales and zero points (counted from level 0, as
nibble's are), the loss of output under H, and that of rounding to nearest under the weights' own scales. No
quotient lies within 1e-5 of where rounding turns, so arithmetic in another order gives the same levels."""

import numpy

BLOCK = 16
DAMPING = 0.01


def find_grid(w, bits, affine):
    """Scale and zero point of each row, as numbers of levels: w^ = scale (level), low <= level <= high."""
    low, high = w.min(1).clip(max=0), w.max(1).clip(min=0)
    steps = 2.0 ** bits - 1
    if affine:
        scale = numpy.where(high > low, (high - low) / steps, 1)
        return scale, numpy.round(-low / scale)
    scale = numpy.maximum(-low, high)
    scale = numpy.where(scale > 0, 2 * scale / steps, 1)
    return scale, numpy.full(len(w), 2.0 ** (bits - 1))


class Rounding:
    def __init__(self, bits):
        self.steps = 2.0 ** bits - 1
        self.margin = 1.0

    def __call__(self, w, scale, zero):
        level = w / scale
        inside = (level + zero > -0.5 + 1e-3) & (level + zero < self.steps + 0.5 - 1e-3)
        distance = numpy.abs(level - numpy.floor(level) - 0.5)[inside]
        if distance.size:
            self.margin = min(self.margin, distance.min())
        return scale * (numpy.clip(numpy.round(level) + zero, 0, self.steps) - zero)


def gptq(weights, hessian, bits, affine, group, act_order, static, rounding):
    w, h = weights.copy(), hessian.copy()
    rows, columns = w.shape
    size = group or columns
    grids = [find_grid(w[:, i:i + size], bits, affine) for i in range(0, columns, size)]
    dead = numpy.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    if group and static:
        grids = [find_grid(w[:, i:i + size], bits, affine) for i in range(0, columns, size)]
    order = numpy.argsort(-numpy.diag(h), kind="stable") if act_order else numpy.arange(columns)
    w, h = w[:, order], h[order][:, order]
    h += DAMPING * numpy.diag(h).mean() * numpy.eye(columns)
    upper = numpy.linalg.cholesky(numpy.linalg.inv(h)).T
    result = numpy.zeros_like(w)
    for first in range(0, columns, BLOCK):
        end = min(first + BLOCK, columns)
        part = w[:, first:end].copy()
        errors = numpy.zeros_like(part)
        for i in range(end - first):
            column = first + i
            if group and not static and column % group == 0:
                grids[column // group] = find_grid(w[:, column:column + group], bits, affine)
            scale, zero = grids[order[column] // size]
            result[:, column] = rounding(part[:, i], scale, zero)
            errors[:, i] = (part[:, i] - result[:, column]) / upper[column, column]
            part[:, i:] -= numpy.outer(errors[:, i], upper[column, column:end])
        w[:, end:] -= errors @ upper[first:end, end:]
    back = numpy.argsort(order)
    return result[:, back], numpy.stack([g[0] for g in grids], 1), numpy.stack([g[1] for g in grids], 1)


def loss(change, hessian):
    return numpy.sum((change @ hessian) * change)


def nearest(w, bits, affine, group, rounding):
    size, parts = group or w.shape[1], []
    for i in range(0, w.shape[1], size):
        scale, zero = find_grid(w[:, i:i + size], bits, affine)
        parts.append(rounding(w[:, i:i + size], scale[:, None], zero[:, None]))
    return numpy.concatenate(parts, 1)


def attempt(random, bits, affine, group, act_order, static, dead, shape):
    rows, columns, samples = shape
    mix = numpy.eye(columns) + 0.35 * random.standard_normal((columns, columns))
    x = numpy.round(2 * random.standard_normal((samples, columns)) @ mix)
    x[:, :dead * 7:7] = 0
    w = numpy.round(512 * random.standard_normal((rows, columns))) / 512
    for i in range(0, columns, group or columns):
        part = w[:, i:i + (group or columns)]
        part *= numpy.where(part.max(1) >= -part.min(1), 1, -1)[:, None]
    hessian = 2 / samples * x.T @ x
    rounding = Rounding(bits)
    values, scale, zero = gptq(w, hessian, bits, affine, group, act_order, static, rounding)
    plain = nearest(w, bits, affine, group, rounding)
    if rounding.margin < 1e-5:
        return None
    return dict(x=x, w=w, values=values, scale=scale, zero=zero,
                error=numpy.array(loss(w - values, hessian)),
                nearest=numpy.array(loss(w - plain, hessian)))


def line(name, value):
    value = numpy.asarray(value, dtype=float)
    return " ".join([name, *map(str, value.shape), "=", *("%.9g" % v for v in value.flatten())])


CASES = [  # bits, affine, group, act_order, static, dead columns, (rows, columns, samples)
    *((bits, affine, 0, False, False, 0, (6, 40, 70)) for bits in (2, 3, 4, 8) for affine in (0, 1)),
    (3, 0, 0, True, False, 0, (6, 40, 70)),
    (4, 1, 0, True, False, 2, (5, 40, 70)),
    *((bits, affine, 8, False, False, 0, (6, 40, 70)) for bits in (2, 3) for affine in (0, 1)),
    (2, 0, 12, False, False, 0, (5, 43, 70)),
    (3, 1, 20, False, False, 3, (5, 43, 70)),
    (3, 0, 8, False, True, 0, (6, 40, 70)),
    (3, 0, 8, True, True, 0, (6, 40, 70)),
    (2, 1, 12, True, True, 2, (5, 43, 70)),
    (3, 0, 0, False, False, 4, (6, 40, 70)),
    (4, 0, 0, False, False, 0, (3, 24, 11)),  # fewer samples than columns: H is singular without damping
    (3, 0, 0, False, False, 0, (40, 21, 60)),
    (2, 0, 0, True, False, 1, (1, 9, 30)),
]


def main():
    random = numpy.random.default_rng(13)
    with open("tests/golden/gptq.txt", "w") as file:
        print("# Made by tests/golden/make_gptq.py.", file=file)
        for case in CASES:
            result = None
            while result is None:
                result = attempt(random, *case)
            bits, affine, group, act_order, static, dead, _ = case
            print("case gptq", file=file)
            for name, value in (("bits", bits), ("affine", affine), ("group", group),
                                ("act_order", act_order), ("static", static), ("dead", dead)):
                print(line(name, float(value)), file=file)
            for name, value in result.items():
                print(line(name, value), file=file)
            print(file=file)


main()
