"""Phantoms as a data set: rendered chest X-rays with their reports, each made once and kept.

A phantom is made in three steps. Each has its own random stream, so a change to one leaves the others as they are:

    truth(seed, index)          -> Patient: the view, the cardiothoracic ratio and the findings     truth.py
    draw(patient, rng, size)    -> (size, size) uint8                                               drawing.py
    write_report(patient, rng)  -> "FINDINGS: ... IMPRESSION: ..." and the impression alone         wording.py
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.files import source_hash
from phantoms.drawing import draw
from phantoms.truth import Finding, labels_of, streams, truth
from phantoms.wording import write_report

TRAIN_SEED = 0  # phantoms of this seed are for training; evaluate.py renders others


class Phantoms:
    """Rendered chest X-rays with their reports, indices 0..count-1. Each is rendered once and kept in `cache`.

    The cache is a sparse file of raw pictures, named by the seed, the size and the code of this package, so that a
    change of the code never meets old pictures. It may be deleted at any time.
    """

    def __init__(
        self, count: int, size: int = 256, seed: int = TRAIN_SEED, cache: Path | None = None, even: bool = False
    ) -> None:
        self.count, self.size, self.seed = count, size, seed
        self.indices = evened(seed, count) if even else range(count)
        self._file = None
        if cache is not None:
            version = source_hash(Path(__file__).parent)
            self._file = Path(cache) / f"phantoms-seed{seed}-{size}px-{count}{'-even' * even}-{version}.u8"

    def __len__(self) -> int:
        return self.count

    def text(self, index: int) -> tuple[str, str]:
        """(report, impression), written without the picture."""
        index = self.indices[index]
        return write_report(truth(self.seed, index), streams(self.seed, index)[2])

    def extra(self, index: int) -> dict:
        """Nothing: a phantom brings no question and no captions."""
        return {}

    def image(self, index: int) -> np.ndarray:
        """(size, size) uint8."""
        try:
            if self._file is not None:
                return self._kept(index)
        except OSError as error:  # a full disk, or one that may not be written
            problem = f"cannot keep pictures there ({error.strerror}); each is rendered whenever it comes by"
            print(f"{self._file.parent}: {problem}", file=sys.stderr)
            self._file = None
        return phantom(self.seed, self.indices[index], self.size).image

    def _kept(self, index: int) -> np.ndarray:
        """The picture from the file, not by mapping it: a full disk would end the process without a word."""
        pixels = self.size**2
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.touch()
        with open(self._file, "r+b", buffering=0) as file:
            file.seek(index * (pixels + 1) + pixels)
            known = file.read(1) == b"\1"  # the flag behind each picture is set last, by whichever worker rendered it
            file.seek(index * (pixels + 1))
            if known:
                return np.frombuffer(bytearray(file.read(pixels)), np.uint8).reshape(self.size, self.size)
            picture = phantom(self.seed, self.indices[index], self.size).image
            if file.write(picture.tobytes()) == pixels:
                file.write(b"\1")
            return picture


def named(word: str, default: int, size: int, seed: int = TRAIN_SEED, cache: Path | None = None) -> Phantoms:
    """What `--data phantom[:COUNT[:even]]` asks for; `default` phantoms where no COUNT is given."""
    count = word.removesuffix(":even").partition(":")[2]
    return Phantoms(int(count or default), size, seed, cache, even=word.endswith(":even"))


def evened(seed: int, count: int, pool: int = 4) -> list[int]:
    """`count` indices of the first pool * count phantoms of a seed, in which rare kinds of finding are less rare.

    A phantom is chosen with a weight of one over the frequency of the rarest kind that it shows; a chest without any
    finding counts as a kind. The order is that of the indices, so the choice is the same on every machine.
    """
    indices = tqdm(range(pool * count), desc="choosing phantoms", delay=2, leave=False, dynamic_ncols=True)
    shown = [{f.kind for f in truth(seed, index).findings} or {"no finding"} for index in indices]
    frequency = Counter(kind for kinds in shown for kind in kinds)
    weights = np.array([1 / min(frequency[kind] for kind in kinds) for kinds in shown])
    rng = np.random.default_rng([seed, count, pool])
    return sorted(rng.choice(pool * count, count, replace=False, p=weights / weights.sum()).tolist())


@dataclass(frozen=True)
class Phantom:
    """A picture with its truth and its report."""

    image: np.ndarray  # (size, size) uint8
    view: str
    findings: tuple[Finding, ...]
    report: str
    impression: str

    def labels(self) -> dict[str, int]:
        return labels_of(self.findings)


def phantom(seed: int, index: int, size: int = 256) -> Phantom:
    """Sample `index` of `seed`, rendered at (size, size), with its report. About 15 ms on one core."""
    _, drawing, wording = streams(seed, index)
    patient = truth(seed, index)
    report, impression = write_report(patient, wording)
    return Phantom(draw(patient, drawing, size), patient.view, patient.findings, report, impression)
