"""The checks of lesson 3."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from checks import NotYet, call


def psnr(answer: Callable) -> str:
    """answer(a, b) -> dB; see Exercise 1."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 16, 16), dtype=np.uint8)
    given = float(call(answer, a, b, number=1, task="return a number of decibels"))
    error = np.square(a.astype(float) - b).mean()
    right = 10 * np.log10(255**2 / error)
    mistakes = {
        10
        * np.log10(255**2 / np.square(a - b).mean()): "uint8 numbers wrap around: make them floats before you subtract",
        2 * right: "20 goes with the root of the squared error, 10 with the squared error itself",
        10 * np.log(255**2 / error): "decibels use the logarithm to base 10 (np.log10)",
        10 * np.log10(1 / error): "the peak is 255 here, not 1: its square belongs into the ratio",
        -right: "the ratio is upside down: a larger error must give fewer decibels",
    }
    if np.isclose(given, right):
        return "Exercise 1: right."
    for value, words in mistakes.items():
        if np.isclose(given, value):
            raise NotYet(f"Exercise 1: {words}")
    raise NotYet(
        f"Exercise 1: for two pictures of a mean squared error of {error:.1f} it is {right:.2f} dB, not {given:.2f}"
    )


def scale_and_shift(answer: Callable) -> str:
    """answer(latents) -> scale, shift; see Exercise 2."""
    latents = 4.0 * torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.7
    given = call(answer, latents, number=2, task="return the scale and the shift")
    if not isinstance(given, tuple) or len(given) != 2:
        raise NotYet("Exercise 2: return two numbers, scale and shift")
    scale, shift = (float(number) for number in given)
    z = scale * (latents - shift)
    if abs(z.mean()) > 1e-3:
        raise NotYet(
            f"Exercise 2: with your shift the mean becomes {z.mean():.2f}, not 0; the formula subtracts the shift"
        )
    if abs(z.std() - 1) > 1e-3:
        raise NotYet(
            f"Exercise 2: with your scale the standard deviation becomes {z.std():.2f}, not 1; divide by theirs"
        )
    return "Exercise 2: right. Noise and data now have one size."


def contrast_kept(answer: Callable) -> str:
    """answer(true, shown, own) -> a; see Exercise 3."""
    rng = np.random.default_rng(1)
    true, own = rng.normal(0, 20, (16, 16)), np.zeros((16, 16), dtype=bool)
    own[4:9, 3:12] = True
    shown = 0.6 * true + rng.normal(0, 4, (16, 16))
    shown[~own] = true[~own] + 50
    given = float(call(answer, true, shown, own, number=3, task="return how much of the contrast is kept"))
    product = true * shown
    if np.isclose(given, product[own].sum() / np.square(true[own]).sum()):
        return "Exercise 3: right."
    if np.isclose(given, product.sum() / np.square(true).sum()):
        raise NotYet("Exercise 3: you count all pixels; only the finding's own (own is True) say what became of it")
    if np.isclose(given, product[own].sum() / np.square(shown[own]).sum()):
        raise NotYet("Exercise 3: you divide by the squares of `shown`; that is how much true is of shown")
    if np.isclose(given, (shown[own] / true[own]).mean()) or np.isclose(given, np.median(shown[own] / true[own])):
        raise NotYet("Exercise 3: a mean of ratios lets the faintest pixels decide; sum first, then divide")
    raise NotYet(f"Exercise 3: here about 0.6 of the contrast is kept, your function says {given:.2f}")
