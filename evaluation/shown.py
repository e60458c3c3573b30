"""Does a drawing show what was asked for? A linear judge, trained on real films, on features of a frozen ViT.

Where the truth is rendered (`evaluate.py phantom`) a classifier knows it. Of real films there are some thousand with
labels, enough for a logistic regression on features. What it says of unseen real films is the ceiling. The control
holds each drawing against another one's prompt.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from evaluation import metrics
from evaluation.baselines import LEAST_POSITIVES
from evaluation.metrics import Scored, derangement


def fit_judge(found: np.ndarray, labels: np.ndarray, penalty: float = 0.02) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression of C labels on standardised features: (N, width) features -> (N, C) logits.

    Least mean cross entropy plus `penalty` / 2 times the squared weights; convex, so there is one answer. found:
    (N, width) float32, labels: (N, C) bool.
    """
    x, y = torch.from_numpy(found), torch.from_numpy(labels).float()
    mean, scale = x.mean(dim=0), x.std(dim=0) + 1e-6

    def prepared(features: np.ndarray) -> torch.Tensor:  # a one at the end, whose weight is the bias
        return F.pad((torch.from_numpy(features) - mean) / scale, (0, 1), value=1.0)

    x = prepared(found)
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ weight, y, reduction="none").mean(dim=0).sum()
        value = value + penalty / 2 * weight[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return lambda features: (prepared(features) @ weight.detach()).numpy()


def mean_area(scores: np.ndarray, truth: np.ndarray, repeats: int = 300) -> Scored:
    """The area under the ROC curve, the mean over labels, with its 95 % interval over the pictures.

    scores: (N, C), truth: (N, C) bool.
    """

    def mean(rows: np.ndarray | slice) -> float:
        areas = [metrics.area_under_roc(scores[rows, k], truth[rows, k]) for k in range(truth.shape[1])]
        return float(np.nanmean(areas))

    rng = np.random.default_rng(0)
    drawn = [mean(rng.integers(len(scores), size=len(scores))) for _ in range(repeats)]
    return mean(slice(None)), *np.nanquantile(drawn, [0.025, 0.975]).tolist()


def score_shown(
    train: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray], drawn: tuple[np.ndarray, np.ndarray]
) -> dict[str, Scored] | None:
    """How well the judge tells real films (the ceiling) and drawings by what they should show.

    Each: features (N, width) and labels (N, 14) bool -> areas under the ROC curve: "drawn", "shuffled" (the control)
    and "real", the means over the observations that LEAST_POSITIVES of each set have; None if there is none.
    """

    def enough(truth: np.ndarray) -> np.ndarray:
        return (truth.sum(axis=0) >= LEAST_POSITIVES) & ((~truth).sum(axis=0) >= LEAST_POSITIVES)

    counted = enough(train[1]) & enough(real[1]) & enough(drawn[1])
    if not counted.any():
        return None
    judge, truth = fit_judge(train[0], train[1][:, counted]), drawn[1][:, counted]
    said, other = judge(drawn[0]), derangement(len(truth), seed=0)
    found = {"drawn": mean_area(said, truth), "shuffled": mean_area(said, truth[other])}
    return {**found, "real": mean_area(judge(real[0]), real[1][:, counted])}
