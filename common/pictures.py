"""Pictures for people: a captioned grid of images and a loss curve, drawn with Pillow alone.

Everything that writes a PNG comes through `save_png`, so a reader never opens half a picture.
"""

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


def curves(series: dict[str, Sequence[tuple[float, float]]], title: str) -> Image.Image:
    """Line plot. series: name -> [(step, value), ...]; the values are pale, their running mean is on top."""
    canvas = Image.new("RGB", (900, 520), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    draw.text((70, 10), title, fill=INK, font=font)
    lines = {name: np.array([p for p in line if np.isfinite(p[1])]).reshape(-1, 2) for name, line in series.items()}
    if not sum(map(len, lines.values())):
        return canvas
    points = np.concatenate([*lines.values()])
    low = points.min(axis=0)
    # A few wild first steps must not flatten the rest of the curve.
    high = np.maximum([points[:, 0].max(), np.percentile(points[:, 1], 99)], low + [1, 1e-6])

    def place(points: np.ndarray) -> list[tuple[float, ...]]:
        """(N, 2) of steps and values -> pixels."""
        shares = (np.minimum(points, high) - low) / (high - low)
        return list(map(tuple, [70, 480] + shares * [810, -440]))

    for tick in np.linspace(low, high, 6):
        x, y = place(tick[None])[0]
        draw.line([(70, y), (880, y)], fill=RULE)
        draw.text((6, y - 8), f"{tick[1]:.4g}", fill=INK, font=font)
        draw.text((x - 12, 488), f"{tick[0]:.0f}", fill=INK, font=font)
    for k, (name, line) in enumerate((name, line) for name, line in lines.items() if len(line)):
        colour = CURVE_COLOURS[k % len(CURVE_COLOURS)]
        window = max(1, len(line) // 40)
        mean = np.lib.stride_tricks.sliding_window_view(line, window, axis=0).mean(axis=-1)
        draw.line(place(line), fill=tuple((c + 2 * 255) // 3 for c in colour))
        draw.line(place(mean), fill=colour, width=2)
        draw.text((690, 44 + 18 * k), f"{name}: {mean[-1, 1]:.4g}", fill=colour, font=font)
    return canvas


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG atomically, marked as ours (`ownership.own_file` asks). Raises UserError if it cannot be written."""
    info = PngInfo()
    info.add_text("Software", "open-unix")
    with write_atomically(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)
