"""What all evaluations share: tables beside the paper's, and the files they leave behind."""

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from common.files import write_text
from common.sampling import DISCLAIMER
from evaluation.page import page
from evaluation.tables import Cell, Paragraph, Table, print_blocks

PAPER = Path(__file__).parent.parent / "assets" / "paper.json"
OURS_ONLY = "compares with nothing outside this repository"


def paper(number: int) -> dict:
    """Table 2, 3, 4 or 5 of the paper: `title`, `note`, `columns` (`name`, `better`, `decimals`), `rows` (`values`)."""
    return json.loads(PAPER.read_text(encoding="utf-8"))["tables"][str(number)]


def beside_paper(number: int, title: str, ours: dict[str, Sequence[Cell]], judged: str, note: str) -> Table:
    """This run's rows above the paper's. ours: name -> cells in the order of the paper's columns. judged: by what."""
    theirs, group = paper(number), None
    second, header = {2: ("params", "parameters"), 3: ("resolution", "px")}[number]  # what else is known of a model
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
        ["model", header] + [column["name"].replace(" F1", "") + arrows[column["better"]] for column in columns],
        rows,
        title,
        note,
        groups if len(groups) > 1 else (),
        [0, 0, *(column["decimals"] for column in columns)],
        ours=range(1, 1 + len(ours)),
    )


def publish(
    out: Path, title: str, summary: str, blocks: Sequence[Table | str], results: dict, weights: str | None
) -> None:
    """Write results.json and report.html, and print what of the page can be printed. summary: of what, and by whom."""
    lines = [summary, f"Protocol: {results['protocol']}."] if "protocol" in results else [summary]
    blocks = [*map(Paragraph, lines), Paragraph(DISCLAIMER), *blocks]
    command = shlex.join(["python", *map(str, sys.argv)])
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    whole = json.dumps({"command": command, "versions": versions, **results})
    whole = json.loads(whole, parse_constant=lambda name: None)  # JSON has no nan: an undefined score is null
    write_text(out / "results.json", json.dumps(whole, indent=1) + "\n")
    made = "Python {python}, torch {torch}, numpy {numpy}".format(**versions)
    write_text(out / "report.html", page(title, blocks, f"{command} · {made} · weights: {weights or 'none'}"))
    print_blocks(blocks)
    print(f"\n{out}: {', '.join(sorted(file.name for file in out.iterdir() if not file.name.startswith('.')))}")
