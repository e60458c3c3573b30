"""One HTML page of tables, bars, histograms and pictures in a single file: it loads nothing and runs no script.

Each function returns a piece of HTML as a string, `page` joins the pieces, common/files.py writes the result:

    blocks = [heading("Reading"), table(["class", "F1"], [["Edema", (0.912, 0.898, 0.925)]])]
    write_text("report.html", page("Scores", blocks))

Every text that is passed in is escaped. Nothing here knows of models or scores. The colours of series are those of
Okabe and Ito, which colour-blind readers can tell apart; histograms tell their series apart by dashes as well.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from PIL import Image

from common.ownership import SVG_MARK

PAPER = Path(__file__).parent.parent / "assets" / "paper.json"
MISSING = "–"
LONG = 60  # characters of a cell that is broken over lines
SERIES = 4  # as many colours are in STYLE

# A cell of a table: text, a number, a number with its interval (value, low, high), or None where there is none.
Cell = str | int | float | tuple[float, float, float] | None

STYLE_OF_BARS = """
.bars { display: grid; grid-template-columns: fit-content(40%) minmax(4rem, 1fr) auto; gap: 3px .8rem;
  align-items: center; font-size: .88rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.first { margin-top: .5rem }
.track { position: relative; height: .9rem; border-right: 1px solid var(--rule);
  background: linear-gradient(90deg, var(--rule) 1px, transparent 1px) 0 0 / 25% }
.track i { position: absolute; inset: 0 auto 0 0 }
.track b { position: absolute; top: 25%; bottom: 25%; border: solid var(--ink); border-width: 0 1.5px }
.track b::before { content: ""; position: absolute; inset: calc(50% - .75px) 0 auto;
  border-top: 1.5px solid var(--ink) }
.i0 { background: var(--c0) } .i1 { background: var(--c1) } .i2 { background: var(--c2) } .i3 { background: var(--c3) }
"""

STYLE = (
    STYLE_OF_BARS
    + """
:root { color-scheme: light dark; --ink: #1b1e21; --paper: #fff; --quiet: #62686e; --rule: #d5d9dd; --ours: #e6f0f9;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7 }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --paper: #15181b; --quiet: #9aa1a8; --rule: #353b41; --ours: #1c2f40;
    --c0: #56b4e9; --c1: #e69f00; --c2: #009e73; --c3: #cc79a7 } }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact }
body { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.25rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem }
h2 { font-size: 1.4rem; line-height: 1.3; margin: 3rem 0 .6rem }
h3, h4 { font-size: 1.1rem; margin: 2rem 0 .5rem }
h2, h3, h4, figcaption, caption { break-after: avoid }
p { max-width: 44rem; margin: .6rem 0 }
small, .quiet, footer { color: var(--quiet); font-size: .82em; font-weight: 400 }
.subtitle { color: var(--quiet); font-size: 1.1rem }
footer { margin-top: 4rem; padding-top: .8rem; border-top: 1px solid var(--rule) }
figure { margin: 1.5rem 0 2rem; break-inside: avoid }
figcaption, caption { font-weight: 600; text-align: left; padding-bottom: .5rem; max-width: 44rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; min-width: 50%; font-size: .84rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; border-bottom: 2px solid var(--ink) }
th, td { padding: .3rem .45rem; text-align: left; vertical-align: top; font-weight: 400 }
thead th { vertical-align: bottom; font-weight: 600 }
thead tr:first-child th { border-top: 2px solid var(--ink) }
thead .group { text-align: center }
thead .group:not(:empty) { border-bottom: 1px solid var(--ink) }
tbody tr { border-top: 1px solid var(--rule) }
thead + tbody tr:first-child { border-top: 1px solid var(--ink) }
tr.section th { padding-top: .8rem; font-style: italic; color: var(--quiet) }
tr.ours { background: var(--ours) }
.number { text-align: right }
td.number, td:first-child { white-space: nowrap }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16rem }
td.number small { display: block }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; font-size: .88rem; margin: 0 0 .5rem }
.legend svg { width: 28px; height: 10px; margin-right: .4rem }
.l0, .l1, .l2, .l3 { fill: none; stroke: var(--c0); stroke-width: 2 }
.l1 { stroke: var(--c1); stroke-dasharray: 7 3 } .l2 { stroke: var(--c2); stroke-dasharray: 2 2 }
.l3 { stroke: var(--c3); stroke-dasharray: 9 3 2 3 }
.d0 { fill: var(--c0) } .d1 { fill: var(--c1) } .d2 { fill: var(--c2) } .d3 { fill: var(--c3) }
.legend .solid { stroke-width: 10; stroke-dasharray: none }
.plot { display: block; width: 100%; min-width: 30rem; max-width: 48rem; font: 13px system-ui, sans-serif;
  fill: var(--quiet) }
.square { max-width: 32rem }
.plot line { stroke: var(--rule) }
.pictures { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 1rem .8rem }
.pictures figure { margin: 0; min-width: 0 }
.pictures img { display: block; width: 100%; height: auto; background: #000 }
.pictures figcaption { font-weight: 400; font-size: .82rem; line-height: 1.35; padding-top: .35rem;
  overflow-wrap: anywhere }
@media (max-width: 40rem) { .pictures { grid-template-columns: repeat(2, 1fr) } }
@media print { body { max-width: none; padding: 0; font-size: 10pt } table { font-size: 8pt }
  .scroll { overflow: visible } }
"""
)


def page(title: str, blocks: Sequence[str], subtitle: str = "", footer: str = "") -> str:
    """A whole document. blocks: pieces of HTML from the functions below, in order; the other three are plain text."""
    lead = f'<p class="subtitle">{escape(subtitle)}</p>\n' if subtitle else ""
    end = f"<footer>{escape(footer)}</footer>\n" if footer else ""
    # The policy makes the browser itself refuse to load or run anything from outside this file.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{lead}{"".join(blocks)}{end}</body>
</html>
"""


def heading(title: str, level: int = 2) -> str:
    return f"<h{level:d}>{escape(title)}</h{level:d}>\n"


def text(paragraphs: str | Sequence[str]) -> str:
    """One paragraph or several."""
    paragraphs = [paragraphs] if isinstance(paragraphs, str) else paragraphs
    return "".join(f"<p>{escape(paragraph)}</p>\n" for paragraph in paragraphs)


def table(
    headers: Sequence[str],
    rows: Sequence[str | Sequence[Cell]],
    caption: str = "",
    note: str = "",
    highlight: Sequence[int] = (),
    best: Mapping[int, str] | None = None,
    groups: Sequence[tuple[str, int]] = (),
    decimals: int | Sequence[int] = 3,
) -> str:
    """Columns with a number in them are right-aligned; integers are shown whole, other numbers with `decimals`.

    rows: each has a Cell for every header; one that is a plain string is a section title across all columns.
    highlight: indices into rows, to be tinted. best: column -> "higher" | "lower", the best number of each section is
    bold. groups: (title, how many columns), a row above the headers. decimals: of all columns, or one for each.
    None and nan are shown as a dash. Raises ValueError if a row or `groups` has another length than headers.
    """
    n = len(headers)
    decimals = [decimals] * n if isinstance(decimals, int) else decimals
    lengths = {len(row) for row in rows if not isinstance(row, str)} | {len(decimals)}
    if groups:
        lengths.add(sum(span for _, span in groups))
    if lengths != {n}:
        raise ValueError(f"{n} headers, but rows, groups or decimals of {sorted(lengths - {n})} columns")
    cells = [row for row in rows if not isinstance(row, str)]
    align = [' class="number"' if any(_value(row[k]) is not None for row in cells) else "" for k in range(n)]
    bold = _best_cells(rows, best or {})

    def tr(cells: Iterable[str], kind: str = "") -> str:
        return f"<tr{kind}>{''.join(cells)}</tr>\n"

    head, body = "", ""
    if groups:
        head += tr(f'<th class="group" colspan="{span}">{escape(name)}</th>' for name, span in groups)
    unbroken = [escape(header).replace("-", "\u2011") for header in headers]  # no line ends inside "F1-14"
    head += tr(f"<th{align[k]}>{unbroken[k]}</th>" for k in range(n))
    for i, row in enumerate(rows):
        if isinstance(row, str):
            body += tr([f'<th colspan="{n}">{escape(row)}</th>'], ' class="section"')
            continue
        shown = [_shown(row[k], decimals[k]) for k in range(n)]
        shown = [f"<strong>{cell}</strong>" if (i, k) in bold else cell for k, cell in enumerate(shown)]
        kinds = [
            ' class="long"' if isinstance(cell, str) and len(cell) > LONG else align[k] for k, cell in enumerate(row)
        ]
        body += tr((f"<td{kinds[k]}>{shown[k]}</td>" for k in range(n)), ' class="ours"' if i in highlight else "")
    title = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    foot = f'<p class="quiet">{escape(note)}</p>\n' if note else ""
    whole = f"<table>\n{title}<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>"
    return f'<figure>\n<div class="scroll">{whole}</div>\n{foot}</figure>\n'


def bars(
    items: Sequence[tuple[str, float | None, float | None, float | None, str]],
    caption: str = "",
    maximum: float | None = 1.0,
    series: Sequence[str] = (),
    decimals: int = 3,
) -> str:
    """Horizontal bars from 0 to `maximum` (None: the largest number) with grid lines at its quarters.

    items: (label, value, low, high, note); low and high are the ends of a whisker, or None. What lies outside the
    scale is cut off, its number is not. series: names for a legend; the items of a label then follow each other, one
    for each of series, in that order. Raises ValueError if they do not.
    """
    per_label = len(series) or 1
    labels = [item[0] for item in items]
    if labels != [label for label in labels[::per_label] for _ in range(per_label)]:
        raise ValueError(f"each label must have {per_label} items in a row, one for each of {list(series)}")
    if maximum is None:
        numbers = [number for item in items for number in item[1:4] if _value(number) is not None]
        maximum = max(numbers, default=0) or 1.0

    def percent(number: float) -> float:
        return 100 * min(max(number / maximum, 0), 1)

    lines = []
    for i, (label, value, low, high, note) in enumerate(items):
        k = i % per_label
        marks = ""
        if _value(value) is not None:
            marks = f'<i class="i{k}" style="width:{percent(value):.4g}%"></i>'
            if _value(low) is not None and _value(high) is not None:
                marks += f'<b style="left:{percent(low):.4g}%;right:{100 - percent(high):.4g}%"></b>'
        number = _shown((value, low, high), decimals) + (f" <small>{escape(note)}</small>" if note else "")
        first = " first" * (per_label > 1 and k == 0)
        lines.append(
            f'<span class="label{first}">{escape(label) if k == 0 else ""}</span>'
            f'<span class="track{first}">{marks}</span><span class="value{first}">{number}</span>'
        )
    body = "\n".join(lines)
    return f'<figure>\n{_caption(caption)}{_legend(series, "solid")}<div class="bars">\n{body}\n</div>\n</figure>\n'


def histogram(series: Mapping[str, Sequence[float]], caption: str = "", unit: str = "", bins: int = 30) -> str:
    """The distributions of several lists of numbers as outlines over one scale, each in percent of its own list.

    series: name -> values; unit: what the values are, written under the axis. The legend gives the number of values and
    their median. Raises ValueError for an empty list or numbers that are not finite.
    """
    values = {name: np.asarray(line, dtype=np.float64).ravel() for name, line in series.items()}
    for name, line in values.items():
        if not len(line) or not np.isfinite(line).all():
            raise ValueError(f"{name}: a histogram needs at least one value, and finite ones")
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
    shares = {name: 100 * np.histogram(line, edges)[0] / len(line) for name, line in values.items()}
    left, top, right, bottom = 50, 12, 708, 240
    x_low, x_high, y_high = edges[0], edges[-1], max(share.max() for share in shares.values())

    def x(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (right - left)

    def y(share: float) -> float:
        return bottom - share / y_high * (bottom - top)

    marks = []
    for tick in _ticks(0, y_high):
        marks.append(f'<line x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        marks.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}%</text>')
    for tick in _ticks(x_low, x_high):
        marks.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        marks.append(f'<text x="{x(tick):.1f}" y="{bottom + 19}" text-anchor="middle">{tick:g}</text>')
    marks.append(f'<text x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">{escape(unit)}</text>')
    for k, share in enumerate(shares.values()):
        steps = "".join(f"V{y(s):.1f}H{x(edge):.1f}" for s, edge in zip(share, edges[1:], strict=True))
        marks.append(f'<path class="l{k}" d="M{left} {bottom}{steps}V{bottom}"/>')
    names = [f"{name} ({len(line)}, median {np.median(line):.3g})" for name, line in values.items()]
    body = "\n".join(marks)
    return (
        f'<figure>\n{_caption(caption)}{_legend(names, "line")}<div class="scroll">'
        f'<svg class="plot" viewBox="0 0 720 285" role="img" aria-label="{escape(caption)}">\n{body}\n</svg></div>\n'
        "</figure>\n"
    )


def reliability(
    series: Mapping[str, Sequence[tuple[float, float, float, float, int]]], caption: str = "", said: str = "said"
) -> str:
    """How often is true what was said with some confidence? Dots on the diagonal are calibrated.

    series: name -> (confidence, share that was true, low, high, how many) each, the confidences rising, all shares in
    [0, 1]; low and high are the ends of a whisker. A dot grows with how many it stands for. said: under the axis.
    """
    svg = reliability_svg(series, caption, said)
    return f'<figure>\n{_caption(caption)}{_legend(list(series), "line")}<div class="scroll">{svg}</div>\n</figure>\n'


def reliability_svg(
    series: Mapping[str, Sequence[tuple[float, float, float, float, int]]],
    caption: str,
    said: str,
    alone: bool = False,
) -> str:
    """The drawing of `reliability`. alone: with its colours and a legend, to be a file of its own."""
    left, top, right, bottom = 60, 12, 460, 412

    def x(value: float) -> float:
        return left + value * (right - left)

    def y(value: float) -> float:
        return bottom - value * (bottom - top)

    marks = [
        f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{top}" stroke-dasharray="4 4" style="stroke:var(--quiet)"/>'
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        marks.append(f'<line x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        marks.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
        marks.append(f'<text x="{x(tick):.1f}" y="{bottom + 19}" text-anchor="middle">{tick:.0%}</text>')
    marks.append(f'<text x="{x(0.5):.1f}" y="{bottom + 40}" text-anchor="middle">{escape(said)}</text>')
    turned = f'transform="translate(14 {y(0.5):.1f}) rotate(-90)"'
    marks.append(f'<text {turned} text-anchor="middle">was true</text>')
    for k, (name, dots) in enumerate(series.items()):
        line = " ".join(f"{x(confidence):.1f},{y(true):.1f}" for confidence, true, *_ in dots)
        if len(dots) > 2:  # a line of two would lie on the diagonal
            marks.append(f'<polyline class="l{k}" points="{line}"/>')
        for confidence, true, low, high, n in dots:
            marks.append(f'<path class="l{k}" d="M{x(confidence):.1f} {y(low):.1f}V{y(high):.1f}"/>')
            radius = 2.5 + log10(n)
            title = f"<title>{escape(name)}: {said} {confidence:.0%}, was true {true:.1%} of {n}</title>"
            marks.append(
                f'<circle class="d{k}" cx="{x(confidence):.1f}" cy="{y(true):.1f}" r="{radius:.1f}">{title}</circle>'
            )
        if alone:
            row = top + 20 + 20 * k
            marks.append(f'<path class="l{k}" d="M{right + 20} {row}h28"/>')
            marks.append(f'<text x="{right + 56}" y="{row + 4}">{escape(name)}</text>')
    body = "\n".join(marks)
    box = f'viewBox="0 0 {720 if alone else 480} 465" role="img" aria-label="{escape(caption)}"'
    if not alone:
        return f'<svg class="plot square" {box}>\n{body}\n</svg>'
    paper = '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
    style = f"<style>{STYLE}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" {box}>{SVG_MARK}\n{style}{paper}\n{body}\n</svg>\n'


def pictures(items: Sequence[tuple[np.ndarray, str]], caption: str = "", columns: int = 4) -> str:
    """Pictures in a grid. items: (uint8 array (H, W) or (H, W, 3), text under it); kept exactly, as PNG."""
    figures = []
    for array, words in items:
        height, width = array.shape[:2]
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format="PNG", optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        source = f'src="data:image/png;base64,{data}" width="{width}" height="{height}"'
        figures.append(f'<figure><img {source} alt="{escape(words)}"><figcaption>{escape(words)}</figcaption></figure>')
    grid = f'<div class="pictures" style="--columns:{columns:d}">\n' + "\n".join(figures) + "\n</div>"
    return f"<figure>\n{_caption(caption)}{grid}\n</figure>\n"


def paper_table(number: int) -> dict:
    """Table 2, 3, 4 or 5 of the paper: `title`, `note`, `columns` (`name`, `better`, `decimals`), `rows` (`values`).

    Raises ValueError for another number.
    """
    tables = json.loads(PAPER.read_text(encoding="utf-8"))["tables"]
    if str(number) not in tables:
        raise ValueError(f"assets/paper.json has the paper's tables {', '.join(tables)}, not {number}")
    return tables[str(number)]


# ---- pieces ------------------------------------------------------------------------------------------------------


def _value(cell: Cell) -> Real | None:
    """The number in a cell, if there is one."""
    number = cell[0] if isinstance(cell, tuple) else cell
    return None if number is None or isinstance(number, str) or number != number else number


def _shown(cell: Cell, decimals: int) -> str:
    if isinstance(cell, str):
        return escape(cell)

    def written(number: float) -> str:
        digits = str(number) if isinstance(number, Integral) else f"{number:.{decimals}f}"
        return digits.replace("-", "−")

    value = _value(cell)
    if value is None:
        return MISSING
    if isinstance(cell, tuple) and _value(cell[1]) is not None and _value(cell[2]) is not None:
        return f"{written(value)} <small>{written(cell[1])}–{written(cell[2])}</small>"
    return written(value)


def _best_cells(rows: Sequence[str | Sequence[Cell]], best: Mapping[int, str]) -> set[tuple[int, int]]:
    """(row, column) of the best number of each section; of all where several are equal."""
    section = np.cumsum([isinstance(row, str) for row in rows])
    found = set()
    for k, better in best.items():
        numbers = {i: _value(row[k]) for i, row in enumerate(rows) if not isinstance(row, str)}
        for s in set(section):
            rivals = {i: number for i, number in numbers.items() if section[i] == s and number is not None}
            top = {"higher": max, "lower": min}[better](rivals.values(), default=None)
            found |= {(i, k) for i, number in rivals.items() if number == top}
    return found


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>\n" if caption else ""


def _legend(names: Sequence[str], kind: str) -> str:
    """kind: "solid" for bars, "line" for outlines."""
    if len(names) > SERIES:
        raise ValueError(f"{len(names)} series, but colours for {SERIES}")
    entries = (
        f'<span><svg aria-hidden="true"><path class="l{k} {kind}" d="M0 5h28"/></svg>{escape(name)}</span>'
        for k, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(entries)}</p>\n' if names else ""


def _ticks(low: float, high: float) -> list[float]:
    """Some four to ten round numbers from low to high: 1, 2 or 5 times a power of ten apart."""
    quarter = (high - low) / 4
    power = 10.0 ** floor(log10(quarter))
    step = power * (5 if quarter >= 5 * power else 2 if quarter >= 2 * power else 1)
    return [k * step for k in range(ceil(low / step), floor(high / step) + 1)]
