"""What every lesson needs: the project on the import path, the shipped model, and a few ways to show things.

A lesson begins with `import classroom`. After that it imports the project's files as any program would.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from common.files import SHIPPED  # noqa: E402
from sample import load_model  # noqa: E402
from weights import Checkpoint  # noqa: E402

UND, GEN = "#2f6fb3", "#d9741f"  # the colours of the two branches in docs/sequence.svg
plt.rcParams.update({"figure.dpi": 72, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


@functools.cache
def checkpoint() -> Checkpoint:
    """The shipped tiny UniX, on the CPU in float32, loaded once."""
    return load_model(SHIPPED, "cpu", torch.float32)


def generator(seed: int) -> torch.Generator:
    """Random numbers that depend on `seed` alone."""
    return torch.Generator().manual_seed(seed)


def show(
    images: Sequence[np.ndarray], captions: Sequence[str] = (), columns: int | None = None, inches: float = 1.9
) -> None:
    """Grey pictures side by side. images: (h, w) arrays, uint8 in 0..255 or floats of any range; inches: of each."""
    columns = min(len(images), columns or 6)
    rows = -(-len(images) // columns)
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * inches, rows * (inches + 0.2 * lines)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        limits = {"vmin": 0, "vmax": 255} if np.asarray(image).dtype == np.uint8 else {}
        axis.imshow(np.asarray(image), cmap="gray", **limits)
        if i < len(captions):
            axis.set_title(captions[i], fontsize=8)
    figure.tight_layout(pad=0.4)
    plt.show()
