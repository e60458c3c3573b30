"""Change a picture to what a prompt says, or go from one prompt to another. No training is needed.

    python edit.py FILE "No acute cardiopulmonary process."
    python edit.py FILE "Large left pleural effusion." --mask 130,130,250,250
    python edit.py --between 7 "Large left pleural effusion." "Severe cardiomegaly."

A research and teaching tool, not a medical device.
"""

from common.errors import UserError, run
from common.sampling import DISCLAIMER, DOWNSAMPLING, STRENGTH, check_size, edit_flags

if __name__ == "__main__":  # before torch is imported, which takes seconds: --help and a typing error do not wait
    run(edit_flags, last=False)

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import flow
from common.devices import dtype_name, pick_device, pick_dtype
from common.images import load_image, to_square
from common.pictures import difference, grid, save_png
from sample import load_model, noise_of, prompt_ids, prompted_velocities, solve
from weights import Checkpoint


def edit(
    checkpoint: Checkpoint,
    squares: np.ndarray,
    prompts: Sequence[str],
    seeds: Sequence[int],
    strength: float = STRENGTH,
    masks: np.ndarray | None = None,
    guidance: float | None = None,
    **how: object,
) -> np.ndarray:
    """Image and text to image: each picture goes back to time `strength` and comes out again under its prompt (SDEdit,
    Meng et al. 2022).

    squares: (N, S, S) grey uint8, S a multiple of 16. prompts: what each shall show, in whole. strength: in (0, 1]; at
    1 nothing is left of the picture. masks: (N, S, S) bool, True where it may change; it grows to whole latents,
    squares of 16 px. Outside, the known latents stand at every step (`hold`), and at the end the picture's own pixels
    do, to the byte: the autoencoder's small errors would else be everywhere. Inside, half a latent fades over.
    The rest: see `sample.draw` -> (N, S, S) grey uint8.
    """
    model, vae, config = checkpoint.model, checkpoint.vae, checkpoint.model.config
    check_size(squares.shape[-1], config.max_latent_size)
    ids = [prompt_ids(checkpoint, prompt) for prompt in prompts]
    if masks is not None:
        mask = F.max_pool2d(torch.from_numpy(masks)[:, None].float(), DOWNSAMPLING)  # (N, 1, S / 16, S / 16)

    def begin(rows: slice) -> tuple:
        device = model.vae2llm.weight.device
        pixels = vae.preprocess(torch.from_numpy(squares[rows])).to(device, model.compute_dtype)
        data, noise = vae.encode(pixels).float(), noise_of(config, seeds[rows], squares.shape[-1]).to(device)
        velocities = prompted_velocities(model, ids[rows], guidance)
        if masks is not None:
            velocities = [hold(velocity, data, noise, mask[rows].to(device)) for velocity in velocities]
        return *velocities, flow.interpolate(data, noise, flow.fill(strength, data))

    pictures = solve(checkpoint, begin, len(ids), since=strength, **how)
    if masks is None:
        return pictures
    cells = F.interpolate(mask, scale_factor=DOWNSAMPLING, mode="nearest")  # (N, 1, S, S); the border is no edge:
    share = F.avg_pool2d(cells, DOWNSAMPLING + 1, 1, DOWNSAMPLING // 2, count_include_pad=False)
    drawn = (cells * (2 * share - 1).clamp(0, 1))[:, 0].numpy()
    return np.rint(squares + drawn * (pictures.astype(np.float32) - squares)).astype(np.uint8)


def hold(velocity: flow.Velocity, data: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor) -> flow.Velocity:
    """A velocity that draws anew only where `mask` (B, 1, H, W) is 1; where it is 0 it leads from `noise` to `data`.

    Inpainting blends known latents, noised to the step's time, into every step (RePaint, Lugmayr et al. 2022; RadEdit,
    Perez-Garcia et al. 2024). A straight line has one velocity, noise - data, and every solver follows it exactly: a
    walk that starts on the line, at `interpolate(data, noise, t)`, is then on it at every later time.
    """

    def held(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.lerp(noise - data, velocity(x, t), mask)

    return held


def mask_of(mask: tuple[int, int, int, int] | Path, film: Image.Image, size: int) -> np.ndarray:
    """A box x0, y0, x1, y1 in the film's pixels, or a picture of the film's size -> (size, size) bool, as `to_square`
    lays the film out. Raises UserError for what marks nothing, or does not fit."""
    word, boxed = (",".join(map(str, mask)), True) if isinstance(mask, tuple) else (str(mask), False)
    marked = Image.new("L", film.size) if boxed else load_image(mask)
    if marked.size != film.size or (boxed and (mask[2] > film.width or mask[3] > film.height)):
        raise UserError(f"--mask {word}: does not fit the film, which is {film.width} x {film.height} px")
    if boxed:
        marked.paste(255, mask)
    square = to_square(marked, size) > 127
    if not square.any():
        raise UserError(f"--mask {word}: marks nothing; give a larger box, or a picture that is white where to edit")
    return square


def between(
    checkpoint: Checkpoint,
    prompts: tuple[str, str],
    seed: int,
    shares: Sequence[float],
    size: int | None = None,
    guidance: float | None = None,
    **how: object,
) -> np.ndarray:
    """Pictures between two prompts, all from the same noise: (len(shares), size, size) grey uint8.

    The velocities of the two prompts are mixed, v = (1 - w) v_A + w v_B for each share w in [0, 1], before guidance:
    this is defined for prompts of any lengths, and its ends are what `sample.draw` draws from either.
    """
    model, config = checkpoint.model, checkpoint.model.config
    size, guidance = size or config.image_size, guidance or config.guidance
    check_size(size, config.max_latent_size)
    first, second = (prompt_ids(checkpoint, prompt) for prompt in prompts)
    weights = torch.tensor(shares, dtype=torch.float32, device=model.vae2llm.weight.device).view(-1, 1, 1, 1)

    def begin(rows: slice) -> tuple:
        w = weights[rows]
        pair = [*[first] * len(w), *[second] * len(w)]
        both, neither = model.read_prompt(pair), model.read_prompt([None] * len(w))

        def conditional(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.lerp(*model.velocity(x.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2), w)

        def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return flow.guide(conditional(x, t), model.velocity(x, t, neither), guidance)

        return conditional if guidance == 1.0 else guided, conditional, noise_of(config, [seed] * len(w), size)

    return solve(checkpoint, begin, len(shares), **how)


def main() -> None:
    args = edit_flags()
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    film = None if args.between else load_image(args.film)
    checkpoint = load_model(args.weights, device, dtype, args.adapter, draws=True)
    how = {"guidance": args.guidance, "steps": args.steps, "solver": args.solver, "progress": True}
    if args.between:
        prompts = args.film, args.prompt
        shares = np.linspace(0, 1, args.between).tolist()
        pictures = between(checkpoint, prompts, args.seed, shares, args.size, **how)
        captions = [prompts[0], *map("{:.0%}".format, shares[1:-1]), prompts[1]]
    else:
        size = args.size or checkpoint.model.config.image_size
        before, masks = to_square(film, size), args.mask and mask_of(args.mask, film, size)[None]
        after = edit(checkpoint, before[None], [args.prompt], [args.seed], args.strength, masks, **how)[0]
        pictures = [np.stack([before] * 3, axis=-1), np.stack([after] * 3, axis=-1), difference(before, after)]
        captions = [args.film.name, args.prompt, "red: brighter, blue: darker"]
    save_png(grid(pictures, captions, len(pictures)), args.out)
    print(f"{args.out}\ndrawn by {args.weights} on {device} in {dtype_name(dtype)}\n{DISCLAIMER}")


if __name__ == "__main__":
    run(main)
