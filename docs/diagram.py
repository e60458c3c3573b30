# ruff: noqa: E501 - a line is a shape
"""Draws docs/sequence.svg: the two sequences of UniX, who may look at whom, and whose weights (paper Figure 2, 3.2, 3.3).

    python docs/diagram.py

The picture brings its own light card, so it reads on a light and on a dark page. The same code gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TARGET = Path(__file__).with_name("sequence.svg")

CELL = 29  # px, side of a token and of a cell of the mask
INK, MUTED, RULE, CARD, EMPTY = "#1f2937", "#5b6472", "#d5dae1", "#fbfbf9", "#eff1f4"
FILL = {"und": "#2f6fb3", "gen": "#d9741f"}
PALE = {"und": "#e3eef9", "gen": "#fcead9"}


@dataclass(frozen=True)
class Token:
    """One column of a sequence: what is written on it, whose weights it uses, its position, and its group."""

    name: str
    branch: str  # "und" or "gen"
    position: str
    group: str  # "image": sees all of its group; else causal


def drawing_sequence() -> list[Token]:
    """[BOS prompt EOS] at 0..T-1, then [BOI latents EOI], all at T."""
    prompt = zip(["BOS", "w", "w", "w", "EOS"], ["0", "1", "2", "…", "T−1"], strict=True)
    block = ["BOI", "z", "z", "z", "z", "z", "z", "EOI"]
    return [Token(name, "und", position, "text") for name, position in prompt] + [
        Token(name, "gen" if name == "z" else "und", "T", "image") for name in block
    ]


def reading_sequence() -> list[Token]:
    """[BOI patches EOI], all at 0, then [BOS question EOS BOS answer EOS] from 1."""
    text = ["BOS", "q", "q", "EOS", "BOS", "a", "a", "EOS"]
    return [Token(name, "und", "0", "image") for name in ["BOI", "p", "p", "p", "EOI"]] + [
        Token(name, "und", str(position), "text") for position, name in enumerate(text, start=1)
    ]


def attends(tokens: list[Token], row: int, column: int) -> bool:
    """Whether the token at `row` may look at the token at `column`."""
    return column <= row or tokens[row].group == tokens[column].group == "image"


def text(
    x: float, y: float, words: str, size: float = 12, fill: str = INK, anchor: str = "middle", more: str = ""
) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"{more}>{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", radius: float = 3) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" stroke="{stroke}"/>'


def bracket(x: float, y: float, width: float, up: bool, color: str) -> str:
    """A flat bracket over (up) or under a span."""
    foot = 5 if up else -5
    return f'<path d="M{x:g} {y + foot:g}v{-foot}h{width:g}v{foot}" fill="none" stroke="{color}" stroke-width="1.5"/>'


def runs(keys: list[str]) -> list[tuple[str, int, int]]:
    """Equal neighbours joined: (key, first, count)."""
    found: list[tuple[str, int, int]] = []
    for i, key in enumerate(keys):
        if found and found[-1][0] == key:
            found[-1] = (key, found[-1][1], found[-1][2] + 1)
        else:
            found.append((key, i, 1))
    return found


def panel(
    x: float, y: float, title: str, subtitle: str, tokens: list[Token], parts: list[tuple[str, int, int]]
) -> list[str]:
    """Title, the sequence with its weights and positions, and below each column the mask."""
    left = x + 42  # of the first column: row names stand before it
    out = [text(x, y, title, 17, anchor="start", more=' font-weight="700"')]
    out.append(text(x, y + 19, subtitle, 12, MUTED, "start"))

    top = y + 68  # of the sequence
    for branch, first, count in runs([token.branch for token in tokens]):
        start, width = left + first * CELL + 2, count * CELL - 4
        label = f"{branch} weights" if count > 2 else branch
        out.append(text(start + width / 2, top - 17, label, 12, FILL[branch], more=' font-weight="600"'))
        out.append(bracket(start, top - 11, width, True, FILL[branch]))
    for i, token in enumerate(tokens):
        out.append(box(left + i * CELL + 1, top, CELL - 2, CELL - 2, FILL[token.branch]))
        out.append(
            text(
                left + (i + 0.5) * CELL,
                top + 17.5,
                token.name,
                11 if len(token.name) < 3 else 9.5,
                "#ffffff",
                more=' font-weight="600"',
            )
        )
        out.append(text(left + (i + 0.5) * CELL, top + 43, token.position, 11.5, MUTED))
    out.append(text(left - 6, top + 43, "position", 10, MUTED, "end"))
    for label, first, count in parts:
        start, width = left + first * CELL + 2, count * CELL - 4
        out.append(bracket(start, top + 56, width, False, MUTED))
        out.append(text(start + width / 2, top + 70, label, 11.5, MUTED))

    grid = top + 84
    for i, token in enumerate(tokens):
        out.append(
            text(left - 6, grid + i * CELL + 18, token.name, 11, FILL[token.branch], "end", ' font-weight="600"')
        )
        for j in range(len(tokens)):
            fill = FILL[token.branch] if attends(tokens, i, j) else EMPTY
            out.append(box(left + j * CELL + 1, grid + i * CELL + 1, CELL - 2, CELL - 2, fill))
    edge = next(i for i in range(1, len(tokens)) if tokens[i].group != tokens[i - 1].group)
    side = len(tokens) * CELL
    for line in (
        f"M{left + edge * CELL:g} {grid - 2:g}v{side + 4}",
        f"M{left - 2:g} {grid + edge * CELL:g}h{side + 4}",
    ):
        out.append(f'<path d="{line}" stroke="{INK}" stroke-width="1.3" stroke-dasharray="4 3" fill="none"/>')
    return out


def note(x: float, y: float, lines: list[str]) -> list[str]:
    return [text(x, y + 15 * i, line, 11.5, INK) for i, line in enumerate(lines)]


def layer(x: float, y: float, width: float) -> list[str]:
    """Inside every layer: two ways with one attention in the middle."""
    out = [text(x, y, "Inside every layer", 17, anchor="start", more=' font-weight="700"')]
    out.append(
        text(
            x + 190,
            y,
            "each token goes through the weights of its own kind, then all attend together",
            12,
            MUTED,
            "start",
        )
    )
    rows = {
        "und": ("text, patches, BOI, EOI", "und norm, q k v", "und output, norm, MLP"),
        "gen": ("latents z", "gen norm, q k v", "gen output, norm, MLP"),
    }
    height, columns = 34, (x, x + 222, x + 440, x + 640)
    for i, (branch, (who, before, after)) in enumerate(rows.items()):
        top = y + 20 + i * (height + 12)
        middle = top + height / 2
        out.append(box(columns[0], top, 180, height, FILL[branch], radius=6))
        out.append(text(columns[0] + 90, middle + 4, who, 12.5, "#ffffff", more=' font-weight="600"'))
        for at, words, wide in ((columns[1], before, 176), (columns[3], after, width - 640)):
            out.append(box(at, top, wide, height, PALE[branch], FILL[branch], radius=6))
            out.append(text(at + wide / 2, middle + 4, words, 12.5))
        for start, end in (
            (columns[0] + 180, columns[1]),
            (columns[1] + 176, columns[2]),
            (columns[2] + 158, columns[3]),
        ):
            out.append(
                f'<path d="M{start + 4:g} {middle:g}h{end - start - 12:g}" stroke="{FILL[branch]}" stroke-width="2"/>'
            )
            out.append(f'<path d="M{end - 9:g} {middle - 4:g}l7 4l-7 4z" fill="{FILL[branch]}"/>')
    out.append(box(columns[2], y + 20, 158, 2 * height + 12, "#ffffff", INK, 6))
    out.append(text(columns[2] + 79, y + 55, "one softmax", 13, more=' font-weight="700"'))
    out.append(text(columns[2] + 79, y + 73, "over all tokens (Eq. 5)", 12, MUTED))
    out.append(text(columns[1] + 88, y + 20 + 2 * height + 30, "Eq. 3, 4", 12, MUTED))
    return out


def diagram() -> str:
    """The whole picture as SVG text."""
    width, height = 912, 776
    draw, read = drawing_sequence(), reading_sequence()
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        "font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\" role=\"img\">",
        "<title>The drawing and the reading sequence of UniX, their positions, masks and weights</title>",
        box(1, 1, width - 2, height - 2, CARD, RULE, 14),
    ]
    out += panel(
        26,
        40,
        "Drawing",
        "w: words of the prompt. z: noisy latents",
        draw,
        [("prompt, causal", 0, 5), ("image block, one position", 5, 8)],
    )
    out += panel(
        468, 40, "Reading", "p: image patches. q: question. a: answer, one word at a time", read,
        [("image, one position", 0, 5), ("question and answer, causal", 5, 8)],
    )  # fmt: skip
    grid = 40 + 68 + 84
    out += note(
        68 + 9 * CELL, grid + 1.8 * CELL, ["the prompt never sees the block:", "its keys and values are computed once"]
    )
    out += note(510 + 9.6 * CELL, grid + 1.8 * CELL, ["the image never sees the text"])
    legend = grid + 13 * CELL + 22
    out.append(box(68, legend - 11, 13, 13, FILL["und"]))
    out.append(box(84, legend - 11, 13, 13, FILL["gen"]))
    out.append(
        text(
            103,
            legend,
            "the token of this row looks at the token of this column; its colour is the row's weights",
            12,
            MUTED,
            "start",
        )
    )
    out.append(box(652, legend - 11, 13, 13, EMPTY, RULE))
    out.append(text(671, legend, "it does not", 12, MUTED, "start"))
    out += layer(26, legend + 42, width - 52)
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(diagram(), encoding="utf-8")
