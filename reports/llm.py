"""Reports cleaned by a language model behind an OpenAI-compatible server, by the package `openai` (extra "llm").

The server is not trusted: the key goes to the address that the user gave and nowhere else, no message shows it, and an
answer is what `parse_answer` takes or it is malformed. Every answer is written as it comes, so a run that was cut off
asks only for the rest.
"""

import asyncio
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

import openai
from tqdm import tqdm

from common.errors import UserError

REFUSED = (400, 413, 422)  # statuses that may be about one report: too long for the model, or not to its taste
BUSY = (408, 409, 429)  # and 500 and more: the package asks again
SECRET = 8  # characters; a shorter key is a placeholder such as EMPTY, which is a word of reports too
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

Sections = tuple[str, str]  # findings and impression
LENIENT = json.JSONDecoder(strict=False)  # line breaks in a text may be written as they are


class RefusedError(UserError):
    """The server does not take this one report."""


class Connection(openai.DefaultAsyncHttpxClient):
    """Follows no redirect, and ends a reply that drips, which the package's time-out (of silence) would wait for."""

    def __init__(self, url: str, key: str, seconds: float) -> None:
        here = urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")  # not by way of http_proxy
        super().__init__(follow_redirects=False, timeout=seconds, trust_env=not here)
        self.key, self.seconds = key, seconds

    async def send(self, request: object, **options: object) -> object:
        for name in ("openai-organization", "openai-project") + (() if self.key else ("authorization",)):
            request.headers.pop(name, None)  # the user's account is no other server's business
        return await asyncio.wait_for(super().send(request, **options), 2 * self.seconds)


class ChatServer:
    """One model behind `POST url/chat/completions`. The key, where one is needed, comes from OPENAI_API_KEY.

    timeout: seconds of silence that end a request. retries: further tries after 429, 5xx, a time-out or a lost
    connection, when the server says or ever later, as the package has it.
    """

    def __init__(self, url: str, model: str, prompt: str, timeout: float = 120.0, retries: int = 8) -> None:
        self.model, self.prompt, self.retries = model, prompt, retries
        self.options: dict[str, float] = {"temperature": 0}
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError("OPENAI_API_KEY: holds characters that no key has; set it again")
        self.shown = self.masked(f"--llm {check_address(url)}")
        key, http = self.key or "none", Connection(url, self.key, timeout)
        self.client = openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=retries, http_client=http)

    async def ask(self, report: Sections) -> Sections | None:
        """The cleaned sections, or None if the answer was malformed twice.

        Raises RefusedError if the server does not take this report, any other UserError if no answer comes at all.
        """
        given = json.dumps({"findings": report[0], "impression": report[1]}, ensure_ascii=False)
        messages = [{"role": "system", "content": self.prompt}, {"role": "user", "content": given}]
        for _ in range(2):
            if answer := parse_answer(await self.complete(messages)):
                return answer if len(self.key) < SECRET else tuple(map(self.without_key, answer))
        return None

    async def complete(self, messages: list[dict]) -> str:
        """The text of the first choice; "" if the server's reply holds none."""
        create, options = self.client.chat.completions.with_raw_response.create, self.options
        try:
            reply = await create(model=self.model, messages=messages, **options)
            return first_choice(reply.http_response.content)
        except openai.APIStatusError as error:
            status, said = error.status_code, error.response.text
            if status in REFUSED and options and "temperature" in said:  # a model that takes none but its own
                self.options = {}
                return await self.complete(messages)
            problem = f"{status} ({self.masked(said)})"
            mend = "set OPENAI_API_KEY" if status in (401, 403) else "check the address and --model"
            if status < 400:
                there = self.masked(error.response.headers.get("location", ""))
                mend = f"it sends us on to {there}, and nothing was sent there; if that is right, give its address"
            if status < 500 and status not in BUSY:
                refusal = RefusedError if status in REFUSED else UserError
                raise refusal(f"{self.shown}: the server answers {problem}; {mend}") from error
        except Exception as error:  # a hostile reply may make the package raise what is not its own
            late = (openai.APITimeoutError, asyncio.TimeoutError)  # older packages wrap the second
            timed_out = isinstance(error, late) or isinstance(error.__cause__, late)
            problem = "timed out" if timed_out else self.masked(f"{error} {error.__cause__ or ''}")
        mend = "start the server or run the same command again later: answers so far are kept"
        raise UserError(f"{self.shown}: no answer after {self.retries + 1} tries ({problem}); {mend}")

    def without_key(self, text: str) -> str:
        """`text` with *** for the key, as it is or as a web address has it; a host is shown in lower case."""
        forms = [re.escape(form) for form in (self.key, urllib.parse.quote(self.key, safe="")) if form]
        return re.sub("|".join(forms), "***", text, flags=re.I) if forms else text

    def masked(self, text: str) -> str:
        """`text` in one line that can be shown: at most 300 characters, without the key or any bearer's token."""
        text = re.sub(r"\bBearer\s+[^\s\"',]+", "Bearer ***", self.without_key(text), flags=re.I)
        return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:300]


def check_address(url: str) -> str:
    """The URL if a key may go there, else UserError, which does not show it: it may hold a secret."""
    plain = r"https?://(?:[\w.-]+|\[[\da-f:.]+\])(?::(?!0)(?:[1-5]?\d{1,4}|6[0-4]\d{3}))?(?:/[!-~]*)?"
    if not re.fullmatch(plain, url, re.ASCII | re.IGNORECASE) or re.search("[?#]", url):
        example = "give one such as http://localhost:8000/v1, without user, password, ? and #"
        raise UserError(f"--llm: not a plain web address; {example}; the key goes into OPENAI_API_KEY")
    return url


def first_choice(data: bytes) -> str:
    """The text in a reply of the server, whole or in parts; "" if it holds none."""
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def parse_answer(content: str) -> Sections | None:
    """(findings, impression) of the last object in an answer that has both; None if none has, or UTF-8 cannot hold it.

    Models think aloud before it, are polite around it, put it into a fence or a field and write null for nothing.
    """
    found, content = None, content[content.rfind("</think>") + 1 :]
    for start in [*re.finditer(r'\{\s*"', content)][-99:]:  # a hostile one has thousands
        try:
            answer, _ = LENIENT.raw_decode(content, start.start())
            named = {key.lower(): text or "" for key, text in answer.items()}
            "".join(sections := (named["findings"], named["impression"])).encode()
            found = sections
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    return found


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
    print(f"{len(todo)} reports to ask, {len(answers)} answered before")
    refusals: list[RefusedError] = []
    gate = asyncio.Semaphore(concurrency)

    async def ask(report: Sections) -> tuple[Sections, Sections | None]:
        async with gate:
            try:
                return report, await server.ask(report)
            except RefusedError as error:
                refusals.append(error)
                return report, None

    async def ask_each() -> None:  # the first error ends all
        useless = 0
        waiting = asyncio.as_completed([ask(report) for report in todo])
        for done in tqdm(waiting, total=len(todo), disable=not progress, unit="report"):
            report, answer = await done
            if answer:
                answers[report] = answer
                record = {"key": keys[report], "findings": answer[0], "impression": answer[1]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                continue
            useless += 1
            if not answers and useless in (HOPELESS, len(todo)):
                mend = f"check --model {server.model}, or leave --llm out to clean by rules"
                problem = f"{server.shown}: {useless} of {useless} answers are not the JSON that was asked for; {mend}"
                raise refusals[-1] if refusals else UserError(problem)

    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" if torn else "")
            asyncio.run(ask_each())
    finally:
        if path.exists() and not path.stat().st_size:
            path.unlink()
    if refusals:
        print(f"{len(refusals)} reports were refused and are cleaned by rules. The first: {refusals[0]}")
    return answers
