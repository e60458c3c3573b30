"""evaluate.py phantom --edit N: does an edit change what was asked, and that alone?

A phantom can be rendered with and without one of its findings, all else equal to the pixel. The model is given the one
and asked for the other (`sample.edit`), both ways, and the judge of drawings says what became of it. The control is the
same edit with the unchanged prompt: what going towards noise and back does by itself.

    python -m studies.editing [--weights DIR] [--n 2]      without the rest of evaluate.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

import sample
from common import arguments
from common.devices import pick_dtype
from common.errors import run
from common.files import SHIPPED
from common.observations import OBSERVATIONS
from common.ownership import own_file
from common.pictures import grid, save_png
from evaluation import page
from evaluation.tables import Paragraph, Table, print_blocks
from judges import classifier, trained_classifier
from judges.classifier import PhantomClassifier
from phantoms.truth import KINDS, PATHOLOGIES, streams
from phantoms.wording import write_report
from studies.autoencoder import OWN, patients, with_and_without
from weights import Checkpoint

WAYS = ("removed", "added")
EDITS = ("edit", "masked", "control")
OTHERS = (
    *PATHOLOGIES,
    "Support Devices",
)  # what an edit must not touch, but for its own; "No Finding" follows from them


def measure(
    checkpoint: Checkpoint, judge: PhantomClassifier, seed: int, count: int, size: int, strength: float, **how: object
) -> tuple[dict, list[tuple[np.ndarray, str]]]:
    """Kind -> way -> edit -> scores (`compare`), over the first `count` phantoms of a seed with that kind of finding;
    and pictures with captions for a sheet, five of each kind: before, edit, masked, control, and what it should be.

    masked: as the edit, but only the finding's own latents may change. how: passed on to `sample.edit`.
    """
    found, sheet = {}, []
    for kind in KINDS:
        indices, index = [], 0
        while len(indices) < count:
            if patients(seed, index, kind):
                indices.append(index)
            index += 1
        pairs = np.stack([with_and_without(seed, index, kind, size) for index in indices])  # (count, 2, size, size)
        prompts = [
            [write_report(patient, streams(seed, index)[2])[1] for patient in patients(seed, index, kind)]
            for index in indices
        ]
        own = np.abs(pairs[:, 0].astype(int) - pairs[:, 1]) > OWN
        observation = next(f.observation for f in patients(seed, indices[0], kind)[0].findings if f.kind == kind)
        found[kind] = {"n": count}
        for start, way in enumerate(WAYS):
            before, target = pairs[:, start], pairs[:, 1 - start]
            asked, unchanged = ([pair[k] for pair in prompts] for k in (1 - start, start))
            edits = {
                "edit": sample.edit(checkpoint, before, asked, indices, strength, **how),
                "masked": sample.edit(checkpoint, before, asked, indices, strength, own, **how),
                "control": sample.edit(checkpoint, before, unchanged, indices, strength, **how),
            }
            found[kind][way] = {
                name: compare(judge, before, after, target, own, observation, shown=bool(start))
                for name, after in edits.items()
            }
            if start == 0:
                sheet += [(before[0], f"before: {prompts[0][0]}"), (edits["edit"][0], f"asked: {asked[0]}")]
                sheet += [(edits["masked"][0], "asked, in its place alone"), (edits["control"][0], "unchanged prompt")]
                sheet += [(target[0], "what it should be")]
    return found, sheet


def compare(
    judge: PhantomClassifier,
    before: np.ndarray,
    after: np.ndarray,
    target: np.ndarray,
    own: np.ndarray,
    observation: str,
    shown: bool,
) -> dict[str, float]:
    """before, after, target: (N, S, S) uint8. own: (N, S, S) bool, the finding's pixels. shown: is it asked for.

    as_asked: of the pictures, those whose label of `observation` is then as asked. others: of the other labels, those
    that stayed. outside: grey levels by which pixels outside of the finding's moved, in the mean. way: how much of the
    true change its own pixels made, by regression through 0; 1 is all of it.
    """
    labels = [classifier.shown(judge, classifier.judge(judge, images)[0]) for images in (before, after)]
    edited, others = OBSERVATIONS.index(observation), [OBSERVATIONS.index(o) for o in OTHERS if o != observation]
    true, made = (images.astype(np.float64) - before for images in (target, after))
    return {
        "as_asked": float((labels[1][:, edited] == shown).mean()),
        "others": float((labels[0][:, others] == labels[1][:, others]).mean()),
        "outside": float(np.abs(made[~own]).mean()),
        "way": float((true * made)[own].sum() / np.square(true[own]).sum()),
    }


def means(found: dict) -> dict:
    """Way -> edit -> scores, the mean over the kinds."""
    kinds = list(found.values())
    return {
        way: {
            edit: {score: float(np.mean([kind[way][edit][score] for kind in kinds])) for score in kinds[0][way][edit]}
            for edit in EDITS
        }
        for way in WAYS
    }


def both_ways(scores: dict, edit: str, score: str) -> float:
    return float(np.mean([scores[way][edit][score] for way in WAYS]))


def cells(scores: dict) -> list[float]:
    """A row of the table: as asked (removed, added), others and outside (both ways), and how far it went."""
    asked = [scores[way][edit]["as_asked"] for way in WAYS for edit in EDITS]
    others = [both_ways(scores, edit, "others") for edit in EDITS]
    outside = [both_ways(scores, edit, "outside") for edit in ("edit", "control")]
    return [*asked, *others, *outside, *(both_ways(scores, edit, "way") for edit in EDITS)]


def editing_blocks(
    found: dict, strength: float, sheet: Sequence[tuple[np.ndarray, str]]
) -> list[Table | Paragraph | str]:
    """What is printed, and shown on the page."""
    n, names = next(iter(found.values()))["n"], ["edit", "mask", "control"]
    rows = [[kind, *cells(scores)] for kind, scores in [*found.items(), ("mean", means(found))]]
    note = (
        f"{n} phantoms of each kind, strength {strength:g}. edit: the prompt alone. mask: and the place. control: the"
        " unchanged prompt. removed, added: the judge's label of the finding is then as asked. others: the other labels"
        " stayed. outside: grey levels that pixels elsewhere moved. way: of the true change, in the finding's pixels."
    )
    table = Table(
        ["finding", *names * 3, "edit", "control", *names],
        rows,
        "Editing: one finding removed or added",
        note,
        groups=[("", 1), ("removed", 3), ("added", 3), ("others", 3), ("outside", 2), ("way", 3)],
        decimals=[0, *[2] * 9, 1, 1, 2, 2, 2],
        ours=[len(rows) - 1],
    )
    small = [(np.asarray(Image.fromarray(picture).resize((160, 160))), words) for picture, words in sheet]
    return [table, page.pictures(small, columns=5)]


def main() -> None:
    parser = arguments.Parser(
        description="Remove and add one finding in phantoms: does it change as asked, and nothing else?",
        epilog=sample.DISCLAIMER,
    )
    add = parser.add_argument
    weights = "weights folder (default: the shipped tiny model)"
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help=weights)
    add("--n", type=arguments.whole(1, 1000), default=2, help="phantoms of each kind, of seed 1 (default 2)")
    add("--strength", type=arguments.strength, default=sample.STRENGTH, help=f"default {sample.STRENGTH}")
    add("--dtype", choices=arguments.DTYPES, default="float32", help=arguments.DTYPES_HELP)
    add("--out", type=arguments.output_file, metavar="FILE", help="a sheet with the first phantom of each kind")
    args = parser.parse_args()
    if args.out:
        own_file(args.out)
    checkpoint = sample.load_model(args.weights, "cpu", pick_dtype(args.dtype, torch.device("cpu")))
    sample.drawing_device(checkpoint)
    judge, _ = trained_classifier.load_or_train()
    found, sheet = measure(checkpoint, judge, 1, args.n, checkpoint.model.config.image_size, args.strength)
    print_blocks(editing_blocks(found, args.strength, sheet))
    print(f"\n{sample.DISCLAIMER}")
    if args.out:
        save_png(grid([picture for picture, _ in sheet], [words for _, words in sheet], 5), args.out)
        print(args.out)


if __name__ == "__main__":
    run(main)
