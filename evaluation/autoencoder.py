"""What the autoencoder keeps of a phantom: the contrast of every kind of finding, and the peak signal-to-noise ratio.

A picture that goes through the autoencoder may look right and still have lost a catheter, which is a few pixels wide.
Here the same chest is drawn with and without one finding, and only the finding's own pixels count.

    python -m evaluation.autoencoder [--weights DIR]
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from common import arguments
from common.errors import UserError, run
from common.files import SHIPPED
from phantoms.dataset import phantom
from phantoms.drawing import draw
from phantoms.truth import KINDS, Patient, streams, truth
from sample import load_model
from vae import VAE

NORMAL_RATIO = 0.45  # the cardiothoracic ratio of a chest without cardiomegaly
OWN = 8  # grey levels: a pixel that a finding changes by more is its own


def patients(seed: int, index: int, kind: str) -> tuple[Patient, Patient] | None:
    """The patient of phantom `index`, with and without the finding of this kind; None if there is none.

    Devices share a random stream, so a phantom with two of them counts as having none.
    """
    patient = truth(seed, index)
    own = [finding for finding in patient.findings if finding.kind == kind]
    if not own or sum(finding.observation == own[0].observation for finding in patient.findings) > 1:
        return None
    ratio = NORMAL_RATIO if kind == "cardiomegaly" else patient.cardiothoracic_ratio
    others = tuple(finding for finding in patient.findings if finding.kind != kind)
    return patient, replace(patient, findings=others, cardiothoracic_ratio=ratio)


def with_and_without(seed: int, index: int, kind: str, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Phantom `index` as it is and without its finding of this kind, two (size, size) uint8; None if it has none.

    All else is the same to the pixel: a finding has a random stream of its own.
    """
    pair = patients(seed, index, kind)
    return pair and tuple(draw(patient, streams(seed, index)[1], size) for patient in pair)


def pairs_of(seed: int, kind: str, count: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first `count` pairs of this kind among the phantoms of a seed."""
    pairs, index = [], 0
    while len(pairs) < count:
        if pair := with_and_without(seed, index, kind, size):
            pairs.append(pair)
        index += 1
    return pairs


@torch.inference_mode()
def rebuild(vae: VAE, images: np.ndarray) -> np.ndarray:
    """(N, S, S) uint8 through the autoencoder -> (N, S, S) float32 grey values."""
    pixels = vae.preprocess(torch.from_numpy(images)).to(next(vae.parameters()))
    return 127.5 * (vae.decode(vae.encode(pixels)).float().mean(dim=1).cpu().numpy() + 1)


def contrast_kept(vae: VAE, seed: int, count: int = 4, size: int = 256) -> dict[str, float]:
    """Kind of finding -> how much of its contrast the autoencoder keeps, over `count` phantoms with it: 1 is all.

    In the finding's own pixels, the difference of the two rebuilt pictures is regressed on the true one, through 0.
    """
    kept = {}
    for kind in KINDS:
        products = squares = 0.0
        for pair in pairs_of(seed, kind, count, size):
            pictures = np.stack(pair)
            rebuilt = rebuild(vae, pictures)
            true, shown = pictures[0].astype(np.float64) - pictures[1], rebuilt[0] - rebuilt[1]
            own = np.abs(true) > OWN
            products += (true * shown)[own].sum()
            squares += np.square(true[own]).sum()
        kept[kind] = float(products / squares)
    return kept


def psnr(vae: VAE, images: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB after the autoencoder, the mean over (N, S, S) uint8 pictures."""
    ratios = []
    for image in images:
        error = np.square(rebuild(vae, image[None])[0].round().clip(0, 255) - image).mean()
        ratios.append(10 * np.log10(255**2 / max(error, 1e-12)))
    return float(np.mean(ratios))


def measure(vae: VAE, seed: int, count: int = 4) -> dict:
    """Both measures at 256 px: `contrast_kept` over `count` phantoms of each kind, `psnr` in dB over the first 16."""
    pictures = np.stack([phantom(seed, index, 256).image for index in range(16)])
    return {"contrast_kept": contrast_kept(vae, seed, count), "psnr": psnr(vae, pictures), "of_each_kind": count}


def autoencoder_table(scores: dict) -> str:
    lines = [
        f"Autoencoder: how much contrast it keeps of each kind of finding ({scores['of_each_kind']} phantoms each)."
    ]
    lines += ["", *(f"{kind:28}{share:>7.1%}" for kind, share in scores["contrast_kept"].items())]
    return "\n".join([*lines, f"{'PSNR':28}{scores['psnr']:>7.1f} dB"])


def main() -> None:
    parser = arguments.Parser(
        description="The contrast that an autoencoder keeps of each kind of finding, and its PSNR."
    )
    parser.add_argument(
        "--weights", type=arguments.weights_folder, default=SHIPPED, help="weights folder (default: the shipped model)"
    )
    parser.add_argument("--n", type=arguments.whole(1, 1000), default=4, help="phantoms of each kind (default 4)")
    args = parser.parse_args()
    vae = load_model(args.weights, "cpu", torch.float32).vae
    if vae is None:
        raise UserError(f"--weights {args.weights}: a Janus-Pro, which has no autoencoder; name a UniX")
    print(autoencoder_table(measure(vae, seed=1, count=args.n)))


if __name__ == "__main__":
    run(main)
