"""What all evaluations share: processes that work together, numbers with intervals, tables beside the paper's, and the
files they leave behind."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from common.distributed import Team, joined_team
from common.files import write_text
from common.images import to_square
from evaluation import metrics
from evaluation.metrics import Scored
from evaluation.page import page
from evaluation.tables import Cell, Paragraph, Table, print_blocks

PAPER = Path(__file__).parent.parent / "assets" / "paper.json"
OURS_ONLY = "compares with nothing outside this repository"

Result = TypeVar("Result")


def together(args: argparse.Namespace, work: Callable[[argparse.Namespace, Team], Result]) -> Result:
    """work(args, team) on every process of a torchrun, or alone."""
    with joined_team(torch.device(args.device)) as team:
        return work(args, team)


def mean_and_interval(values: np.ndarray) -> Scored:
    """The mean of (N,) and its 95 % interval."""
    low, high = metrics.bootstrap_sums(lambda sums: sums / len(values), values)
    return scored(values.mean(), low, high)


def scored(value: float, low: float, high: float) -> Scored:
    return float(value), float(low), float(high)


# ---- the paper's tables ------------------------------------------------------------------------------------------


def paper(number: int) -> dict:
    """Table 2, 3, 4 or 5 of the paper: `title`, `note`, `columns` (`name`, `better`, `decimals`), `rows` (`values`).

    Raises ValueError for another number.
    """
    tables = json.loads(PAPER.read_text(encoding="utf-8"))["tables"]
    if str(number) not in tables:
        raise ValueError(f"assets/paper.json has the paper's tables {', '.join(tables)}, not {number}")
    return tables[str(number)]


def beside_paper(
    number: int, title: str, ours: dict[str, Sequence[Cell]], judged: str, second: str, note: str
) -> Table:
    """This run's rows above the paper's. ours: name -> cells in the order of the paper's columns. judged: by what.

    second: "params" or "resolution", what else is known of the paper's models.
    """
    theirs, group = paper(number), None
    rows = [f"This run; {judged}", *([name, None, *cells] for name, cells in ours.items())]
    for entry in theirs["rows"]:
        if entry["group"] != group:
            group = entry["group"]
            rows.append(f"{theirs['source']}: {group}")
        rows.append([entry["model"], entry[second], *entry["values"]])
    arrows = {"higher": "\u00a0↑", "lower": "\u00a0↓"}
    columns = theirs["columns"]
    groups = [(name, len(list(same))) for name, same in groupby(["", "", *(c.get("group", "") for c in columns)])]
    return Table(
        ["model", {"params": "parameters", "resolution": "px"}[second]]
        + [column["name"].replace(" F1", "") + arrows[column["better"]] for column in columns],
        rows,
        title,
        note,
        groups if len(groups) > 1 else (),
        [0, 0, *(column["decimals"] for column in columns)],
        ours=range(1, 1 + len(ours)),
    )


def thumbnail(image: np.ndarray, size: int = 256) -> np.ndarray:
    """(H, W) uint8 -> (size, size) uint8, aspect ratio kept."""
    return to_square(Image.fromarray(image), size)


# ---- the files ---------------------------------------------------------------------------------------------------


def publish(
    out: Path, title: str, blocks: Sequence[Table | Paragraph | str], results: dict, files: str, weights: str | None
) -> None:
    """Write results.json and report.html, and print what of the page can be printed. files: what else is in `out`."""
    command = shlex.join(["python", *map(str, sys.argv)])
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    whole = {"command": command, "versions": versions, **results}
    write_text(out / "results.json", json.dumps(without_nan(whole), indent=1) + "\n")
    made = "Python {python}, torch {torch}, numpy {numpy}".format(**versions)
    footer = f"{command} · {made} · weights: {weights or 'none'}"
    write_text(out / "report.html", page(title, blocks, footer))
    print_blocks(blocks)
    print(f"\n{out}: results.json, report.html{files}")


def without_nan(value: object) -> object:
    """JSON has no nan: an undefined score is null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
