"""demo.py in a process of its own, and what speaks HTTP to it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def served(weights, stderr=None, before=(), **variables):
    """The page of these weights -> (its address, its process). before: words of another command; variables: of the
    environment."""
    command = [*before, sys.executable, ROOT / "demo.py", "--weights", weights, "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment) as server:
        line = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", line), line
        try:
            yield line, server
        finally:
            server.terminate()


def call(address, name, data):
    """What `curl` does: start a call, then read its events to the last. -> (event, its data)"""
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(f"{address}gradio_api/call/{name}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/{name}/{event}", timeout=120) as answer:
        lines = answer.read().decode().strip().splitlines()
    kind = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")][-1]
    return kind, [line.removeprefix("data: ") for line in lines if line.startswith("data: ")][-1]


def upload(address, content, name="film.png"):
    """-> the path that the server gave the file."""
    parts = [
        "--edge",
        f'Content-Disposition: form-data; name="files"; filename="{name}"',
        "Content-Type: image/png",
        "",
    ]
    body = "\r\n".join([*parts, ""]).encode() + content + b"\r\n--edge--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}gradio_api/upload", body, headers)) as answer:
        return json.load(answer)[0]


def asked(address, method="GET", path="/", headers=(), body=None):
    """One request with just these headers (pairs; http.client adds no Host) -> (status, body)."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    with contextlib.closing(connection):
        answer = connection.getresponse()
        return answer.status, answer.read()
