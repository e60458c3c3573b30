"""What the autoencoder keeps of a phantom: the contrast of every kind of finding, and the peak signal-to-noise ratio.

A picture that goes through the autoencoder may look right and still have lost a catheter, which is a few pixels wide.
Here the same chest is rendered with and without one finding, and only the finding's own pixels count. Of real films,
where nobody knows these pixels, there is the peak signal-to-noise ratio.

    python -m studies.autoencoder [--weights DIR] [--data SRC --split validate --n 64]
"""

import itertools
from dataclasses import replace

import numpy as np
import torch

from archives.opening import open_source
from archives.records import squares
from common import arguments
from common.errors import run
from common.ownership import own_file
from common.pictures import grid, save_png
from evaluation.tables import Table, text
from phantoms.dataset import phantom
from phantoms.drawing import draw
from phantoms.truth import KINDS, streams, truth
from studies.command import load_unix, study
from vae import VAE

NORMAL_RATIO = 0.45  # the cardiothoracic ratio of a chest without cardiomegaly
OWN = 8  # grey levels: a pixel that a finding changes by more is its own


def with_and_without(seed: int, index: int, kind: str, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Phantom `index` as it is and without its finding of this kind, two (size, size) uint8; None if it has none.

    All else is the same to the pixel: a finding has a random stream of its own. Devices share one, so a phantom with
    two of them counts as having none.
    """
    patient = truth(seed, index)
    own = [finding for finding in patient.findings if finding.kind == kind]
    if not own or sum(finding.observation == own[0].observation for finding in patient.findings) > 1:
        return None
    ratio = NORMAL_RATIO if kind == "cardiomegaly" else patient.cardiothoracic_ratio
    others = tuple(finding for finding in patient.findings if finding.kind != kind)
    pair = patient, replace(patient, findings=others, cardiothoracic_ratio=ratio)
    return tuple(draw(each, streams(seed, index)[1], size) for each in pair)


@torch.inference_mode()
def rebuild(vae: VAE, images: np.ndarray) -> np.ndarray:
    """(N, S, S) uint8 through the autoencoder -> (N, S, S) float32 grey values."""
    pixels = vae.preprocess(torch.from_numpy(images)).to(next(vae.parameters()))
    return 127.5 * (vae.decode(vae.encode(pixels)).float().mean(dim=1).cpu().numpy() + 1)


def rounded(vae: VAE, images: np.ndarray) -> np.ndarray:
    """`rebuild`, one picture at a time, as they would be saved."""
    return np.concatenate([rebuild(vae, image[None]).round().clip(0, 255) for image in images])


def contrast_kept(vae: VAE, seed: int, count: int, size: int = 256) -> dict[str, float]:
    """Kind of finding -> how much of its contrast the autoencoder keeps, over `count` phantoms with it: 1 is all.

    In the finding's own pixels, the difference of the two rebuilt pictures is regressed on the true one, through 0.
    """
    kept = {}
    for kind in KINDS:
        pairs = (with_and_without(seed, index, kind, size) for index in itertools.count())
        products = squares = 0.0
        for pictures in itertools.islice((np.stack(pair) for pair in pairs if pair), count):
            rebuilt = rebuild(vae, pictures)
            true, shown = pictures[0].astype(np.float64) - pictures[1], rebuilt[0] - rebuilt[1]
            own = np.abs(true) > OWN
            products += (true * shown)[own].sum()
            squares += np.square(true[own]).sum()
        kept[kind] = float(products / squares)
    return kept


def psnr(rebuilt: np.ndarray, images: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, the mean over (N, S, S) pictures of grey values."""
    errors = np.square(rebuilt - images).mean(axis=(1, 2))
    return float((10 * np.log10(255**2 / np.maximum(errors, 1e-12))).mean(dtype=np.float64))


def main() -> None:
    parser = study("What an autoencoder keeps of phantoms or of films.", 4, "phantoms of each kind, or films")
    add = parser.add_argument
    add("--data", type=arguments.existing, metavar="SRC", help="real films instead: PSNR at 256 px")
    add("--split", default="test", help="of --data: train, validate, test (default) or all")
    sheet = "a sheet of eight films above what is rebuilt of them (default rebuilt.png)"
    add("--out", type=arguments.output_file, default="rebuilt.png", help=sheet)
    args = parser.parse_args()
    vae = load_unix(args).vae
    if args.data is None:
        kept = contrast_kept(vae, args.seed, args.n)
        title = f"Autoencoder: how much contrast it keeps of each kind of finding ({args.n} phantoms each)"
        print(text(Table(["", "contrast kept"], [[kind, f"{share:.1%}"] for kind, share in kept.items()], title)))
        films = np.stack([phantom(args.seed, index, 256).image for index in range(16)])
        print(f"\nPSNR {psnr(rounded(vae, films), films):.1f} dB.")
        return
    own_file(args.out)
    films = np.stack(squares(open_source(args.data, split=args.split), args.n, 256)[1])
    rebuilt = rounded(vae, films)
    print(f"{len(films)} films at 256 px: PSNR {psnr(rebuilt, films):.2f} dB")
    save_png(grid([*films[:8], *rebuilt[:8].astype(np.uint8)], columns=len(films[:8])), args.out)
    print(f"{args.out}: films, and below each what is rebuilt of it")


if __name__ == "__main__":
    run(main)
