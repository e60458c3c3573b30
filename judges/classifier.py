"""The judge of phantoms: a small convolutional network that tells which of the 14 observations a picture shows.

A judge must not depend on what it judges. This one is trained on phantoms alone, of a seed that neither the model
(seed 0) nor the evaluation (seed 1) uses, and never sees a generated picture. It plays the part that an Inception
network plays for photographs (Heusel et al. 2017): its 14 probabilities say whether a picture shows what was asked for,
and the 128 features before them give the Fréchet distance.

    train(recipe)              -> PhantomClassifier
    judge(classifier, images)  -> (N, 14) probabilities, (N, 128) features

A trained one ships: `judges/trained_classifier.py`. Its version is a hash of this file, so whatever runs here should
have a part in the result.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from common.observations import OBSERVATIONS
from phantoms.dataset import Phantom, phantom

SIZE = 128  # px a side of what the classifier sees; larger pictures are averaged down to it
DRAWN_SIZE = 256  # px a side of the rendered phantoms before that
FEATURES = 128


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is trained. The defaults take about five minutes on two idle CPU cores."""

    seed: int = 2  # of the phantoms
    train: int = 6000  # phantoms 0..train-1
    validation: int = 1000  # the ones after, to choose the thresholds
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016); halves the side where the width grows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(out)))


class PhantomClassifier(nn.Module):
    """0.47 M parameters. `thresholds` (14,): the probability above which an observation counts as shown."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 48, 96, 128)  # at 64, 32, 16 and 8 px
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.Sequential(*map(Block, (widths[0], *widths[:-1]), widths))
        self.to_features = nn.Linear(2 * widths[-1], FEATURES)
        self.head = nn.Linear(FEATURES, len(OBSERVATIONS))
        self.register_buffer("thresholds", torch.full((len(OBSERVATIONS),), 0.5))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: (B, 1, 128, 128) in [0, 1] -> (B, 128), not negative."""
        x = self.blocks(self.stem((pixels - 0.5) / 0.25))  # (B, 128, 8, 8)
        # A nodule fills a fiftieth of the picture: its maximum survives the pooling, its mean does not.
        x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return F.relu(self.to_features(x))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: (B, 1, 128, 128) in [0, 1] -> logits (B, 14)."""
        return self.head(F.dropout(self.features(pixels), 0.2, self.training))


def judge(classifier: PhantomClassifier, images: np.ndarray, batch: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """images: (N, S, S) uint8 -> probabilities (N, 14) float32, features (N, 128) float64."""
    device = classifier.head.weight.device
    probabilities, features = [], []
    classifier.eval()
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            found = classifier.features(to_pixels(images[start : start + batch]).to(device))
            probabilities.append(classifier.head(found).sigmoid().float().cpu().numpy())
            features.append(found.double().cpu().numpy())
    return np.concatenate(probabilities), np.concatenate(features)


def shown(classifier: PhantomClassifier, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (N, 14) -> bool (N, 14), by the thresholds chosen on the validation phantoms."""
    return probabilities > classifier.thresholds.cpu().numpy()


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """(N, S, S) uint8 -> (N, 1, 128, 128) float32 in [0, 1]; a larger S is averaged down."""
    pixels = torch.from_numpy(np.array(images))[:, None].float() / 255  # a copy: Pillow's arrays are read-only
    return pixels if pixels.shape[-1] == SIZE else F.interpolate(pixels, (SIZE, SIZE), mode="area")


def draw_phantoms(
    seed: int, indices: Sequence[int], size: int, workers: int | None = None, progress: bool = False
) -> list[Phantom]:
    """The phantoms of these indices, rendered by all cores; few of them are rendered right here."""
    workers = workers or min(os.cpu_count() or 1, 8, len(indices) // 100)
    drawn = partial(phantom, seed, size=size)
    bar = partial(tqdm, total=len(indices), unit="image", desc="phantoms", disable=not progress)
    if workers < 2:
        return list(bar(map(drawn, indices)))
    # "spawn": a forked child of a process whose torch threads have started can hang.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(bar(pool.imap(drawn, indices, chunksize=25)))


def truth_array(phantoms: Sequence[Phantom]) -> np.ndarray:
    """(N, 14) bool: what is to be seen."""
    return np.array([list(p.labels().values()) for p in phantoms], dtype=bool)


def train(recipe: ClassifierRecipe, device: str = "cpu", progress: bool = True) -> PhantomClassifier:
    """Render the phantoms, train, choose the thresholds. All randomness comes from `recipe.seed`. Its parameters are
    bfloat16 numbers, kept and computed with as float32."""
    count = recipe.train + recipe.validation
    phantoms = draw_phantoms(recipe.seed, range(count), DRAWN_SIZE, progress=progress)
    truth = torch.from_numpy(truth_array(phantoms)).float()  # (count, 14)
    images = torch.cat([to_pixels(p.image[None]) for p in phantoms])  # (count, 1, 128, 128)
    del phantoms

    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng():  # the initial weights and dropout take torch's global generator
        torch.manual_seed(recipe.seed)
        classifier = PhantomClassifier().to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=recipe.weight_decay)
        steps = recipe.epochs * (recipe.train // recipe.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1
        )
        bar = tqdm(total=steps, unit="step", desc="classifier", disable=not progress)
        for _ in range(recipe.epochs):
            order = torch.randperm(recipe.train, generator=generator)
            for rows in order[: recipe.train // recipe.batch * recipe.batch].split(recipe.batch):
                pixels = augment(images[rows], generator).to(device, memory_format=torch.channels_last)
                # bfloat16 convolutions halve the forward pass on a CPU; the weights and the loss stay float32.
                with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                    logits = classifier(pixels)
                loss = F.binary_cross_entropy_with_logits(logits.float(), truth[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
        bar.close()
    with torch.no_grad():  # as a file keeps them, so that the thresholds are chosen for what will judge
        for parameter in classifier.parameters():
            parameter.copy_(parameter.bfloat16())

    validation = (images[recipe.train :, 0] * 255).round().to(torch.uint8).numpy()
    probabilities, _ = judge(classifier, validation)
    best = best_thresholds(truth[recipe.train :].bool().numpy(), probabilities)
    classifier.thresholds.copy_(torch.from_numpy(best))
    return classifier


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Another exposure, position, sharpness and noise of the same chests. Never a flip: it would swap the sides.

    pixels: (B, 1, S, S) in [0, 1]. Sharpness matters most: pictures from an autoencoder are softer than rendered ones,
    and a judge that only knows sharp edges would mark down the autoencoder and not the finding.
    """

    def per_picture(spread: float) -> torch.Tensor:
        return spread * torch.randn(len(pixels), 1, 1, 1, generator=generator)

    side = pixels.shape[-1]
    padded = F.pad(pixels, (4, 4, 4, 4), mode="replicate")
    corners = torch.randint(0, 9, (len(pixels), 2), generator=generator).tolist()
    pixels = torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(padded, corners, strict=True)])
    pixels = pixels ** per_picture(0.2).exp() * (1 + per_picture(0.1)) + per_picture(0.05)
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    chosen, amount = torch.rand(2, len(pixels), 1, 1, 1, generator=generator)
    pixels = pixels + (chosen < 0.5) * amount * (soft - pixels)
    grain = torch.randn(pixels.shape, generator=generator)
    return pixels + 0.03 * torch.rand(len(pixels), 1, 1, 1, generator=generator) * grain


def best_thresholds(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N, 14) each -> (14,) float32: the threshold of the best F1 for each observation.

    Often a whole range of thresholds is best; its middle is the one that also holds for other pictures.
    """
    grid = np.linspace(0.05, 0.95, 91)
    predicted = probabilities[None] > grid[:, None, None]  # (91, N, 14)
    hits = (predicted & truth).sum(axis=1)
    f1 = 2 * hits / np.maximum(predicted.sum(axis=1) + truth.sum(axis=0), 1)  # (91, 14)
    return np.array([np.median(grid[column == column.max()]) for column in f1.T], dtype=np.float32)
