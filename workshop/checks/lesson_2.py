"""The checks of lesson 2."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from checks import NotYet, call


def training_pair(answer: Callable) -> str:
    """answer(data, noise, t) -> x_t and u; see Exercise 1."""
    data, noise = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([[0.0], [0.2], [0.5], [0.9], [1.0]])
    given = call(answer, data, noise, t, number=1, task="return x_t and the velocity u")
    if not isinstance(given, tuple) or len(given) != 2:
        raise NotYet("Exercise 1: return two tensors, x_t and u")
    x, u = given
    if torch.allclose(x, t * data + (1 - t) * noise):
        raise NotYet("Exercise 1: your x_t is noise at t = 0; here t = 0 is data and t = 1 is noise")
    if not torch.allclose(x, (1 - t) * data + t * noise):
        raise NotYet("Exercise 1: your x_t is not on the line between data and noise; use the formula as it stands")
    if u.shape == data.shape and torch.allclose(u, data - noise):
        raise NotYet("Exercise 1: your u points from noise to data; dx/dt points the way t grows, to the noise")
    if u.shape == data.shape and torch.allclose(u, noise - x, atol=1e-6):
        raise NotYet(
            "Exercise 1: your u is the way from x_t to the noise; the slope of the whole line is the same at all t"
        )
    if u.shape != data.shape or not torch.allclose(u, noise - data):
        raise NotYet("Exercise 1: u is not d x_t / dt; differentiate (1 - t) data + t noise by t")
    return "Exercise 1: right. The slope does not depend on t."


def euler(answer: Callable) -> str:
    """answer(velocity, noise, times) -> x; see Exercise 2. The velocity is x + t, on uneven times."""
    noise, times = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), [1.0, 0.7, 0.2, 0.0]
    asked = []

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = torch.as_tensor(t, dtype=torch.float32)
        if t.shape != (2,):
            raise ValueError(
                f"the velocity wants one time for each of the 2 points, it gets the shape {tuple(t.shape)}"
            )
        asked.append(t[0].item())
        return x + t[:, None]

    x = call(answer, velocity, noise, times, number=2, task="return x at the last of the times")
    right = noise
    for t, t_next in itertools.pairwise(times):
        right = right + (t_next - t) * (right + t)
    if len(asked) != 3:
        raise NotYet(f"Exercise 2: four times make three steps; you ask for the velocity {len(asked)} times")
    if not torch.allclose(torch.tensor(asked), torch.tensor(times[:-1])):
        raise NotYet(
            f"Exercise 2: Euler asks at the start of each step, at t = 1, 0.7, 0.2; you ask at"
            f" {', '.join(f'{t:g}' for t in asked)}"
        )
    if torch.allclose(x, right, atol=1e-5):
        return "Exercise 2: right. This is what was published; flow.py has two more solvers."
    if (x - noise).sum() > 0:
        raise NotYet("Exercise 2: you walk away from the data; t falls, so t_next - t is negative")
    still = noise
    for t, t_next in itertools.pairwise(times):
        still = still + (t_next - t) * (noise + t)
    if torch.allclose(x, still, atol=1e-5):
        raise NotYet("Exercise 2: you ask for the velocity at the noise in every step; ask at the x where you are")
    raise NotYet("Exercise 2: the steps have different lengths, 0.3, 0.5 and 0.2; multiply each velocity by its own")


def guidance(answer: Callable) -> str:
    """answer(v_cond, v_uncond, s) -> v; see Exercise 3."""
    v_cond, v_uncond = torch.tensor([2.0, 0.0]), torch.tensor([1.0, -1.0])
    values = [call(answer, v_cond, v_uncond, s, number=3, task="return the guided velocity") for s in (0.0, 1.0, 3.0)]
    none, alone, beyond = (torch.as_tensor(value) for value in values)
    if not torch.allclose(none, v_uncond):
        raise NotYet(
            f"Exercise 3: s = 0 must give the velocity without a prompt, {v_uncond.tolist()}; yours: {none.tolist()}"
        )
    if not torch.allclose(alone, v_cond):
        raise NotYet(
            f"Exercise 3: s = 1 must give the velocity with the prompt, {v_cond.tolist()}; yours: {alone.tolist()}"
        )
    if not torch.allclose(beyond, torch.tensor([4.0, 2.0])):
        raise NotYet(f"Exercise 3: s = 3 must give [4.0, 2.0], three times the way; yours: {beyond.tolist()}")
    return "Exercise 3: right. 0 ignores the prompt, 1 follows it, more exaggerates it."
