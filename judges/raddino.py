"""RadDino (Pérez-García et al. 2025): the target of REPA, and the features of the Fréchet distances in Table 3."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.published import load_vit
from common.errors import UserError
from vit import VisionTransformer


class RadDino(nn.Module):
    """RadDino (Pérez-García et al. 2025): features of chest X-rays, learned without labels. Patches of 14 px."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    @torch.no_grad()
    def forward(self, images: torch.Tensor, side: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """images: (B, S, S) grey uint8 -> the pooled class token (B, width) and patch features (B, side^2, width).

        side: patches along a side (default: 37, as trained at 518 px); the image is resized to 14 * side px and the
        table of positions interpolated, so that for REPA the patches lie on the latents' grid.
        """
        pixels = (side or self.vit.side) * self.vit.config.patch_size
        x = images[:, None].to(self.vit.pos_embed.device, torch.float32)
        if x.shape[-1] != pixels:
            x = F.interpolate(x, size=(pixels, pixels), mode="bicubic", antialias=True, align_corners=False)
        tokens = self.vit.tokens(self.vit.preprocess(x[:, 0].clamp(0, 255)))
        return tokens[:, 0], tokens[:, 1:]


def load_raddino(folder: str | Path, device: str | torch.device = "cpu") -> RadDino:
    """The published folder: model.safetensors, config.json and preprocessor_config.json."""
    vit = load_vit(folder, device)
    if not vit.config.class_token:
        raise UserError(f"{folder}: is a SigLIP, not RadDino")
    return RadDino(vit)
