"""The checks of lesson 4."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import losses
from checks import NotYet, call, solved
from model import UniX, UniXConfig
from vit import ViTConfig


def small_model(seed: int) -> UniX:
    """A UniX of a few thousand random parameters."""
    vit = ViTConfig(image_size=32, width=16, layers=1, heads=2, mlp_width=16)
    model = UniX(UniXConfig(16, 16, 2, 2, vocab_size=20, context_length=16, max_latent_size=4, repa_layer=1, vit=vit))
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=numbers)
    return model


def start(answer: Callable) -> str:
    """answer(trained, fresh) changes `fresh` in place; see Exercise 1."""
    trained, fresh, before = (small_model(seed) for seed in (1, 2, 2))
    source = small_model(1)
    try:
        answer(trained, fresh)
    except Exception as error:
        raise NotYet(f"Exercise 1: your code stops with {type(error).__name__}: {error}") from None
    theirs, ours, old, und = (dict(m.named_parameters()) for m in (trained, fresh, before, source))
    untouched = all(torch.equal(old[name], ours[name]) for name in old)
    solved(None if untouched else True, 1, "give `fresh` the und branch of `trained` and a gen branch that is its copy")
    if not all(torch.equal(theirs[name], und[name]) for name in und):
        raise NotYet("Exercise 1: you changed the trained model; only `fresh` is to change")
    if all(torch.equal(ours[name], und[name]) for name in und):
        raise NotYet(
            "Exercise 1: your model is the trained one, which draws already; its gen branch must not come along"
        )
    gen = [name for name, _ in fresh.gen_parameters()]
    for name in und:
        if name not in gen and not torch.equal(ours[name], und[name]):
            raise NotYet(f"Exercise 1: {name} belongs to the und branch and is not the trained model's")
    for name in gen:
        if ".gen." in name:
            twin = name.replace(".gen.", ".und.")
            if torch.equal(ours[name], old[twin]):
                raise NotYet(f"Exercise 1: {name} is a copy of the *random* und branch; copy after loading, not before")
            if not torch.equal(ours[name], ours[twin]):
                raise NotYet(f"Exercise 1: {name} should be a copy of {twin}, and is not")
        elif not torch.equal(ours[name], old[name]):
            raise NotYet(f"Exercise 1: {name} is about latents or time; it has no twin in und and stays as it was")
    return "Exercise 1: right. It reads as before, and knows nothing of latents."


def repa(answer: Callable) -> str:
    """answer(projected, target) -> minus the mean cosine; see Exercise 2."""
    numbers = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 2, 5, 8, generator=numbers)
    a = a * torch.rand(2, 5, 1, generator=numbers) * 4
    given = torch.as_tensor(call(answer, a, b, number=2, task="return minus the mean cosine"))
    if given.numel() != 1:
        raise NotYet(
            f"Exercise 2: average over the tokens too; a loss is one number, yours has the shape {tuple(given.shape)}"
        )
    right = losses.repa_loss(a, b)
    if torch.allclose(given, right, atol=1e-5):
        return "Exercise 2: right. This is `repa_loss` of losses.py."
    over_tokens = torch.cosine_similarity(a, b, dim=1).mean()
    mistakes = {
        "the sign: training makes a loss small, so a cosine of 1 must give -1": -right,
        "these are products, not cosines: divide by the lengths of both": -(a * b).sum(dim=-1).mean(),
        "divide by the length of the target, too": -((a * b).sum(dim=-1) / a.norm(dim=-1)).mean(),
        "divide by the length of the projection, too": -((a * b).sum(dim=-1) / b.norm(dim=-1)).mean(),
        "the lengths are those of each token: sum over the last dimension": -over_tokens,
        "one cosine a token, then the mean; you take one of the whole picture": -torch.cosine_similarity(
            a.flatten(1), b.flatten(1)
        ).mean(),
        "this is a squared distance; REPA compares directions": (a - b).square().mean(),
    }
    for words, wrong in mistakes.items():
        if torch.allclose(given, wrong, atol=1e-5):
            raise NotYet(f"Exercise 2: {words}")
    raise NotYet(f"Exercise 2: for two random tensors it should be {right.item():.4f}, yours is {given.item():.4f}")


def gain(answer: Callable) -> str:
    """answer(error, prompts) -> the prompt gain; see Exercise 3."""
    own = [f"prompt {n}" for n in range(8)]
    right = np.linspace(1.0, 3.0, 8)
    asked = []

    def error(prompts: list[str]) -> np.ndarray:
        asked.append(list(prompts))
        return np.where([a == b for a, b in zip(prompts, own, strict=True)], right, 1.5 * right + 0.2)

    given = call(answer, error, list(own), number=3, task="return the share by which the error grows")
    given = np.asarray(given, dtype=float)
    if given.size != 1:
        raise NotYet(f"Exercise 3: one number for all pictures is wanted; yours has the shape {given.shape}")
    exchanged = [prompts for prompts in asked if prompts != own]
    if len(exchanged) == len(asked):
        raise NotYet("Exercise 3: the error with everybody's own prompt was never asked for")
    if not exchanged:
        raise NotYet("Exercise 3: the prompts were never exchanged; ask for the error with other ones")
    if any(sorted(prompts) != own for prompts in exchanged):
        raise NotYet("Exercise 3: exchange the prompts, so that each is used once; some are missing or there twice")
    if kept := [a for a, b in zip(exchanged[-1], own, strict=True) if a == b]:
        raise NotYet(f"Exercise 3: {len(kept)} of 8 pictures keep their own prompt, which hides a part of the gain")
    each = ((0.5 * right + 0.2) / right).mean()
    a, b = right.mean(), (1.5 * right + 0.2).mean()
    if np.isclose(given, (b - a) / a):
        return "Exercise 3: right. `training.prompt_gain.exchanged_prompts` does this at three times."
    mistakes = {
        "this is the growth itself; give it as a share of the error with the right prompts": b - a,
        "a share of the error with the right prompts, not of the larger one": (b - a) / b,
        "the sign: an error that grows is a gain above 0": (a - b) / a,
        "this is the ratio; a model that ignores its prompt must get 0, not 1": b / a,
        "the mean of each picture's share; the project takes the share of the mean errors": each,
    }
    for words, wrong in mistakes.items():
        if np.isclose(given, wrong):
            raise NotYet(f"Exercise 3: {words}")
    raise NotYet(f"Exercise 3: here the gain is {(b - a) / a:.4f}, yours is {given.item():.4f}")
