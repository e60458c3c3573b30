"""Reports cleaned for training: what a picture cannot show goes, what it shows stays.

The paper (sections 3 and 5.1) strips "underscores, technical metadata, and conversational fillers" from reports with an
LLM, since a model that learns to write "___" or "unchanged from the prior" hallucinates. There are two ways to do it:

    reports/rules.py  tables of regular expressions, free and offline
    reports/llm.py    any OpenAI-compatible server

This file holds what both share: neither may lose a finding or add one. The labeler must read the same observations and
sides before and after. Where an LLM's answer fails that, the rules' text is kept and the difference is written down.
`python data.py clean DATA --out FILE` is the command.
"""

import contextlib
import itertools
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.files import make_writable, write_text
from common.observations import OBSERVATIONS
from reports.labeler import label_report
from reports.rules import clean_text

MAX_LINE = 2**24  # bytes of a first line

Sections = tuple[str, str]  # findings and impression


def lost_or_added(before: Sections, proposed: Sections, rules: Sections) -> list[str]:
    """The observations of which `proposed` says another value or side. rules: what the rules make of `before`.

    Words about a prior examination may go with what they claim, so one counts as lost only if the rules keep it.
    """
    if not any(rules) and proposed == rules:
        return []  # nothing is left, so the original stays
    old, by_rules, new = (label_report("\n\n".join(sections)) for sections in (before, rules, proposed))
    known = old if proposed == rules else by_rules
    return [name for name in OBSERVATIONS if new[name] not in (old[name], known[name])]


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
    keep_comparisons: bool = False,
    **server: float,
) -> dict[str, int]:
    """Write `items` to `out` as JSON lines with cleaned texts and "changed"; returns and prints the counts.

    items: {"image", "findings", "impression", ...}, all str; other fields are kept as they are, and those in "extra"
    (captions, question, ...) become fields, as a table of one's own has them. llm, model: a server and its model
    instead of the rules; `server`: timeout (s) and retries of `ChatServer`. keep_comparisons: leave words such as
    "stable" and "new"; the studies they name still go. Two files may lie beside `out` afterwards:

        OUT.disagreements.jsonl  the texts whose labels changed; where an LLM changed them, `out` has the rules' text
        OUT.answers.jsonl        the LLM's answers, from which a run that was cut off goes on

    The counts: read, changed, emptied (nothing was left, so the original stays), disagreements, and fallbacks (the
    answer could not be used, so the rules cleaned the text). Raises UserError if `out` or OUT.disagreements.jsonl is
    there and no cleaning wrote it.
    """
    out = Path(out)
    check_target(out)
    make_writable(out.parent)
    if llm and not model:
        raise UserError("--llm: which model? add --model NAME")
    items, answers, lines, differing = list(items), {}, [], []
    counts = dict.fromkeys(("read", "changed", "emptied", "disagreements", "fallbacks"), 0)
    if llm:
        try:
            from reports.llm import KEEPING, PROMPT, ChatServer, ask_all
        except ModuleNotFoundError as error:
            raise UserError(f"--llm: the package {error.name} is missing; pip install 'openai'") from error
        reports = [(item["findings"], item["impression"]) for item in items]
        chat = ChatServer(llm, model, KEEPING if keep_comparisons else PROMPT, **server)
        found = ask_all(chat, reports, beside(out, "answers"), concurrency, progress)
        answers = {report: answer for report, answer in found.items() if is_likely(answer, report)}
        counts["fallbacks"] = sum(any(map(str.strip, report)) and report not in answers for report in reports)
    for item in tqdm(items, disable=not progress or bool(llm), unit="report"):
        before = (item["findings"], item["impression"])
        rules = tuple(clean_text(text, keep_comparisons) for text in before)
        after = answers.get(before, rules)
        if lost := lost_or_added(before, after, rules):
            counts["disagreements"] += 1
            record = {"image": item["image"], "by": "rules" if after == rules else "llm", "observations": lost}
            differing.append(json.dumps(record | {"before": before, "after": after}, ensure_ascii=False) + "\n")
            after = rules
        if not any(text.strip() for text in after):
            after = before
            counts["emptied"] += any(text.strip() for text in before)
        counts["read"] += 1
        counts["changed"] += after != before
        record = item | {"findings": after[0], "impression": after[1], "changed": after != before}
        record |= {name: value for name, value in record.pop("extra", {}).items() if name not in record}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(out, "".join(lines))
    write_text(beside(out, "disagreements"), "".join(differing))
    print(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts


def beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name}.{what}.jsonl")


def check_target(out: Path, inputs: Iterable[Path] = ()) -> None:
    """Raises UserError if a file to be written is one of `inputs`, or if its first line is not ours."""
    disagreements = beside(out, "disagreements")
    for target, source in itertools.product((out, disagreements, beside(out, "answers")), inputs):
        with contextlib.suppress(OSError):
            if target.samefile(source):
                raise UserError(f"--out {out}: {target} is part of the set to be cleaned; name another file")
    for target, mark in ((out, b'"changed": '), (disagreements, b'"observations": ')):
        first = b"" if os.path.exists(target) else mark
        if os.path.isfile(target):  # a pipe would be waited for
            with open(target, "rb") as file:
                first = file.readline(MAX_LINE) or mark
        if mark not in first:
            raise UserError(f"--out {out}: {target} is there and no cleaning wrote it; name another file or move it")
