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

from common import arguments
from common.errors import run
from common.files import SHIPPED
from common.sampling import DISCLAIMER, SOLVER, SOLVERS, STEPS, STRENGTH, TEMPERATURE, TOP_P


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.Parser(
        description="Score a model's reading and drawing: the paper's Tables 2, 3 and 4.", epilog=DISCLAIMER
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    folder, result = arguments.weights_folder, arguments.output_folder
    examples = arguments.whole(2, arguments.MOST_EXAMPLES)  # a score needs two

    phantom = commands.add_parser(
        "phantom",
        help="on drawn chest X-rays the model was never trained on",
        description="Read and draw phantoms the model was never trained on, and compare with what they really show. "
        "The classifier that judges drawings ships with this code; where phantoms/ or the classifier was changed, the "
        "first run trains another (eight minutes on one core).",
        epilog="example: python evaluate.py phantom --n 100   # a quick look. " + DISCLAIMER,
    )
    add = phantom.add_argument
    add("--n", type=examples, default=500, help="phantoms to read and impressions to draw, at least 2 (default 500)")
    add("--weights", type=folder, default=SHIPPED, help="weights folder, or a run's (default: the shipped tiny model)")
    seed = "which phantoms; not 0 (trained on) nor 2 (the classifier's) (default 1)"
    add("--seed", type=arguments.seed, default=1, help=seed)
    add(
        "--classifier",
        "--probe",
        type=arguments.output_file,
        metavar="FILE",
        help="the classifier's weights, trained anew if absent; default: the shipped one",
    )
    doubt = "also sample N reports of each phantom: is the share that affirms a finding as often right as it says?"
    add("--reports", type=arguments.whole(2, 1000), metavar="N", help=doubt)
    temperature = f"of sampled reports (default {TEMPERATURE})"
    add("--temperature", type=arguments.number(0, 100, above=True), default=TEMPERATURE, help=temperature)
    add("--top-p", type=arguments.top_p, default=TOP_P, help=f"of sampled reports (default {TOP_P})")
    editing = "also remove and add a finding in N phantoms of each kind: did it change as asked, and nothing else?"
    add("--edit", type=arguments.whole(1, 1000), metavar="N", help=editing)
    add("--strength", type=arguments.strength, default=STRENGTH, help=f"of an edit (default {STRENGTH})")
    add("--out", type=result, default="out/evaluate", help="folder for the results (default out/evaluate)")

    report = commands.add_parser(
        "report",
        help="reports: Table 2, on any data set",
        description="Write a report for every image of a data set and compare it with the true one; or compare reports "
        "that are there already. Under torchrun every process takes its share.",
        epilog="example: torchrun --nproc_per_node=8 evaluate.py report --weights weights/UniX --data MIMIC --device "
        "cuda --chexbert weights/chexbert. " + DISCLAIMER,
    )
    add = report.add_argument
    add("--weights", type=folder, default=SHIPPED, help="weights folder (default: the shipped tiny model)")
    source = "a data set (see python data.py --help), or phantom:COUNT (default)"
    add("--data", type=arguments.data_set, default="phantom:200", help=source)
    add("--split", default="test", help="train, validate, test (default) or all")
    predictions = "score this: JSON lines (truth, generated), or UniX's CSV"
    add("--predictions", type=arguments.existing_file, metavar="FILE", help=predictions)
    add("--section", choices=["report", "impression"], default="report", help="what to write (default: the report)")
    question = "what to ask; default: the data set's own, or what the model was trained on"
    add("--question", type=arguments.text, help=question)
    consensus = "of N sampled reports of a film the one that agrees best with all; default: one report, greedily"
    add("--consensus", type=arguments.whole(2, 1000), metavar="N", help=consensus)
    add("--chexbert", type=folder, metavar="FOLDER", help="CheXbert; default: the rule-based labeler judges")
    literature = "count the findings' words as the literature of the Indiana University set: corpus BLEU, lower case"
    add("--literature-bleu", action="store_true", help=literature)
    train = "training reports, to choose one text for every film and the nearest film from; default: of --data, if any"
    add("--train", type=arguments.existing, metavar="SRC", help=train)
    add("--n", type=examples, help="only the first N")
    add("--out", type=result, default="out/report", help="folder for the results (default out/report)")

    image = commands.add_parser(
        "image",
        help="pictures: Tables 3 and 4, on any data set",
        description="Compare generated pictures with real ones, as sets. With --weights they are drawn first, from the "
        "texts of the real ones.",
        epilog="example: python evaluate.py image --real test.csv --weights weights/UniX --raddino weights/rad-dino "
        "--train train.csv. " + DISCLAIMER,
    )
    add = image.add_argument
    add("--real", type=arguments.existing, required=True, metavar="SRC", help="folder of images, table, or data set")
    fake = "generated pictures: a folder, or CheXGenBench's table of them"
    add("--fake", type=arguments.existing, metavar="SRC", help=fake)
    add("--weights", type=folder, help="a model that draws them first, into OUT/generated")
    add("--split", default="test", help="of --real, if it is a data set: train, validate, test (default) or all")
    train = "training images: has the model memorised one of them?"
    add("--train", type=arguments.existing, metavar="SRC", help=train)
    add("--raddino", type=folder, metavar="FOLDER", help="RadDino; default: the tiny ViT, which compares with nothing")
    vit = "weights whose ViT judges where RadDino is absent: one trained on real films"
    add("--vit", type=folder, metavar="FOLDER", help=vit)
    add("--aligner", type=folder, metavar="FOLDER", help="BioViL or BioViL-T, for the alignment; default: left out")
    noise = "of the first picture's noise; the others count up (default 0)"
    add("--seed", type=arguments.seed, default=0, help=noise)
    add("--n", type=examples, help="only the first N real images")
    add("--out", type=result, default="out/image", help="folder for the results (default out/image)")

    for command in (phantom, image):
        add = command.add_argument
        steps = f"times the sampler visits, at least 2 (default {STEPS})"
        add("--steps", type=arguments.sampler_steps, default=STEPS, help=steps)
        add("--solver", choices=SOLVERS, default=SOLVER, help=f"default {SOLVER}; euler with 50 steps was published")
        guidance = "how hard to follow the prompt; 1: off; default: what the weights draw best with"
        add("--guidance", type=arguments.guidance, help=guidance)
        size = "pixels a side to draw, a multiple of 16; default: what the weights know best"
        add("--size", type=arguments.size, help=size)
    report.add_argument("--require", choices=["findings"], help="leave out reports without this section")
    for command in (report, image):
        protocol = "unix: score as the authors' public code does, for numbers beside the paper's; docs/protocol.md"
        command.add_argument("--protocol", choices=["unix"], help=protocol)
    for command in (phantom, report, image):
        add = command.add_argument
        add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
        add("--dtype", choices=arguments.DTYPES, default="float32", help=arguments.DTYPES_HELP)
        batch = "images (sampled reports) at a time; default: 32 to read, what is fastest on the device to draw"
        add("--batch", type=arguments.batch, help=batch)
        add("--cache", type=result, default="out/cache", help="where indexes and features are kept")
        add("--resume", action="store_true", help="keep what an earlier, equal run has already generated in --out")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    # Imported where it is used: --help and a mistyped flag do not wait for torch.
    if args.command == "phantom":
        from evaluation.phantom import phantom_command as command
    elif args.command == "report":
        from evaluation.report import report_command as command
    else:
        from evaluation.image import image_command as command
    from common.devices import dtype_name, pick_device, pick_dtype
    from common.ownership import lock_folder

    device = pick_device(args.device)
    args.device, args.dtype = str(device), dtype_name(pick_dtype(args.dtype, device))
    with lock_folder(args.out):
        command(args)


if __name__ == "__main__":
    run(main)
