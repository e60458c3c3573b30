"""What all evaluations share: processes that work together, numbers with intervals, tables beside the paper's, and the
files they leave behind."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from common.files import write_text
from evaluation import metrics, page

if TYPE_CHECKING:
    from common.distributed import Team

Result = TypeVar("Result")
Scored = tuple[float, float, float]  # a number and its 95 % interval
OURS_ONLY = "compares with nothing outside this repository"


def together(args: argparse.Namespace, work: Callable[[argparse.Namespace, Team], Result]) -> Result:
    """work(args, team) on every process of a torchrun, or alone."""
    import torch

    from common.distributed import joined_team

    with joined_team(torch.device(args.device)) as team:
        return work(args, team)


def mean_and_interval(values: np.ndarray) -> Scored:
    """The mean of (N,) and its 95 % interval."""
    low, high = metrics.bootstrap_sums(lambda sums: sums / len(values), values)
    return scored(values.mean(), low, high)


def scored(value: float, low: float, high: float) -> Scored:
    return float(value), float(low), float(high)


def paper_table(
    number: int,
    ours: Sequence[page.Cell],
    judged: str,
    second: str = "params",
    note: str = "",
    parts: Sequence[page.Cell] | None = None,
) -> str:
    """This run's row above the paper's. ours: its cells, in the order of the paper's columns. judged: by what.

    parts: a second row of this run, the mean over parts of the set.
    """
    table = page.paper_table(number)
    columns, rows, group = table["columns"], [f"This run; {judged}", ["this run", None, *ours]], None
    if parts:
        rows.append(["this run, mean of parts", None, *parts])
    for entry in table["rows"]:
        if entry["group"] != group:
            group = entry["group"]
            rows.append(f"{table['source']}: {group}")
        rows.append([entry["model"], entry[second], *entry["values"]])
    arrows = {"higher": "\u00a0↑", "lower": "\u00a0↓"}
    headers = [column.get("short", column["name"]) + arrows[column["better"]] for column in columns]
    groups = [("", 2)]
    for column in columns:
        name, span = groups[-1]
        same = name == column.get("group", "")
        groups[-1:] = [(name, span + 1)] if same else [(name, span), (column.get("group", ""), 1)]
    return page.table(
        ["model", {"params": "parameters", "resolution": "px"}[second], *headers],
        rows,
        note=note,
        highlight=[1, 2] if parts else [1],
        groups=groups if len(groups) > 1 else (),
        decimals=[0, 0, *(column["decimals"] for column in columns)],
        best={k + 2: column["better"] for k, column in enumerate(columns)},
    )


def thumbnail(image: np.ndarray, size: int = 256) -> np.ndarray:
    """(H, W) uint8 -> (size, size) uint8, aspect ratio kept."""
    from PIL import Image

    from common.images import to_square

    return to_square(Image.fromarray(image), size)


def footer(about: dict) -> str:
    """The last line of a page: the command, the versions and the weights."""
    import torch

    command = shlex.join(["python", *map(str, sys.argv)])
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{command} · {versions} · weights: {about.get('weights') or 'none'}"


def write_results(out: Path, results: dict) -> None:
    """results.json, with the command and the versions that made it."""
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    whole = {"command": shlex.join(["python", *map(str, sys.argv)]), "versions": versions, **results}
    write_text(out / "results.json", json.dumps(without_nan(whole), indent=1) + "\n")


def without_nan(value: object) -> object:
    """JSON has no nan: an undefined score is null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
