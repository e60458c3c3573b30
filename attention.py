"""Modality-routed joint attention: the mechanism of UniX (paper section 3.3, Eq. 3-5), and what it needs.

Every token has queries, keys and values from the weights of its *own* modality, then all tokens attend together.
In memory the sequence is always [und tokens | gen tokens], so "routing" is a concatenation before the attention and a
split after it: no index, no gather, no scatter. The order in memory need not be the order of reading, for attention
knows none: a token's place is said by its rotary position, what it may see by the mask (`model.py` makes both).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from layers import Linear, RMSNorm


class Projections(nn.Module):
    """One modality's W_q, W_k, W_v (one matrix, in this order), their QK norms, and the output projection.

    UniX has the norms and the biases of q, k and v; plain Janus-Pro has neither.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, qkv_bias: bool, eps: float) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.out = Linear(width, width, bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, eps) if qk_norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x: (B, S, width) -> q, k, v, each (B, heads, S, head_dim); q and k are normed over each head."""
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.q_norm(q), self.k_norm(k), v


class JointAttention(nn.Module):
    """Cross-modal self-attention: two sets of projections, one softmax (Eq. 3-5)."""

    def __init__(self, width: int, heads: int, qk_norm: bool, qkv_bias: bool, eps: float = 1e-6) -> None:
        super().__init__()
        self.und = Projections(width, heads, qk_norm, qkv_bias, eps)
        self.gen = Projections(width, heads, qk_norm, qkv_bias, eps)

    def forward(
        self,
        und: torch.Tensor,
        gen: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
        update_cache: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """und: (B, U, width), gen: (B, G, width) or None -> the same shapes.

        rotary: `rotary_table` of the U + G new positions. mask: bool, broadcastable to (B, heads, U + G, cached + U +
        G), True where a query may look; None for everywhere. cache: what the new tokens see before themselves.
        update_cache: whether the new tokens stay in it (a prompt, a report) or not (a step of the sampler).
        """
        # Eq. 3, Eq. 4: each token goes through the weights of its own modality. The layout [und | gen] is the selector.
        q, k, v = self.und(und)
        if gen is not None:
            q_gen, k_gen, v_gen = self.gen(gen)
            q, k, v = torch.cat([q, q_gen], dim=2), torch.cat([k, k_gen], dim=2), torch.cat([v, v_gen], dim=2)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.append(k, v) if update_cache else cache.followed_by(k, v)

        mixed = attend(q, k, v, mask)  # Eq. 5, over the unified sequence
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, U + G, width)

        if gen is None:
            return self.und.out(mixed), None
        mixed_und, mixed_gen = mixed.split([und.shape[1], gen.shape[1]], dim=1)
        return self.und.out(mixed_und), self.gen.out(mixed_gen)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Eq. 5: softmax(Q K^T / sqrt(d)) V. q: (B, heads, S, head_dim), k and v: (B, heads, K, head_dim) -> as q.

    mask: as in `JointAttention`. The ViT calls this function, too, as `attention.attend`, for it may be replaced from
    outside: studies/attention.py puts one there that keeps the softmax to look at, speed/cpu.py a faster one. A reader
    of the paper can leave both alone.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def rotary_table(
    position_ids: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary embedding (Su et al. 2021), computed in float32.

    position_ids: (B or 1, S) integers -> two tensors (B or 1, 1, S, head_dim / 2) of `dtype`.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=position_ids.device).float() / head_dim)
    angles = position_ids[:, None, :, None].float() * frequencies  # (B, 1, S, head_dim / 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn each pair (x[i], x[i + head_dim/2]) by its position's angle (Llama's half-split pairing).

    x: (B, heads, S, head_dim).
    """
    cos, sin = rotary
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class KVCache:
    """The keys and values one layer has computed, (B, heads, length, head_dim), with room for `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys = self.values = torch.empty(0)  # allocated by the first `append`

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep k and v, (B, heads, S, head_dim) -> all that is kept, (B, heads, length + S, head_dim) each."""
        start, self.length = self.length, self.length + k.shape[2]
        if self.length > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, {self.length} are needed")
        if start == 0:
            shape = (*k.shape[:2], self.capacity, k.shape[3])
            self.keys, self.values = k.new_empty(shape), v.new_empty(shape)
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def followed_by(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is kept with k and v behind it, but without keeping them: (B, heads, length + S, head_dim) each."""
        if self.length == 0:  # no prompt (unconditional): nothing was allocated that could stand before them
            return k, v
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
