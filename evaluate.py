"""How well does a model read and draw? Tables 2, 3 and 4 of the paper, from any data set and any model.

    python evaluate.py phantom --n 500                       the tiny model on rendered X-rays, whose truth is known
    python evaluate.py report --weights DIR --data SRC       writes reports and scores them (Table 2)
    python evaluate.py report --predictions FILE             scores reports that somebody else wrote
    python evaluate.py image --real SRC --weights DIR        draws from the prompts of SRC and scores (Tables 3 and 4)
    python evaluate.py image --real SRC --fake SRC           scores pictures that somebody else drew

Each leaves results.json and report.html in --out. Where the published judges' weights are not given, our own step in,
and every heading says so: such numbers compare with nothing outside this repository.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import arguments
from common.errors import UserError, run
from common.files import SHIPPED
from common.sampling import DISCLAIMER, SOLVER, SOLVERS, STEPS

# Filled in once it is known which flags were typed. The sampler's are left to --protocol.
DEFAULTS = {"data": "phantom:200", "split": "test", "seed": 0, "dtype": "float32", "cache": Path("out/cache")}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Raises UserError for a flag that would do nothing beside the others."""
    parser = arguments.Parser(description="Score a model's reading and drawing, as the paper does.", epilog=DISCLAIMER)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    file, folder, result, whole = arguments.existing, arguments.weights_folder, arguments.output_folder, arguments.whole

    phantom = commands.add_parser("phantom", help="phantoms that the model was never trained on", epilog=DISCLAIMER)
    add = phantom.add_argument
    add("--n", type=whole(2, arguments.MOST_EXAMPLES), default=500, help="phantoms to read and draw (default 500)")
    add("--seed", type=arguments.seed, default=1, help="not 0 (trained on) nor 2 (the classifier's) (default 1)")
    add("--classifier", type=arguments.existing_file, metavar="FILE", help="weights of another judge")

    report = commands.add_parser("report", help="reports (Table 2), on any data set", epilog=DISCLAIMER)
    add = report.add_argument
    add("--data", type=arguments.data_set, help="a data set (see python data.py --help), or phantom:COUNT (default)")
    add("--predictions", type=arguments.existing_file, metavar="FILE", help="to score: JSON lines, or UniX's CSV")
    add("--consensus", type=whole(2, 1000), metavar="N", help="of N sampled reports the one that agrees best with all")
    add("--chexbert", type=folder, metavar="FOLDER", help="CheXbert; default: the rule-based labeler judges")
    add("--literature-bleu", action="store_true", help="count words as the Indiana set's literature")
    add("--train", type=file, metavar="SRC", help="training reports, to compare with; default: of --data, if any")
    add("--require", choices=["findings"], help="leave out reports without this section")

    image = commands.add_parser("image", help="pictures (Tables 3 and 4), on any data set", epilog=DISCLAIMER)
    add = image.add_argument
    add("--real", type=file, required=True, metavar="SRC", help="folder of images, table, or data set")
    add("--fake", type=file, metavar="SRC", help="generated pictures: a folder, or CheXGenBench's table of them")
    add("--train", type=file, metavar="SRC", help="training images: has the model memorised one of them?")
    add("--raddino", type=folder, metavar="FOLDER", help="RadDino; default: the tiny ViT, which compares with nothing")
    add("--vit", type=folder, metavar="FOLDER", help="weights whose ViT judges in RadDino's place")
    add("--aligner", type=folder, metavar="FOLDER", help="BioViL or BioViL-T, for the alignment; default: left out")
    add("--seed", type=arguments.seed, help="of the first picture's noise; the others count up (default 0)")

    for add in (phantom.add_argument, image.add_argument):
        add("--steps", type=arguments.sampler_steps, help=f"times the sampler visits, at least 2 (default {STEPS})")
        add("--solver", choices=SOLVERS, help=f"default {SOLVER}; published: euler, 50 steps; --fast: reflow, 5")
        add("--guidance", type=arguments.guidance, help="1: off; default: what the weights draw best with")
        add("--size", type=arguments.size, help="pixels a side, a multiple of 16; default: what the weights know best")
    for add in (report.add_argument, image.add_argument):
        add("--split", help="train, validate, test (default) or all")
        add("--n", type=whole(2, arguments.MOST_EXAMPLES), help="only the first N")
        add("--protocol", choices=["unix"], help="score as the authors' public code does; docs/protocol.md")
        add("--cache", type=result, help="where features and rendered X-rays are kept (default out/cache)")
    for command, out in ((phantom, "out/evaluate"), (report, "out/report"), (image, "out/image")):
        add = command.add_argument
        add("--weights", type=folder, help="the model that reads and draws; default, but to image: the shipped one")
        add("--adapter", type=file, metavar="FILE", help="of these weights, as train.py --lora makes it")
        add("--out", type=result, default=out, help=f"folder for the results (default {out})")
        add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
        add("--dtype", choices=arguments.DTYPES, help=arguments.DTYPES_HELP)
        add("--batch", type=arguments.batch, help="examples at a time; default: 32 to read, what is fastest to draw")
        add("--resume", action="store_true", help="keep what an equal run has already made in --out")
    args = parser.parse_args(argv)
    typed = {name for name, value in vars(args).items() if value is not None and value is not False}
    for flags, why in idle_flags(args):
        for flag in sorted(typed.intersection(flags.split())):
            raise UserError(f"--{flag.replace('_', '-')}: {why}")
    defaults = DEFAULTS if args.command == "image" else DEFAULTS | {"weights": SHIPPED}
    for name in vars(args).keys() & defaults.keys():
        setattr(args, name, defaults[name] if getattr(args, name) is None else getattr(args, name))
    return args


def idle_flags(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The flags that do nothing beside those that were typed, and what they are for."""
    if args.command == "report" and args.predictions:
        yield "weights adapter data split consensus dtype batch resume cache", "is for a model; leave --predictions out"
        yield "" if args.train else "require", "is for a data set; add --train SRC"
        yield "" if args.chexbert else "device", "is for a model, or CheXbert; leave it out"
    elif args.command == "report" and arguments.names_phantoms(args.data or DEFAULTS["data"]):
        yield "split require train", "is for a data set of files; name one, --data SRC"
    if args.command == "image" and args.fake:
        yield "adapter seed steps solver guidance size dtype resume", "is for a model that draws; leave --fake out"
    if args.command == "image" and args.raddino:
        yield "vit", "--raddino judges already; leave one of them out"


def main() -> None:
    args = parse_args()
    # Imported where it is used: --help and a mistyped flag do not wait for torch.
    from common.devices import dtype_name, pick_device, pick_dtype
    from common.ownership import lock_folder
    from evaluation import image, phantom, report

    device = pick_device(args.device)
    args.device, args.dtype = str(device), dtype_name(pick_dtype(args.dtype, device))
    commands = {"phantom": phantom.phantom_command, "report": report.report_command, "image": image.image_command}
    with lock_folder(args.out):
        commands[args.command](args)


if __name__ == "__main__":
    run(main)
