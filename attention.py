"""Modality-routed joint attention: the mechanism of UniX (paper section 3.3, Eq. 3-5), and what it needs.

Every token has queries, keys and values from the weights of its *own* modality, then all tokens attend together.
The sequence is always laid out as [und tokens | gen tokens], so "routing" is a concatenation before the attention
and a split after it: no index, no gather, no scatter. This is free to choose because attention does not care about
order: a token's place is said by its rotary position, and what it may see by the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from layers import Linear, RMSNorm


def rotary_table(
    position_ids: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary embedding (Su et al. 2021), computed in float32; the first half of sines negated.

    position_ids: (B or 1, S) integers -> two tensors (B or 1, 1, S, head_dim) of `dtype`.
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
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)  # rolled by half: (second, first)


class KVCache:
    """Keys and values of the tokens that one layer has seen: (B, heads, capacity, head_dim), filled to `length`.

    `append` keeps what it is given (reading a prompt, decoding a report); who only wants to look takes `keys` and
    `values` (each step of the image sampler). With gradients, the cache is filled by concatenation, since autograd
    forbids writing into a tensor it has saved.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    @property
    def keys(self) -> torch.Tensor:
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> torch.Tensor:
        return self._values[:, :, : self.length]

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add k, v: (B, heads, S, head_dim)."""
        start, self.length = self.length, self.length + k.shape[2]
        if self.length > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, {self.length} are needed")
        if k.requires_grad:
            self._keys = k if start == 0 else torch.cat([self._keys, k], dim=2)
            self._values = v if start == 0 else torch.cat([self._values, v], dim=2)
            return
        if self._keys is None:
            shape = (*k.shape[:2], self.capacity, k.shape[3])
            self._keys, self._values = k.new_empty(shape), v.new_empty(shape)
        self._keys[:, :, start : self.length] = k
        self._values[:, :, start : self.length] = v

    def unpack(self, row: torch.Tensor, where: torch.Tensor) -> KVCache:
        """From rows that several sequences share: a cache whose row i holds the tokens where[i] of row[i].

        row: (B, 1), where: (B, T) integers.
        """
        unpacked = KVCache(where.shape[1])
        unpacked.append(*(each[row, :, where].transpose(1, 2) for each in (self.keys, self.values)))
        return unpacked


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each (B, heads, S, head_dim), one after the other along the sequence; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class Projections(nn.Module):
    """One modality's W_q, W_k, W_v (fused, in this order), their QK norms, and W_o."""

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
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        mask: torch.Tensor | None,
        cache: KVCache | None = None,
        keep: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """und: (B, U, width), gen: (B, G, width) or None -> the same shapes.

        rotary: tables for the U + G new positions; None: all of them are at position 0, which is no rotation. mask:
        bool, broadcastable to (B, heads, U + G, cached + U + G), True where a query may look; None for everywhere.
        keep: whether the new keys and values stay in the cache.
        """
        # Eq. 3 and 4: each token through the weights of its own modality. The selectors are the layout itself.
        projected = [self.und(und)] if gen is None else [self.und(und), self.gen(gen)]
        q, k, v = zip(*projected, strict=True)  # each in parts, which are joined once
        if rotary is not None:
            q, k = ([rotate(join(each), rotary)] for each in (q, k))
        if cache is not None and keep:
            cache.append(join(k), join(v))
            k, v = [cache.keys], [cache.values]
        elif cache is not None and cache.length:
            k, v = [cache.keys, *k], [cache.values, *v]

        # Eq. 5: softmax(Q K^T / sqrt(d)) V over the unified sequence.
        q, k, v = join(q), join(k), join(v)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, U + G, width)

        if gen is None:
            return self.und.out(mixed), None
        mixed_und, mixed_gen = mixed.split([und.shape[1], gen.shape[1]], dim=1)
        return self.und.out(mixed_und), self.gen.out(mixed_gen)
