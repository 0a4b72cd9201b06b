"""Student's distribution, for intervals; nothing but Python is needed."""

from __future__ import annotations

import math


def student(probability: float, freedom: float) -> float:
    """The quantile of Student's distribution: its density summed by Simpson's rule, and bisection."""

    def density(x: float) -> float:
        log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
        return math.exp(log - (freedom + 1) / 2 * math.log1p(x * x / freedom)) / math.sqrt(
            freedom * math.pi
        )

    def below(t: float, parts: int = 2000) -> float:
        width = t / parts
        inner = sum((4 if i % 2 else 2) * density(i * width) for i in range(1, parts))
        return 0.5 + width / 3 * (density(0) + inner + density(t))

    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < probability else (low, middle)
    return low
