"""Many reports cleaned by a language model: the prompt, the requests at a time, and the file that keeps the answers.

Every answer is written as it comes, so a run that was cut off asks only for the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from reports.llm import ChatServer, RefusedError, Sections, parse_answer

HOPELESS = 50  # so many reports without a useful answer, and no useful one, end a run

PROMPT_VERSION = "1"  # a part of the keys of kept answers: raise it with every change of PROMPT
TEMPLATE = """\
You clean chest X-ray reports for training a model that sees one picture and nothing else.
Remove: de-identification blanks (___, XXXX, [**...**]), section headers, list numbers, dates, times, names, who was
told what, %s, technique, views,
recommendations, and conversational filler. %s\
Keep every finding, normal statement, negation, uncertainty, side, location, size and severity, in the report's words.
Add nothing and infer nothing. Leave a section empty if nothing remains of it.
Answer with strict JSON only: {"findings": "...", "impression": "..."}"""
PROMPT = TEMPLATE % (
    "comparisons with earlier studies (unchanged, stable, new, again seen, interval increase)",
    'Where a comparison holds a finding, keep the finding: "Interval increase in\nmoderate left pleural effusion."'
    ' becomes "Moderate left pleural effusion."; what has resolved or was removed is absent.\n',
)
KEEPING = TEMPLATE % ("the earlier study that a comparison names (its own word stays: stable, improved, new)", "")


def answer_key(server: ChatServer, report: Sections) -> str:
    """Under which an answer is kept: it changes with the prompt, the model and the report."""
    parts = [PROMPT_VERSION, server.prompt, server.model, *report]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def kept_answers(path: Path) -> dict[str, Sections]:
    """The answers of earlier runs by their keys; a line that is damaged is asked again."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file, and the answers are kept there; move it away")
    answers = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        if (key := re.match(r'\{"key": "(\w+)"', line)) and (answer := parse_answer(line)):
            answers[key[1]] = answer
    return answers


def ask_all(
    server: ChatServer, reports: Iterable[Sections], path: Path, concurrency: int = 8, progress: bool = True
) -> dict[Sections, Sections]:
    """Every report's answer, from the file at `path` or the server; what was refused or answered malformed is missing.

    Raises UserError if the server stops answering, or if none of its answers can be used.
    """
    kept = kept_answers(path)
    keys = {report: answer_key(server, report) for report in reports if any(text.strip() for text in report)}
    answers = {report: kept[key] for report, key in keys.items() if key in kept}
    todo = [report for report in keys if report not in answers]
    written = sum(len(text) for report in todo for text in report)
    tokens = (written + len(todo) * (len(server.prompt) + 40)) / 4, (written + len(todo) * 35) / 4
    print(
        f"{len(todo)} reports to ask, {len(answers)} answered before: about {tokens[0]:,.0f} tokens in, "
        f"{tokens[1]:,.0f} out"
    )
    refusals: list[RefusedError] = []
    useless, gate = 0, asyncio.Semaphore(concurrency)

    async def ask(report: Sections) -> None:
        nonlocal useless
        async with gate:
            try:
                answer = await server.ask(report)
            except RefusedError as error:
                answer = None
                refusals.append(error)
        bar.update()
        if answer:
            answers[report] = answer
            record = {"key": keys[report], "findings": answer[0], "impression": answer[1]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            return
        useless += 1
        if not answers and useless in (HOPELESS, len(todo)):
            if refusals:
                raise refusals[-1]
            raise UserError(
                f"{server.shown}: {useless} of {useless} answers are not the JSON that was asked for; check "
                f"--model {server.model}, or leave --llm out to clean by rules"
            )

    async def ask_each() -> None:  # the first error ends all
        await asyncio.gather(*map(ask, todo))

    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    try:
        with (
            open(path, "a", encoding="utf-8") as file,
            tqdm(total=len(todo), disable=not progress, unit="report") as bar,
        ):
            file.write("\n" if torn else "")
            asyncio.run(ask_each())
    finally:
        if path.exists() and not path.stat().st_size:
            path.unlink()
    if refusals:
        print(f"{len(refusals)} reports were refused and are cleaned by rules. The first: {refusals[0]}")
    return answers
