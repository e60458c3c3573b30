"""Muon: its steps against the singular value decomposition, and what it leaves to AdamW."""

import pytest
import torch
from torch import nn

from common.distributed import Team
from training.muon import Muon, matrices_of_layers, orthogonal

ALONE = Team(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("shape", [(3, 40, 16), (3, 16, 40), (2, 24, 24)])
def test_orthogonal_keeps_the_singular_vectors_and_brings_the_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    seen = u.mT @ orthogonal(x) @ v.mT  # diagonal, if its singular vectors are those of x
    values = seen.diagonal(dim1=1, dim2=2)
    assert (seen - torch.diag_embed(values)).abs().max() < 1e-4
    large = s > 0.1 * s[:, :1]
    assert values[large].min() > 0.6 and values[large].max() < 1.3
    assert (orthogonal(x.bfloat16()).float() - orthogonal(x)).abs().max() < 0.1


def test_matrices_step_along_their_nesterov_momentum_and_the_rest_by_adamw():
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4))
    alone, start = nn.Parameter(bias.detach().clone()), matrix.detach().clone()
    adamw = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-15, "weight_decay": 0.0}
    ours = Muon([matrix, bias], [matrix], torch.float32, ALONE, **adamw)
    theirs = torch.optim.AdamW([alone], **adamw)
    momentum, expected = torch.zeros(8, 4), start
    for _ in range(3):
        gradient, matrix.grad = torch.randn(8, 4), None
        matrix.grad = gradient.clone()
        bias.grad = torch.randn(4)
        alone.grad = bias.grad.clone()
        ours.step()
        theirs.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.05 * gradient + 0.95 * momentum
        expected = expected - 0.01 * 0.2 * 8**0.5 * orthogonal(ahead[None])[0]
    assert torch.allclose(matrix, expected, atol=1e-6) and torch.equal(bias, alone)


def test_processes_share_the_matrices_of_a_shape(monkeypatch):
    gradients, parts = torch.randn(5, 8, 4, generator=torch.Generator().manual_seed(0)), []
    monkeypatch.setattr(Team, "gathered", lambda team, part: parts.append(part) or part.repeat(team.size, 1, 1))
    for rank in range(3):
        matrices = [nn.Parameter(torch.zeros(8, 4)) for _ in gradients]
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient.clone()
        Muon(matrices, matrices, torch.float32, Team(rank, 3, ALONE.device), lr=0.01).step()
    assert [len(part) for part in parts] == [2, 2, 2]
    torch.testing.assert_close(torch.cat(parts)[:5], orthogonal(gradients))


def test_it_takes_the_matrices_of_layers_and_no_adapter(micro):
    named = {f"model/{name}": parameter for name, parameter in micro.model.named_parameters()}
    named |= {"model/layers.0.gen.mlp.down.lora_A.weight": nn.Parameter(torch.zeros(2, 96))}
    taken = {id(parameter) for parameter in matrices_of_layers(named)}
    names = {name for name, parameter in named.items() if id(parameter) in taken}
    assert all(name.startswith(("model/layers.", "model/vit.blocks.")) for name in names)
    assert len(names) == 8 * micro.model.config.num_layers + 4 * micro.model.config.vit.layers
