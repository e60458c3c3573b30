"""Images a second on one core, ours beside torchvision's. Not a test: run it once, where torchvision is installed.

    python -m speed.loader_speed [FOLDER]     FOLDER: JPEGs to use; default: 24 drawn X-rays of 2,500 x 3,000 px

All decode, resize to 384 px and normalise to three channels; they take turns, and the best of five rounds counts.
torchvision stands there twice: as its recipes load a picture, in colour, and told that this one is grey.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from checkpoints.presets import preset
from common.images import load_image, to_square
from phantoms.dataset import Phantoms
from vit import VisionTransformer

SIZE = 384


def make_images(folder: Path) -> None:
    source, rng = Phantoms(24, 512), np.random.default_rng(0)
    for i in range(24):
        large = np.asarray(Image.fromarray(source.image(i)).resize((2500, 3000), Image.Resampling.BICUBIC), np.float32)
        noisy = large + rng.normal(0, 4, large.shape)  # a detector's, or the JPEG would be too easy
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=92)


def main() -> None:
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    config = preset("unix")
    with torch.device("meta"):  # without its weights
        vit = VisionTransformer(config.vit)
    theirs = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(SIZE, antialias=True),
            v2.CenterCrop(SIZE),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([config.vit.mean], [config.vit.std]),
        ]
    )

    def torchvision(path: Path) -> torch.Tensor:
        return theirs(Image.open(path).convert("RGB"))

    def torchvision_grey(path: Path) -> torch.Tensor:
        return theirs(Image.open(path).convert("L")).expand(3, -1, -1)

    def ours(path: Path) -> torch.Tensor:
        square = to_square(load_image(path, size=SIZE), SIZE)
        return vit.preprocess(torch.from_numpy(square)[None])

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if len(sys.argv) == 1:
            make_images(folder)
        paths = sorted(folder.glob("*.jp*g"))
        ways = {"ours": ours, "torchvision": torchvision, "torchvision, grey": torchvision_grey}
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(5):
            for name, load in ways.items():
                began = time.perf_counter()
                for path in paths:
                    load(path)
                best[name] = min(best[name], time.perf_counter() - began)
    for name, seconds in best.items():
        print(f"{name:18}{len(paths) / seconds:6.1f} images/s   ours is {seconds / best['ours']:.2f} x as fast")


if __name__ == "__main__":
    main()
