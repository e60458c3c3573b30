"""The checks of lesson 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from checks import NotYet, call


def joint_attention(answer: Callable) -> str:
    """answer(words, latents, und, gen, mask) -> mixed words and latents; see Exercise 1."""
    task = "return the mixed words and the mixed latents"
    U, G, d = 4, 3, 6
    numbers = torch.Generator().manual_seed(5)
    words, latents = torch.randn(U, d, generator=numbers), torch.randn(G, d, generator=numbers)
    und, gen = ({n: torch.randn(d, d, generator=numbers) for n in ("q", "k", "v", "out")} for _ in range(2))
    mask = torch.ones(U + G, U + G, dtype=torch.bool)
    mask[:U, U:] = False
    given = call(answer, words, latents, und, gen, mask, number=1, task=task)
    if not isinstance(given, tuple) or len(given) != 2:
        raise NotYet("Exercise 1: return two tensors, the words first, then the latents")
    for what, part, count in (("words", given[0], U), ("latents", given[1], G)):
        if not isinstance(part, torch.Tensor) or part.shape != (count, d):
            shape = tuple(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__
            raise NotYet(f"Exercise 1: the mixed {what} should have the shape {(count, d)}, yours is {shape}")
    given = torch.cat(given)

    def mixed(
        und: dict = und, gen: dict = gen, scale: float = math.sqrt(d), masked: bool = True, over: int = 1
    ) -> torch.Tensor:
        q, k, v = (torch.cat([words @ und[n].T, latents @ gen[n].T]) for n in ("q", "k", "v"))
        scores = (q @ k.T / scale).masked_fill(~mask & masked, -torch.inf)
        out = scores.softmax(dim=over).nan_to_num() @ v
        return torch.cat([out[:U] @ und["out"].T, out[U:] @ gen["out"].T])

    mistakes = {
        "the mask is not used: your words look at the latents": mixed(masked=False),
        "the scores are not divided by the square root of d": mixed(scale=1.0),
        "the scores are divided by d, not by its square root": mixed(scale=d),
        "your softmax runs over the queries; the weights of one query, a row, must sum to 1": mixed(over=0),
        "the latents go through und's matrices; they have their own in gen": mixed(gen=und),
        "the words go through gen's matrices; they have their own in und": mixed(und=gen),
        "the two sets of weights are exchanged: words use und, latents use gen": mixed(gen, und),
        "latents leave through und's output matrix; use gen['out'] for them": mixed(gen=gen | {"out": und["out"]}),
        "matrices are applied as x @ W; write x @ W.T, as torch's Linear does": mixed(
            *({name: matrix.T for name, matrix in each.items()} for each in (und, gen))
        ),
    }
    if torch.allclose(given, mixed(), atol=1e-4):
        return "Exercise 1: right. This is Eq. 3, 4 and 5."
    for words_for_it, wrong in mistakes.items():
        if torch.allclose(given, wrong, atol=1e-4):
            raise NotYet(f"Exercise 1: {words_for_it}")
    row = (given - mixed()).abs().amax(dim=1).argmax().item()
    kind = f"word {row}" if row < U else f"latent {row - U}"
    raise NotYet(f"Exercise 1: the numbers of {kind} are the furthest off; compare each line with its equation")


def drawing_mask(answer: Callable) -> str:
    """answer(T, G) -> (T + 2 + G, T + 2 + G) bool; see Exercise 2."""
    for T, G in ((5, 6), (3, 2)):
        mask = call(answer, T, G, number=2, task="return the mask of a drawing")
        S = T + 2 + G
        mask = torch.as_tensor(mask)
        if mask.shape != (S, S):
            raise NotYet(f"Exercise 2: the mask of {T} + 2 + {G} tokens is ({S}, {S}), yours is {tuple(mask.shape)}")
        if mask.dtype != torch.bool:
            raise NotYet(f"Exercise 2: the mask should hold True and False (dtype=torch.bool), yours is {mask.dtype}")
        for row in range(S):
            for column in range(S):
                in_prompt, to_prompt = row < T, column < T
                should = column <= row if in_prompt and to_prompt else not in_prompt
                if bool(mask[row, column]) != should:
                    raise NotYet(f"Exercise 2: {wrong_cell(row, column, T, bool(mask[row, column]))}")
    return "Exercise 2: right. The prompt is causal, the block is open, and the prompt never sees the block."


def wrong_cell(row: int, column: int, prompt: int, given: bool) -> str:
    """Says what is wrong with one cell of a mask whose first `prompt` tokens are the prompt."""
    where = f"row {row}, column {column} is {given}"
    if row < prompt <= column:
        return f"your mask lets the prompt see the noise: {where}"
    if row < prompt:
        if given:
            return f"your mask lets the prompt see its own future: {where}"
        return f"your mask hides earlier words, or the token itself, from the prompt: {where}"
    if column < prompt:
        return f"your mask hides the prompt from the image block, which would draw anything: {where}"
    return f"your mask is causal or closed inside the image block, which sees all of itself: {where}"


def reading_positions(answer: Callable) -> str:
    """answer(P, T) -> P + T positions; see Exercise 3."""
    for P, T in ((5, 4), (66, 9)):
        positions: Sequence[int] = call(answer, P, T, number=3, task="return P + T positions")
        positions = [int(position) for position in positions]
        if len(positions) != P + T:
            raise NotYet(f"Exercise 3: {P} + {T} tokens have {P + T} positions, you give {len(positions)}")
        if positions[:P] != [0] * P:
            raise NotYet(f"Exercise 3: all {P} tokens of the image share position 0, yours begin {positions[:3]}")
        if positions[P] == 0:
            raise NotYet("Exercise 3: the text begins at 1; position 0 is the image's")
        if positions[P:] != list(range(1, T + 1)):
            raise NotYet(f"Exercise 3: the text counts 1, 2, 3 ..., yours goes {positions[P : P + 3]}")
    return "Exercise 3: right. The whole image stands at one place, and the text counts on from it."


def share_inside(answer: Callable) -> str:
    """answer(word_map, finding) -> a share; see Exercise 4."""
    finding = np.zeros((4, 4))
    finding[1, 1], finding[1, 2] = 1.0, 0.5
    word_map = np.full((4, 4), 0.1)
    word_map[1, 1], word_map[1, 2], word_map[3, 0] = 0.6, 0.4, 0.9
    given = float(call(answer, word_map, finding, number=4, task="return a share between 0 and 1"))
    product = (word_map * finding).sum()
    if np.isclose(given, product / word_map.sum()):
        return "Exercise 4: right."
    if np.isclose(given, product):
        raise NotYet("Exercise 4: a map with twice the attention gets twice your share; divide by the map's own sum")
    if np.isclose(given, product / finding.sum()):
        raise NotYet("Exercise 4: you divide by the finding's area; that is the mean attention inside, not a share")
    if np.isclose(given, word_map[finding > 0].sum() / word_map.sum()):
        raise NotYet("Exercise 4: a cell that belongs to the finding by half counts by half; multiply by `finding`")
    raise NotYet(f"Exercise 4: {product / word_map.sum():.3f} of this map lies inside, your function says {given:.3f}")
