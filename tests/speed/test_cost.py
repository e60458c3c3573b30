"""The cost formulas against torch's own counter of operations, and against what autograd really keeps."""

import platform

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from checkpoints.presets import preset
from losses import token_loss
from speed import bench, cost, cpu


def counted(function):
    # The counter knows the attention of plain matrix products, not the CPU's fused one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.fixture
def model(micro):
    return micro.model


def test_flops_of_a_velocity(model):
    x, t = torch.randn(3, 16, 4, 4), torch.rand(3)
    prompt = model.read_prompt([list(range(10, 20))] * 3)  # with BOS and EOS: 12 tokens
    with torch.no_grad():
        measured = counted(lambda: model.velocity(x, t, prompt))
    expected = 3 * cost.velocity_flops(model.config, 64, 12)
    assert measured == pytest.approx(expected, rel=1e-3)


def test_flops_of_a_prompt(model):
    measured = counted(lambda: model.read_prompt([list(range(10, 20))] * 3))
    assert measured == pytest.approx(3 * cost.prompt_flops(model.config, 12), rel=1e-3)


def test_flops_of_a_report(model):
    text = torch.randint(4, 400, (2, 32))
    targets = torch.full((2, 32), -100)
    targets[:, 20:] = 7
    with torch.no_grad():
        measured = counted(lambda: token_loss(model, model.text_states(torch.randn(2, 3, 64, 64), text), targets))
    assert measured == pytest.approx(2 * cost.report_flops(model.config, 32, 12), rel=1e-3)


def test_backward_is_twice_the_forward(model):
    x, t = torch.randn(3, 16, 4, 4), torch.rand(3)
    und = [parameter for _, parameter in model.und_parameters()]
    for parameter in und:
        parameter.requires_grad_(False)
    prompt = model.read_prompt([[10] * 10] * 3)
    measured = counted(lambda: model.velocity(x, t, prompt).square().sum().backward())
    for parameter in und:
        parameter.requires_grad_(True)
    model.zero_grad()
    # Not exact: the first layer needs no gradient of its input, and the two frozen tokens none of their weights.
    assert measured == pytest.approx(3 * 3 * cost.velocity_flops(model.config, 64, 12), rel=0.1)


@pytest.mark.slow
def test_memory_of_a_layers_activations():
    """In bfloat16, with the und branch frozen: gen tokens only. The cast weights are kept too and taken off."""
    config = preset("tiny")
    torch.manual_seed(0)
    from model import UniX

    model = UniX(config, compute_dtype=torch.bfloat16)
    cpu.speed_up(model)  # torch's own RMSNorm keeps as little on a GPU alone
    for _, parameter in model.und_parameters():
        parameter.requires_grad_(False)
    prompt = model.read_prompt([None] * 4)
    t = torch.rand(4)

    def kept(size):
        return cost.kept_bytes(lambda: model.velocity(torch.randn(4, 16, size // 16, size // 16), t, prompt), model)

    # Twice the picture: the difference is activations alone, of 4 * (1024 - 256) more tokens.
    measured = (kept(512) - kept(256)) / config.num_layers
    expected = cost.layer_activations(config, 4 * (1024 - 256), sped_up=True)
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
    given_back, kept = (int(bench.in_child(code.format(call))[0]) for call in ("", "cpu.keep_freed_memory()"))
    assert kept < 1000 and given_back > 10 * max(kept, 100)


def test_memory_of_the_states_at_full_size():
    """Stage 3 at full size, from the parameter counts: float32 masters, gradients and two moments of 1.24 billion."""
    parts = cost.memory_per_gpu(preset("unix"), "3", 8, 512)
    assert parts["gradients"] == pytest.approx(4 * 1.238169616)
    assert parts["AdamW"] == pytest.approx(8 * 1.238169616)
    assert cost.memory_per_gpu(preset("unix"), "3", 8, 512, zero=True)["AdamW"] == pytest.approx(1.238169616)
    whole = cost.memory_per_gpu(preset("unix"), "1", 8, 384)["activations"]
    assert cost.memory_per_gpu(preset("unix"), "1", 8, 384, checkpointing=True)["activations"] < whole / 4
