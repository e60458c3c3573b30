"""What the paper's stages minimise: Eq. 1 for reading, Eq. 2 and REPA for drawing.

The und branch is frozen while the gen branch trains: it reads the prompt without a graph, once. So the backward pass
touches the image block alone. Noise and times come with a batch, drawn where its examples are made (`data.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import flow
from layers import Linear
from model import UniX
from vae import VAE, sample_posterior

IGNORE = -100  # a target that carries no loss, as in torch's cross entropy
# Stage of train.py -> the kind of example it trains on. The losses of "read" and "draw" are below, as in the paper, the
# others, of what goes before it and beyond, in training/pretraining.py. "text" is mixed into stage 1.
KINDS = {"1": "read", "2": "draw", "3": "draw", "vae": "rebuild", "vit": "see", "text": "recite", "reflow": "walk"}


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
    latents: torch.Tensor | None = None  # stage reflow: (B, C, S / 16, S / 16), the line's end at t = 0
    t: torch.Tensor | None = None  # stage reflow: (B,), in place of t_normal

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:  # the DataLoader's hook
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return Batch(**{k: change(v) if isinstance(v, torch.Tensor) else v for k, v in self.__dict__.items()})

    def terms(self) -> int:
        """How many terms the mean of its loss is over: tokens of answers, phrases that are known, else examples."""
        if self.phrases is not None:
            return int((~self.phrases.isnan()).sum())
        return len(self.index) if self.targets is None else int((self.targets != IGNORE).sum())


# Frozen encoders: (B,) indices, by which they may keep what they computed, and (B, S, S) uint8 images -> the
# posterior's mean and log-variance, and with REPA the target's patch features on the latents' grid.
FrozenFeatures = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


class RepaProjector(nn.Module):
    """REPA's head (Yu et al. 2024; paper section 3.4): latent tokens' hidden states to an image encoder's features."""

    def __init__(self, width: int, target_width: int, hidden: int = 2048) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Linear(width, hidden), nn.SiLU(), Linear(hidden, hidden), nn.SiLU(), Linear(hidden, target_width)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, tokens, width) -> (B, tokens, target_width)."""
        return self.mlp(hidden)


def repa_loss(projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Negative cosine similarity, averaged over tokens. Both (B, tokens, target_width) on one grid. In [-1, 1]."""
    return -F.cosine_similarity(projected.float(), target.float(), dim=-1).mean()


def token_loss(model: UniX, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. 1: -log p(S_{i+1} | S_{<=i}). hidden: (B, T, width), targets: (B, T) -> (number of targets,) float32.

    Which tokens count (Eq. 1's m and n) and the shift by one are in the targets: `data.pack_answers`.
    """
    wanted = targets != IGNORE  # the output layer is the widest: only tokens with a loss go through it
    return F.cross_entropy(model.to_logits(hidden[wanted]), targets[wanted], reduction="none")


class StageLoss(nn.Module):
    """The loss of stages 1, 2 and 3 as one module, which is what DistributedDataParallel wraps.

    heads: "repa" in stage 2, trained with the stage and dropped at its end. train_und: whether the prompt is read
    with a graph (the paper's ablation). time_shift: of Eq. 2's times, `flow.training_time`.
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
        self.loss_of = {"read": self.read, "draw": self.draw}  # kind of example -> its loss

    def forward(
        self, batches: dict[str, Batch], totals: dict[str, float]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """This micro-batch's share of the mean loss over the whole batch, and of its parts, which are named in the log.

        batches: kind of example -> its examples. totals: kind -> terms in the whole batch (all processes, all
        micro-batches): a token counts the same wherever it is computed.
        """
        loss, parts = 0.0, {}
        for kind, batch in batches.items():
            mean, named = self.loss_of[kind](batch)
            if len(batches) > 1:  # two kinds of example: the log names the loss of each
                named = {kind: mean, **named}
            share = batch.terms() / totals[kind]
            loss = loss + share * mean
            parts |= {name: share * part.detach() for name, part in named.items()}
        return loss, parts

    def read(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(The mean of Eq. 1 over the tokens of the reports, its parts by name.)"""
        pixels = self.model.vit.preprocess(batch.image)
        hidden = self.model.text_states(pixels, batch.text_ids)
        return token_loss(self.model, hidden, batch.targets).mean(), {}

    def draw(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(Eq. 2, in stage 2 with REPA beside it; its parts by name.)"""
        model = self.model
        mean, log_variance, *repa_target = self.frozen_features(batch.index, batch.image)
        latents = self.vae.normalise(sample_posterior(mean.float(), log_variance.float(), batch.posterior_noise))
        t = flow.training_time(batch.t_normal, self.time_shift)
        x_t = flow.interpolate(latents, batch.noise, t)
        with torch.set_grad_enabled(self.train_und):
            prompt = model.read_prompt(batch.prompts)
        v, hidden = model.velocity(x_t, t, prompt, return_layer=model.config.repa_layer)
        mse = flow.velocity_error(v, latents, batch.noise).mean()  # Eq. 2
        if "repa" not in self.heads:
            return mse, {}
        repa = repa_loss(self.heads["repa"](hidden), repa_target[0])  # section 3.4
        return mse + self.repa_weight * repa, {"mse": mse, "repa": repa}
