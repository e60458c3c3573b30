"""Train UniX: the autoencoder, then the paper's three stages (section 3.4, Table 1). The loop is in `train`.

python train.py --stage 1 --steps 20                       a few steps of the tiny model on drawn X-rays
torchrun --nproc_per_node=8 train.py --stage 3             on eight GPUs (or eight processes of a CPU)
python train.py --stage 3 --resume                         go on with a run, on any number of processes
bash runs/tiny.sh                                          all stages: how the shipped weights were made
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import data
from archives.opening import open_source
from archives.records import Records, squares
from checkpoints.folders import CHECKPOINT, find_checkpoint
from checkpoints.presets import PRESETS, init_weights, preset, vae_preset
from checkpoints.same_run import check_no_run_is_lost, check_same_run
from checkpoints.training_state import State, name_run, read_state, restore, write_state
from common import arguments
from common.average import MovingAverage
from common.clock import Clock, memory_used
from common.devices import dtype_name, pick_device, pick_dtype
from common.distributed import StopSignal, Team, joined_team
from common.errors import UserError, run
from common.files import SHIPPED
from common.ownership import lock_folder, own_folder
from common.training_log import TrainingLog
from common.workers import default_workers
from evaluation.progress import show
from evaluation.validation import Validation, heeding, validation_source
from judges.raddino import load_raddino
from losses import Batch, RepaProjector
from model import UniX
from phantoms.dataset import Phantoms, named
from reports.phrases import common_targets, visible
from reports.questions import DEFAULT_QUESTION, SHORT_QUESTION
from speed import cost, cpu
from speed.feature_cache import FeatureCache
from training.pretraining import EveryStageLoss
from training.tokenizer import LEAST_PIECES, train_tokenizer
from vae import VAE
from weights import Checkpoint, load_checkpoint, save_checkpoint

# ---- the recipe: Table 1 -----------------------------------------------------------------------------------------

PREVIOUS = {"vae": None, "vit": "vae", "1": "vit", "2": "1", "3": "2"}  # stage -> the one it starts from
DRAWING = ("2", "3")
BEST = "checkpoint.best"  # in the folder of a run, beside CHECKPOINT


@dataclass(frozen=True)
class Recipe:
    """One column of Table 1. AdamW (0.9, 0.95), eps 1e-15, no weight decay, gradients clipped to norm 1."""

    learning_rate: float  # constant after the warm-up
    size: int  # px
    batch: int  # over all processes and accumulated micro-batches
    warmup: int  # steps
    steps: int
    repa_weight: float = 0.0
    time_shift: float = 1.0  # above 1, stages 2 and 3 train more on noisy times (flow.shift_time); the paper: 1
    micro_batch: int = 8  # at most, at a time on one GPU
    augment: bool = False  # vary the films that are read: thousands are soon known by heart; phantoms never run out
    balance: float = 1.0  # real films of rare observations come up to so many times as often (data.repeat_factors)


# The paper trains neither autoencoder nor ViT from nothing (it takes kl-f16 and SigLIP): "vae" and "vit" are ours.
RECIPES = {
    "unix": {
        "vae": Recipe(1e-4, 256, 64, 1000, 100_000),
        "vit": Recipe(1e-4, 384, 256, 1000, 100_000),
        "1": Recipe(1e-4, 384, 256, 80, 3_840),
        "2": Recipe(2e-4, 256, 256, 2_000, 75_000, repa_weight=0.5, micro_batch=32),
        "3": Recipe(1e-4, 512, 256, 0, 5_000),
    },
    "tiny": {
        "vae": Recipe(1e-3, 128, 4, 50, 6_000, micro_batch=32),
        "vit": Recipe(1e-3, 128, 32, 100, 3_000, micro_batch=32),
        "1": Recipe(1e-3, 128, 32, 80, 800, micro_batch=32),
        "2": Recipe(1e-3, 128, 32, 100, 2_000, repa_weight=0.5, micro_batch=32),
        "3": Recipe(8e-4, 256, 16, 0, 4_000, micro_batch=32),
    },
    # For some thousand real films. Reports are uneven, so stage 1 is cut into small micro-batches of like length.
    "small": {
        "vae": Recipe(1e-3, 128, 8, 50, 12_000, micro_batch=32),
        "vit": Recipe(5e-4, 224, 32, 100, 3_000, micro_batch=32, augment=True),
        "1": Recipe(5e-4, 224, 32, 100, 2_000, augment=True),
        "2": Recipe(1e-3, 128, 32, 100, 6_000, repa_weight=0.5, micro_batch=32),
        "3": Recipe(8e-4, 256, 16, 0, 3_000, micro_batch=16),
    },
}


def schedule(step: int, recipe: Recipe, decay: float) -> float:
    """The learning rate's factor: linear warm-up, then constant; with `decay`, linearly to 0 at the end."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    left = (recipe.steps - step) / max(1.0, decay * recipe.steps)
    return warm * min(1.0, left) if decay else warm


# ---- the loop ----------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace, team: Team) -> int:
    """The exit code: 0, or 128 and the signal that stopped the run, so that no script goes on to the next stage."""
    device, dtype = team.device, pick_dtype(args.dtype, team.device)
    args.dtype = dtype_name(dtype)
    out = args.out
    earlier = read_state(out) if args.resume else None
    if args.resume and not earlier:
        say(team, f"--resume: nothing was saved in {out} yet; starting anew")
    checkpoint, preset_name = start_from(args, team, earlier.folder if earlier else None)
    recipe = choose_recipe(args, preset_name, checkpoint.model, earlier)
    micro_batch, accumulation = divide_batch(args, recipe, team)
    source = data_source(args, recipe)
    vocabulary = phrases_of(args, source) if args.stage == "vit" else []
    held_out = validation_source(args.validate, recipe.size, args.cache, args.require) if args.validate else None
    state = begin(args, recipe, out, earlier)
    state.run = state.run or name_run(state.settings, checkpoint.history, [checkpoint.model, checkpoint.vae])

    model = prepare_model(args, checkpoint, recipe, state, dtype, team)
    trained, heads, frozen_features = what_trains(args, checkpoint, recipe, source, vocabulary, dtype, team)
    originals = freeze([model, checkpoint.vae], trained, dtype)
    objective = {"repa_weight": recipe.repa_weight, "time_shift": recipe.time_shift}
    losses = EveryStageLoss(model, checkpoint.vae, heads, frozen_features, train_und=args.train == "both", **objective)
    if team.size > 1:
        # What is trained but has no part in the loss (ablation only) must not be waited for.
        unused = args.train == "both"
        losses = DistributedDataParallel(losses, find_unused_parameters=unused, gradient_as_bucket_view=True)
    optimizer = build_optimizer(args, trained, team)
    average = MovingAverage(trained, args.ema) if args.ema else None
    if state.step:
        restore(out, optimizer, trained, heads, average)
    micro_batches = load_batches(args, checkpoint, recipe, source, vocabulary, micro_batch, state.step, team)
    validation = None
    if held_out is not None and team.is_main and not args.profile:  # the others wait at their next sum
        features = FeatureCache(frozen_features.compute, len(held_out))
        examples = make_examples(args, checkpoint, recipe, held_out, vocabulary, seed=0, prompt_dropout=0.0)
        measured = EveryStageLoss(model, checkpoint.vae, heads, features, **objective)
        validation = Validation(checkpoint, measured, examples, micro_batch)
    how = f"batch {recipe.batch} = {team.size} processes x {micro_batch} at a time x {accumulation} accumulated"
    count = sum(parameter.numel() for parameter in trained.values())
    say(team, f"stage {args.stage} on {device}, {dtype}: {count:,} parameters train on {len(source):,} images")
    say_what_is_cut(team, args, checkpoint, source)
    say(team, f"{recipe}\n{how}, into {out}" + (f"; going on after step {state.step}" if state.step else ""))

    stop, clock = StopSignal(), Clock(device, args.profile)
    log = TrainingLog(out, state.step, args.tensorboard) if team.is_main and not args.profile else None
    sample_every = args.sample_every or max(50, recipe.steps // 10)
    validate_every = args.validate_every or max(10, recipe.steps // 20)
    began, seconds_before, first = time.time(), state.seconds, state.step
    bar = tqdm(total=recipe.steps, initial=first, unit="step", dynamic_ncols=True, disable=not team.is_main)
    with bar, contextlib.closing(micro_batches):
        for step in range(first, recipe.steps):
            with clock("data"):
                batches = [next(micro_batches) for _ in range(accumulation)]
            # Terms of the whole batch, over all processes: a token counts the same wherever it is computed.
            terms = {kind: sum(batch[kind].terms() for batch in batches) for kind in batches[0]}
            totals = dict(zip(terms, team.sum(list(terms.values())), strict=True))

            optimizer.zero_grad(set_to_none=True)
            sums: dict[str, torch.Tensor] = {}
            for i, batch in enumerate(batches):
                last = i + 1 == accumulation  # gradients are exchanged once, with the last micro-batch
                with contextlib.nullcontext() if last or team.size == 1 else losses.no_sync():
                    with clock("forward"):
                        loss, parts = losses({kind: part.to(device) for kind, part in batch.items()}, totals)
                    with clock("backward"):
                        (loss * team.size).backward()  # DistributedDataParallel averages; these are to be added
                for name, value in {"loss": loss, **parts}.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
            *values, stops = team.sum([*torch.stack([*sums.values()]).tolist(), float(stop.asked)])
            record = dict(zip(sums, values, strict=True))
            with clock("optimizer"):
                grad_norm = torch.nn.utils.clip_grad_norm_([*trained.values()], 1.0).item()
                check_finite(step, record["loss"], grad_norm)
                learning_rate = recipe.learning_rate * schedule(step, recipe, args.decay)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                optimizer.step()
                if average:
                    average.update(step)

            state.step, state.seconds = step + 1, seconds_before + time.time() - began
            speed = (state.step - first) * recipe.batch / (time.time() - began)
            bar.set_postfix_str(f"loss {record['loss']:.4f}, {speed:.1f} samples/s, {memory_used(device):.1f} GB")
            bar.update()
            if args.profile:
                continue
            done, leaving = state.step == recipe.steps, stops > 0
            if validation and (done or state.step % validate_every == 0):
                with as_saved(average):
                    record |= keep_best(args, validation, checkpoint, source, recipe, state, originals, out)
            if log:
                looking = done or state.step % sample_every == 0
                if looking and args.stage in DRAWING:
                    with as_saved(average):
                        record |= heeding(checkpoint, source, recipe.size)
                log.add({"step": state.step, **record, "grad_norm": grad_norm, "lr": learning_rate}, state.seconds)
                if looking:
                    with as_saved(average):
                        show(args.stage, checkpoint, source, recipe.size, log.records, out)
            if done and args.stage == "vae" and args.train != "decoder" and team.is_main:  # which alone saves
                with as_saved(average):
                    measure_latents(checkpoint.vae, source, recipe, device)
            if done or leaving or state.step % args.save_every == 0:
                save(args, team, checkpoint, state, optimizer, trained, heads, originals, out, average)
            if leaving and not done:
                say(team, f"stopped after step {state.step} of {recipe.steps}, saved; go on with --resume")
                return 128 + stop.number
    if args.profile:
        say(team, profile_table(clock, recipe, model, args.stage, recipe.steps - first, team))
    else:
        say(team, f"wrote {out} after {state.seconds:.0f} s")
    return 0


# ---- what trains, and what stands still --------------------------------------------------------------------------


def prepare_model(
    args: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe, state: State, dtype: torch.dtype, team: Team
) -> UniX:
    """The model as this stage computes with it."""
    model = checkpoint.model
    model.compute_dtype = dtype
    model.checkpoint_activations = model.vit.checkpoint_activations = args.checkpoint_activations
    if args.stage in DRAWING:
        model.config.image_size = recipe.size
        if state.step == 0 and not any(entry["stage"] in DRAWING for entry in checkpoint.history):
            model.copy_und_to_gen(gen_source(args, model))
            say(team, f"gen branch: starts as a copy of the und branch{f' of {args.gen_from}' * bool(args.gen_from)}")
    if team.device.type == "cpu":
        cpu.speed_up(model, checkpoint.vae)
    if args.compile:
        model.pad_to = 32
        for block in [*model.layers, *model.vit.blocks]:
            block.compile()
    return model


def gen_source(args: argparse.Namespace, model: UniX) -> UniX | None:
    """The model that --gen-from names; None without it. Raises UserError if its layers are of other sizes."""
    if not args.gen_from:
        return None
    source = load_checkpoint(args.gen_from).model
    sizes = ("hidden_size", "intermediate_size", "num_layers", "num_heads")
    theirs, ours = ([getattr(each.config, name) for name in sizes] for each in (source, model))
    if theirs != ours:
        raise UserError(f"--gen-from {args.gen_from}: {', '.join(sizes)} are {theirs}, the model's are {ours}")
    return source


def what_trains(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    recipe: Recipe,
    source: Phantoms | Records,
    vocabulary: list[str],
    dtype: torch.dtype,
    team: Team,
) -> tuple[dict[str, nn.Parameter], nn.ModuleDict, FeatureCache]:
    """(name -> parameter that trains, the heads among them, what the frozen encoders give).

    Heads train with the stage and are dropped at its end.
    """
    model, vae, both = checkpoint.model, checkpoint.vae, args.train == "both"
    heads, repa_target = nn.ModuleDict(), None
    torch.manual_seed(args.seed)  # heads keep torch's own initialisation
    if args.stage == "vae":
        decoding = ("decoder.", "post_quant_conv.") if args.train == "decoder" else ""
        trained = {f"vae/{name}": parameter for name, parameter in vae.named_parameters() if name.startswith(decoding)}
    elif args.stage == "vit":
        trained = {f"model/vit.{name}": parameter for name, parameter in model.vit.named_parameters()}
        heads["phrases"] = nn.Linear(2 * model.config.vit.width, len(vocabulary))
    elif args.stage == "1":
        trained = {f"model/{name}": parameter for name, parameter in model.und_parameters()}
    else:
        named = model.named_parameters() if both else model.gen_parameters()
        trained = {f"model/{name}": parameter for name, parameter in named}
        if recipe.repa_weight:
            repa_target, target_width = load_repa_target(args, model, dtype, team)
            width = model.config.hidden_size
            heads["repa"] = RepaProjector(width, target_width, hidden=min(2048, 2 * width))
    heads.to(team.device)
    trained |= {f"heads/{name}": parameter for name, parameter in heads.named_parameters()}

    def frozen_encoders(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = vae.posterior(vae.preprocess(images).to(dtype))
        if repa_target is not None:
            encoded += (repa_target(images),)
        return tuple(value.to(dtype) for value in encoded)

    return trained, heads, FeatureCache(frozen_encoders, len(source))


def phrases_of(args: argparse.Namespace, source: Phantoms | Records) -> list[str]:
    """What the ViT learns to see: what at least one in 500 phantoms shares. Of real films one in 200: a rarer phrase
    would be learnt by heart, not seen."""
    found = [visible(source, i) for i in range(min(len(source), 5000))]
    vocabulary = common_targets(found, least=max(2, len(found) // (200 if isinstance(source, Records) else 500)))
    if not vocabulary:
        raise UserError(
            f"--data {args.data}: its reports say all the same, or each something else; stage vit needs what some films"
            " share and others lack: give more examples"
        )
    return vocabulary


def load_repa_target(
    args: argparse.Namespace, model: UniX, dtype: torch.dtype, team: Team
) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """(uint8 images (B, S, S) -> patch features on the latents' grid (B, (S / 16)^2, width), that width).

    RadDino as in the paper; without --repa the model's own ViT.
    """
    if args.repa:
        say(team, "REPA's target: RadDino")
        raddino = load_raddino(args.repa, team.device)
        return lambda images: raddino(images, side=images.shape[-1] // 16)[1], raddino.vit.config.width
    say(team, "REPA's target: the ViT of stage 1")
    # A target that stands still, also where --train both moves the ViT.
    vit = copy.deepcopy(model.vit) if args.train == "both" else model.vit
    return lambda images: vit(vit.preprocess(images).to(dtype)), vit.config.width


@torch.no_grad()
def freeze(modules: list[nn.Module], trained: dict[str, nn.Parameter], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """No gradient for what does not train, so that "frozen" is bit for bit; and it is kept in `dtype`, as it computes.

    Returns what the model's frozen parameters were, on the CPU, if that lost anything: it is what is saved.
    """
    originals, training = {}, {id(parameter) for parameter in trained.values()}
    for module in modules:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(id(parameter) in training)
            if not parameter.requires_grad and parameter.dtype != dtype and isinstance(module, UniX):
                originals[name] = parameter.detach().cpu()
                parameter.data = parameter.to(dtype)
    return originals


def build_optimizer(args: argparse.Namespace, trained: dict[str, nn.Parameter], team: Team) -> torch.optim.Optimizer:
    """AdamW with Table 1's numbers; the loop sets its learning rate."""
    adamw = {"lr": 0.0, "betas": (0.9, 0.95), "eps": 1e-15, "weight_decay": 0.0}
    if args.zero and team.size > 1:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # its import warns, so only if it is wanted

        return ZeroRedundancyOptimizer([*trained.values()], optimizer_class=torch.optim.AdamW, **adamw)
    return torch.optim.AdamW([*trained.values()], fused=team.device.type == "cuda", **adamw)


def as_saved(average: MovingAverage | None) -> contextlib.AbstractContextManager:
    """Within, the model is what a checkpoint holds: the average, if there is one."""
    return average.in_place() if average else contextlib.nullcontext()


def check_finite(step: int, loss: float, grad_norm: float) -> None:
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        raise UserError(
            f"step {step + 1}: the loss is {loss}, its gradient {grad_norm}; the last checkpoint is untouched: start"
            " from it with --init and a smaller --lr"
        )


# ---- the data ----------------------------------------------------------------------------------------------------


def data_source(args: argparse.Namespace, recipe: Recipe) -> Phantoms | Records:
    if not arguments.names_phantoms(args.data):
        source = open_source(args.data, split="train", cache=args.cache, require=args.require)
        # The autoencoder trains on crops at full detail; the others see the whole picture at `size`.
        source.size = None if args.stage == "vae" else recipe.size
        return source
    return named(args.data, 20_000, max(256, recipe.size), cache=args.cache)


def parse_mix(args: argparse.Namespace) -> tuple[int, int]:
    """--mix as two numbers."""
    und, _, gen = args.mix.partition(":")
    stages = {"both": DRAWING, "decoder": ("vae",), "gen": PREVIOUS}[args.train]
    if args.stage not in stages:
        raise UserError(f"--train {args.train}: only for stage {' and '.join(stages)}")
    if args.stage not in ("1", *DRAWING) and args.mix != "0:1":
        raise UserError(f"--mix {args.mix}: only for stages 1, 2 and 3")
    if int(und) and args.stage in DRAWING and args.train == "gen":
        raise UserError(f"--mix {args.mix}: reading teaches the und branch, which stands still; add --train both")
    return int(und), int(gen)


def divide_batch(args: argparse.Namespace, recipe: Recipe, team: Team) -> tuple[int, int]:
    """(examples at a time, how often before a step): the most that --micro-batch allows and that comes out even."""
    together = sum(parse_mix(args))  # examples of a mix stay in one micro-batch
    each, rest = divmod(recipe.batch, team.size)
    sizes = [m for m in range(1, min(each, recipe.micro_batch) + 1) if each % m == 0 and m % together == 0]
    if rest or not sizes:
        raise UserError(
            f"--batch {recipe.batch}: cannot be shared by {team.size} processes in micro-batches of up to"
            f" {recipe.micro_batch}" + (f" that are multiples of {together} (--mix {args.mix})" if together > 1 else "")
        )
    return sizes[-1], each // sizes[-1]


def make_examples(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    recipe: Recipe,
    source: Phantoms | Records,
    vocabulary: list[str],
    seed: int,
    **more: object,
) -> data.Examples:
    return data.Examples(
        source,
        args.stage,
        recipe.size,
        seed,
        checkpoint.encode,
        checkpoint.model.config,
        checkpoint.vae.config.downsampling,
        recipe.batch,
        vocabulary,
        mix=parse_mix(args),
        observations=args.observations,
        **more,
    )


def say_what_is_cut(team: Team, args: argparse.Namespace, checkpoint: Checkpoint, source: Phantoms | Records) -> None:
    """Reports that the context does not hold are cut, never in silence. Phantoms' all fit."""
    if args.stage in ("vae", "vit") or not isinstance(source, Records) or not team.is_main:
        return
    context = checkpoint.model.config.context_length
    beside = 2 + (len(checkpoint.encode(DEFAULT_QUESTION)) + 2 if args.stage == "1" else 0)
    if cut := data.count_cut(source, checkpoint.encode, context - beside):
        say(team, f"{cut} of {len(source):,} reports are longer than the {context} tokens of the context, and are cut")


def load_batches(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    recipe: Recipe,
    source: Phantoms | Records,
    vocabulary: list[str],
    micro_batch: int,
    first_step: int,
    team: Team,
) -> Generator[dict[str, Batch], None, None]:
    """This process's micro-batches from `first_step` on: kind of example -> its batch."""
    real = isinstance(source, Records)
    repeats = data.repeat_factors(source, recipe.balance) if real and recipe.balance > 1 else None
    varied = {"augmented": recipe.augment and real, "repeats": repeats}
    examples = make_examples(args, checkpoint, recipe, source, vocabulary, args.seed, **varied)
    workers = default_workers() if args.workers is None else args.workers
    share = data.Share(recipe.batch, micro_batch, team.rank, team.size, first_step, recipe.steps, examples.by_length)
    return data.batches(examples, share, workers, pin=team.device.type == "cuda")


# ---- what a run shows --------------------------------------------------------------------------------------------


def say(team: Team, text: str) -> None:
    if team.is_main:
        print(text, flush=True)


def profile_table(clock: Clock, recipe: Recipe, model: UniX, stage: str, steps: int, team: Team) -> str:
    """Where a step's time goes, and how much of the hardware's arithmetic it uses (a prompt of 32 tokens, an answer of
    96)."""
    flops = cost.step_flops(model.config, stage, recipe.size, 32, 96, recipe.batch)
    rate = flops * steps / sum(clock.seconds.values())
    peak = cost.peak_flops(team.device)
    share = f", {100 * rate / (peak * team.size):.1f} % of the peak" if peak else ""
    return f"{clock.table(steps)}\n{flops / 1e12:.3f} TFLOP a step, {rate / 1e12:.3f} TFLOP/s{share}"


@torch.no_grad()
def measure_latents(vae: VAE, source: Phantoms | Records, recipe: Recipe, device: torch.device) -> None:
    """Set scale and shift so that normalised latents have mean 0 and variance 1, from 256 training images."""
    images = torch.from_numpy(np.stack(squares(source, 256, recipe.size)[1]))
    latents = torch.cat([vae.posterior(vae.preprocess(part.to(device)))[0] for part in images.split(32)])
    vae.config.shift_factor, vae.config.scale_factor = latents.mean().item(), 1 / latents.std().item()
    print(f"latents: shift {vae.config.shift_factor:.4f}, scale {vae.config.scale_factor:.4f}")


# ---- starting, checking, saving ----------------------------------------------------------------------------------


def start_from(args: argparse.Namespace, team: Team, resumed: Path | None) -> tuple[Checkpoint, str]:
    """The weights a stage starts from (said aloud), and the preset whose recipe fits their size."""
    if args.init == "scratch" and not resumed:
        return from_scratch(args, team), args.preset or "tiny"
    previous = Path(f"out/stage-{PREVIOUS[args.stage]}")
    folder = Path(args.init) if args.init else previous if find_checkpoint(previous) else SHIPPED
    checkpoint = load_checkpoint(resumed or folder, team.device)
    if resumed:
        checkpoint.history.pop()  # this run's own entry, written anew with every save
    say(team, f"going on with {resumed}" if resumed else f"starting from {folder}")
    return checkpoint, checkpoint.model.config.recipe


def from_scratch(args: argparse.Namespace, team: Team) -> Checkpoint:
    """A fresh model of --preset, and a tokenizer trained on the reports it will learn from.

    Raises UserError if the text does not yield as many pieces as were asked for.
    """
    name, drawn = args.preset or "tiny", arguments.names_phantoms(args.data)
    if drawn:
        phantoms = Phantoms(5000)
        reports, whose = [phantoms.text(i)[0] for i in range(5000)], "5,000 drawn reports"
    else:
        source = open_source(args.data, split="train", cache=args.cache, require=args.require)
        reports = list(dict.fromkeys(source.text(i)[0] for i in range(len(source))))  # some are of several films
        whose = f"the {len(reports):,} different reports of {args.data}"
    say(team, f"starting from scratch: a fresh {name} model, and a tokenizer trained on {whose}")
    pieces = args.vocab or preset(name).vocab_size
    tokenizer = train_tokenizer([*reports, DEFAULT_QUESTION, SHORT_QUESTION], pieces)
    # Drawn reports have few words and yield fewer pieces than tiny has room for; the ids above them stay unused.
    if (found := tokenizer.get_vocab_size()) < pieces and (args.vocab or not drawn):
        asked = f"--vocab {pieces}" if args.vocab else f"--preset {name}"
        raise UserError(f"{asked}: {pieces:,} pieces are asked for, {whose} yield {found:,}; give --vocab {found}")
    config = replace(preset(name), vocab_size=pieces, bos=0, eos=1, boi=2, eoi=3)  # ids of train_tokenizer
    torch.manual_seed(args.seed)  # the autoencoder keeps torch's own initialisation
    vae, model = VAE(vae_preset(name)), UniX(config)
    init_weights(model, torch.Generator().manual_seed(args.seed))
    return Checkpoint(model.to(team.device), vae.to(team.device), tokenizer)


def choose_recipe(args: argparse.Namespace, preset_name: str, model: UniX, earlier: State | None) -> Recipe:
    """The preset's recipe, then what the run in --out was started with, then what the flags ask for."""
    recipe = RECIPES[preset_name][args.stage]
    if args.stage in ("vit", "1"):
        recipe = replace(recipe, size=model.config.vit.image_size)
    if earlier:  # what is not asked for again stays as it was
        recipe = replace(recipe, **earlier.settings["recipe"])
    asked = {"learning_rate": args.lr, "size": args.size, "batch": args.batch, "steps": args.steps}
    asked |= {"micro_batch": args.micro_batch, "augment": args.augment, "balance": args.balance}
    asked |= {"repa_weight": args.repa_weight, "time_shift": args.time_shift}
    recipe = replace(recipe, **{name: value for name, value in asked.items() if value is not None})
    check(args, recipe, model)
    return recipe


def begin(args: argparse.Namespace, recipe: Recipe, out: Path, earlier: State | None) -> State:
    """The state of a run that starts, or that goes on; its folder is made."""
    settings = {"stage": args.stage, "recipe": asdict(recipe), "seed": args.seed, "data": args.data}
    settings |= {
        "decay": args.decay,
        "ema": args.ema,
        "train": args.train,
        "mix": args.mix,
        "repa": args.repa and str(args.repa),
        "validate": args.validate,
        "validate_every": args.validate_every,
        "gen_from": args.gen_from and str(args.gen_from),
        "require": args.require,
        "observations": args.observations,
    }
    if earlier:
        check_same_run(out, earlier.settings, settings)
    elif not args.profile:
        check_no_run_is_lost(out)
        own_folder(out)
    if not args.profile:
        (out / "samples").mkdir(exist_ok=True)
    return replace(earlier or State(), settings=settings)


def check(args: argparse.Namespace, recipe: Recipe, model: UniX) -> None:
    if recipe.size % 16 or recipe.size > 16 * model.config.max_latent_size:
        raise UserError(f"--size {recipe.size}: must be a multiple of 16 up to {16 * model.config.max_latent_size}")
    if args.stage in ("vit", "1") and recipe.size != model.config.vit.image_size:
        raise UserError(f"--size {recipe.size}: this model's ViT sees {model.config.vit.image_size} px; leave it out")


def save(
    args: argparse.Namespace,
    team: Team,
    checkpoint: Checkpoint,
    state: State,
    optimizer: torch.optim.Optimizer,
    trained: dict[str, nn.Parameter],
    heads: nn.Module,
    originals: dict[str, torch.Tensor],
    out: Path,
    average: MovingAverage | None,
) -> None:
    """The whole model and the state of the run into OUT/checkpoint, which serves as `--weights` and `--init` too.

    With --ema the model that is written holds the average; the weights that train on are part of the run's state.
    """
    if args.zero and team.size > 1:
        optimizer.consolidate_state_dict(to=0)
    if not team.is_main:
        return
    whole = replace(checkpoint, history=[*checkpoint.history, history_entry(args, state)])
    with as_saved(average):
        save_checkpoint(
            out / CHECKPOINT,
            whole,
            instead=originals,
            more=lambda folder: write_state(folder, state, optimizer, trained, heads, average),
            keep_last=True,
            mark=state.mark,
        )


def history_entry(args: argparse.Namespace, state: State) -> dict:
    """What a checkpoint says of the stage that made it."""
    recipe = state.settings["recipe"]
    entry = {"stage": args.stage, "steps": state.step, "batch": recipe["batch"], "size": recipe["size"]}
    entry |= {"seed": args.seed, "learning_rate": recipe["learning_rate"], "decay": args.decay, "ema": args.ema}
    entry |= {"seconds": round(state.seconds), "data": args.data, "dtype": args.dtype, "torch": torch.__version__}
    if args.stage in DRAWING:
        entry |= {"repa_weight": recipe["repa_weight"], "time_shift": recipe["time_shift"]}
    unusual = {"mix": (args.mix, "0:1"), "observations": (args.observations, None), "balance": (recipe["balance"], 1.0)}
    return entry | {name: value for name, (value, usual) in unusual.items() if value != usual}


def keep_best(
    args: argparse.Namespace,
    validation: Validation,
    checkpoint: Checkpoint,
    source: Phantoms | Records,
    recipe: Recipe,
    state: State,
    originals: dict[str, torch.Tensor],
    out: Path,
) -> dict[str, float]:
    """What `validation` measures. The weights of the lowest loss go into OUT/checkpoint.best: for --weights and --init,
    not to go on training with."""
    found = validation.measure()
    best = state.best is None or found["validate_loss"] < state.best
    if best:
        state.best = found["validate_loss"]
        if args.stage == "vae" and args.train != "decoder":  # it may be the last one to be kept
            measure_latents(checkpoint.vae, source, recipe, validation.device)
        entry = history_entry(args, state) | found
        whole = replace(checkpoint, history=[*checkpoint.history, entry])
        save_checkpoint(out / BEST, whole, instead=originals, mark=state.mark)
    words = ", ".join(f"{name.removeprefix('validate_')} {value:.4f}" for name, value in found.items())
    tqdm.write(f"step {state.step}, validation: {words}{' (the best so far)' * best}")
    return found


# ---- the command -------------------------------------------------------------------------------------------------


def start(word: str) -> str:
    """--init: a weights folder, or 'scratch'."""
    return word if word == "scratch" else str(arguments.weights_folder(word))


def mix(word: str) -> str:
    """--mix: OTHER:OWN, not yet split, for that is how a run's settings keep it."""
    und, _, gen = word.partition(":")
    try:
        arguments.whole(0, arguments.MOST_BATCH)(und), arguments.batch(gen)
    except UserError as error:
        raise UserError(
            f"{arguments.shown(word)}: give OTHER:OWN in whole numbers, for example 1:2; OWN at least 1"
        ) from error
    return word


def parse_args() -> argparse.Namespace:
    parser = arguments.Parser(
        description="Train one stage of UniX. Without --init it starts from the previous stage's output (out/stage-X)"
        " if that is there, else from the shipped weights, and says which.",
        epilog="Stages: vae (autoencoder), vit (the eye, in place of SigLIP's pretraining), 1 (reading: ViT, connector,"
        " und branch), 2 (drawing at low resolution with REPA), 3 (drawing at high resolution). 2 and 3 leave the und"
        " branch bit for bit as it was. Under torchrun every process takes its share of each batch.",
    )
    parser.add_argument("--stage", required=True, choices=list(PREVIOUS))
    add = parser.add_argument_group("what to train").add_argument
    add("--init", type=start, help="weights folder to start from, or 'scratch' for a fresh model")
    add("--preset", choices=PRESETS, help="size of a fresh model (default tiny); weights bring their own")
    pieces = "pieces of a fresh model's tokenizer, which is trained on the reports of --data; default: the preset's"
    add("--vocab", type=arguments.whole(LEAST_PIECES, 200_000), metavar="N", help=pieces)
    add(
        "--data",
        type=arguments.data_set,
        default="phantom",
        help="phantom[:COUNT[:even]] (default: 20,000 drawn X-rays; even: rare findings oftener), or a data set: see"
        " python data.py --help",
    )
    repa = "RadDino, stage 2's target; default: the model's own ViT"
    add("--repa", type=arguments.weights_folder, metavar="FOLDER", help=repa)
    repa_weight = "of REPA in stage 2's loss; 0: without REPA; default: the recipe's, 0.5"
    add("--repa-weight", type=arguments.number(0, 100), metavar="WEIGHT", help=repa_weight)
    gen_from = "stage 2: whose und branch the gen branch starts from, such as Janus-Pro's; default: the model's own"
    add("--gen-from", type=arguments.weights_folder, metavar="FOLDER", help=gen_from)
    add("--require", choices=["findings"], help="leave out reports without this section, as UniX's own data does")
    add(
        "--train",
        choices=["gen", "both", "decoder"],
        default="gen",
        help="both: stages 2 and 3 also train the und branch (the ablation); decoder: stage vae trains the decoder"
        " alone, so that a gen branch trained on these latents still fits",
    )
    examples = "examples of another kind to the stage's own: in stage 1 impressions alone to reading, in stages 2 and 3"
    examples += " with --train both reading to drawing"
    add("--mix", type=mix, default="0:1", metavar="OTHER:OWN", help=examples)
    observations = "stage 1, the names of what a report affirms, by the labeler; only: ask for them alone; first: a"
    observations += " report begins with them, and a step in three asks for them alone"
    add("--observations", choices=["only", "first"], help=observations)
    add("--seed", type=arguments.seed, default=0)
    add = parser.add_argument_group("the recipe (default: Table 1's, or the tiny model's)").add_argument
    add("--steps", type=arguments.steps, help="optimizer steps")
    add("--batch", type=arguments.batch, help="examples a step, over all processes")
    add("--lr", type=arguments.number(0, 10, above=True), help="learning rate")
    add("--size", type=arguments.size, help="image side in px")
    shift = "stages 2 and 3, above 1: train more on noisy times, where a drawing is laid out (default: the paper's 1)"
    add("--time-shift", type=arguments.number(0, 100, above=True), metavar="SHIFT", help=shift)
    varied = "vary real films that are read (a little rotation, shift, scale, exposure); default: the recipe of small"
    add("--augment", action=argparse.BooleanOptionalAction, help=varied)
    balance = (
        "real films of rare observations come up to MOST times as often, so that all are alike common (default 1: not)"
    )
    add("--balance", type=arguments.number(1, 1000), metavar="MOST", help=balance)
    add(
        "--decay",
        type=arguments.number(0, 1),
        default=0.0,
        help="last fraction of the steps over which the learning rate falls to 0; default 0: constant, as in the paper",
    )
    add(
        "--ema",
        type=arguments.number(0, 0.999999),
        default=0.0,
        metavar="DECAY",
        help="save an average of the weights, of which a step keeps DECAY (BAGEL: 0.9999); default 0: the last weights",
    )
    add = parser.add_argument_group("the machine").add_argument
    add("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one")
    add(
        "--dtype",
        choices=arguments.DTYPES,
        help="compute dtype (what trains stays float32); default: bfloat16 on cuda, float32 on cpu; fast: bfloat16"
        " also on a cpu that multiplies it fast",
    )
    micro_batch = "examples at a time on one process; --batch is reached by accumulation"
    add("--micro-batch", type=arguments.batch, help=micro_batch)
    add("--checkpoint-activations", action="store_true", help="less memory, a third more work: compute them twice")
    add("--zero", action="store_true", help="shard the optimizer's state over the processes (ZeRO stage 1)")
    add("--compile", action="store_true", help="torch.compile the layers: a minute first, then faster")
    workers = "data loading processes of each process; default: one a core, at most 8"
    add("--workers", type=arguments.workers, help=workers)
    add("--profile", action="store_true", help="time the parts of a step, print the table, write nothing")
    add = parser.add_argument_group("the run").add_argument
    add("--out", type=arguments.output_folder, help="folder of the run; default out/stage-STAGE")
    add("--resume", action="store_true", help="go on with the run in --out, from its last checkpoint")
    add("--save-every", type=arguments.steps, default=500, help="steps between checkpoints (default 500)")
    sample_every = "steps between sample pictures; default: a tenth of the run, at least 50"
    add("--sample-every", type=arguments.steps, help=sample_every)
    validate = "phantom[:COUNT] or a set with a validation split: log its loss, keep the best as OUT/checkpoint.best"
    add("--validate", type=arguments.data_set, metavar="SRC", help=validate)
    validate_every = "steps between; default: a twentieth of the run, at least 10"
    add("--validate-every", type=arguments.steps, metavar="N", help=validate_every)
    add("--tensorboard", action="store_true", help="also log to OUT/tensorboard (needs the package tensorboard)")
    add("--cache", type=arguments.output_folder, default="out/cache", help="where drawn X-rays are kept")
    args = parser.parse_args()
    parse_mix(args)
    if args.augment and (args.stage not in data.READING or arguments.names_phantoms(args.data)):
        raise UserError("--augment: only for real films, in stages vit and 1; leave it out")
    if args.balance and arguments.names_phantoms(args.data):
        raise UserError("--balance: only for real films; phantoms come evened out by --data phantom:COUNT:even")
    for flag in ("preset", "vocab"):
        if getattr(args, flag) and args.init != "scratch":
            raise UserError(f"--{flag} {getattr(args, flag)}: only with --init scratch; weights bring their own sizes")
    if args.validate_every and not args.validate:
        raise UserError(f"--validate-every {args.validate_every}: validate on what? add --validate SRC")
    if args.repa and args.stage != "2":
        raise UserError(f"--repa {args.repa}: only stage 2 trains with REPA")
    if args.repa_weight is not None and args.stage != "2":
        raise UserError(f"--repa-weight {args.repa_weight:g}: only stage 2 trains with REPA")
    if args.time_shift is not None and args.stage not in DRAWING:
        raise UserError(f"--time-shift {args.time_shift:g}: only stages 2 and 3 train on noise; leave it out")
    if args.repa and args.repa_weight == 0:
        raise UserError(f"--repa {args.repa}: --repa-weight 0 trains without REPA; leave one of them out")
    if args.gen_from and args.stage != "2":
        raise UserError(f"--gen-from {args.gen_from}: only stage 2 starts a gen branch")
    if args.observations and args.stage != "1":
        raise UserError(f"--observations {args.observations}: only stage 1 writes reports; leave it out")
    if args.require and arguments.names_phantoms(args.data):
        raise UserError(f"--require {args.require}: every phantom has it; leave it out")
    return args


def main() -> None:
    args = parse_args()
    args.out = args.out or Path(f"out/stage-{args.stage}")
    lock = contextlib.nullcontext() if args.profile else lock_folder(args.out)
    with joined_team(pick_device(args.device)) as team, lock:
        code = train(args, team)
    sys.exit(code)


if __name__ == "__main__":
    run(main)
