"""Draw a chest X-ray from a sentence, write the report of one, or change one.

    python sample.py "Moderate cardiomegaly. Small left pleural effusion."
    python sample.py --image FILE [FILE ...]                  its report
    python sample.py --image FILE --reports 10                how sure the model is
    python sample.py --image FILE --edit "No acute cardiopulmonary process."

A research and teaching tool, not a medical device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
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
    from tqdm import tqdm

    import flow
    from common.clock import Clock
    from generate import Choose
    from model import Prompt, UniX, UniXConfig
    from vae import VAE
    from weights import Checkpoint

Watch = Callable[["torch.Tensor", float], object]  # is called with an estimate of the data, and the time of it

DISCLAIMER = "Research and teaching tool, not a medical device: do not use for diagnosis."
DOWNSAMPLING = 16  # px a latent; a picture's side is a multiple of it
SOLVERS = ("euler", "heun", "ab2")  # functions of flow.py
SOLVER, STEPS = "ab2", 20
GUIDED_ABOVE = 0.4  # time; below it guidance costs twice the work and does little (published)
STRENGTH = 0.8  # time to which an edit goes back towards noise
TEMPERATURE, TOP_P = 0.7, 0.9  # of several reports of one image; one alone is greedy


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
    guidance: float | None = None,
    batch: int | None = None,
    progress: bool = False,
    solver: str = SOLVER,
    clock: Clock | None = None,
    watch: Watch | None = None,
) -> np.ndarray:
    """Text to image: (len(prompts), size, size) grey uint8.

    seeds: one a picture; it alone decides the noise, so a picture does not depend on its batch. size: px, default the
    size the weights were last trained at. steps: times of the schedule, first and last included. guidance: 1 is none,
    default what the weights' config says. batch: pictures at a time. solver: one of SOLVERS; "euler" with 50 steps is
    what was published. clock: notes the seconds of each part. watch: is shown the latents that each batch is heading
    for, and the time (`watched`).
    Raises UserError for an empty prompt, one beyond the model's context, or a size the model has no positions for.
    """
    import numpy as np
    import torch

    from common.clock import Clock

    device, batch = drawing_device(checkpoint), batch or pictures_at_a_time(checkpoint)
    model, vae, config = checkpoint.model, checkpoint.vae, checkpoint.model.config
    clock = clock or Clock(device, on=False)
    size = config.image_size if size is None else size
    check_size(size, config.max_latent_size)
    ids = [prompt_ids(checkpoint, prompt) for prompt in prompts]
    times = schedule(solver, steps)
    pictures = []
    with torch.inference_mode(), bar_of_steps(times, len(ids), batch, progress, solver) as bar:
        for start in range(0, len(ids), batch):
            noise = noise_of(config, seeds[start : start + batch], size).to(device)
            with clock("prompt"):
                velocities = prompted_velocities(model, ids[start : start + batch], guidance)
            with clock("steps"):
                latents = walk(solver, velocities, noise, times, bar.update, watch)
            with clock("decode"):
                pictures.append(decode(vae, latents, model.compute_dtype))
    return np.concatenate(pictures)


def edit(
    checkpoint: Checkpoint,
    squares: np.ndarray,
    prompts: Sequence[str],
    seeds: Sequence[int],
    strength: float = STRENGTH,
    masks: np.ndarray | None = None,
    steps: int = STEPS,
    guidance: float | None = None,
    batch: int | None = None,
    progress: bool = False,
    solver: str = SOLVER,
    watch: Watch | None = None,
) -> np.ndarray:
    """Image and text to image: each picture goes back to time `strength` and comes out again under its prompt (SDEdit,
    Meng et al. 2022). No training.

    squares: (N, S, S) grey uint8, S a multiple of 16. prompts: what each shall show, in whole. strength: in (0, 1]; at
    1 nothing is left of the picture. masks: (N, S, S) bool, True where it may change; it grows to whole latents,
    squares of 16 px. Outside, the known latents stand at every step (`hold`), and at the end the picture's own
    pixels do, to the byte: the autoencoder's small errors would else be everywhere. Inside, half a latent fades over.
    The rest: see `draw` -> (N, S, S) grey uint8.
    """
    import numpy as np
    import torch

    import flow

    device, batch = drawing_device(checkpoint), batch or pictures_at_a_time(checkpoint)
    model, vae, config = checkpoint.model, checkpoint.vae, checkpoint.model.config
    check_size(squares.shape[-1], config.max_latent_size)
    ids = [prompt_ids(checkpoint, prompt) for prompt in prompts]
    times = times_from(schedule(solver, steps), strength)
    pictures = []
    with torch.inference_mode(), bar_of_steps(times, len(ids), batch, progress, solver) as bar:
        for start in range(0, len(ids), batch):
            rows = slice(start, start + batch)
            pixels = vae.preprocess(torch.from_numpy(squares[rows])).to(device, model.compute_dtype)
            data, noise = vae.encode(pixels).float(), noise_of(config, seeds[rows], squares.shape[-1]).to(device)
            velocities = prompted_velocities(model, ids[rows], guidance)
            if masks is not None:
                mask = torch.from_numpy(masks[rows])[:, None].to(device, torch.float32)
                mask = torch.nn.functional.max_pool2d(mask, DOWNSAMPLING)  # (B, 1, S / 16, S / 16)
                velocities = [hold(velocity, data, noise, mask) for velocity in velocities]
            x = flow.interpolate(data, noise, flow.fill(strength, data))
            drawn = decode(vae, walk(solver, velocities, x, times, bar.update, watch), model.compute_dtype)
            if masks is not None:
                kept = 1 - faded(mask).cpu().numpy()
                drawn = np.rint(drawn + kept * (squares[rows].astype(np.float32) - drawn)).astype(np.uint8)
            pictures.append(drawn)
    return np.concatenate(pictures)


def faded(mask: torch.Tensor) -> torch.Tensor:
    """Latents (B, 1, h, w) in {0, 1} -> pixels (B, 16h, 16w) in [0, 1]: 0 outside, rising to 1 over half a latent
    inside; the picture's own border is no border."""
    import torch.nn.functional as F

    cells = F.interpolate(mask, scale_factor=DOWNSAMPLING, mode="nearest")
    share = F.avg_pool2d(cells, DOWNSAMPLING + 1, 1, DOWNSAMPLING // 2, count_include_pad=False)
    return (cells * (2 * share - 1).clamp(0, 1))[:, 0]


def between(
    checkpoint: Checkpoint,
    prompts: tuple[str, str],
    seed: int,
    count: int,
    size: int | None = None,
    steps: int = STEPS,
    guidance: float | None = None,
    batch: int | None = None,
    progress: bool = False,
    solver: str = SOLVER,
) -> np.ndarray:
    """A strip from one prompt to another, all from the same noise: (count, size, size) grey uint8.

    The velocities of the two prompts are mixed, v = (1 - w) v_A + w v_B with w from 0 to 1, before guidance: this is
    defined for prompts of any lengths, and its ends are what `draw` draws from either.
    """
    import numpy as np
    import torch

    import flow

    device, batch = drawing_device(checkpoint), batch or pictures_at_a_time(checkpoint)
    model, vae, config = checkpoint.model, checkpoint.vae, checkpoint.model.config
    size = config.image_size if size is None else size
    check_size(size, config.max_latent_size)
    first, second = (prompt_ids(checkpoint, prompt) for prompt in prompts)
    times, weights = schedule(solver, steps), torch.linspace(0, 1, count, device=device)
    guidance = chosen_guidance(config, guidance)
    pictures = []
    with torch.inference_mode(), bar_of_steps(times, count, batch, progress, solver) as bar:
        for w in weights.split(batch):
            both = model.read_prompt([*[first] * len(w), *[second] * len(w)])
            triple = model.read_prompt([*[first] * len(w), *[second] * len(w), *[None] * len(w)])

            def conditional(x: torch.Tensor, t: torch.Tensor, w: torch.Tensor = w, both: Prompt = both) -> torch.Tensor:
                return mix(*model.velocity(x.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2), w)

            def guided(x: torch.Tensor, t: torch.Tensor, w: torch.Tensor = w, triple: Prompt = triple) -> torch.Tensor:
                v_a, v_b, v_uncond = model.velocity(x.repeat(3, 1, 1, 1), t.repeat(3), triple).chunk(3)
                return flow.guide(mix(v_a, v_b, w), v_uncond, guidance)

            noise = noise_of(config, [seed] * len(w), size).to(device)
            velocities = (conditional if guidance == 1.0 else guided, conditional)
            latents = walk(solver, velocities, noise, times, bar.update)
            pictures.append(decode(vae, latents, model.compute_dtype))
    return np.concatenate(pictures)


def split_times(times: torch.Tensor, at: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Falling times -> (down to the first that is not above `at`, on from there).

    The velocity jumps where guidance ends. On each side it is smooth, and a solver that walks the sides one after the
    other, each with its own velocity, never averages or extrapolates across the jump.
    """
    above = int((times > at).sum())
    return times[: above + 1], times[above:]


def times_from(times: torch.Tensor, start: float) -> torch.Tensor:
    """The part of falling times that a walk from `start` visits: `start`, then those below it."""
    import torch

    return torch.cat([torch.tensor([start]), times[times < start]])


def mix(v_a: torch.Tensor, v_b: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Between two velocities (B, C, H, W): (1 - w) * v_a + w * v_b, where weights (B,) are in [0, 1]."""
    import torch

    return torch.lerp(v_a, v_b, weights.view(-1, 1, 1, 1))


def hold(velocity: flow.Velocity, data: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor) -> flow.Velocity:
    """A velocity that draws anew only where `mask` (B, 1, H, W) is 1; where it is 0 it leads from `noise` to `data`.

    Inpainting blends known latents, noised to the step's time, into every step (RePaint, Lugmayr et al. 2022; RadEdit,
    Perez-Garcia et al. 2024). A straight line has one velocity, noise - data, and every solver follows it exactly: a
    walk that starts on the line, at `interpolate(data, noise, t)`, is then on it at every later time.
    """
    import torch

    def held(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.lerp(noise - data, velocity(x, t), mask)

    return held


def watched(velocity: flow.Velocity, watch: Watch) -> flow.Velocity:
    """The same velocity, which at every evaluation shows where it leads: the data x - t * v, if it stayed as it is."""

    def shown(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = velocity(x, t)
        watch(x - t.view(-1, 1, 1, 1) * v, t[0].item())
        return v

    return shown


def drawing_device(checkpoint: Checkpoint) -> torch.device:
    """Where its weights are. Raises UserError if they cannot draw."""
    if checkpoint.vae is None:
        raise UserError("these weights are Janus-Pro's and draw no X-rays; a UniX has to be trained from them first")
    return checkpoint.model.vae2llm.weight.device


def pictures_at_a_time(checkpoint: Checkpoint) -> int:
    """On a CPU a picture takes as long among 2 as among 16."""
    return 4 if checkpoint.model.vae2llm.weight.device.type == "cpu" else 16


def bar_of_steps(times: torch.Tensor, pictures: int, batch: int, progress: bool, solver: str) -> tqdm:
    from tqdm import tqdm

    steps = (len(times) - 1) * -(-pictures // batch) * (2 if solver == "heun" else 1)
    return tqdm(total=steps, unit="step", disable=not progress, desc="drawing")


def noise_of(config: UniXConfig, seeds: Sequence[int], size: int) -> torch.Tensor:
    """The noise that belongs to each seed: (len(seeds), C, size / 16, size / 16)."""
    import torch

    shape = (config.latent_channels, size // DOWNSAMPLING, size // DOWNSAMPLING)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def walk(
    solver: str,
    velocities: Sequence[flow.Velocity],
    x: torch.Tensor,
    times: torch.Tensor,
    step_done: Callable[[], object],
    watch: Watch | None = None,
) -> torch.Tensor:
    """From x at times[0] to the latents at times[-1]. velocities: the guided one, then the conditional one.

    step_done is called with every evaluation of the model."""
    import flow

    velocities = [watched(velocity, lambda clean, t: step_done()) for velocity in velocities]
    if watch is not None:
        velocities = [watched(velocity, watch) for velocity in velocities]
    for velocity, part in zip(velocities, split_times(times, GUIDED_ABOVE), strict=True):
        x = getattr(flow, solver)(velocity, x, part)
    return x


def decode(vae: VAE, latents: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    """Latents (B, C, h, w) -> (B, 16h, 16w) grey uint8."""
    return vae.postprocess(vae.decode(latents.to(dtype))).cpu().numpy()


def schedule(solver: str, steps: int) -> torch.Tensor:
    """The times to visit, (steps,): the published ones for Euler; for order 2, which gains nothing from many steps near
    the noise, a smaller shift, and a step that ends where the velocity jumps."""
    import flow

    return flow.timesteps(steps) if solver == "euler" else flow.timesteps(steps, shift=2.0, through=GUIDED_ABOVE)


def chosen_guidance(config: UniXConfig, asked: float | None) -> float:
    """What is asked for; None: what the weights' config says."""
    return config.guidance if asked is None else asked


def prompted_velocities(
    model: UniX, prompts: Sequence[Sequence[int]], guidance: float | None
) -> tuple[flow.Velocity, flow.Velocity]:
    """The guided velocity(x, t) and the conditional one; the prompts' keys and values are computed here, once."""
    import torch

    import flow

    prompt, guidance = model.read_prompt(prompts), chosen_guidance(model.config, guidance)

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
    """Image to report, greedily: one text an image (8-bit grey Pillow images of any size)."""
    from tqdm import tqdm

    from generate import generate

    question_ids = question_of(checkpoint, question)
    reports = []
    bar = tqdm(total=len(images), unit="image", disable=not progress, desc="reading")
    for start in range(0, len(images), batch):
        pixels = pixels_of(checkpoint, images[start : start + batch])
        answers = generate(checkpoint.model, pixels, [question_ids] * len(pixels), max_new_tokens)
        reports += [checkpoint.decode(answer) for answer in answers]
        bar.update(len(pixels))
    bar.close()
    return reports


def read_often(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    seeds: Sequence[Sequence[int]],
    temperature: float = TEMPERATURE,
    top_p: float = TOP_P,
    question: str | None = None,
    max_new_tokens: int = 256,
    batch: int = 32,
    progress: bool = False,
    begin: Sequence[str] | None = None,
) -> list[list[str]]:
    """Image to sampled reports (`generate.nucleus`): one for each seed of each image, all images with as many.

    A report belongs to its image and its seed; it depends on no other report and not on the batch. batch: reports at a
    time. begin: of each image, how its reports begin; they are returned
    without it.
    """
    from tqdm import tqdm

    from generate import nucleus, stream, whole_answers

    model, question_ids = checkpoint.model, question_of(checkpoint, question)
    count = len(seeds[0])
    films = max(1, batch // count)
    reports = []
    bar = tqdm(total=len(images) * count, unit="report", disable=not progress, desc="reading")
    for start in range(0, len(images), films):
        pixels = pixels_of(checkpoint, images[start : start + films])
        choose = nucleus(temperature, top_p, [seed for row in seeds[start : start + films] for seed in row])
        firsts = [checkpoint.encode(text) for text in begin[start : start + films]] if begin else [[]] * len(pixels)
        rows = [[*model.asked(question_ids), *first] for first in firsts for _ in range(count)]
        steps = stream(model, pixels.repeat_interleave(count, dim=0), rows, max_new_tokens, choose)
        answers = whole_answers(steps, model.config.eos)
        texts = [checkpoint.decode(answer) for answer in answers]
        reports += [texts[row : row + count] for row in range(0, len(texts), count)]
        bar.update(len(texts))
    bar.close()
    return reports


def read_aloud(
    checkpoint: Checkpoint,
    image: Image.Image,
    question: str | None = None,
    max_new_tokens: int = 256,
    choose: Choose | None = None,
) -> Iterator[str]:
    """One image's report as it is written: yields all of its text so far. choose: default greedy."""
    from generate import greedy, stream

    model, pixels, written = checkpoint.model, pixels_of(checkpoint, [image]), []
    text = model.asked(question_of(checkpoint, question))
    for ids, _ in stream(model, pixels, [text], max_new_tokens, choose or greedy):
        written += ids.tolist()
        if written[-1] == checkpoint.model.config.eos:
            written.pop()
        text = checkpoint.decode(written)
        if not text.endswith("\ufffd"):  # the rest of this character is in the next token
            yield text
    yield checkpoint.decode(written)


def question_of(checkpoint: Checkpoint, question: str | None) -> list[int]:
    """A question's token ids, as `UniX.asked` takes them. None: the data set's question."""
    from checkpoints.janus import JanusPro, janus_chat
    from reports.questions import default_question

    question = default_question(checkpoint.model.config.wording) if question is None else question
    ids = prompt_ids(checkpoint, question, "--question")
    if isinstance(checkpoint.model, JanusPro):
        return janus_chat(checkpoint.tokenizer, checkpoint.model.config, question.strip())[1]
    return ids


def pixels_of(checkpoint: Checkpoint, images: Sequence[Image.Image]) -> torch.Tensor:
    """Images as the ViT was shown them: (B, 3, S, S), on the model's device."""
    import numpy as np
    import torch

    from common.images import to_square

    model, vit = checkpoint.model, checkpoint.model.config.vit
    squares = [to_square(image, vit.image_size, vit.padding, vit.scaling) for image in images]
    return model.vit.preprocess(torch.from_numpy(np.stack(squares)).to(model.vae2llm.weight.device))


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


def mask_of(mask: tuple[int, int, int, int] | Path, film: Image.Image, size: int, name: str) -> np.ndarray:
    """--mask, a box in the film's pixels or a picture of the film's shape -> (size, size) bool, as `to_square` lays the
    film out. name: of the film's file. Raises UserError for what marks nothing, or lies outside."""
    from PIL import Image, ImageDraw

    from common.images import load_image, to_square

    if isinstance(mask, tuple):
        x0, y0, x1, y1 = mask
        word, marked = ",".join(map(str, mask)), Image.new("L", film.size)
        if x1 > film.width or y1 > film.height:
            raise UserError(f"--mask {word}: reaches out of {name}, which is {film.width} x {film.height} px")
        ImageDraw.Draw(marked).rectangle((x0, y0, x1 - 1, y1 - 1), fill=255)
    else:
        word, marked = str(mask), load_image(mask)
        if abs(marked.width * film.height - marked.height * film.width) > max(film.size) * max(marked.size) / 100:
            raise UserError(
                f"--mask {word}: is {marked.width} x {marked.height} px, {name} is {film.width} x {film.height};"
                " give a mask of the same shape"
            )
        marked = marked.resize(film.size, Image.Resampling.NEAREST)
    square = to_square(marked, size) > 127
    if not square.any():
        raise UserError(f"--mask {word}: marks nothing; give a larger box, or a picture that is white where to edit")
    return square


def parse_args() -> argparse.Namespace:
    parser = arguments.Parser(
        description="Draw a chest X-ray from a sentence, write the report of an image, or change an image.",
        epilog="The shipped tiny weights know drawn X-rays only. " + DISCLAIMER,
    )
    add = parser.add_argument
    example = "Moderate cardiomegaly. Small left pleural effusion."
    add("prompt", nargs="*", type=arguments.text, help=f'what to draw: "{example}"; several make a labelled grid')
    add("--image", nargs="+", type=arguments.existing_file, metavar="FILE", help="read these images instead of drawing")
    add("--question", type=arguments.text, help="what to ask about each image; default: its FINDINGS and IMPRESSION")
    reports = "how many reports of each image to sample, and how many of them affirm each observation (default 1)"
    add("--reports", type=arguments.whole(1, 1000), metavar="N", help=reports)
    add(
        "--temperature",
        type=arguments.temperature,
        help=f"of sampled reports; 0: always the likeliest word (default 0 for one report, {TEMPERATURE} for several)",
    )
    top_p = f"sample from the likeliest tokens that hold this probability; 1: from all (default {TOP_P})"
    add("--top-p", type=arguments.top_p, help=top_p)
    prompt = "change the image to what this says it shows, in whole; no training"
    add("--edit", type=arguments.text, metavar="PROMPT", help=prompt)
    strength = f"of an edit: the time it goes back to, from 0 (nothing changes) to 1 (default {STRENGTH})"
    add("--strength", type=arguments.strength, help=strength)
    mask = "edit here alone: x0,y0,x1,y1 in the image's pixels, or a picture of its shape, white where to edit"
    add("--mask", type=arguments.mask, metavar="BOX|FILE", help=mask)
    between = "N pictures from one prompt to a second, from the same noise: their velocities are mixed, (1-w) A + w B"
    add("--between", type=arguments.whole(2, 1000), metavar="N", help=between)
    add("--out", type=arguments.output_file, default="sample.png", help="picture to write (default sample.png)")
    add("--n", type=arguments.whole(1, 10_000), default=1, help="how many pictures of each prompt (default 1)")
    add("--seed", type=arguments.seed, default=0, help="of the first picture or report; others count up (default 0)")
    add(
        "--steps",
        type=arguments.sampler_steps,
        default=STEPS,
        help=f"times from noise to picture, both ends counted, at least 2 (default {STEPS}): euler and ab2 evaluate the"
        " model once less than that, heun twice as often",
    )
    add(
        "--solver",
        choices=SOLVERS,
        default=SOLVER,
        help=f"default {SOLVER}; --solver euler --steps 50 is what was published",
    )
    guidance = "how hard to follow the prompt; 1: off; default: what the weights draw best with (the tiny ones: 3)"
    add("--guidance", type=arguments.guidance, help=guidance)
    add("--size", type=arguments.size, help="pixels a side, a multiple of 16; default: what the weights know best")
    weights = "weights folder (default: the shipped tiny model)"
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help=weights)
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    add("--dtype", choices=arguments.SAMPLING_DTYPES, help=arguments.SAMPLING_DTYPES_HELP)
    add("--profile", action="store_true", help="also print where the time to the picture went")
    args = parser.parse_args()
    check_flags(args)
    if args.temperature is None:
        args.temperature = TEMPERATURE if (args.reports or 1) > 1 or args.top_p else 0.0
    return args


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError where flags do not go together."""
    if bool(args.prompt) == bool(args.image):
        raise UserError('give either a prompt in quotes ("Small left pleural effusion.") or --image FILE')
    example = 'for example "Small left pleural effusion."'
    if not all(prompt.strip() for prompt in args.prompt):
        raise UserError(f"the prompt is empty; say what to draw, {example}")
    if args.edit is not None and not args.edit.strip():
        raise UserError(f"--edit is empty; say what the picture shall show, {example}")

    def needs(flags: Sequence[str], condition: object, mend: str) -> None:
        for flag in flags:
            if getattr(args, flag.strip("-").replace("-", "_")) is not None and not condition:
                raise UserError(f"{flag}: {mend}")

    reading = args.image and args.edit is None
    needs(
        ("--reports", "--temperature", "--top-p", "--question"), reading, "is for reading; name an image, --image FILE"
    )
    needs(("--edit",), args.image, "changes an image; name it, --image FILE")
    needs(("--strength", "--mask"), args.edit is not None, 'is for an edit; say what to show, --edit "PROMPT"')
    needs(("--mask",), len(args.image or ()) == 1, "is for one image; edit the others by themselves")
    needs(("--between",), len(args.prompt) == 2, "leads from one prompt to another; give two prompts in quotes")
    if args.temperature == 0 and (args.reports or 1) > 1:
        raise UserError(f"--temperature 0: {args.reports} reports would all be the same; give a number above 0")
    if args.temperature == 0 and args.top_p:
        raise UserError("--top-p: is for sampling; give a --temperature above 0, or leave it out")


def main() -> None:
    args = parse_args()
    draws = args.prompt or args.edit
    if draws:
        own_file(args.out)
    began = time.perf_counter()
    from common.clock import Clock
    from common.devices import dtype_name, pick_device, pick_dtype
    from common.images import load_image

    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    by = f"by {args.weights} on {device} in {dtype_name(dtype)}"
    clock = Clock(device, args.profile)
    clock.seconds["imports"] = time.perf_counter() - began
    images = [load_image(path) for path in args.image or ()]
    with clock("load"):
        checkpoint = load_model(args.weights, device, dtype)
    if draws:
        draw_command(args, checkpoint, images, clock)
        print(f"{args.out}\ndrawn {by}\n{DISCLAIMER}")
    else:
        with clock("read"):
            read_command(args, checkpoint, images)
        print(f"read {by}\n{DISCLAIMER}")
    if args.profile:
        print(profile_table(clock.seconds))


def draw_command(args: argparse.Namespace, checkpoint: Checkpoint, images: Sequence[Image.Image], clock: Clock) -> None:
    """Draw from prompts, between two of them, or over images, into one picture at --out."""
    import numpy as np
    from PIL import Image

    from common.images import to_square
    from common.pictures import difference, grid, save_png

    how = {"steps": args.steps, "guidance": args.guidance, "progress": True, "solver": args.solver}
    seeds, columns = range(args.seed, args.seed + args.n), None
    if args.edit:
        size = args.size or checkpoint.model.config.image_size
        check_size(size, checkpoint.model.config.max_latent_size)
        masks = None
        if args.mask:
            masks = np.stack([mask_of(args.mask, images[0], size, str(args.image[0]))] * args.n)
        before = np.stack([to_square(image, size) for image in images for _ in seeds])
        strength = STRENGTH if args.strength is None else args.strength
        with clock("edit"):
            prompts = [args.edit] * len(before)
            after = edit(checkpoint, before, prompts, [*seeds] * len(images), strength, masks, **how)
        pictures, captions, columns = [], [], 3
        for k, (old, new) in enumerate(zip(before, after, strict=True)):
            pictures += [np.stack([old] * 3, axis=-1), np.stack([new] * 3, axis=-1), difference(old, new)]
            path, seed = args.image[k // args.n], args.seed + k % args.n
            captions += [f"{path.name}", f"{args.edit} (seed {seed})", "red: brighter, blue: darker"]
    elif args.between:
        first, second = args.prompt
        pictures, captions, columns = [], [], args.between
        for seed in seeds:
            with clock("steps"):
                pictures += [*between(checkpoint, (first, second), seed, args.between, args.size, **how)]
            captions += [f"{first} (seed {seed})"]
            captions += [f"{k / (args.between - 1):.0%}" for k in range(1, args.between - 1)]
            captions += [f"{second} (seed {seed})"]
    else:
        prompts = [prompt for prompt in args.prompt for _ in seeds]
        pictures = draw(checkpoint, prompts, [*seeds] * len(args.prompt), args.size, clock=clock, **how)
        captions = [
            f"{prompt} (seed {seed})" for prompt, seed in zip(prompts, [*seeds] * len(args.prompt), strict=True)
        ]
    with clock("write"):
        one = len(pictures) == 1
        save_png(Image.fromarray(pictures[0]) if one else grid(pictures, captions, columns), args.out)


def read_command(args: argparse.Namespace, checkpoint: Checkpoint, images: Sequence[Image.Image]) -> None:
    """Print each image's report, or several of it and what they agree on."""
    from generate import nucleus
    from reports.agreement import agreement_lines

    count, top_p = args.reports or 1, args.top_p or TOP_P
    seeds = range(args.seed, args.seed + count)
    if len(images) == count == 1:
        choose = nucleus(args.temperature, top_p, seeds) if args.temperature else None
        texts = read_aloud(checkpoint, images[0], args.question, choose=choose)
        shown = next(texts)  # a bad question is refused before anything is printed
        print(args.image[0])
        print(shown, end="", flush=True)
        for text in texts:
            print(text[len(shown) :], end="", flush=True)
            shown = text
        print("\n")
    elif args.temperature == 0:
        reports = read(checkpoint, images, args.question, progress=True)
        for path, report in zip(args.image, reports, strict=True):
            print(f"{path}\n{report}\n")
    else:
        how = (args.temperature, top_p, args.question)
        each = read_often(checkpoint, images, [seeds] * len(images), *how, progress=True)
        for path, reports in zip(args.image, each, strict=True):
            print(path, *(f"[seed {seed}] {report}" for seed, report in zip(seeds, reports, strict=True)), sep="\n")
            if count > 1:
                print(f"{count} reports affirm:", *(f"  {line}" for line in agreement_lines(reports)), sep="\n")
            print()


def profile_table(seconds: dict[str, float]) -> str:
    total = sum(seconds.values())
    lines = [f"{part:8}{part_seconds:8.2f} s{part_seconds / total:6.0%}" for part, part_seconds in seconds.items()]
    return "\n".join([*lines, f"{'total':8}{total:8.2f} s"])


if __name__ == "__main__":
    run(main)
