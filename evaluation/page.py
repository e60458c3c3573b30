"""One HTML page of tables and pictures in a single file: it loads nothing and runs no script.

Every text that is passed in is escaped. Nothing here knows of models or scores.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from common.images import to_square
from evaluation.tables import Paragraph, Table, value_of

SIDE = 256  # px of a picture

STYLE = """
:root { color-scheme: light dark }
body { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem; font: 1rem/1.5 system-ui, sans-serif }
h2 { margin: 3rem 0 .6rem }
p { max-width: 44rem }
small, .quiet, footer { opacity: .7; font-size: .82em }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.35; font-variant-numeric: tabular-nums;
  border: solid; border-width: 2px 0 }
th, td { padding: .3rem .45rem; text-align: left; vertical-align: top; border-top: 1px solid #8886 }
thead { vertical-align: bottom; border-bottom: 1px solid }
thead .group { text-align: center }
tr.section th { padding-top: .8rem; font-style: italic; font-weight: 400 }
tr.ours { background: #0072b226 }
.number { text-align: right; white-space: nowrap }
.number small { display: block }
.pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1rem .8rem; font-size: .82rem;
  margin-bottom: 2rem }
.pictures figure { margin: 0; overflow-wrap: anywhere }
.pictures img { display: block; width: 100%; height: auto }
"""


def page(title: str, blocks: Sequence[Table | Paragraph | str], footer: str = "") -> str:
    """A whole document. blocks: tables, paragraphs, and HTML from the functions below; the other two are plain text."""
    body = ""
    for block in blocks:
        if isinstance(block, Table):
            block = html_of(block)
        elif isinstance(block, Paragraph):
            block = f"<p>{escape(block)}</p>\n"
        body += block
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
{body}<footer>{escape(footer)}</footer>
</body>
</html>
"""


def heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>\n"


def html_of(table: Table) -> str:
    """Under its title as a heading. Columns with a number in them are right-aligned."""
    rows = [row for row in table.rows if not isinstance(row, str)]
    numbers = [any(value_of(row[k]) is not None for row in rows) for k in range(len(table.headers))]
    align = [' class="number"' if number else "" for number in numbers]

    def tr(cells: Iterable[str], kind: str = "") -> str:
        return f"<tr{kind}>{''.join(cells)}</tr>\n"

    head = body = ""
    if table.groups:
        head += tr(f'<th class="group" colspan="{span}">{escape(name)}</th>' for name, span in table.groups)
    unbroken = [escape(header).replace("-", "\u2011") for header in table.headers]  # no line ends inside "F1-14"
    head += tr(f"<th{kind}>{header}</th>" for kind, header in zip(align, unbroken, strict=True))
    for i, row in enumerate(table.rows):
        if isinstance(row, str):
            body += tr([f'<th colspan="{len(table.headers)}">{escape(row)}</th>'], ' class="section"')
            continue
        cells = []
        for cell, kind, (value, interval) in zip(row, align, table.written(row), strict=True):
            small = f" <small>{interval}</small>" if interval else ""
            # The minus of numbers is one, not a hyphen.
            shown = escape(cell) if isinstance(cell, str) else (value + small).replace("-", "\u2212")
            cells.append(f"<td{kind}>{shown}</td>")
        body += tr(cells, ' class="ours"' if i in table.ours else "")
    title = heading(table.title) if table.title else ""
    note = f'<p class="quiet">{escape(table.note)}</p>\n' if table.note else ""
    whole = f"<table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>"
    return f'{title}<div class="scroll">{whole}</div>\n{note}'


def pictures(items: Sequence[tuple[np.ndarray, str]]) -> str:
    """Grey pictures in a grid. items: (uint8 array (H, W), text under it); shown at SIDE px, aspect ratio kept."""
    figures = []
    for array, words in items:
        buffer, words = io.BytesIO(), escape(words)
        Image.fromarray(to_square(Image.fromarray(array), SIDE)).save(buffer, format="PNG", optimize=True)
        source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        figures.append(f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>')
    return '<div class="pictures">\n' + "\n".join(figures) + "\n</div>\n"
