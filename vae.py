"""The KL autoencoder (Rombach et al. 2022, kl-f16): an image to a 16-channel latent at 1/16 of its side, and back.

Layer names are the latent-diffusion checkpoint's own, so that the published file needs no translation.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from layers import Conv2d, GroupNorm


@dataclass
class VAEConfig:
    """Defaults: the published kl-f16. Normalised latent = scale_factor * (latent - shift_factor)."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    norm_groups: int = 32  # of GroupNorm; must divide every level's width
    patch: int = 1  # px of a side that become channels first, and come back last; kl-f16 has 1
    scale_factor: float = 0.238092
    shift_factor: float = -0.201906


class ResnetBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, c_in, eps=1e-6), Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(groups, c_out, eps=1e-6), Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = Conv2d(c_in, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        h += self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return h


class AttnBlock(nn.Module):
    """Single-head self-attention over the pixels of the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0]  # (B, HW, C)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only, as the checkpoint was trained


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, attention after each at the lowest one, and the way to the next."""

    def __init__(self, c_in: int, c_out: int, blocks: int, attention: bool, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(c_out, groups) for _ in range(blocks if attention else 0))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResnetBlock(channels, channels, groups), AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = [config.ch * m for m in config.ch_mult]
        lowest = len(channels) - 1
        self.patch = config.patch
        self.conv_in = Conv2d(3 * config.patch**2, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        c_in = config.ch
        for i, c_out in enumerate(channels):
            level = Level(c_in, c_out, config.num_res_blocks, i == lowest, config.norm_groups)
            if i != lowest:
                level.downsample = Downsample(c_out)
            self.down.append(level)
            c_in = c_out
        self.mid = Middle(c_in, config.norm_groups)
        self.norm_out = GroupNorm(config.norm_groups, c_in, eps=1e-6)
        self.conv_out = Conv2d(c_in, 2 * config.z_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pixel_unshuffle(x, self.patch)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = [config.ch * m for m in config.ch_mult]
        lowest = len(channels) - 1
        self.patch = config.patch
        self.conv_in = Conv2d(config.z_channels, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1], config.norm_groups)
        levels, c_in = [], channels[-1]
        for i, c_out in reversed(list(enumerate(channels))):
            level = Level(c_in, c_out, config.num_res_blocks + 1, i == lowest, config.norm_groups)
            if i != 0:
                level.upsample = Upsample(c_out)
            levels.append(level)
            c_in = c_out
        self.up = nn.ModuleList(reversed(levels))  # numbered by resolution, walked from the lowest
        self.norm_out = GroupNorm(config.norm_groups, c_in, eps=1e-6)
        self.conv_out = Conv2d(c_in, 3 * config.patch**2, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        z = z.contiguous(memory_format=torch.channels_last)  # as convolutions compute; every layer keeps it
        z = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            z = level(z)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(z))), self.patch)


class VAE(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = Conv2d(2 * config.z_channels, 2 * config.z_channels, 1)
        self.post_quant_conv = Conv2d(config.z_channels, config.z_channels, 1)
        # Start nearly deterministic, at sigma = e^-2.5: noise of sigma 1 would hide the mean in the first steps.
        nn.init.constant_(self.quant_conv.bias[config.z_channels :], -5.0)

    @staticmethod
    def preprocess(images: torch.Tensor) -> torch.Tensor:
        """Grey uint8 (B, H, W) -> (B, 3, H, W) float32 in [-1, 1], three equal channels."""
        return (images.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)

    @staticmethod
    def postprocess(decoded: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), about [-1, 1] -> grey uint8 (B, H, W): the mean of the channels."""
        grey = decoded.float().mean(dim=1)
        return ((grey + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images: (B, 3, H, W) in [-1, 1] -> mean and log-variance, each (B, z_channels, H/16, W/16)."""
        mean, log_variance = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def normalise(self, latent: torch.Tensor) -> torch.Tensor:
        """The autoencoder's latent -> the zero-mean, unit-variance latent that the generation branch works on."""
        return self.config.scale_factor * (latent - self.config.shift_factor)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """images: (B, 3, H, W) in [-1, 1] -> normalised latents (the posterior's mean), (B, z_channels, H/16, W/16)."""
        return self.normalise(self.posterior(images)[0])

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Normalised latents (B, z_channels, h, w) -> images (B, 3, 16h, 16w), about [-1, 1]."""
        return self.decoder(self.post_quant_conv(latents / self.config.scale_factor + self.config.shift_factor))


def sample_posterior(mean: torch.Tensor, log_variance: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The reparameterisation trick: mean + sigma * noise, all of one shape."""
    return mean + torch.exp(0.5 * log_variance) * noise
