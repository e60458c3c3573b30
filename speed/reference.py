"""What one would write first, beside which speed/bench.py measures and which the tests compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch

from flow import Velocity, guide


def guided_velocity(
    conditional: Velocity,
    both: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    scale: float,
    interval: tuple[float, float] = (0.4, 1.0),
) -> Velocity:
    """A velocity guided by `scale` while interval[0] < t <= interval[1], and the conditional one elsewhere.

    both(x, t) -> (v_cond, v_uncond), so that a model can compute them in one batched call. Late steps settle texture,
    where guidance costs twice the work and does little. All rows of t must be equal.
    """

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        inside = (t[0] > interval[0]) & (t[0] <= interval[1])
        return guide(*both(x, t), scale) if scale != 1.0 and inside else conditional(x, t)

    return velocity
