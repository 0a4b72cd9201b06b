#!/usr/bin/env python3
"""Digests of what short trainings compute, to see whether a change of the program changes a bit.

    tests/digests.py PROGRAM              a line per run: its name, the digest of all parameters
    tests/digests.py PROGRAM BEFORE       and compares with another build; exit 1 where they differ

Each run is 40 steps on images made by a formula. Digested are the parameters and the optimizer's
state of checkpoint.h5, by name, shape and bytes. Bits depend on the instruction set (NIBBLE_ISA):
compare on one. Needs h5py (pip install h5py).
"""
import hashlib
import os
import subprocess
import sys
import tempfile

import h5py

MODELS = {
    "mlp": "{kind: mlp, widths: [48, 32]}",
    "cnn": "{kind: cnn, widths: [8, 12], hidden: 24}",
    "resnet": "{kind: resnet, depth: 8, widths: [4, 8, 12]}",
    "mobilenet": "{kind: mobilenet, stem: 8, widths: [12, 16], strides: [1, 2]}",
}
FIRST_LAST = "rules: [{layers: 'first, last', bits: 8}]"


def quant(bits, *more):
    return "quant: {bits: %d, %s}" % (bits, ", ".join(more)) if more else "quant: {bits: %d}" % bits


def runs():
    for model in MODELS:
        yield model + "-f32", model, []
        yield model + "-w4a4", model, [quant(4, FIRST_LAST)]
    for half in "f16", "bf16":
        yield "cnn-" + half, "cnn", ["precision: " + half]
        yield "mlp-w4a4-" + half, "mlp", ["precision: " + half, quant(4, FIRST_LAST)]
        yield "resnet-w4a4-" + half, "resnet", ["precision: " + half, quant(4, FIRST_LAST)]
    for name in "minmax", "ema", "percentile", "mse", "lsq", "lsq_plus", "pact", "dorefa":
        weights = "lsq" if name == "pact" else name
        kinds = ["weights: {quantizer: %s}" % weights, "activations: {quantizer: %s}" % name]
        if name == "dorefa":
            kinds[0] = "weights: {quantizer: dorefa, granularity: tensor}"
        yield "cnn-w4a4-" + name, "cnn", [quant(4, *kinds)]
    yield "cnn-w2a2", "cnn", [quant(2, FIRST_LAST)]
    for bits, kind in ("1", "paretoq"), ("1.58", "lsq"), ("1.58", "paretoq"), ("2", "paretoq"):
        yield "cnn-w%sa8-%s" % (bits, kind), "cnn", [quant(8, "weights: {bits: %s, quantizer: %s}" % (bits, kind))]
        yield "mobilenet-w%sa8-%s" % (bits, kind), "mobilenet", [
            quant(8, "weights: {bits: %s, quantizer: %s, granularity: group, group_size: 7}" % (bits, kind),
                  FIRST_LAST)]
    yield "cnn-w3a8", "cnn", [quant(8, "weights: {bits: 3}")]
    yield "cnn-w8a8-minmax", "cnn", [quant(8, "weights: {quantizer: minmax}", "activations: {quantizer: ema}")]
    for granularity in "tensor", "channel", "group":
        kind = "weights: {granularity: %s, group_size: 8}" % granularity
        yield "mlp-w4a4-" + granularity, "mlp", [quant(4, kind)]
        yield "cnn-w4a8-" + granularity, "cnn", [quant(4, kind, "activations: {bits: 8}")]
    yield "cnn-affine", "cnn", [quant(4, "weights: {affine: true, quantizer: minmax}",
                                      "activations: {affine: true, quantizer: lsq_plus}")]
    yield "mlp-token", "mlp", [quant(8, "weights: {bits: 4, granularity: group, scale: f16}",
                                     "activations: {granularity: token, quantizer: minmax}")]
    yield "mobilenet-frozen", "mobilenet", [quant(4, "freeze_batch_norm: 20",
                                                  "activations: {quantizer: ema}")]
    yield "resnet-frozen", "resnet", [quant(4, "start: 10", "freeze_batch_norm: 20", "freeze_observers: 30",
                                            "activations: {quantizer: ema}")]
    yield "resnet-residual", "resnet", [quant(4, "residual_bits: 4", FIRST_LAST)]
    yield "cnn-ema", "cnn", [quant(4), "optimizer: {kind: adamw, ema: 0.9, clip_norm: 1}"]
    yield "mlp-accumulate", "mlp", [quant(4), "train: {epochs: 10, steps: 40, accumulate: 2, label_smoothing: 0.1}",
                                    "optimizer: {kind: adam}"]
    yield "mlp-dropout", "mlp", [quant(4), "model: {kind: mlp, widths: [48, 32], dropout: 0.2}"]


def configuration(model, settings):
    text = {
        "seed": "1",
        "model": MODELS[model],
        "data": "{kind: synthetic, classes: 10, height: 12, width: 12, train: 1024, test: 64, batch: 32, "
                "validation: 64}",
        "optimizer": "{kind: sgd, lr: 0.02, momentum: 0.9, nesterov: true, weight_decay: 5e-4}",
        "train": "{epochs: 4, steps: 40}",
    }
    for line in settings:
        key, value = line.split(": ", 1)
        text[key] = value
    return "".join("%s: %s\n" % pair for pair in text.items())


def digest(path):
    """Of everything under /params and /optimizer."""
    found = {}
    with h5py.File(path, "r") as file:
        for group in "params", "optimizer":
            file[group].visititems(lambda name, item, group=group: found.update(
                {group + "/" + name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    out = hashlib.sha256()
    for name in sorted(found):
        out.update(("%s %s %s\n" % (name, found[name].dtype, found[name].shape)).encode())
        out.update(found[name].tobytes())
    return out.hexdigest()[:16]


def train(program, model, settings):
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "config.yaml")
        with open(config, "w") as file:
            file.write(configuration(model, settings))
        run = os.path.join(folder, "run")
        done = subprocess.run([program, "train", config, "--out", run], capture_output=True, text=True)
        if done.returncode:
            sys.exit("%s\n%s" % (configuration(model, settings), done.stderr))
        return digest(os.path.join(run, "checkpoint.h5"))


def main():
    programs, differ, count = sys.argv[1:], 0, 0
    if not 1 <= len(programs) <= 2:
        sys.exit(__doc__)
    for name, model, settings in runs():
        digests = [train(program, model, settings) for program in programs]
        count += 1
        same = len(set(digests)) == 1
        differ += not same
        print("%-20s %s%s" % (name, digests[0], "" if same else "   before " + digests[1]), flush=True)
    if len(programs) == 2:
        print("%d runs, %d differ" % (count, differ))
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
