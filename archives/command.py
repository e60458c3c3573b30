"""`python data.py stats|check|clean`: look at a data set of films and reports, and clean its reports."""

import hashlib
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from archives.opening import ARCHIVES, open_source, recognise
from archives.records import Record, Records, squares
from common import arguments
from common.errors import UserError
from common.images import picture_files
from common.observations import OBSERVATIONS
from common.ownership import own_file
from common.pictures import grid, save_png
from common.workers import default_workers, ignore_signals, started, stop_workers, unbroken
from reports import cleaning


def stats(source: Records, out: Path) -> None:
    """Print counts, the table of labels and the lengths of reports; write a contact sheet of 24 pictures."""
    records = source.records
    print(f"{source.kind}: {len(source):,} examples")
    for what in ("split", "view"):
        counts = Counter(getattr(record, what) or "-" for record in records)
        print(f"{what:8}" + ", ".join(f"{name} {count:,}" for name, count in counts.most_common()))
    with_findings = Counter(record.split for record in records if record.findings)
    counts = ", ".join(f"{name} {count:,}" for name, count in with_findings.items())
    print(f"with findings: {with_findings.total():,} of {len(source):,} ({counts})")
    print(f"patients {len({record.patient for record in records} - {''}):,}")
    print(f"\n{'label':28}{'positive':>10}{'uncertain':>10}{'negative':>10}")
    for name in OBSERVATIONS:
        values = Counter(record.labels.get(name) for record in records)
        print(f"{name:28}{values[1]:10,}{values[-1]:10,}{values[0]:10,}")
    reports = [source.text(i)[0] for i in range(len(source))]
    half, most, longest = np.percentile([len(report.split()) for report in reports], (50, 95, 100))
    print(f"\nwords of a report: half have at most {half:.0f}, 95 % {most:.0f}, the longest has {longest:.0f}")
    print("\n" + source.problems.summary())
    chosen, pictures = squares(source, 24, 256)
    if not chosen:
        print("no picture could be opened: no contact sheet")
        return
    save_png(grid(pictures, [reports[i] for i in chosen], columns=6), out)
    print(f"{out}: {len(chosen)} of them")


def check(source: Records, workers: int) -> int:
    """Open every image in parallel, print the bad ones and how many there are. Returns that number."""
    began, kind = time.time(), ("bad", "image that cannot be opened")
    indices = [index for index, record in enumerate(source.records) if record.image]
    look = partial(open_and_discard, source)
    loader = DataLoader(indices, None, num_workers=workers, collate_fn=look, worker_init_fn=ignore_signals)
    opened = started(loader)  # before the bar, whose thread would take a Ctrl-C that must wait until they run
    try:
        for problem in tqdm(unbroken(opened), total=len(indices), unit="image", desc="checking", dynamic_ncols=True):
            if problem:
                source.problems.add(*kind, problem.split(": ")[0])
                tqdm.write(problem)
    finally:
        stop_workers(opened)
    bad = source.problems.count(*kind)
    print(source.problems.summary())
    print(f"{len(source):,} reports read, {len(indices):,} images opened in {time.time() - began:.0f} s, {bad} bad")
    return bad + source.problems.count("bad", "image absent")


def open_and_discard(source: Records, index: int) -> str | None:
    """What is wrong with an example's image, None if nothing."""
    try:
        source.image(index)
    except UserError as error:
        return str(error)
    return None


def hold_out(records: list[Record], share: float) -> list[Record]:
    """`share` of the patients as a validation split, the same on every machine; a set that has one keeps it.

    Raises UserError if that leaves nothing to train on, or nothing to validate on.
    """
    if any(record.split == "validate" for record in records):
        print("--hold-out: the set has a validation split, which stays as it is")
        return records
    split = []
    for record in records:
        digest = hashlib.sha256((record.patient or record.image or record.findings + record.impression).encode())
        held = record.split == "train" and int(digest.hexdigest()[:8], 16) < share * 2**32
        split.append(replace(record, split="validate") if held else record)
    counts = Counter(record.split for record in split)
    if not counts["validate"] or not counts["train"]:
        left = f"{counts['train']} reports to train on and {counts['validate']} to validate on"
        raise UserError(f"--hold-out {share}: leaves {left}; give another share, or more reports")
    print(f"--hold-out: {counts['validate']:,} reports to validate on, {counts['train']:,} to train on")
    return split


def main() -> None:
    what = "Look at a data set of chest X-rays and reports, of any kind that docs/data.md names, and clean its reports."
    examples = "examples: python data.py stats DATA; python data.py clean DATA --out cleaned.jsonl"
    parser = arguments.Parser(description=what, epilog=examples)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("stats", help="counts, labels, lengths of reports, and a contact sheet")
    sheet = "contact sheet (default stats.png)"
    command.add_argument("--out", type=arguments.output_file, default="stats.png", help=sheet)
    command = commands.add_parser("check", help="open every image and list the bad ones (exit code 2 if there are any)")
    workers = arguments.whole(1, arguments.MOST_WORKERS)
    command.add_argument("--workers", type=workers, default=default_workers(), help="processes; default: one a core")
    command = commands.add_parser("clean", help="rewrite the reports without what no image shows")
    command.add_argument("--out", type=arguments.output_file, required=True, help="JSON lines to write")
    keep = "leave words such as stable, improved and new, as UniX's own references have them"
    command.add_argument("--keep-comparisons", action="store_true", help=keep)
    url = "an OpenAI-compatible server, e.g. http://localhost:8000/v1"
    command.add_argument("--llm", metavar="URL", help=f"{url}; it goes with the next three")
    command.add_argument("--model", metavar="NAME", help="the model to ask there")
    command.add_argument("--concurrency", type=arguments.whole(1, 256), help="requests at a time (default 8)")
    command.add_argument("--timeout", type=arguments.number(0.1, 3600), help="seconds for one request (default 120)")
    share = "make a validation split of this share of the patients, where the set has none"
    command.add_argument("--hold-out", type=arguments.number(0, 0.9, above=True), metavar="SHARE", help=share)
    for command in commands.choices.values():
        command.add_argument("source", type=arguments.existing, metavar="SRC", help="the data set")
        command.add_argument("--split", default="all", help="train, validate, test or all (default)")
        command.add_argument("--require", choices=["findings"], help="leave out reports without this section")
    args = parser.parse_args()

    kind, root, files = recognise(args.source)
    if args.command == "clean":
        cleaning.check_target(args.out, [args.source, *files])
    # Reports can be counted and cleaned before their images are there; an archive holds reports alone. But Open-i's
    # name films by number, and to be trained on, the cleaned ones must name files.
    needed = args.command == "check" or (args.command == "clean" and kind == "open-i" and bool(picture_files(root)))
    needed = needed and not args.source.name.endswith(ARCHIVES)
    source = open_source(args.source, split=args.split, need_images=needed, require=args.require)
    if args.command == "stats":
        own_file(args.out)
        if args.out.resolve() in {(source.root / record.image).resolve() for record in source.records}:
            raise UserError(f"--out {args.out}: is a picture of the set; name another file")
        stats(source, args.out)
    elif args.command == "check":
        sys.exit(2 if check(source, args.workers) else 0)
    else:
        server = {name: getattr(args, name) for name in ("model", "concurrency", "timeout")}
        server = {name: value for name, value in server.items() if value is not None}
        if server and not args.llm:
            raise UserError(f"--{next(iter(server))}: only a server takes it; add --llm URL")
        records = hold_out(source.records, args.hold_out) if args.hold_out else source.records
        items = map(asdict, records)
        cleaning.clean_records(items, args.out, args.llm, keep_comparisons=args.keep_comparisons, **server)
        print(f"to train on it: --data {source.root / args.out.name}, where the paths of its images begin")
