#!/usr/bin/env python3
"""Writes tests/golden/adapter.txt: what PEFT's adapters compute on a network of three linear layers (fc1, fc2, classes,
with ReLUs between them), and the gradients of the mean cross entropy of labels 0, 1, 2, 0, ...

    pip install torch peft
    python3 tests/golden/make_adapter.py

Beside it, tests/golden/adapter has a directory for each as PEFT saves it.

The format is tests/golden.h's. Case `given` holds the input and the network; each case of an adapter its parameters as
PEFT names them, the logits, the gradient of each parameter, and the weights of PEFT's merge."""

import pathlib

import torch
from peft import LoraConfig, get_peft_model

OUT = pathlib.Path(__file__).parent / "adapter"
torch.manual_seed(5)
ROWS, SIZES = 6, {"fc1": (5, 7), "fc2": (7, 6), "classes": (6, 3)}
CASES = {
    "lora": dict(r=2, lora_alpha=3),
    "rslora": dict(r=3, lora_alpha=2, use_rslora=True, rank_pattern={"fc2": 2}, alpha_pattern={"fc2": 5}),
    "dora": dict(r=2, lora_alpha=4, use_dora=True),
}


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, (features, units) in SIZES.items():
            setattr(self, name, torch.nn.Linear(features, units, bias=name != "fc2"))

    def forward(self, x):
        return self.classes(self.fc2(self.fc1(x).relu()).relu())


def case(out, name, tensors):
    out.write(f"\ncase {name}\n")
    for label, tensor in tensors.items():
        values = " ".join(f"{x:.9g}" for x in tensor.detach().float().flatten().tolist())
        out.write(f"{label} {' '.join(map(str, tensor.shape))} = {values}\n")


def adapted(network, settings):
    model = get_peft_model(network, LoraConfig(target_modules=["fc1", "fc2"], init_lora_weights=False, **settings))
    own = {}
    for name, param in model.named_parameters():
        if param.requires_grad:
            own[name.removeprefix("base_model.model.").replace(".default", "")] = param
    with torch.no_grad():
        for name, param in own.items():
            if "magnitude" in name:  # no longer the length of the row
                param.mul_(torch.rand_like(param) + 0.5)
                param.copy_(param.float())
    return model, {name.removesuffix(".weight") if "magnitude" in name else name: p for name, p in own.items()}


network = Network()
x = torch.randn(ROWS, 5)
labels = torch.arange(ROWS) % 3
given = {"x": x} | {name: value.clone() for name, value in network.state_dict().items()}
with open("tests/golden/adapter.txt", "w") as file:
    file.write(f"# by tests/golden/make_adapter.py, torch {torch.__version__}\n")
    case(file, "given", given)
    for name, settings in CASES.items():
        network = Network()
        network.load_state_dict({key: value for key, value in given.items() if key != "x"})
        model, own = adapted(network, settings)
        model.double()
        logits = model(x.double())
        torch.nn.functional.cross_entropy(logits, labels).backward()
        results = {"logits": logits} | dict(own)
        results |= {f"{key}.grad": param.grad for key, param in own.items()}
        model.float().save_pretrained(OUT / name)
        (OUT / name / "README.md").unlink()
        model.double()
        merged = model.merge_and_unload()
        results |= {f"{layer}.merged": getattr(merged, layer).weight for layer in ["fc1", "fc2"]}
        case(file, name, results)
