"""How many of several reports of one image say the same: what the model is sure of, and what it doubts.

    effusion left: 9 of 10

Sampled reports are draws from what the model believes; the share that affirms an observation is its confidence.
`studies/calibration.py` measures, on phantoms, how often it is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from common.observations import OBSERVATIONS
from reports.labeler import POSITIVE, UNCERTAIN, label_report


@dataclass(frozen=True)
class Agreement:
    """What `of` reports say about one observation."""

    observation: str
    affirmed: int  # reports that say it is there
    possible: int  # reports that say it may be
    of: int
    sides: dict[str, int]  # "left" | "right" | "bilateral" -> how many of the affirming reports name it, most first

    @property
    def share(self) -> float:
        """Of the reports, those that affirm it: in [0, 1]."""
        return self.affirmed / self.of

    def __str__(self) -> str:
        """ "Pleural Effusion left: 9 of 10", or, if they differ, "Pleural Effusion: 9 of 10 (left 7, bilateral 2)"."""
        side = next(iter(self.sides)) if list(self.sides.values()) == [self.affirmed] else ""
        notes = [f"{name} {count}" for name, count in self.sides.items() if not side]
        notes += [f"{self.possible} more: possible"] if self.possible else []
        title = f"{self.observation} {side}".strip()
        return f"{title}: {self.affirmed} of {self.of}" + (f" ({', '.join(notes)})" if notes else "")


def agreement(reports: Sequence[str]) -> list[Agreement]:
    """Of at least one report, by `reports/labeler.py`: every observation, in the order of OBSERVATIONS."""
    labels = [label_report(report) for report in reports]
    found = []
    for name in OBSERVATIONS:
        affirming = [label[name].side for label in labels if label[name].value == POSITIVE]
        possible = sum(label[name].value == UNCERTAIN for label in labels)
        sides = dict(Counter(side for side in affirming if side).most_common())
        found.append(Agreement(name, len(affirming), possible, len(reports), sides))
    return found


def agreement_lines(reports: Sequence[str]) -> list[str]:
    """One line for each observation that a report affirms or calls possible, the surest first."""
    said = [each for each in agreement(reports) if each.affirmed or each.possible]
    said.sort(key=lambda each: (-each.affirmed, -each.possible))
    return [str(each) for each in said]
