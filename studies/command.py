"""What the commands of the studies share: four flags, and the model that they look at."""

from __future__ import annotations

import argparse

import torch

from common import arguments
from common.devices import pick_dtype
from common.errors import UserError
from common.files import SHIPPED
from sample import DISCLAIMER, load_model
from weights import Checkpoint


def study(description: str, n: int, of: str, least: int = 1) -> arguments.Parser:
    """The parser of every study, to which each adds its own flags. of: what there are n of."""
    parser = arguments.Parser(description=description, epilog=DISCLAIMER)
    add = parser.add_argument
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help="weights folder (default: the shipped model)")
    add("--adapter", type=arguments.existing, metavar="FILE", help="of these weights, as train.py --lora makes it")
    add("--n", type=arguments.whole(least, 10_000), default=n, help=f"{of} (default {n})")
    add("--seed", type=arguments.seed, default=1, help="of the phantoms; training takes 0 (default 1)")
    add("--dtype", choices=arguments.DTYPES, default="float32", help=arguments.DTYPES_HELP)
    return parser


def load_unix(args: argparse.Namespace, device: str | torch.device = "cpu") -> Checkpoint:
    """The model of --weights. Raises UserError for a Janus-Pro, which reads and does not draw."""
    checkpoint = load_model(args.weights, device, pick_dtype(args.dtype, torch.device(device)), args.adapter)
    if checkpoint.vae is None:
        raise UserError(f"--weights {args.weights}: a Janus-Pro, which draws no X-rays; name a UniX")
    return checkpoint
