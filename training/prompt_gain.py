"""How far the model follows its prompts, without a judge. Eq. 2's loss hides it, so a run logs it while it trains."""

from collections.abc import Sequence

import torch

import flow
from model import UniX
from vae import VAE


@torch.inference_mode()
def exchanged_prompts(
    model: UniX,
    vae: VAE,
    images: torch.Tensor,
    prompts: Sequence[Sequence[int]],
    times: Sequence[float] = (0.9, 0.7, 0.5),
    batch: int = 16,
) -> dict[float, float]:
    """By how much of itself the error of Eq. 2 grows when the pictures exchange their prompts, at each time.

    0: the prompt is ignored. Most of a velocity's error no prompt can foretell, so the loss of a model that draws what
    it is told is hardly below that of one that does not.

    images: (N, S, S) uint8, N at least 2. prompts: token ids of each. The noise is always the same, for two models
    or one model at two steps.
    """
    device, half = model.vae2llm.weight.device, len(images) // 2
    others = [*prompts[half:], *prompts[:half]]  # nobody keeps their own
    pixels = (vae.preprocess(part.to(device)).to(model.compute_dtype) for part in images.split(batch))
    data = torch.cat([vae.encode(part).float() for part in pixels])
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(0)).to(device)
    errors = {t: [0.0, 0.0] for t in times}  # with the right prompt, with another's
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        for which, texts in enumerate((prompts, others)):
            prompt = model.read_prompt(texts[rows])
            for time in times:
                t = torch.full((len(data[rows]),), time, device=device)
                v = model.velocity(flow.interpolate(data[rows], noise[rows], t), t, prompt)
                errors[time][which] += flow.velocity_error(v, data[rows], noise[rows]).sum().item()
    return {time: (other - right) / right for time, (right, other) in errors.items()}
