"""evaluate.py phantom --reports N: is what a model is sure of true?

Of N sampled reports of a phantom, a share affirms each observation (`reports/agreement.py`). Where 7 of 10 affirm one,
it should be there in 7 of 10 phantoms. One greedy report says 0 or 1: it is always sure.

    python -m studies.calibration [--weights DIR] [--n 100] [--reports 10]      without the rest of evaluate.py
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

import numpy as np
import torch
from PIL import Image

from common import arguments
from common.devices import pick_dtype
from common.errors import run
from common.files import SHIPPED, write_text
from common.observations import OBSERVATIONS
from common.ownership import SVG_MARK, own_file
from evaluation import metrics
from evaluation.tables import Paragraph, Table, print_blocks
from judges import classifier
from reports.agreement import agreement
from reports.labeler import POSITIVE, label_report
from sample import DISCLAIMER, TEMPERATURE, TOP_P, load_model, read, read_often
from weights import Checkpoint


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


def calibration_blocks(found: dict, n: int, temperature: float, top_p: float) -> list[Table | Paragraph | str]:
    """What is printed, and shown on the page, of n phantoms."""
    columns = (found["sampled"], found["greedy"])
    rows = [["expected calibration error", *(column["ece"] for column in columns)]]
    rows += [["Brier score", *(column["brier"] for column in columns)]]
    rows += [["macro F1 of the majority", *(column["f1"] for column in columns)], "Brier score by observation"]
    pairs = zip(OBSERVATIONS, *(column["brier_per_class"] for column in columns), strict=True)
    rows += [*map(list, pairs)]
    title = f"Confidence: {found['reports']} sampled reports of each of {n} phantoms"
    note = f"temperature {temperature:g}, top-p {top_p:g}. {found['in_doubt']} of {n * len(OBSERVATIONS)} answers are"
    note += " neither 0 nor 1. In brackets or small print: 95 % intervals."
    dots = [
        [f"{confidence:.0%} sure", number, (true, low, high)]
        for confidence, true, low, high, number in found["sampled"]["dots"]
    ]
    return [
        Table(["", "share of sampled", "greedy 0/1"], rows, title, note, decimals=4, intervals=True),
        Table(["", "answers", "was true"], dots, "Is what it is sure of true?", percent=True),
        reliability(found),
    ]


def reliability(found: dict) -> str:
    """The reliability diagram, an SVG that can be a file of its own. A dot grows with how many answers it stands for;
    dots on the diagonal are calibrated."""

    def at(confidence: float, true: float) -> str:
        return f"{60 + 400 * confidence:.1f} {412 - 400 * true:.1f}"

    marks = [f'<path d="M{at(0, 0)}L{at(1, 1)}" stroke="#999" stroke-dasharray="4"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        marks.append(f'<path d="M{at(0, tick)}H460" stroke="#ccc"/>')
        marks.append(f'<text x="54" y="{416 - 400 * tick}" text-anchor="end">{tick:.0%}</text>')
        marks.append(f'<text x="{60 + 400 * tick}" y="431" text-anchor="middle">{tick:.0%}</text>')
    marks.append('<text x="260" y="452" text-anchor="middle">affirmed</text>')
    marks.append('<text transform="translate(14 212) rotate(-90)" text-anchor="middle">was true</text>')
    series = {f"share of {found['reports']} sampled": found["sampled"], "one greedy": found["greedy"]}
    for k, (name, scores) in enumerate(series.items()):
        colour = ("#0072b2", "#d55e00")[k]
        for confidence, true, low, high, n in scores["dots"]:
            marks.append(f'<path d="M{at(confidence, low)}L{at(confidence, high)}" stroke="{colour}"/>')
            x, y = at(confidence, true).split()
            title = f"<title>{name}: affirmed {confidence:.0%}, was true {true:.1%} of {n}</title>"
            marks.append(f'<circle cx="{x}" cy="{y}" r="{2.5 + log10(n):.1f}" fill="{colour}">{title}</circle>')
        marks.append(f'<text x="480" y="{36 + 20 * k}" style="fill:{colour}">{name}</text>')
    look = 'width="720" height="465" font-family="sans-serif" font-size="13" fill="#62686e"'
    marks = ['<rect width="720" height="465" fill="#fff"/>', *marks]
    return f'<svg xmlns="http://www.w3.org/2000/svg" {look}>{SVG_MARK}\n' + "\n".join(marks) + "\n</svg>\n"


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
    print_blocks(calibration_blocks(found, args.n, args.temperature, args.top_p))
    print(f"\n{DISCLAIMER}")
    if args.out:
        write_text(args.out, reliability(found))
        print(args.out)


if __name__ == "__main__":
    run(main)
