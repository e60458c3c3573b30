"""Pictures for people: a captioned grid of images and a loss curve, drawn with Pillow alone.

Everything that writes a PNG comes through `save_png`, so a reader never opens half a picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from common.files import write_atomically

INK, PAPER, RULE = (30, 30, 30), (255, 255, 255), (205, 205, 205)
CURVE_COLOURS = [(31, 90, 166), (200, 80, 30), (60, 140, 60), (130, 70, 150)]


def grid(images: Sequence[np.ndarray], captions: Sequence[str] = (), columns: int | None = None) -> Image.Image:
    """A contact sheet.

    images: uint8 arrays, (H, W) or (H, W, 3), all of one size. captions: one a picture, wrapped under it
    (none: no room is left for them). columns: as square as possible when not given.
    """
    height, width = images[0].shape[:2]
    columns = columns or max(1, round(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    font = ImageFont.load_default(size=max(10, width // 20))
    per_line = max(8, int(width / font.getlength("n")))
    blocks = [textwrap.fill(caption, per_line) for caption in captions]
    line_height = int(font.size * 1.35)
    caption_height = max((block.count("\n") + 1 for block in blocks), default=0) * line_height
    gap = 6
    cell_w, cell_h = width + gap, height + caption_height + gap
    sheet = Image.new("RGB", (columns * cell_w + gap, rows * cell_h + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = gap + i % columns * cell_w, gap + i // columns * cell_h
        sheet.paste(Image.fromarray(image).convert("RGB"), (x, y))
        if i < len(blocks):
            draw.multiline_text((x, y + height + 2), blocks[i], fill=INK, font=font, spacing=3)
    return sheet


def difference(before: np.ndarray, after: np.ndarray, full: int = 64) -> np.ndarray:
    """Two grey uint8 pictures (H, W) -> (H, W, 3): white where they are equal, red where it grew brighter, blue where
    darker; a change of `full` grey levels has the full colour."""
    change = np.clip((after.astype(np.float32) - before) / full, -1, 1)[..., None]
    red, blue = np.array([178, 24, 43], np.float32), np.array([33, 102, 172], np.float32)
    tint = np.where(change > 0, red, blue)
    return np.rint(255 + np.abs(change) * (tint - 255)).astype(np.uint8)


def curves(
    series: dict[str, Sequence[tuple[float, float]]], title: str, size: tuple[int, int] = (900, 520)
) -> Image.Image:
    """Line plot. series: name -> [(step, value), ...]; each keeps its own colour and a running mean on top."""
    canvas = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    left, top, right, bottom = 70, 40, size[0] - 20, size[1] - 40
    points = [p for line in series.values() for p in line if np.isfinite(p[1])]
    draw.text((left, 10), title, fill=INK, font=font)
    if not points:
        return canvas
    xs, ys = np.array(points).T
    x0, x1 = xs.min(), max(xs.max(), xs.min() + 1)
    # A few wild first steps must not flatten the rest of the curve.
    y0, y1 = ys.min(), np.percentile(ys, 99)
    pad = 0.05 * max(y1 - y0, 1e-6)
    y0, y1 = y0 - pad, y1 + pad

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x0) / (x1 - x0) * (right - left),
            bottom - (float(np.clip(y, y0, y1)) - y0) / (y1 - y0) * (bottom - top),
        )

    for k in range(6):
        value, step = y0 + k / 5 * (y1 - y0), x0 + k / 5 * (x1 - x0)
        draw.line([place(x0, value), place(x1, value)], fill=RULE)
        draw.text((6, place(x0, value)[1] - 8), f"{value:.4g}", fill=INK, font=font)
        draw.text((place(step, y0)[0] - 12, bottom + 8), f"{step:.0f}", fill=INK, font=font)
    for (name, line), colour, k in zip(series.items(), CURVE_COLOURS * 9, range(len(series)), strict=False):
        line = [(x, y) for x, y in line if np.isfinite(y)]
        if not line:
            continue
        pale = tuple((c + 2 * 255) // 3 for c in colour)
        window = max(1, len(line) // 40)
        values = np.array([y for _, y in line], dtype=np.float64)
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        draw.line([place(x, y) for x, y in line], fill=pale)
        draw.line([place(line[i + window - 1][0], y) for i, y in enumerate(mean)], fill=colour, width=2)
        draw.text((right - 190, top + 4 + 18 * k), f"{name}: {mean[-1]:.4g}", fill=colour, font=font)
    return canvas


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG atomically, marked as ours (`ownership.own_file` asks). Raises UserError if it cannot be written."""
    info = PngInfo()
    info.add_text("Software", "open-unix")
    with write_atomically(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)
