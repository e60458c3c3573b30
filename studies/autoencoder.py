"""What the autoencoder keeps of a phantom: the contrast of every kind of finding, and the peak signal-to-noise ratio.

A picture that goes through the autoencoder may look right and still have lost a catheter, which is a few pixels wide.
Here the same chest is rendered with and without one finding, and only the finding's own pixels count. Of real films,
where nobody knows these pixels, there are the peak signal-to-noise ratio, the structural similarity, and a sheet to
look at.

    python -m studies.autoencoder [--weights DIR]
    python -m studies.autoencoder --weights DIR --data SRC --split validate
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from archives.opening import open_source
from archives.records import squares
from common import arguments
from common.errors import UserError, run
from common.files import SHIPPED
from common.ownership import own_file
from common.pictures import grid, save_png
from evaluation import page
from evaluation.tables import Paragraph, Table, print_blocks
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
    return float(np.mean([ratio(rebuild(vae, image[None])[0].round().clip(0, 255), image) for image in images]))


def ratio(rebuilt: np.ndarray, image: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of one picture of grey values."""
    return float(10 * np.log10(255**2 / max(np.square(rebuilt - image).mean(), 1e-12)))


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM (Wang et al. 2004) of two (H, W) pictures of grey values: the mean over Gaussian windows, sigma 1.5, one at
    every pixel of the picture continued by reflection."""
    x = F.pad(torch.from_numpy(np.stack([a, b])).double(), (5, 5, 5, 5), mode="reflect")
    window = torch.exp(-0.5 * (torch.arange(-5, 6) / 1.5).square()).double()
    window = (window / window.sum()).view(1, 1, -1, 1)

    def blurred(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(values[:, None], window), window.transpose(2, 3))[:, 0]

    mean = blurred(x)
    variance = blurred(x.square()) - mean.square()
    covariance = blurred(x[:1] * x[1:]) - mean[:1] * mean[1:]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean.prod(dim=0) + c1) * (2 * covariance[0] + c2)
    return float((alike / ((mean.square().sum(dim=0) + c1) * (variance.sum(dim=0) + c2))).mean())


def measure(vae: VAE, seed: int, count: int = 4) -> dict:
    """Both measures at 256 px: `contrast_kept` over `count` phantoms of each kind, `psnr` in dB over the first 16."""
    pictures = np.stack([phantom(seed, index, 256).image for index in range(16)])
    return {"contrast_kept": contrast_kept(vae, seed, count), "psnr": psnr(vae, pictures), "of_each_kind": count}


def autoencoder_blocks(scores: dict) -> list[Table | Paragraph | str]:
    """What is printed, and shown on the page."""
    title = f"Autoencoder: how much contrast it keeps of each kind of finding ({scores['of_each_kind']} phantoms each)"
    table = Table(["", "contrast kept"], [*map(list, scores["contrast_kept"].items())], title, percent=True)
    return [table, page.bars_of(table, [1]), Paragraph(f"PSNR {scores['psnr']:.1f} dB.")]


def real_films(vae: VAE, images: np.ndarray) -> dict[str, float]:
    """Both measures of (N, S, S) uint8 pictures, the mean of each: {"psnr": dB, "ssim": 0 to 1}."""
    pairs = [(rebuild(vae, image[None])[0].round().clip(0, 255), image) for image in images]
    ssim = [structural_similarity(rebuilt, image.astype(np.float32)) for rebuilt, image in pairs]
    return {"psnr": float(np.mean([ratio(*pair) for pair in pairs])), "ssim": float(np.mean(ssim))}


def main() -> None:
    parser = arguments.Parser(
        description="The contrast that an autoencoder keeps of each kind of finding in phantoms, and its PSNR; or, with"
        " --data, PSNR and SSIM of real films."
    )
    add = parser.add_argument
    weights = "weights folder (default: the shipped model)"
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help=weights)
    add("--n", type=arguments.whole(1, 100_000), help="phantoms of each kind (default 4), or films (default 64)")
    add("--data", type=arguments.existing, metavar="SRC", help="real films instead of phantoms")
    add("--split", default="test", help="of --data: train, validate, test (default) or all")
    add("--size", type=arguments.size, default=256, help="px a side of films (default 256)")
    sheet = "a sheet of eight films above what is rebuilt of them (default rebuilt.png)"
    add("--out", type=arguments.output_file, default="rebuilt.png", help=sheet)
    args = parser.parse_args()
    vae = load_model(args.weights, "cpu", torch.float32).vae
    if vae is None:
        raise UserError(f"--weights {args.weights}: a Janus-Pro, which has no autoencoder; name a UniX")
    if args.data is None:
        print_blocks(autoencoder_blocks(measure(vae, seed=1, count=args.n or 4)))
        return
    own_file(args.out)
    images = np.stack(squares(open_source(args.data, split=args.split), args.n or 64, args.size)[1])
    print("{} films at {} px: PSNR {psnr:.2f} dB, SSIM {ssim:.4f}".format(*images.shape[:2], **real_films(vae, images)))
    rows = [images[:8], *(rebuild(vae, image[None]).round().clip(0, 255).astype(np.uint8) for image in images[:8])]
    save_png(grid([*rows[0], *np.concatenate(rows[1:])], columns=len(images[:8])), args.out)
    print(f"{args.out}: films, and below each what is rebuilt of it")


if __name__ == "__main__":
    run(main)
