#!/usr/bin/env python3
"""Reference values of experiments/train/deviation.h and of the divergence of outputs (shadow.h) from numpy, in
extended precision: writes tests/golden/deviation.txt.

    python3 tests/golden/make_deviation.py > tests/golden/deviation.txt        needs numpy

A line each; numbers are float32, printed so that they read back:
    deviation COUNT EXACT... GIVEN... SQNR_DB COSINE LARGEST MEAN
    divergence ROWS CLASSES EXACT... GIVEN... KL CHANGED
"""
import numpy

wide = numpy.longdouble


def line(word, *parts):
    print(word, *(format(float(x), ".17g") for part in parts for x in numpy.ravel(part)))


def deviation(exact, given):
    a, b = exact.astype(wide), given.astype(wide)
    error = numpy.abs(a - b)
    sqnr = 10 * numpy.log10(numpy.dot(a, a) / numpy.dot(a - b, a - b))
    cosine = numpy.dot(a, b) / (numpy.linalg.norm(a) * numpy.linalg.norm(b))
    line("deviation", len(a), exact, given, sqnr, cosine, error.max(), error.mean())


def log_softmax(x):
    x = x.astype(wide)
    x = x - x.max(axis=1, keepdims=True)
    return x - numpy.log(numpy.exp(x).sum(axis=1, keepdims=True))


def divergence(exact, given):
    p, q = log_softmax(exact), log_softmax(given)
    kl = (numpy.exp(p) * (p - q)).sum(axis=1).mean()
    changed = (exact.argmax(axis=1) != given.argmax(axis=1)).sum()
    line("divergence", *exact.shape, exact, given, kl, changed)


print("# made by tests/golden/make_deviation.py with numpy")
random = numpy.random.default_rng(7)
for count, scale, noise in ((1, 1, 0.25), (7, 1, 0.5), (16, 1e-3, 1e-2), (16, 1e4, 1e-4), (24, 1, 3)):
    exact = (scale * random.standard_normal(count)).astype(numpy.float32)
    deviation(exact, (exact + scale * noise * random.standard_normal(count)).astype(numpy.float32))
exact = random.standard_normal(12).astype(numpy.float32) + numpy.float32(100)  # far from 0
deviation(exact, exact - numpy.float32(0.125))
deviation(exact, -exact)
for rows, classes, scale, noise in ((1, 2, 1, 1), (3, 5, 3, 0.5), (4, 10, 10, 0.01), (2, 7, 200, 50), (5, 3, 1, 2)):
    exact = (scale * random.standard_normal((rows, classes))).astype(numpy.float32)
    divergence(exact, (exact + noise * random.standard_normal((rows, classes))).astype(numpy.float32))
