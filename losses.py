"""What each stage minimises: Eq. 1 for reading, Eq. 2 and REPA for drawing, and the losses of the two stages before.

The und branch is frozen when the gen branch trains: it reads the prompt without a graph, once, and the image encoders'
results are kept. So the backward pass touches the image block alone.
"""

from __future__ import annotations

import torch
from torch import nn

import data
import flow
from judges.raddino import RadDino
from model import UniX
from vae import VAE, sample_posterior, vae_loss
from weights import Checkpoint


class StageLoss(nn.Module):
    """The loss of any stage as one module, which is what DistributedDataParallel wraps."""

    def __init__(
        self, model: UniX, vae: VAE, heads: nn.ModuleDict, encode: Encoder, repa_weight: float, both: bool = False
    ) -> None:
        super().__init__()
        self.model, self.vae, self.heads = model, vae, heads
        self.encode, self.repa_weight, self.both = encode, repa_weight, both

    def forward(
        self, batches: dict[str, data.Batch], totals: dict[str, float]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """This micro-batch's share of the loss over the whole batch, and of its parts, which are named in the log.

        totals: kind -> terms in the whole batch (all processes, all micro-batches).
        """
        loss, parts = 0.0, {}
        for kind, batch in batches.items():
            if kind == "read":
                pixels = data.vit_pixels(batch.image, self.model.config)
                part = self.model.report_loss(pixels, batch.text_ids, batch.targets).sum() / totals[kind]  # Eq. 1
                more = {"read": part.detach()} if len(batches) > 1 else {}
            else:
                mean, more = {"rebuild": self.rebuild, "see": self.see, "draw": self.draw}[kind](batch)
                share = batch.terms() / totals[kind]
                part, more = mean * share, {name: value * share for name, value in more.items()}
            loss, parts = loss + part, parts | more
        return loss, parts

    def rebuild(self, batch: data.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return vae_loss(self.vae, data.vae_pixels(batch.image).to(self.model.compute_dtype), batch.posterior_noise)

    def see(self, batch: data.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What stands in for SigLIP's pretraining: which phrases will the impression use? (Joulin et al. 2016)

        A language model that starts from nothing first learns to talk without looking; predicting all phrases at once,
        from the average and the maximum over the patches, teaches the ViT to see without running a language model.
        """
        pixels = data.vit_pixels(batch.image, self.model.config)
        patches = self.model.vit(pixels.to(self.model.compute_dtype)).float()
        logits = self.heads["phrases"](torch.cat([patches.mean(dim=1), patches.amax(dim=1)], dim=1))
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.phrases), {}

    def draw(self, batch: data.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 2, and in stage 2 REPA beside it. The frozen und branch reads the prompt without a graph."""
        model = self.model
        mean, log_variance, *features = self.encode(batch.index, batch.image)
        latents = self.vae.normalise(sample_posterior(mean.float(), log_variance.float(), batch.posterior_noise))
        t = flow.training_time(batch.t_normal)
        x_t = flow.interpolate(latents, batch.noise, t)
        with torch.set_grad_enabled(self.both):
            prompt = model.read_prompt(batch.prompts, multiple=32)
        if "repa" not in self.heads:
            v = model.velocity(x_t, t, prompt)
            return flow.velocity_error(v, latents, batch.noise).mean(), {}  # Eq. 2
        v, hidden = model.velocity(x_t, t, prompt, tap=model.config.repa_layer)
        mse = flow.velocity_error(v, latents, batch.noise).mean()  # Eq. 2
        repa = flow.repa_loss(self.heads["repa"](hidden), features[0])
        return mse + self.repa_weight * repa, {"mse": mse.detach(), "repa": repa.detach()}


class Encoder:
    """Posteriors (and REPA targets) of the frozen encoders, computed the first time an image comes by.

    Kept in memory in the compute dtype, up to MAX_BYTES; beyond that they are computed every time. A kept and a
    computed value are the same bits, so a run that goes on elsewhere trains on the same numbers.
    """

    MAX_BYTES = 4 * 2**30

    def __init__(self, checkpoint: Checkpoint, count: int, dtype: torch.dtype, repa: nn.Module | None = None) -> None:
        self.checkpoint, self.dtype, self.repa = checkpoint, dtype, repa
        self.count, self.known, self.rows = count, torch.zeros(count, dtype=torch.bool), None

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """images: (B, S, S) uint8 -> posterior mean and log-variance, and with REPA the target's patch features on the
        latents' grid."""
        model, vae = self.checkpoint.model, self.checkpoint.vae
        encoded = vae.posterior(data.vae_pixels(images).to(self.dtype))
        if isinstance(self.repa, RadDino):
            encoded += (self.repa(images, side=images.shape[-1] // vae.config.downsampling)[1],)
        elif self.repa is not None:
            encoded += (self.repa(data.vit_pixels(images, model.config).to(self.dtype)),)
        return tuple(value.to(self.dtype) for value in encoded)

    def __call__(self, index: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        where = index.cpu()
        if self.known[where].all():
            return tuple(row[where].to(images.device) for row in self.rows)
        encoded = self.encode(images)  # of all: a batch with only some new ones is rare
        if self.rows is None:
            rows = [torch.empty(self.count, *e.shape[1:], dtype=e.dtype, device="meta") for e in encoded]
            fits = sum(row.nbytes for row in rows) <= self.MAX_BYTES
            self.rows = [torch.empty_like(row, device="cpu") for row in rows] if fits else []
        if self.rows:
            for row, value in zip(self.rows, encoded, strict=True):
                row[where] = value.cpu()
            self.known[where] = True
        return encoded
