"""evaluate.py phantom: how well does a model read and draw X-rays whose truth is known?

- reading: the model writes the report of a phantom it was never trained on; the labeler (`reports/labeler.py`) says
  what the report claims, and the claims are compared with what was drawn
- drawing: the model draws from a phantom's impression; a classifier (`judges/classifier.py`) trained on other phantoms
  says what the picture shows, and that is compared with what was asked for; the distances of Table 3 compare the
  classifier's features of all generated pictures with those of drawn ones
- doubt (--reports): of several sampled reports, is the share that affirms a finding as often right as it says?
  (`evaluation/calibration.py`)
- editing (--edit): does a picture change as asked, and only so? (`evaluation/editing.py`)
- why: how much of each finding the autoencoder keeps (`evaluation/autoencoder.py`), and how much the velocity heeds the
  prompt (`studies/prompt_gain.py`)

Every score stands between two others that say what it is worth: a *ceiling*, the same judge on the true reports or
pictures, and a *control*, the same answers held against the truth of other phantoms. A model that ignores its input
scores no better than its control.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import UserError
from common.files import write_atomically, write_text
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from evaluation import metrics, page
from evaluation.results import footer, mean_and_interval, thumbnail, write_results
from sample import DISCLAIMER, check_size

if TYPE_CHECKING:
    from judges.classifier import PhantomClassifier
    from phantoms.dataset import Phantom
    from phantoms.truth import Finding
    from reports.labeler import Label

# Phantoms of these seeds have been seen: phantoms.dataset.TRAIN_SEED, ClassifierRecipe.seed.
TRAINING_SEED, CLASSIFIER_SEED = 0, 2
COLUMNS = ("generated", "control", "ceiling")
MOST_GAINS = 64  # phantoms for the prompt gain, which more of them hardly change


def derangement(n: int, seed: int) -> np.ndarray:
    """A random permutation (n,) that leaves no index in its place: one cycle through all. n at least 2."""
    order = np.random.default_rng(seed).permutation(n)
    partner = np.empty(n, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


class SideAccuracy(NamedTuple):
    """How many findings were affirmed on the right side, of those affirmed."""

    right: int
    asked: int

    def fraction(self) -> float:
        return self.right / self.asked if self.asked else float("nan")


def side_accuracy(truth: Sequence[dict[str, str]], labels: Sequence[dict[str, Label]]) -> SideAccuracy:
    """Of the findings that a report affirms rightly, how many does it put on the right side?

    truth: for each phantom, observation -> "left" | "right" | "bilateral", as `true_sides`. labels: for each report, as
    `reports.labeler.label_report`. A report that affirms such a finding and names no side, or another, is wrong.
    """
    said = [
        labels_of_one[name].side == side
        for sides, labels_of_one in zip(truth, labels, strict=True)
        for name, side in sides.items()
        if labels_of_one[name].value in (1, -1)
    ]
    return SideAccuracy(sum(said), len(said))


def true_sides(findings: Sequence[Finding]) -> dict[str, str]:
    """Observation -> side, for those of a phantom's observations that are drawn on one side (or on both, as one)."""
    sides: dict[str, set] = {}
    for finding in findings:
        sides.setdefault(finding.observation, set()).add(finding.side)
    return {name: next(iter(one)) for name, one in sides.items() if len(one) == 1 and None not in one}


def phantom_command(args: argparse.Namespace) -> None:
    """`evaluate.py phantom`: read and draw phantoms, score both, and write results.json and report.html."""
    if args.seed in (TRAINING_SEED, CLASSIFIER_SEED):
        raise UserError(f"--seed {args.seed}: the model trains on seed 0, the classifier on seed 2; give 1, 3, 4, ...")
    own_folder(args.out)
    import torch
    from PIL import Image

    import sample
    from evaluation import autoencoder, calibration, editing
    from judges import classifier, trained_classifier
    from judges.features import weights_hash
    from studies import prompt_gain

    print(DISCLAIMER)
    started, timings = time.perf_counter(), {}

    def done(part: str) -> None:
        nonlocal started
        timings[part] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()

    # The classifier first: a mistake in a flag should not wait for the drawing.
    checkpoint = sample.load_model(args.weights, args.device, getattr(torch, args.dtype))
    size = checkpoint.model.config.image_size if args.size is None else args.size
    check_size(size, checkpoint.model.config.max_latent_size)
    phantom_classifier, classifier_file = trained_classifier.load_or_train(args.classifier, device=args.device)
    done("classifier")

    # The second half is only for the distance of real pictures to other real pictures.
    phantoms = classifier.draw_phantoms(args.seed, range(2 * args.n), classifier.DRAWN_SIZE, progress=True)
    phantoms, others = phantoms[: args.n], phantoms[args.n :]
    real = np.stack([p.image for p in phantoms])
    done("phantoms")

    settings = {
        "n": args.n,
        "seed": args.seed,
        "steps": args.steps,
        "solver": args.solver,
        "guidance": sample.chosen_guidance(checkpoint.model.config, args.guidance),
        "size": size,
        "dtype": args.dtype,
        "weights": str(args.weights),
        "weights_sha256": weights_hash(args.weights),
    }
    reports, drawings = earlier(args.out, settings) if args.resume else (None, None)
    if reports is None:
        reports = sample.read(
            checkpoint, [Image.fromarray(image) for image in real], batch=args.batch or 32, progress=True
        )
        save_generated(args.out, settings, reports, None)
        done("reading")
    if drawings is None:
        prompts = [p.impression for p in phantoms]
        drawings = sample.draw(
            checkpoint, prompts, range(args.n), size, args.steps, args.guidance, args.batch, True, args.solver
        )
        save_generated(args.out, settings, reports, drawings)
        done("drawing")

    gains_of = min(args.n, MOST_GAINS)
    gains = prompt_gain.prompt_gain(checkpoint, args.seed, gains_of, size)
    kept = autoencoder.measure(checkpoint.vae, args.seed)
    done("autoencoder and prompt gain")

    partner = derangement(args.n, args.seed)
    reading = score_reading(phantoms, reports, partner)
    other_real = np.stack([p.image for p in others])
    drawing = score_drawing(phantom_classifier, phantoms, real, other_real, drawings, partner)
    done("scoring")
    drawing["classifier"] = {"file": classifier_file, "recipe": vars(classifier.ClassifierRecipe())}
    results = {
        "settings": {**settings, "device": args.device, "batch": args.batch},
        "seconds": timings,
        "reading": reading,
        "drawing": drawing,
        "autoencoder": kept,
        "prompt_gain": {"n": gains_of, **{str(time): gain for time, gain in gains.items()}},
    }
    if args.reports:
        sampled = calibration.read_phantoms(
            checkpoint, real, args.reports, args.temperature, args.top_p, args.batch or 32
        )
        results["confidence"] = calibration.measure(classifier.truth_array(phantoms), reports, sampled)
        results["confidence"] |= {"temperature": args.temperature, "top_p": args.top_p}
        done("sampled reading")
    if args.edit:
        how = {"steps": args.steps, "guidance": args.guidance, "solver": args.solver, "batch": args.batch}
        results["editing"], edited = editing.measure(
            checkpoint, phantom_classifier, args.seed, args.edit, size, args.strength, **how
        )
        results["editing"] = {"strength": args.strength, "kinds": results["editing"]}
        done("editing")
    write_results(args.out, results)
    write_reading(args.out / "reading.jsonl", phantoms, reports)
    write_picture(args.out / "drawing.png", phantoms, real, drawings, size)
    blocks = phantom_page(reading, drawing, kept, gains, phantoms, real, reports, drawings)
    tables = [reading_table(reading, args), drawing_table(drawing, args)]
    tables += [autoencoder.autoencoder_table(kept), prompt_gain.gain_table(gains, gains_of)]
    if args.reports:
        how = f"temperature {args.temperature:g}, top-p {args.top_p:g}"
        tables.append(calibration.calibration_table(results["confidence"], args.n, how))
        blocks += calibration.calibration_blocks(results["confidence"], how)
        picture = page.reliability_svg(calibration.series_of(results["confidence"]), "Calibration", "affirmed", True)
        write_text(args.out / "calibration.svg", picture)
    if args.edit:
        tables.append(editing.editing_table(results["editing"]["kinds"], args.strength))
        blocks += editing.editing_blocks(results["editing"]["kinds"], args.strength, edited)
    about = {"weights": f"{args.weights} ({settings['weights_sha256']})"}
    write_text(args.out / "report.html", page.page("Reading and drawing phantoms", blocks, footer=footer(about)))
    print(*tables, sep="\n\n")
    print(f"\n{args.out}: results.json, report.html, reading.jsonl, drawing.png ({sum(timings.values()):.0f} s)")


def score_reading(phantoms: Sequence[Phantom], reports: Sequence[str], partner: np.ndarray) -> dict:
    """Generated reports, the same ones exchanged between phantoms (control), and the true ones (ceiling)."""
    from judges.classifier import truth_array
    from reports.labeler import label_report

    truth, sides = truth_array(phantoms), [true_sides(p.findings) for p in phantoms]
    generated = [label_report(report) for report in reports]
    columns = {
        "generated": generated,
        "control": [generated[other] for other in partner],
        "ceiling": [label_report(p.report) for p in phantoms],
    }
    scores = {"judge": "rule-based labeler (reports/labeler.py)", "drawn": truth.sum(axis=0).tolist()}
    for name, labels in columns.items():
        # A drawn finding is there or not: a report that calls it possible has noticed it.
        claimed = np.array([[label.value in (1, -1) for label in one.values()] for one in labels])
        side = side_accuracy(sides, labels)
        scores[name] = f1_with_intervals(truth, claimed)
        scores[name] |= {"side_accuracy": side.fraction(), "side_asked": side.asked}
    return scores


def score_drawing(
    phantom_classifier: PhantomClassifier,
    phantoms: Sequence[Phantom],
    real: np.ndarray,
    other_real: np.ndarray,
    drawings: np.ndarray,
    partner: np.ndarray,
) -> dict:
    """Generated pictures, the same ones held against other prompts (control), and the phantoms (ceiling)."""
    from judges import classifier

    truth = classifier.truth_array(phantoms)
    probabilities, features = classifier.judge(phantom_classifier, drawings)
    real_probabilities, real_features = classifier.judge(phantom_classifier, real)
    _, other_features = classifier.judge(phantom_classifier, other_real)
    seen = classifier.shown(phantom_classifier, probabilities)
    scores = {
        "judge": "classifier (judges/classifier.py), a small CNN trained on phantoms of seed 2",
        "drawn": truth.sum(axis=0).tolist(),
        "generated": f1_with_intervals(truth, seen),
        "control": f1_with_intervals(truth, seen[partner]),
        "ceiling": f1_with_intervals(truth, classifier.shown(phantom_classifier, real_probabilities)),
    }
    # The measures of Table 3: of the generated pictures, and of other real ones, which is as good as it gets.
    for name, these in (("generated", features), ("real", other_features)):
        scores[f"frechet_{name}"] = metrics.frechet_distance(these, real_features)
        scores[f"kernel_{name}"] = metrics.kernel_distance(these, real_features)
        each = metrics.prdc_samples(real_features, these, k=min(5, len(these) - 1))
        scores[f"prdc_{name}"] = {measure: mean_and_interval(values) for measure, values in each.items()}
    return scores


def f1_with_intervals(truth: np.ndarray, claimed: np.ndarray) -> dict:
    """F1 of each class, macro and micro; `intervals` has the 95 % interval of each, in this order."""
    scores, counts = metrics.f1_scores(truth, claimed), metrics.f1_counts(truth, claimed)

    def all_in_a_row(sums: np.ndarray) -> np.ndarray:
        f1 = metrics.f1_from_counts(sums)
        return np.concatenate([f1.per_class, f1.macro[..., None], f1.micro[..., None]], axis=-1)

    intervals = np.stack(metrics.bootstrap_sums(all_in_a_row, counts), axis=1)
    return {**scores._asdict(), "per_class": scores.per_class.tolist(), "intervals": intervals.tolist()}


# ---- what is printed and written ---------------------------------------------------------------------------------


def reading_table(scores: dict, args: argparse.Namespace) -> str:
    title = (
        f"Reading: F1 of {args.n} generated reports against what was drawn (phantoms of seed {args.seed}).\n"
        f"Judge: {scores['judge']}; uncertain counts as positive.\n"
        "control: reports of other phantoms. ceiling: the labeler on the true reports."
    )
    asked = {name: scores[name]["side_asked"] for name in COLUMNS}
    sides = row("side accuracy", "", [scores[name]["side_accuracy"] for name in asked])
    note = "side accuracy: of the findings with a side that a report affirms rightly (" + ", ".join(
        f"{name} {count}" for name, count in asked.items()
    )
    return f"{title}\n\n{f1_table(scores)}\n{sides}\n{note})"


def drawing_table(scores: dict, args: argparse.Namespace) -> str:
    title = (
        f"Drawing: F1 of {args.n} pictures generated from impressions (phantoms of seed {args.seed}).\n"
        f"Judge: {scores['judge']}.\n"
        "control: pictures of other prompts. ceiling: the classifier on the phantoms themselves."
    )
    lines = [
        f"{f'in the features of the classifier, {args.n} against {args.n}':<46}{'generated':>11}{'other real':>11}"
    ]
    for measure, values in distances(scores).items():
        cells = (value[0] if isinstance(value, tuple) else value for value in values)
        lines.append(f"{measure:<46}" + "".join(f"{value:>11.3f}" for value in cells))
    return "\n".join([title, "", f1_table(scores), "", *lines])


def distances(scores: dict) -> dict[str, tuple]:
    """Measure -> (of the generated pictures, of other real ones)."""
    rows = {
        "Fréchet distance": (scores["frechet_generated"], scores["frechet_real"]),
        "kernel distance": (scores["kernel_generated"], scores["kernel_real"]),
    }
    return rows | {name: (value, scores["prdc_real"][name]) for name, value in scores["prdc_generated"].items()}


def f1_table(scores: dict) -> str:
    columns = [scores[name] for name in COLUMNS]
    lines = [f"{'':<28}{'drawn':>7}{'generated':>11}{'control':>11}{'ceiling':>11}"]
    for k, name in enumerate(OBSERVATIONS):
        lines.append(row(name, scores["drawn"][k], [column["per_class"][k] for column in columns]))
    lines.append(row("macro F1", "", [column["macro"] for column in columns]))
    lines.append(row("micro F1", "", [column["micro"] for column in columns]))
    return "\n".join(lines)


def row(name: str, count: int | str, values: Sequence[float]) -> str:
    cells = ("-" if np.isnan(value) else f"{value:.3f}" for value in values)
    return f"{name:<28}{count:>7}" + "".join(f"{cell:>11}" for cell in cells)


def phantom_page(
    reading: dict,
    drawing: dict,
    kept: dict,
    gains: dict[float, float],
    phantoms: Sequence[Phantom],
    real: np.ndarray,
    reports: Sequence[str],
    drawings: np.ndarray,
) -> list[str]:
    """The blocks of report.html."""
    blocks = [page.text([f"{len(reports)} drawn chest X-rays that the model was never trained on.", DISCLAIMER])]
    for title, scores in (("Reading", reading), ("Drawing", drawing)):
        rows = []
        for k, name in enumerate([*OBSERVATIONS, "macro", "micro"]):
            cells = []
            for column in (scores[column] for column in COLUMNS):
                value = [*column["per_class"], column["macro"], column["micro"]][k]
                cells.append((value, *column["intervals"][k]))
            rows.append([name, scores["drawn"][k] if k < len(OBSERVATIONS) else None, *cells])
        if title == "Reading":
            rows.append(["side", None, *(scores[column]["side_accuracy"] for column in COLUMNS)])
        bars = [(row[0], *row[2 + k], "") for row in rows[:16] for k in range(len(COLUMNS))]
        blocks += [
            page.heading(f"{title}: F1"),
            page.bars(bars, series=COLUMNS),
            page.table(
                ["observation", "drawn", *COLUMNS],
                rows,
                highlight=[14, 15],
                note=f"Judge: {scores['judge']}. control: the same answers held against other phantoms. ceiling: the"
                " judge on the true reports or pictures. Small numbers: 95 % intervals by bootstrap.",
            ),
        ]
    pairs = []
    for p, image, picture, report in list(zip(phantoms, real, drawings, reports, strict=True))[:12]:
        pairs += [(thumbnail(image), f"drawn by phantoms/drawing.py. The model reads: {report}")]
        pairs += [(thumbnail(picture), f"drawn by the model from: {p.impression}")]
    return [
        *blocks,
        page.heading("The pictures as a set"),
        page.table(
            ["measure", "generated", "other real"],
            [[measure, *values] for measure, values in distances(drawing).items()],
            note="In the classifier's features, against real phantoms. other real: more phantoms, the best possible.",
        ),
        page.heading("What the autoencoder keeps"),
        page.bars(
            [(kind, share, None, None, "") for kind, share in kept["contrast_kept"].items()],
            caption="Of the contrast of each kind of finding, in the finding's own pixels; 1 is all of it. "
            f"PSNR {kept['psnr']:.1f} dB.",
        ),
        page.heading("What the velocity owes to the prompt"),
        page.table(
            ["t", "prompt gain"],
            [[f"{time:g}", gain] for time, gain in gains.items()],
            note="The share by which its error grows if phantoms exchange their impressions: at 0 it ignores them."
            " At t = 1 all is noise.",
        ),
        page.heading("The first twelve"),
        page.pictures(pairs),
    ]


def write_reading(path: Path, phantoms: Sequence[Phantom], reports: Sequence[str]) -> None:
    lines = [
        json.dumps({"index": index, "truth": p.report, "generated": report})
        for index, (p, report) in enumerate(zip(phantoms, reports, strict=True))
    ]
    write_text(path, "\n".join(lines) + "\n")


def write_picture(path: Path, phantoms: Sequence[Phantom], real: np.ndarray, drawings: np.ndarray, size: int) -> None:
    """Up to 16 prompts: the phantom on the left and the generated picture on the right of each pair."""
    from PIL import Image

    from common.pictures import grid, save_png

    pairs, captions = [], []
    for p, image, drawing in list(zip(phantoms, real, drawings, strict=True))[:16]:
        pairs += [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX)), drawing]
        captions += [f"real: {p.impression}", f"generated: {p.impression}"]
    save_png(grid(pairs, captions, columns=8), path)


# ---- --resume ----------------------------------------------------------------------------------------------------


def save_generated(out: Path, settings: dict, reports: Sequence[str], drawings: np.ndarray | None) -> None:
    """generated.npz: what the model made, and the settings it was made with."""
    arrays = {"settings": json.dumps(settings), "reports": np.array(reports)}
    if drawings is not None:
        arrays["drawings"] = drawings
    with write_atomically(out / "generated.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def earlier(out: Path, settings: dict) -> tuple[list[str] | None, np.ndarray | None]:
    """(reports, drawings) of an earlier run with just these settings and weights; None for what there is not."""
    try:
        with np.load(out / "generated.npz") as stored:
            if json.loads(str(stored["settings"])) != settings:
                print(f"--resume: {out} was made with other settings or weights; starting anew", file=sys.stderr)
                return None, None
            return stored["reports"].tolist(), stored.get("drawings")
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(f"--resume: {out / 'generated.npz'} cannot be read ({error}); starting anew", file=sys.stderr)
        return None, None
