"""The cache of keys and values, and the one place where another way to attend can stand."""

import pytest
import torch

import attention
from attention import KVCache


def test_a_cache_gives_back_what_was_appended_and_forgets_what_only_followed():
    k, v = torch.randn(2, 2, 3, 4, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    cache = KVCache(capacity=4)
    assert cache.followed_by(k, v)[0] is k
    for part in (slice(0, 3), slice(3, 4)):
        keys, values = cache.append(k[:, :, part], v[:, :, part])
        assert torch.equal(keys, k[:, :, : part.stop]) and torch.equal(values, v[:, :, : part.stop])
    keys, values = cache.followed_by(2 * k, 3 * v)
    assert torch.equal(keys, torch.cat([k, 2 * k], dim=2)) and torch.equal(values, torch.cat([v, 3 * v], dim=2))
    assert cache.length == 4
    with pytest.raises(ValueError, match="holds 4 tokens, 5 are needed"):
        cache.append(k[:, :, :1], v[:, :, :1])


def test_a_gradient_goes_through_a_prompts_cache():
    k, v = torch.randn(2, 1, 1, 3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind(0)
    cache = KVCache(capacity=3)
    cache.append(k, v)
    for _ in range(2):  # two layers of guidance, two steps: whoever reads it
        keys, values = cache.followed_by(k.detach(), v.detach())
        (keys.sum() + values.square().sum()).backward(inputs=[k, v], retain_graph=True)
    assert torch.equal(k.grad, torch.full_like(k, 2.0)) and torch.equal(v.grad, 4 * v)


@torch.no_grad()
def test_whoever_replaces_attend_decides_how_a_model_attends(micro, monkeypatch):
    x, t, prompts = torch.randn(1, 16, 4, 3), torch.tensor([0.8]), [[17, 230, 45]]
    usual, calls = micro.model(x, t, prompts), []

    def by_the_formula(q, k, v, mask):
        calls.append(q.shape)
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v

    monkeypatch.setattr(attention, "attend", by_the_formula)
    torch.testing.assert_close(micro.model(x, t, prompts), usual, atol=1e-5, rtol=1e-4)
    assert calls == [(1, 4, 3 + 2 + 2 + 12, 16)] * 3
