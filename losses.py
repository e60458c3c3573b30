"""What each stage minimises: Eq. 1 for reading, Eq. 2 and REPA for drawing, and the losses of the two stages before.

The und branch is frozen while the gen branch trains: it reads the prompt without a graph, once. So the backward pass
touches the image block alone.

`prompt_gain` trains nothing: it says whether Eq. 2 has taught the gen branch to use its prompt, which the loss hides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import flow
from model import IGNORE, UniX
from vae import VAE, sample_posterior, vae_loss


@dataclass
class Batch:
    """Tensors of B examples; what a stage does not use is None."""

    index: torch.Tensor  # (B,) which image
    image: torch.Tensor | None = None  # (B, S, S) uint8
    text_ids: torch.Tensor | None = None  # (B, T) BOS question EOS BOS answer EOS, or BOS text EOS, padded
    targets: torch.Tensor | None = None  # (B, T) the next token over the answer or the text, IGNORE elsewhere
    phrases: torch.Tensor | None = None  # (B, phrases) 1 where the report says it, nan where it is uncertain
    prompts: list[list[int] | None] | None = None
    posterior_noise: torch.Tensor | None = None  # (B, C, S / 16, S / 16), as is `noise`
    noise: torch.Tensor | None = None
    t_normal: torch.Tensor | None = None  # (B,)

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:  # the DataLoader's hook
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return Batch(**{k: change(v) if isinstance(v, torch.Tensor) else v for k, v in self.__dict__.items()})

    def terms(self) -> int:
        """How many terms its loss has: tokens of answers, phrases that are known, else examples."""
        if self.phrases is not None:
            return int((~self.phrases.isnan()).sum())
        return len(self.index) if self.targets is None else int((self.targets != IGNORE).sum())


# Frozen encoders: (B,) indices and (B, S, S) uint8 images -> the posterior's mean and log-variance, and with REPA the
# target's patch features on the latents' grid.
FrozenFeatures = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


class StageLoss(nn.Module):
    """The loss of any stage as one module, which is what DistributedDataParallel wraps.

    heads: "phrases" (stage vit) or "repa" (stage 2), trained with the stage and dropped at its end. train_und: whether
    the prompt is read with a graph (the paper's ablation). time_shift: of Eq. 2's times, `flow.training_time`.
    """

    def __init__(
        self,
        model: UniX,
        vae: VAE,
        heads: nn.ModuleDict,
        frozen_features: FrozenFeatures,
        repa_weight: float,
        train_und: bool = False,
        time_shift: float = 1.0,
    ) -> None:
        super().__init__()
        self.model, self.vae, self.heads = model, vae, heads
        self.frozen_features, self.repa_weight, self.train_und = frozen_features, repa_weight, train_und
        self.time_shift = time_shift

    def forward(
        self, batches: dict[str, Batch], totals: dict[str, float]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """This micro-batch's share of the loss over the whole batch, and of its parts, which are named in the log.

        totals: kind -> terms in the whole batch (all processes, all micro-batches).
        """
        loss, parts = 0.0, {}
        for kind, batch in batches.items():
            means = getattr(self, kind)(batch)  # one of the methods below
            share = batch.terms() / totals[kind]
            loss = loss + share * means["loss"]
            # Alone, a part called "loss" would say the same twice; beside another kind it goes by its kind's name.
            means = {kind if name == "loss" else name: mean for name, mean in means.items()}
            if len(batches) == 1:
                del means[kind]
            parts |= {name: share * mean.detach() for name, mean in means.items()}
        return loss, parts

    def read(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Eq. 1."""
        pixels = self.model.vit.preprocess(batch.image)
        return {"loss": self.model.report_loss(pixels, batch.text_ids, batch.targets).mean()}

    def recite(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Language modelling on impressions alone, laid out as the prompts of a drawing.

        The paper's LLM knows language before stage 1; ours starts from nothing, and without these examples it would
        meet a text that follows no image for the first time when it is frozen.
        """
        return {"loss": self.model.text_loss(batch.text_ids, batch.targets).mean()}

    def draw(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Eq. 2, and in stage 2 REPA beside it."""
        model = self.model
        mean, log_variance, *repa_target = self.frozen_features(batch.index, batch.image)
        latents = self.vae.normalise(sample_posterior(mean.float(), log_variance.float(), batch.posterior_noise))
        t = flow.training_time(batch.t_normal, self.time_shift)
        x_t = flow.interpolate(latents, batch.noise, t)
        with torch.set_grad_enabled(self.train_und):
            prompt = model.read_prompt(batch.prompts, multiple=32)
        if "repa" not in self.heads:
            v = model.velocity(x_t, t, prompt)
            return {"loss": flow.velocity_error(v, latents, batch.noise).mean()}  # Eq. 2
        v, hidden = model.velocity(x_t, t, prompt, return_layer=model.config.repa_layer)
        mse = flow.velocity_error(v, latents, batch.noise).mean()  # Eq. 2
        repa = flow.repa_loss(self.heads["repa"](hidden), repa_target[0])  # section 3.4
        return {"loss": mse + self.repa_weight * repa, "mse": mse, "repa": repa}

    def rebuild(self, batch: Batch) -> dict[str, torch.Tensor]:
        """What stands in for the published autoencoder's training."""
        images = self.vae.preprocess(batch.image).to(self.model.compute_dtype)
        loss, parts = vae_loss(self.vae, images, batch.posterior_noise)
        return {"loss": loss, **parts}

    def see(self, batch: Batch) -> dict[str, torch.Tensor]:
        """What stands in for SigLIP's pretraining: which phrases will the report use? (Joulin et al. 2016)

        A language model that starts from nothing first learns to talk without looking; predicting all phrases at once,
        from the average and the maximum over the patches, teaches the ViT to see without running a language model.
        """
        known = ~batch.phrases.isnan()
        logits, phrases = self.phrase_logits(batch)[known], batch.phrases[known]
        loss = F.binary_cross_entropy_with_logits(logits, phrases, reduction="sum")
        return {"loss": loss / max(1, batch.terms())}

    def phrase_logits(self, batch: Batch) -> torch.Tensor:
        """(B, phrases) float32."""
        pixels = self.model.vit.preprocess(batch.image).to(self.model.compute_dtype)
        patches = self.model.vit(pixels).float()
        return self.heads["phrases"](torch.cat([patches.mean(dim=1), patches.amax(dim=1)], dim=1))


@torch.inference_mode()
def prompt_gain(
    model: UniX,
    vae: VAE,
    images: torch.Tensor,
    prompts: Sequence[Sequence[int]],
    times: Sequence[float] = (0.9, 0.7, 0.5),
    seed: int = 0,
    batch: int = 16,
) -> dict[float, float]:
    """By how much of itself the error of Eq. 2 grows when the pictures exchange their prompts, at each time.

    0: the prompt is ignored. Most of a velocity's error no prompt can foretell, so the loss of a model that draws what
    it is told is hardly below that of one that does not.

    images: (N, S, S) uint8, N at least 2. prompts: token ids of each. The noise depends on `seed` alone, so two models,
    or one model at two steps, are measured on the same.
    """
    device, half = model.vae2llm.weight.device, len(images) // 2
    others = [*prompts[half:], *prompts[:half]]  # nobody keeps their own
    pixels = (vae.preprocess(part.to(device)).to(model.compute_dtype) for part in images.split(batch))
    data = torch.cat([vae.encode(part).float() for part in pixels])
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(seed)).to(device)
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
