"""Sharp pictures: the autoencoder against a discriminator of patches, as kl-f16 was trained (Esser et al. 2021, section
3.1; Isola et al. 2017, section 3.2). No part of the paper: `--stage vae --train decoder --adversarial 0.5`.

An L1 is least at the mean of what a picture may be, and the mean of grain is smooth. The discriminator knows grain from
smoothness, and the decoder learns to draw some.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from layers import Conv2d, GroupNorm


class PatchDiscriminator(nn.Module):
    """Is it a real picture? One answer for each patch of 46 px: above 0 is yes."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (1, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Sequential(Conv2d(a, b, 4, 2, 1), GroupNorm(4, b)) for a, b in pairwise(widths))
        self.answer = Conv2d(widths[-1], 1, 4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, 1, H, W) in [-1, 1] -> (B, 1, H / 8 - 1, W / 8 - 1)."""
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.answer(x)


def adversarial_loss(
    discriminator: PatchDiscriminator,
    decoded: torch.Tensor,
    images: torch.Tensor,
    rebuilding: torch.Tensor,
    last: nn.Parameter,
    weight: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What the decoder is told by the discriminator, and the hinge loss of the discriminator itself: one sum, of which
    each part has a gradient for its own network alone.

    decoded, images: (B, 3, H, W). rebuilding: the decoder's other loss. last: the decoder's last weight, at which the
    adversarial gradient is made `weight` times as long as the other one's, whatever their scales.
    """
    rebuilt, real = (x.mean(dim=1, keepdim=True) for x in (decoded, images))
    standing = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    fooled = -functional_call(discriminator, standing, (rebuilt,)).float().mean()
    ours, theirs = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rebuilding, fooled))
    scale = weight * (ours / (theirs + 1e-4)).clamp(max=1e4).detach()
    on_real, on_rebuilt = discriminator(real).float(), discriminator(rebuilt.detach()).float()
    hinge = 0.5 * (F.relu(1 - on_real).mean() + F.relu(1 + on_rebuilt).mean())
    return scale * fooled + hinge, {"fooled": fooled.detach(), "hinge": hinge.detach()}
