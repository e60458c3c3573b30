"""How many of several reports of one image say the same: what the model is sure of, and what it doubts.

    effusion left: 9 of 10

Sampled reports are draws from what the model believes; the share that affirms an observation is its confidence.
"""

from collections import Counter
from collections.abc import Sequence

from common.observations import OBSERVATIONS
from reports.labeler import POSITIVE, UNCERTAIN, label_report


def agreement_lines(reports: Sequence[str]) -> list[str]:
    """One line for each observation that a report affirms or calls possible, by `reports/labeler.py`, the surest first.

    "Pleural Effusion left: 9 of 10", or, if they differ, "Pleural Effusion: 9 of 10 (left 7, bilateral 2)".
    """
    labels, found = [label_report(report) for report in reports], []
    for name in OBSERVATIONS:
        sides = [label[name].side for label in labels if label[name].value == POSITIVE]  # of the reports that affirm it
        affirmed, possible = len(sides), sum(label[name].value == UNCERTAIN for label in labels)
        named = Counter(filter(None, sides)).most_common()
        notes = [f"{side} {count}" for side, count in named]
        if [count for _, count in named] == [affirmed]:
            name, notes = f"{name} {named[0][0]}", []
        notes += [f"{possible} more: possible"] if possible else []
        line = f"{name}: {affirmed} of {len(reports)}" + (f" ({', '.join(notes)})" if notes else "")
        found += [(-affirmed, -possible, line)] if affirmed or possible else []
    return [line for *_, line in sorted(found, key=lambda each: each[:2])]
