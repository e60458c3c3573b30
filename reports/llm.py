"""Cleaning by a language model behind an OpenAI-compatible server.

`ChatServer` asks for one report, `ask_all` for many at a time. Every answer is kept in a file as it comes, so a run
that was cut off asks only for the rest. `reports/cleaning.py` checks the answers.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO

from tqdm import tqdm

from common.errors import UserError

PROMPT_VERSION = "1"  # a part of the cache's keys: raise it with every change of PROMPT
PROMPT = """\
You clean chest X-ray reports for training a model that sees one picture and nothing else.
Remove: de-identification blanks (___, XXXX, [**...**]), section headers, list numbers, dates, times, names, who was
told what, comparisons with earlier studies (unchanged, stable, new, again seen, interval increase), technique, views,
recommendations, and conversational filler. Where a comparison holds a finding, keep the finding: "Interval increase in
moderate left pleural effusion." becomes "Moderate left pleural effusion."; what has resolved or was removed is absent.
Keep every finding, normal statement, negation, uncertainty, side, location, size and severity, in the report's words.
Add nothing and infer nothing. Leave a section empty if nothing remains of it.
Answer with strict JSON only: {"findings": "...", "impression": "..."}"""


class ChatServer:
    """One model behind `POST url/chat/completions`. The key, where one is needed, comes from OPENAI_API_KEY.

    timeout: seconds for one request. retries: further tries after 429, 5xx, a timeout or a lost connection, waiting
    Retry-After seconds if the server says so, else backoff * 2**try seconds, half of it at random, at most max_wait.
    """

    def __init__(
        self,
        url: str,
        model: str,
        timeout: float = 120.0,
        retries: int = 6,
        backoff: float = 1.0,
        max_wait: float = 60.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--llm {url}: not a web address; give one such as http://localhost:8000/v1")
        self.url, self.model, self.timeout = url.rstrip("/"), model, timeout
        self.retries, self.backoff, self.max_wait = retries, backoff, max_wait
        self.stop = threading.Event()  # set, it ends the waiting of every thread

    def ask(self, findings: str, impression: str) -> tuple[str, str] | None:
        """The cleaned sections, or None if the answer was malformed twice. Raises UserError if no answer comes."""
        report = json.dumps({"findings": findings, "impression": impression}, ensure_ascii=False)
        messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": report}]
        for _ in range(2):
            if answer := parse_answer(self._post({"model": self.model, "temperature": 0, "messages": messages})):
                return answer
        return None

    def _post(self, body: dict) -> str:
        """The text of the first choice; "" if the server's reply holds none."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        for attempt in range(self.retries + 1):
            pause = min(self.backoff * 2**attempt, self.max_wait) * random.uniform(0.5, 1.0)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    content = json.load(reply)["choices"][0]["message"]["content"]
                return content if isinstance(content, str) else ""
            except (ValueError, LookupError, TypeError):
                return ""
            except urllib.error.HTTPError as error:
                said = " ".join(error.read(300).decode(errors="replace").split())
                if error.code != 429 and error.code < 500:
                    mend = "set OPENAI_API_KEY" if error.code in (401, 403) else "check the address and --model"
                    raise UserError(f"--llm {self.url}: the server answers {error.code} ({said}); {mend}") from error
                problem = f"{error.code} {said}"
                after = error.headers.get("Retry-After", "")
                pause = float(after) if after.isdigit() else pause
            except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < self.retries and self.stop.wait(pause):
                break
        raise UserError(
            f"--llm {self.url}: no answer after {self.retries + 1} tries ({problem}); start the server or run the "
            "same command again later: answers so far are kept"
        )


def parse_answer(content: str) -> tuple[str, str] | None:
    """(findings, impression) of strict JSON, inside of a code fence or not; None for anything else."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", content, re.S)
    try:
        answer = json.loads(fenced[1] if fenced else content)
    except ValueError:
        return None
    if not isinstance(answer, dict) or set(answer) != {"findings", "impression"}:
        return None
    findings, impression = answer["findings"], answer["impression"]
    return (findings, impression) if isinstance(findings, str) and isinstance(impression, str) else None


def answer_key(model: str, findings: str, impression: str) -> str:
    """Under which an answer is kept: it changes with the prompt, the model and the report."""
    return hashlib.sha256(json.dumps([PROMPT_VERSION, PROMPT, model, findings, impression]).encode()).hexdigest()


def open_answers(path: Path) -> tuple[dict[str, tuple[str, str]], IO[str]]:
    """The answers kept so far, and the file to append to. A last line torn by a crash is cut off."""
    answers, whole = {}, 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith(b"\n"):
            break
        whole += len(line)
        try:
            record = json.loads(line)
            answers[record["key"]] = (record["findings"], record["impression"])
        except (ValueError, LookupError, TypeError):
            continue  # asked again
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115, closed by the caller
    file.truncate(whole)
    return answers, file


def ask_all(
    server: ChatServer,
    reports: Iterable[tuple[str, str]],
    path: Path,
    concurrency: int,
    progress: bool,
    prices: tuple[float, float],
) -> dict[tuple[str, str], tuple[str, str]]:
    """Every report's answer, from the file at `path` or the server; reports answered malformed are missing."""
    answers, file = open_answers(path)
    keys = {report: answer_key(server.model, *report) for report in reports if any(text.strip() for text in report)}
    todo = [report for report, key in keys.items() if key not in answers]
    written = sum(len(text) for report in todo for text in report)
    tokens_in, tokens_out = (written + len(todo) * (len(PROMPT) + 40)) / 4, (written + len(todo) * 35) / 4
    cost = f", at most about ${(tokens_in * prices[0] + tokens_out * prices[1]) / 1e6:.2f}" if any(prices) else ""
    print(
        f"{len(todo)} reports to ask, {len(keys) - len(todo)} answered before: about {tokens_in:,.0f} tokens in, "
        f"{tokens_out:,.0f} out{cost}"
    )
    pool = ThreadPoolExecutor(concurrency)
    try:
        futures = {pool.submit(server.ask, *report): report for report in todo}
        for future in tqdm(as_completed(futures), total=len(todo), disable=not progress, unit="report"):
            if answer := future.result():
                key = keys[futures[future]]
                answers[key] = answer
                record = {"key": key, "findings": answer[0], "impression": answer[1]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
    finally:
        server.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        file.close()
    return {report: answers[key] for report, key in keys.items() if key in answers}
