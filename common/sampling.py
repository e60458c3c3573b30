"""What a user may tell sample.py and edit.py: their flags, and what holds where one is not given.

Apart from both, because they import torch: a typing error and --help are answered before that.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from common import arguments
from common.errors import UserError
from common.files import FAST_ADAPTER, SHIPPED
from common.ownership import own_file

DISCLAIMER = "Research and teaching tool, not a medical device: do not use for diagnosis."
DOWNSAMPLING = 16  # px a latent; a picture's side is a multiple of it
SOLVERS = ("euler", "heun", "ab2", "reflow")  # functions of flow.py
SOLVER, STEPS = "ab2", 20
FAST = {"solver": "reflow", "steps": 5, "guidance": 1.0}  # what an adapter of stage reflow has learnt
STRENGTH = 0.8  # time to which an edit goes back towards noise
TEMPERATURE, TOP_P = 0.7, 0.9  # of several reports of one image; one alone is greedy

EXAMPLE = '"Small left pleural effusion."'
# What only one of a command's two tasks takes -> its value where it is not given.
DRAWING = {"out": Path("sample.png"), "steps": (SOLVER, STEPS), "guidance": None, "size": None}
READING = {"question": None}
FILM = {"strength": STRENGTH, "mask": None}


def sample_flags() -> argparse.Namespace:
    """Of sample.py, from the command line. Raises UserError."""
    parser = arguments.Parser(
        description="Draw a chest X-ray from a sentence, or write the report of an image.",
        epilog="The shipped tiny weights know phantoms only. " + DISCLAIMER,
    )
    add = parser.add_argument
    add("prompt", nargs="*", type=arguments.text, help=f"what to draw: {EXAMPLE}; several make a labelled grid")
    add("--image", nargs="+", type=arguments.existing_file, metavar="FILE", help="read these images instead of drawing")
    add("--question", type=arguments.text, help="what to ask about each image; default: its FINDINGS and IMPRESSION")
    fast = "four passes of the model in place of 33, by the adapter that lies with the weights"
    add("--fast", action="store_true", default=None, help=fast)
    add_drawing_flags(add, "sample.png")
    add("--n", type=arguments.whole(1, 10_000), default=1, help="pictures of each prompt, or reports of each image")
    args = parser.parse_args()
    if bool(args.prompt) == bool(args.image):
        raise UserError(f"give either a prompt in quotes ({EXAMPLE}) or --image FILE")
    mend = "is for drawing, and --image is read" if args.image else "is for reading; name an image, --image FILE"
    drawing = {**DRAWING, "fast": False}
    taken, useless = (READING, drawing) if args.image else (drawing, READING)
    if args.fast and not args.image:
        settle(args, {}, dict.fromkeys(("steps", "guidance", "adapter")), "--fast has its own")
        args.adapter, args.guidance = args.weights / FAST_ADAPTER, FAST["guidance"]
        args.steps = FAST["solver"], FAST["steps"]
        if not args.adapter.is_file():
            mend = f"python train.py --stage reflow --init {args.weights} --data SRC makes an adapter to copy there"
            raise UserError(f"--fast: {args.adapter} is not there; {mend}")
    settle(args, taken, useless, mend)
    args.solver, args.steps = args.steps or (None, None)
    if args.image and args.n == 1 and args.seed is not None:
        raise UserError("--seed: one report is the likeliest, always the same; give --n as well, or leave it out")
    args.seed = args.seed or 0
    if args.prompt:
        own_file(args.out)
    return args


def edit_flags() -> argparse.Namespace:
    """Of edit.py, from the command line. Raises UserError."""
    parser = arguments.Parser(
        description="Change a picture to what a prompt says, or go from one prompt to another.",
        usage='edit.py FILE "PROMPT" [options], or edit.py --between N "PROMPT" "PROMPT" [options]',
        epilog="No training is needed. " + DISCLAIMER,
    )
    add = parser.add_argument
    add("film", type=arguments.text, metavar="FILE", help="the picture to change; with --between, the first prompt")
    add("prompt", type=arguments.text, metavar="PROMPT", help="what the picture shall show, in whole")
    add("--strength", type=arguments.strength, help=f"time to go back to; 0 changes nothing (default {STRENGTH})")
    add("--mask", type=arguments.mask, help="edit here alone: x0,y0,x1,y1 in its pixels, or a white-on-black picture")
    add("--between", type=arguments.whole(2, 1000), metavar="N", help="N pictures from one prompt to a second")
    add_drawing_flags(add, "edit.png")
    args = parser.parse_args()
    taken, useless = ({}, FILM) if args.between else (FILM, {})
    settle(args, {**DRAWING, "out": Path("edit.png"), **taken}, useless, "is for a film, not for a strip of prompts")
    args.solver, args.steps = args.steps
    if not args.between:
        args.film = arguments.existing_file(args.film)
    args.seed = args.seed or 0
    own_file(args.out)
    return args


def add_drawing_flags(add: Callable, out: str) -> None:
    add("--out", type=arguments.output_file, metavar="PNG", help=f"picture to write (default {out})")
    add("--seed", type=arguments.seed, help="of the first picture or report; others count up (default 0)")
    steps = f"times from noise to picture, with the ends; default {SOLVER}:{STEPS}, published euler:50, --fast reflow:5"
    add("--steps", type=solver_and_steps, metavar="[SOLVER:]N", help=f"{steps}; {', '.join(SOLVERS)}")
    add("--guidance", type=arguments.guidance, help="how hard to follow the prompt; 1: off; default: by the weights")
    add("--size", type=arguments.size, help="pixels a side, a multiple of 16; default: what the weights know best")
    add_model_flags(add)


def solver_and_steps(word: str) -> tuple[str, int]:
    solver, _, steps = word.rpartition(":")
    if solver not in ("", *SOLVERS):
        raise UserError(f"{arguments.shown(word)}: give a number, or SOLVER:N, SOLVER one of {', '.join(SOLVERS)}")
    return solver or SOLVER, arguments.sampler_steps(steps)


def add_model_flags(add: Callable) -> None:
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help="weights folder; default: the shipped tiny")
    add("--adapter", type=arguments.existing, metavar="FILE", help="of these weights, as train.py --lora makes it")
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    add("--dtype", choices=arguments.SAMPLING_DTYPES, help=arguments.SAMPLING_DTYPES_HELP)


def settle(args: argparse.Namespace, taken: dict, useless: dict, mend: str) -> None:
    """Fill in what was not given. Raises UserError for a flag that would do nothing here."""
    for name in useless:
        if getattr(args, name) is not None:
            raise UserError(f"--{name}: {mend}; leave it out")
    for name, value in taken.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def check_size(size: int, max_latent_size: int) -> None:
    """Raises UserError for a size that a model has no positions for."""
    largest = max_latent_size * DOWNSAMPLING
    nearest = min(max(DOWNSAMPLING, round(size / DOWNSAMPLING) * DOWNSAMPLING), largest)
    if size != nearest:
        what = f"must be a multiple of {DOWNSAMPLING} up to {largest}, a latent a side; try {nearest}"
        raise UserError(f"--size {size}: {what}")
