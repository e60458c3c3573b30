"""One HTML page of tables, bars and pictures in a single file: it loads nothing and runs no script.

Each function returns a piece of HTML, `page` joins the pieces, common/files.py writes the result:

    blocks = [heading("Reading"), Table(["class", "F1"], [["Edema", (0.912, 0.898, 0.925)]])]
    write_text("report.html", page("Scores", blocks))

Every text that is passed in is escaped. Nothing here knows of models or scores.
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

STYLE_OF_BARS = """
.bars { display: grid; grid-template-columns: fit-content(40%) minmax(4rem, 1fr) auto; gap: 3px .8rem;
  align-items: center; font-size: .88rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.track { position: relative; height: .9rem; border-right: 1px solid var(--rule);
  background: linear-gradient(90deg, var(--rule) 1px, transparent 1px) 0 0 / 25% }
.track i { position: absolute; inset: 0 auto 0 0; background: var(--c0) }
.track b { position: absolute; top: 25%; bottom: 25%; border: solid var(--ink); border-width: 0 1.5px }
"""

STYLE = (
    STYLE_OF_BARS
    + """
:root { color-scheme: light dark; --ink: CanvasText; --rule: #8886; --c0: #0072b2; --ours: #0072b226 }
* { box-sizing: border-box; print-color-adjust: exact }
body { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem; font: 1rem/1.5 system-ui, sans-serif }
h2 { margin: 3rem 0 .6rem }
p, figcaption { max-width: 44rem }
small, .quiet, footer { opacity: .7; font-size: .82em }
figure { margin: 1.5rem 0 2rem; break-inside: avoid }
figcaption { font-weight: 600; padding-bottom: .5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; min-width: 50%; font-size: .84rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; border-bottom: 2px solid }
th, td { padding: .3rem .45rem; text-align: left; vertical-align: top; border-top: 1px solid var(--rule) }
thead { vertical-align: bottom; border-bottom: 1px solid; border-top: 2px solid }
thead .group { text-align: center }
tr.section th { padding-top: .8rem; font-style: italic; font-weight: 400 }
tr.ours { background: var(--ours) }
.number { text-align: right }
td.number, td:first-child { white-space: nowrap }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16rem }
td.number small { display: block }
.pictures { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 1rem .8rem }
.pictures figure { margin: 0 }
.pictures img { display: block; width: 100%; height: auto }
.pictures figcaption { font-weight: 400; font-size: .82rem; overflow-wrap: anywhere }
@media print { .scroll { overflow: visible } }
"""
)


def page(title: str, blocks: Sequence[Table | Paragraph | str], footer: str = "") -> str:
    """A whole document. blocks: tables, paragraphs, and HTML from the functions below; the other two are plain text."""
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
{"".join(map(shown, blocks))}<footer>{escape(footer)}</footer>
</body>
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


def bars(
    items: Sequence[tuple[str, float, float | None, float | None, str]], caption: str = "", decimals: int = 3
) -> str:
    """Horizontal bars from 0 to 1 with grid lines at the quarters. items: (label, value, low, high, note).

    low and high are the ends of a whisker, or None.
    """
    lines = []
    for label, value, low, high, note in items:
        marks = f'<i style="width:{100 * value:.4g}%"></i>'
        if low is not None and high is not None:
            marks += f'<b style="left:{100 * low:.4g}%;right:{100 - 100 * high:.4g}%"></b>'
        number = with_interval(*written((value, low, high), decimals)) + f" <small>{escape(note)}</small>" * bool(note)
        lines.append(f'<span>{escape(label)}</span><span class="track">{marks}</span><span>{number}</span>')
    body = "\n".join(lines)
    return f'<figure>\n{_caption(caption)}<div class="bars">\n{body}\n</div>\n</figure>\n'


def pictures(items: Sequence[tuple[np.ndarray, str]], caption: str = "", columns: int = 4) -> str:
    """Pictures in a grid. items: (uint8 array (H, W) or (H, W, 3), text under it); kept exactly, as PNG."""
    figures = []
    for array, words in items:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format="PNG", optimize=True)
        source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        words = escape(words)
        figures.append(f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>')
    grid = f'<div class="pictures" style="--columns:{columns:d}">\n' + "\n".join(figures) + "\n</div>"
    return f"<figure>\n{_caption(caption)}{grid}\n</figure>\n"


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>\n" if caption else ""
