"""The architecture's promises: caches change nothing, batches change nothing, and information flows one way."""

from copy import deepcopy

import pytest
import torch

from model import count_parameters, pack, preset

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


def whole_sequence(model, x, t, prompt):
    """One forward over [BOS prompt EOS BOI EOI | latents], without any cache. x: (1, C, h, w)."""
    config = model.config
    und_ids = [config.bos, *prompt, config.eos, config.boi, config.eoi]
    T, U, G = len(prompt) + 2, len(prompt) + 4, x.shape[2] * x.shape[3]
    gen = model.vae2llm(x.flatten(2).transpose(1, 2)) + model.time_embedder(t, torch.float32)[:, None]
    gen = gen + model.latent_positions[: x.shape[2], : x.shape[3]].flatten(0, 1)
    positions = torch.tensor([[*range(T), T, T, *[T] * G]])
    mask = torch.ones(U + G, U + G, dtype=torch.bool)
    mask[:T] = False  # the prompt sees itself, causally, and never the block
    mask[:T, :T] = torch.ones(T, T, dtype=torch.bool).tril()
    und, gen, _ = model.decode(model.embed(torch.tensor([und_ids])), gen, positions, mask)
    v = model.llm2vae(model.norm["gen"](gen)).transpose(1, 2).reshape(x.shape)
    return und, v


@torch.no_grad()
def test_velocity_with_a_cached_prompt_is_one_forward_over_the_whole_sequence(model, noisy):
    x, t = noisy[0][:1], noisy[1][:1]
    close(model.velocity(x, t, model.read_prompt([PROMPT])), whole_sequence(model, x, t, PROMPT)[1])


@torch.no_grad()
def test_prompt_does_not_see_the_noise_but_boi_does(model, noisy):
    x, t = noisy[0][:1], noisy[1][:1]
    T = len(PROMPT) + 2
    here, there = (whole_sequence(model, each, t, PROMPT)[0] for each in (x, -x))
    assert torch.equal(here[:, :T], there[:, :T])
    assert (here[:, T] - there[:, T]).abs().max() > 1e-3  # BOI
    assert (here[:, T + 1] - there[:, T + 1]).abs().max() > 1e-3  # EOI


@torch.no_grad()
def test_velocity_does_not_depend_on_the_other_prompts_in_the_batch(model, noisy):
    x, t = noisy
    together = model.velocity(x, t, model.read_prompt([PROMPT, LONGER]))
    padded = model.velocity(x, t, model.read_prompt([PROMPT, LONGER], multiple=16))
    for i, prompt in enumerate([PROMPT, LONGER]):
        alone = model.velocity(x[i : i + 1], t[i : i + 1], model.read_prompt([prompt]))
        close(together[i : i + 1], alone)
        close(padded[i : i + 1], alone)
    unconditional = model.velocity(x, t, model.read_prompt([None, None]))
    mixed = model.velocity(x, t, model.read_prompt([None, LONGER]))
    close(mixed[:1], unconditional[:1])
    assert (mixed[1] - unconditional[1]).abs().max() > 1e-3


@torch.no_grad()
def test_prompts_that_share_rows_do_not_see_each_other(model):
    generator = torch.Generator().manual_seed(4)
    prompts = [torch.randint(4, 400, (n,), generator=generator).tolist() for n in (3, 21, 1, 8, 13, 5, 2, 30)]
    x, t = torch.randn(len(prompts), 16, 2, 2, generator=generator), torch.rand(len(prompts), generator=generator)
    together = model.velocity(x, t, model.read_prompt(prompts))
    alone = [model.velocity(x[i : i + 1], t[i : i + 1], model.read_prompt([p])) for i, p in enumerate(prompts)]
    close(together, torch.cat(alone))


def test_packing_keeps_every_sequence_whole_and_wastes_little():
    sequences = [[100 * i + place for place in range(n)] for i, n in enumerate((3, 0, 21, 1, 8, 13, 5, 2, 30))]
    rows, starts = pack(sequences, 32, padding=-5)
    tokens, positions, owners = ([[place[k] for place in row] for row in rows] for k in range(3))
    assert len(tokens) == 3  # 83 tokens fit into no fewer
    for i, (sequence, (row, start)) in enumerate(zip(sequences, starts, strict=True)):
        end = start + len(sequence)
        assert tokens[row][start:end] == sequence
        assert positions[row][start:end] == list(range(-len(sequence), 0))
        assert owners[row][start:end] == [i] * len(sequence)
    assert sum(row.count(-5) for row in tokens) == sum(row.count(-1) for row in owners) == 3 * 32 - 83
    assert all(len(row) == 32 for row in [*tokens, *positions, *owners])


@torch.no_grad()
def test_cached_decoding_equals_recomputing_from_scratch(model):
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    config = model.config
    answers, logits = model.generate(pixels, [PROMPT], max_new_tokens=6, return_logits=True)
    text = [config.bos, *PROMPT, config.eos, config.bos, *answers[0]]
    x, positions, mask = model.prefix(model.embed_image(pixels), torch.tensor([text]))
    hidden, _, _ = model.decode(x, None, positions, mask)
    start = x.shape[1] - len(text) + len(PROMPT) + 2
    recomputed = model.lm_head(model.norm["und"](hidden[:, start : start + logits.shape[1]]))
    close(logits, recomputed)


@torch.no_grad()
def test_answers_do_not_depend_on_the_other_questions_in_the_batch(model):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    together, logits = model.generate(pixels, [PROMPT, LONGER], max_new_tokens=6, return_logits=True)
    for i, question in enumerate([PROMPT, LONGER]):
        alone, logits_alone = model.generate(pixels[i : i + 1], [question], max_new_tokens=6, return_logits=True)
        assert together[i] == alone[0]
        close(logits[i : i + 1, : logits_alone.shape[1]], logits_alone)


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
