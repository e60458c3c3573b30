"""Train UniX: the autoencoder, then the paper's three stages (section 3.4, Table 1).

python train.py --stage 1 --steps 20                       a few steps of the tiny model on rendered X-rays
torchrun --nproc_per_node=8 train.py --stage 3             on eight GPUs (or eight processes of a CPU)
python train.py --stage 3 --resume                         go on with a run, on any number of processes
bash runs/tiny.sh                                          all stages: how the shipped weights were made

The recipes, the loop, what trains. What surrounds them is in training/: flags.py, setup.py (weights to start from),
batches.py (examples), run.py (what follows a step), state.py (what a run goes on with).
"""

from common.errors import UserError
from common.errors import run as run_command
from training.flags import parse_args

if __name__ == "__main__":  # before torch is imported, which takes seconds: --help and a typing error do not wait
    run_command(parse_args, last=False)

import argparse
import contextlib
import sys
from collections.abc import Generator
from dataclasses import asdict, replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import data
import lora
from common.clock import Clock
from common.devices import dtype_name, pick_device, pick_dtype
from common.distributed import Team, joined_team
from common.ownership import lock_folder
from losses import Batch, RepaProjector
from model import UniX, UniXConfig
from speed import cost
from speed.feature_cache import FeatureCache
from training import batches, setup
from training.average import MovingAverage
from training.discriminator import PatchDiscriminator
from training.muon import Muon, matrices_of_layers
from training.pretraining import EveryStageLoss
from training.recipe import DRAWING, FILMS, Recipe, check_recipe, check_same
from training.reflow import walks_of
from training.run import Run, check_finite
from training.state import State, Trained, begin, read_state, restore
from training.validation import Validation
from weights import Checkpoint

# ---- the recipe: Table 1 -----------------------------------------------------------------------------------------

EVEN = "phantom:16000:even"  # rare findings more often than a patient has them
MUON = {"optimizer": "muon", "micro_batch": 32}
# Learning rate, size, batch, warm-up, steps; then what differs from Recipe's defaults. The paper trains neither
# autoencoder nor ViT from nothing (it takes kl-f16 and SigLIP): "vae" and "vit" are ours.
RECIPES = {
    "unix": {
        "vae": Recipe(1e-4, 256, 64, 1000, 100_000),
        "vit": Recipe(1e-4, 384, 256, 1000, 100_000),
        "1": Recipe(1e-4, 384, 256, 80, 3_840),
        "2": Recipe(2e-4, 256, 256, 2_000, 75_000, repa_weight=0.5, micro_batch=32),
        "3": Recipe(1e-4, 512, 256, 0, 5_000),
        "reflow": Recipe(1e-4, 512, 64, 100, 5_000, lora=16),
    },
    # Beyond the paper: runs/tiny.sh, docs/speedrun.md. In stage 1, mix 1:3 is one text alone for every three films.
    "tiny": {
        "vae": Recipe(3e-3, 128, 4, 50, 10_000, EVEN, decay=0.4, ema=0.998, **MUON),
        "vit": Recipe(3e-3, 128, 32, 100, 4_375, EVEN, decay=0.4, **MUON),
        "1": Recipe(3e-3, 128, 32, 80, 1_438, EVEN, mix="1:3", decay=0.5, ema=0.99, **MUON),
        "2": Recipe(3e-3, 128, 32, 100, 2_500, EVEN, repa_weight=0.5, ema=0.999, **MUON),
        "3": Recipe(3e-3, 256, 16, 100, 3_750, EVEN, time_shift=2.0, decay=0.8, ema=0.998, **MUON),
        "reflow": Recipe(2e-3, 256, 16, 50, 1_250, "phantom:2000:even", decay=0.5, lora=16, micro_batch=16),
    },
    # For some thousand real films. Reports are uneven, so stage 1 is cut into small micro-batches of like length.
    "small": {
        "vae": Recipe(1e-3, 128, 8, 50, 12_000, micro_batch=32),
        "vit": Recipe(5e-4, 224, 32, 100, 3_000, micro_batch=32, augment=True),
        "1": Recipe(5e-4, 224, 32, 100, 2_000, augment=True),
        "2": Recipe(1e-3, 128, 32, 100, 6_000, repa_weight=0.5, micro_batch=32),
        "3": Recipe(8e-4, 256, 16, 0, 3_000, micro_batch=16),
        "reflow": Recipe(1e-3, 256, 16, 100, 3_000, lora=16, micro_batch=16),
    },
}


def schedule(step: int, recipe: Recipe) -> float:
    """The learning rate's factor: linear warm-up, then constant; with `decay`, linearly to 0 at the end."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    left = (recipe.steps - step) / max(1.0, recipe.decay * recipe.steps)
    return warm * min(1.0, left) if recipe.decay else warm


def choose_recipe(stage: str, asked: dict[str, object], config: UniXConfig, earlier: State | None) -> Recipe:
    """That of the run that goes on, else the one for a model of this size; and what the flags ask for."""
    seen, most = config.vit.image_size, 16 * config.max_latent_size
    recipe = RECIPES[config.recipe][stage]
    recipe = replace(recipe, size={"vit": seen, "1": seen, "reflow": config.image_size}.get(stage, recipe.size))
    if earlier:
        recipe = Recipe(**earlier.recipe)
        check_same(recipe, asked, earlier.folder.parent)
    recipe = replace(recipe, **asked)
    check_recipe(recipe, stage, asked)
    if stage in FILMS and recipe.size != seen:
        raise UserError(f"--size {recipe.size}: this model's ViT sees {seen} px; leave it out")
    if recipe.size > most:
        raise UserError(f"--size {recipe.size}: this model has positions for {most} px at most")
    return recipe


# ---- the loop ----------------------------------------------------------------------------------------------------


def train(
    losses: nn.Module, micro_batches: Generator[dict[str, Batch], None, None], accumulation: int, run: Run, clock: Clock
) -> None:
    """From the step where the run stands to its recipe's last one. losses: `EveryStageLoss`, alone or distributed."""
    recipe, trained, team = run.recipe, run.trained, run.team
    for step in range(run.state.step, recipe.steps):
        with clock("data"):
            batches = [next(micro_batches) for _ in range(accumulation)]
        # Terms of the whole batch, over all processes: a token counts the same wherever it is computed.
        totals = team.total({kind: sum(batch[kind].terms() for batch in batches) for kind in batches[0]})

        trained.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        for i, batch in enumerate(batches):
            last = i + 1 == accumulation  # gradients are exchanged once, with the last micro-batch
            with contextlib.nullcontext() if last or team.size == 1 else losses.no_sync():
                with clock("forward"):
                    loss, parts = losses({kind: part.to(team.device) for kind, part in batch.items()}, totals)
                with clock("backward"):
                    (loss * team.size).backward()  # DistributedDataParallel averages; these are to be added
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        record = team.total(dict(zip(sums, torch.stack([*sums.values()]).tolist(), strict=True)))

        with clock("optimizer"):
            grad_norm = torch.nn.utils.clip_grad_norm_([*trained.parameters.values()], 1.0).item()
            check_finite(step, record["loss"], grad_norm)
            learning_rate = recipe.learning_rate * schedule(step, recipe)
            for group in trained.optimizer.param_groups:
                group["lr"] = learning_rate
            trained.optimizer.step()
            if trained.average:
                trained.average.update(step)
        if run.after({**record, "grad_norm": grad_norm, "lr": learning_rate}):
            return


# ---- what trains, and what stands still --------------------------------------------------------------------------


def what_trains(
    stage: str, recipe: Recipe, checkpoint: Checkpoint, phrases: int, repa_width: int
) -> tuple[dict[str, nn.Parameter], nn.ModuleDict]:
    """(name -> parameter that trains, the heads among them). Heads train with the stage and are dropped at its end.

    phrases: how many stage vit asks for. repa_width: of REPA's target.
    """
    model, vae, heads = checkpoint.model, checkpoint.vae, nn.ModuleDict()
    torch.manual_seed(recipe.seed)  # heads keep torch's own initialisation
    if stage == "vae":
        decoding = ("decoder.", "post_quant_conv.") if recipe.train == "decoder" else ""
        trained = {f"vae/{name}": parameter for name, parameter in vae.named_parameters() if name.startswith(decoding)}
        if recipe.adversarial:
            heads["discriminator"] = PatchDiscriminator()
    elif stage == "vit":
        trained = {f"model/vit.{name}": parameter for name, parameter in model.vit.named_parameters()}
        heads["phrases"] = nn.Linear(2 * model.config.vit.width, phrases)
    elif model.adapter:
        trained = {f"model/{name}": parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    elif stage == "1":
        trained = {f"model/{name}": parameter for name, parameter in model.und_parameters()}
    else:
        named = model.named_parameters() if recipe.train == "both" else model.gen_parameters()
        trained = {f"model/{name}": parameter for name, parameter in named}
    if recipe.repa_weight:
        heads["repa"] = RepaProjector(width := model.config.hidden_size, repa_width, hidden=min(2048, 2 * width))
    heads.to(model.vae2llm.weight.device)
    return trained | {f"heads/{name}": parameter for name, parameter in heads.named_parameters()}, heads


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
                original, parameter.data = parameter.data, parameter.to(dtype)
                if not torch.equal(parameter.to(original.dtype), original):
                    originals[name] = original.cpu()
    return originals


def build_optimizer(
    trained: dict[str, nn.Parameter], recipe: Recipe, shard: bool, dtype: torch.dtype, team: Team
) -> torch.optim.Optimizer:
    """AdamW with Table 1's numbers, or Muon; the loop sets the learning rate."""
    adamw = {"lr": 0.0, "betas": (0.9, 0.95), "eps": 1e-15, "weight_decay": 0.0}
    if recipe.optimizer == "muon":
        if shard:
            raise UserError("--less-memory optimizer: shares AdamW's state; add --optimizer adamw, or leave it out")
        return Muon([*trained.values()], matrices_of_layers(trained), dtype, team, **adamw)
    if shard:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # its import warns, so only if it is wanted

        return ZeroRedundancyOptimizer([*trained.values()], optimizer_class=torch.optim.AdamW, **adamw)
    return torch.optim.AdamW([*trained.values()], fused=team.device.type == "cuda", **adamw)


# ---- the command -------------------------------------------------------------------------------------------------


def train_stage(args: argparse.Namespace, team: Team) -> int:
    """Set a stage up and train it. The exit code: 0, or 128 and the signal that stopped the run."""
    stage, out = args.stage, args.out
    init = f"scratch:{args.init}" if isinstance(args.init, str) else args.init and str(args.init.resolve())
    earlier = read_state(out, stage) if args.resume else None
    if earlier:
        earlier.check_start(out, init=init, dtype=None if args.dtype == "fast" else args.dtype)
    dtype = team.agreed(pick_dtype(earlier.start.get("dtype", args.dtype) if earlier else args.dtype, team.device))
    if args.resume and not earlier:
        team.say(f"--resume: nothing was saved in {out} yet; starting anew")
    checkpoint = setup.start_from(stage, args.init, args.asked, earlier, team)
    model, vae = checkpoint.model, checkpoint.vae
    recipe = choose_recipe(stage, args.asked, model.config, earlier)
    micro_batch, accumulation = batches.divide(recipe, team.size)
    source = batches.open_data(recipe.data, "train", stage, recipe.size, args.cache)
    phrases = batches.phrases_of(source) if stage == "vit" else []
    if recipe.validate:
        held_out = batches.open_data(recipe.validate, "validate", stage, recipe.size, args.cache)
    state = earlier or begin(out, stage, recipe, checkpoint.history, writes=not args.profile)
    state.recipe, state.start = asdict(recipe), state.start or {"init": init, "dtype": dtype_name(dtype)}

    # What trains, and on what.
    if stage in DRAWING:
        model.config.image_size = recipe.size
    if recipe.lora or model.adapter:
        torch.manual_seed(recipe.seed)
        lora.have_on(model, "und" if stage == "1" else "gen", recipe.lora)
    setup.prepare(checkpoint, dtype, args.less_memory in ("activations", "both"), args.compile)
    encode, width = setup.frozen_encoders(checkpoint, recipe, dtype, team)
    parameters, heads = what_trains(stage, recipe, checkpoint, len(phrases), width)
    originals = freeze([model, vae], parameters, dtype)
    shard = args.less_memory in ("optimizer", "both")
    optimizer = build_optimizer(parameters, recipe, shard and team.size > 1, dtype, team)
    average = MovingAverage(parameters, recipe.ema) if recipe.ema else None
    trained = Trained(checkpoint, originals, parameters, heads, optimizer, average)
    if state.step:
        restore(state, trained)
    features, both = FeatureCache(encode, len(source)), recipe.train == "both"
    more = {"time_shift": recipe.time_shift, "adversarial": recipe.adversarial}
    losses = EveryStageLoss(model, vae, heads, features, recipe.repa_weight, both, **more)
    if team.size > 1:  # what is trained but has no part in the loss (ablation only) must not be waited for
        losses = DistributedDataParallel(losses, find_unused_parameters=both, gradient_as_bucket_view=True)

    examples = batches.examples_of(stage, recipe, source, checkpoint, phrases, training=True)
    if stage == "reflow":
        examples = walks_of(examples, checkpoint, out, state.step > 0, team)
    validation = None
    if recipe.validate and team.is_main and not args.profile:  # the others wait at their next sum
        features = FeatureCache(encode, len(held_out))
        measured = EveryStageLoss(model, vae, heads, features, recipe.repa_weight, time_shift=recipe.time_shift)
        unseen = batches.examples_of(stage, recipe, held_out, checkpoint, phrases, training=False)
        validation = Validation(checkpoint, measured, unseen, micro_batch)
    count = sum(parameter.numel() for parameter in parameters.values())
    team.say(f"stage {stage} on {team.device}, {dtype}: {count:,} parameters train on {len(source):,} images")
    batches.say_what_is_cut(examples, team)
    how = f"batch {recipe.batch} = {team.size} processes x {micro_batch} at a time x {accumulation} accumulated"
    team.say(f"{recipe}\n{how}, into {out}" + f"; going on after step {state.step}" * bool(state.step))

    run = Run(out, team, recipe, trained, examples, validation, state, args.save_every, args.profile)
    share = data.share(recipe.batch, micro_batch, team.rank, team.size, state.step, recipe.steps, examples.by_length)
    mine = data.batches(examples, share, args.workers, pin=team.device.type == "cuda")
    clock, left = Clock(team.device, args.profile), recipe.steps - state.step
    with run.bar, contextlib.closing(mine):
        train(losses, mine, accumulation, run, clock)
    if args.profile:
        team.say(cost.profile(clock, model.config, stage, recipe.size, recipe.batch, left))
    elif not run.code:
        team.say(f"wrote {out} after {state.seconds:.0f} s")
    return run.code


def main() -> None:
    args = parse_args()
    lock = contextlib.nullcontext() if args.profile else lock_folder(args.out)
    with joined_team(pick_device(args.device)) as team, lock:
        code = train_stage(args, team)
    sys.exit(code)


if __name__ == "__main__":
    run_command(main)
