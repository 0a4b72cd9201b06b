#!/usr/bin/env python3
"""Writes tests/golden/batch_norm_folded.txt: one training step of PyTorch's own quantization-aware
convolution with batch norm (torch.ao.nn.intrinsic.qat.ConvBn2d in its approximate, one-convolution
form), in double from inputs that f32 holds. Needs torch 2; run in the source root.

The format is tests/golden.h's. Images are NHWC, weights OHWI. Case `given` holds the inputs; then come
the results with float and with 4-bit weights, each with batch and with running (frozen) statistics."""

import torch
import torch.ao.nn.intrinsic.qat as qat
from torch.ao.quantization import QConfig

EPSILON, MOMENTUM = 2.0**-6, 0.125
torch.manual_seed(7)


class Quantize(torch.nn.Module):
    """4 bits, one fixed scale per output channel."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, w):
        zero = torch.zeros(len(self.scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(w, self.scale.float(), zero, 0, -8, 7)


def case(out, name, tensors):
    out.write(f"\ncase {name}\n")
    for label, tensor in tensors.items():
        if tensor.dim() == 4:
            tensor = tensor.permute(0, 2, 3, 1)
        values = " ".join(f"{x:.9g}" for x in tensor.float().flatten().tolist())
        out.write(f"{label} {' '.join(map(str, tensor.shape))} = {values}\n")


def f32(*shape):
    return torch.randn(*shape).double()


GIVEN = {"x": f32(3, 3, 5, 4), "w": f32(5, 3, 3, 3) * 0.25, "bias": f32(5), "beta": f32(5),
         "gamma": f32(5).abs() * 0.5 + 0.25, "mean": f32(5) * 0.25, "variance": f32(5).abs() + 0.5,
         "dy": f32(3, 5, 5, 4), "scale": (torch.rand(5) * 0.0625 + 0.0625).double()}
GIVEN["gamma"][1] *= -1
GIVEN = {name: tensor.float().double() for name, tensor in GIVEN.items()}


def step(weight, is_frozen):
    conv = qat.ConvBn2d(3, 5, 3, padding=1, bias=True, eps=EPSILON, momentum=MOMENTUM,
                        qconfig=QConfig(activation=torch.nn.Identity, weight=weight)).double()
    conv.train()
    with torch.no_grad():
        for target, name in [(conv.weight, "w"), (conv.bias, "bias"), (conv.bn.weight, "gamma"),
                             (conv.bn.bias, "beta"), (conv.bn.running_mean, "mean"),
                             (conv.bn.running_var, "variance")]:
            target.copy_(GIVEN[name])
    if is_frozen:
        conv.freeze_bn_stats()
    x = GIVEN["x"].clone().requires_grad_()
    y = conv(x)
    y.backward(GIVEN["dy"])
    return {"y": y.detach(), "dx": x.grad, "dw": conv.weight.grad, "dbias": conv.bias.grad,
            "dgamma": conv.bn.weight.grad, "dbeta": conv.bn.bias.grad,
            "mean": conv.bn.running_mean, "variance": conv.bn.running_var}


with open("tests/golden/batch_norm_folded.txt", "w") as file:
    file.write(f"# by tests/golden/make_batch_norm_folded.py, torch {torch.__version__}\n")
    case(file, "given", GIVEN)
    for kind, weight in [("float", torch.nn.Identity), ("int4", lambda: Quantize(GIVEN["scale"]))]:
        for is_frozen in [False, True]:
            case(file, f"{kind}_{'running' if is_frozen else 'batch'}", step(weight, is_frozen))
