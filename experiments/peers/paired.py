#!/usr/bin/env python3
"""One row of a comparison of language models against any other, in % of the perplexity.

python3 experiments/peers/paired.py DIR ROW OTHER [ROW OTHER]...: how much more ROW has than OTHER, and the 95 %
interval, by the formula of `nibble compare` (which takes FP32 for OTHER): paired by batches of the test, which
weigh as their tokens, Student's t. DIR: of the comparison; rows as its runs are called, as in nf4-s1.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from student import student


def batches(comparison: Path, run: str) -> list[dict]:
    return json.loads((comparison / "evaluations" / f"{run}.json").read_text())["parts"]


def more(ours: list[dict], theirs: list[dict]) -> tuple[float, float]:
    """The mean difference of the losses and half the width of its interval."""
    weights = [batch["samples"] for batch in ours]
    if weights != [batch["samples"] for batch in theirs]:
        raise SystemExit("paired: the rows have seen different tests")
    differences = [a["loss"] - b["loss"] for a, b in zip(ours, theirs, strict=True)]
    count, total = len(weights), sum(weights)
    mean = sum(w * d for w, d in zip(weights, differences)) / total
    squares = sum((w * (d - mean) / total) ** 2 for w, d in zip(weights, differences))
    return mean, student(0.975, count - 1) * math.sqrt(squares * count / (count - 1))


def main() -> int:
    if len(sys.argv) < 4 or len(sys.argv) % 2:
        print(__doc__, file=sys.stderr)
        return 2
    comparison = Path(sys.argv[1])
    for row, other in zip(sys.argv[2::2], sys.argv[3::2]):
        mean, half = more(batches(comparison, row), batches(comparison, other))
        percents = [100 * math.expm1(x) for x in (mean, mean - half, mean + half)]
        print("{} over {}: {:.2f} [{:.2f}, {:.2f}]".format(row, other, *percents))
    return 0


if __name__ == "__main__":
    sys.exit(main())
