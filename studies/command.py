"""What the commands of the studies share: flags, and the model that they look at."""

import argparse

from common import arguments
from common.devices import pick_device, pick_dtype
from common.sampling import DISCLAIMER, add_model_flags
from sample import load_model
from weights import Checkpoint


def study(description: str, n: int, of: str, least: int = 1) -> arguments.Parser:
    """The parser of every study, to which each adds its own flags. of: what there are n of."""
    parser = arguments.Parser(description=description, epilog=DISCLAIMER)
    parser.add_argument("--n", type=arguments.whole(least, 10_000), default=n, help=f"{of} (default {n})")
    parser.add_argument("--seed", type=arguments.seed, default=1, help="of the phantoms; training takes 0 (default 1)")
    add_model_flags(parser.add_argument)
    return parser


def load_unix(args: argparse.Namespace) -> Checkpoint:
    """The model of --weights. Raises UserError for a Janus-Pro, which reads and does not draw."""
    device = pick_device(args.device)
    return load_model(args.weights, device, pick_dtype(args.dtype, device), args.adapter, draws=True)
