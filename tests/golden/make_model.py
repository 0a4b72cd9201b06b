#!/usr/bin/env python3
"""Writes tests/golden/model.txt: a small network's logits, gradients and running statistics over one
training step, and its logits in evaluation afterwards, in double from inputs that f32 holds. The network
is the one that tests/test_models.c writes in YAML. Needs torch 2; run in the source root.

The format is tests/golden.h's. Images are NHWC, convolution weights OHWI."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(3)
BATCH, CLASSES = 4, 3


def conv(inputs, outputs, kernel, **settings):
    return nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, **settings)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = conv(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.norm1 = conv(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6)
        self.conv2 = conv(6, 6, 3, groups=6)
        self.short = conv(4, 6, 1, stride=2)
        self.norm2 = nn.BatchNorm2d(6)
        self.classes = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        main = self.conv2(F.silu(self.norm1(self.conv1(x))))
        x = F.relu(self.norm2(main + self.short(x)))
        x = F.max_pool2d(x, 2)
        return self.classes(x.permute(0, 2, 3, 1).flatten(1))


PATHS = {"conv1": "block.main.conv1", "norm1": "block.main.norm1", "conv2": "block.main.conv2",
         "short": "block.shortcut.short"}
PARTS = {("norm", "weight"): "gamma", ("norm", "bias"): "beta", ("norm", "running_mean"): "running_mean",
         ("norm", "running_var"): "running_variance"}


def name_of(path):
    module, part = path.split(".")
    kind = "norm" if "norm" in module else "product"
    return PATHS.get(module, module) + "." + PARTS.get((kind, part), part)


def case(out, name, tensors):
    out.write(f"\ncase {name}\n")
    for label, tensor in tensors.items():
        if tensor.dim() == 4:
            tensor = tensor.permute(0, 2, 3, 1)
        values = " ".join(f"{value:.9g}" for value in tensor.float().flatten().tolist())
        out.write(" ".join([label, *map(str, tensor.shape), "=", values]) + "\n")


network = Network().double()
with torch.no_grad():
    for name, p in network.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        p.copy_((centre + 0.4 * torch.randn(p.shape)).float())
x = torch.randn(BATCH, 2, 8, 8).double().requires_grad_()
labels = torch.arange(BATCH) % CLASSES

with open("tests/golden/model.txt", "w") as file:
    file.write(f"# by tests/golden/make_model.py, torch {torch.__version__}\n")
    given = {name_of(name): p.detach() for name, p in network.named_parameters()}
    case(file, "given", {"x": x.detach(), **given})
    logits = network.train()(x)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    grads = {name_of(name): p.grad for name, p in network.named_parameters()}
    buffers = {name_of(name): b for name, b in network.named_buffers() if "running" in name}
    case(file, "trained", {"logits": logits.detach(), "loss": loss.detach(), "x": x.grad, **grads, **buffers})
    case(file, "evaluated", {"logits": network.eval()(x).detach()})
