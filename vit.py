"""One vision transformer that is SigLIP *and* DINOv2, by its config (paper sections 4.1 and 3.4).

SigLIP (Zhai et al. 2023) is the understanding branch's eye: every patch's feature goes on to the connector. DINOv2
(Oquab et al. 2023), as RadDino, is REPA's target: it adds a class token and a learned scale on each residual. Both are
pre-norm, with learned positions and a final norm. Parameters are named as in Janus-Pro's files, which follow `timm`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import attention
from layers import Conv2d, LayerNorm, Linear


@dataclass
class ViTConfig:
    """Defaults: siglip-large-patch16-384."""

    image_size: int = 384  # px, of the table of positions
    patch_size: int = 16  # px
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    act: str = "gelu"  # exact, as Janus-Pro's own siglip_vit.py; or "gelu_tanh"
    class_token: bool = False  # DINOv2
    layer_scale: bool = False  # DINOv2
    # Pixel mean and deviation of the training films: UniX's; Janus-Pro's are 0.5 and 0.5.
    mean: float = 0.555895
    std: float = 0.336385
    # How the commands make a film square for this network (`common.images.to_square`). The authors' evaluation takes
    # padding 255 and scaling "shrink"; what their training took is not known.
    padding: int = 0  # grey value beside it
    scaling: str = "fit"  # or "shrink", "janus"


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual (Touvron et al. 2021), of DINOv2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma.to(x.dtype)


class Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.approximate = "tanh" if config.act == "gelu_tanh" else "none"
        self.norm1 = LayerNorm(config.width, eps=1e-6)
        self.qkv = Linear(config.width, 3 * config.width)
        self.proj = Linear(config.width, config.width)
        self.norm2 = LayerNorm(config.width, eps=1e-6)
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)
        self.scale1, self.scale2 = (LayerScale(config.width) if config.layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, tokens, width) -> the same."""
        B, N, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = attention.attend(q, k, v, None).transpose(1, 2).flatten(2)
        x = x + self.scale1(self.proj(attended))
        return x + self.scale2(self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate=self.approximate)))


class VisionTransformer(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False  # training: keep only each block's input and compute the rest again
        self.side = config.image_size // config.patch_size
        self.patch_embed = Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        rows = self.side**2 + config.class_token  # the class token's position comes first
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, config.width))  # weights fill it
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width, eps=1e-6)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Grey uint8 (B, S, S) -> (B, 3, S, S) float32: three equal channels, less the mean, over the deviation."""
        x = (images.float() / 255 - self.config.mean) / self.config.std
        return x[:, None].expand(-1, 3, -1, -1)

    def positions(self, height: int, width: int) -> torch.Tensor:
        """The table of positions for a grid of height x width patches, (1, [1 +] patches, feature width).

        For another grid than its own the table is interpolated as DINOv2's code does, bicubic in float32. For REPA
        RadDino sees a picture of 16 x 16 latents at 16 x 16 patches (224 px), one on each latent (section 3.4).
        """
        if (height, width) == (self.side, self.side):
            return self.pos_embed
        first, table = self.pos_embed.split([int(self.config.class_token), self.side**2], dim=1)
        table = table.view(1, self.side, self.side, -1).permute(0, 3, 1, 2).float()
        table = F.interpolate(table, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([first, table.flatten(2).transpose(1, 2).to(first.dtype)], dim=1)

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: (B, 3, H, W), normalised -> (B, [1 +] patches, width): the class token, which only a judge of
        pictures asks for (judges/raddino.py), then the patches."""
        x = self.patch_embed(pixels)
        positions = self.positions(*x.shape[2:]).to(x.dtype)
        x = x.flatten(2).transpose(1, 2)
        if self.config.class_token:
            x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        x = x + positions
        for block in self.blocks:
            recompute = self.checkpoint_activations and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.norm(x)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: (B, 3, H, W), normalised, sides a multiple of patch_size -> (B, patches, width), row-major."""
        return self.tokens(pixels)[:, int(self.config.class_token) :]
