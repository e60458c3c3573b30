"""The checks of lesson 7."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import random_weights
import weights
from checkpoints.layouts import translate_unix
from checkpoints.plan import absent_in_janus
from checkpoints.presets import preset
from checks import NotYet, call, solved
from common.errors import UserError
from model import UniX


def translate(answer: Callable) -> str:
    """answer(published name) -> (our name, part, parts), or None for what is not Q, K or V; see Exercise 1."""
    task = "return the triple for the names of Q, K and V"
    names = sorted(random_weights.shapes("unix"))
    names += [name.replace("layers.1.", "layers.17.") for name in names if ".layers.1." in name]
    first = "language_model.model.layers.0.self_attn.q_proj.weight"
    for name in [first, *names]:
        wanted = translate_unix(name) if ".self_attn." in name and name.split(".")[5][1:].startswith("_proj") else None
        if wanted is not None and ".qkv." not in wanted[0]:
            wanted = None  # the output projection
        given = call(answer, name, number=1, task=task) if name == first else attempt(answer, name)
        if given == wanted:
            continue
        if wanted is None:
            raise NotYet(f"Exercise 1: {name} is neither Q, K nor V; return None for it, not {given!r}")
        if not isinstance(given, tuple) or len(given) != 3:
            raise NotYet(f"Exercise 1: for {name} return (our name, part, parts), not {given!r}")
        for what, yours, right in zip(("our name", "the part", "the number of parts"), given, wanted, strict=True):
            if yours != right:
                raise NotYet(f"Exercise 1: for {name} {what} is {right!r}, yours is {yours!r}")
    return f"Exercise 1: right. {len(names)} names, and every Q, K and V of both branches finds its place."


def attempt(answer: Callable, name: str) -> object:
    """As `call`, where None is an answer."""
    try:
        return answer(name)
    except Exception as error:
        raise NotYet(f"Exercise 1: for {name} your code stops with {type(error).__name__}: {error}") from None


def origin(answer: Callable) -> str:
    """answer(our name) -> "read", "copied" or "new"; see Exercise 2."""
    task = 'return "read", "copied" or "new" for each name'
    reasons = {
        "read": "Janus-Pro has it",
        "copied": "the gen branch starts as und's twin, and what Janus-Pro lacks gets a value that changes nothing",
        "new": "it touches latents or time, which Janus-Pro never met",
    }
    with torch.device("meta"):
        names = list(UniX(preset("tiny")).state_dict())
    for name in names:
        given = call(answer, name, number=2, task=task)
        wanted = absent_in_janus(name, {}) or "read"
        if given not in reasons:
            raise NotYet(f'Exercise 2: {name} is "read", "copied" or "new", not {given!r}')
        if given != wanted:
            raise NotYet(f'Exercise 2: {name} is "{wanted}", not "{given}": {reasons[wanted]}')
    return f"Exercise 2: right. All {len(names)} tensors of the tiny model have an origin."


def damage(answer: Callable) -> str:
    """answer(tensors) changes them in place so that they load, and draw something else; see Exercise 3."""
    with tempfile.TemporaryDirectory() as folder:
        whole = random_weights.write(Path(folder) / "whole", "unix")
        noticed = []

        def change(tensors: dict[str, torch.Tensor]) -> None:
            before = {name: tensor.clone() for name, tensor in tensors.items()}
            try:
                answer(tensors)
            except Exception as error:
                raise NotYet(f"Exercise 3: your code stops with {type(error).__name__}: {error}") from None
            same = before.keys() == tensors.keys() and all(torch.equal(before[n], t) for n, t in tensors.items())
            solved(None if same else True, 3, "change the tensors in place, so that the file still loads")
            shared = {tensor.data_ptr() for tensor in tensors.values()}
            if len(shared) < len(tensors):  # safetensors refuses one memory under two names
                raise NotYet("Exercise 3: two names now share one tensor; clone it, as a file holds each on its own")

        try:
            broken = random_weights.write(Path(folder) / "broken", "unix", change=change)
            with contextlib.redirect_stdout(io.StringIO()):  # each load says what it read
                velocities = [velocity(weights.load_checkpoint(each)) for each in (whole, broken)]
        except UserError as error:
            noticed.append(str(error).split(": ", 1)[-1])
        if noticed:
            raise NotYet(f"Exercise 3: strict loading notices it: {noticed[0]}")
    gap = (velocities[0] - velocities[1]).abs().max().item()
    if gap < 1e-3:
        raise NotYet(f"Exercise 3: it loads, but the velocity changes by {gap:.0e} at most; damage what a drawing uses")
    return f"Exercise 3: right. Nothing is reported, and the velocity is off by up to {gap:.2f}."


@torch.no_grad()
def velocity(checkpoint: weights.Checkpoint) -> torch.Tensor:
    model = checkpoint.model
    x = torch.randn(1, model.config.latent_channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return model.velocity(x, torch.tensor([0.7]), model.read_prompt([[5, 6, 7]]))
