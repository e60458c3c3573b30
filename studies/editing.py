"""evaluate.py phantom --edit N: does an edit change what was asked, and that alone?

A phantom can be rendered with and without one of its findings, all else equal to the pixel. The model is given the one
and asked for the other (`edit.edit`), both ways, and the judge of drawings says what became of it. The control is the
same edit with the unchanged prompt: what going towards noise and back does by itself.

    python -m studies.editing [--weights DIR] [--n 2]      the table alone; evaluate.py's page shows pictures, too
"""

from __future__ import annotations

import itertools

import numpy as np

import edit
from common.errors import run
from common.observations import OBSERVATIONS
from common.sampling import DISCLAIMER, STRENGTH
from evaluation.tables import Paragraph, Table, print_blocks
from judges import classifier
from judges.classifier import PhantomClassifier
from judges.trained_classifier import load_classifier
from phantoms.truth import KINDS, PATHOLOGIES, streams
from phantoms.wording import write_report
from studies.autoencoder import OWN, patients, with_and_without
from studies.command import load_unix, study
from weights import Checkpoint

WAYS = ("removed", "added")
EDITS = ("edit", "masked", "control")
OTHERS = (*PATHOLOGIES, "Support Devices")  # an edit must not touch them; "No Finding" follows from them


def measure(
    checkpoint: Checkpoint, judge: PhantomClassifier, seed: int, count: int, size: int, strength: float, **how: object
) -> tuple[dict, list[tuple[np.ndarray, str]]]:
    """Kind -> way -> edit -> scores (`compare`), over the first `count` phantoms of a seed with that kind of finding;
    and pictures with captions for a sheet, five of each kind: before, edit, masked, control, and what it should be.

    masked: as the edit, but only the finding's own latents may change. how: passed on to `edit.edit`.
    """
    found, sheet = {}, []
    for kind in KINDS:
        having = ((index, patients(seed, index, kind)) for index in itertools.count())
        indices, both = zip(*itertools.islice((each for each in having if each[1]), count), strict=True)
        prompts = [
            [write_report(patient, streams(seed, index)[2])[1] for patient in pair]
            for index, pair in zip(indices, both, strict=True)
        ]
        pairs = np.stack([with_and_without(seed, index, kind, size) for index in indices])  # (count, 2, size, size)
        own = np.abs(pairs[:, 0].astype(int) - pairs[:, 1]) > OWN
        observation = next(finding.observation for finding in both[0][0].findings if finding.kind == kind)
        found[kind] = {"n": count}
        for start, way in enumerate(WAYS):
            before, target = pairs[:, start], pairs[:, 1 - start]
            unchanged, asked = [pair[start] for pair in prompts], [pair[1 - start] for pair in prompts]
            afters = [
                edit.edit(checkpoint, before, asked, indices, strength, **how),
                edit.edit(checkpoint, before, asked, indices, strength, own, **how),
                edit.edit(checkpoint, before, unchanged, indices, strength, **how),
            ]
            found[kind][way] = {
                name: compare(judge, before, after, target, own, observation, shown=way == "added")
                for name, after in zip(EDITS, afters, strict=True)
            }
            if way == "removed":
                captions = [f"before: {unchanged[0]}", f"asked: {asked[0]}", "asked, in its place alone"]
                captions += ["unchanged prompt", "what it should be"]
                sheet += zip([each[0] for each in (before, *afters, target)], captions, strict=True)
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


def editing_table(found: dict, strength: float) -> Table:
    """What is printed, and shown on the page."""
    n, names = next(iter(found.values()))["n"], ["edit", "mask", "control"]
    rows = [[kind, *cells(scores)] for kind, scores in found.items()]
    rows.append(["mean", *np.mean([row[1:] for row in rows], axis=0).tolist()])
    note = (
        f"{n} phantoms of each kind, strength {strength:g}. edit: the prompt alone. mask: and the place. control: the"
        " unchanged prompt. removed, added: the judge's label of the finding is then as asked. others: the other labels"
        " stayed. outside: grey levels that pixels elsewhere moved. way: of the true change, in the finding's pixels."
    )
    return Table(
        ["finding", *names * 3, "edit", "control", *names],
        rows,
        "Editing: one finding removed or added",
        note,
        groups=[("", 1), ("removed", 3), ("added", 3), ("others", 3), ("outside", 2), ("way", 3)],
        decimals=[0, *[2] * 9, 1, 1, 2, 2, 2],
        ours=[len(rows) - 1],
    )


def cells(scores: dict) -> list[float]:
    """A row of the table: as asked (removed, added), others and outside (both ways), and how far it went."""

    def both_ways(score: str) -> list[float]:
        return [(scores["removed"][edit][score] + scores["added"][edit][score]) / 2 for edit in EDITS]

    edited, _, control = both_ways("outside")  # a mask keeps what is outside
    asked = [scores[way][edit]["as_asked"] for way in WAYS for edit in EDITS]
    return [*asked, *both_ways("others"), edited, control, *both_ways("way")]


def main() -> None:
    args = study("Remove and add one finding in phantoms: is that all that changes?", 2, "of each kind").parse_args()
    checkpoint, judge = load_unix(args), load_classifier()
    size = checkpoint.model.config.image_size
    found, _ = measure(checkpoint, judge, args.seed, args.n, size, STRENGTH)
    print_blocks([editing_table(found, STRENGTH), Paragraph(DISCLAIMER)])


if __name__ == "__main__":
    run(main)
