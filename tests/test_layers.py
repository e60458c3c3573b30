"""Layers that compute in their own way give what torch's give, forward and backward."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from layers import FEW, Linear, RMSNorm
from model import MLP
from speed import cost


def generator():
    return torch.Generator().manual_seed(0)


def gradients(y, *inputs):
    weights = torch.randn(y.shape, generator=generator(), dtype=y.dtype)
    return torch.autograd.grad(y, inputs, weights)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, FEW, FEW + 1])
@pytest.mark.parametrize("outputs", [48, 50])  # 50 cannot be cut into 16 blocks
def test_linear_of_few_rows(rows, outputs):
    layer = Linear(40, outputs)
    x = torch.randn(rows, 1, 40, generator=generator(), requires_grad=True)
    expected = F.linear(x, layer.weight, layer.bias)
    actual = layer(x)
    torch.testing.assert_close(actual, expected)
    found, wanted = (gradients(y, x, layer.weight, layer.bias) for y in (actual, expected))
    torch.testing.assert_close(found, wanted)


def test_linear_of_no_rows():
    assert Linear(40, 48)(torch.zeros(0, 3, 40)).shape == (0, 3, 48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype):
    norm = RMSNorm(64)
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
    for layer in (RMSNorm(8).double(), MLP(8, 16).double()):
        names = [name for name, _ in layer.named_parameters()]

        def call(x, *parameters, layer=layer, names=names):
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_a_frozen_mlp_passes_the_gradient_on():
    mlp, x = MLP(8, 16), torch.randn(2, 8, generator=generator(), requires_grad=True)
    expected = gradients(mlp(x), x)
    frozen = deepcopy(mlp).requires_grad_(False)
    assert torch.equal(gradients(frozen(x), x)[0], expected[0])


def test_an_mlp_keeps_gate_and_up_alone():
    mlp, x = MLP(64, 256), torch.randn(10, 64, generator=generator(), requires_grad=True)
    assert cost.kept_bytes(lambda: mlp(x), mlp) == 4 * 10 * (64 + 2 * 256)
