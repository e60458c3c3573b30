"""Does a drawing show what was asked for? A linear judge, trained on real films, on features of a frozen ViT.

Where the truth is rendered (`evaluate.py phantom`) a classifier knows it. Of real films there are some thousand with
labels, enough for a logistic regression on features. What it says of unseen real films is the ceiling. The control
holds each drawing against another one's prompt.

    python -m studies.shown --weights DIR --vit DIR --train DATA

draws pairs from the same noise, with a finding and without it, at several strengths of guidance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common import arguments
from common.devices import pick_device
from common.errors import UserError, run
from common.files import SHIPPED
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from common.pictures import grid, save_png
from evaluation import metrics
from evaluation.baselines import LEAST_POSITIVES
from evaluation.metrics import Scored, derangement
from evaluation.tables import Table, text
from judges.features import Images, features, load_feature_extractor, open_images
from sample import DISCLAIMER, draw
from studies.command import load_unix, study

WITHOUT = "No acute cardiopulmonary abnormality."
PAIRS = {"Pleural Effusion": "Bilateral pleural effusions.", "Cardiomegaly": "Cardiomegaly."}
GUIDANCE = (1.0, 2.0, 4.0)


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
        return float(np.nanmean(areas)) if not np.isnan(areas).all() else float("nan")

    rng = np.random.default_rng(0)
    drawn = [mean(rng.integers(len(scores), size=len(scores))) for _ in range(repeats)]
    return mean(slice(None)), *np.nanquantile(drawn, [0.025, 0.975]).tolist()


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
    held = {"drawn": (judge(drawn[0]), truth), "shuffled": (judge(drawn[0]), truth[other])}
    held["real"] = judge(real[0]), real[1][:, counted]
    each = {}
    for i, name in enumerate(OBSERVATIONS[k] for k in counted):
        each[name] = {way: metrics.area_under_roc(scores[:, i], said[:, i]) for way, (scores, said) in held.items()}
        each[name]["positives"] = int(truth[:, i].sum())
    return {"mean": {way: mean_area(*pair) for way, pair in held.items()}, "each": each}


def enough(truth: np.ndarray) -> bool:
    return LEAST_POSITIVES <= truth.sum() <= len(truth) - LEAST_POSITIVES


def labels_of(train: Images, name: str) -> np.ndarray:
    """(N,) bool. Raises UserError if too few of the films have the finding."""
    column = None if train.labels is None else train.labels[:, OBSERVATIONS.index(name)]
    if column is None or not enough(column):
        few = f"fewer than {LEAST_POSITIVES} films with and without {name}"
        raise UserError(f"--train {train.name}: {few}; give a larger set")
    return column


def main() -> None:
    parser = study("Does a judge of real films see a finding that was asked for?", 32, "pairs of each finding", least=4)
    add = parser.add_argument
    add("--vit", type=arguments.weights_folder, default=SHIPPED, help="weights whose ViT the judge looks through")
    add("--train", type=arguments.existing, metavar="SRC", required=True, help="real films with labels")
    add("--out", type=arguments.output_folder, default="out/shown", help="folder for the pairs (default out/shown)")
    add("--cache", type=arguments.output_folder, default="out/cache", help="where indexes are kept")
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    args = parser.parse_args()
    own_folder(args.out)
    device = pick_device(args.device)
    checkpoint, extractor = load_unix(args, device), load_feature_extractor(None, device, args.vit)
    train = open_images(args.train, "train", args.cache)
    found, rows, sheet = features(train, extractor, progress=True), [], []
    for name, prompt in PAIRS.items():
        judge, areas = fit_judge(found, labels_of(train, name)[:, None]), []
        prompts, seeds = [prompt] * args.n + [WITHOUT] * args.n, [*range(args.n)] * 2
        for guidance in tqdm(GUIDANCE, desc=name, unit="setting", leave=False):
            pictures = draw(checkpoint, prompts, seeds, guidance=guidance)
            pixels = np.stack([extractor.prepare(picture) for picture in pictures])
            logits = judge(extractor.extract(torch.from_numpy(pixels)).float().cpu().numpy())[:, 0]
            areas.append(metrics.area_under_roc(logits, np.arange(len(logits)) < args.n))
            if guidance == 2.0:
                sheet += [(pictures[k], prompts[k]) for k in (*range(4), *range(args.n, args.n + 4))]
        rows.append([name, *areas])
    title = f"Area under the ROC curve of {args.n} drawings with the finding against {args.n} without, same noise"
    print(text(Table(["", *(f"guidance {guidance:g}" for guidance in GUIDANCE)], rows, title)))
    save_png(grid(*map(list, zip(*sheet, strict=True)), columns=4), args.out / "pairs.png")
    print(f"\n{args.out}/pairs.png: guidance 2, the same noise above and below\n\n{DISCLAIMER}")


if __name__ == "__main__":
    run(main)
