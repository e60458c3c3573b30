"""Phantoms as a data set: rendered chest X-rays with their reports, each made once and kept.

A phantom is made in three steps. Each has its own random stream, so a change to one leaves the others as they are:

    truth(seed, index)          -> Patient: the view, the cardiothoracic ratio and the findings     truth.py
    draw(patient, rng, size)    -> (size, size) uint8                                               drawing.py
    write_report(patient, rng)  -> "FINDINGS: ... IMPRESSION: ..." and the impression alone         wording.py
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
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
        self._pictures: np.ndarray | None = None

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
        if self._file is None:
            return phantom(self.seed, self.indices[index], self.size).image
        row = self._open()[index]
        if row[-1] == 0:  # the flag behind each picture is set last, by whichever worker rendered it
            row[:-1] = phantom(self.seed, self.indices[index], self.size).image.reshape(-1)
            row[-1] = 1
        return row[:-1].reshape(self.size, self.size)

    def _open(self) -> np.ndarray:
        if self._pictures is None:
            shape = (self.count, self.size**2 + 1)
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with open(self._file, "ab") as file:
                    file.truncate(shape[0] * shape[1])
            except OSError as error:
                raise UserError(f"{self._file.parent}: cannot keep pictures there ({error.strerror})") from error
            self._pictures = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=shape)
        return self._pictures

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_pictures": None}  # each worker maps the file itself


def named(word: str, default: int, size: int, seed: int = TRAIN_SEED, cache: Path | None = None) -> Phantoms:
    """What `--data phantom[:COUNT[:even]]` asks for; `default` phantoms where no COUNT is given."""
    _, count, how = [*word.split(":"), "", ""][:3]
    return Phantoms(int(count or default), size, seed, cache, even=how == "even")


def evened(seed: int, count: int, pool: int = 4) -> list[int]:
    """`count` indices of the first pool * count phantoms of a seed, in which rare kinds of finding are less rare.

    A phantom is chosen with a weight of one over the frequency of the rarest kind that it shows; a chest without any
    finding counts as a kind. The order is that of the indices, so the choice is the same on every machine.
    """
    shown = [{f.kind for f in truth(seed, index).findings} or {"no finding"} for index in range(pool * count)]
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
