"""What a stage starts from: weights, or a fresh model with its tokenizer; how it computes; and what no step changes."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from archives.opening import open_source
from checkpoints.folders import find_checkpoint
from checkpoints.presets import init_weights, preset, vae_preset
from common import arguments
from common.distributed import Team
from common.errors import UserError
from common.files import SHIPPED
from judges.raddino import load_raddino
from model import UniX
from phantoms.dataset import Phantoms
from reports.questions import DEFAULT_QUESTION, SHORT_QUESTION
from speed import cpu
from speed.startup import leave_the_compiler_out
from training.recipe import DRAWING, STAGES, Recipe
from training.state import State
from training.tokenizer import train_tokenizer
from vae import VAE
from weights import Checkpoint, load_checkpoint


def start_from(
    stage: str, init: Path | str | None, asked: dict[str, object], earlier: State | None, team: Team
) -> Checkpoint:
    """The weights of the run that goes on; else of --init; else of the stage before, if it lies under out/; else the
    shipped ones. Says which. asked: the knobs that were given."""
    if earlier:
        checkpoint = load_checkpoint(earlier.folder, team.device)
        checkpoint.history.pop()  # this run's own entry, written anew with every save
        team.say(f"going on with {earlier.folder}")
        return checkpoint
    if isinstance(init, str):
        checkpoint = from_scratch(init, asked.get("data", "phantom"), asked.get("seed", 0), team)
    else:
        before = STAGES.index(stage) - 1
        previous = Path(f"out/stage-{STAGES[before]}")
        folder = init or (previous if before >= 0 and find_checkpoint(previous) else SHIPPED)
        team.say(f"starting from {folder}")
        checkpoint = load_checkpoint(folder, team.device)
    gen_from, model = asked.get("gen_from"), checkpoint.model
    drawn = any(entry["stage"] in DRAWING for entry in checkpoint.history)
    if stage == "reflow" and (model.adapter or not drawn):
        what = "carry an adapter (weights.py merge)" if drawn else "have not learnt to draw"
        raise UserError(f"--init: stage reflow learns from what weights draw, and these {what}")
    if asked.get("lora") and stage in DRAWING and not drawn:
        raise UserError(f"--lora {asked['lora']}: too little for weights that have not learnt to draw; leave it out")
    if gen_from and drawn:
        raise UserError(f"--gen-from {gen_from}: the gen branch of these weights is trained already; leave it out")
    if stage in DRAWING and not drawn:
        # The gen branch starts as a copy of an und branch (section 3: "inherited LLM backbone").
        source = load_checkpoint(gen_from).model if gen_from else model
        theirs, ours = ((c.hidden_size, c.intermediate_size, c.num_layers) for c in (source.config, model.config))
        if theirs != ours:
            raise UserError(f"--gen-from {gen_from}: width, MLP and layers are {theirs}, the model's are {ours}")
        model.copy_und_to_gen(source)
        team.say(f"gen branch: starts as a copy of the und branch{f' of {gen_from}' * bool(gen_from)}")
    return checkpoint


def from_scratch(size: str, word: str, seed: int, team: Team) -> Checkpoint:
    """A fresh model, and a tokenizer trained on the reports of `word` (--data), from which it will learn."""
    config, rendered = replace(preset(size), bos=0, eos=1, boi=2, eoi=3), arguments.names_phantoms(word)
    source = Phantoms(5000) if rendered else open_source(word, split="train")
    reports = [source.text(i)[0] for i in range(len(source))]
    if not rendered:
        reports = [*dict.fromkeys(reports)]  # some are of several films
    what = f"{len(reports):,} reports of {'phantoms' if rendered else word}"
    team.say(f"starting from scratch: a fresh {size} model, and a tokenizer trained on {what}")
    # Few words yield fewer pieces than the model has room for; the ids above them stay unused.
    tokenizer = train_tokenizer([*reports, DEFAULT_QUESTION, SHORT_QUESTION], config.vocab_size)
    torch.manual_seed(seed)  # the autoencoder keeps torch's own initialisation
    vae, model = VAE(vae_preset(size)), UniX(config)
    init_weights(model, torch.Generator().manual_seed(seed))
    return Checkpoint(model.to(team.device), vae.to(team.device), tokenizer)


def prepare(checkpoint: Checkpoint, dtype: torch.dtype, recompute: bool, compiled: bool) -> None:
    """How the model computes. recompute: activations, in the backward pass, instead of keeping them."""
    model = checkpoint.model
    model.compute_dtype = dtype
    model.checkpoint_activations = model.vit.checkpoint_activations = recompute
    if model.vae2llm.weight.device.type == "cpu":
        cpu.speed_up(model, checkpoint.vae)
    if compiled:
        model.pad_to = 32
        for block in [*model.layers, *model.vit.blocks]:
            block.compile()
    else:
        leave_the_compiler_out()


def frozen_encoders(
    checkpoint: Checkpoint, recipe: Recipe, dtype: torch.dtype, team: Team
) -> tuple[Callable[[torch.Tensor], tuple[torch.Tensor, ...]], int]:
    """(uint8 images (B, S, S) -> the posterior's mean and log-variance and, with REPA, its target: patch features
    (B, (S / 16)^2, width) on the latents' grid; that width). The target is RadDino, or else the model's own ViT."""
    vae, vit, raddino = checkpoint.vae, checkpoint.model.vit, None
    if recipe.repa:
        raddino = load_raddino(recipe.repa, team.device)
    elif recipe.repa_weight and recipe.train == "both":
        vit = copy.deepcopy(vit)  # a target that stands still
    if recipe.repa_weight:
        team.say(f"REPA's target: {'RadDino' if raddino else 'the ViT of stage 1'}")

    def encode(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = vae.posterior(vae.preprocess(images).to(dtype))
        if raddino:
            encoded += (raddino(images, side=images.shape[-1] // 16)[1],)
        elif recipe.repa_weight:
            encoded += (vit(vit.preprocess(images).to(dtype)),)
        return tuple(value.to(dtype) for value in encoded)

    return encode, (raddino.vit if raddino else vit).config.width
