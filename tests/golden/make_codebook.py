#!/usr/bin/env python3
"""make_codebook.py DTYPE > tests/golden/codebook_DTYPE.txt: what bitsandbytes stores on a CPU, and what it
reads back, of values in flat blocks; with scales in f32, then (4 bits) with scales that are quantized again.
DTYPE is nf4, fp4, dynamic8 or udynamic8 (of magnitudes). Needs torch 2 and bitsandbytes.

The format is tests/golden.h's. Codes are one a value, whatever their order within a byte. The last block is
shorter than the others, and one block is zeros."""

import sys

import bitsandbytes
import bitsandbytes.functional as F
import torch

DTYPE = sys.argv[1]
IS_DYNAMIC = DTYPE.endswith("dynamic8")
torch.manual_seed(5)


def values(rows, columns, block):
    """Of three digits; blocks differ in size."""
    x = torch.randn(rows * columns)
    blocks = -(-x.numel() // block)
    x *= torch.exp2(torch.randint(-3, 3, (blocks,))).repeat_interleave(block)[: x.numel()]
    x[block : 2 * block] = 0
    return torch.tensor([float(f"{v:.3g}") for v in x.tolist()]).view(rows, columns)


def codes_of(packed, count):
    if IS_DYNAMIC:
        return packed.flatten()
    packed = packed.flatten()  # the first of two in the high half
    return torch.stack([packed >> 4, packed & 15], 1).flatten()[:count]


def case(name, tensors):
    print(f"\ncase {name}")
    for label, tensor in tensors.items():
        shape = " ".join(map(str, tensor.shape)) or "1"
        digits = 3 if label == "x" else 9
        print(label, shape, "=", " ".join(f"{v:.{digits}g}" for v in tensor.flatten().tolist()))


def plain(rows, columns, block):
    x = values(rows, columns, block)
    if IS_DYNAMIC:
        is_signed = DTYPE == "dynamic8"
        x = x if is_signed else x.abs()
        packed, state = F.quantize_blockwise(x, F.create_dynamic_map(is_signed), blocksize=block)
        y = F.dequantize_blockwise(packed, state)
    else:
        packed, state = F.quantize_4bit(x, blocksize=block, quant_type=DTYPE)
        y = F.dequantize_4bit(packed, state)
    case("plain", {"x": x, "block": torch.tensor(block), "codes": codes_of(packed, x.numel()),
                   "scale": state.absmax, "y": y})


def double(rows, columns, block):
    x = values(rows, columns, block)
    packed, state = F.quantize_4bit(x, blocksize=block, quant_type=DTYPE, compress_statistics=True)
    y = F.dequantize_4bit(packed, state)
    case("double", {"x": x, "block": torch.tensor(block), "codes": codes_of(packed, x.numel()),
                    "offset": state.offset, "scale_block": torch.tensor(state.state2.blocksize),
                    "scale_codes": state.absmax, "scale_scale": state.state2.absmax,
                    "y": y.flatten()[:512]})


print(f"# by tests/golden/make_codebook.py {DTYPE}, bitsandbytes {bitsandbytes.__version__}")
if IS_DYNAMIC:
    plain(3, 300, 256)
else:
    plain(5, 78, 64)
    double(82, 102, 32)
