"""Films: how an upload is opened, and the example films."""

from __future__ import annotations

import os
from pathlib import Path

import gradio as gr
from PIL import Image

from common.errors import UserError
from common.images import load_image
from phantoms.dataset import phantom

EXAMPLES = 12  # phantoms to read
EXAMPLE_SEED = 1  # of the phantoms: the model was not trained on these


def open_upload(payload: object) -> Image.Image | None:
    """An uploaded film -> 8-bit grey. Raises gr.Error in one line, with the name that the user gave the file.

    The only place where a path of a request is opened. gradio checks paths too, but only of payloads that call
    themselves a file by their "meta".
    """
    if payload is None:
        return None
    path, name = getattr(payload, "path", None), getattr(payload, "orig_name", None) or "the upload"
    if not path or (real := uploaded(path)) is None:  # one answer, whether or not such a file exists
        raise gr.Error("no film was uploaded; upload a PNG, JPEG or TIFF")
    try:
        return load_image(real)
    except UserError as error:
        raise gr.Error(str(error).replace(str(real), name)) from None


def uploaded(path: str) -> Path | None:
    """The path with its links resolved, if it lies in this server's folder of uploads (demo.py made it); else None."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    try:
        real = Path(path).resolve()
    except (OSError, RuntimeError, ValueError):  # a name that is too long, links in a circle, a NUL
        return None
    return real if folder in real.parents else None


def example_film(number: object) -> Image.Image | None:
    """Phantom 1..EXAMPLES; None for another number."""
    known = str(number) in map(str, range(1, EXAMPLES + 1))
    return Image.fromarray(phantom(EXAMPLE_SEED, int(number) - 1, 256).image) if known else None
