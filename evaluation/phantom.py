"""evaluate.py phantom: how well does a model read and draw X-rays whose truth is known?

- reading: it writes the report of a phantom that it was never trained on; the labeler (`reports/labeler.py`) says what
  the report claims
- drawing: it draws from a phantom's impression; a classifier (`judges/classifier.py`) trained on other phantoms says
  what the picture shows, and its features give the distances of Table 3
- why: what the autoencoder keeps and what the velocity owes to the prompt; with --reports how sure it is, with --edit
  what an edit changes: `autoencoder`, `prompt_gain`, `calibration` and `editing` of studies/

Every score stands between two others that say what it is worth: a *ceiling*, the same judge on the true reports or
pictures, and a *control*, the same answers held against the truth of other phantoms. A model that ignores its input
scores no better than its control.
"""

from __future__ import annotations

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
from evaluation.results import publish, thumbnail
from evaluation.tables import Paragraph, Table
from judges import classifier
from judges.classifier import PhantomClassifier
from judges.features import weights_hash
from judges.trained_classifier import SHIPPED_CLASSIFIER, load_classifier
from phantoms.dataset import Phantom
from phantoms.truth import Finding
from reports.labeler import Label, label_report
from studies import autoencoder, calibration, editing, prompt_gain

# Phantoms of these seeds have been seen: phantoms.dataset.TRAIN_SEED, ClassifierRecipe.seed.
TRAINING_SEED, CLASSIFIER_SEED = 0, 2
COLUMNS = ("generated", "control", "ceiling")
MOST_GAINS = 64  # phantoms for the prompt gain, which more of them hardly change


def side_accuracy(truth: Sequence[dict[str, str]], labels: Sequence[dict[str, Label]]) -> tuple[float, int]:
    """Of the findings that a report affirms rightly: (the share that it puts on the right side, how many there are).

    truth: for each phantom, observation -> "left" | "right" | "bilateral", as `true_sides`. labels: for each report, as
    `reports.labeler.label_report`. A report that affirms such a finding and names no side, or another, is wrong.
    """
    said = [
        labels_of_one[name].side == side
        for sides, labels_of_one in zip(truth, labels, strict=True)
        for name, side in sides.items()
        if labels_of_one[name].value in (1, -1)
    ]
    return sum(said) / len(said) if said else float("nan"), len(said)


def true_sides(findings: Sequence[Finding]) -> dict[str, str]:
    """Observation -> side, for those of a phantom's observations that are rendered on one side (or on both, as one)."""
    sides: dict[str, set] = {}
    for finding in findings:
        sides.setdefault(finding.observation, set()).add(finding.side)
    return {name: next(iter(one)) for name, one in sides.items() if len(one) == 1 and None not in one}


def phantom_command(args: argparse.Namespace) -> None:
    """`evaluate.py phantom`: read and draw phantoms, score both, and write results.json and report.html."""
    if args.seed in (TRAINING_SEED, CLASSIFIER_SEED):
        raise UserError(f"--seed {args.seed}: the model trains on seed 0, the classifier on seed 2; give 1, 3, 4, ...")
    own_folder(args.out)
    set_drawing_flags(OURS, args)
    # The classifier first: a mistake in a flag should not wait for the drawing.
    checkpoint = sample.load_model(args.weights, args.device, getattr(torch, args.dtype))
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
    weights = weights_hash(args.weights)
    settings = {"n": args.n, "seed": args.seed, **how, "dtype": args.dtype}
    settings |= {"weights": str(args.weights), "weights_sha256": weights}
    alone, batch = Team(0, 1, torch.device(args.device)), args.batch or 32

    def write(rows: Sequence[int]) -> list[dict]:
        texts = sample.read(checkpoint, [Image.fromarray(real[k]) for k in rows], batch=batch)
        return [
            {"index": k, "truth": phantoms[k].report, "generated": text} for k, text in zip(rows, texts, strict=True)
        ]

    batches = [range(start, min(start + batch, args.n)) for start in range(0, args.n, batch)]
    rows = write_reports(args.out, {**settings, "batch": batch}, batches, write, alone, args.resume)
    reports, prompts = [row["generated"] for row in rows], [each.impression for each in phantoms]
    folder = args.out / "generated"
    names = draw_pictures(checkpoint, folder, prompts, 0, how, settings, args.batch, alone, args.resume)
    drawings = np.stack([np.asarray(load_image(folder / name)) for name in names])

    gains_of = min(args.n, MOST_GAINS)
    gains = prompt_gain.prompt_gain(checkpoint, args.seed, gains_of, size)
    kept = autoencoder.measure(checkpoint.vae, args.seed)
    reading = score_reading(phantoms, reports, partner)
    drawing = score_drawing(judge, phantoms, real, other_real, drawings, partner)
    drawing["classifier"] = {"file": str(classifier_file), "recipe": vars(classifier.ClassifierRecipe())}
    results = {
        "settings": {**settings, "device": args.device, "batch": args.batch},
        "reading": reading,
        "drawing": drawing,
        "autoencoder": kept,
        "prompt_gain": {"n": gains_of, **{str(time): gain for time, gain in gains.items()}},
    }
    blocks = [
        Paragraph(f"{args.n} phantoms of seed {args.seed}, which the model was never trained on."),
        Paragraph(sample.DISCLAIMER),
        f1_table("Reading: F1 of the written reports against the truth", reading),
        f1_table("Drawing: F1 of pictures drawn from impressions", drawing),
        distances(drawing, args.n),
        *autoencoder.autoencoder_blocks(kept),
        prompt_gain.gain_table(gains, gains_of),
    ]
    if args.reports:
        sampling = (args.temperature, args.top_p)
        sampled = calibration.read_phantoms(checkpoint, real, args.reports, *sampling, batch)
        confidence = calibration.measure(classifier.truth_array(phantoms), reports, sampled)
        results["confidence"] = confidence | {"temperature": args.temperature, "top_p": args.top_p}
        blocks += calibration.calibration_tables(confidence, args.n, *sampling)
    if args.edit:
        how |= {"guidance": args.guidance, "batch": args.batch}
        kinds, sheet = editing.measure(checkpoint, judge, args.seed, args.edit, strength=args.strength, **how)
        results["editing"] = {"strength": args.strength, "kinds": kinds}
        blocks += [editing.editing_table(kinds, args.strength), page.pictures(sheet, columns=5)]
    pairs = []
    for p, image, picture, report in list(zip(phantoms, real, drawings, reports, strict=True))[:16]:
        pairs += [(thumbnail(image), f"A phantom. The model reads: {report}")]
        pairs += [(thumbnail(picture), f"The model draws: {p.impression}")]
    blocks += [page.heading("The first of them"), page.pictures(pairs)]
    publish(args.out, "Reading and drawing phantoms", blocks, results, f"{args.weights} ({weights})")


def score_reading(phantoms: Sequence[Phantom], reports: Sequence[str], partner: np.ndarray) -> dict:
    """Generated reports, the same ones exchanged between phantoms (control), and the true ones (ceiling)."""
    truth, sides = classifier.truth_array(phantoms), [true_sides(p.findings) for p in phantoms]
    generated = [label_report(report) for report in reports]
    columns = {
        "generated": generated,
        "control": [generated[other] for other in partner],
        "ceiling": [label_report(p.report) for p in phantoms],
    }
    scores = {"judge": "rule-based labeler (reports/labeler.py)", "drawn": truth.sum(axis=0).tolist()}
    for name, labels in columns.items():
        # A rendered finding is there or not: a report that calls it possible has noticed it.
        claimed = np.array([[label.value in (1, -1) for label in one.values()] for one in labels])
        scores[name] = f1_with_intervals(truth, claimed)
        scores[name]["side_accuracy"], scores[name]["side_asked"] = side_accuracy(sides, labels)
    return scores


def score_drawing(
    judge: PhantomClassifier,
    phantoms: Sequence[Phantom],
    real: np.ndarray,
    other_real: np.ndarray,
    drawings: np.ndarray,
    partner: np.ndarray,
) -> dict:
    """Generated pictures, the same ones held against other prompts (control), and the phantoms (ceiling)."""
    truth = classifier.truth_array(phantoms)
    probabilities, features = classifier.judge(judge, drawings)
    real_probabilities, real_features = classifier.judge(judge, real)
    _, other_features = classifier.judge(judge, other_real)
    seen = classifier.shown(judge, probabilities)
    scores = {
        "judge": "classifier (judges/classifier.py), a small CNN trained on phantoms of seed 2",
        "drawn": truth.sum(axis=0).tolist(),
        "generated": f1_with_intervals(truth, seen),
        "control": f1_with_intervals(truth, seen[partner]),
        "ceiling": f1_with_intervals(truth, classifier.shown(judge, real_probabilities)),
    }
    # The measures of Table 3: of the generated pictures, and of other real ones, which is as good as it gets.
    for name, these in (("generated", features), ("real", other_features)):
        scores[f"frechet_{name}"] = metrics.frechet_distance(these, real_features)
        scores[f"kernel_{name}"] = metrics.kernel_distance(these, real_features)
        each = metrics.prdc_samples(real_features, these, k=min(5, len(these) - 1))
        scores[f"prdc_{name}"] = {measure: metrics.mean_scores(values)[0] for measure, values in each.items()}
    return scores


def f1_with_intervals(truth: np.ndarray, claimed: np.ndarray) -> dict:
    """F1 of each class, macro and micro; `intervals` has the 95 % interval of each, in this order."""

    def all_in_a_row(sums: np.ndarray) -> np.ndarray:
        f1 = metrics.f1_from_counts(sums)
        return np.concatenate([f1.per_class, f1.macro[..., None], f1.micro[..., None]], axis=-1)

    each = metrics.with_intervals(all_in_a_row, metrics.f1_counts(truth, claimed))
    *classes, macro, micro = (value for value, _, _ in each)
    return {"per_class": classes, "macro": macro, "micro": micro, "intervals": [list(ends) for _, *ends in each]}


# ---- what is printed and shown -----------------------------------------------------------------------------------


def f1_table(title: str, scores: dict) -> Table:
    columns = []
    for column in (scores[name] for name in COLUMNS):
        values = [*column["per_class"], column["macro"], column["micro"]]
        columns.append([(value, *ends) for value, ends in zip(values, column["intervals"], strict=True)])
    names, counts = [*OBSERVATIONS, "macro F1", "micro F1"], [*scores["drawn"], None, None]
    rows = [*map(list, zip(names, counts, *columns, strict=True))]
    note = f"Judge: {scores['judge']}; uncertain counts as positive. control: the same answers held against other"
    note += " phantoms. ceiling: the judge on the true reports or pictures. Intervals, on the page: 95 %, by bootstrap."
    if "side_accuracy" in scores["generated"]:
        rows.append(["side accuracy", None, *(scores[column]["side_accuracy"] for column in COLUMNS)])
        asked = ", ".join(f"{column} {scores[column]['side_asked']}" for column in COLUMNS)
        note += f" side accuracy: of the findings with a side that a report affirms rightly ({asked})."
    return Table(["", "true", *COLUMNS], rows, title, note, ours=[14, 15])


def distances(scores: dict, n: int) -> Table:
    rows = [
        ["Fréchet distance", scores["frechet_generated"], scores["frechet_real"]],
        ["kernel distance", scores["kernel_generated"], scores["kernel_real"]],
        *([name, value, scores["prdc_real"][name]] for name, value in scores["prdc_generated"].items()),
    ]
    note = f"In the classifier's features, {n} against {n} phantoms. other real: more phantoms, the best possible."
    return Table(["", "generated", "other real"], rows, "The pictures as a set", note)
