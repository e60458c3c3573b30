"""Torch's layers with one extra rule: compute in the dtype of the input, whatever dtype the weights are kept in.

Training keeps float32 master weights and computes in bfloat16. `torch.autocast` would choose a dtype for each
operation, out of sight; here a model casts its *input* once and every weight follows it. With weights already in that
dtype the cast costs nothing. On a CPU the commands compute Linear, RMSNorm and MLP another way, with the same results:
speed/cpu.py, which a reader of the paper can leave alone.
"""

import torch
import torch.nn.functional as F
from torch import nn


def cast(weight: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """The weight in x.dtype. None, as a layer without bias has it, stays None."""
    return None if weight is None else weight.to(x.dtype)


class Linear(nn.Linear):
    """y = x W^T + b, computed in x.dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, cast(self.weight, x), cast(self.bias, x))


class Conv2d(nn.Conv2d):
    """2-D convolution computed in x.dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, cast(self.weight, x), cast(self.bias, x))


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in x.dtype (torch accumulates the moments in float32)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.normalized_shape, cast(self.weight, x), cast(self.bias, x), self.eps)


class GroupNorm(nn.GroupNorm):
    """GroupNorm computed in x.dtype (torch accumulates the moments in float32)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, self.num_groups, cast(self.weight, x), cast(self.bias, x), self.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang & Sennrich 2019); torch squares in float32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, cast(self.weight, x), self.eps)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020). The gate and up projections are one matrix, in this order."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
