"""How many of several reports of one image say the same: what the model is sure of, and what it doubts.

    effusion left: 9 of 10

Sampled reports are draws from what the model believes; the share that affirms an observation is its confidence.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from common.observations import OBSERVATIONS
from reports.labeler import POSITIVE, UNCERTAIN, label_report


class Agreement(NamedTuple):
    """What several reports say about one observation."""

    observation: str
    affirmed: int  # reports that say it is there
    possible: int  # reports that say it may be
    sides: dict[str, int]  # "left" | "right" | "bilateral" -> how many of the affirming reports name it, most first


def agreement(reports: Sequence[str]) -> list[Agreement]:
    """By `reports/labeler.py`: every observation, in the order of OBSERVATIONS."""
    labels = [label_report(report) for report in reports]
    found = []
    for name in OBSERVATIONS:
        affirming = [label[name].side for label in labels if label[name].value == POSITIVE]
        possible = sum(label[name].value == UNCERTAIN for label in labels)
        sides = dict(Counter(filter(None, affirming)).most_common())
        found.append(Agreement(name, len(affirming), possible, sides))
    return found


def agreement_lines(reports: Sequence[str]) -> list[str]:
    """One line for each observation that a report affirms or calls possible, the surest first.

    "Pleural Effusion left: 9 of 10", or, if they differ, "Pleural Effusion: 9 of 10 (left 7, bilateral 2)".
    """
    lines = []
    surest_first = sorted(agreement(reports), key=lambda each: (-each.affirmed, -each.possible))
    for name, affirmed, possible, sides in surest_first:
        notes = [f"{side} {count}" for side, count in sides.items()]
        if list(sides.values()) == [affirmed]:
            name, notes = f"{name} {next(iter(sides))}", []
        notes += [f"{possible} more: possible"] if possible else []
        if affirmed or possible:
            lines.append(f"{name}: {affirmed} of {len(reports)}" + (f" ({', '.join(notes)})" if notes else ""))
    return lines
