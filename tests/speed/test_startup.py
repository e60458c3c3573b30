"""A run starts without torch's compiler, and its optimizer makes the very steps of the untouched one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BESIDE = """
import sys

import torch
from torch.optim import AdamW, Optimizer

from speed.startup import leave_the_compiler_out

METHODS = ("__init__", "add_param_group", "zero_grad", "state_dict", "load_state_dict")


def weights_after_ten_steps():
    torch.manual_seed(0)
    layer, optimizer = torch.nn.Linear(8, 8), None
    for _ in range(10):
        kept = optimizer and optimizer.state_dict()
        optimizer = AdamW(layer.parameters(), lr=0.01, weight_decay=0.1)  # a run that goes on
        if kept:
            optimizer.load_state_dict(kept)
        optimizer.zero_grad()
        layer(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
    assert not any(tensor.requires_grad for state in optimizer.state.values() for tensor in state.values())
    return layer.weight.detach().clone()


before, step = {name: getattr(Optimizer, name) for name in METHODS}, AdamW.step
leave_the_compiler_out()
ours = weights_after_ten_steps()
assert "torch._dynamo" not in sys.modules
for name, method in before.items():
    setattr(Optimizer, name, method)
AdamW.step = step
theirs = weights_after_ten_steps()
assert "torch._dynamo" in sys.modules, "torch no longer does what this works around: speed/startup.py can go"
assert torch.equal(ours, theirs)
"""


@pytest.mark.slow
def test_adamw_makes_the_same_steps_without_the_compiler():
    result = subprocess.run([sys.executable, "-c", BESIDE], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_run_never_imports_the_compiler(micro_folder, tmp_path):
    flags = ["--stage", "2", "--init", micro_folder, "--data", "phantom:8", "--size", "64", "--steps", "2"]
    command = [sys.executable, "-X", "importtime", ROOT / "train.py", *flags, "--workers", "0", "--device", "cpu"]
    result = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "torch.optim" in result.stderr and "torch._dynamo" not in result.stderr
