"""Squares of pixels as channels: the only thing in vae.py that the published autoencoder has not (test_golden.py)."""

import torch
import torch.nn.functional as F

from vae import VAE, VAEConfig


def test_squares_as_channels_are_a_wide_convolution_and_its_counterpart():
    """A 3 x 3 kernel over squares of p x p px is one of 3p x 3p px in steps of p; on the way back each output channel
    is one pixel of a square."""
    torch.manual_seed(0)
    p, vae = 2, VAE(VAEConfig(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4, patch=2)).double()
    seen = {}
    vae.encoder.conv_in.register_forward_hook(lambda layer, given, out: seen.update(first=out))
    vae.decoder.conv_out.register_forward_hook(lambda layer, given, out: seen.update(last=out))
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    mean, _ = vae.posterior(x)
    y = vae.decoder(vae.post_quant_conv(mean))
    assert mean.shape == (2, 16, 2, 3) and y.shape == x.shape

    weight, bias = vae.encoder.conv_in.weight, vae.encoder.conv_in.bias
    wide = weight.view(8, 3, p, p, 3, 3).permute(0, 1, 4, 2, 5, 3).reshape(8, 3, 3 * p, 3 * p)
    torch.testing.assert_close(seen["first"], F.conv2d(x, wide, bias, stride=p, padding=p))
    for i in range(p):
        for j in range(p):
            torch.testing.assert_close(y[:, :, i::p, j::p], seen["last"][:, i * p + j :: p**2])
