"""Rectified flow (Liu et al. 2022; Esser et al. 2024): training targets, guidance and the solvers.

This file knows no model. A velocity is any callable `velocity(x, t)` with x: (B, C, H, W) and t: (B,) in [0, 1],
where t = 0 is data and t = 1 is noise.
"""

from collections.abc import Callable

import torch

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def interpolate(data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = (1 - t) * data + t * noise, the straight line from data to noise. data, noise: (B, ...), t: (B,)."""
    t = t.view(-1, *[1] * (data.dim() - 1))
    return (1 - t) * data + t * noise


def velocity_error(v: torch.Tensor, data: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Eq. 2 before the mean: |v_t(x) - u_t(x)|^2 per element, where u = d x_t / dt = noise - data."""
    return (v.float() - (noise - data)).square()


# ---- times -------------------------------------------------------------------------------------------------------


def shift_time(t: torch.Tensor, shift: float) -> torch.Tensor:
    """Move times in [0, 1] towards the noise end: shift * t / (1 + (shift - 1) * t). A shift of 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


def training_time(normal: torch.Tensor, shift: float = 1.0) -> torch.Tensor:
    """Logit-normal times: (B,) standard normals -> (B,) times in (0, 1)."""
    return shift_time(torch.sigmoid(normal), shift)


def timesteps(num_timesteps: int, shift: float = 3.0, through: float | None = None) -> torch.Tensor:
    """Times from 1 (noise) to 0 (data), (num_timesteps,), both ends counted, so one step less: the published schedule.

    through: a time to be among them (in `sample.py` where guidance ends); the nearest one between the ends moves there.
    """
    times = shift_time(torch.linspace(1, 0, num_timesteps), shift)
    if through is not None and num_timesteps > 2:
        times[1 + (times[1:-1] - through).abs().argmin()] = through
    return times


# ---- guidance ----------------------------------------------------------------------------------------------------


def guide(v_cond: torch.Tensor, v_uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2022), then shrunk back to the conditional velocity's length.

    v_cond, v_uncond: (B, C, H, W). Extrapolating lengthens the velocity, which over-contrasts pictures: the guided v is
    multiplied by |v_cond| / |v|, clamped to [0, 1], norms over the whole image. The paper does not mention this factor;
    the published code has it ("global").
    """
    v = v_uncond + scale * (v_cond - v_uncond)
    length, length_cond = (torch.linalg.vector_norm(each, dim=(1, 2, 3), keepdim=True) for each in (v, v_cond))
    return v * (length_cond / (length + 1e-8)).clamp(0, 1)


# ---- solvers: from x at times[0] along dx/dt = velocity(x, t) to x at times[-1] ----------------------------------


def fill(t: float, x: torch.Tensor) -> torch.Tensor:
    """The time of every row of x, (B,)."""
    return torch.full((len(x),), t, device=x.device)


def euler(velocity: Velocity, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Order 1 (the error falls with the step), one evaluation a step; what was published. x: (B, C, H, W)."""
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x = x + (t_next - t) * velocity(x, fill(t, x))
    return x


reflow = euler  # at other times, which stage reflow has taught an adapter (`sample.schedule`)


def heun(velocity: Velocity, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Order 2 (the error falls with the step's square), two evaluations a step: at its start and at Euler's end."""
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h = t_next - t
        v = velocity(x, fill(t, x))
        v_next = velocity(x + h * v, fill(t_next, x))
        x = x + h / 2 * (v + v_next)
    return x


def ab2(velocity: Velocity, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Adams-Bashforth of order 2, one evaluation a step: the velocity's slope comes from the step before (Hairer,
    Norsett & Wanner 1993, III.5, steps of any lengths). The first step has none before it and is Euler's.

    Where the velocity jumps, its slope means nothing: `sample.py` solves in two calls, to the time where guidance ends
    and from there.
    """
    v_before, h_before = None, None
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h = t_next - t
        v = velocity(x, fill(t, x))
        slope = 0.0 if v_before is None else (v - v_before) / h_before
        x = x + h * v + h**2 / 2 * slope
        v_before, h_before = v, h
    return x
