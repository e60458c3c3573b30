"""Image files -> grey pixels: opened, converted, padded to a square. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import UserError

MAX_PIXELS = 100_000_000  # a decompression bomb is not an X-ray
SCALINGS = ("fit", "shrink", "janus")  # of `to_square`


def load_image(path: str | Path, size: int | None = None) -> Image.Image:
    """Any file Pillow reads, 8 or 16 bit -> an 8-bit grey image. Raises UserError naming the file.

    size: px that its longer side will be resized to; a JPEG may then come at the smallest of 1, 1/2, 1/4, 1/8 of its
    own scale that is still larger. That halves the time and moves no grey value of the result by more than 2 of 255.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device could be read for ever
        raise UserError(f"{path}: not a file; give a PNG, JPEG or TIFF")
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise UserError(f"{path}: {file.width} x {file.height} pixels is too large; reduce it first")
            if size is not None:
                scale = size / max(file.size)
                file.draft("L", tuple(max(1, round(side * scale)) for side in file.size))
            file.load()
            image = file.copy()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image") from error
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not an image Pillow can read; give a PNG, JPEG or TIFF") from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's decoders raise all three on broken files
        raise UserError(f"{path}: broken image ({error}); fetch or export it again") from error
    return to_grey(image)


def to_grey(image: Image.Image) -> Image.Image:
    """16- and 32-bit images are stretched from their own darkest to brightest value, others converted."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float32)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        return Image.fromarray(np.nan_to_num((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "P"):  # transparent parts become black, as outside the collimator
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L")


def to_square(image: Image.Image, size: int, padding: int = 0, scaling: str = "fit") -> np.ndarray:
    """Grey image of any shape -> (size, size) uint8: aspect ratio kept, in the middle of a square (section 4.1).

    padding: grey value of what is left of the square. scaling, one of SCALINGS:
    "fit"     as large as the square allows, bicubic
    "shrink"  never larger than it is, Lanczos: what UniX's published evaluation shows to its model
    "janus"   as "fit", with sides cut to whole pixels and at least 14 of them: Janus-Pro's own processor
    """
    if scaling == "shrink":
        resized = image.convert("LA")  # as published, with an alpha channel: Pillow 12 shrinks a bare "L" otherwise
        resized.thumbnail((size, size), Image.Resampling.LANCZOS)
        resized = resized.getchannel("L")
    else:
        longest = max(image.size)
        if scaling == "fit":
            width, height = (max(1, round(side * (size / longest))) for side in image.size)
        else:
            width, height = (max(min(14, size), int(side / longest * size)) for side in image.size)
        resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("L", (size, size), padding)
    square.paste(resized, ((size - resized.width) // 2, (size - resized.height) // 2))
    return np.array(square)  # a copy: torch wants memory it may write to


def augment(square: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same chest, filmed again: (S, S) uint8 -> the same shape. For reading only; a drawing would learn to tilt.

    Turned by up to 7 degrees, shifted by up to 5 % of the side, scaled by up to 10 %, exposed by another curve (gamma
    0.8 to 1.25, so black stays black). Never flipped: the heart lies on one side, and "left" in the report would be
    wrong.
    """
    side = square.shape[0]
    angle = np.deg2rad(rng.uniform(-7, 7))
    shift, scale = rng.uniform(-0.05, 0.05, 2) * side, rng.uniform(0.9, 1.1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    centre = np.full(2, (side - 1) / 2)
    origin = centre - turn @ (centre + shift)  # Pillow wants where each pixel of the result comes from
    affine = (*turn[0], origin[0], *turn[1], origin[1])
    gamma = np.exp(rng.uniform(-1, 1) * np.log(1.25))
    image = Image.fromarray(square).transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.array(image.point([round(255 * (grey / 255) ** gamma) for grey in range(256)]))
