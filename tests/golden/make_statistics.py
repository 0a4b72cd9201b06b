#!/usr/bin/env python3
"""Reference values of experiments/compare/statistics.h from scipy: writes tests/golden/statistics.txt.

    python3 tests/golden/make_statistics.py > tests/golden/statistics.txt      needs scipy

A line each:
    critical DEGREES VALUE
    interval COUNT VALUES... MEAN LOW HIGH
    mcnemar BETTER WORSE P
    difference ROWS BETTER WORSE MEAN LOW HIGH
"""
import numpy
from scipy import stats


def line(*words):
    print(*(word if isinstance(word, str) else repr(word + 0) for word in words))


print("# made by tests/golden/make_statistics.py with scipy")
for degrees in (1, 2, 3, 4, 9, 30, 100, 1000):
    line("critical", degrees, float(stats.t.ppf(0.975, degrees)))
random = numpy.random.default_rng(1)
for count in (2, 3, 5, 10):
    values = [float(v) for v in 0.92 + 0.003 * random.standard_normal(count)]
    mean = float(numpy.mean(values))
    low, high = stats.t.interval(0.95, count - 1, mean, stats.sem(values))
    line("interval", count, *values, mean, float(low), float(high))
for better, worse in ((0, 1), (0, 5), (3, 3), (2, 9), (9, 2), (40, 59), (99, 0), (50, 50), (60, 40),
                      (300, 240), (10, 1000), (5000, 5001)):
    if better + worse < 100:
        p = float(stats.binomtest(better, better + worse, 0.5).pvalue)
    else:
        statistic = max(abs(better - worse) - 1, 0) ** 2 / (better + worse)
        p = float(stats.chi2.sf(statistic, 1))
    line("mcnemar", better, worse, p)
for rows, better, worse in ((1000, 12, 30), (10000, 150, 140), (100, 0, 0), (50, 50, 0)):
    each = numpy.array([1] * better + [-1] * worse + [0] * (rows - better - worse))
    mean = float(each.mean())
    half = float(stats.norm.ppf(0.975) * each.std(ddof=1) / numpy.sqrt(rows))
    line("difference", rows, better, worse, mean, mean - half, mean + half)
