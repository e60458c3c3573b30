"""How well does a model read and draw? So far on phantoms, whose truth is known.

    python evaluate.py phantom --n 500

- reading: the model writes the report of a phantom it was never trained on; the rule-based labeler (`labeler.py`)
  says what the report claims, and the claims are compared with what was drawn
- drawing: the model draws from a phantom's impression; a probe (`probe.py`) trained on other phantoms says what the
  picture shows, and that is compared with what was asked for; the Fréchet distance compares the features of all
  generated pictures with those of drawn ones

Every score stands between two others that say what it is worth: a *ceiling*, the same judge on the true reports or
pictures, and a *control*, the same answers held against the truth of other phantoms. A model that ignores its input
scores no better than its control.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from errors import UserError, run
from sample import DISCLAIMER, SHIPPED, check_device, check_size

TRAINING_SEED, PROBE_SEED = 0, 2  # phantoms of these seeds have been seen: data.TRAIN_SEED, probe.Recipe.seed


# ---- the measures ------------------------------------------------------------------------------------------------


class F1(NamedTuple):
    per_class: np.ndarray  # (C,) float64, nan where undefined
    macro: float
    micro: float


def f1_scores(truth: np.ndarray, prediction: np.ndarray) -> F1:
    """F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall. truth, prediction: (N, C) bool.

    per class; macro: the mean over the classes; micro: of the counts of all classes pooled. A class that is neither
    true nor predicted anywhere has no F1 (0 / 0): it is nan, and left out of the macro mean. One that is predicted but
    never true has F1 0. (scikit-learn calls both 0.) Raises ValueError if the shapes differ.
    """
    truth, prediction = np.asarray(truth, dtype=bool), np.asarray(prediction, dtype=bool)
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} must be (N, C) alike")
    hits = (truth & prediction).sum(axis=0)
    claims = truth.sum(axis=0) + prediction.sum(axis=0)  # 2 TP + FP + FN
    per_class = np.divide(2 * hits, claims, out=np.full(len(hits), np.nan), where=claims > 0)
    macro = float(np.nanmean(per_class)) if (claims > 0).any() else float("nan")
    micro = float(2 * hits.sum() / claims.sum()) if claims.sum() else float("nan")
    return F1(per_class, macro, micro)


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians fitted to the features (Heusel et al. 2017, the formula of FID).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), A and B the covariances. features: (N, D), N at least 2, in
    the square of their unit. Both roots are of symmetric matrices and come from eigenvalues, with rounding errors
    below zero cut off; so it is also right where N < D makes the covariances singular. It is biased upwards for small
    N: compare only distances of equal N. Raises ValueError for fewer than two rows, unequal widths or non-numbers.
    """
    a, b = np.asarray(features_a, dtype=np.float64), np.asarray(features_b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features {a.shape} and {b.shape} must be (N, D) with equal D and at least two rows")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features contain inf or nan")
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    product = root_a @ cov_b @ root_a
    cross = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return max(0.0, float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def derangement(n: int, seed: int) -> np.ndarray:
    """A random permutation (n,) that leaves no index in its place: one cycle through all. n at least 2."""
    order = np.random.default_rng(seed).permutation(n)
    partner = np.empty(n, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


class SideAccuracy(NamedTuple):
    right: int
    asked: int

    def fraction(self) -> float:
        return self.right / self.asked if self.asked else float("nan")


def side_accuracy(truth: Sequence[dict[str, str]], labels: Sequence[dict]) -> SideAccuracy:
    """Of the findings that a report affirms rightly, how many does it put on the right side?

    truth: for each phantom, observation -> "left" | "right" | "bilateral", as `true_sides`. labels: for each report, as
    `labeler.label_report`. A report that affirms such a finding and names no side, or another, is wrong.
    """
    said = [
        labels_of_one[name].side == side
        for sides, labels_of_one in zip(truth, labels, strict=True)
        for name, side in sides.items()
        if labels_of_one[name].value in (1, -1)
    ]
    return SideAccuracy(sum(said), len(said))


def true_sides(findings: Sequence) -> dict[str, str]:
    """Observation -> side, for those of a phantom's observations that are drawn on one side (or on both, as one)."""
    sides: dict[str, set] = {}
    for finding in findings:
        sides.setdefault(finding.observation, set()).add(finding.side)
    return {name: next(iter(one)) for name, one in sides.items() if len(one) == 1 and None not in one}


# ---- evaluate.py phantom -----------------------------------------------------------------------------------------


def phantom_command(args: argparse.Namespace) -> None:
    check_phantom_args(args)
    import torch
    from PIL import Image

    import probe as judges
    import sample
    from weights import load_checkpoint

    check_device(args.device)
    print(DISCLAIMER)
    started, timings = time.perf_counter(), {}

    def done(part: str) -> None:
        nonlocal started
        timings[part] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()

    # The probe first: it needs minutes on the first run, and a mistake in a flag should not wait for the drawing.
    checkpoint = load_checkpoint(args.weights, args.device, getattr(torch, args.dtype))
    size = checkpoint.model.config.image_size if args.size is None else args.size
    check_size(size, checkpoint.model.config.max_latent_size)
    probe, probe_file = judges.load_or_train(args.probe, device=args.device)
    done("probe")

    # The second half is only for the distance of real pictures to other real pictures.
    phantoms = judges.draw_phantoms(args.seed, range(2 * args.n), judges.DRAWN_SIZE, progress=True)
    phantoms, others = phantoms[: args.n], phantoms[args.n :]
    real = np.stack([p.image for p in phantoms])
    done("phantoms")

    settings = {
        "n": args.n,
        "seed": args.seed,
        "steps": args.steps,
        "guidance": args.guidance,
        "size": size,
        "dtype": args.dtype,
        "weights": str(args.weights),
        "weights_sha256": weights_hash(args.weights),
    }
    reports, drawings = earlier(args.out, settings) if args.resume else (None, None)
    if reports is None:
        reports = sample.read(checkpoint, [Image.fromarray(image) for image in real], batch=args.batch, progress=True)
        save_generated(args.out, settings, reports, None)
        done("reading")
    if drawings is None:
        prompts = [p.impression for p in phantoms]
        drawings = sample.draw(
            checkpoint, prompts, range(args.n), size, args.steps, args.guidance, batch=args.batch, progress=True
        )
        save_generated(args.out, settings, reports, drawings)
        done("drawing")

    partner = derangement(args.n, args.seed)
    reading = score_reading(phantoms, reports, partner)
    other_real = np.stack([p.image for p in others])
    drawing = score_drawing(probe, phantoms, real, other_real, drawings, partner)
    done("scoring")
    drawing["probe"] = {"file": probe_file, "recipe": vars(judges.Recipe())}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    results = {
        "command": shlex.join(["python", *sys.argv]),
        "settings": {**settings, "device": args.device, "batch": args.batch},
        "versions": versions,
        "seconds": timings,
        "reading": reading,
        "drawing": drawing,
    }
    write_text(args.out / "results.json", json.dumps(without_nan(results), indent=1) + "\n")
    write_reading(args.out / "reading.jsonl", phantoms, reports)
    write_picture(args.out / "drawing.png", phantoms, real, drawings, size)
    print(reading_table(reading, args), drawing_table(drawing, args), sep="\n\n")
    print(f"\n{args.out}: results.json, reading.jsonl, drawing.png ({sum(timings.values()):.0f} s)")


def check_phantom_args(args: argparse.Namespace) -> None:
    """All that can be said without torch: a mistyped flag fails at once. Makes the --out folder."""
    for flag, value, least in (("--n", args.n, 2), ("--batch", args.batch, 1), ("--steps", args.steps, 2)):
        if value < least:
            raise UserError(f"{flag} {value}: must be at least {least}")
    if args.seed < 0 or args.seed in (TRAINING_SEED, PROBE_SEED):
        raise UserError(f"--seed {args.seed}: the model trains on seed 0, the probe on seed 2; give 1, 3, 4, ...")
    if not args.guidance > 0:
        raise UserError(f"--guidance {args.guidance}: must be above 0; 1 switches it off, 2 is usual")
    if not args.weights.is_dir():
        raise UserError(f"--weights {args.weights}: no such folder; make one with runs/tiny.sh, or name a run's folder")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "writable", "")
        (args.out / "writable").unlink()
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot write there ({error.strerror}); name another folder") from error


def score_reading(phantoms: Sequence, reports: Sequence[str], partner: np.ndarray) -> dict:
    """Generated reports, the same ones exchanged between phantoms (control), and the true ones (ceiling)."""
    from labeler import label_report
    from probe import truth_array

    truth, sides = truth_array(phantoms), [true_sides(p.findings) for p in phantoms]
    generated = [label_report(report) for report in reports]
    columns = {
        "generated": generated,
        "control": [generated[other] for other in partner],
        "ceiling": [label_report(p.report) for p in phantoms],
    }
    scores = {"judge": "rule-based labeler (labeler.py)", "drawn": truth.sum(axis=0).tolist()}
    for name, labels in columns.items():
        # A drawn finding is there or not: a report that calls it possible has noticed it.
        claimed = np.array([[label.value in (1, -1) for label in one.values()] for one in labels])
        side = side_accuracy(sides, labels)
        scores[name] = scores_dict(f1_scores(truth, claimed))
        scores[name] |= {"side_accuracy": side.fraction(), "side_asked": side.asked}
    return scores


def score_drawing(
    probe: object,
    phantoms: Sequence,
    real: np.ndarray,
    other_real: np.ndarray,
    drawings: np.ndarray,
    partner: np.ndarray,
) -> dict:
    """Generated pictures, the same ones held against other prompts (control), and the phantoms (ceiling)."""
    import probe as judges

    truth = judges.truth_array(phantoms)
    probabilities, features = judges.judge(probe, drawings)
    real_probabilities, real_features = judges.judge(probe, real)
    _, other_features = judges.judge(probe, other_real)
    seen = judges.shown(probe, probabilities)
    return {
        "judge": "probe (probe.py), a small CNN trained on phantoms of seed 2",
        "drawn": truth.sum(axis=0).tolist(),
        "generated": scores_dict(f1_scores(truth, seen)),
        "control": scores_dict(f1_scores(truth, seen[partner])),
        "ceiling": scores_dict(f1_scores(truth, judges.shown(probe, real_probabilities))),
        "frechet_generated": frechet_distance(features, real_features),
        "frechet_real": frechet_distance(other_features, real_features),
    }


def scores_dict(scores: F1) -> dict:
    return {"per_class": scores.per_class.tolist(), "macro": scores.macro, "micro": scores.micro}


# ---- what is printed and written ---------------------------------------------------------------------------------


def reading_table(scores: dict, args: argparse.Namespace) -> str:
    title = (
        f"Reading: F1 of {args.n} generated reports against what was drawn (phantoms of seed {args.seed}).\n"
        f"Judge: {scores['judge']}; uncertain counts as positive.\n"
        "control: reports of other phantoms. ceiling: the labeler on the true reports."
    )
    asked = {name: scores[name]["side_asked"] for name in ("generated", "control", "ceiling")}
    sides = row("side accuracy", "", [scores[name]["side_accuracy"] for name in asked])
    note = "side accuracy: of the findings with a side that a report affirms rightly (" + ", ".join(
        f"{name} {count}" for name, count in asked.items()
    )
    return f"{title}\n\n{f1_table(scores)}\n{sides}\n{note})"


def drawing_table(scores: dict, args: argparse.Namespace) -> str:
    title = (
        f"Drawing: F1 of {args.n} pictures generated from impressions (phantoms of seed {args.seed}).\n"
        f"Judge: {scores['judge']}.\n"
        "control: pictures of other prompts. ceiling: the probe on the phantoms themselves."
    )
    distances = (
        f"Fréchet distance in the probe's features, {args.n} against {args.n} pictures: "
        f"generated-real {scores['frechet_generated']:.2f}, real-real {scores['frechet_real']:.2f}"
    )
    return f"{title}\n\n{f1_table(scores)}\n\n{distances}"


def f1_table(scores: dict) -> str:
    from phantom import OBSERVATIONS

    columns = [scores[name] for name in ("generated", "control", "ceiling")]
    lines = [f"{'':<28}{'drawn':>7}{'generated':>11}{'control':>11}{'ceiling':>11}"]
    for k, name in enumerate(OBSERVATIONS):
        lines.append(row(name, scores["drawn"][k], [column["per_class"][k] for column in columns]))
    lines.append(row("macro F1", "", [column["macro"] for column in columns]))
    lines.append(row("micro F1", "", [column["micro"] for column in columns]))
    return "\n".join(lines)


def row(name: str, count: object, values: Sequence[float]) -> str:
    cells = ("-" if np.isnan(value) else f"{value:.3f}" for value in values)
    return f"{name:<28}{count:>7}" + "".join(f"{cell:>11}" for cell in cells)


def write_text(path: Path, text: str) -> None:
    """Written beside, then renamed: a reader never finds half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_reading(path: Path, phantoms: Sequence, reports: Sequence[str]) -> None:
    lines = [
        json.dumps({"index": index, "truth": p.report, "generated": report})
        for index, (p, report) in enumerate(zip(phantoms, reports, strict=True))
    ]
    write_text(path, "\n".join(lines) + "\n")


def write_picture(path: Path, phantoms: Sequence, real: np.ndarray, drawings: np.ndarray, size: int) -> None:
    """Up to 16 prompts: the phantom on the left and the generated picture on the right of each pair."""
    from PIL import Image

    from pictures import grid, save_png

    pairs, captions = [], []
    for p, image, drawing in list(zip(phantoms, real, drawings, strict=True))[:16]:
        pairs += [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX)), drawing]
        captions += [f"real: {p.impression}", f"generated: {p.impression}"]
    save_png(grid(pairs, captions, columns=8), path)


def without_nan(value: object) -> object:
    """JSON has no nan: an undefined score is null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


# ---- --resume ----------------------------------------------------------------------------------------------------


def save_generated(out: Path, settings: dict, reports: Sequence[str], drawings: np.ndarray | None) -> None:
    """generated.npz: what the model made, and the settings it was made with."""
    arrays = {"settings": json.dumps(settings), "reports": np.array(reports)}
    if drawings is not None:
        arrays["drawings"] = drawings
    temporary = out / "generated.tmp.npz"
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, out / "generated.npz")


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


def weights_hash(folder: Path) -> str:
    """12 hex digits of the folder's tensors: which weights a result belongs to."""
    digest = hashlib.sha256()
    for file in sorted(f for name in ("model", "vae") for f in folder.rglob(f"{name}.safetensors")):
        with open(file, "rb") as stored:
            while block := stored.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a model's reading and drawing.", epilog=DISCLAIMER)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    phantom = commands.add_parser(
        "phantom",
        help="on drawn chest X-rays the model was never trained on",
        description="Read and draw phantoms the model was never trained on, and compare with what they really show. "
        "The first run trains the probe that judges drawings (about five minutes on two idle cores); "
        "later runs load it.",
        epilog="example: python evaluate.py phantom --n 100 --steps 20   # a quick look. " + DISCLAIMER,
    )
    add = phantom.add_argument
    add("--n", type=int, default=500, help="phantoms to read and impressions to draw, at least 2 (default 500)")
    add("--weights", type=Path, default=SHIPPED, help="weights folder, or a run's (default: the shipped tiny model)")
    add("--seed", type=int, default=1, help="which phantoms; not 0 (trained on) nor 2 (the probe's) (default 1)")
    add("--out", type=Path, default=Path("out/evaluate"), help="folder for the results (default out/evaluate)")
    add("--steps", type=int, default=50, help="timesteps of the sampler, at least 2; fewer is faster (default 50)")
    add("--guidance", type=float, default=2.0, help="how hard to follow the prompt; 1: off (default 2)")
    add("--size", type=int, help="pixels a side to draw, a multiple of 16; default: what the weights know best")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="to compute in (default float32)")
    add("--batch", type=int, default=32, help="images at a time; less needs less memory (default 32)")
    add("--probe", type=Path, metavar="FILE", help="the probe's weights; default: a file in ~/.cache/open-unix")
    add("--resume", action="store_true", help="score again what an earlier, equal run generated in --out")
    phantom.set_defaults(run=phantom_command)
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    args.run(args)


if __name__ == "__main__":
    run(main)
