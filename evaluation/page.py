"""One HTML page of tables, bars and pictures in a single file: it loads nothing and runs no script.

Each function returns a piece of HTML, `page` joins the pieces, common/files.py writes the result:

    blocks = [heading("Reading"), Table(["class", "F1"], [["Edema", (0.912, 0.898, 0.925)]])]
    write_text("report.html", page("Scores", blocks))

Every text that is passed in is escaped. Nothing here knows of models or scores. The colours of series are those of
Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from evaluation.tables import Paragraph, Table, value_of, written

LONG = 60  # characters of a cell that is broken over lines
SERIES = 4  # as many colours are in STYLE

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
h2, figcaption { break-after: avoid }
p { max-width: 44rem; margin: .6rem 0 }
small, .quiet, footer { color: var(--quiet); font-size: .82em; font-weight: 400 }
footer { margin-top: 4rem; padding-top: .8rem; border-top: 1px solid var(--rule) }
figure { margin: 1.5rem 0 2rem; break-inside: avoid }
figcaption { font-weight: 600; text-align: left; padding-bottom: .5rem; max-width: 44rem }
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
.legend i { display: inline-block; width: 28px; height: 10px; margin-right: .4rem }
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


def page(title: str, blocks: Sequence[Table | Paragraph | str], footer: str = "") -> str:
    """A whole document. blocks: tables, paragraphs, and HTML from the functions below; the other two are plain text."""
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
{"".join(map(shown, blocks))}{end}</body>
</html>
"""


def heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>\n"


def shown(block: Table | Paragraph | str) -> str:
    """HTML of what tables.py describes; what is HTML stays as it is."""
    if isinstance(block, Table):
        return html_of(block)
    return f"<p>{escape(block)}</p>\n" if isinstance(block, Paragraph) else block


def html_of(table: Table) -> str:
    """Under its title as a heading. Columns with a number in them are right-aligned."""
    n = len(table.headers)
    numbers = [any(value_of(row[k]) is not None for row in table.cells()) for k in range(n)]
    align = [' class="number"' if number else "" for number in numbers]

    def tr(cells: Iterable[str], kind: str = "") -> str:
        return f"<tr{kind}>{''.join(cells)}</tr>\n"

    head, body = "", ""
    if table.groups:
        head += tr(f'<th class="group" colspan="{span}">{escape(name)}</th>' for name, span in table.groups)
    unbroken = [escape(header).replace("-", "\u2011") for header in table.headers]  # no line ends inside "F1-14"
    head += tr(f"<th{align[k]}>{unbroken[k]}</th>" for k in range(n))
    for i, row in enumerate(table.rows):
        if isinstance(row, str):
            body += tr([f'<th colspan="{n}">{escape(row)}</th>'], ' class="section"')
            continue
        cells = []
        for cell, kind, words in zip(row, align, table.written(row), strict=True):
            kind = ' class="long"' if isinstance(cell, str) and len(cell) > LONG else kind
            cells.append(f"<td{kind}>{escape(cell) if isinstance(cell, str) else with_interval(*words)}</td>")
        body += tr(cells, ' class="ours"' if i in table.ours else "")
    title = heading(table.title) if table.title else ""
    foot = f'<p class="quiet">{escape(table.note)}</p>\n' if table.note else ""
    whole = f"<table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>"
    return f'{title}<figure>\n<div class="scroll">{whole}</div>\n{foot}</figure>\n'


def with_interval(value: str, interval: str) -> str:
    """A number with its interval in small letters; the minus of numbers is one, not a hyphen."""
    return (value + (f" <small>{interval}</small>" if interval else "")).replace("-", "\u2212")


def bars_of(table: Table, columns: Sequence[int], caption: str = "", maximum: float | None = 1.0) -> str:
    """`bars` of some columns of a table; where there are several, their headers are the series."""
    items = []
    for row in table.cells():
        for k in columns:
            ends = row[k] if isinstance(row[k], tuple) else (row[k], None, None)
            items.append((row[0], *ends, ""))
    series = [table.headers[k] for k in columns] if len(columns) > 1 else ()
    return bars(items, caption, maximum, series, table.places()[columns[0]])


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
        numbers = [number for item in items for number in item[1:4] if value_of(number) is not None]
        maximum = max(numbers, default=0) or 1.0

    def percent(number: float) -> float:
        return 100 * min(max(number / maximum, 0), 1)

    lines = []
    for i, (label, value, low, high, note) in enumerate(items):
        k = i % per_label
        marks = ""
        if value_of(value) is not None:
            marks = f'<i class="i{k}" style="width:{percent(value):.4g}%"></i>'
            if value_of(low) is not None and value_of(high) is not None:
                marks += f'<b style="left:{percent(low):.4g}%;right:{100 - percent(high):.4g}%"></b>'
        number = with_interval(*written((value, low, high), decimals))
        number += f" <small>{escape(note)}</small>" if note else ""
        first = " first" * (per_label > 1 and k == 0)
        lines.append(
            f'<span class="label{first}">{escape(label) if k == 0 else ""}</span>'
            f'<span class="track{first}">{marks}</span><span class="value{first}">{number}</span>'
        )
    body = "\n".join(lines)
    return f'<figure>\n{_caption(caption)}{_legend(series)}<div class="bars">\n{body}\n</div>\n</figure>\n'


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


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>\n" if caption else ""


def _legend(names: Sequence[str]) -> str:
    if len(names) > SERIES:
        raise ValueError(f"{len(names)} series, but colours for {SERIES}")
    entries = (f'<span><i class="i{k}"></i>{escape(name)}</span>' for k, name in enumerate(names))
    return f'<p class="legend">{"".join(entries)}</p>\n' if names else ""
