"""How well does a model read and draw? Tables 2, 3 and 4 of the paper, from any data set and any model.

    python evaluate.py phantom --n 500                       the tiny model on drawn X-rays, whose truth is known
    python evaluate.py report --weights DIR --data SRC       writes reports and scores them (Table 2)
    python evaluate.py report --predictions FILE             scores reports that somebody else wrote
    python evaluate.py image --real SRC --weights DIR        draws from the prompts of SRC and scores (Tables 3 and 4)
    python evaluate.py image --real SRC --fake SRC           scores pictures that somebody else drew

Each is a file of `evaluation/` and leaves results.json and report.html in --out. The measures are in
`evaluation/metrics.py`, the judges in `judges/` and `reports/labeler.py`.
Where the published judges' weights are not given, our own step in, and every heading says so: such numbers compare with
nothing outside this repository.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from checkpoints.folders import SHIPPED
from common.errors import UserError, run
from sample import DISCLAIMER, SOLVER, SOLVERS, STEPS


def check_args(args: argparse.Namespace) -> None:
    """All that can be said of the flags without torch."""
    least = {"n": 2, "batch": 1, "steps": 2, "seed": 0}
    for name, lowest in least.items():
        value = getattr(args, name, None)
        if value is not None and value < lowest:
            raise UserError(f"--{name} {value}: must be at least {lowest}")
    if not getattr(args, "guidance", 1) > 0:
        raise UserError(f"--guidance {args.guidance}: must be above 0; 1 switches it off, 2 is usual")
    for name in ("weights", "chexbert", "raddino", "aligner"):
        folder = getattr(args, name, None)
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} {folder}: no such folder; README.md says where each comes from")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Score a model's reading and drawing: the paper's Tables 2, 3 and 4.", epilog=DISCLAIMER
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    phantom = commands.add_parser(
        "phantom",
        help="on drawn chest X-rays the model was never trained on",
        description="Read and draw phantoms the model was never trained on, and compare with what they really show. "
        "The first run trains the classifier that judges drawings (about five minutes on two idle cores); "
        "later runs load it.",
        epilog="example: python evaluate.py phantom --n 100   # a quick look. " + DISCLAIMER,
    )
    add = phantom.add_argument
    add("--n", type=int, default=500, help="phantoms to read and impressions to draw, at least 2 (default 500)")
    add("--weights", type=Path, default=SHIPPED, help="weights folder, or a run's (default: the shipped tiny model)")
    add("--seed", type=int, default=1, help="which phantoms; not 0 (trained on) nor 2 (the classifier's) (default 1)")
    add(
        "--classifier",
        "--probe",
        type=Path,
        metavar="FILE",
        help="the classifier's weights; default: a file in ~/.cache/open-unix",
    )
    add("--out", type=Path, default=Path("out/evaluate"), help="folder for the results (default out/evaluate)")

    report = commands.add_parser(
        "report",
        help="reports: Table 2, on any data set",
        description="Write a report for every image of a data set and compare it with the true one; or compare reports "
        "that are there already. Under torchrun every process takes its share.",
        epilog="example: torchrun --nproc_per_node=8 evaluate.py report --weights weights/UniX --data MIMIC --device "
        "cuda --chexbert weights/chexbert. " + DISCLAIMER,
    )
    add = report.add_argument
    add("--weights", type=Path, default=SHIPPED, help="weights folder (default: the shipped tiny model)")
    add("--data", default="phantom:200", help="a data set (see python data.py --help), or phantom:COUNT (default)")
    add("--split", default="test", help="train, validate, test (default) or all")
    add("--predictions", type=Path, metavar="FILE", help="score this: JSON lines (truth, generated), or UniX's CSV")
    add("--section", choices=["report", "impression"], default="report", help="what to write (default: the report)")
    add("--question", help="what to ask; default: the data set's own, or what the model was trained on")
    add("--chexbert", type=Path, metavar="FOLDER", help="CheXbert; default: the rule-based labeler judges")
    add("--n", type=int, help="only the first N")
    add("--out", type=Path, default=Path("out/report"), help="folder for the results (default out/report)")

    image = commands.add_parser(
        "image",
        help="pictures: Tables 3 and 4, on any data set",
        description="Compare generated pictures with real ones, as sets. With --weights they are drawn first, from the "
        "texts of the real ones.",
        epilog="example: python evaluate.py image --real test.csv --weights weights/UniX --raddino weights/rad-dino "
        "--train train.csv. " + DISCLAIMER,
    )
    add = image.add_argument
    add("--real", type=Path, required=True, metavar="SRC", help="folder of images, table, or data set")
    add("--fake", type=Path, metavar="SRC", help="generated pictures: a folder, or CheXGenBench's table of them")
    add("--weights", type=Path, help="a model that draws them first, into OUT/generated")
    add("--split", default="test", help="of --real, if it is a data set: train, validate, test (default) or all")
    add("--train", type=Path, metavar="SRC", help="training images: has the model memorised one of them?")
    add("--raddino", type=Path, metavar="FOLDER", help="RadDino; default: the tiny ViT, which compares with nothing")
    add("--aligner", type=Path, metavar="FOLDER", help="BioViL, for the alignment score; default: left out")
    add("--seed", type=int, default=0, help="of the first picture's noise; the others count up (default 0)")
    add("--n", type=int, help="only the first N real images")
    add("--out", type=Path, default=Path("out/image"), help="folder for the results (default out/image)")

    for command in (phantom, image):
        add = command.add_argument
        add("--steps", type=int, default=STEPS, help=f"times the sampler visits, at least 2 (default {STEPS})")
        add("--solver", choices=SOLVERS, default=SOLVER, help=f"default {SOLVER}; euler with 50 steps was published")
        add("--guidance", type=float, default=2.0, help="how hard to follow the prompt; 1: off (default 2)")
        add("--size", type=int, help="pixels a side to draw, a multiple of 16; default: what the weights know best")
    for command in (phantom, report, image):
        add = command.add_argument
        add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
        add("--dtype", choices=["float32", "bfloat16"], default="float32", help="to compute in (default float32)")
        add("--batch", type=int, help="images at a time; default: 32 to read, what is fastest on the device to draw")
        add("--cache", type=Path, default=Path("out/cache"), help="where indexes and features are kept")
        add("--resume", action="store_true", help="keep what an earlier, equal run has already generated in --out")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    check_args(args)
    # Imported where it is used: --help and a mistyped flag do not wait for torch.
    if args.command == "phantom":
        from evaluation.phantom import phantom_command as command
    elif args.command == "report":
        from evaluation.report import report_command as command
    else:
        from evaluation.image import image_command as command
    from common.devices import pick_device
    from common.ownership import lock_folder

    args.device = str(pick_device(args.device))
    with lock_folder(args.out):
        command(args)


if __name__ == "__main__":
    run(main)
