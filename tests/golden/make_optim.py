#!/usr/bin/env python3
"""Writes tests/golden/optim.txt: what torch.optim makes of four small parameters in 20 steps under each
rule, and the factors of torch's learning rate schedules. Needs torch 2; run in the source root."""

import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

STEPS = 20
SHOWN = [1, 2, 5, 20]
PARAMS = [("conv1.weight", "weight", 12), ("conv1.bias", "bias", 5), ("norm1.gamma", "norm", 3),
          ("conv1.weight.scale", "scale", 1)]
SCALE_STARTS = 4  # the learned scale has no gradient in the steps before, as before fake-quant starts

CASES = [  # settings as in YAML, rule, arguments of torch, and what is kept outside of torch's rule
    ("{kind: sgd, lr: 0.1, momentum: 0, scale_lr: 1}", "SGD", dict(lr=0.1), {}),
    ("{kind: sgd, lr: 0.1, momentum: 0.9, scale_lr: 1}", "SGD", dict(lr=0.1, momentum=0.9), {}),
    ("{kind: sgd, lr: 0.05, momentum: 0.9, weight_decay: 0.01, scale_lr: 1}", "SGD",
     dict(lr=0.05, momentum=0.9, weight_decay=0.01), {}),
    ("{kind: sgd, lr: 0.05, momentum: 0.8, nesterov: true, weight_decay: 0.01, clip_norm: 0.5, scale_lr: 1}", "SGD",
     dict(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.01), dict(clip=0.5)),
    ("{kind: sgd, lr: 0.1, momentum: 0.9, weight_decay: 0.1, decay_norms: true, decay_biases: true, "
     "scale_lr: 0.01, ema: 0.9}", "SGD",
     dict(lr=0.1, momentum=0.9, weight_decay=0.1), dict(decay=["weight", "norm", "bias"], scale_lr=0.01, ema=0.9)),
    ("{kind: adam, scale_lr: 1}", "Adam", dict(lr=0.001), {}),
    ("{kind: adam, lr: 0.01, beta1: 0.8, beta2: 0.95, epsilon: 1e-4, weight_decay: 0.1, scale_lr: 1}", "Adam",
     dict(lr=0.01, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1), {}),
    ("{kind: adamw, lr: 0.01, scale_lr: 1}", "AdamW", dict(lr=0.01, weight_decay=0.01), {}),
    ("{kind: adamw, lr: 0.02, weight_decay: 0.1, decay_norms: true, clip_norm: 2, ema: 0.5, scale_lr: 0.1}",
     "AdamW", dict(lr=0.02, weight_decay=0.1),
     dict(clip=2.0, decay=["weight", "norm"], ema=0.5, scale_lr=0.1)),
]


def numbers(values):
    return " ".join("%.9g" % v for v in values)


def run_case(rule, arguments, extra, start, grads):
    params = [torch.nn.Parameter(x.clone()) for x in start]
    groups = []
    for (_, role, _), p in zip(PARAMS, params):
        group = dict(params=[p])
        if role not in extra.get("decay", ["weight"]):
            group["weight_decay"] = 0.0
        if role == "scale":
            group["lr"] = arguments["lr"] * extra.get("scale_lr", 1.0)
        groups.append(group)
    optimizer = getattr(torch.optim, rule)(groups, **arguments)
    averages, average = [None] * len(params), get_ema_multi_avg_fn(extra.get("ema", 0.0))
    for step in range(1, STEPS + 1):
        for i, p in enumerate(params):
            p.grad = grads[step - 1][i].clone()
            if PARAMS[i][1] == "scale" and step < SCALE_STARTS:
                p.grad = None
        if "clip" in extra:
            torch.nn.utils.clip_grad_norm_(params, extra["clip"])
        optimizer.step()
        if "ema" in extra:
            for i, p in enumerate(params):
                if averages[i] is not None:
                    average([averages[i]], [p.data], step)
                elif p.grad is not None:
                    averages[i] = p.data.clone()
        if step in SHOWN:
            for (name, _, _), p in zip(PARAMS, params):
                yield "value %d %s %s" % (step, name, numbers(p.data.tolist()))
    if "ema" in extra:
        for (name, _, _), a in zip(PARAMS, averages):
            yield "average %d %s %s" % (STEPS, name, numbers(a.tolist()))


def factors(total, warmup, make):
    """Factors of a schedule after `warmup` steps of LinearLR, each computed from a fresh optimizer."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, total - warmup)
    if warmup:
        first = lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup)
        schedule = lr_scheduler.SequentialLR(optimizer, [first, schedule], [warmup])
    result = []
    for _ in range(total):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return result


SCHEDULES = [
    ("{kind: constant, warmup: 8}", 8, lambda o, n: lr_scheduler.ConstantLR(o, 1.0, 1)),
    ("{kind: linear}", 0, lambda o, n: lr_scheduler.LinearLR(o, 1.0, 1e-300, n)),
    ("{kind: linear, warmup: 0.1, final: 0.25}", 4, lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.25, n)),
    ("{kind: cosine}", 0, lambda o, n: lr_scheduler.CosineAnnealingLR(o, n)),
    ("{kind: cosine, warmup: 0.2, final: 0.1}", 8, lambda o, n: lr_scheduler.CosineAnnealingLR(o, n, 0.1)),
    ("{kind: step}", 0, lambda o, n: lr_scheduler.MultiStepLR(o, [20, 30], 0.1)),
    ("{kind: step, milestones: [10, 0.6, 0.9], gamma: 0.5}", 0,
     lambda o, n: lr_scheduler.MultiStepLR(o, [10, 24, 36], 0.5)),
]


def main():
    torch.manual_seed(1)
    torch.set_num_threads(1)
    start = [torch.randn(n) if role != "scale" else torch.full((n,), 0.05) for _, role, n in PARAMS]
    grads = [[torch.randn(n) * (1 + 4 * (s % 7 == 3)) for _, _, n in PARAMS] for s in range(STEPS)]
    with open("tests/golden/optim.txt", "w") as out:
        print("# by tests/golden/make_optim.py, torch", torch.__version__.split("+")[0], file=out)
        for (name, role, n), x in zip(PARAMS, start):
            print("param", name, role, n, numbers(x.tolist()), file=out)
        for s in range(STEPS):
            for (name, role, _), g in zip(PARAMS, grads[s]):
                if role != "scale" or s + 1 >= SCALE_STARTS:
                    print("grad", s + 1, name, numbers(g.tolist()), file=out)
        for settings, rule, arguments, extra in CASES:
            print("optimizer", settings, file=out)
            for line in run_case(rule, arguments, extra, start, grads):
                print(line, file=out)
        for settings, warmup, make in SCHEDULES:
            print("schedule", 40, settings, file=out)
            print("factors", " ".join("%.17g" % f for f in factors(40, warmup, make)), file=out)


if __name__ == "__main__":
    main()
