"""Draw a chest X-ray from a sentence, or write the report of one.

    python sample.py "Moderate cardiomegaly. Small left pleural effusion."
    python sample.py --image FILE [FILE ...]                  its report
    python sample.py --image FILE --n 10                      how sure the model is

A research and teaching tool, not a medical device.
"""

from common.errors import UserError, run
from common.sampling import DISCLAIMER, DOWNSAMPLING, SOLVER, STEPS, TEMPERATURE, TOP_P, check_size, sample_flags

if __name__ == "__main__":  # before torch is imported, which takes seconds: --help and a typing error do not wait
    run(sample_flags, last=False)

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import flow
import lora
from checkpoints.janus import JanusPro, janus_chat
from common.devices import dtype_name, pick_device, pick_dtype, pictures_at_a_time
from common.images import load_image, to_square
from common.pictures import grid, save_png
from generate import Choose, generate, greedy, nucleus, stream
from model import UniX, UniXConfig
from reports.agreement import agreement_lines
from reports.questions import default_question
from speed import cpu
from weights import Checkpoint, load_checkpoint

GUIDED_ABOVE = 0.4  # time; below it guidance costs twice the work and does little (published)
Watch = Callable[[torch.Tensor, float], object]  # is called with an estimate of the data, and the time it is made at


def load_model(
    folder: Path, device: str | torch.device, dtype: torch.dtype, adapter: Path | None = None, draws: bool = False
) -> Checkpoint:
    """Weights of any layout, with an adapter; on a CPU, sped up. Janus-Pro is itself, and refused if it must draw."""
    checkpoint = load_checkpoint(folder, device, dtype, parity=True)
    if draws and checkpoint.vae is None:
        raise UserError(f"--weights {folder}: a Janus-Pro, which draws no X-rays; name a UniX, or train one from it")
    if adapter:
        lora.load_adapter(checkpoint.model, adapter)
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
    watch: Watch | None = None,
) -> np.ndarray:
    """Text to image: (len(prompts), size, size) grey uint8.

    seeds: one a picture; it alone decides the noise, so a picture does not depend on its batch. size: px, default the
    size the weights were last trained at. steps: times of the schedule, both ends too. guidance: 1 is none, default the
    config's. batch: pictures at a time. solver: one of SOLVERS. watch: sees where each batch is heading, and the time.
    Raises UserError for an empty prompt, one beyond the model's context, or a size the model has no positions for.
    """
    model, config = checkpoint.model, checkpoint.model.config
    size = config.image_size if size is None else size
    check_size(size, config.max_latent_size)
    ids = [prompt_ids(checkpoint, prompt) for prompt in prompts]

    def begin(rows: slice) -> tuple:
        return *prompted_velocities(model, ids[rows], guidance), noise_of(config, seeds[rows], size)

    return solve(checkpoint, begin, len(ids), steps, batch, progress, solver, watch)


def noise_of(config: UniXConfig, seeds: Sequence[int], size: int) -> torch.Tensor:
    """The noise that belongs to each seed: (len(seeds), C, size / 16, size / 16)."""
    shape = (config.latent_channels, size // DOWNSAMPLING, size // DOWNSAMPLING)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def prompted_velocities(
    model: UniX, prompts: Sequence[Sequence[int]], guidance: float | None
) -> tuple[flow.Velocity, flow.Velocity]:
    """The guided velocity(x, t) and the conditional one; the prompts' keys and values are computed here, once."""
    prompt, guidance = model.read_prompt(prompts), guidance or model.config.guidance

    def conditional(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model.velocity(x, t, prompt)

    if guidance == 1.0:
        return conditional, conditional
    paired = model.read_prompt([*prompts, *[None] * len(prompts)])

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return flow.guide(*model.velocity(torch.cat([x, x]), torch.cat([t, t]), paired).chunk(2), guidance)

    return guided, conditional


def solve(
    checkpoint: Checkpoint,
    begin: Callable[[slice], tuple[flow.Velocity, flow.Velocity, torch.Tensor]],
    count: int,
    steps: int = STEPS,
    batch: int | None = None,
    progress: bool = False,
    solver: str = SOLVER,
    watch: Watch | None = None,
    since: float = 1.0,
) -> np.ndarray:
    """From time `since` to pictures: (count, 16h, 16w) grey uint8. The rest: see `draw`.

    begin: of some rows the guided velocity, the conditional one, and x at `since`, (B, C, h, w).
    """
    times = schedule(solver, steps)
    times = torch.cat([torch.tensor([since]), times[times < since]])
    vae, model, walk = checkpoint.vae, checkpoint.model, getattr(flow, solver)
    device = model.vae2llm.weight.device
    batch = batch or pictures_at_a_time(device)
    early, late = split_times(times, GUIDED_ABOVE)
    total = (len(times) - 1) * (2 if solver == "heun" else 1) * -(-count // batch)
    pictures = []

    def watched(velocity: flow.Velocity, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = velocity(x, t)
        bar.update()
        if watch is not None:
            watch(x - t.view(-1, 1, 1, 1) * v, t[0].item())  # where v leads, if it stayed as it is
        return v

    with torch.inference_mode(), tqdm(total=total, unit="step", desc="drawing", disable=not progress) as bar:
        for first in range(0, count, batch):
            guided, conditional, x = begin(slice(first, first + batch))
            x = walk(functools.partial(watched, guided), x.to(device), early)
            x = walk(functools.partial(watched, conditional), x, late)
            pictures.append(vae.postprocess(vae.decode(x.to(model.compute_dtype))).cpu().numpy())
    return np.concatenate(pictures)


def schedule(solver: str, steps: int) -> torch.Tensor:
    """The times to visit, (steps,): Euler's are published; the others need fewer near noise, and a stop at the jump."""
    return flow.timesteps(steps) if solver == "euler" else flow.timesteps(steps, shift=2.0, through=GUIDED_ABOVE)


def split_times(times: torch.Tensor, at: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Falling times -> (down to the first that is not above `at`, on from there).

    The velocity jumps where guidance ends; a solver that walks both sides apart never averages across the jump.
    """
    above = int((times > at).sum())
    return times[: above + 1], times[above:]


def prompt_ids(checkpoint: Checkpoint, text: str, what: str = "the prompt") -> list[int]:
    """Token ids; raises UserError if there are none or too many."""
    if not text.strip():
        raise UserError(f'{what} is empty; say what to draw or ask, for example "Small left pleural effusion."')
    ids = checkpoint.encode(text.strip())
    room = checkpoint.model.config.context_length - 2  # BOS and EOS
    if len(ids) > room:
        raise UserError(f"{what} has {len(ids)} tokens, the model's context holds {room}; shorten it")
    return ids


def read(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    question: str | None = None,
    max_new_tokens: int = 256,
    batch: int = 16,
    progress: bool = False,
    chooser: Callable[[slice], Choose] = lambda rows: greedy,
    begin: Sequence[str] | None = None,
) -> list[str]:
    """Image to report: one text an image (8-bit grey Pillow images of any size). chooser: of tokens, for some rows.
    begin: of each image what its report begins with, and comes without."""
    question_ids, reports = question_of(checkpoint, question), []
    begin = [checkpoint.encode(first) if first else [] for first in begin or [""] * len(images)]
    with tqdm(total=len(images), unit="report", desc="reading", disable=not progress) as bar:
        for start in range(0, len(images), batch):
            rows = slice(start, start + batch)
            pixels = pixels_of(checkpoint, images[rows])
            asked = [question_ids] * len(pixels)
            answers = generate(checkpoint.model, pixels, asked, max_new_tokens, chooser(rows), begin[rows])
            reports += [checkpoint.decode(answer) for answer in answers]
            bar.update(len(pixels))
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
    """Image to sampled reports (`nucleus`): one for each seed of each image. begin: as in `read`.

    A report belongs to its image and its seed; it depends on no other report and not on the batch, reports at a time.
    """
    triples = zip(images, begin or [""] * len(images), seeds, strict=True)
    each = [(image, first, seed) for image, first, row in triples for seed in row]
    films, begin, drawn = ([triple[k] for triple in each] for k in range(3))
    how = {"chooser": lambda rows: nucleus(temperature, top_p, drawn[rows]), "begin": begin}
    texts = iter(read(checkpoint, films, question, max_new_tokens, batch, progress, **how))
    return [[next(texts) for _ in row] for row in seeds]


def read_aloud(
    checkpoint: Checkpoint, image: Image.Image, question: str | None = None, max_new_tokens: int = 256
) -> Iterator[str]:
    """One image's report as it is written: yields it piece by piece."""
    model, pixels = checkpoint.model, pixels_of(checkpoint, [image])
    text, written, said = model.asked(question_of(checkpoint, question)), [], ""
    for ids, _ in stream(model, pixels, [text], max_new_tokens):
        written += [token for token in ids.tolist() if token != model.config.eos]
        text = checkpoint.decode(written)
        if not text.endswith("\ufffd"):  # the rest of this character is in the next token
            yield text[len(said) :]
            said = text
    yield checkpoint.decode(written)[len(said) :]


def question_of(checkpoint: Checkpoint, question: str | None) -> list[int]:
    """A question's token ids, as `UniX.asked` takes them. None: the data set's question."""
    question = default_question(checkpoint.model.config.wording) if question is None else question
    ids = prompt_ids(checkpoint, question, "--question")
    if isinstance(checkpoint.model, JanusPro):
        return janus_chat(checkpoint.tokenizer, checkpoint.model.config, question.strip())[1]
    return ids


def pixels_of(checkpoint: Checkpoint, images: Sequence[Image.Image]) -> torch.Tensor:
    """Images as the ViT was shown them: (B, 3, S, S), on the model's device."""
    model, vit = checkpoint.model, checkpoint.model.config.vit
    each = {id(image): image for image in images}  # many reports of one film: its square is made once
    squares = {key: to_square(image, vit.image_size, vit.padding, vit.scaling) for key, image in each.items()}
    pixels = torch.from_numpy(np.stack([squares[id(image)] for image in images]))
    return model.vit.preprocess(pixels.to(model.vae2llm.weight.device))


def main() -> None:
    args = sample_flags()
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    images = [load_image(path) for path in args.image or ()]
    checkpoint = load_model(args.weights, device, dtype, args.adapter, draws=bool(args.prompt))
    seeds = range(args.seed, args.seed + args.n)
    if args.image:
        read_command(args, checkpoint, images, seeds)
    else:
        cells = [(prompt, seed) for prompt in args.prompt for seed in seeds]
        how = {"guidance": args.guidance, "progress": True, "solver": args.solver}
        pictures = draw(checkpoint, *zip(*cells, strict=True), args.size, args.steps, **how)
        captions = [f"{prompt} (seed {seed})" for prompt, seed in cells]
        save_png(Image.fromarray(pictures[0]) if len(cells) == 1 else grid(pictures, captions), args.out)
        print(args.out)
    print(f"{'read' if args.image else 'drawn'} by {args.weights} on {device} in {dtype_name(dtype)}\n{DISCLAIMER}")


def read_command(
    args: argparse.Namespace, checkpoint: Checkpoint, images: Sequence[Image.Image], seeds: Sequence[int]
) -> None:
    """Print each image's report, or several of it and what they agree on."""
    question_of(checkpoint, args.question)  # a bad one is refused before anything is printed
    if len(images) == len(seeds) == 1:
        print(args.image[0])
        for piece in read_aloud(checkpoint, images[0], args.question):
            print(piece, end="", flush=True)
        print("\n")
        return
    how = {"question": args.question, "progress": True}
    if len(seeds) == 1:
        for path, report in zip(args.image, read(checkpoint, images, **how), strict=True):
            print(path, report, "", sep="\n")
        return
    for path, reports in zip(args.image, read_often(checkpoint, images, [seeds] * len(images), **how), strict=True):
        print(path, *map("[seed {}] {}".format, seeds, reports), f"{len(seeds)} reports affirm:", sep="\n")
        print(*(f"  {line}" for line in agreement_lines(reports)), "", sep="\n")


if __name__ == "__main__":
    run(main)
