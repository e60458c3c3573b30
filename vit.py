"""The understanding branch's eye: SigLIP's VisionTransformer (Zhai et al. 2023; paper section 4.1).

Pre-norm blocks, learned positions, exact GELU, no class token, a final norm and no pooling head: every patch's feature
goes on to the connector. Structure and names after `timm`, whose checkpoints Janus-Pro ships.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from layers import Conv2d, LayerNorm, Linear


@dataclass
class ViTConfig:
    """Defaults: siglip-large-patch16-384."""

    image_size: int = 384  # px
    patch_size: int = 16  # px
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    # Grey values of the training set; Janus-Pro's own towers take 0.5 and 0.5.
    mean: float = 0.555895
    std: float = 0.336385


class Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = LayerNorm(config.width, eps=1e-6)
        self.qkv = Linear(config.width, 3 * config.width)
        self.proj = Linear(config.width, config.width)
        self.norm2 = LayerNorm(config.width, eps=1e-6)
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, patches, width) -> the same."""
        B, N, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image_size // config.patch_size
        self.patch_embed = Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, side * side, config.width).normal_(std=0.02))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width, eps=1e-6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: (B, 3, image_size, image_size), normalised -> (B, patches, width), row-major."""
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        x = x + self.pos_embed.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
