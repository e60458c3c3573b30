"""One report cleaned by a language model behind an OpenAI-compatible server, by the package `openai` (extra "llm").

`reports/asking.py` has the prompt and asks for many. The server is not trusted: the key goes to the address that the
user gave and nowhere else, no message shows it, and an answer is what `parse_answer` takes or it is malformed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import urllib.parse

import openai

from common.errors import UserError

REFUSED = (400, 413, 422)  # statuses that may be about one report: too long for the model, or not to its taste
BUSY = (408, 409, 429)  # and 500 and more: the package asks again
SECRET = 8  # characters; a shorter key is a placeholder such as EMPTY, which is a word of reports too

Sections = tuple[str, str]  # findings and impression


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
        http = Connection(url, self.key, timeout)
        self.client = openai.AsyncOpenAI(
            api_key=self.key or "none", base_url=url, max_retries=retries, http_client=http
        )

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
        except (openai.OpenAIError, asyncio.TimeoutError) as error:
            late = (openai.APITimeoutError, asyncio.TimeoutError)  # older packages wrap the second
            timed_out = isinstance(error, late) or isinstance(error.__cause__, late)
            problem = "timed out" if timed_out else self.masked(f"{error} {error.__cause__ or ''}")
        raise UserError(
            f"{self.shown}: no answer after {self.retries + 1} tries ({problem}); start the server or run "
            "the same command again later: answers so far are kept"
        )

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
    try:
        parts = urllib.parse.urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        plain = False
    if not plain or not re.fullmatch(r"[!-~]+", url) or re.search(r"[?#]", url):
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
    """(findings, impression) of the JSON in an answer; None if it has none that UTF-8 can hold.

    Models think aloud before it, are polite around it, put it into a fence and add fields to it.
    """
    content = content[content.rfind("</think>") + 1 :]
    try:
        answer = json.loads(content[content.find("{") : content.rfind("}") + 1], strict=False)
        "".join(sections := (answer["findings"], answer["impression"])).encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return sections
