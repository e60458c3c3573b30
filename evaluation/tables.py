"""A table, described once: `text` prints it in the terminal, page.py shows it in HTML. Knows no model and no score.

print(text(Table(["class", "F1"], [["Edema", (0.912, 0.898, 0.925)]], "Reading")))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

# A cell: text, a number, a number with its interval (value, low, high), or None where there is none.
Cell = str | int | float | tuple[float, float, float] | None
MISSING = "–"
LONGEST = 44  # characters of a first cell in the terminal


class Paragraph(str):
    """Words that are printed and shown."""


@dataclass(frozen=True)
class Table:
    """Columns, rows and groups. Integers are shown whole, None and nan as a dash, other numbers with `decimals`.

    rows: each has a Cell for every header; one that is a plain string is a section title across all columns. title:
    stands above, note: below. groups: (name, how many columns), a row above the headers. decimals: of all columns, or
    one for each. ours: indices into rows, to be tinted. intervals: whether the terminal prints them, too.
    """

    headers: Sequence[str]
    rows: Sequence[str | Sequence[Cell]]
    title: str = ""
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()
    decimals: int | Sequence[int] = 3
    ours: Sequence[int] = ()
    intervals: bool = False

    def written(self, row: Sequence[Cell]) -> list[tuple[str, str]]:
        """Each cell of a row as words: (the value, its interval or "")."""
        decimals, pairs = [self.decimals] * len(row) if isinstance(self.decimals, int) else self.decimals, []
        for cell, places in zip(row, decimals, strict=True):
            value, *ends = (digits(each, places) for each in (cell if isinstance(cell, tuple) else (cell,)))
            pairs.append((value, "" if MISSING in ends else " to ".join(ends)))
        return pairs


def value_of(cell: Cell) -> Real | None:
    """The number in a cell, if there is one."""
    number = cell[0] if isinstance(cell, tuple) else cell
    return None if number is None or isinstance(number, str) or number != number else number


def digits(number: str | float | None, decimals: int) -> str:
    """A number as words; words as they are."""
    if isinstance(number, (str, Integral)):
        return str(number)
    return MISSING if value_of(number) is None else f"{number:.{decimals}f}"


def text(block: Table | Paragraph) -> str:
    """For the terminal."""
    if isinstance(block, Paragraph):
        return str(block)
    lines = [list(block.headers)]
    for row in block.rows:
        if isinstance(row, str):
            lines.append(row)
            continue
        cells = [f"{value} ({ends})" if ends and block.intervals else value for value, ends in block.written(row)]
        lines.append([cells[0][:LONGEST], *cells[1:]])
    widths = [max(len(line[k]) for line in lines if isinstance(line, list)) for k in range(len(block.headers))]
    widths[1:] = [width + 2 for width in widths[1:]]
    table = [
        line if isinstance(line, str) else line[0].ljust(widths[0]) + "".join(map(str.rjust, line[1:], widths[1:]))
        for line in lines
    ]
    if block.groups:
        above, start = "", 0
        for name, span in block.groups:
            width, start = sum(widths[start : start + span]), start + span
            above += f"{name[: width - 2]:^{width}}"
        table.insert(0, above.rstrip())
    return "\n\n".join(part for part in (block.title, "\n".join(table), block.note) if part)


def print_blocks(blocks: Sequence[object]) -> None:
    """What of a page can be printed: its tables and paragraphs, not its HTML."""
    print(*(text(block) for block in blocks if isinstance(block, (Table, Paragraph))), sep="\n\n")
