#!/usr/bin/env python3
"""Writes ops.txt and training.txt: what PyTorch says about the ops of autograd/ops.def.

    python3 tests/golden/make_ops.py          (torch 2.13; the output is committed)

A case is a line `case OP` followed by tensors, one a line, up to an empty line:

    NAME DIM DIM ... = VALUE VALUE ...        (no DIM: a scalar)

`x` is an input or a setting, `x.grad` its gradient, `y` the output and `y.grad` the gradient that
backward starts from, `x.after` a buffer after the step. Inputs have two decimals, so that they are short
and the same in f32; results are the shortest decimals that give the f32 back. Tensors are in nibble's
layouts: images NHWC, convolution weights [out, kernel_h, kernel_w, in / groups].

PyTorch computes in f64 here (so that what is compared is our rounding, not the sum of two), but where
values are rounded to a grid it must be f32, as in nibble."""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = pathlib.Path(__file__).parent


RANDOM = np.random.default_rng(1)


def draw(*shape, low=-1.0, high=1.0):
    """Two-decimal values."""
    return np.round(RANDOM.uniform(low, high, shape), 2)


def text(name, value):
    array = np.asarray(value, np.float32)
    numbers = " ".join(str(v).removesuffix(".0") for v in array.reshape(-1))
    return f"{name}{''.join(f' {d}' for d in array.shape)} = {numbers}\n"


class Writer:
    def __init__(self, path):
        self.file = open(path, "w")
        version = torch.__version__.split("+")[0]
        self.file.write(f"# Made by make_ops.py, which says what the lines mean, with torch {version}.\n")

    def case(self, op, lines):
        self.file.write("\ncase " + op + "\n" + "".join(lines))


def check(out, op, function, inputs, settings=None, dtype=torch.float64, buffers=None):
    """One case: `function(**inputs)` and the gradients of sum(y.grad * y)."""
    buffers = buffers or {}
    lines = [text(k, v) for k, v in (settings or {}).items()]
    leaves = {k: torch.tensor(np.float32(v), dtype=dtype).requires_grad_() for k, v in inputs.items()}
    state = {k: torch.tensor(np.float32(v), dtype=dtype) for k, v in buffers.items()}
    lines += [text(k, v) for k, v in list(inputs.items()) + list(buffers.items())]
    y = function(**leaves, **state)
    seed = draw(*y.shape)
    y.backward(torch.tensor(np.float32(seed), dtype=dtype))
    lines += [text("y", y.detach()), text("y.grad", seed)]
    lines += [text(k + ".grad", v.grad) for k, v in leaves.items() if v.grad is not None]
    lines += [text(k + ".after", v) for k, v in state.items()]
    out.case(op, lines)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def conv(x, w, bias=None, stride=1, dilation=1, groups=1, pad=(0, 0, 0, 0)):
    """pad: top, bottom, left, right."""
    padded = F.pad(nchw(x), (pad[2], pad[3], pad[0], pad[1]))
    return nhwc(F.conv2d(padded, nchw(w), bias, stride=stride, dilation=dilation, groups=groups))


def linear(x, w, bias=None):
    return F.linear(x, w, bias)


def products(out):
    check(out, "linear", linear, dict(x=draw(5, 7), w=draw(4, 7), bias=draw(4)))
    check(out, "linear", linear, dict(x=draw(3, 6), w=draw(8, 6)))
    check(out, "linear", linear, dict(x=draw(2, 3, 5), w=draw(6, 5), bias=draw(6)))
    # images, weights, stride, dilation, groups, padding, bias
    cases = [
        ((2, 6, 5, 3), (4, 3, 3, 3), 1, 1, 1, (1, 1, 1, 1), True),
        ((1, 7, 7, 4), (6, 3, 3, 4), 2, 1, 1, (1, 1, 1, 1), False),
        ((2, 5, 5, 2), (3, 1, 1, 2), 1, 1, 1, (0, 0, 0, 0), True),
        ((2, 6, 6, 3), (5, 1, 1, 3), 2, 1, 1, (0, 0, 0, 0), False),
        ((1, 8, 8, 2), (3, 3, 3, 2), 1, 2, 1, (2, 2, 2, 2), True),
        ((1, 5, 5, 4), (6, 3, 3, 2), 1, 1, 2, (1, 1, 1, 1), True),
        ((2, 6, 6, 8), (8, 3, 3, 1), 1, 1, 8, (1, 1, 1, 1), True),
        ((1, 7, 6, 5), (5, 3, 3, 1), 2, 1, 5, (1, 1, 1, 1), False),
        ((1, 5, 5, 3), (6, 3, 3, 1), 1, 1, 3, (1, 1, 1, 1), False),
        ((1, 9, 9, 2), (3, 5, 5, 2), 3, 1, 1, (2, 2, 2, 2), True),
        ((1, 6, 7, 2), (3, 1, 3, 2), 1, 1, 1, (0, 0, 1, 1), False),
        ((1, 6, 6, 2), (3, 2, 2, 2), 1, 1, 1, (0, 1, 1, 0), True),
        ((1, 4, 5, 8), (18, 3, 3, 8), 1, 1, 1, (1, 1, 1, 1), True),
        ((1, 9, 8, 3), (4, 3, 3, 3), 2, 2, 1, (2, 1, 0, 3), False),
    ]
    for x, w, stride, dilation, groups, pad, has_bias in cases:
        inputs = dict(x=draw(*x), w=draw(*w))
        if has_bias:
            inputs["bias"] = draw(w[0])
        check(out, "conv2d", lambda x, w, bias=None: conv(x, w, bias, stride, dilation, groups, pad), inputs,
              dict(stride=stride, dilation=dilation, groups=groups, pad=pad))


def norms(out):
    def batch(training):
        def run(x, gamma, beta, mean, variance):
            flat = x.reshape(-1, x.shape[-1])
            return F.batch_norm(flat, mean, variance, gamma, beta, training, 0.1, 1e-3).reshape(x.shape)
        return run

    for shape in [(4, 3, 3, 5), (8, 3)]:
        for training in [True, False]:
            c = shape[-1]
            check(out, "batch_norm", batch(training), dict(x=draw(*shape), gamma=draw(c), beta=draw(c)),
                  dict(uses_batch=training, epsilon=1e-3, momentum=0.1),
                  buffers=dict(mean=draw(c), variance=draw(c, low=0.5, high=2)))

    # A folded convolution without quantization is the plain convolution and its batch norm.
    def conv_norm(training):
        def run(x, w, gamma, beta, mean, variance, bias=None):
            y = conv(x, w, bias, pad=(1, 1, 1, 1))
            return batch(training)(y, gamma, beta, mean, variance)
        return run

    for training in [True, False]:
        inputs = dict(x=draw(2, 4, 4, 2), w=draw(5, 3, 3, 2), gamma=draw(5), beta=draw(5), bias=draw(5))
        check(out, "conv_batch_norm", conv_norm(training), inputs,
              dict(uses_batch=training, epsilon=1e-3, momentum=0.1),
              buffers=dict(mean=draw(5), variance=draw(5, low=0.5, high=2)))

    check(out, "layer_norm", lambda x, gamma, beta: F.layer_norm(x, (6,), gamma, beta, 1e-5),
          dict(x=draw(3, 4, 6), gamma=draw(6), beta=draw(6)), dict(epsilon=1e-5))


def activations(out):
    rows = dict(relu=F.relu, relu6=F.relu6, gelu=F.gelu, silu=F.silu, sigmoid=torch.sigmoid, tanh=torch.tanh)
    for name, function in rows.items():
        check(out, name, lambda x: function(x), dict(x=draw(4, 8, low=-4, high=8)))
        check(out, name, lambda x: function(x), dict(x=np.append(draw(5, low=-30, high=30), 0.5)))


def pools(out):
    for shape, kernel, stride, padding in [((2, 4, 6, 3), 2, 2, 0), ((1, 7, 7, 2), 3, 2, 1), ((2, 5, 4, 1), 3, 1, 0)]:
        settings = dict(kernel=kernel, stride=stride, padding=padding)
        # Distinct values: where two are the largest, whose gradient it is would be a convention.
        distinct = (np.random.default_rng(7).permutation(np.prod(shape)).reshape(shape) - 40) / 100
        check(out, "max_pool2d", lambda x: nhwc(F.max_pool2d(nchw(x), kernel, stride, padding)), dict(x=distinct), settings)
        check(out, "avg_pool2d", lambda x: nhwc(F.avg_pool2d(nchw(x), kernel, stride, padding, count_include_pad=False)),
              dict(x=draw(*shape)), settings)
    check(out, "global_avg_pool", lambda x: x.mean((1, 2)), dict(x=draw(2, 4, 3, 5)))


def arithmetic(out):
    for a, b in [((3, 4), (3, 4)), ((2, 3, 4), (4,)), ((2, 3, 4), (3, 4)), ((2, 3), ())]:
        check(out, "add", lambda a, b: a + b, dict(a=draw(*a), b=draw(*b)))
        check(out, "mul", lambda a, b: a * b, dict(a=draw(*a), b=draw(*b)))
    check(out, "scale", lambda x: x * -0.75, dict(x=draw(3, 4)), dict(factor=-0.75))


def shapes(out):
    for axis, sizes in [(0, [(1, 3, 2), (2, 3, 2)]), (1, [(2, 1, 2), (2, 2, 2), (2, 3, 2)]), (2, [(2, 2, 1), (2, 2, 3)])]:
        inputs = {f"part{i}": draw(*size) for i, size in enumerate(sizes)}
        check(out, "concat", lambda **parts: torch.cat(list(parts.values()), axis), inputs, dict(axis=axis))
    check(out, "reshape", lambda x: x.reshape(4, 6), dict(x=draw(2, 3, 4)), dict(shape=[4, 6]))
    check(out, "reshape", lambda x: x.reshape(2, -1), dict(x=draw(2, 3, 4)), dict(shape=[2, -1]))
    for axis, first, count in [(0, 1, 1), (1, 1, 2), (2, 0, 3)]:
        check(out, "slice", lambda x: x.narrow(axis, first, count), dict(x=draw(2, 3, 4)),
              dict(axis=axis, first=first, count=count))
    for shape, a, b in [((3, 4), 0, 1), ((2, 3, 4, 2), 1, 2), ((2, 3, 2, 4), 3, 0)]:
        check(out, "transpose", lambda x: x.transpose(a, b), dict(x=draw(*shape)), dict(axes=[a, b]))


def reductions(out):
    for axis in [-1, 0, 1, 2]:
        over = (0, 1, 2) if axis < 0 else axis
        check(out, "mean", lambda x: x.mean(over), dict(x=draw(2, 3, 4)), dict(axis=axis))
        check(out, "sum", lambda x: x.sum(over), dict(x=draw(2, 3, 4)), dict(axis=axis))
    for shape in [(7,), (3, 5), (2, 3, 4)]:
        check(out, "softmax", lambda x: F.softmax(x, -1), dict(x=draw(*shape, low=-5, high=5)))


def losses(out):
    for smoothing in [0, 0.1]:
        labels = [3, 0, 4, 4, 1, 2]
        check(out, "cross_entropy",
              lambda logits: F.cross_entropy(logits, torch.tensor(labels), label_smoothing=float(np.float32(smoothing))),
              dict(logits=draw(6, 5, low=-6, high=6)), dict(labels=labels, smoothing=smoothing))
    check(out, "mse", F.mse_loss, dict(input=draw(4, 3), target=draw(4, 3)))


def quantizers(out):
    """Grids as [bits, base]; make_fake_quant.py has more."""
    zero = torch.zeros(1)

    def lsq(x, scale):
        return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, 0, 15, 0.25)

    def pact(x, scale):
        """Alpha = 7 scale. In range (taken on the code, as all our masks) the rounding's gradient is 1
        to x and 0 to the scale; outside it is the clamped code to the scale."""
        code = torch.round(x / scale).detach()
        rounded = x + (code * scale - x).detach()
        return torch.where((code >= 0) & (code <= 7), rounded, code.clamp(0, 7) * scale)

    for function, bits, scale, gradient, factor in [(lsq, 4, 0.12, 1, 0.25), (pact, 3, 0.25, 2, 1)]:
        check(out, "fake_quant", function, dict(x=draw(4, 9, low=-1, high=3), scale=[scale]),
              dict(grid=[bits, 0], range_gradient=gradient, row=36, grad_scale=factor), torch.float32)
    check(out, "max_normalize", lambda x: x / x.abs().max(), dict(x=draw(3, 5)))


def distillation(out):
    for temperature in [1, 4, 0.5]:
        teacher, logits = draw(6, 5, low=-6, high=6), draw(6, 5, low=-6, high=6)
        soft = F.log_softmax(torch.tensor(np.float32(teacher), dtype=torch.float64) / temperature, -1)
        check(out, "distill",
              lambda logits: temperature**2 * F.kl_div(F.log_softmax(logits / temperature, -1), soft,
                                                       reduction="batchmean", log_target=True),
              dict(logits=logits), dict(teacher=teacher, temperature=temperature))


def training(path):
    """A small CNN over 10 steps of SGD with momentum on one batch: conv, batch norm, ReLU, pool, linear."""
    out = Writer(path)
    x, labels = draw(12, 8, 8, 1), [i * 5 % 4 for i in range(12)]
    params = dict(conv=draw(6, 3, 3, 1, low=-0.5, high=0.5), gamma=draw(6, low=0.8, high=1.2), beta=draw(6, low=-0.2, high=0.2),
                  linear=draw(4, 96, low=-0.2, high=0.2), bias=draw(4, low=-0.1, high=0.1))
    lines = [text("x", x), text("labels", labels), text("lr", 0.2), text("momentum", 0.9), text("epsilon", 1e-3)]
    lines += [text(k, v) for k, v in params.items()]
    leaves = {k: torch.tensor(np.float32(v), dtype=torch.float64).requires_grad_() for k, v in params.items()}
    mean, variance = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    sgd = torch.optim.SGD(leaves.values(), lr=float(np.float32(0.2)), momentum=float(np.float32(0.9)))
    images, losses = torch.tensor(np.float32(x), dtype=torch.float64), []
    for _ in range(10):
        sgd.zero_grad()
        c = nchw(conv(images, leaves["conv"], pad=(1, 1, 1, 1)))
        n = F.batch_norm(c, mean, variance, leaves["gamma"], leaves["beta"], True, 0.1, float(np.float32(1e-3)))
        flat = nhwc(F.max_pool2d(F.relu(n), 2)).reshape(12, -1)
        logits = F.linear(flat, leaves["linear"], leaves["bias"])
        loss = F.cross_entropy(logits, torch.tensor(labels), label_smoothing=float(np.float32(0.1)))
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    lines += [text("losses", losses), text("mean.after", mean), text("variance.after", variance)]
    lines += [text(k + ".after", v.detach()) for k, v in leaves.items()]
    out.case("cnn", lines)


def newer(out):
    """Behind all others, whose numbers stay as they are."""
    check(out, "rms_norm", lambda x, gamma, epsilon=1e-5: F.rms_norm(x, (6,), gamma, epsilon),
          dict(x=draw(3, 4, 6), gamma=draw(6)), dict(epsilon=1e-5))

    def attention(heads, kv_heads, starts=None):
        def run(q, k, v):
            def split(x, count):
                return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)

            length = q.shape[1]
            key, query = torch.arange(length)[None, :], torch.arange(length)[:, None]
            first = torch.zeros(q.shape[0], length) if starts is None else torch.tensor(starts)
            sees = (key <= query) & (key >= first[:, None, :, None])
            y = F.scaled_dot_product_attention(split(q, heads), split(k, kv_heads), split(v, kv_heads), attn_mask=sees,
                                               scale=0.5, enable_gqa=heads != kv_heads)
            return y.transpose(1, 2).reshape(q.shape)
        return run

    for batch, length, heads, kv_heads, dim, starts in [
        (2, 7, 2, 2, 4, None), (1, 40, 3, 1, 5, None), (2, 6, 4, 2, 3, [[0, 0, 0, 3, 3, 3], [0, 1, 1, 1, 4, 4]]),
    ]:
        inputs = dict(q=draw(batch, length, heads * dim, low=-2, high=2), k=draw(batch, length, kv_heads * dim),
                      v=draw(batch, length, kv_heads * dim))
        settings = dict(heads=heads, kv_heads=kv_heads, scale=0.5)
        if starts:
            settings["starts"] = np.array(starts, np.float32)
        check(out, "attention", attention(heads, kv_heads, starts), inputs, settings)

    def rotary(heads, starts):
        def run(x):
            length, half = x.shape[1], x.shape[2] // heads // 2
            angles = (torch.arange(length)[None] - torch.tensor(starts))[..., None] * torch.tensor([1.0, 0.3, 0.01])
            cosine, sine = (f(angles.double()).repeat(1, 1, 2)[:, :, None] for f in (torch.cos, torch.sin))
            parts = x.reshape(x.shape[0], length, heads, 2 * half)
            turned = torch.cat((-parts[..., half:], parts[..., :half]), -1)
            return (parts * cosine + turned * sine).reshape(x.shape)
        return run

    for starts in [[[0] * 5], [[0, 0, 2, 2, 4]]]:
        check(out, "rotary", rotary(2, starts), dict(x=draw(1, 5, 12)),
              dict(heads=2, frequencies=np.array([1, 0.3, 0.01], np.float32), starts=np.array(starts, np.float32)))
    ids = np.array([[3, 0, 3], [1, 1, 3]])
    check(out, "embedding", lambda table: F.embedding(torch.tensor(ids), table), dict(table=draw(5, 4)),
          dict(ids=ids.astype(np.float32)))


ops = Writer(FOLDER / "ops.txt")
for part in [products, norms, activations, pools, arithmetic, shapes, reductions, losses, quantizers]:
    part(ops)
training(FOLDER / "training.txt")
distillation(ops)
newer(ops)
