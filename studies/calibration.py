"""Is what a model is sure of true?

Of N sampled reports of a phantom, a share affirms each observation (`reports/agreement.py`). Where 7 of 10 affirm one,
it should be there in 7 of 10 phantoms. One greedy report says 0 or 1: it is always sure.

    python -m studies.calibration [--weights DIR] [--n 100] [--reports 10]
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from common import arguments
from common.errors import run
from common.observations import OBSERVATIONS
from evaluation import metrics
from evaluation.tables import Paragraph, Table, print_blocks
from judges import classifier
from reports.agreement import agreement
from reports.labeler import POSITIVE, label_report
from sample import DISCLAIMER, TEMPERATURE, TOP_P, read, read_often
from studies.command import load_unix, study


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
    true|, a bin for each confidence. brier: the mean of (confidence - truth)^2. f1: macro F1 of the majority. dots: of
    each confidence (it, how often it was true, in how many answers), the reliability diagram.
    """
    per_phantom = np.zeros((len(truth), count + 1, 2))  # of each confidence: how many, how many true
    for k in range(count + 1):
        per_phantom[:, k, 0] = (affirmed == k).sum(axis=1)
        per_phantom[:, k, 1] = ((affirmed == k) & truth).sum(axis=1)

    def ece(sums: np.ndarray) -> np.ndarray:
        gaps = np.abs(sums[..., 1] - sums[..., 0] * np.arange(count + 1) / count)
        return gaps.sum(axis=-1) / sums[..., 0].sum(axis=-1)

    return {
        "ece": metrics.with_intervals(ece, per_phantom)[0],
        "brier": float(np.square(affirmed / count - truth).mean()),
        "f1": metrics.f1_scores(truth, affirmed > count / 2).macro,
        "dots": [(k / count, true / n, int(n)) for k, (n, true) in enumerate(per_phantom.sum(axis=0)) if n],
    }


def calibration_tables(found: dict, n: int) -> list[Table]:
    """The scores, and the reliability diagram as a table, of n phantoms."""
    names = {"ece": "expected calibration error", "brier": "Brier score", "f1": "macro F1 of the majority"}
    rows = [[name, found["sampled"][score], found["greedy"][score]] for score, name in names.items()]
    title = f"Confidence: {found['reports']} sampled reports of each of {n} phantoms"
    note = f"temperature {TEMPERATURE:g}, top-p {TOP_P:g}. {found['in_doubt']} of {n * len(OBSERVATIONS)} answers are"
    note += " neither 0 nor 1. In brackets: 95 % intervals."
    dots = [[f"{sure:.0%} sure", number, f"{true:.1%}"] for sure, true, number in found["sampled"]["dots"]]
    return [
        Table(["", "share of sampled", "greedy 0/1"], rows, title, note, decimals=4, intervals=True),
        Table(["", "answers", "was true"], dots, "Is what it is sure of true?"),
    ]


def main() -> None:
    parser = study("Is a finding there as often as sampled reports affirm it?", 100, "phantoms", least=2)
    reports = "of each phantom (default 10)"
    parser.add_argument("--reports", type=arguments.whole(2, 1000), default=10, metavar="N", help=reports)
    args = parser.parse_args()
    checkpoint = load_unix(args)
    phantoms = classifier.draw_phantoms(args.seed, range(args.n), classifier.DRAWN_SIZE, progress=True)
    films = [Image.fromarray(each.image) for each in phantoms]
    greedy = read(checkpoint, films, batch=32, progress=True)
    seeds = np.arange(args.n * args.reports).reshape(args.n, args.reports).tolist()  # no two reports share one
    sampled = read_often(checkpoint, films, seeds, TEMPERATURE, TOP_P, batch=32, progress=True)
    found = measure(classifier.truth_array(phantoms), greedy, sampled)
    print_blocks([*calibration_tables(found, args.n), Paragraph(DISCLAIMER)])


if __name__ == "__main__":
    run(main)
