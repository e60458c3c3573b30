"""What every archive is read into: records, and a count of what could not be used."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from common.errors import UserError
from common.images import load_image, to_square

NO_SECTIONS = "no findings or impression"
SPLITS = {"val": "validate", "valid": "validate", "validation": "validate", "dev": "validate", "training": "train"}
SPLITS |= {name: name for name in ("train", "validate", "test")}


@dataclass(frozen=True, slots=True)
class Record:
    """One image with its report, under the names of no archive."""

    image: str  # relative to Records.root, "/" between folders; "" in a set of reports without images
    findings: str  # "" where the report has none; so is the impression, but never both
    impression: str
    split: str = "train"  # "train", "validate" or "test"
    labels: dict[str, int] = field(default_factory=dict)  # observation -> 1 positive, 0 negative, -1 uncertain
    patient: str = ""
    view: str = ""
    extra: dict = field(default_factory=dict)  # "mesh": [...], "captions": [...], "question", "reference"


class RowError(Exception):
    """A row cannot be used: severity, kind and name for Problems.add. `Problems.row` catches it."""


class Problems:
    """Counts by kind, each with its first names.

    "bad": the row is lost by a fault. "dropped": it is left out by rule. "note": it is used, but worth knowing.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list]] = {"bad": {}, "dropped": {}, "note": {}}  # kind -> [count, names]

    def add(self, severity: str, kind: str, name: str) -> None:
        entry = self.found[severity].setdefault(kind, [0, []])
        entry[0] += 1
        if len(entry[1]) < 3 and name not in entry[1]:
            entry[1].append("".join(char if char.isprintable() else "?" for char in name[:120]))

    @contextmanager
    def row(self) -> Iterator[None]:
        """The block reads one row; a RowError ends the block and is counted."""
        try:
            yield
        except RowError as error:
            self.add(*error.args)

    def count(self, severity: str, kind: str | None = None) -> int:
        kinds = self.found[severity]
        return sum(count for count, _ in kinds.values()) if kind is None else kinds.get(kind, [0])[0]

    def lines(self) -> list[str]:
        """One line a kind: "bad: 3 image absent (a.png, b.png, c.png)"."""
        return [
            " ".join(f"{severity}: {count} {kind} ({', '.join(names)}{', ...' * (count > len(names))})".split())
            for severity, kinds in self.found.items()
            for kind, (count, names) in sorted(kinds.items(), key=lambda item: -item[1][0])
        ]

    def summary(self) -> str:
        return "\n".join(self.lines()) or "no problems"


class Source(Protocol):
    """What everything that takes films and reports asks of them; `Records` and `phantoms.dataset.Phantoms` have it.

    text: (report, impression). image: (height, width) uint8, or UserError. extra: `Record.extra`, or {}.
    """

    def __len__(self) -> int: ...
    def text(self, index: int) -> tuple[str, str]: ...
    def image(self, index: int) -> np.ndarray: ...
    def extra(self, index: int) -> dict: ...


def squares(source: Source, count: int, size: int, *how: str | int) -> tuple[list[int], list[np.ndarray]]:
    """Indices and square pictures, (size, size) uint8, of up to `count` examples that are spread over the set.

    how: a ViT's padding and scaling, for what it reads. What cannot be opened is left out.
    """
    indices, pictures = [], []
    for index in np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist():
        with suppress(UserError):
            pictures.append(to_square(Image.fromarray(source.image(index)), size, *how))
            indices.append(index)
    return indices, pictures


@dataclass
class Records:
    """A `Source` that was read from a disk."""

    root: Path
    kind: str
    records: list[Record]
    problems: Problems
    counts: dict[str, int]  # rows of each split in the whole set
    size: int | None = None  # px that the longer side of an image will be resized to: a JPEG may be decoded smaller

    def __len__(self) -> int:
        return len(self.records)

    def text(self, index: int) -> tuple[str, str]:
        """(report, impression), the report as "FINDINGS: ... IMPRESSION: ..." with the sections there are.

        Without an impression the findings stand in for it.
        """
        record = self.records[index]
        sections = (("FINDINGS", record.findings), ("IMPRESSION", record.impression))
        return " ".join(f"{name}: {text}" for name, text in sections if text), record.impression or record.findings

    def extra(self, index: int) -> dict:
        return self.records[index].extra

    def image(self, index: int) -> np.ndarray:
        """(height, width) uint8. Raises UserError naming the file."""
        record = self.records[index]
        if not record.image:
            raise UserError(f"{self.root}: record {index} has no image; open the set with its images")
        return np.asarray(load_image(self.root / record.image, self.size))
