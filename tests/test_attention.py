"""Attention maps are the weights that the model really used."""

import pytest
import torch
import torch.nn.functional as F

import attention
from attention import attention_weights

PROMPT, LONGER = [17, 230, 45, 99, 8], [120, 5, 77, 301, 64, 18, 222, 90]


@pytest.fixture
def used(monkeypatch):
    """(values, mixed, mask) of every call of torch's attention."""
    calls, sdpa = [], F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None):
        mixed = sdpa(q, k, v, attn_mask=attn_mask)
        calls.append((v, mixed, attn_mask))
        return mixed

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", spy)
    return calls


def check(maps, used):
    """Each layer's weights, times its values, are what torch's attention gave."""
    assert len(maps) == len(used)
    for weights, (values, mixed, mask) in zip(maps, used, strict=True):
        torch.testing.assert_close(weights @ values, mixed, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        assert (weights.masked_select(~mask.expand_as(weights)) == 0).all()
        assert (~mask).any()


@torch.no_grad()
def test_drawing_maps_are_the_weights_that_were_used_and_change_nothing(micro, used):
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 16, 4, 3, generator=generator), torch.tensor([0.8, 0.3])
    v, maps = micro.model(x, t, [PROMPT, LONGER], attention_maps=True)
    S = len(LONGER) + 2 + 2 + 12
    assert maps.shape == (3, 2, 4, S, S)
    check(maps, used)
    assert torch.equal(v, micro.model(x, t, [PROMPT, LONGER]))
    again, hidden, _ = micro.model(x, t, [PROMPT, LONGER], return_layer=2, attention_maps=True)
    assert torch.equal(v, again) and hidden.shape == (2, 12, 64)
    prompt = slice(0, len(LONGER) + 2)
    assert (maps[..., prompt, prompt.stop :] == 0).all(), "the prompt looks at the block"
    assert (maps[..., prompt.stop :, :1] > 0).all(), "the block does not look at the prompt"


@torch.no_grad()
def test_reading_maps_are_the_weights_that_were_used(micro, used):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    text = torch.tensor([[0, *PROMPT, 1, 0, *LONGER, 1]] * 2)
    logits, maps = micro.model.read_forward(pixels, text, attention_maps=True)
    S = 18 + text.shape[1]
    assert maps.shape == (3, 2, 4, S, S) and logits.shape == (2, text.shape[1], 400)
    check(maps, [call for call in used if call[2] is not None])  # the ViT's own attention has no mask
    assert torch.equal(logits, micro.model.read_forward(pixels, text))


@torch.no_grad()
def test_read_forward_is_what_generate_does_step_by_step(micro):
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    answers, steps = micro.model.generate(pixels, [PROMPT], max_new_tokens=5, return_logits=True)
    text = torch.tensor([[0, *PROMPT, 1, 0, *answers[0]]])
    at_once = micro.model.read_forward(pixels, text)[:, len(PROMPT) + 2 :]
    count = min(steps.shape[1], at_once.shape[1])
    torch.testing.assert_close(at_once[:, :count], steps[:, :count], atol=1e-4, rtol=1e-4)


def test_attention_weights_by_hand():
    """Two keys, one as long as the query and one across it, head_dim 4: softmax of (1 / 2, 0)."""
    q = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 1, 4)
    k = torch.eye(2, 4).view(1, 1, 2, 4)
    e = torch.tensor(0.5).exp()
    torch.testing.assert_close(attention_weights(q, k).flatten(), torch.stack([e, torch.tensor(1.0)]) / (e + 1))
    masked = attention_weights(q, k, torch.tensor([[False, True]]))
    assert masked.flatten().tolist() == [0, 1]
