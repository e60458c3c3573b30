"""The cost formulas against torch's own counter of operations, and against what autograd really keeps."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kept import kept_bytes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import attention
import lora
from checkpoints.presets import preset
from losses import token_loss
from model import UniX
from speed import cost, cpu


def in_child(code):
    """Run Python code in a fresh process, whose memory is its own -> the number it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def counted(function):
    # The counter knows the attention of plain matrix products, not the CPU's fused one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_operations_of_a_step_that_draws():
    """Twice the forward in the backward pass, the frozen prompt once."""
    model = UniX(preset("tiny"))
    for _, parameter in model.und_parameters():
        parameter.requires_grad_(False)

    def step():
        prompt = model.read_prompt([[10] * 30] * 3)  # with BOS and EOS: 32 tokens
        model.velocity(torch.randn(3, 16, 16, 16), torch.rand(3), prompt).square().sum().backward()

    assert counted(step) == pytest.approx(cost.step_flops(model.config, "3", 256, 32, 0, 3), rel=0.05)


def test_operations_of_a_step_that_reads():
    model, side = UniX(preset("tiny")), 128
    text = torch.randint(4, 400, (2, 128))
    targets = torch.full((2, 128), -100)
    targets[:, 32:] = 7

    def step():
        token_loss(model, model.text_states(torch.randn(2, 3, side, side), text), targets).sum().backward()

    assert counted(step) == pytest.approx(cost.step_flops(model.config, "1", side, 32, 96, 2), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 16])
def test_memory_of_a_layers_activations(rank, monkeypatch):
    """In bfloat16, with the und branch frozen: gen tokens only. The cast weights are kept too and taken off."""
    config = preset("tiny")
    torch.manual_seed(0)
    model = UniX(config, compute_dtype=torch.bfloat16)
    cpu.speed_up(model)  # torch's own RMSNorm keeps as little on a GPU alone
    # As on a GPU: `cpu.attend` keeps the table of a bfloat16 softmax.
    monkeypatch.setattr(attention, "attend", lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask))
    for _, parameter in model.und_parameters():
        parameter.requires_grad_(False)
    if rank:
        model.requires_grad_(False)
        lora.put_on(model, "gen", rank)
    prompt = model.read_prompt([None] * 4)
    t = torch.rand(4)

    def kept(size):
        return kept_bytes(lambda: model.velocity(torch.randn(4, 16, size // 16, size // 16), t, prompt), model)

    # Twice the picture: the difference is activations alone, of 4 * (1024 - 256) more tokens.
    measured = (kept(512) - kept(256)) / config.num_layers
    tokens = 4 * (1024 - 256)
    expected = cost.layer_activations(config, tokens, rank)
    if not rank:  # of the MLP, `cpu.speed_up` keeps gate and up alone
        expected -= 2 * tokens * 2 * config.intermediate_size
    assert measured == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back at once")
def test_freed_memory_is_kept():
    """Pages that the system has to hand out anew for tensors of 80 MB, one after the other, in a fresh process."""
    code = """
import resource, torch
from speed import cpu
{}
pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(20):  # the heap finds its shape in the first few
    if i == 10:
        before = pages()
    torch.ones(20_000_000)
print(pages() - before)
"""
    given_back, kept = (in_child(code.format(call)) for call in ("", "cpu.keep_freed_memory()"))
    assert kept < 1000 and given_back > 10 * max(kept, 100)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process alone is read from /proc")
def test_kl_f16_draws_512_px_in_less_than_2_gb():
    """At full size: 84 million parameters, a picture of 512 x 512."""
    code = """
import re, torch
from pathlib import Path
from checkpoints.presets import vae_preset
from speed import cpu
from vae import VAE
cpu.keep_freed_memory()
autoencoder = VAE(vae_preset("unix")).eval()
with torch.inference_mode():
    autoencoder.decode(torch.randn(1, 16, 32, 32))
# getrusage would count the parent's memory as well, from before this process became another program.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    assert in_child(code) * 1024 < 2e9


def test_memory_of_the_states_at_full_size():
    """Stage 3 at full size, from the parameter counts: float32 masters, gradients and two moments of 1.24 billion."""
    parts = cost.memory_per_gpu(preset("unix"), "3", 8, 512)
    assert parts["gradients"] == pytest.approx(4 * 1.238169616)
    assert parts["AdamW"] == pytest.approx(8 * 1.238169616)
    assert cost.memory_per_gpu(preset("unix"), "3", 8, 512, zero=True)["AdamW"] == pytest.approx(1.238169616)
    whole = cost.memory_per_gpu(preset("unix"), "1", 8, 384)["activations"]
    assert cost.memory_per_gpu(preset("unix"), "1", 8, 384, checkpointing=True)["activations"] < whole / 4
