"""Torch's layers with one extra rule: compute in the dtype of the input, whatever dtype the weights are kept in.

Training keeps float32 master weights and computes in bfloat16. Instead of an ambient `torch.autocast`, a model casts
its *input* once and every weight follows it. With weights already in that dtype the cast costs nothing.

Three of them are computed in a way of our own: `linear` of few rows on a CPU, for speed; RMSNorm on a CPU and SwiGLU's
second half, for what the backward pass need not keep.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def _as(weight: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    return weight if weight is None or weight.dtype == x.dtype else weight.to(x.dtype)


FEW = 64  # rows; with more, MKL's own way is as fast
BLOCKS = 16  # of outputs; enough for the cores of a laptop to share


def few_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """F.linear for a few rows in float32 on a CPU, where all it does is read the weights: x: (..., in) -> (..., out).

    torch hands the product to MKL whole, which reads the weights of one row with one core, and those of a few rows
    several times. As a batch of blocks of outputs, it reads them once with every core (`bench.py reading`).
    """
    rows, blocks = x.reshape(-1, x.shape[-1]), weight.view(BLOCKS, -1, x.shape[-1])
    if len(rows) <= 4:
        y = torch.bmm(blocks, rows.t().expand(BLOCKS, -1, -1)).flatten(0, 1).t()
    else:
        y = torch.bmm(rows.expand(BLOCKS, -1, -1), blocks.transpose(1, 2)).transpose(0, 1).flatten(1)
    y = y.reshape(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """F.linear, by `few_rows` where that is faster."""
    if x.is_cpu and x.dtype == torch.float32 and x.numel() <= FEW * x.shape[-1] and len(weight) % BLOCKS == 0:
        return few_rows(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """y = x W^T + b, computed in x.dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, _as(self.weight, x), _as(self.bias, x))


class ActivateAndDown(torch.autograd.Function):
    """SwiGLU's second half, down(silu(gate) * up), keeping for the backward pass gate and up alone.

    Autograd would keep silu(gate) and the product as well. Computing these two again is an activation and a product of
    numbers, no product of matrices, and halves the memory of the widest part of a layer.
    """

    @staticmethod
    def forward(ctx: object, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """gate_up: (..., 2 * hidden), down: (width, hidden) of one dtype -> (..., width)."""
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.save_for_backward(gate_up, down)
        return linear(F.silu(gate) * up, down)

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        gate_up, down = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        grad_down = None
        if ctx.needs_input_grad[1]:
            grad_down = grad.flatten(0, -2).t() @ (activated * up).flatten(0, -2)
        grad = grad @ down  # of the product silu(gate) * up
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return torch.cat([grad_gate, grad * activated], dim=-1), grad_down


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


class _RMSNormOnCPU(torch.autograd.Function):
    """RMSNorm that keeps for the backward pass its input and one number a token, as torch's own does on a GPU.

    On a CPU torch composes it of six operations and keeps the results of two, in float32.
    """

    @staticmethod
    def forward(ctx: object, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        at_least_float32 = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=at_least_float32)
        scale = torch.rsqrt(length.square() / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad = grad * weight
        along = (grad * normed).mean(dim=-1, keepdim=True)  # the part of the gradient that only lengthens x is lost
        return torch.addcmul(grad, normed, along, value=-1).mul_(scale).to(x.dtype), grad_weight, None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang & Sennrich 2019), as Llama uses it."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = _as(self.weight, x)
        if x.is_cpu and torch.is_grad_enabled():
            return _RMSNormOnCPU.apply(x, weight, self.eps)
        return F.rms_norm(x, weight.shape, weight, self.eps)
