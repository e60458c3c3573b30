"""Films: how an upload is opened, and the example films."""

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

    The only place where a path of a request is opened, if it lies in the folder of uploads that demo.py made. gradio
    checks paths too, but only of payloads that call themselves a file by their "meta".
    """
    if payload is None:
        return None
    folder, name = Path(os.environ["GRADIO_TEMP_DIR"]).resolve(), getattr(payload, "orig_name", None) or "the upload"
    try:
        real = Path(getattr(payload, "path", None) or "").resolve()  # of links
    except (OSError, RuntimeError, ValueError):  # a name that is too long, links in a circle, a NUL
        real = Path()
    if folder not in real.parents:  # one answer, whether or not such a file exists
        raise gr.Error("no film was uploaded; upload a PNG, JPEG or TIFF")
    try:
        return load_image(real)
    except UserError as error:
        raise gr.Error(str(error).replace(str(real), name)) from None


def example_film(number: object) -> Image.Image | None:
    """Phantom 1..EXAMPLES; None for another number."""
    known = str(number) in map(str, range(1, EXAMPLES + 1))
    return Image.fromarray(phantom(EXAMPLE_SEED, int(number) - 1, 256).image) if known else None
