#!/usr/bin/env python3
"""Trains the same models with nibble and with PyTorch, in turn, and prints how many times faster.

Run it from the root of the project after building nibble; README.md in this folder tells more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import models
import variants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BATCH = 128  # that of `nibble bench`
KEEP_WITHIN = 1.5  # after round one, a variant this much slower than the best of its kind goes
QAT_VARIANTS = ("qat_w4a4", "qat_w8a8")


class Failure(Exception):
    """A message for the user."""


@dataclass
class Series:
    """What the rounds measured of one program in one variant."""

    name: str
    speeds: list[float] = field(default_factory=list)  # images/s, one per round
    growth_bytes: int = 0

    @property
    def speed(self) -> float:
        return median(self.speeds)

    def add(self, speed: float, growth_bytes: int) -> None:
        self.speeds.append(speed)
        self.growth_bytes = max(self.growth_bytes, growth_bytes)

    def report(self) -> dict[str, object]:
        return {"variant": self.name, "samples_per_second": self.speed,
                "rounds": self.speeds, "growth_bytes": self.growth_bytes}  # fmt: skip


@dataclass
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def text(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"


class Peer:
    """A PyTorch process (peer.py) that trains when asked to and waits otherwise."""

    def __init__(self, model: str, variant: str) -> None:
        self.series = Series(variant)
        self.errors = tempfile.TemporaryFile("w+")
        command = [sys.executable, str(HERE / "peer.py"), model, variant, "--batch", str(BATCH)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def read(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return {"unavailable": lines[-1] if lines else f"ended with {self.process.returncode}"}

    def train(self, seconds: float) -> None:
        assert self.process.stdin
        print(seconds, file=self.process.stdin, flush=True)
        answer = self.read()
        if "unavailable" in answer:
            raise Failure(f"PyTorch {self.series.name}: {answer['unavailable']}")
        self.series.add(BATCH / median(answer["seconds"]), answer["growth_bytes"])


class Nibble:
    """`nibble bench`, one process per round."""

    def __init__(self, program: Path, model: str) -> None:
        self.program, self.model = program, model
        self.machine: dict = {}
        self.series: dict[str, Series] = {}

    def train(self, seconds: float) -> None:
        bench = json.loads(
            run([self.program, "bench", "--json", "--seconds", f"{seconds:g}", self.model])
        )
        self.machine = bench.get("machine", {})
        for row in bench["models"]:
            if row["name"] != self.model:
                continue
            series = self.series.setdefault(row["variant"], Series(row["variant"]))
            series.add(row["samples_per_second"], row["peak_bytes"])


def run(command: list[object]) -> str:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise Failure(f"{words[0]}: {error.strerror}; build nibble, or give --nibble") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failure(f"{' '.join(words)}: exit {done.returncode}: {last}")
    return done.stdout


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def start_peers(model: str, compiled: bool, stack: ExitStack) -> tuple[list[Peer], dict[str, str]]:
    """The variants that this PyTorch runs, warmed up, and why the others do not run."""
    names = variants.variants(model, compiled)
    started = [stack.enter_context(Peer(model, name)) for name in names]
    unavailable = {}
    for peer in started:
        ready = peer.read()
        if "unavailable" in ready:
            unavailable[peer.series.name] = ready["unavailable"]
            note(f"{model}: PyTorch {peer.series.name} does not run: {ready['unavailable']}")
    return [p for p in started if p.series.name not in unavailable], unavailable


def fastest(peers: Iterable[Peer], qat: bool) -> Series | None:
    of_kind = [p.series for p in peers if variants.is_qat(p.series.name) == qat]
    return max(of_kind, key=lambda s: s.speed, default=None)


def drop_slow(peers: list[Peer]) -> list[Peer]:
    """Those that may still turn out the fastest of their kind; the others' memory is freed."""
    kept = []
    for peer in peers:
        best = fastest(peers, variants.is_qat(peer.series.name))
        assert best
        if peer.series.speed * KEEP_WITHIN >= best.speed:
            kept.append(peer)
        else:
            peer.__exit__()
    return kept


def ratio(ours: Series | None, theirs: Series | None) -> Spread | None:
    """Each round's speeds were measured within seconds of each other: divide, then summarise."""
    if not ours or not theirs:
        return None
    return Spread.of([a / b for a, b in zip(ours.speeds, theirs.speeds)])


def compare(model: str, options: argparse.Namespace) -> dict:
    nibble = Nibble(options.nibble, model)
    with ExitStack() as stack:
        started, unavailable = start_peers(model, options.compile, stack)
        racing = started
        for number in range(options.rounds):
            note(f"{model}: round {number + 1} of {options.rounds}, {1 + len(racing)} programs")
            turn = [nibble, *racing]
            for program in turn if number % 2 == 0 else reversed(turn):
                program.train(options.seconds)
            racing = drop_slow(racing)
        result = summary(nibble, started, racing, unavailable)
    note(" | ".join(table_row(result)))  # a long run that is stopped has told something
    return result


def summary(
    nibble: Nibble, started: list[Peer], racing: list[Peer], unavailable: dict[str, str]
) -> dict:
    f32, qat = fastest(racing, qat=False), fastest(racing, qat=True)
    ratios = {"f32": ratio(nibble.series.get("f32"), f32)}
    ratios |= {name: ratio(nibble.series.get(name), qat) for name in QAT_VARIANTS}
    best = {"f32": f32, "f16": f32} | {name: qat for name in QAT_VARIANTS}
    memory = {
        name: ours.growth_bytes / theirs.growth_bytes
        for name, ours in nibble.series.items()
        if (theirs := best.get(name))
    }
    return {
        "name": nibble.model,
        "machine": nibble.machine,
        "nibble": [s.report() for s in nibble.series.values()],
        "pytorch": [p.series.report() for p in started],
        "pytorch_unavailable": unavailable,
        "fastest": {"f32": f32 and f32.name, "qat": qat and qat.name},
        "ratios": {name: r and vars(r) for name, r in ratios.items()},
        "memory_ratios": memory,
    }


HEADERS = ("model", "nibble f32", "PyTorch f32", "ratio", "nibble W4A4", "nibble W8A8",
           "PyTorch QAT", "W4A4 ratio", "W8A8 ratio", "QAT memory")  # fmt: skip


def speed_text(rows: list[dict], name: str | None, label: bool = False) -> str:
    row = next((r for r in rows if r["variant"] == name), None)
    if not row:
        return "none"
    return f"{row['samples_per_second']:,.0f}" + (f" ({name})" if label else "")


def ratio_text(ratios: dict, name: str) -> str:
    return Spread(**ratios[name]).text() if ratios.get(name) else "none"


def table_row(result: dict) -> list[str]:
    ours, theirs, best = result["nibble"], result["pytorch"], result["fastest"]
    ratios, memory = result["ratios"], result["memory_ratios"].get("qat_w4a4")
    return [
        result["name"],
        speed_text(ours, "f32"),
        speed_text(theirs, best["f32"], label=True),
        ratio_text(ratios, "f32"),
        speed_text(ours, "qat_w4a4"),
        speed_text(ours, "qat_w8a8"),
        speed_text(theirs, best["qat"], label=True),
        ratio_text(ratios, "qat_w4a4"),
        ratio_text(ratios, "qat_w8a8"),
        "none" if memory is None else f"{memory:.2f}x",
    ]


def print_table(report: dict) -> None:
    print(f"Training, images/s, batch {BATCH}, {report['threads']} threads, "
          f"PyTorch {report['torch']}. Speeds: medians of {report['rounds']} rounds; "
          "ratios: median (quartiles) of the rounds' ratios, nibble over PyTorch's fastest. "
          "Memory: nibble's W4A4 over PyTorch's fastest QAT.\n")  # fmt: skip
    rows = [list(HEADERS), ["---"] + ["---:"] * (len(HEADERS) - 1)]
    for row in rows + [table_row(result) for result in report["models"]]:
        print("| " + " | ".join(row) + " |")
    for result in report["models"]:
        for variant, why in result["pytorch_unavailable"].items():
            print(f"\nNot run: {result['name']} {variant}: {why}")


CHECK_CONFIG = """model: {model}
data: {{kind: synthetic, classes: {classes}, height: {side}, width: {side}, channels: {channels},
       train: 64, test: 32, batch: 32, validation: 0}}
train: {{steps: 1}}
"""


def nibble_parameters(program: Path, model: str) -> int:
    """Trains one step of the model and reads how many parameters the summary counts."""
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder, "config.yaml"), Path(folder, "run")
        text = CHECK_CONFIG.format(
            model=models.NIBBLE_SETTINGS[model],
            classes=models.CLASSES,
            side=models.SIDE,
            channels=models.CHANNELS,
        )
        config.write_text(text)
        run([program, "train", config, "--out", out])
        return json.loads(Path(out, "summary.json").read_text())["parameters"]


def check(options: argparse.Namespace) -> int:
    """Both sides build the same networks: 0 if every model has as many parameters in each."""
    wrong = 0
    for model in options.models:
        ours = nibble_parameters(options.nibble, model)
        theirs = models.parameter_count(models.MODELS[model]())
        wrong += ours != theirs
        verdict = "the same" if ours == theirs else "DIFFERENT"
        print(f"{model:10} nibble {ours:9,}  PyTorch {theirs:9,}  {verdict}")
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"of {' '.join(models.MODELS)}; default: all")
    parser.add_argument("--nibble", type=Path, default=ROOT / "build" / "nibble", metavar="PATH")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--seconds", type=float, default=2, help="per program and round; default: 2"
    )
    parser.add_argument("--compile", action="store_true", help="try torch.compile as well")
    parser.add_argument("--json", action="store_true", help="everything measured, as JSON")
    parser.add_argument("--check", action="store_true", help="only compare numbers of parameters")
    options = parser.parse_args()
    options.models = options.models or list(models.MODELS)
    for name in options.models:
        if name not in models.MODELS:
            parser.error(f"no model '{name}'; there are {', '.join(models.MODELS)}")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds more than 0")
    return options


def main() -> int:
    options = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    try:
        if options.check:
            return check(options)
        report = {
            "threads": int(os.environ["OMP_NUM_THREADS"]),
            "batch": BATCH,
            "rounds": options.rounds,
            "torch": models.torch.__version__,
            "models": [compare(model, options) for model in options.models],
        }
    except Failure as failure:
        note(f"compare.py: {failure}")
        return 1
    print(json.dumps(report, indent=1)) if options.json else print_table(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
