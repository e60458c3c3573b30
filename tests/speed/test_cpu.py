"""What `cpu.speed_up` switches on computes what the plain layers compute, forward and backward, and keeps less."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from kept import kept_bytes

from generate import stream
from layers import MLP, Linear, RMSNorm
from speed import cpu
from speed.cpu import FEW, FewRowsLinear, speed_up


def generator():
    return torch.Generator().manual_seed(0)


def sped_up(layer):
    faster = deepcopy(layer)
    speed_up(faster)
    return faster


def gradients(y, *inputs):
    weights = torch.randn(y.shape, generator=generator(), dtype=y.dtype)
    return torch.autograd.grad(y, inputs, weights)


def test_every_layer_that_has_a_faster_way_takes_it(micro):
    model = sped_up(micro.model)
    kinds = [type(module) for module in model.modules()]
    assert kinds and not {Linear, RMSNorm, MLP} & set(kinds)
    assert model.state_dict().keys() == micro.model.state_dict().keys()


@torch.no_grad()
def test_the_model_computes_the_same(micro):
    x, t, prompts = torch.randn(2, 16, 4, 4, generator=generator()), torch.tensor([0.8, 0.3]), [[17, 230], [8, 9, 4]]
    pixels = torch.randn(2, 3, 64, 64, generator=generator())
    plain, fast = micro.model, sped_up(micro.model)
    torch.testing.assert_close(fast(x, t, prompts), plain(x, t, prompts), atol=1e-4, rtol=1e-4)
    texts = [plain.asked(prompt) for prompt in prompts]
    for (ids, logits), (plain_ids, plain_logits) in zip(
        *(stream(m, pixels, texts, 5) for m in (fast, plain)), strict=True
    ):
        assert torch.equal(ids, plain_ids)
        torch.testing.assert_close(logits, plain_logits, atol=1e-4, rtol=1e-4)


def test_the_gradients_of_the_model_are_the_same(micro):
    x, t, prompts = torch.randn(2, 16, 4, 4, generator=generator()), torch.tensor([0.8, 0.3]), [[17, 230], None]
    found, wanted = (
        torch.autograd.grad(model(x, t, prompts).square().sum(), [p for _, p in model.gen_parameters()])
        for model in (sped_up(micro.model), micro.model)
    )
    for actual, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-3 * expected.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, FEW, FEW + 1])
@pytest.mark.parametrize("outputs", [48, 50])  # 50 cannot be cut into 16 blocks
def test_linear_of_few_rows(rows, outputs):
    layer = Linear(40, outputs)
    x = torch.randn(rows, 1, 40, generator=generator(), requires_grad=True)
    expected, actual = layer(x), FewRowsLinear.forward(layer, x)
    torch.testing.assert_close(actual, expected)
    found, wanted = (gradients(y, x, layer.weight, layer.bias) for y in (actual, expected))
    torch.testing.assert_close(found, wanted)


def test_linear_of_no_rows():
    assert sped_up(Linear(40, 48))(torch.zeros(0, 3, 40)).shape == (0, 3, 48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype):
    norm = sped_up(RMSNorm(64))
    torch.nn.init.normal_(norm.weight, generator=generator())
    x = torch.randn(3, 5, 64, generator=generator()).to(dtype).requires_grad_()
    expected = F.rms_norm(x, (64,), norm.weight.to(dtype), norm.eps)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    torch.testing.assert_close(norm(x), expected, **tolerance)
    found, wanted = (gradients(y, x, norm.weight) for y in (norm(x), expected))
    torch.testing.assert_close(found, wanted, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), expected, **tolerance)


def test_gradients_of_rms_norm_and_mlp_against_finite_differences():
    x = torch.randn(2, 3, 8, generator=generator(), dtype=torch.float64, requires_grad=True)
    for layer in (sped_up(RMSNorm(8).double()), sped_up(MLP(8, 16).double())):
        names = [name for name, _ in layer.named_parameters()]

        def call(x, *parameters, layer=layer, names=names):
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_a_frozen_mlp_passes_the_gradient_on():
    mlp, x = sped_up(MLP(8, 16)), torch.randn(2, 8, generator=generator(), requires_grad=True)
    expected = gradients(mlp(x), x)
    frozen = deepcopy(mlp).requires_grad_(False)
    assert torch.equal(gradients(frozen(x), x)[0], expected[0])


def test_an_mlp_keeps_gate_and_up_alone():
    x = torch.randn(10, 64, generator=generator(), requires_grad=True)
    for mlp, hidden in ((sped_up(MLP(64, 256)), 2 * 256), (MLP(64, 256), 4 * 256)):
        assert kept_bytes(lambda mlp=mlp: mlp(x), mlp) == 4 * 10 * (64 + hidden)


def test_a_hook_on_the_down_projection_is_called():
    """Adapters and probes hang there: the MLP then runs through its modules."""
    mlp, seen = sped_up(MLP(8, 16)), []
    x = torch.randn(2, 8, generator=generator(), requires_grad=True)
    plain = mlp(x)
    mlp.down.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    torch.testing.assert_close(mlp(x), plain)
    assert seen == [(2, 16)]


@pytest.mark.parametrize("masked", [True, False])
def test_attention_that_trains_in_bfloat16_is_as_near_to_the_formula_as_torchs(masked):
    """Values and gradients, held against Eq. 5 in float64."""
    q, k, v, grad = torch.randn(4, 2, 4, 33, 64, generator=generator()).bfloat16().unbind(0)
    mask = torch.rand(2, 1, 33, 33, generator=generator()) > 0.3 if masked else None

    def exact(q, k, v, mask):
        scores = q @ k.transpose(2, 3) / 8
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1) @ v

    def computed(way, dtype):
        given = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        y = way(*given, mask)
        return torch.cat([y, *torch.autograd.grad(y, given, grad.to(dtype))]).double()

    wanted = computed(exact, torch.float64)

    def torchs(q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    errors = [(computed(way, torch.bfloat16) - wanted).norm() / wanted.norm() for way in (cpu.attend, torchs)]
    assert errors[0] < 1.5 * errors[1] < 0.02
    assert torch.equal(computed(cpu.attend, torch.float32), computed(torchs, torch.float32))
