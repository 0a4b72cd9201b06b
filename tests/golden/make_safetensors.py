"""Makes tests/golden/safetensors/model.safetensors with the safetensors package: every dtype that nibble decodes, one
that it does not, a scalar, an empty tensor, names with dots.

    pip install safetensors numpy ml_dtypes
    python3 tests/golden/make_safetensors.py
    python3 tests/golden/make_safetensors.py --check FILE    prints what FILE holds, as test_safetensors expects
"""

import pathlib
import sys

import ml_dtypes
import numpy
from safetensors.numpy import load_file, save_file

OUT = pathlib.Path(__file__).parent / "safetensors"

if sys.argv[1:2] == ["--check"]:
    for name, tensor in sorted(load_file(sys.argv[2]).items()):
        print(name, tensor.dtype, list(tensor.shape), tensor.astype(numpy.float32).flatten().tolist())
else:
    OUT.mkdir(exist_ok=True)
    numbers = numpy.array([[0.5, -1.25, 3e-5], [65504.0, -0.0, 2.0]], numpy.float32)
    tensors = {
        "model.layers.0.f32": numbers,
        "model.layers.0.f16": numbers.astype(numpy.float16),
        "model.layers.0.bf16": numbers.astype(ml_dtypes.bfloat16),
        "scalar": numpy.array(7.0, numpy.float32),
        "empty": numpy.zeros((0, 4), numpy.float32),
        "ids": numpy.arange(5, dtype=numpy.int64),
    }
    save_file(tensors, OUT / "model.safetensors", metadata={"format": "pt"})
