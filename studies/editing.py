"""Does an edit change what was asked, and that alone?

A phantom can be rendered with and without one of its findings, all else equal to the pixel. The model is given the one
and asked for the other (`edit.edit`), both ways, and the judge of drawings says what became of it. The control is the
same edit with the unchanged prompt: what going towards noise and back does by itself.

    python -m studies.editing [--weights DIR] [--n 2]
"""

import itertools

import numpy as np
from tqdm import tqdm

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

EDITS = ("edit", "mask", "control")
OTHERS = (*PATHOLOGIES, "Support Devices")  # an edit must not touch them; "No Finding" follows from them


def measure(
    checkpoint: Checkpoint, judge: PhantomClassifier, seed: int, count: int, kind: str, size: int
) -> np.ndarray:
    """(2, 3, 3): removed and added, each of EDITS, the three scores of `compare`; over the first `count` phantoms of a
    seed with that kind of finding. mask: as the edit, but only the finding's own latents may change."""
    having = ((index, patients(seed, index, kind)) for index in itertools.count())
    indices, both = zip(*itertools.islice((each for each in having if each[1]), count), strict=True)
    prompts = [
        [write_report(patient, streams(seed, index)[2])[1] for patient in pair]
        for index, pair in zip(indices, both, strict=True)
    ]
    pairs = np.stack([with_and_without(seed, index, kind, size) for index in indices])  # (count, 2, size, size)
    own = np.abs(pairs[:, 0].astype(int) - pairs[:, 1]) > OWN
    observation = next(finding.observation for finding in both[0][0].findings if finding.kind == kind)
    found = []
    for start in (0, 1):
        before, unchanged = pairs[:, start], [pair[start] for pair in prompts]
        asked = [pair[1 - start] for pair in prompts]
        ways = ((asked, None), (asked, own), (unchanged, None))  # EDITS
        afters = [edit.edit(checkpoint, before, texts, indices, STRENGTH, masks) for texts, masks in ways]
        found.append([compare(judge, before, after, own, observation, shown=start == 1) for after in afters])
    return np.array(found)


def compare(
    judge: PhantomClassifier, before: np.ndarray, after: np.ndarray, own: np.ndarray, observation: str, shown: bool
) -> list[float]:
    """before, after: (N, S, S) uint8. own: (N, S, S) bool, the finding's pixels. shown: is it asked for.

    Of the pictures, those whose label of `observation` is then as asked; of the other labels, those that stayed; and
    the mean grey levels by which pixels outside of the finding's moved.
    """
    labels = [classifier.shown(judge, classifier.judge(judge, images)[0]) for images in (before, after)]
    edited, others = OBSERVATIONS.index(observation), [OBSERVATIONS.index(o) for o in OTHERS if o != observation]
    as_asked = (labels[1][:, edited] == shown).mean()
    stayed = (labels[0][:, others] == labels[1][:, others]).mean()
    return [float(as_asked), float(stayed), float(np.abs(after.astype(float) - before)[~own].mean())]


def editing_table(found: dict[str, np.ndarray], count: int) -> Table:
    """found: kind -> what `measure` says."""
    rows = []
    for kind, scores in {**found, "mean": np.mean(list(found.values()), axis=0)}.items():
        asked, (stayed, outside) = scores[:, :, 0].ravel(), scores[:, :, 1:].mean(axis=0).T
        rows.append([kind, *asked.tolist(), *stayed.tolist(), outside[0], outside[2]])  # a mask keeps what is outside
    note = f"{count} of each kind, strength {STRENGTH:g}. edit: the prompt alone. mask: and the place. control: the"
    note += " unchanged prompt. removed, added: the judge's label of the finding is then as asked. others: its other"
    note += " labels stayed. outside: grey levels that pixels elsewhere moved."
    headers, groups = ["finding", *EDITS * 3, "edit", "control"], [("", 1), ("removed", 3), ("added", 3)]
    groups += [("others", 3), ("outside", 2)]
    return Table(headers, rows, "Editing: one finding removed or added", note, groups, [0, *[2] * 9, 1, 1])


def main() -> None:
    args = study("Remove and add one finding in phantoms: is that all that changes?", 2, "of each kind").parse_args()
    checkpoint, judge = load_unix(args), load_classifier()
    size, kinds = checkpoint.model.config.image_size, tqdm(KINDS, desc="editing", unit="kind", leave=False)
    found = {kind: measure(checkpoint, judge, args.seed, args.n, kind, size) for kind in kinds}
    print_blocks([editing_table(found, args.n), Paragraph(DISCLAIMER)])


if __name__ == "__main__":
    run(main)
