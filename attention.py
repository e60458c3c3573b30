"""Modality-routed joint attention: the mechanism of UniX (paper section 3.3, Eq. 3-5), and what it needs.

Every token has queries, keys and values from the weights of its *own* modality, then all tokens attend together.
The sequence is always laid out as [und tokens | gen tokens], so "routing" is a concatenation before the attention
and a split after it: no index, no gather, no scatter. This is free to choose because attention does not care about
order: a token's place is said by its rotary position, and what it may see by the mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from layers import Linear, RMSNorm


def rotary_table(
    position_ids: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary embedding (Su et al. 2021), computed in float32.

    position_ids: (B or 1, S) integers -> two tensors (B or 1, 1, S, head_dim) of `dtype`. The sines of the first half
    are negated, as `rotate` needs them.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=position_ids.device).float() / head_dim)
    angles = position_ids[:, None, :, None].float() * frequencies  # (B, 1, S, head_dim / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def rotate(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn each pair (x[i], x[i + head_dim/2]) by its position's angle (Llama's half-split pairing).

    x: (B, heads, S, head_dim).
    """
    cos, sin = rotary
    other = x.roll(x.shape[-1] // 2, dims=-1)  # of each pair, the other one
    return x * cos + other * sin


def attention_weights(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The softmax of Eq. 5 as a tensor, to look at: what `scaled_dot_product_attention` multiplies the values by.

    q: (B, heads, S, head_dim), k: (B, heads, K, head_dim), both turned; mask as in `JointAttention` -> (B, heads, S, K)
    float32; rows sum to 1, 0 where the mask is False.
    """
    scores = q.float() @ k.float().transpose(2, 3) / q.shape[-1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)


class KVCache:
    """The keys and values that one layer has computed: (B, heads, capacity, head_dim), filled to `length`."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def join(self, k: torch.Tensor, v: torch.Tensor, update: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The cached keys and values, then k and v: (B, heads, S, head_dim) -> (B, heads, length + S, head_dim) each.

        update: whether k and v stay in the cache (a prompt, a report) or not (a step of the sampler).
        Raises ValueError if they do not fit.
        """
        if update:
            return self._append(k, v)
        if self.length == 0:
            return k, v
        keys, values = (kept[:, :, : self.length] for kept in (self._keys, self._values))
        return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)

    def repeat(self, times: int) -> None:
        """Each row `times` times, one after the other: several answers go on from one prefix."""
        self._keys, self._values = (kept.repeat_interleave(times, dim=0) for kept in (self._keys, self._values))

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows: bool (B,). The others are finished."""
        self._keys, self._values = self._keys[rows], self._values[rows]

    def _append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = self.length, self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, {end} are needed")
        if k.requires_grad:  # autograd forbids writing into a tensor that it has saved
            self._keys = k if start == 0 else torch.cat([self._keys, k], dim=2)
            self._values = v if start == 0 else torch.cat([self._values, v], dim=2)
        else:
            if self._keys is None:
                shape = (*k.shape[:2], self.capacity, k.shape[3])
                self._keys, self._values = k.new_empty(shape), v.new_empty(shape)
            self._keys[:, :, start:end] = k
            self._values[:, :, start:end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class Projections(nn.Module):
    """One modality's W_q, W_k, W_v (one matrix, in this order), their QK norms, and the output projection."""

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
        maps: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """und: (B, U, width), gen: (B, G, width) or None -> the same shapes.

        rotary: `rotary_table` of the U + G new positions. mask: bool, broadcastable to (B, heads, U + G, cached + U +
        G), True where a query may look; None for everywhere. cache: what the new tokens see before themselves. maps:
        a list that gets this layer's `attention_weights`.
        """
        # Eq. 3 and 4: each token goes through the weights of its own modality. The layout [und | gen] is the selector.
        q, k, v = self.und(und)
        if gen is not None:
            q_gen, k_gen, v_gen = self.gen(gen)
            q, k, v = torch.cat([q, q_gen], dim=2), torch.cat([k, k_gen], dim=2), torch.cat([v, v_gen], dim=2)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.join(k, v, update_cache)

        # Eq. 5: softmax(Q K^T / sqrt(d)) V over the unified sequence.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if maps is not None:
            maps.append(attention_weights(q, k, mask))
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, U + G, width)

        if gen is None:
            return self.und.out(mixed), None
        mixed_und, mixed_gen = mixed.split([und.shape[1], gen.shape[1]], dim=1)
        return self.und.out(mixed_und), self.gen.out(mixed_gen)
