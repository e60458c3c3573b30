"""Four torch layers with one extra rule: compute in the dtype of the input, whatever dtype the weights are kept in.

Training keeps float32 master weights and computes in bfloat16. Instead of an ambient `torch.autocast`, a model casts
its *input* once and every weight follows it. With weights already in that dtype the cast costs nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def _as(weight: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    return weight if weight is None or weight.dtype == x.dtype else weight.to(x.dtype)


class Linear(nn.Linear):
    """y = x W^T + b, computed in x.dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, _as(self.weight, x), _as(self.bias, x))


class Conv2d(nn.Conv2d):
    """2-D convolution computed in x.dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, _as(self.weight, x), _as(self.bias, x))


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in x.dtype (torch accumulates the moments in float32)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.normalized_shape, _as(self.weight, x), _as(self.bias, x), self.eps)


class GroupNorm(nn.GroupNorm):
    """GroupNorm computed in x.dtype (torch accumulates the moments in float32)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, self.num_groups, _as(self.weight, x), _as(self.bias, x), self.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang & Sennrich 2019), as Llama uses it."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, _as(self.weight, x), self.eps)
