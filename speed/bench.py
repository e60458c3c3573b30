"""How fast: ours beside what people would use instead, and beside what the machine can do.

    python -m speed.bench                          every row
    python -m speed.bench reading memory           some
    python -m speed.bench reading --threads 1      how many cores everybody gets (default: torch's own choice)
    python -m speed.bench --quick                  tiny models, two rounds: does it run? its numbers mean nothing

The ways of a row run in one process, on the same weights, inputs and threads. Their outputs are compared first; then
they take turns for `--repeat` rounds and medians are printed, so that a machine that slows down slows all alike. The
ceiling takes turns with them: bare products of as many operations as the work cannot do without, or for a report's
tokens, which wait for memory, a sum over all weights.

Columns: ours and the alternative in the row's unit; how many times better ours is; ours as a fraction of the ceiling.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import io
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models
from torch import nn

import data
import flow
import sample
from checkpoints.presets import init_weights, preset, vae_preset
from common import arguments
from common.clock import memory_used
from common.devices import dtype_name
from common.errors import UserError, run
from common.files import SHIPPED
from generate import generate, stream
from losses import IGNORE, Batch, RepaProjector, StageLoss, repa_loss
from model import UniX, UniXConfig
from phantoms.dataset import Phantoms
from speed import cost, cpu
from speed.feature_cache import FeatureCache
from speed.reference import guided_velocity
from vae import VAE, sample_posterior
from weights import load_checkpoint


@dataclass
class Row:
    """One printed line. `ours` and `instead` in `unit`; ratio > 1: ours is better. ceiling: a fraction, and of what."""

    name: str
    unit: str
    ours: float
    instead: float
    ratio: float
    ceiling: str = ""

    def __str__(self) -> str:
        ratio = f"{self.ratio:.2f} x"
        return f"{self.name:36}{self.unit:12}{self.ours:>9.4g}{self.instead:>12.4g}{ratio:>10}   {self.ceiling}"


HEAD = f"{'':36}{'':12}{'ours':>9}{'instead':>12}{'ratio':>10}   ceiling"
Seconds = dict[str, list[float]]  # of each way in each round


# ---- measuring ---------------------------------------------------------------------------------------------------


def take_turns(ways: dict[str, Callable[[], object]], repeat: int) -> Seconds:
    """Seconds of each way in each of `repeat` rounds, after a round that does not count."""
    seconds: Seconds = {name: [] for name in ways}
    for round_number in range(repeat + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def times(slower: list[float], faster: list[float]) -> float:
    """How many times longer `slower` took: the median over the rounds, each compared with its own neighbour."""
    return statistics.median(s / f for s, f in zip(slower, faster, strict=True))


def row(name: str, unit: str, seconds: Seconds, amount: float, bare: float = 0, of: str = "", rate: str = "") -> Row:
    """The row of "ours" and "instead" in `seconds`, and of "bare", what cannot be done faster, where there is one.

    amount: what one call does, for a unit a second; for "s", how many share its time. bare: what "bare" does in a call,
    in billions; of, rate: what that is called, and its unit.
    """
    median = {way: statistics.median(taken) for way, taken in seconds.items()}
    ours, instead = (amount / median[way] if "/s" in unit else median[way] / amount for way in ("ours", "instead"))
    ceiling = ""
    if bare:
        ceiling = f"{times(seconds['bare'], seconds['ours']):.0%} of {of} ({bare / median['bare']:.1f} {rate})"
    return Row(name, unit, ours, instead, times(seconds["instead"], seconds["ours"]), ceiling)


def flops_row(name: str, unit: str, seconds: Seconds, amount: float, flops: float) -> Row:
    """A row whose ceiling are bare matrix products."""
    return row(name, unit, seconds, amount, flops / 1e9, "matrix products", "GFLOP/s")


def matrix_products(flops: float, dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """Square products, of 1,024 x 1,024 if that is not too much, that together take `flops` operations."""
    side = min(1024, round((flops / 2) ** (1 / 3)))
    a, b = torch.randn(2, side, side, dtype=dtype)
    count = max(1, round(flops / (2 * side**3)))
    out = torch.empty_like(a)

    def products() -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)

    return products


def in_child(code: str, *words: object) -> list[float]:
    """Run Python code in a fresh process, whose memory is its own, beside this file -> the numbers it prints."""
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [float(word) for word in done.stdout.split()]


def agree(ours: torch.Tensor, instead: torch.Tensor, dtype: torch.dtype) -> None:
    """Raises AssertionError unless both say the same, up to the rounding of `dtype`, relative to their own scale."""
    scale = instead.std().item() if instead.numel() > 1 else instead.abs().item()
    tolerance = 1e-3 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(ours, instead, atol=tolerance * max(scale, 1e-9), rtol=0)


def wide() -> UniXConfig:
    """12 layers of width 768, between the tiny model and the published one."""
    config = preset("tiny")
    config.hidden_size, config.intermediate_size, config.num_layers, config.num_heads = 768, 2048, 12, 12
    return config


def random_unix(config: UniXConfig, dtype: torch.dtype = torch.float32) -> UniX:
    generator, model = torch.Generator().manual_seed(0), UniX(config, dtype)
    init_weights(model, generator)
    nn.init.normal_(model.llm2vae.weight, std=0.02, generator=generator)  # at zero, nothing before it has a gradient
    return model.to(dtype)


# ---- reading -----------------------------------------------------------------------------------------------------

BEFORE, AFTER = [5, 17, 9, 33], list(range(100, 116))  # the prompt around the image: 20 tokens


def reading(args: argparse.Namespace) -> Iterator[Row]:
    """the first token of a report and the tokens a second after it, beside transformers' Janus"""
    for dtype in (torch.float32, torch.bfloat16):
        instead, ours = janus_pair(args.quick, dtype)
        cpu.speed_up(ours)
        for batch in (1, 8) if dtype == torch.float32 and not args.quick else (1,):
            yield from reading_rows(instead, ours, batch, f"reading, batch {batch}, {dtype_name(dtype)}", args)


def janus_pair(quick: bool, dtype: torch.dtype) -> tuple[nn.Module, UniX]:
    """One Janus with random weights, as transformers' and as ours: 12 layers of width 768, 32,000 tokens, 256 px."""
    try:
        from transformers import JanusConfig, JanusForConditionalGeneration, logging
    except ImportError as error:
        raise UserError("speed.bench compares with transformers: pip install -e '.[test]'") from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    width, layers, vocabulary, side = (64, 2, 300, 4) if quick else (768, 12, 32_000, 16)
    both = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    text = both | {"intermediate_size": width * 8 // 3, "num_key_value_heads": both["num_attention_heads"]}
    text |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = both | {"image_size": 16 * side, "patch_size": 16, "mlp_ratio": 4, "projection_dim": width}
    vision |= {"num_image_tokens": side**2}
    unused = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "embed_dim": 4}  # image tokens
    unused |= {"num_embeddings": 16, "latent_channels": 4, "image_token_embed_dim": 64, "projection_dim": 64}
    configs = {"text_config": text, "vision_config": vision, "vq_config": unused}
    torch.manual_seed(0)
    config = JanusConfig(**configs, image_token_id=vocabulary - 1, tie_word_embeddings=False)
    instead = JanusForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in instead.parameters():
            if parameter.dim() == 2:  # wider than their initialisation, or every answer would be one token repeated
                parameter.normal_(std=1.25 / width**0.5)
    names = {"<|bos|>": 0, "<|eos|>": 1, "<|boi|>": 2, "<|eoi|>": 3}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        instead.save_pretrained(folder)
        Tokenizer(models.WordLevel(names, unk_token="<|eos|>")).save(f"{folder}/tokenizer.json")
        ours = load_checkpoint(folder, dtype=dtype, parity=True).model
    ours.before = BEFORE
    return instead.to(dtype), ours


def reading_rows(instead: nn.Module, ours: UniX, batch: int, name: str, args: argparse.Namespace) -> Iterator[Row]:
    tokens, size, dtype = 9 if args.quick else 33, ours.config.vit.image_size, ours.compute_dtype
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)).repeat(batch, 1, 1, 1)
    image = [ours.config.vocab_size - 1] * (size // 16) ** 2
    ids = torch.tensor([[*BEFORE, *image, *AFTER]] * batch)
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels.to(dtype)}

    def answer_instead(count: int) -> list[list[int]]:
        found = instead.generate(**asked, generation_mode="text", max_new_tokens=count, do_sample=False)
        return found[:, ids.shape[1] :].tolist()

    def answer(count: int) -> list[list[int]]:
        return generate(ours, pixels, [AFTER] * batch, count)

    with torch.inference_mode():
        agree(next(stream(ours, pixels, [AFTER] * batch))[1], instead(**asked).logits[:, -1].float(), dtype)
    answers = answer(tokens)
    if dtype == torch.float32 and answers != answer_instead(tokens):
        raise ValueError(f"{name}: not the same tokens")
    if any(len(each) != tokens for each in answers):
        raise ValueError(f"{name}: an answer ended early")

    matrices = [p.detach() for n, p in ours.und_parameters() if p.dim() == 2 and n.startswith(("layers.", "lm_head."))]
    flops = batch * cost.report_flops(ours.config, len(BEFORE) + len(AFTER) - 2, 1)
    ways = {"ours first": partial(answer, 1), "instead first": partial(answer_instead, 1)}
    ways |= {"ours whole": partial(answer, tokens), "instead whole": partial(answer_instead, tokens)}
    ways |= {"weights": lambda: [matrix.sum() for matrix in matrices], "bare": matrix_products(flops, dtype)}
    seconds = take_turns(ways, args.repeat)
    after = {
        way: [(w - f) / (tokens - 1) for w, f in zip(seconds[f"{way} whole"], seconds[f"{way} first"], strict=True)]
        for way in ("ours", "instead")
    }
    gigabytes = sum(matrix.nbytes for matrix in matrices) / 1e9
    after["bare"] = seconds["weights"]
    yield row(name, "tokens/s", after, batch, gigabytes, "reading the weights", "GB/s")
    first = {way.removesuffix(" first"): taken for way, taken in seconds.items() if way.endswith(("first", "bare"))}
    yield flops_row("  first token", "s", first, 1, flops)


# ---- training ----------------------------------------------------------------------------------------------------


def training(args: argparse.Namespace) -> Iterator[Row]:
    """samples/s of forward and backward and what they keep, beside plain layers over one padded sequence"""
    for stage in ("2", "1"):
        yield from training_rows(preset("tiny"), stage, 4 if args.quick else 16, f"stage {stage}, tiny", args)
        if not args.quick:
            yield from training_rows(wide(), stage, 4, f"stage {stage}, 12 x 768", args)


def training_rows(config: UniXConfig, stage: str, count: int, name: str, args: argparse.Namespace) -> Iterator[Row]:
    """`count` phantoms of 128 px, in float32. Rendering them, and encoding them for stage 2, is not timed."""
    shipped, model, heads = load_checkpoint(SHIPPED), random_unix(config), nn.ModuleDict()
    if stage == "2":
        heads["repa"] = RepaProjector(config.hidden_size, config.vit.width, 512)
    for _, parameter in model.und_parameters() if stage == "2" else model.gen_parameters():
        parameter.requires_grad_(False)
    examples = data.Examples(Phantoms(count, 128), stage, 128, 0, shipped.encode, config, 16, count)
    batches = data.Collate(config)([examples[i] for i in range(count)])
    ((kind, batch),) = batches.items()

    def frozen_encoders(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return *shipped.vae.posterior(shipped.vae.preprocess(images)), model.vit(model.vit.preprocess(images))

    plain = copy.deepcopy(model, memo={id(p): p for p in model.parameters()})  # other layers, the same parameters
    cpu.speed_up(model)
    features = FeatureCache(frozen_encoders, count)
    losses, plain_losses = (StageLoss(each, shipped.vae, heads, features, 0.5) for each in (model, plain))
    totals = {kind: float(batch.terms())}
    obvious = obvious_draw if stage == "2" else obvious_read
    ways = {"instead": lambda: obvious(plain_losses, batch), "ours": lambda: losses(batches, totals)[0]}

    trained = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
    results = []
    for forward in ways.values():
        loss = forward()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        results.append([loss.detach(), *gradients])
    for expected, value in zip(*results, strict=True):
        agree(value, expected, torch.float32)

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def forward_backward() -> None:
            model.zero_grad()
            loss().backward()

        return forward_backward

    if stage == "2":
        prompt, answer = sum(0 if p is None else len(p) + 2 for p in batch.prompts) / count, 0
    else:
        answer = batch.terms() / count
        prompt = int((batch.text_ids != config.eos).sum()) / count - answer
    flops = cost.step_flops(config, stage, 128, round(prompt), round(answer), count)
    steps = {way: step(loss) for way, loss in ways.items()} | {"bare": matrix_products(flops)}
    yield flops_row(name, "samples/s", take_turns(steps, args.repeat), count, flops)
    ours, instead = (cost.kept_bytes(ways[way], losses) / 1e6 for way in ("ours", "instead"))
    yield Row("  kept for the backward pass", "MB", ours, instead, instead / ours)


# What one would write first: prompt and picture in one padded sequence, one graph over all of it, plain layers.


def obvious_draw(losses: StageLoss, batch: Batch) -> torch.Tensor:
    """The loss of stage 2 over [BOS prompt EOS padding BOI EOI | latents]."""
    model = losses.model
    mean, log_variance, target = losses.frozen_features(batch.index, batch.image)
    latents = losses.vae.normalise(sample_posterior(mean, log_variance, batch.posterior_noise))
    t = flow.training_time(batch.t_normal)
    x_t = flow.interpolate(latents, batch.noise, t)
    v, hidden = model(x_t, t, batch.prompts, return_layer=model.config.repa_layer)
    repa = repa_loss(losses.heads["repa"](hidden), target)
    return flow.velocity_error(v, latents, batch.noise).mean() + losses.repa_weight * repa


def obvious_read(losses: StageLoss, batch: Batch) -> torch.Tensor:
    """The loss of stage 1, with logits of every token as transformers computes them."""
    logits = losses.model.read_forward(losses.model.vit.preprocess(batch.image), batch.text_ids)
    targets = F.pad(batch.targets, (logits.shape[1] - batch.targets.shape[1], 0), value=IGNORE)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# ---- drawing -----------------------------------------------------------------------------------------------------

PROMPT = "Moderate cardiomegaly. Small left pleural effusion."


def drawing(args: argparse.Namespace) -> Iterator[Row]:
    """a 256 px picture at 50 times under guidance, without its decoding, beside the whole sequence at each step"""
    for dtype in (torch.float32, torch.bfloat16):
        checkpoint = load_checkpoint(SHIPPED, dtype=dtype)
        prompt = checkpoint.encode(PROMPT)
        yield drawing_row(checkpoint.model, prompt, 1, "tiny", args)
        if not args.quick:
            yield drawing_row(checkpoint.model, prompt, 4, "tiny", args)
            yield drawing_row(random_unix(wide(), dtype).eval(), prompt, 1, "12 x 768", args)


def drawing_row(model: UniX, prompt: list[int], batch: int, name: str, args: argparse.Namespace) -> Row:
    """12 of the 50 times have the same shares of guided and unguided steps, so that a round does not take minutes."""
    dtype, fast = model.compute_dtype, copy.deepcopy(model)
    cpu.speed_up(fast)
    noise = torch.randn(batch, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    early, late = sample.split_times(flow.timesteps(12), sample.GUIDED_ABOVE)

    def ours() -> torch.Tensor:
        guided, conditional = sample.prompted_velocities(fast, [prompt] * batch, 2.0)
        return flow.euler(conditional, flow.euler(guided, noise, early), late)

    def instead() -> torch.Tensor:
        conditional, unconditional = (lambda x, t, ids=ids: model(x, t, [ids] * batch) for ids in (prompt, None))
        velocity = guided_velocity(conditional, lambda x, t: (conditional(x, t), unconditional(x, t)), 2.0)
        return flow.euler(velocity, noise, flow.timesteps(12))

    passes, passes_of_50 = 2 * (len(early) - 1) + len(late) - 1, 2 * 41 + 8
    flops = batch * passes * cost.velocity_flops(model.config, 256, len(prompt) + 2)
    repeat = args.repeat if name == "tiny" else min(3, args.repeat)
    title = f"drawing, {name}, batch {batch}, {dtype_name(dtype)}"
    with torch.inference_mode():
        agree(ours(), instead(), dtype)
        seconds = take_turns({"instead": instead, "ours": ours, "bare": matrix_products(flops, dtype)}, repeat)
    return flops_row(title, "s a picture", seconds, batch * passes / passes_of_50, flops)


# ---- freed memory --------------------------------------------------------------------------------------------------


def memory(args: argparse.Namespace) -> Iterator[Row]:
    """a process that keeps the memory torch frees, as our commands do, beside one that gives it back"""
    code = "import sys; from speed import bench; bench.step_and_decode(*sys.argv[1:])"
    size = 64 if args.quick else 512
    rounds = [
        {way: in_child(code, way, args.threads, args.quick) for way in ("ours", "instead")} for _ in range(args.repeat)
    ]
    names = {"kept memory, a guided step, tiny": "s", f"kept memory, vae decode, {size} px": "s", "  its peak": "GB"}
    for i, (name, unit) in enumerate(names.items()):
        yield row(name, unit, {way: [each[way][i] for each in rounds] for way in ("ours", "instead")}, 1)


def step_and_decode(way: str, threads: str, quick: str) -> None:
    """In a process of its own: print the seconds of one guided step of a 256 px drawing and of one decoding by kl-f16,
    and the most memory the process ever had, in GB."""
    torch.set_num_threads(int(threads))
    if way == "ours":
        cpu.keep_freed_memory()
    checkpoint, side = load_checkpoint(SHIPPED), 4 if quick == "True" else 32
    torch.manual_seed(0)
    autoencoder = VAE(vae_preset("tiny" if quick == "True" else "unix")).eval()
    x, t, latents = torch.randn(1, 16, 16, 16), torch.tensor([0.7]), torch.randn(1, 16, side, side)
    with torch.inference_mode():
        guided, _ = sample.prompted_velocities(checkpoint.model, [checkpoint.encode(PROMPT)], 2.0)
        for work, repeat in ((lambda: guided(x, t), 5), (lambda: autoencoder.decode(latents), 1)):
            print(statistics.median(take_turns({"work": work}, repeat)["work"]))
    # getrusage would count the parent's memory as well, from before this process became another program.
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    print(int(peak[1]) * 1024 / 1e9 if peak else memory_used(torch.device("cpu")))


# ---- solvers -----------------------------------------------------------------------------------------------------


def solvers(args: argparse.Namespace) -> Iterator[Row]:
    """how far a drawing's latents end from the exact solution, beside the 50 published times of Euler's"""
    # 100 steps of Heun's stand for the exact solution: 500 of them come within 0.0006 of it, 1,000 of Euler's 0.0013.
    count, exact_steps = (1, 12) if args.quick else (4, 100)
    checkpoint, source = load_checkpoint(SHIPPED), Phantoms(count, 256, seed=1)
    prompts = [checkpoint.encode(source.text(i)[1]) for i in range(count)]
    noise = torch.stack([torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(count)])

    def walk(solver: str, steps: int) -> tuple[torch.Tensor, int, int]:
        """(latents, evaluations, passes: an evaluation under guidance is two)."""
        early, late = sample.split_times(sample.schedule(solver, steps), sample.GUIDED_ABOVE)
        each, solve = 2 if solver == "heun" else 1, getattr(flow, solver)
        latents = solve(conditional, solve(guided, noise, early), late)
        return latents, each * (steps - 1), each * (2 * (len(early) - 1) + len(late) - 1)

    with torch.inference_mode():
        guided, conditional = sample.prompted_velocities(checkpoint.model, prompts, 2.0)
        exact, _, _ = walk("heun", exact_steps + 1)
        published = (walk("euler", 50)[0] - exact).square().mean().sqrt().item()
        for solver, several in {"euler": (13, 25, 50), "heun": (7, 13, 25), "ab2": (13, 17, 20, 25, 50)}.items():
            for steps in several[: 1 if args.quick else None]:
                latents, evaluations, passes = walk(solver, steps)
                distance = (latents - exact).square().mean().sqrt().item()
                name = f"{solver} {steps}: {evaluations} evaluations, {passes} passes"
                yield Row(name, "RMS", distance, published, published / distance)


# ---- the command -------------------------------------------------------------------------------------------------

# name on the command line -> what yields its rows; its docstring is its help
ROWS = {each.__name__: each for each in (reading, training, drawing, memory, solvers)}


def parse_args() -> argparse.Namespace:
    rows = "\n".join(f"  {name:12}{each.__doc__}" for name, each in ROWS.items())
    parser = arguments.Parser(
        description=__doc__, epilog=f"rows:\n{rows}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure; default: all")
    threads, repeat = arguments.whole(1, 1024), arguments.whole(1, 10_000)
    default = torch.get_num_threads()
    parser.add_argument("--threads", type=threads, default=default, help="of every way (default: %(default)s)")
    parser.add_argument("--repeat", type=repeat, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny models and two rounds, to see it run")
    args = parser.parse_args()
    for name in args.names:
        if name not in ROWS:
            raise UserError(f"no row {name!r}: choose from {', '.join(ROWS)}")
    if args.quick:
        args.repeat = min(args.repeat, 2)
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    cpu.keep_freed_memory()
    print(f"{datetime.date.today()}, {platform.machine()}, {args.threads} threads, torch {torch.__version__}")
    print(HEAD)
    for name in args.names or ROWS:
        for line in ROWS[name](args):
            print(line, flush=True)


if __name__ == "__main__":
    run(main)
