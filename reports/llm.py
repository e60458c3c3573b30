"""Cleaning by a language model behind an OpenAI-compatible server.

`ChatServer` asks for one report, `ask_all` for many at a time. Every answer is kept in a file as it comes, so a run
that was cut off asks only for the rest. `reports/cleaning.py` checks the answers.

The server is not trusted. The key goes to the address that the user gave and nowhere else: no redirect is followed,
and no message shows it. A request ends with its time, however slowly an answer drips, and an answer is what
`read_sections` takes or it is malformed.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import io
import json
import os
import random
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import IO

from tqdm import tqdm

from common.errors import UserError

MAX_REPLY = 2**20  # bytes; a cleaned report has 1 kB
HOPELESS = 50  # so many reports without a useful answer, and no useful one, end a run
REFUSED = (400, 413, 422)  # statuses that may be about one report: too long for the model, or not to its taste
SECRET = 8  # characters; a shorter key is a placeholder such as EMPTY, which is a word of reports too

PROMPT_VERSION = "1"  # a part of the cache's keys: raise it with every change of PROMPT
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


class RefusedError(UserError):
    """The server does not take this one report."""


class Incoming(io.RawIOBase):
    """What comes in at a socket, 2 * MAX_REPLY bytes at most; TimeoutError at `deadline` or when `stop` is set.

    deadline: of time.monotonic, in seconds. It holds for headers and body together.
    """

    def __init__(self, sock: socket.socket, deadline: float, stop: threading.Event) -> None:
        self.sock, self.deadline, self.stop, self.seen = sock, deadline, stop, 0
        self.keeps_open = sock.makefile("rb", buffering=0)  # the connection closes the socket before its end is read

    def makefile(self, mode: str) -> io.BufferedReader:  # what http.client asks of a socket
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if self.seen > 2 * MAX_REPLY:
            return 0
        while (left := self.deadline - time.monotonic()) > 0 and not self.stop.is_set():
            self.sock.settimeout(min(left, 0.5))
            with contextlib.suppress(TimeoutError):
                count = self.sock.recv_into(buffer)
                self.seen += count
                return count
        raise TimeoutError("timed out")

    def close(self) -> None:
        self.keeps_open.close()
        super().close()


class Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """urllib's connections, read through `incoming(socket)`."""

    def __init__(self, incoming: partial) -> None:
        super().__init__()
        self.incoming = incoming

    def connection(self, kind: type, host: str, **options: object) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection.response_class = lambda sock, **more: http.client.HTTPResponse(self.incoming(sock), **more)
        return connection

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self.connection, http.client.HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self.connection, http.client.HTTPSConnection), request)


class ChatServer:
    """One model behind `POST url/chat/completions`. The key, where one is needed, comes from OPENAI_API_KEY.

    timeout: seconds for one request, from the connection to the last byte. retries: further tries after 429, 5xx, a
    timeout or a lost connection, waiting Retry-After seconds if the server says so, else backoff * 2**try seconds,
    half of it at random, at most max_wait either way.
    """

    def __init__(
        self,
        url: str,
        model: str,
        timeout: float = 120.0,
        retries: int = 6,
        backoff: float = 1.0,
        max_wait: float = 60.0,
        keep_comparisons: bool = False,
    ) -> None:
        self.prompt = KEEPING if keep_comparisons else PROMPT
        self.url, self.model, self.timeout = check_address(url).rstrip("/"), model, timeout
        self.retries, self.backoff, self.max_wait = retries, backoff, max_wait
        self.stop = threading.Event()  # set, it ends the waiting of every thread
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError("OPENAI_API_KEY: holds characters that no key has; set it again")
        if not timeout > 0:
            raise UserError(f"--timeout {timeout}: must be more than 0 seconds")

    def ask(self, findings: str, impression: str) -> tuple[str, str] | None:
        """The cleaned sections, or None if the answer was malformed twice.

        Raises RefusedError if the server does not take this report, any other UserError if no answer comes at all.
        """
        report = json.dumps({"findings": findings, "impression": impression}, ensure_ascii=False)
        messages = [{"role": "system", "content": self.prompt}, {"role": "user", "content": report}]
        for _ in range(2):
            if answer := parse_answer(self._post({"model": self.model, "temperature": 0, "messages": messages})):
                return answer if len(self.key) < SECRET else tuple(map(self.without_key, answer))
        return None

    def without_key(self, text: str) -> str:
        """`text` with *** for the key, in any way of writing it."""
        for form in (self.key, urllib.parse.quote(self.key, safe=""), json.dumps(self.key)[1:-1]):
            text = re.sub(re.escape(form), "***", text, flags=re.I) if form else text  # a host is shown in lower case
        return text

    def masked(self, text: str) -> str:
        """`text` in one line that can be shown: at most 300 characters, without the key or any bearer's token."""
        text = re.sub(r"\bBearer\s+[^\s\"',]+", "Bearer ***", self.without_key(text), flags=re.I)
        return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:300]

    def _post(self, body: dict) -> str:
        """The text of the first choice; "" if the server's reply holds none."""
        name = f"--llm {self.masked(self.url)}"
        for attempt in range(self.retries + 1):
            pause = min(self.backoff * 2**attempt, self.max_wait) * random.uniform(0.5, 1.0)
            try:
                status, headers, data = self._request(json.dumps(body).encode())
            except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
                problem = self.masked(str(getattr(error, "reason", error))) or type(error).__name__
            else:
                if 200 <= status < 300:
                    return first_choice(data)
                # A key that the cut goes through would not be found, so as much as may be a part of one goes too.
                whole = data if len(data) <= MAX_REPLY else data[: MAX_REPLY - len(self.key)]
                said = self.masked(whole.decode(errors="replace"))
                if 300 <= status < 400:
                    there = self.masked(origin(headers.get("Location", ""), self.url))
                    raise UserError(
                        f"{name}: the server sends us on to {there} ({status}), and nothing was sent there; "
                        "if that is right, give its address"
                    )
                if status in REFUSED:
                    raise RefusedError(f"{name}: the server answers {status} ({said}); check the address and --model")
                if status != 429 and status < 500:
                    mend = "set OPENAI_API_KEY" if status in (401, 403) else "check the address and --model"
                    raise UserError(f"{name}: the server answers {status} ({said}); {mend}")
                problem = f"{status} {said}"
                pause = min(seconds_to_wait(headers.get("Retry-After", ""), pause), self.max_wait)
            if self.stop.is_set() or (attempt < self.retries and self.stop.wait(pause)):
                break
        raise UserError(
            f"{name}: no answer after {attempt + 1} tries ({problem}); start the server or run the "
            "same command again later: answers so far are kept"
        )

    def _request(self, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        """(status, headers, at most MAX_REPLY + 1 bytes) of one request. Redirects are replies like any other."""
        opener = urllib.request.OpenerDirector()
        incoming = partial(Incoming, deadline=time.monotonic() + self.timeout, stop=self.stop)
        for handler in (urllib.request.ProxyHandler(), Handler(incoming)):
            opener.add_handler(handler)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)
        with opener.open(request, timeout=self.timeout) as reply:
            data = reply.read(MAX_REPLY + 1)
            if reply.length and len(data) <= MAX_REPLY:
                raise http.client.IncompleteRead(data, reply.length)
            return reply.status, reply.headers, data


def check_address(url: str) -> str:
    """The URL if a key may go there. Raises UserError that shows none of its secrets."""
    try:
        parts = urllib.parse.urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and url.isascii() and parts.port != 0
    except ValueError:
        whole = False
    if not whole or re.search(r"\s", url) or not url.isprintable():
        shown = re.sub(r"//.*@|[?#].*", "...", url, flags=re.S)[:100]
        shown = "".join(c if c.isprintable() else "?" for c in shown)
        raise UserError(f"--llm {shown}: not a web address; give one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"--llm {origin(url)}: give the address without user, password, ? and #; the key goes into OPENAI_API_KEY"
        )
    return url


def origin(url: str, base: str = "") -> str:
    """Scheme, host and port of an address, which may be relative to `base`, without what may be secret in it."""
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, url))
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def seconds_to_wait(after: str, otherwise: float) -> float:
    """What a Retry-After header says, which is a number of seconds or a date; `otherwise` if it says nothing."""
    if re.fullmatch(r"[0-9]+", after.strip()):
        return float(after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return otherwise


def first_choice(data: bytes) -> str:
    """The text in a reply of the server; "" if it holds none or is too long."""
    try:
        content = json.loads(data)["choices"][0]["message"]["content"] if len(data) <= MAX_REPLY else ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return content if isinstance(content, str) else ""


def parse_answer(content: str) -> tuple[str, str] | None:
    """(findings, impression) of strict JSON, inside of a code fence or not; None for anything else."""
    content = content.strip()
    if len(content) >= 6 and content.startswith("```") and content.endswith("```"):
        content = content[3:-3].removeprefix("json")
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return read_sections(answer) if isinstance(answer, dict) and len(answer) == 2 else None


def read_sections(answer: dict) -> tuple[str, str] | None:
    """(findings, impression) if both are there and can be written as UTF-8: JSON can hold half a character."""
    try:
        sections = answer["findings"], answer["impression"]
        for text in sections:
            text.encode()
    except (LookupError, TypeError, AttributeError, UnicodeEncodeError):
        return None
    return sections


def answer_key(server: ChatServer, findings: str, impression: str) -> str:
    """Under which an answer is kept: it changes with the prompt, the model and the report."""
    parts = [PROMPT_VERSION, server.prompt, server.model, findings, impression]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def open_answers(path: Path) -> tuple[dict[str, tuple[str, str]], IO[str]]:
    """The answers kept so far, and the file to append to. A damaged line is asked again, and a torn last one goes."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file, and the answers are kept there; move it away")
    answers, whole, torn = {}, 0, b""
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith(b"\n"):
            torn = line
            break
        whole += len(line)
        try:
            record = json.loads(line)
            if sections := read_sections(record):
                answers[record["key"]] = sections
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115, closed by the caller
    if torn.startswith(b'{"key": "'):
        file.truncate(whole)
    elif torn:
        file.write("\n")
    return answers, file


def ask_all(
    server: ChatServer,
    reports: Iterable[tuple[str, str]],
    path: Path,
    concurrency: int,
    progress: bool,
    prices: tuple[float, float],
) -> dict[tuple[str, str], tuple[str, str]]:
    """Every report's answer, from the file at `path` or the server; what was refused or answered malformed is missing.

    Raises UserError if the server stops answering, or if none of its answers can be used.
    """
    answers, file = open_answers(path)
    keys = {report: answer_key(server, *report) for report in reports if any(text.strip() for text in report)}
    todo = [report for report, key in keys.items() if key not in answers]
    written = sum(len(text) for report in todo for text in report)
    tokens_in, tokens_out = (written + len(todo) * (len(server.prompt) + 40)) / 4, (written + len(todo) * 35) / 4
    cost = f", at most about ${(tokens_in * prices[0] + tokens_out * prices[1]) / 1e6:.2f}" if any(prices) else ""
    print(
        f"{len(todo)} reports to ask, {len(keys) - len(todo)} answered before: about {tokens_in:,.0f} tokens in, "
        f"{tokens_out:,.0f} out{cost}"
    )
    refusals: list[RefusedError] = []
    useless, useful = 0, any(key in answers for key in keys.values())
    pool = ThreadPoolExecutor(concurrency)
    try:
        futures = {pool.submit(server.ask, *report): report for report in todo}
        for future in tqdm(as_completed(futures), total=len(todo), disable=not progress, unit="report"):
            try:
                answer = future.result()
            except RefusedError as error:
                answer = None
                refusals.append(error)
            if answer:
                key = keys[futures[future]]
                answers[key] = answer
                record = {"key": key, "findings": answer[0], "impression": answer[1]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                useful = True
                continue
            useless += 1
            if not useful and useless in (HOPELESS, len(todo)):
                if refusals:
                    raise refusals[-1]
                raise UserError(
                    f"--llm {server.masked(server.url)}: {useless} of {useless} answers are not the JSON that was "
                    f"asked for; check --model {server.model}, or leave --llm out to clean by rules"
                )
    finally:
        server.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        file.close()
        with contextlib.suppress(OSError):
            if not path.stat().st_size:
                path.unlink()
    if refusals:
        print(f"{len(refusals)} reports were refused and are cleaned by rules. The first: {refusals[0]}")
    return {report: answers[key] for report, key in keys.items() if key in answers}
