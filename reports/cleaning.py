"""Reports cleaned for training: what a picture cannot show goes, what it shows stays.

The paper (sections 3 and 5.1) strips "underscores, technical metadata, and conversational fillers" from reports with an
LLM, since a model that learns to write "___" or "unchanged from the prior" hallucinates. There are two ways to do it:

    reports/rules.py   tables of regular expressions, free and offline
    reports/asking.py  any OpenAI-compatible server

This file holds what both share: neither may lose a finding or add one. The labeler must read the same observations and
sides before and after. Where an LLM's answer fails that, the rules' text is kept and the difference is written down.
`python data.py clean DATA --out FILE` is the command.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from common import arguments
from common.errors import UserError
from common.files import write_atomically
from common.observations import OBSERVATIONS
from reports.labeler import label_report
from reports.rules import clean_report

MAX_LINE = 2**24  # bytes of a first line
OUR_FIELDS = {"image", "findings", "impression", "changed"}
OUR_DISAGREEMENTS = {"image", "by", "observations", "before", "after"}

Sections = tuple[str, str]  # findings and impression


def differences(before: str, after: str) -> list[str]:
    """The observations that `label_report` reads differently (value or side) in the two texts."""
    old, new = label_report(before), label_report(after)
    return [name for name in OBSERVATIONS if old[name] != new[name]]


def propose(
    before: Sections, answers: dict[Sections, Sections], keep_comparisons: bool = False
) -> tuple[Sections, Sections, list]:
    """One report -> (proposed sections, the rules' sections, the observations that the proposed ones lose or add).

    The proposal is the LLM's answer where `answers` has one, else the rules'. Words about a prior examination may go
    with what they claim, so an observation counts as lost only if the rules keep it.
    """
    rules = clean_report(*before, keep_comparisons)
    proposed = answers.get(before, rules)
    lost = differences("\n\n".join(before), "\n\n".join(proposed))
    if proposed != rules:
        kept = differences("\n\n".join(rules), "\n\n".join(proposed))
        lost = [name for name in lost if name in kept]
    elif not any(rules):
        lost = []  # nothing is left, so the original stays
    return proposed, rules, lost


def is_likely(answer: Sections, report: Sections) -> bool:
    """Whether an answer can be a report with words taken out: hardly longer, and with no control characters."""
    text, given = "".join(answer), "".join(report)
    odd = [c for c in set(text) - set(given) - set("\n\t\r") if unicodedata.category(c).startswith("C")]
    return len(text) <= 2 * len(given) + 100 and not odd


def clean_records(
    items: Iterable[dict],
    out: Path,
    llm: str | None = None,
    model: str | None = None,
    concurrency: int = 8,
    progress: bool = True,
    prices: tuple[float, float] = (0.0, 0.0),
    examples: int = 0,
    keep_comparisons: bool = False,
    **server: float,
) -> dict[str, int]:
    """Write `items` to `out` as JSON lines with cleaned texts and "changed"; returns and prints the counts.

    items: {"image", "findings", "impression", ...}, all str; other fields are kept as they are, and those in "extra"
    (captions, question, ...) become fields, as a table of one's own has them. llm, model: a server and its model
    instead of the rules; `server`: timeout (s) and retries of `ChatServer`. prices: $ per million tokens in and out.
    keep_comparisons: leave words such as "stable" and "new", as UniX's own references have them; the studies they name
    still go. Two files may lie beside `out` afterwards:

        OUT.disagreements.jsonl  the texts whose labels changed; where an LLM changed them, `out` has the rules' text
        OUT.answers.jsonl        the LLM's answers, from which a run that was cut off goes on

    The counts: read, changed, emptied (nothing was left, so the original stays), disagreements, and fallbacks (the
    answer could not be used, so the rules cleaned the text). Raises UserError if `out` or OUT.disagreements.jsonl is
    there and no cleaning wrote it.
    """
    out = Path(out)
    check_target(out)
    if llm and not model:
        raise UserError("--llm: which model? add --model NAME")
    if concurrency < 1:
        raise UserError(f"--concurrency {concurrency}: must be 1 or more")
    items = list(items)
    for number, item in enumerate(items, 1):
        for field in ("image", "findings", "impression"):
            if not isinstance(item.get(field), str):
                raise UserError(
                    f'record {number}: "{field}" is no text; every record needs image, findings, impression'
                )
    counts = dict.fromkeys(("read", "changed", "emptied", "disagreements", "fallbacks"), 0)
    shown = []
    disagreements = beside(out, "disagreements")
    with write_atomically(out) as temporary, write_atomically(disagreements) as temporary_disagreements:
        answers = {}
        if llm:
            reports = [(item["findings"], item["impression"]) for item in items]
            path = beside(out, "answers")
            found = ask(llm, model, keep_comparisons, server, reports, path, concurrency, progress, prices)
            answers = {report: answer for report, answer in found.items() if is_likely(answer, report)}
            counts["fallbacks"] = sum(any(map(str.strip, report)) and report not in answers for report in reports)
        with (
            open(temporary, "w", encoding="utf-8", errors="replace") as file,  # half characters become "?"
            open(temporary_disagreements, "w", encoding="utf-8", errors="replace") as differing,
        ):
            for item in tqdm(items, disable=not progress or bool(llm), unit="report"):
                before = (item["findings"], item["impression"])
                after, rules, lost = propose(before, answers, keep_comparisons)
                if lost:
                    counts["disagreements"] += 1
                    record = {"image": item["image"], "by": "rules" if after == rules else "llm", "observations": lost}
                    texts = {"before": before, "after": after}
                    differing.write(json.dumps(record | texts, ensure_ascii=False) + "\n")
                    after = rules
                if not any(text.strip() for text in after):
                    after = before
                    counts["emptied"] += any(text.strip() for text in before)
                changed = after != before
                counts["read"] += 1
                counts["changed"] += changed
                record = item | {"findings": after[0], "impression": after[1], "changed": changed}
                record |= {name: value for name, value in record.pop("extra", {}).items() if name not in record}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                if changed and len(shown) < examples:
                    shown.append((" | ".join(before), " | ".join(after)))
    show_examples(shown, examples)
    print(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts


def ask(llm: str, model: str, keep_comparisons: bool, server: dict, *work: object) -> dict[Sections, Sections]:
    """`reports.asking.ask_all` of a server, whose package a user may lack."""
    try:
        from reports.asking import KEEPING, PROMPT, ChatServer, ask_all
    except ModuleNotFoundError as error:
        raise UserError(f"--llm: the package {error.name} is missing; pip install 'openai'") from error
    prompt = KEEPING if keep_comparisons else PROMPT
    return ask_all(ChatServer(llm, model, prompt, **server), *work)


def beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name}.{what}.jsonl")


def check_target(out: Path, inputs: Iterable[Path] = ()) -> None:
    """Raises UserError if a file to be written is one of `inputs`, or holds what no cleaning wrote."""
    disagreements = beside(out, "disagreements")
    for target, source in itertools.product((out, disagreements, beside(out, "answers")), inputs):
        with contextlib.suppress(OSError, ValueError):
            if target.samefile(source):
                raise UserError(f"--out {out}: {target} is part of the set to be cleaned; name another file")
    for target, fields in ((out, OUR_FIELDS), (disagreements, OUR_DISAGREEMENTS)):
        try:
            regular = stat.S_ISREG(target.stat().st_mode)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or error
            raise UserError(f"--out {target}: cannot be written ({what}); name another file") from error
        if not regular or not starts_with(target, fields):
            raise UserError(f"--out {out}: {target} is there and no cleaning wrote it; name another file or move it")


def starts_with(path: Path, fields: set[str]) -> bool:
    """Whether a file is empty or its first line is a record with all of `fields`, the mark of what cleaning writes."""
    try:
        with open(path, "rb") as file:
            line = file.readline(MAX_LINE)
        record = json.loads(line) if line else dict.fromkeys(fields)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and fields <= set(record)


def show_examples(before_after: Iterable[tuple[str, str]], n: int) -> None:
    """Print the first n pairs of texts for reading."""
    for before, after in list(before_after)[:n]:
        print(f"before  {' '.join(before.split())}\nafter   {after}\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `run`; where the reports come from is the caller's flag."""
    parser.add_argument("--out", type=arguments.output_file, required=True, help="JSON lines to write")
    keep = "leave words such as stable, improved and new, as UniX's own references have them"
    parser.add_argument("--keep-comparisons", action="store_true", help=keep)
    parser.add_argument(
        "--examples", type=arguments.whole(0, 10_000), default=0, help="print so many reports before and after"
    )
    parser.add_argument("--llm", metavar="URL", help="an OpenAI-compatible server, e.g. http://localhost:8000/v1")
    server = parser.add_argument_group("with --llm")
    server.add_argument("--model", metavar="NAME", help="the model to ask there")
    server.add_argument("--concurrency", type=arguments.whole(1, 256), help="requests at a time (default 8)")
    server.add_argument("--timeout", type=arguments.number(0.1, 3600), help="seconds for one request (default 120)")
    for way in ("in", "out"):
        price = f"$ per million tokens {way}, for the estimate"
        server.add_argument(f"--price-{way}", type=arguments.number(0, 1e6), help=price)


def run(args: argparse.Namespace, items: Iterable[dict]) -> dict[str, int]:
    """`clean_records` with the flags of `add_arguments`."""
    for name in ("model", "concurrency", "timeout", "price_in", "price_out"):
        if not args.llm and getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: only a server takes it; add --llm URL")
    return clean_records(
        items,
        args.out,
        args.llm,
        args.model,
        args.concurrency or 8,
        prices=(args.price_in or 0.0, args.price_out or 0.0),
        examples=args.examples,
        keep_comparisons=args.keep_comparisons,
        timeout=args.timeout or 120.0,
    )
