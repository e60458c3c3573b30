"""Does a drawing show what was asked for? A linear judge, trained on real films, on features of a frozen ViT.

Where the truth is rendered (`evaluate.py phantom`) a classifier knows it. Of real films there are some thousand with
labels, enough for a logistic regression on features. What it says of unseen real films is the ceiling. The control
holds each drawing against another one's prompt.

    python -m studies.shown --weights DIR --vit DIR --train DATA

draws pairs from the same noise, with a finding and without it, at several strengths of guidance.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common import arguments
from common.devices import pick_device, pick_dtype
from common.errors import UserError, run
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from common.pictures import grid, save_png
from evaluation import metrics
from evaluation.baselines import LEAST_POSITIVES
from evaluation.metrics import derangement
from evaluation.results import Scored, scored
from judges.features import Images, features, load_feature_extractor, open_images
from sample import DISCLAIMER, draw, load_model

WITHOUT = "No acute cardiopulmonary abnormality."
PAIRS = {"Pleural Effusion": "Bilateral pleural effusions.", "Cardiomegaly": "Cardiomegaly."}
GUIDANCE = (1.0, 2.0, 4.0)


class LinearJudge(NamedTuple):
    """Logistic regression of C labels on standardised features."""

    mean: torch.Tensor  # (width,)
    scale: torch.Tensor  # (width,)
    weight: torch.Tensor  # (width + 1, C); the last row is the bias

    def __call__(self, found: np.ndarray) -> np.ndarray:
        """(N, width) features -> (N, C) logits."""
        return (with_ones((torch.from_numpy(found) - self.mean) / self.scale) @ self.weight).numpy()


def with_ones(x: torch.Tensor) -> torch.Tensor:
    return F.pad(x, (0, 1), value=1.0)


def fit_judge(found: np.ndarray, labels: np.ndarray, penalty: float = 0.02) -> LinearJudge:
    """Least mean cross entropy plus `penalty` / 2 times the squared weights; convex, so there is one answer.

    found: (N, width) float32, labels: (N, C) bool.
    """
    x, y = torch.from_numpy(found), torch.from_numpy(labels).float()
    mean, scale = x.mean(dim=0), x.std(dim=0) + 1e-6
    x = with_ones((x - mean) / scale)
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ weight, y, reduction="none").mean(dim=0).sum()
        value = value + penalty / 2 * weight[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return LinearJudge(mean, scale, weight.detach())


def mean_area(scores: np.ndarray, truth: np.ndarray, repeats: int = 300) -> Scored:
    """The area under the ROC curve, the mean over labels, with its 95 % interval over the pictures.

    scores: (N, C), truth: (N, C) bool.
    """

    def mean(rows: np.ndarray | slice) -> float:
        columns = range(truth.shape[1])
        areas = [metrics.area_under_roc(scores[rows, k], truth[rows, k]) for k in columns]
        return float(np.nanmean(areas)) if not np.isnan(areas).all() else float("nan")

    rng = np.random.default_rng(0)
    drawn = [mean(rng.integers(len(scores), size=len(scores))) for _ in range(repeats)]
    return scored(mean(slice(None)), *np.nanquantile(drawn, [0.025, 0.975]))


def score_shown(
    train: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray], drawn: tuple[np.ndarray, np.ndarray]
) -> dict | None:
    """How well the judge tells real films (the ceiling) and drawings by what they should show.

    Each: features (N, width) and labels (N, 14) bool -> {"mean": {"drawn", "shuffled", "real"}, "each": {observation:
    the same and "positives"}}, areas under the ROC curve; None if no observation is frequent enough.
    """
    counted = [k for k in range(len(OBSERVATIONS)) if all(enough(labels[:, k]) for _, labels in (train, real, drawn))]
    if not counted:
        return None
    judge = fit_judge(train[0], train[1][:, counted])
    other = derangement(len(drawn[0]), seed=0)
    truth = drawn[1][:, counted]
    held = {
        "drawn": (judge(drawn[0]), truth),
        "shuffled": (judge(drawn[0]), truth[other]),
        "real": (judge(real[0]), real[1][:, counted]),
    }
    each = {
        OBSERVATIONS[k]: {
            **{name: metrics.area_under_roc(scores[:, i], truth[:, i]) for name, (scores, truth) in held.items()},
            "positives": int(truth[:, i].sum()),
        }
        for i, k in enumerate(counted)
    }
    return {"mean": {name: mean_area(*pair) for name, pair in held.items()}, "each": each}


def enough(truth: np.ndarray) -> bool:
    return LEAST_POSITIVES <= truth.sum() <= len(truth) - LEAST_POSITIVES


def main() -> None:
    parser = arguments.Parser(
        description="Draw with a finding and without it, from the same noise: does a judge of real films see it?",
        epilog=DISCLAIMER,
    )
    add = parser.add_argument
    add("--weights", type=arguments.weights_folder, required=True, help="the model that draws")
    add("--vit", type=arguments.weights_folder, required=True, help="weights whose ViT the judge looks through")
    add("--train", type=arguments.existing, metavar="SRC", required=True, help="real films with labels")
    add("--n", type=arguments.whole(4, 10_000), default=32, help="pairs of each finding (default 32)")
    add("--out", type=arguments.output_folder, default="out/shown", help="folder for the pairs (default out/shown)")
    add("--cache", type=arguments.output_folder, default="out/cache", help="where features are kept")
    add("--dtype", choices=arguments.DTYPES, default="float32", help=arguments.DTYPES_HELP)
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    args = parser.parse_args()
    own_folder(args.out)
    device = pick_device(args.device)
    train = open_images(args.train, "train", args.cache)
    checkpoint = load_model(args.weights, device, pick_dtype(args.dtype, device))
    extractor = load_feature_extractor(None, device, args.vit)
    found = features(train, extractor, args.cache, progress=True)
    rows = []
    columns = "".join(f"guidance {guidance:g}".rjust(16) for guidance in GUIDANCE)
    print(f"Area under the ROC curve of {args.n} drawings with the finding against {args.n} without, same noise.\n")
    print(f"{'':20}{columns}")
    for name, prompt in PAIRS.items():
        labels = labels_of(train, name, args.train)
        judge = fit_judge(found, labels[:, None])
        areas = []
        for guidance in tqdm(GUIDANCE, desc=name, unit="setting", leave=False):
            prompts, seeds = [prompt] * args.n + [WITHOUT] * args.n, [*range(args.n)] * 2
            pictures = draw(checkpoint, prompts, seeds, guidance=guidance)
            pixels = np.stack([extractor.prepare(picture) for picture in pictures])
            logits = judge(extractor.extract(torch.from_numpy(pixels)).float().cpu().numpy())[:, 0]
            areas.append(metrics.area_under_roc(logits, np.arange(len(logits)) < args.n))
            if guidance == 2.0:
                rows += [*pictures[:4], *pictures[args.n : args.n + 4]]
        print(f"{name:20}" + "".join(f"{area:>16.3f}" for area in areas))
    captions = [prompt for positive in PAIRS.values() for prompt in [positive] * 4 + [WITHOUT] * 4]
    save_png(grid(rows, captions, columns=4), Path(args.out) / "pairs.png")
    print(f"\n{args.out}/pairs.png: guidance 2, the same noise above and below\n\n{DISCLAIMER}")


def labels_of(train: Images, name: str, path: Path) -> np.ndarray:
    """(N,) bool. Raises UserError if too few of the films have the finding."""
    column = None if train.labels is None else train.labels[:, OBSERVATIONS.index(name)]
    if column is None or not enough(column):
        raise UserError(
            f"--train {path}: fewer than {LEAST_POSITIVES} films with and without {name}; give a larger set"
        )
    return column


if __name__ == "__main__":
    run(main)
