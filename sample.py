"""Draw a chest X-ray from a sentence, or write the report of one.

    python sample.py "Moderate cardiomegaly. Small left pleural effusion."
    python sample.py --image FILE [FILE ...]

A research and teaching tool, not a medical device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import arguments
from common.errors import UserError, run
from common.files import SHIPPED
from common.ownership import own_file

if TYPE_CHECKING:  # torch is imported where it is used: --help and a typing error do not wait for it
    import numpy as np
    import torch
    from PIL import Image

    import flow
    from common.clock import Clock
    from model import UniX
    from weights import Checkpoint

DISCLAIMER = "Research and teaching tool, not a medical device: do not use for diagnosis."
DOWNSAMPLING = 16  # px a latent; a picture's side is a multiple of it
SOLVERS = ("euler", "heun", "midpoint", "ab2")  # functions of flow.py
SOLVER, STEPS = "ab2", 20
GUIDED_ABOVE = 0.4  # time; below it guidance costs twice the work and does little (published)


def load_model(weights: str | Path, device: str | torch.device, dtype: torch.dtype) -> Checkpoint:
    """Weights that `draw` and `read` take, of any layout; on a CPU, sped up. A Janus-Pro reads as itself."""
    import torch

    from speed import cpu
    from weights import load_checkpoint

    checkpoint = load_checkpoint(weights, device, dtype, parity=True)
    if torch.device(device).type == "cpu":
        cpu.speed_up(checkpoint.model, checkpoint.vae)
    return checkpoint


def draw(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: int | None = None,
    steps: int = STEPS,
    guidance: float = 2.0,
    batch: int | None = None,
    progress: bool = False,
    solver: str = SOLVER,
    clock: Clock | None = None,
) -> np.ndarray:
    """Text to image: (len(prompts), size, size) grey uint8.

    seeds: one a picture; it alone decides the noise, so a picture does not depend on its batch. size: px, default the
    size the weights were last trained at. steps: times of the schedule, first and last included. batch: pictures at a
    time. solver: one of SOLVERS; "euler" with 50 steps is what was published. clock: notes the seconds of each
    part.
    Raises UserError for an empty prompt, one beyond the model's context, or a size the model has no positions for.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    import flow
    from common.clock import Clock

    model, vae, config = checkpoint.model, checkpoint.vae, checkpoint.model.config
    if vae is None:
        raise UserError("these weights are Janus-Pro's and draw no X-rays; a UniX has to be trained from them first")
    device = model.vae2llm.weight.device
    clock = clock or Clock(device, on=False)
    batch = batch or (4 if device.type == "cpu" else 16)  # on a CPU a picture takes as long among 2 as among 16
    size = config.image_size if size is None else size
    check_size(size, config.max_latent_size)
    ids = [prompt_ids(checkpoint, prompt) for prompt in prompts]
    side = size // DOWNSAMPLING
    early, late = flow.split_times(schedule(solver, steps), GUIDED_ABOVE)
    solve = getattr(flow, solver)
    bar = tqdm(total=(steps - 1) * -(-len(ids) // batch), unit="step", disable=not progress, desc="drawing")
    pictures = []
    with torch.inference_mode():
        for start in range(0, len(ids), batch):
            rows = ids[start : start + batch]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]]
            noise = torch.stack([torch.randn(config.latent_channels, side, side, generator=g) for g in generators])
            with clock("prompt"):
                guided, conditional = prompted_velocities(model, rows, guidance)
            with clock("steps"):
                latents = solve(guided, noise.to(device), early, lambda x, t: bar.update())
                latents = solve(conditional, latents, late, lambda x, t: bar.update())
            with clock("decode"):
                decoded = vae.decode(latents.to(model.compute_dtype))
                pictures.append(vae.postprocess(decoded).cpu().numpy())
    bar.close()
    return np.concatenate(pictures)


def schedule(solver: str, steps: int) -> torch.Tensor:
    """The times to visit, (steps,): the published ones for Euler; for order 2, which gains nothing from many steps near
    the noise, a smaller shift, and a step that ends where the velocity jumps."""
    import flow

    return flow.timesteps(steps) if solver == "euler" else flow.timesteps(steps, shift=2.0, through=GUIDED_ABOVE)


def prompted_velocities(
    model: UniX, prompts: Sequence[Sequence[int]], guidance: float
) -> tuple[flow.Velocity, flow.Velocity]:
    """The guided velocity(x, t) and the conditional one; the prompts' keys and values are computed here, once."""
    import torch

    import flow

    prompt = model.read_prompt(prompts)

    def conditional(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model.velocity(x, t, prompt)

    if guidance == 1.0:
        return conditional, conditional
    paired = model.read_prompt([*prompts, *[None] * len(prompts)])

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return flow.guide(*model.velocity(torch.cat([x, x]), torch.cat([t, t]), paired).chunk(2), guidance)

    return guided, conditional


def read(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    question: str | None = None,
    max_new_tokens: int = 256,
    batch: int = 16,
    progress: bool = False,
) -> list[str]:
    """Image to report: one text an image (8-bit grey Pillow images of any size)."""
    import numpy as np
    import torch
    from tqdm import tqdm

    import data
    from common.images import to_square

    model, vit = checkpoint.model, checkpoint.model.config.vit
    device = model.vae2llm.weight.device
    question = data.default_question(model.config) if question is None else question
    before, question_ids = [], prompt_ids(checkpoint, question, "--question")
    if model.config.causal:
        before, question_ids = data.janus_chat(checkpoint.tokenizer, model.config, question.strip())
    reports = []
    bar = tqdm(total=len(images), unit="image", disable=not progress, desc="reading")
    for start in range(0, len(images), batch):
        films = images[start : start + batch]
        squares = [to_square(film, vit.image_size, vit.padding, vit.scaling) for film in films]
        pixels = model.vit.preprocess(torch.from_numpy(np.stack(squares)).to(device))
        answers = model.generate(pixels, [question_ids] * len(squares), max_new_tokens, before=before)
        reports += [checkpoint.decode(answer) for answer in answers]
        bar.update(len(squares))
    bar.close()
    return reports


def prompt_ids(checkpoint: Checkpoint, text: str, what: str = "the prompt") -> list[int]:
    """Token ids; raises UserError if there are none or too many."""
    if not text.strip():
        raise UserError(f'{what} is empty; say what to draw or ask, for example "Small left pleural effusion."')
    ids = checkpoint.encode(text.strip())
    room = checkpoint.model.config.context_length - 2  # BOS and EOS
    if len(ids) > room:
        raise UserError(f"{what} has {len(ids)} tokens, the model's context holds {room}; shorten it")
    return ids


def check_size(size: int, max_latent_size: int) -> None:
    largest = max_latent_size * DOWNSAMPLING
    if size < DOWNSAMPLING or size % DOWNSAMPLING or size > largest:
        nearest = min(max(DOWNSAMPLING, round(size / DOWNSAMPLING) * DOWNSAMPLING), largest)
        raise UserError(
            f"--size {size}: must be a multiple of {DOWNSAMPLING} up to {largest}, a latent a side; try {nearest}"
        )


def parse_args() -> argparse.Namespace:
    parser = arguments.Parser(
        description="Draw a chest X-ray from a sentence, or write the report of an image.",
        epilog="The shipped tiny weights know drawn X-rays only. " + DISCLAIMER,
    )
    add = parser.add_argument
    example = "Moderate cardiomegaly. Small left pleural effusion."
    add("prompt", nargs="*", type=arguments.text, help=f'what to draw: "{example}"; several make a labelled grid')
    add("--image", nargs="+", type=arguments.existing_file, metavar="FILE", help="read these images instead of drawing")
    add("--question", type=arguments.text, help="what to ask about each image; default: its FINDINGS and IMPRESSION")
    add("--out", type=arguments.output_file, default="sample.png", help="picture to write (default sample.png)")
    add("--n", type=arguments.whole(1, 10_000), default=1, help="how many pictures of each prompt (default 1)")
    add("--seed", type=arguments.seed, default=0, help="of the first picture; the others count up (default 0)")
    add(
        "--steps",
        type=arguments.sampler_steps,
        default=STEPS,
        help=f"times from noise to picture, both ends counted, at least 2 (default {STEPS}): euler and ab2 evaluate the"
        " model once less than that, heun and midpoint twice as often",
    )
    add(
        "--solver",
        choices=SOLVERS,
        default=SOLVER,
        help=f"default {SOLVER}; --solver euler --steps 50 is what was published",
    )
    add("--guidance", type=arguments.guidance, default=2.0, help="how hard to follow the prompt; 1: off (default 2)")
    add("--size", type=arguments.size, help="pixels a side, a multiple of 16; default: what the weights know best")
    weights = "weights folder (default: the shipped tiny model)"
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help=weights)
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="to compute in; default: bfloat16 on cuda, else float32",
    )
    add("--profile", action="store_true", help="also print where the time to the picture went")
    args = parser.parse_args()
    if bool(args.prompt) == bool(args.image):
        raise UserError('give either a prompt in quotes ("Small left pleural effusion.") or --image FILE')
    if not all(prompt.strip() for prompt in args.prompt):
        raise UserError('the prompt is empty; say what to draw, for example "Small left pleural effusion."')
    return args


def main() -> None:
    args = parse_args()
    if args.prompt:
        own_file(args.out)
    began = time.perf_counter()
    from PIL import Image

    from common.clock import Clock
    from common.devices import pick_device, pick_dtype
    from common.images import load_image
    from common.pictures import grid, save_png

    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    by = f"by {args.weights} on {device} in {str(dtype).removeprefix('torch.')}"
    clock = Clock(device, args.profile)
    clock.seconds["imports"] = time.perf_counter() - began
    images = [load_image(path) for path in args.image or ()]
    with clock("load"):
        checkpoint = load_model(args.weights, device, dtype)
    if args.image:
        with clock("read"):
            reports = read(checkpoint, images, args.question, progress=len(images) > 1)
        for path, report in zip(args.image, reports, strict=True):
            print(f"{path}\n{report}\n")
        print(f"read {by}\n{DISCLAIMER}")
        if args.profile:
            print(profile_table(clock.seconds))
        return
    seeds = [*range(args.seed, args.seed + args.n)] * len(args.prompt)
    prompts = [prompt for prompt in args.prompt for _ in range(args.n)]
    pictures = draw(
        checkpoint, prompts, seeds, args.size, args.steps, args.guidance, progress=True, solver=args.solver, clock=clock
    )
    with clock("write"):
        sheet = (
            Image.fromarray(pictures[0])
            if len(pictures) == 1
            else grid(pictures, [f"{prompt} (seed {seed})" for prompt, seed in zip(prompts, seeds, strict=True)])
        )
        save_png(sheet, args.out)
    print(f"{args.out}\ndrawn {by}\n{DISCLAIMER}")
    if args.profile:
        print(profile_table(clock.seconds))


def profile_table(seconds: dict[str, float]) -> str:
    total = sum(seconds.values())
    lines = [f"{part:8}{part_seconds:8.2f} s{part_seconds / total:6.0%}" for part, part_seconds in seconds.items()]
    return "\n".join([*lines, f"{'total':8}{total:8.2f} s"])


if __name__ == "__main__":
    run(main)
