"""Decoding: the cached way gives what the naive way gives, in any batch; sampled tokens have the right odds."""

import numpy as np
import pytest
import torch

from generate import generate, greedy, naive_generate, nucleus, stream, whole_answers

PROMPT, LONGER = [17, 230, 45, 99, 8], [120, 5, 77, 301, 64, 18, 222, 90]


@pytest.fixture(scope="module")
def model(micro):
    return micro.model


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))


def test_cached_decoding_is_the_naive_one(model, pixels):
    """Tokens and logits, each question alone and both in one batch, greedily and by chance."""
    questions, seeds = [PROMPT, LONGER], [5, 6]
    for pick in (lambda seeds: greedy, lambda seeds: nucleus(2.0, 0.9, seeds)):
        naive = [naive_generate(model, pixels[i, None], questions[i], 8, pick([seeds[i]])) for i in range(2)]
        assert generate(model, pixels, questions, 8, pick(seeds)) == naive
        assert [generate(model, pixels[i, None], [questions[i]], 8, pick([seeds[i]]))[0] for i in range(2)] == naive
    assert len({*map(tuple, naive)}) == 2
    steps = [logits for _, logits in stream(model, pixels[:1], [model.asked(PROMPT)], 6)]
    ids = generate(model, pixels[:1], [PROMPT], 6)[0]
    at_once = model.read_forward(pixels[:1], torch.tensor([[*model.asked(PROMPT), *ids]]))[:, len(PROMPT) + 2 :]
    torch.testing.assert_close(torch.stack(steps, dim=1), at_once[:, : len(steps)].detach(), atol=1e-4, rtol=1e-4)


def test_an_answer_ends_at_its_eos_and_all_of_them_with_the_last(model, pixels):
    ends, said = torch.tensor([2, 4]), []

    def choose(logits):
        said.append(logits.argmax(dim=-1).where(ends != len(said), model.config.eos))
        return said[-1]

    answers = generate(model, pixels, [PROMPT, LONGER], max_new_tokens=10, choose=choose)
    assert len(said) == 5 and [len(answer) for answer in answers] == [2, 4]
    assert [answer[0] for answer in answers] == said[0].tolist()
    assert len(generate(model, pixels, [PROMPT, LONGER], 3, lambda logits: greedy(logits).clamp(min=5))[0]) == 3


def test_an_answer_goes_on_from_how_it_begins(model, pixels):
    whole = generate(model, pixels, [PROMPT, LONGER], max_new_tokens=8)
    texts = [[*model.asked(PROMPT), *whole[0][:2]], [*model.asked(LONGER), *whole[1][:3]]]
    rest = whole_answers(stream(model, pixels, texts, max_new_tokens=5), model.config.eos)
    assert rest == [whole[0][2:7], whole[1][3:8]]


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
