"""The models of `nibble bench` in PyTorch, layer for layer as experiments/models/*.c builds them.

Images are 28x28 with one channel, ten classes. A convolution in front of a batch norm has no bias;
linear layers have one. Padding is symmetric and keeps the size at stride 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SIDE, CHANNELS, CLASSES = 28, 1, 10

# Settings of `model:` that give nibble the same network, as in experiments/bench/bench_models.c;
# `--check` of compare.py relies on them. Neither side has dropout here.
NIBBLE_SETTINGS = {
    "mlp": "{kind: mlp, widths: [512, 512]}",
    "cnn": "{kind: cnn, widths: [32, 64], hidden: 128}",
    "resnet20": "{kind: resnet, depth: 20, widths: [16, 32, 64]}",
    "mobilenet": "{kind: mobilenet, stem: 32, widths: [64, 128, 128, 256, 256], "
    "strides: [1, 2, 1, 2, 1]}",
}


def conv(inputs: int, filters: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, filters, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )


def conv_norm_relu(
    inputs: int, filters: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    layer = conv(inputs, filters, kernel, stride, groups)
    return [layer, nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]


class AddRelu(nn.Module):
    """The end of a residual block; a module, because eager QAT needs a place for its observer."""

    def forward(self, main: Tensor, shortcut: Tensor) -> Tensor:
        return torch.relu(main + shortcut)


class Residual(nn.Module):
    """A basic block; its shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *conv_norm_relu(inputs, filters, stride=stride),
            conv(filters, filters),
            nn.BatchNorm2d(filters),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != filters:
            self.shortcut = nn.Sequential(
                conv(inputs, filters, kernel=1, stride=stride), nn.BatchNorm2d(filters)
            )
        self.join: nn.Module = AddRelu()

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.main(x), self.shortcut(x))


def mlp() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    features = SIDE * SIDE * CHANNELS
    for width in (512, 512):
        layers += [nn.Linear(features, width), nn.ReLU(inplace=True)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, CLASSES))


def cnn() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, side = CHANNELS, SIDE
    for width in (32, 64):
        layers += [*conv_norm_relu(channels, width), nn.MaxPool2d(2)]
        channels, side = width, side // 2
    hidden = [nn.Linear(channels * side * side, 128), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Linear(128, CLASSES))


def resnet20() -> nn.Sequential:
    layers: list[nn.Module] = conv_norm_relu(CHANNELS, 16)
    channels = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            layers.append(Residual(channels, width, 2 if stage > 0 and block == 0 else 1))
            channels = width
    return nn.Sequential(*layers, *classifier(channels))


def mobilenet() -> nn.Sequential:
    layers: list[nn.Module] = conv_norm_relu(CHANNELS, 32)
    channels = 32
    for width, stride in zip((64, 128, 128, 256, 256), (1, 2, 1, 2, 1)):
        layers += conv_norm_relu(channels, channels, stride=stride, groups=channels)
        layers += conv_norm_relu(channels, width, kernel=1)
        channels = width
    return nn.Sequential(*layers, *classifier(channels))


def classifier(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


MODELS: dict[str, Callable[[], nn.Sequential]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet20": resnet20,
    "mobilenet": mobilenet,
}


def tiny() -> nn.Sequential:
    """Every kind of layer once, in a few kilobytes: makes PyTorch load its code."""
    pooled = nn.Sequential(*conv_norm_relu(CHANNELS, 4), nn.MaxPool2d(4), Residual(4, 8, 2))
    depthwise = conv_norm_relu(8, 8, groups=8)
    return nn.Sequential(*pooled, *depthwise, *classifier(8))


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
