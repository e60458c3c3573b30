"""`weights.py download` against a hub on the loopback address, which has our random models in its repositories."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from published import golden_folder
from weights import load_checkpoint

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository, ZrH42/UniX. refuse: (status, headers) of every answer. cut: the first answer with a file of so
    many bytes or more ends in its middle. wrong: files that are described as another's."""

    def __init__(self, folder, refuse=None, cut=None, wrong=()):
        self.asked, self.refuse, self.cut, hub = [], refuse, cut, self
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        content = {name: (folder / name).read_bytes() for name in names}
        sums = {name: hashlib.sha256(content[name] + b"!" * (name in wrong)).hexdigest() for name in names}
        siblings = [
            {"rfilename": name, "size": len(content[name]), "lfs": {"sha256": sums[name], "size": 1, "pointerSize": 1}}
            for name in names
        ]
        about = {"id": "ZrH42/UniX", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "apache-2.0"}}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, body=b"", headers=()):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_HEAD(self):
                self.do_GET(send=False)

            def do_GET(self, send=True):
                hub.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
                if hub.refuse:
                    return self.answer(hub.refuse[0], headers=hub.refuse[1])
                if self.path.startswith("/api/models/ZrH42/UniX/revision/main"):
                    body = json.dumps(about).encode()
                    self.answer(200, body, {"Content-Type": "application/json"})
                    return self.wfile.write(body)
                name = self.path.split("?")[0].removeprefix(f"/ZrH42/UniX/resolve/{COMMIT}/")
                if name not in content:  # the library asks for more than files
                    return self.answer(404)
                body, status = content[name], 200
                headers = {"ETag": f'"{sums[name]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
                if given := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
                    start = int(given[1])
                    headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                    body, status = body[start:], 206
                self.answer(status, body, headers)
                if send and hub.cut and len(body) >= hub.cut:
                    hub.cut, body = None, body[: len(body) // 2]
                    self.close_connection = True
                if send:
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture(scope="module")
def published(micro, tmp_path_factory):
    folder = golden_folder(tmp_path_factory.mktemp("hub") / "UniX", "unix_tiny", micro)
    (folder / "pytorch_model.bin").write_bytes(b"the same weights once more")
    (folder / "figure.png").write_bytes(b"what no loader reads")
    return folder


def fetch(address, cwd, *words, **environment):
    names = ("HF_", "HUGGING", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    clean |= {"HF_ENDPOINT": address, "HF_HOME": str(cwd / "home"), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, ROOT / "weights.py", "download", *words]
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_files_that_the_loader_reads_are_fetched_checked_and_named(published, tmp_path):
    hub = Hub(published)
    ran = fetch(hub.address, tmp_path, "unix", HF_TOKEN="hf_mine")
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert "4 files" in said[0] and "licence: apache-2.0" in said[0] and COMMIT in said[0]
    assert "layout   UniX as published" in ran.stdout
    assert said[-1] == 'next: python sample.py "Edema." --weights weights/unix'
    here = {str(path.relative_to(tmp_path / "weights/unix")) for path in (tmp_path / "weights/unix").rglob("*.*")}
    fetched = {name for name in here if not name.startswith(".")}
    assert fetched == {"model.safetensors", "config.json", "tokenizer.json", "vae/kl-f16.safetensors"}
    load_checkpoint(tmp_path / "weights/unix")
    assert all(token == "Bearer hf_mine" for path, _, token in hub.asked if "ZrH42" in path)


@pytest.mark.slow
def test_an_interrupted_download_goes_on_where_it_was(published, tmp_path):
    hub = Hub(published, cut=1_000_000)
    ran = fetch(hub.address, tmp_path, "unix", "here")
    if ran.returncode:  # some releases of huggingface_hub go on by themselves, others when asked again
        assert "type the command again" in ran.stderr
        ran = fetch(hub.address, tmp_path, "unix", "here")
    assert ran.returncode == 0, ran.stderr
    assert any(given and given != "bytes=0-0" for _, given, _ in hub.asked)
    load_checkpoint(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"wrong": ("config.json",)}, "config.json: is not what https://huggingface.co/ZrH42/UniX describes"),
        ({"refuse": (403, {"X-Error-Code": "GatedRepo"})}, "asks for your consent; give it there, then set HF_TOKEN"),
        ({"refuse": (401, {"X-Error-Code": "RepoNotFound"})}, "is not there any more"),
        ({"refuse": (404, {"X-Error-Code": "RevisionNotFound"})}, "is not there any more"),
        (None, "by hand"),  # no network
    ],
)
def test_what_cannot_be_fetched_is_one_line(published, tmp_path, how, words):
    address = "http://127.0.0.1:9" if how is None else Hub(published, **how).address
    ran = fetch(address, tmp_path, "unix", "here")
    assert ran.returncode == 2 and ran.stdout.count("\n") <= 1, ran.stdout
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and words in last and "Traceback" not in ran.stderr
    assert not (tmp_path / "here/config.json").exists()
