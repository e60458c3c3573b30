"""The flags of train.py. Those of the recipe are made from its fields (recipe.py); the others stand here."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from common import arguments
from common.errors import UserError
from common.workers import default_workers
from training.recipe import KNOBS, STAGES, Recipe, check_recipe, typed

PRESETS = ("tiny", "small", "unix")  # SIZES of checkpoints.presets, which imports torch


def start(word: str) -> Path | str:
    """--init: a weights folder, or the preset of scratch[:PRESET]."""
    name, _, preset = word.partition(":")
    if name != "scratch":
        return arguments.weights_folder(word)
    if preset and preset not in PRESETS:
        raise UserError(f"{arguments.shown(word)}: give scratch:PRESET, one of {', '.join(PRESETS)}")
    return preset or "tiny"


def parse_args() -> argparse.Namespace:
    """`asked` are the knobs of the recipe that were given. Raises UserError for a flag that the stage has no use
    for."""
    peek = arguments.Parser(add_help=False, allow_abbrev=False)
    peek.add_argument("--stage")
    stages = {peek.parse_known_args()[0].stage} & set(STAGES) or set(STAGES)  # that --help is about
    parser = arguments.Parser(
        description="Train one stage of UniX: vae (autoencoder), vit (the eye, in place of SigLIP's pretraining), 1"
        " (reading: ViT, connector, und branch), 2 (drawing at low resolution with REPA), 3 (drawing at high"
        " resolution), reflow (an adapter that draws in four passes). 2 and 3 leave the und branch bit for bit as it"
        " was. Under torchrun every process takes its share of each batch.",
        epilog="--stage STAGE --help explains the flags that only some stages have as well.",
    )
    add = parser.add_argument_group("what to train").add_argument
    add("--stage", required=True, choices=STAGES)
    init = "weights, or scratch[:tiny|small|unix], fresh ones; default: the stage before, out/stage-X, else the shipped"
    add("--init", type=start, metavar="FOLDER", help=init)
    add = parser.add_argument_group("the recipe (default: Table 1's, or that of the model's size)").add_argument
    for name, knob in KNOBS.items():
        how = {"type": knob.kind, "metavar": knob.flag.strip("-").upper()}
        if isinstance(knob.kind, tuple):
            how = {"choices": knob.kind}
        if knob.kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        add(knob.flag, dest=name, help=knob.help if stages <= set(knob.stages) else argparse.SUPPRESS, **how)
    add = parser.add_argument_group("the machine").add_argument
    add("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one")
    dtype = "to compute in (what trains stays float32); default: bfloat16 on cuda, else float32; fast: on fast cpus too"
    add("--dtype", choices=arguments.DTYPES, help=dtype)
    memory = "optimizer: shard its state over the processes (ZeRO stage 1); activations: compute them twice"
    add("--less-memory", choices=("optimizer", "activations", "both"), help=memory)
    add("--compile", action="store_true", help="torch.compile the layers: a minute first, then faster (not vae)")
    workers = "data loading processes of each process; default: one a core, at most 8"
    add("--workers", type=arguments.workers, default=default_workers(), metavar="N", help=workers)
    add("--profile", action="store_true", help="time the parts of a step, print the table, write nothing")
    add = parser.add_argument_group("the run").add_argument
    add("--out", type=arguments.output_folder, help="folder of the run; default out/stage-STAGE")
    add("--resume", action="store_true", help="go on with the run in --out, from its last checkpoint")
    add("--save-every", type=arguments.steps, metavar="N", help="steps between checkpoints (default 500)")
    add("--cache", type=arguments.output_folder, help="where rendered X-rays are kept (default out/cache)")
    args = parser.parse_args()
    if args.compile and args.stage == "vae":
        raise UserError("--compile: not for stage vae; leave it out")
    if args.profile and args.stage == "reflow":
        raise UserError("--profile: writes nothing, and stage reflow has walks to keep; profile stage 3")
    if args.less_memory == "optimizer" and os.environ.get("WORLD_SIZE", "1") == "1":
        raise UserError("--less-memory optimizer: shares its state among processes, and this is one; leave it out")
    of_files = ("out", "save_every", "look_every", "resume")
    if args.profile and (idle := [name for name in of_files if getattr(args, name)]):
        raise UserError(f"--{idle[0].replace('_', '-')}: --profile writes nothing; leave one of them out")
    args.asked = {name: getattr(args, name) for name in KNOBS if getattr(args, name) is not None}
    for name, value in args.asked.items():
        if args.stage not in (fits := KNOBS[name].stages):
            raise UserError(f"{typed(name, value)}: only for stage {' and '.join(fits)}; leave it out")
    if not args.resume:  # where the flags alone are the recipe; its numbers do not matter here
        check_recipe(replace(Recipe(1, 256, 1, 0, 1, repa_weight=0.5), **args.asked), args.stage, args.asked)
    if args.cache and not any(map(arguments.names_phantoms, (args.asked.get("data", "phantom"), args.validate or ""))):
        raise UserError(f"--cache {args.cache}: is for rendered X-rays; leave it out")
    args.cache = args.cache or Path("out/cache")
    args.save_every = args.save_every or 500
    args.out = args.out or Path(f"out/stage-{args.stage}")
    return args
