"""evaluate.py phantom: how well does a model read and draw X-rays whose truth is known?

- reading: it writes the report of a phantom that it was never trained on; the labeler (`reports/labeler.py`) says what
  the report claims
- drawing: it draws from a phantom's impression; a classifier (`judges/classifier.py`) trained on other phantoms says
  what the picture shows, and its features give the distances of Table 3

Every score stands between two others that say what it is worth: a *ceiling*, the same judge on the true reports or
pictures, and a *control*, the same answers held against the truth of other phantoms. A model that ignores its input
scores no better than its control.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

import sample
from common.distributed import Team
from common.errors import UserError
from common.images import load_image
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from evaluation import metrics, page
from evaluation.generated import draw_pictures, write_reports
from evaluation.protocol import OURS, set_drawing_flags
from evaluation.results import publish
from evaluation.tables import Table
from judges import classifier
from judges.classifier import ClassifierRecipe, PhantomClassifier
from judges.features import weights_hash
from judges.trained_classifier import SHIPPED_CLASSIFIER, load_classifier
from phantoms.dataset import TRAIN_SEED, Phantom
from reports.labeler import Label, label_report

COLUMNS = ("generated", "control", "ceiling")


def phantom_command(args: argparse.Namespace) -> None:
    """`evaluate.py phantom`: read and draw phantoms, score both, and write results.json and report.html."""
    if args.seed in (TRAIN_SEED, ClassifierRecipe.seed):
        raise UserError(f"--seed {args.seed}: the model trains on seed 0, the classifier on seed 2; give 1, 4, 5, ...")
    own_folder(args.out)
    set_drawing_flags(OURS, args)
    # The classifier first: a mistake in a flag should not wait for the drawing.
    checkpoint = sample.load_model(args.weights, args.device, getattr(torch, args.dtype), args.adapter, draws=True)
    config = checkpoint.model.config
    size, guidance = args.size or config.image_size, args.guidance or config.guidance
    sample.check_size(size, config.max_latent_size)
    classifier_file = args.classifier or SHIPPED_CLASSIFIER
    judge = load_classifier(classifier_file, args.device)
    # The second half is only for the distance of real pictures to other real pictures.
    phantoms = classifier.draw_phantoms(args.seed, range(2 * args.n), classifier.DRAWN_SIZE, progress=True)
    real, other_real = np.split(np.stack([each.image for each in phantoms]), 2)
    phantoms, partner = phantoms[: args.n], metrics.derangement(args.n, args.seed)

    how = {"steps": args.steps, "solver": args.solver, "guidance": guidance, "size": size}
    weights = weights_hash(args.weights, args.adapter)
    settings = {"n": args.n, "seed": args.seed, **how, "dtype": args.dtype}
    settings |= {"weights": str(args.weights), "weights_sha256": weights}
    alone, batch = Team(0, 1, torch.device(args.device)), args.batch or 32

    def write(rows: Sequence[int]) -> list[dict]:
        texts = sample.read(checkpoint, [Image.fromarray(real[k]) for k in rows], batch=batch)
        made = zip(rows, texts, strict=True)
        return [{"index": k, "truth": phantoms[k].report, "generated": text} for k, text in made]

    batches = [range(start, min(start + batch, args.n)) for start in range(0, args.n, batch)]
    rows = write_reports(args.out, {**settings, "batch": batch}, batches, write, alone, args.resume)
    reports, prompts = [row["generated"] for row in rows], [each.impression for each in phantoms]
    folder = args.out / "generated"
    names = draw_pictures(checkpoint, folder, prompts, 0, how, settings, args.batch, alone, args.resume)
    drawings = np.stack([np.asarray(load_image(folder / name)) for name in names])

    reading = score_reading(phantoms, reports, partner)
    drawing = score_drawing(judge, phantoms, (drawings, real, other_real), partner)
    results = {
        "settings": {**settings, "device": args.device, "batch": args.batch, "classifier": str(classifier_file)},
        "reading": reading,
        "drawing": drawing,
    }
    blocks = [
        f1_table("Reading: F1 of the written reports against the truth", reading),
        f1_table("Drawing: F1 of pictures drawn from impressions", drawing),
        distances(drawing["table_3"], args.n),
    ]
    pairs = []
    for k in range(min(args.n, 16)):
        pairs += [(real[k], f"A phantom. The model reads: {reports[k]}")]
        pairs += [(drawings[k], f"The model draws: {prompts[k]}")]
    blocks += [page.heading("The first of them"), page.pictures(pairs)]
    summary = f"{args.n} phantoms of seed {args.seed}, which the model was never trained on."
    publish(args.out, "Reading and drawing phantoms", summary, blocks, results, f"{args.weights} ({weights})")


def side_accuracy(phantoms: Sequence[Phantom], labels: Sequence[dict[str, Label]]) -> float:
    """Of the findings that a report affirms rightly the share that it puts on the right side.

    labels: for each report, as `reports.labeler.label_report`. Of a phantom those observations are asked that are
    rendered on one side (or on both, as one). A report that names no side, or another, is wrong.
    """
    right = []
    for patient, said in zip(phantoms, labels, strict=True):
        sides: dict[str, set] = {}
        for finding in patient.findings:
            sides.setdefault(finding.observation, set()).add(finding.side)
        for name, rendered in sides.items():
            if len(rendered) == 1 and None not in rendered and said[name].value in (1, -1):
                right.append(rendered == {said[name].side})
    return float(np.mean(right)) if right else float("nan")


def score_reading(phantoms: Sequence[Phantom], reports: Sequence[str], partner: np.ndarray) -> dict:
    """Generated reports, the same ones exchanged between phantoms (control), and the true ones (ceiling)."""
    truth, generated = classifier.truth_array(phantoms), [label_report(report) for report in reports]
    columns = {
        "generated": generated,
        "control": [generated[other] for other in partner],
        "ceiling": [label_report(p.report) for p in phantoms],
    }
    scores = {"judge": "rule-based labeler (reports/labeler.py)", "drawn": truth.sum(axis=0).tolist()}
    for name, labels in columns.items():
        # A rendered finding is there or not: a report that calls it possible has noticed it.
        claimed = np.array([[label.value in (1, -1) for label in one.values()] for one in labels])
        scores[name] = f1_with_intervals(truth, claimed) | {"side_accuracy": side_accuracy(phantoms, labels)}
    return scores


def score_drawing(
    judge: PhantomClassifier, phantoms: Sequence[Phantom], pictures: Sequence[np.ndarray], partner: np.ndarray
) -> dict:
    """Generated pictures, the same ones held against other prompts (control), and the phantoms (ceiling).

    pictures: generated, those of the phantoms, and of other phantoms; each (N, S, S) uint8.
    """
    truth = classifier.truth_array(phantoms)
    (generated, features), (real, real_features), (_, others) = (classifier.judge(judge, each) for each in pictures)
    seen = classifier.shown(judge, generated)
    # The measures of Table 3: of the generated pictures, and for scale of as many other phantoms.
    sets, k = {"generated": features, "other real": others}, min(5, len(truth) - 1)
    return {
        "judge": "classifier (judges/classifier.py), a small CNN trained on phantoms of seed 2",
        "drawn": truth.sum(axis=0).tolist(),
        "generated": f1_with_intervals(truth, seen),
        "control": f1_with_intervals(truth, seen[partner]),
        "ceiling": f1_with_intervals(truth, classifier.shown(judge, real)),
        "table_3": {name: metrics.table_3(real_features, these, k) for name, these in sets.items()},
    }


def f1_with_intervals(truth: np.ndarray, claimed: np.ndarray) -> dict:
    """F1 of each class, macro and micro, each with its 95 % interval."""

    def all_in_a_row(sums: np.ndarray) -> np.ndarray:
        f1 = metrics.f1_from_counts(sums)
        return np.concatenate([f1.per_class, f1.macro[..., None], f1.micro[..., None]], axis=-1)

    *classes, macro, micro = metrics.with_intervals(all_in_a_row, metrics.f1_counts(truth, claimed))
    return {"per_class": classes, "macro": macro, "micro": micro}


def f1_table(title: str, scores: dict) -> Table:
    columns = [[*each["per_class"], each["macro"], each["micro"]] for each in map(scores.get, COLUMNS)]
    names, counts = [*OBSERVATIONS, "macro F1", "micro F1"], [*scores["drawn"], None, None]
    rows = [*map(list, zip(names, counts, *columns, strict=True))]
    note = f"Judge: {scores['judge']}; uncertain counts as positive. control: the same answers held against other"
    note += " phantoms. ceiling: the judge on the true reports or pictures. Intervals, on the page: 95 %, by bootstrap."
    if "side_accuracy" in scores["generated"]:
        rows.append(["side accuracy", None, *(scores[column]["side_accuracy"] for column in COLUMNS)])
        note += " side accuracy: of the findings with a side that a report affirms rightly."
    return Table(["", "true", *COLUMNS], rows, title, note, ours=[14, 15])


def distances(sets: dict[str, dict], n: int) -> Table:
    names = {"fd": "Fréchet distance", "kd": "kernel distance"}
    rows = [[names.get(key, key), *(scores[key] for scores in sets.values())] for key in sets["generated"]]
    note = f"In the classifier's features, {n} against {n} phantoms. other real: as many phantoms of other prompts."
    return Table(["", *sets], rows, "The pictures as a set", note)
