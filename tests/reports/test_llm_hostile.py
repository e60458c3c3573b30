"""A server that is hostile or broken costs no key, no hang and no report."""

import asyncio
import json
import socket
import threading
import time

import pytest

from common.errors import UserError
from reports.cleaning import clean_records
from reports.llm import ChatServer, answer_key, kept_answers, parse_answer

KEY = "sk-Secret-0123456789"
QUICK = {"retries": 1, "timeout": 5}
GOOD = json.dumps({"findings": "Left effusion.", "impression": ""})


def chat(content):
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def http(body, status=200, **headers):
    """The bytes of a reply."""
    lines = [f"HTTP/1.1 {status} as you say", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Raw:
    """Listens, keeps what it was sent, and answers the n-th request (from 1) with the bytes of `reply(n, request)`."""

    def __init__(self, reply, pause=0.0):
        self.requests, self.reply, self.pause = [], reply, pause
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            request = b""
            while b"\r\n\r\n" not in request or len(request.split(b"\r\n\r\n", 1)[1]) < length(request):
                part = connection.recv(65536)
                if not part:
                    return  # the client gave up
                request += part
            self.requests.append(request)
            reply = self.reply(len(self.requests), request)
            try:
                if not self.pause:
                    connection.sendall(reply)
                for byte in reply if self.pause else b"":
                    connection.sendall(bytes([byte]))
                    time.sleep(self.pause)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
            except OSError:
                pass


def length(request):
    return int(request.lower().split(b"content-length:")[1].split(b"\r\n")[0])


@pytest.fixture
def serve():
    servers = []

    def start(reply, **more):
        servers.append(Raw(reply, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.socket.close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def items(count=2):
    return [{"image": f"{i}.png", "findings": f"Stable left effusion {i}.", "impression": ""} for i in range(count)]


def ask(url, **more):
    return asyncio.run(ChatServer(url, "m", "", **{**QUICK, **more}).ask(("Left effusion.", "")))


def refusal(url, **more):
    with pytest.raises(UserError) as caught:
        ask(url, **more)
    message = str(caught.value)
    assert "secret" not in message.lower() and "\n" not in message
    return message


# ---- the key -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_its_origin_named(serve, status):
    other = serve(lambda n, request: http(chat(GOOD)))
    location = other.url.replace("//", f"//u:{KEY}@") + f"/x?key={KEY}"
    first = serve(lambda n, request: http(b"", status, Location=location))
    message = refusal(first.url)
    assert f"answers {status} ()" in message
    assert f"sends us on to {other.url.replace('//', '//u:***@')}/x?key=***, and nothing was sent there" in message
    assert len(first.requests) == 1 and not other.requests


@pytest.mark.parametrize("location", ["http://[", "", "/v2", "file:///etc/passwd", "javascript:x", f"http://{KEY}/"])
def test_a_redirect_to_anywhere_is_refused(serve, location):
    message = refusal(serve(lambda n, request: http(b"", 302, Location=location)).url)
    unread = location == "javascript:x" and "no answer" in message  # httpx2 2.14 stumbles over it before we see it
    assert "sends us on" in message or unread


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_an_error_that_echoes_the_key_is_masked(serve, status):
    echo = f"no such key {KEY} ('Authorization: Bearer {KEY}', bearer other-secret)"
    message = refusal(serve(lambda n, request: http(echo.encode(), status)).url)
    assert str(status) in message and "no such key ***" in message and "Bearer ***" in message


def test_a_key_that_the_cut_goes_through_is_masked(serve):
    for text in (f"{'x' * 290} {KEY}", KEY * 200, KEY * 100_000, "\n".join([KEY] * 50)):
        assert "sk-" not in refusal(serve(lambda n, request, text=text: http(text.encode(), 401)).url)


def test_an_exception_that_echoes_the_key_is_masked(serve):
    message = refusal(serve(lambda n, request: f"NOTHTTP {KEY} {request.decode()[:400]}\r\n\r\n".encode()).url)
    assert "no answer after 2 tries" in message


def test_a_key_in_a_good_answer_is_masked(serve, tmp_path):
    echo = json.dumps({"findings": f"Left effusion {KEY}.", "impression": KEY.upper()})
    server = serve(lambda n, request: http(chat(echo)))
    clean_records(items(1), tmp_path / "out.jsonl", server.url, "m", progress=False, **QUICK)
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert (record["findings"], record["impression"]) == ("Left effusion ***.", "***")
    assert not any(KEY.lower() in path.read_text().lower() for path in tmp_path.iterdir())


def test_a_key_that_is_a_word_of_reports_masks_no_report(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    echo = json.dumps({"findings": "Empty stomach.", "impression": ""})
    assert ask(serve(lambda n, request: http(chat(echo))).url)[0] == "Empty stomach."


def test_an_address_with_secrets_is_refused_without_them():
    for url in (f"http://u:{KEY}@h/v1", f"https://h/v1?key={KEY}", f"http://h/v1#{KEY}", f"http://u:{KEY}@h:x/v1"):
        assert "without user, password" in refusal(url)
    for url in ("http://", "http://h:0/v1", "http://h:99999999/v1", "http://[/v1", "http://h /v1", "http://h\n/v1"):
        assert "not a plain web address" in refusal(url)
    assert "***" in refusal(f"http://127.0.0.1:9/{KEY}/v1")


def test_a_key_that_no_header_can_hold_is_refused(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\r\nX: y")
    assert "OPENAI_API_KEY" in refusal("http://127.0.0.1:9/v1")


# ---- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 401])
def test_a_server_that_drips_ends_with_the_time(serve, status):
    server = serve(lambda n, request: http(chat(GOOD), status), pause=0.05)
    started = time.monotonic()
    assert "timed out" in refusal(server.url, timeout=0.4, retries=0)
    assert time.monotonic() - started < 3


def test_a_server_that_says_nothing_ends_with_the_time(serve):
    server = serve(lambda n, request: time.sleep(5) or b"")
    started = time.monotonic()
    assert "timed out" in refusal(server.url, timeout=0.4, retries=0)
    assert time.monotonic() - started < 3


def test_the_first_error_of_a_run_waits_for_no_other_answer(serve, tmp_path):
    server = serve(lambda n, request: http(b"no", 401) if b"effusion 1" in request else time.sleep(9) or b"")
    started = time.monotonic()
    with pytest.raises(UserError, match="the server answers 401"):
        clean_records(items(), tmp_path / "out.jsonl", server.url, "m", progress=False)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("after", ["99999", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT", "1e9", "-5", "²", "soon"])
def test_a_server_that_wants_us_to_wait_for_ever_is_not_obeyed(serve, after):
    server = serve(lambda n, request: http(b"", 429, Retry_After=after.encode().decode("latin-1")))
    started = time.monotonic()
    assert "answers so far are kept" in refusal(server.url)
    assert time.monotonic() - started < 5


# ---- answers -------------------------------------------------------------------------------------------------------

MALFORMED = {
    "half a character": http(chat('{"findings": "Left effusion \\ud800.", "impression": ""}')),
    "nested answer": http(chat('{"findings": ' + "[" * 100_000 + "]" * 100_000 + ', "impression": ""}')),
    "nested reply": http(b"[" * 500_000),
    "empty": http(b""),
    "html": http(b"<!doctype html><html><body>Sign in</body></html>", Content_Type="text/html"),
    "no text": http(b"\xff\xfe\x00{\x9d"),
    "content is a list": http(chat(["Left effusion."])),
    "no content": http(chat(None)),
    "no choices": http(b'{"choices": []}'),
    "a number": http(b"9" * 10_000),
    "wrong types": http(chat('{"findings": {"a": 1}, "impression": null}')),
    "white space": http(chat("```" + " " * 200_000 + "x")),
    "ten megabytes": http(chat(json.dumps({"findings": "a" * 10_000_000, "impression": ""}))),
}


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_is_counted_and_the_rules_do_it(serve, tmp_path, reply):
    server = serve(lambda n, request: reply if b"effusion 0" in request else http(chat(GOOD)))
    started = time.monotonic()
    counts = clean_records(items(), tmp_path / "out.jsonl", server.url, "m", progress=False, **QUICK)
    assert counts["fallbacks"] == 1 and time.monotonic() - started < 5
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["findings"] for line in lines] == ["Left effusion 0.", "Left effusion."]


@pytest.mark.parametrize("reply", [http(b"{}")[:-1], b"", b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000])
def test_a_reply_that_breaks_off_is_a_lost_connection(serve, reply):
    assert "no answer after 2 tries" in refusal(serve(lambda n, request: reply).url)


def test_chunks_of_no_length_fill_no_memory(serve):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for size in (b"-1", b"-5", b"zz"):
        refusal(serve(lambda n, request, size=size: head + size + b"\r\n" + b"a" * 9_000_000).url, retries=0)


@pytest.mark.parametrize("count", [1, 3, 200])
def test_a_run_without_any_good_answer_is_refused(serve, tmp_path, count):
    server = serve(lambda n, request: http(chat("Sure!")))
    with pytest.raises(UserError, match=r"--llm .* answers are not the JSON that was asked for"):
        clean_records(items(count), tmp_path / "out.jsonl", server.url, "m", progress=False, **QUICK)
    assert len(server.requests) < 150
    assert not list(tmp_path.iterdir())


def test_a_rerun_whose_last_report_stays_malformed_ends_well(serve, tmp_path):
    server = serve(lambda n, request: http(chat("Sure!" if b"effusion 0" in request else GOOD)))
    for _ in range(2):
        counts = clean_records(items(), tmp_path / "out.jsonl", server.url, "m", progress=False, **QUICK)
        assert counts["fallbacks"] == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_report_that_the_server_refuses_is_cleaned_by_rules(serve, tmp_path, capsys, status):
    refused = http(f"too long, {KEY}".encode(), status)
    server = serve(lambda n, request: refused if b"effusion 0" in request else http(chat(GOOD)))
    counts = clean_records(items(3), tmp_path / "out.jsonl", server.url, "m", 1, progress=False, **QUICK)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["findings"] for line in lines] == ["Left effusion 0.", "Left effusion.", "Left effusion."]
    assert counts["fallbacks"] == 1 and len(server.requests) == 3  # none is asked twice
    printed = capsys.readouterr().out
    assert f"1 reports were refused and are cleaned by rules. The first: --llm {server.url}" in printed
    assert str(status) in printed and KEY not in printed


def test_a_server_that_refuses_every_report_ends_the_run_with_its_words(serve, tmp_path):
    server = serve(lambda n, request: http(b"no model of this name", 400))
    with pytest.raises(UserError, match=r"400 \(no model of this name\); check the address and --model"):
        clean_records(items(200), tmp_path / "out.jsonl", server.url, "m", progress=False, **QUICK)
    assert len(server.requests) < 150 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_status_that_is_about_the_server_ends_the_run(serve, tmp_path, status):
    server = serve(lambda n, request: http(chat(GOOD)) if n == 1 else http(b"no", status))
    with pytest.raises(UserError, match=f"the server answers {status}"):
        clean_records(items(20), tmp_path / "out.jsonl", server.url, "m", 1, progress=False, **QUICK)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_fence_around_nothing_is_nothing():
    assert parse_answer("```") is None and parse_answer("`````") is None and parse_answer("``````") is None
    assert parse_answer("}{") is None and parse_answer("</think>") is None and parse_answer("{" * 100_000) is None


# ---- the file of answers -------------------------------------------------------------------------------------------


def test_damaged_lines_are_asked_again_and_the_others_stay(tmp_path):
    path = tmp_path / "answers.jsonl"
    good = {"key": "k", "findings": "a", "impression": "b"}
    damaged = [
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"5",
        b'"key"',
        b"[1, 2]",
        b'{"key": [], "findings": "a", "impression": "b"}',
        b'{"key": "x", "findings": 5, "impression": "b"}',
        b'{"key": "y", "findings": "\\ud800", "impression": "b"}',
        b"",
    ]
    path.write_bytes(b"\n".join([*damaged, json.dumps(good).encode(), *damaged]) + b'\n{"key": "torn')
    assert kept_answers(path) == {"k": ("a", "b")}


def test_what_another_program_wrote_is_not_cut(serve, tmp_path):
    path = tmp_path / "out.jsonl.answers.jsonl"
    path.write_bytes(b"my notes\nwithout an end")
    server = serve(lambda n, request: http(chat(GOOD)))
    for _ in range(2):
        clean_records(items(1), tmp_path / "out.jsonl", server.url, "m", progress=False, **QUICK)
    lines = path.read_bytes().split(b"\n")
    assert lines[:2] == [b"my notes", b"without an end"] and len(lines) == 4 and len(server.requests) == 1
    with pytest.raises(UserError, match="not a file"):
        kept_answers(tmp_path)


def test_the_keys_of_kept_answers_stay():
    """What was paid for is found again: the key as it has been since the first version."""
    server = ChatServer("http://h/v1", "m", "p")
    assert answer_key(server, ("a", "b")) == "39aa46d9c4089911d88ee2dd367653204ad40684c9cd13225b217baf90747e08"
