"""The architecture's promises: caches change nothing, batches change nothing, and information flows one way."""

from copy import deepcopy

import pytest
import torch

from checkpoints.presets import count_parameters, preset

PROMPT, LONGER = [17, 230, 45, 99, 8], [120, 5, 77, 301, 64, 18, 222, 90]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def model(micro):
    return micro.model


@pytest.fixture(scope="module")
def noisy():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 16, 4, 3, generator=generator), torch.tensor([0.8, 0.3])


@torch.no_grad()
def test_velocity_with_a_cached_prompt_is_one_forward_over_the_whole_sequence(model, noisy):
    x, t = noisy
    for prompts in ([PROMPT, LONGER], [LONGER, None], [None, None]):
        close(model.velocity(x, t, model.read_prompt(prompts)), model(x, t, prompts))


@torch.no_grad()
def test_prompt_does_not_see_the_noise_but_boi_and_eoi_do(model, noisy):
    """The und tokens' last hidden states, for two different latents."""
    und_states = []
    hook = model.layers[-1].register_forward_hook(lambda layer, inputs, outputs: und_states.append(outputs[0]))
    x, t = noisy[0][:1], noisy[1][:1]
    model(x, t, [PROMPT]), model(-x, t, [PROMPT])
    hook.remove()
    T = len(PROMPT) + 2
    here, there = und_states
    assert torch.equal(here[:, :T], there[:, :T])
    assert (here[:, T] - there[:, T]).abs().max() > 1e-3  # BOI
    assert (here[:, T + 1] - there[:, T + 1]).abs().max() > 1e-3  # EOI


@torch.no_grad()
def test_velocity_does_not_depend_on_the_other_prompts_in_the_batch(model, noisy, monkeypatch):
    x, t = noisy
    together = model.velocity(x, t, model.read_prompt([PROMPT, LONGER]))
    monkeypatch.setattr(model, "pad_to", 16)
    padded = model.velocity(x, t, model.read_prompt([PROMPT, LONGER]))
    monkeypatch.undo()
    for i, prompt in enumerate([PROMPT, LONGER]):
        alone = model.velocity(x[i : i + 1], t[i : i + 1], model.read_prompt([prompt]))
        close(together[i : i + 1], alone)
        close(padded[i : i + 1], alone)
    unconditional = model.velocity(x, t, model.read_prompt([None, None]))
    mixed = model.velocity(x, t, model.read_prompt([None, LONGER]))
    close(mixed[:1], unconditional[:1])
    assert (mixed[1] - unconditional[1]).abs().max() > 1e-3


def test_every_parameter_belongs_to_one_branch(model):
    und, gen = (dict(parameters) for parameters in (model.und_parameters(), model.gen_parameters()))
    assert not und.keys() & gen.keys()
    assert und.keys() | gen.keys() == dict(model.named_parameters()).keys()
    assert {name.replace(".gen.", ".und.") for name in gen if ".gen." in name} <= und.keys()


def test_gen_starts_as_a_copy_of_und_and_und_gets_no_gradient_when_frozen(micro, noisy):
    model = deepcopy(micro.model)
    model.copy_und_to_gen()
    for name, parameter in model.gen_parameters():
        if ".gen." in name:
            assert torch.equal(parameter, model.get_parameter(name.replace(".gen.", ".und.")))
    for _, parameter in model.und_parameters():
        parameter.requires_grad_(False)
    model.velocity(*noisy, model.read_prompt([PROMPT, None])).square().mean().backward()
    assert all(parameter.grad is None for _, parameter in model.und_parameters())
    assert all(parameter.grad is not None for _, parameter in model.gen_parameters())


def test_full_size_parameter_counts_follow_from_the_paper():
    """Section 4.1's sizes, counted by hand: no tensor of the 3.2B-parameter model is allocated."""
    width, mlp, layers, vocabulary, heads = 2048, 5632, 24, 102400, 16
    attention = 4 * width**2 + 3 * width + 2 * (width // heads)  # projections, QKV bias, QK norms
    layer = attention + 3 * width * mlp + 2 * width
    vit_block = 4 * 1024**2 + 4 * 1024 + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    vit = 16 * 16 * 3 * 1024 + 1024 + 24**2 * 1024 + 24 * vit_block + 2 * 1024
    extras = (256 * width + width) + (width**2 + width) + (16 * width + width) + (width * 16 + 16)
    counts = count_parameters(preset("unix"))
    assert counts["ViT"] == vit
    assert counts["connector"] == 1024 * width + width + width**2 + width
    assert counts["embedding"] == counts["output layer"] == vocabulary * width
    assert counts["und layers"] == layers * layer + width
    assert counts["gen branch"] == layers * layer + width + extras
    assert counts["total"] == sum(count for part, count in counts.items() if part != "total")
