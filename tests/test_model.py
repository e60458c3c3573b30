"""The architecture's promises: caches change nothing, batches change nothing, and information flows one way."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from model import count_parameters, greedy, nucleus, preset

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
def test_cached_decoding_equals_recomputing_from_scratch(model):
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    config = model.config
    answers, logits = model.generate(pixels, [PROMPT], max_new_tokens=6, return_logits=True)
    text = [config.bos, *PROMPT, config.eos, config.bos, *answers[0]]
    x, position_ids, mask = model.prefix(model.embed_image(pixels), torch.tensor([text]))
    hidden, _, _ = model.run_layers(x, None, position_ids, mask)
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


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.75), (1.0, 0.3)])
def test_sampled_tokens_follow_the_softmax_of_the_nucleus(temperature, top_p):
    logits, rows = np.array([0.3, 2.0, -1.0, 1.0, 1.5]), 20_000
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    held, kept = 0.0, np.zeros(5)
    for token in np.argsort(-p):  # the definition: the likeliest, until they hold top_p
        kept[token] = p[token]
        held += p[token]
        if held >= top_p:
            break
    choose = nucleus(temperature, top_p, range(rows))
    drawn = np.bincount(choose(torch.tensor(logits).float().expand(rows, -1)), minlength=5) / rows
    assert (drawn[kept == 0] == 0).all()
    assert np.abs(drawn - kept / kept.sum()).max() < 4 * np.sqrt(0.25 / rows)


def test_a_sampled_answer_belongs_to_its_seed_alone(model):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    seeds = [5, 6, 7]
    choose = nucleus(2.0, 0.9, seeds * 2)
    together = model.generate(pixels, [PROMPT, LONGER], max_new_tokens=8, answers=3, choose=choose)
    alone = [
        model.generate(pixels[i : i + 1], [question], max_new_tokens=8, choose=nucleus(2.0, 0.9, [seed]))[0]
        for i, question in enumerate([PROMPT, LONGER])
        for seed in seeds
    ]
    assert together == alone
    assert len({tuple(answer) for answer in together}) == 6


def test_an_answer_goes_on_from_how_it_begins(model):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    whole = model.generate(pixels, [PROMPT, LONGER], max_new_tokens=8)
    begin = [whole[0][:2], whole[1][:3]]
    rest = model.generate(pixels, [PROMPT, LONGER], max_new_tokens=5, begin=begin)
    assert [[*b, *r] for b, r in zip(begin, rest, strict=True)] == [whole[0][:7], whole[1][:8]]
    other = model.generate(pixels, [PROMPT, LONGER], max_new_tokens=5, begin=[[9, 9], [9, 9, 9]])
    assert other != rest


def test_what_is_finished_is_computed_no_more_and_changes_no_other_answer(model):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    ends = torch.tensor([2, 9, 3, 3, 1, 6])  # of three answers to each of two questions

    def decode(ends):
        steps = iter(range(10))

        def choose(logits):
            return greedy(logits).where(ends != next(steps), model.config.eos)

        return choose

    computed = []
    hook = model.lm_head.register_forward_hook(lambda _module, inputs, _output: computed.append(len(inputs[0])))
    together = model.generate(pixels, [PROMPT, LONGER], max_new_tokens=10, answers=3, choose=decode(ends))
    hook.remove()
    assert computed == [6, 6, 6, 6, 2, 2, 2, 1, 1, 1]
    for row, end in enumerate(ends):
        one = pixels[row // 3, None], [PROMPT if row < 3 else LONGER]
        assert together[row] == model.generate(*one, max_new_tokens=10, choose=decode(end[None]))[0]
        assert len(together[row]) == end


def test_answers_share_the_prefix_and_a_stream_is_what_generate_returns(model):
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    greedy_answer = model.generate(pixels, [PROMPT], max_new_tokens=6)[0]
    assert model.generate(pixels, [PROMPT], max_new_tokens=6, answers=2) == [greedy_answer] * 2
    streamed = [ids.item() for ids, _ in model.stream(pixels, [PROMPT], max_new_tokens=6)]
    assert streamed[: len(greedy_answer)] == greedy_answer
    almost_cold = model.generate(pixels, [PROMPT], max_new_tokens=6, choose=nucleus(1e-4, 1.0, [0]))[0]
    assert almost_cold == greedy_answer


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
