"""The ways to train one model in PyTorch: FP32 and three kinds of QAT, in two memory layouts.

A variant is written KIND-LAYOUT, such as `f32-nhwc`; `+compile` behind it passes the model through
torch.compile. QAT is 8-bit everywhere: weights per channel, activations per tensor, with the
observers that PyTorch recommends for x86. What a fake-quant costs does not depend on its bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.ao import quantization as ao

import models

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
COMPILED = "+compile"


class Unavailable(Exception):
    """This PyTorch cannot run the variant; the text says why."""


class EagerAddRelu(nn.Module):
    """AddRelu with the observer of its sum, as eager QAT wants it written."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = nn.quantized.FloatFunctional()

    def forward(self, main: Tensor, shortcut: Tensor) -> Tensor:
        return self.sum.add_relu(main, shortcut)


FUSED = (
    (nn.Conv2d, nn.BatchNorm2d, nn.ReLU),
    (nn.Conv2d, nn.BatchNorm2d),
    (nn.Linear, nn.ReLU),
)


def fused_groups(model: nn.Module) -> list[list[str]]:
    """Names of the neighbours that PyTorch has one QAT module for."""
    groups: list[list[str]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        names = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        kinds = [type(child) for child in module.children()]
        i = 0
        while i < len(kinds):
            pattern = next((p for p in FUSED if tuple(kinds[i : i + len(p)]) == p), None)
            if pattern:
                groups.append(names[i : i + len(pattern)])
            i += len(pattern) if pattern else 1
    return groups


def prepare_f32(model: nn.Module, example: Tensor) -> nn.Module:
    return model


def prepare_eager(model: nn.Module, example: Tensor) -> nn.Module:
    for block in model.modules():
        if isinstance(block, models.Residual):
            block.join = EagerAddRelu()
    ao.fuse_modules_qat(model, fused_groups(model), inplace=True)
    wrapped = ao.QuantWrapper(model).train()
    wrapped.qconfig = ao.get_default_qat_qconfig("x86")
    return ao.prepare_qat(wrapped, inplace=True)


def prepare_fx(model: nn.Module, example: Tensor) -> nn.Module:
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    return prepare_qat_fx(model, ao.get_default_qat_qconfig_mapping("x86"), (example,))


def prepare_pt2e(model: nn.Module, example: Tensor) -> nn.Module:
    """Export, annotate for x86, prepare. PyTorch 2.13 has these tools in torchao."""
    try:
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except ImportError as error:
        raise Unavailable(f"PT2E needs the package torchao ({error})") from error
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    program = torch.export.export(model, (example,)).module()
    return prepare_qat_pt2e(program, quantizer)


PREPARE: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "f32": prepare_f32,
    "qat_eager": prepare_eager,
    "qat_fx": prepare_fx,
    "qat_pt2e": prepare_pt2e,
}


def variants(model: str, compiled: bool) -> list[str]:
    """All variants that make sense for a model; a network without convolutions has one layout."""
    layouts = ["nchw"] if model == "mlp" else list(LAYOUTS)
    plain = [f"{kind}-{layout}" for kind in PREPARE for layout in layouts]
    return plain + [name + COMPILED for name in plain] if compiled else plain


def is_qat(variant: str) -> bool:
    return not variant.startswith("f32")


def make(variant: str, build: Callable[[], nn.Module], example: Tensor) -> nn.Module:
    """The model of `variant`, ready to train on batches like `example`."""
    kind, layout = variant.removesuffix(COMPILED).split("-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FX and eager QAT say that they will go
        model = build().train().to(memory_format=LAYOUTS[layout])
        model = PREPARE[kind](model, example)
    return torch.compile(model) if variant.endswith(COMPILED) else model


def batch(variant: str, size: int) -> tuple[Tensor, Tensor]:
    """Random images in the variant's layout, and labels."""
    layout = LAYOUTS[variant.removesuffix(COMPILED).split("-")[1]]
    shape = (size, models.CHANNELS, models.SIDE, models.SIDE)
    images = torch.empty(shape, memory_format=layout).normal_()
    return images, torch.randint(models.CLASSES, (size,))
