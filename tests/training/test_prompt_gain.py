"""The prompt gain of models for which it is known."""

import pytest
import torch

from training.prompt_gain import exchanged_prompts
from vae import VAE


class Believes:
    """Its prompt says what the picture is, and it believes it: of the line from there to x_t, it knows the noise. Its
    velocity is wrong by `bias` besides."""

    compute_dtype, bias = torch.float32, 0.5

    def __init__(self):
        self.vae2llm = torch.nn.Linear(1, 1)

    def read_prompt(self, prompts):
        return torch.tensor(prompts, dtype=torch.float32)[:, :, None, None]

    def velocity(self, x, t, prompt):
        return (x - prompt) / t[:, None, None, None] + self.bias


class OfOneLatent:
    """An autoencoder of pictures of one grey value: 127.5 + 127.5 z."""

    preprocess = staticmethod(VAE.preprocess)

    def encode(self, pixels):
        return pixels.mean(dim=(1, 2, 3), keepdim=True)


def test_the_prompt_gain_of_a_model_that_believes_its_prompt_is_known():
    """Half of the pictures are z = 1 and half -1. With another's prompt x_t seems 2 / t more or less noise."""
    images = torch.tensor([255, 255, 255, 0, 0, 0], dtype=torch.uint8).view(6, 1, 1).expand(6, 16, 16)
    prompts = [[1], [1], [1], [-1], [-1], [-1]]
    gains = exchanged_prompts(Believes(), OfOneLatent(), images, prompts, times=(1.0, 0.5), batch=4)
    assert gains == {t: pytest.approx((2 / t) ** 2 / Believes.bias**2, rel=1e-4) for t in (1.0, 0.5)}


def test_a_model_that_ignores_its_prompt_gains_nothing_and_the_batch_decides_nothing():
    class Deaf(Believes):
        def velocity(self, x, t, prompt):
            return x

    images = torch.randint(0, 256, (5, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    prompts = [[k] for k in range(5)]
    assert exchanged_prompts(Deaf(), OfOneLatent(), images, prompts) == {0.9: 0, 0.7: 0, 0.5: 0}
    one, all_together = (exchanged_prompts(Believes(), OfOneLatent(), images, prompts, batch=b) for b in (1, 5))
    assert one == pytest.approx(all_together, rel=1e-5)
