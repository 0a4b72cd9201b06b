"""The CNN of models.py with Brevitas' quantizers, placed where nibble has them: on what each layer with
weights reads, and on the weights, one scale per output channel. All scales are learned."""

from __future__ import annotations

import torch
from brevitas import nn as qnn
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import scaled_int
from torch import nn

EDGE_BITS = 8  # first and last layer


class Weight(scaled_int.Int8WeightPerChannelFloatMSE):
    """Starts at the least squared error. All levels, as nibble's: Brevitas leaves out the lowest unless
    told, which would make 2 bits three levels."""

    narrow_range = False


class Values(scaled_int.Uint8ActPerTensorFloat):
    """What follows a ReLU: starts at the batches' largest values."""


class Input(scaled_int.Int8ActPerTensorFloat):
    """The images."""


class WideWeight(scaled_int.Int8WeightPerChannelFloat):
    """Starts at the largest weight."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    narrow_range = False


def with_dropout(net: nn.Sequential, share: float) -> nn.Sequential:
    """Before each linear layer, as nibble's CNN has it."""
    layers: list[nn.Module] = []
    for module in net:
        layers += [nn.Dropout(share), module] if isinstance(module, nn.Linear) else [module]
    return nn.Sequential(*layers)


def readers_bits(net: nn.Sequential, bits: int) -> list[int]:
    """For each module, the bits of the next layer with weights, it included; of the last, its own."""
    wide = [i for i, m in enumerate(net) if isinstance(m, (nn.Conv2d, nn.Linear))]
    bits_of = {i: EDGE_BITS if i in (wide[0], wide[-1]) else bits for i in wide}
    return [bits_of[min((w for w in wide if w >= i), default=wide[-1])] for i in range(len(net))]


def convert(module: nn.Module, bits: int, steps: int) -> nn.Module:
    weights = dict(weight_quant=WideWeight if bits == EDGE_BITS else Weight, weight_bit_width=bits)
    if isinstance(module, nn.Conv2d):
        return qnn.QuantConv2d(module.in_channels, module.out_channels, module.kernel_size[0],
                               padding=module.padding[0], bias=False, **weights)  # fmt: skip
    if isinstance(module, nn.Linear):
        return qnn.QuantLinear(module.in_features, module.out_features, bias=True, **weights)
    if isinstance(module, nn.ReLU):
        return qnn.QuantReLU(act_quant=Values, bit_width=bits, collect_stats_steps=steps)
    return module


def quantized(net: nn.Sequential, bits: int, collect_steps: int) -> nn.Sequential:
    """A network with the parameters of `net`; activation ranges are averaged over `collect_steps` steps
    of training, then learned."""
    images = qnn.QuantIdentity(act_quant=Input, bit_width=EDGE_BITS, collect_stats_steps=collect_steps)
    layers: list[nn.Module] = [images]
    for module, own in zip(net, readers_bits(net, bits)):
        made = convert(module, own, collect_steps)
        if made is not module:
            own_values = dict(made.named_parameters())
            with torch.no_grad():
                for name, value in module.named_parameters():
                    own_values[name].copy_(value)
        layers.append(made)
    return nn.Sequential(*layers)


def is_scale(name: str) -> bool:
    return "_quant." in name
