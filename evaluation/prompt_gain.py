"""How much a model's drawing heeds its prompt, on phantoms that it was never trained on: a minute, and no judge.

    python -m evaluation.prompt_gain [--weights DIR] [--n 64] [--size PX]

The measure is `losses.prompt_gain`; a run may log it while it trains.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

import losses
from common import arguments
from common.errors import UserError, run
from common.files import SHIPPED
from common.images import to_square
from phantoms.dataset import phantom
from sample import check_size, load_model
from weights import Checkpoint


def prompt_gain(checkpoint: Checkpoint, seed: int, n: int, size: int) -> dict[float, float]:
    """Time -> the share by which the velocity's error grows with another phantom's impression.

    Over the first `n` phantoms of a seed, at least 2, drawn at `size` px.
    """
    phantoms = [phantom(seed, index, max(256, size)) for index in range(n)]
    images = np.stack([to_square(Image.fromarray(p.image), size) for p in phantoms])
    prompts = [checkpoint.encode(p.impression) for p in phantoms]
    return losses.prompt_gain(checkpoint.model, checkpoint.vae, torch.from_numpy(images), prompts)


def gain_table(gains: dict[float, float], n: int) -> str:
    title = f"Prompt gain: by how much the velocity's error grows if {n} phantoms exchange their impressions."
    return "\n".join([title, "", *(f"at t = {time:<22}{gain:>7.1%}" for time, gain in gains.items())])


def main() -> None:
    parser = arguments.Parser(description="How much a model's velocity heeds its prompt, at three noise levels.")
    add = parser.add_argument
    weights = "weights folder, or a run's (default: the shipped tiny model)"
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help=weights)
    add("--n", type=arguments.whole(2, 10_000), default=64, help="phantoms of seed 1, at least 2 (default 64)")
    add("--size", type=arguments.size, help="pixels a side, a multiple of 16; default: what the weights know best")
    args = parser.parse_args()

    checkpoint = load_model(args.weights, "cpu", torch.float32)
    config = checkpoint.model.config
    if checkpoint.vae is None:
        raise UserError(f"--weights {args.weights}: a Janus-Pro, which draws no X-rays; name a UniX")
    size = args.size or config.image_size
    check_size(size, config.max_latent_size)
    print(gain_table(prompt_gain(checkpoint, 1, args.n, size), args.n))


if __name__ == "__main__":
    run(main)
