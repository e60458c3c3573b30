"""evaluate.py phantom --reports N: is what a model is sure of true?

Of N sampled reports of a phantom, a share affirms each observation (`reports/agreement.py`). Where 7 of 10 affirm one,
it should be drawn in 7 of 10 phantoms. One greedy report says 0 or 1: it is always sure.

    python -m studies.calibration [--weights DIR] [--n 100] [--reports 10]      without the rest of evaluate.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from common import arguments
from common.devices import pick_dtype
from common.errors import run
from common.files import SHIPPED, write_text
from common.observations import OBSERVATIONS
from common.ownership import own_file
from evaluation import metrics, page
from judges import classifier
from reports.agreement import agreement
from reports.labeler import POSITIVE, label_report
from sample import DISCLAIMER, TEMPERATURE, TOP_P, load_model, read, read_often
from weights import Checkpoint

Dot = tuple[float, float, float, float, int]  # a confidence, how often it was true, the interval of that, how many


def read_phantoms(
    checkpoint: Checkpoint, images: np.ndarray, count: int, temperature: float, top_p: float, batch: int = 32
) -> list[list[str]]:
    """`count` sampled reports of each phantom (N, S, S); no two of all reports share a seed."""
    seeds = np.arange(len(images) * count).reshape(len(images), count).tolist()
    films = [Image.fromarray(image) for image in images]
    return read_often(checkpoint, films, seeds, temperature, top_p, batch=batch, progress=True)


def measure(truth: np.ndarray, greedy: Sequence[str], sampled: Sequence[Sequence[str]]) -> dict:
    """Scores of the share of `sampled` reports, and of one `greedy` report as 0 or 1.

    truth: (N, 14) bool. greedy: N reports. sampled: N lists of as many reports each. A report that calls an observation
    possible does not affirm it.
    """
    count = len(sampled[0])
    affirmed = np.array([[each.affirmed for each in agreement(reports)] for reports in sampled])
    sure = np.array([[label.value == POSITIVE for label in label_report(report).values()] for report in greedy])
    columns = {"sampled": scores(truth, affirmed, count), "greedy": scores(truth, sure.astype(int), 1)}
    return {"reports": count, "in_doubt": int(((affirmed > 0) & (affirmed < count)).sum()), **columns}


def scores(truth: np.ndarray, affirmed: np.ndarray, count: int) -> dict:
    """How well affirmed / count, the confidences, fit the truth. truth: (N, 14) bool, affirmed: (N, 14) in 0..count.

    ece: expected calibration error (Naeini et al. 2015), the mean over all answers of |confidence - how often it was
    true|, a bin for each confidence. brier: the mean of (confidence - truth)^2. f1: macro F1 of the majority. dots: the
    reliability diagram, with Wilson's 95 % intervals.
    """
    per_phantom = np.zeros((len(truth), count + 1, 2))  # of each confidence: how many, how many true
    for k in range(count + 1):
        per_phantom[:, k, 0] = (affirmed == k).sum(axis=1)
        per_phantom[:, k, 1] = ((affirmed == k) & truth).sum(axis=1)

    def ece(sums: np.ndarray) -> np.ndarray:
        gaps = np.abs(sums[..., 1] - sums[..., 0] * np.arange(count + 1) / count)
        return gaps.sum(axis=-1) / sums[..., 0].sum(axis=-1)

    sums = per_phantom.sum(axis=0)
    low, high = metrics.bootstrap_sums(ece, per_phantom)
    squares = np.square(affirmed / count - truth)
    dots = [(k / count, true / n, *wilson(true, n), int(n)) for k, (n, true) in enumerate(sums) if n]
    return {
        "ece": (float(ece(sums)), float(low), float(high)),
        "brier": float(squares.mean()),
        "brier_per_class": squares.mean(axis=0).tolist(),
        "f1": metrics.f1_scores(truth, affirmed > count / 2).macro,
        "dots": dots,
    }


def wilson(hits: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927)."""
    centre, spread = (hits + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(hits * (n - hits) / n + z**2 / 4)
    return float(max(centre - spread, 0)), float(min(centre + spread, 1))


def calibration_table(found: dict, n: int, how: str) -> str:
    """how: temperature and top-p, in words."""
    columns = (found["sampled"], found["greedy"])
    title = f"Confidence: the share of {found['reports']} reports ({how}) that affirms an observation, {n} phantoms."
    doubt = f"{found['in_doubt']} of {n * len(OBSERVATIONS)} answers are neither 0 nor 1."
    names = f"{'':28}{'sampled':>11}{'greedy 0/1':>11}"
    lines = [f"{'expected calibration error':28}" + "".join(f"{column['ece'][0]:>11.4f}" for column in columns)]
    for k, end in ((1, "from"), (2, "to")):
        lines += [f"{f'  95 % interval, {end}':28}" + "".join(f"{column['ece'][k]:>11.4f}" for column in columns)]
    lines += [f"{'Brier score':28}" + "".join(f"{column['brier']:>11.4f}" for column in columns)]
    lines += [f"{'macro F1 (of the majority)':28}" + "".join(f"{column['f1']:>11.3f}" for column in columns)]
    dots = [
        f"{confidence:>7.0%} sure: true in {true:>6.1%} of {n}"
        for confidence, true, _, _, n in found["sampled"]["dots"]
    ]
    return "\n".join([title, doubt, "", names, *lines, "", *dots])


def calibration_blocks(found: dict, how: str) -> list[str]:
    """For report.html."""
    rows = [["expected calibration error", found["sampled"]["ece"], found["greedy"]["ece"]]]
    rows += [["Brier score", found["sampled"]["brier"], found["greedy"]["brier"]]]
    rows += [["macro F1 of the majority", found["sampled"]["f1"], found["greedy"]["f1"]]]
    pairs = zip(OBSERVATIONS, found["sampled"]["brier_per_class"], found["greedy"]["brier_per_class"], strict=True)
    rows += ["Brier score by observation", *map(list, pairs)]
    note = f"{how}. Small numbers: 95 % intervals. {found['in_doubt']} answers are neither 0 nor 1."
    title = f"Confidence: {found['reports']} sampled reports of each phantom"
    return [
        page.heading(title),
        page.reliability(series_of(found), "Is what it is sure of true? The diagonal is perfect.", "affirmed"),
        page.table(["", "share of sampled", "greedy 0/1"], rows, note=note, decimals=4),
    ]


def series_of(found: dict) -> dict[str, list[Dot]]:
    """For `page.reliability`."""
    return {f"share of {found['reports']} sampled": found["sampled"]["dots"], "one greedy": found["greedy"]["dots"]}


def main() -> None:
    parser = arguments.Parser(
        description="Of several sampled reports of a phantom, is the share that affirms a finding as often right as it"
        " says?",
        epilog=DISCLAIMER,
    )
    add = parser.add_argument
    weights = "weights folder (default: the shipped tiny model)"
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help=weights)
    add("--n", type=arguments.whole(2, 100_000), default=100, help="phantoms of seed 1 (default 100)")
    add("--reports", type=arguments.whole(2, 1000), default=10, metavar="N", help="of each phantom (default 10)")
    add("--temperature", type=arguments.number(0, 100, above=True), default=TEMPERATURE, help=f"default {TEMPERATURE}")
    add("--top-p", type=arguments.top_p, default=TOP_P, help=f"default {TOP_P}")
    add("--dtype", choices=arguments.DTYPES, default="float32", help=arguments.DTYPES_HELP)
    add("--out", type=arguments.output_file, metavar="FILE", help="an SVG with the reliability diagram")
    args = parser.parse_args()
    if args.out:
        own_file(args.out)
    checkpoint = load_model(args.weights, "cpu", pick_dtype(args.dtype, torch.device("cpu")))
    phantoms = classifier.draw_phantoms(1, range(args.n), classifier.DRAWN_SIZE, progress=True)
    images = np.stack([each.image for each in phantoms])
    greedy = read(checkpoint, [Image.fromarray(image) for image in images], batch=32, progress=True)
    sampled = read_phantoms(checkpoint, images, args.reports, args.temperature, args.top_p)
    found = measure(classifier.truth_array(phantoms), greedy, sampled)
    how = f"temperature {args.temperature:g}, top-p {args.top_p:g}"
    print(f"{calibration_table(found, args.n, how)}\n\n{DISCLAIMER}")
    if args.out:
        write_text(args.out, page.reliability_svg(series_of(found), "Calibration", "affirmed", alone=True))
        print(args.out)


if __name__ == "__main__":
    run(main)
