"""Rectified flow (Liu et al. 2022; Esser et al. 2024): training targets, REPA, guidance and the sampler.

This file knows no model. A velocity is any callable `velocity(x, t)` with x: (B, C, H, W) and t: (B,) in [0, 1],
where t = 0 is data and t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from layers import Linear

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Watch = Callable[[torch.Tensor, float], object]  # is called with an estimate of the data, and the time it is made at
AfterStep = Callable[[torch.Tensor, float], object]  # a solver calls it with x and the time it has reached


def shift_time(t: torch.Tensor, shift: float) -> torch.Tensor:
    """Move times in [0, 1] towards the noise end: shift * t / (1 + (shift - 1) * t). A shift of 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


def training_time(normal: torch.Tensor, shift: float = 1.0) -> torch.Tensor:
    """Logit-normal times: (B,) standard normals -> (B,) times in (0, 1)."""
    return shift_time(torch.sigmoid(normal), shift)


def interpolate(data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = (1 - t) * data + t * noise, the straight line from data to noise. data, noise: (B, ...), t: (B,)."""
    t = t.view(-1, *[1] * (data.dim() - 1))
    return (1 - t) * data + t * noise


def velocity_error(v: torch.Tensor, data: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Eq. 2 before the mean: |v_t(x) - u_t(x)|^2 per element, where u = d x_t / dt = noise - data."""
    return (v.float() - (noise - data)).square()


class RepaProjector(nn.Module):
    """REPA's head (Yu et al. 2024; paper section 3.4): latent tokens' hidden states to an image encoder's features."""

    def __init__(self, width: int, target_width: int, hidden: int = 2048) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Linear(width, hidden), nn.SiLU(), Linear(hidden, hidden), nn.SiLU(), Linear(hidden, target_width)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, tokens, width) -> (B, tokens, target_width)."""
        return self.mlp(hidden)


def repa_loss(projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Negative cosine similarity, averaged over tokens. Both (B, tokens, target_width) on one grid. In [-1, 1]."""
    return -F.cosine_similarity(projected.float(), target.float(), dim=-1).mean()


def guide(v_cond: torch.Tensor, v_uncond: torch.Tensor, scale: float, renorm: str = "global") -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2022), then shrunk back to the conditional velocity's length.

    v_cond, v_uncond: (B, C, H, W). renorm: "global" (one length an image) or "channel" (one a token). Extrapolating
    lengthens the velocity, which over-contrasts pictures; the factor |v_cond| / |v| is clamped to [0, 1].
    """
    v = v_uncond + scale * (v_cond - v_uncond)
    axes = {"global": (1, 2, 3), "channel": (1,)}[renorm]
    length, length_cond = (torch.linalg.vector_norm(each, dim=axes, keepdim=True) for each in (v, v_cond))
    return v * (length_cond / (length + 1e-8)).clamp(0, 1)


def timesteps(num_timesteps: int, shift: float = 3.0, through: float | None = None) -> torch.Tensor:
    """Times from 1 (noise) to 0 (data), (num_timesteps,): the published schedule, num_timesteps - 1 steps.

    through: a time to be among them; the nearest one between the ends moves there.
    """
    times = shift_time(torch.linspace(1, 0, num_timesteps), shift)
    if through is not None and num_timesteps > 2:
        times[1 + (times[1:-1] - through).abs().argmin()] = through
    return times


def split_times(times: torch.Tensor, at: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Falling times -> (down to the first that is not above `at`, on from there).

    The velocity jumps where guidance ends. On each side it is smooth, and a solver that walks the sides one after the
    other, each with its own velocity, never averages or extrapolates across the jump.
    """
    above = int((times > at).sum())
    return times[: above + 1], times[above:]


def times_from(times: torch.Tensor, start: float) -> torch.Tensor:
    """The part of falling times that a walk from `start` visits: `start`, then those below it."""
    return torch.cat([torch.tensor([start]), times[times < start]])


def mix(v_a: torch.Tensor, v_b: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Between two velocities (B, C, H, W): (1 - w) * v_a + w * v_b, where weights (B,) are in [0, 1]."""
    return torch.lerp(v_a, v_b, weights.view(-1, 1, 1, 1))


def hold(velocity: Velocity, data: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor) -> Velocity:
    """A velocity that draws anew only where `mask` (B, 1, H, W) is 1; where it is 0 it leads from `noise` to `data`.

    Inpainting blends known latents, noised to the step's time, into every step (RePaint, Lugmayr et al. 2022; RadEdit,
    Perez-Garcia et al. 2024). A straight line has one velocity, noise - data, and every solver follows it exactly: a
    walk that starts on the line, at `interpolate(data, noise, t)`, is then on it at every later time.
    """

    def held(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.lerp(noise - data, velocity(x, t), mask)

    return held


def watched(velocity: Velocity, watch: Watch) -> Velocity:
    """The same velocity, which at every evaluation shows where it leads: the data x - t * v, if it stayed as it is."""

    def shown(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = velocity(x, t)
        watch(x - t.view(-1, 1, 1, 1) * v, t[0].item())
        return v

    return shown


# ---- solvers -----------------------------------------------------------------------------------------------------


def fill(t: float, x: torch.Tensor) -> torch.Tensor:
    """The time of every row of x, (B,)."""
    return torch.full((len(x),), t, device=x.device)


def euler(
    velocity: Velocity, noise: torch.Tensor, times: torch.Tensor, after_step: AfterStep = lambda x, t: None
) -> torch.Tensor:
    """Walk dx/dt = velocity(x, t) along `times` with Euler steps. noise: (B, C, H, W) at times[0] -> x at times[-1].

    Order 1 (the error falls with the step), one evaluation a step; what was published.
    """
    x = noise
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x = x + (t_next - t) * velocity(x, fill(t, x))
        after_step(x, t_next)
    return x


def heun(
    velocity: Velocity, noise: torch.Tensor, times: torch.Tensor, after_step: AfterStep = lambda x, t: None
) -> torch.Tensor:
    """As `euler`, of order 2 (the error falls with the step's square), two evaluations a step: at its start and at
    Euler's end."""
    x = noise
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h = t_next - t
        v = velocity(x, fill(t, x))
        v_next = velocity(x + h * v, fill(t_next, x))
        x = x + h / 2 * (v + v_next)
        after_step(x, t_next)
    return x


def midpoint(
    velocity: Velocity, noise: torch.Tensor, times: torch.Tensor, after_step: AfterStep = lambda x, t: None
) -> torch.Tensor:
    """As `euler`, of order 2, two evaluations a step: at its start, only to find the second, in its middle."""
    x = noise
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h = t_next - t
        middle = x + h / 2 * velocity(x, fill(t, x))
        x = x + h * velocity(middle, fill(t + h / 2, x))
        after_step(x, t_next)
    return x


def ab2(
    velocity: Velocity, noise: torch.Tensor, times: torch.Tensor, after_step: AfterStep = lambda x, t: None
) -> torch.Tensor:
    """Adams-Bashforth of order 2, one evaluation a step: the velocity's slope comes from the step before (Hairer,
    Norsett & Wanner 1993, III.5, steps of any lengths). The first step has none before it and is Euler's.

    The history is a walk's own: where the velocity jumps, start another walk (`split_times`).
    """
    x, v_before, h_before = noise, None, None
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h = t_next - t
        v = velocity(x, fill(t, x))
        slope = 0.0 if v_before is None else (v - v_before) / h_before
        x = x + h * v + h**2 / 2 * slope
        v_before, h_before = v, h
        after_step(x, t_next)
    return x
