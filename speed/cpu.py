"""What makes a CPU faster, and what makes it keep less: opt-in, proved equal in tests/speed/test_cpu.py.

    cpu.speed_up(model, vae)      the commands call it on a CPU; nothing of this file is met on a GPU

Three layers get another way to compute the same: a product of few rows (decoding reads every weight for one row), and
the backward passes of RMSNorm and SwiGLU, which compute again what autograd would keep. Attention that trains in
bfloat16 is two plain products. The process also keeps the memory that torch frees. `python -m speed.bench` says what
each is worth.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import nn

import attention
from layers import MLP, Linear, RMSNorm, cast


def speed_up(*modules: nn.Module | None) -> None:
    """Switch every Linear, RMSNorm and MLP in `modules`, and this process's attention, to the ways of computing below.
    Parameters stay as they are."""
    keep_freed_memory()
    attention.attend = attend
    for module in filter(None, modules):
        for layer in module.modules():
            layer.__class__ = FASTER.get(type(layer), type(layer))


def keep_freed_memory() -> None:
    """Let this process keep the memory that torch frees, for the next operation. Does nothing where there is no glibc.

    glibc gives large blocks back to the system, and the next activation of that size is fetched anew, page by page,
    each of them zeroed first (tests/speed/test_cost.py counts them). A process then never shrinks below its peak.
    """
    trim_threshold, mmap_max = -1, -4  # glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows and macOS
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)


# ---- products of few rows ----------------------------------------------------------------------------------------

FEW = 64  # rows; with more, MKL's own way is as fast
BLOCKS = 16  # of outputs; enough for the cores of a laptop to share


def few_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """F.linear for a few rows in float32: x: (..., in) -> (..., out).

    torch hands the product to MKL whole, which reads the weights of one row with one core, and those of a few rows
    several times. As a batch of blocks of outputs, it reads them once with every core (`speed.bench reading`).
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


class FewRowsLinear(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, cast(self.weight, x), cast(self.bias, x))


# ---- attention ---------------------------------------------------------------------------------------------------


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`attention.attend` as two products with a softmax between them, where bfloat16 trains on a CPU.

    torch's fused attention avoids the (S, K) table of the softmax. At the sizes that a CPU trains the table is small,
    and its bfloat16 backward pass takes 2 to 4 times as long as this one's (`speed.bench training`). In float32, and
    without a gradient, the fused one is as fast.
    """
    if not (q.is_cpu and q.dtype == torch.bfloat16 and torch.is_grad_enabled()):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    if mask is not None:  # added: the gradient passes a sum as it is
        scores = scores + torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


# ---- less kept for the backward pass -----------------------------------------------------------------------------


class RMSNormFunction(torch.autograd.Function):
    """RMSNorm that keeps its input and one number a token, as torch's own does on a GPU.

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
        # The norm does not depend on the length of x: the gradient has no part along x.
        along_x = (grad * normed).mean(dim=-1, keepdim=True)
        return torch.addcmul(grad, normed, along_x, value=-1).mul_(scale).to(x.dtype), grad_weight, None


class LeanRMSNorm(RMSNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cpu and torch.is_grad_enabled():
            return RMSNormFunction.apply(x, cast(self.weight, x), self.eps)
        return super().forward(x)


class ActivateAndDown(torch.autograd.Function):
    """SwiGLU's second half, down(silu(gate) * up), keeping gate and up alone.

    Autograd would keep silu(gate) and the product as well. Computing them again costs an activation and one
    multiplication a number, no product of matrices, and halves the memory of the widest part of a layer.
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


class LeanMLP(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down = self.down
        plain = type(down) is FewRowsLinear and not (down._forward_hooks or down._forward_pre_hooks)  # no adapter
        if plain and x.is_cpu and torch.is_grad_enabled():
            return ActivateAndDown.apply(self.gate_up(x), down.weight.to(x.dtype))
        return super().forward(x)


FASTER = {Linear: FewRowsLinear, RMSNorm: LeanRMSNorm, MLP: LeanMLP}
