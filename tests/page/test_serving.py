"""How the server starts and ends, what it says of bad calls, and that it fetches nothing."""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from served import ROOT, call, served, upload

import sample
from common.files import SHIPPED
from common.images import load_image
from dicom_files import dicom_bytes

pytestmark = pytest.mark.slow
if os.environ.get("CI") != "true":  # in CI, what is missing is a failure
    pytest.importorskip("gradio", reason="the page needs gradio: pip install -e '.[demo]'")
META = {"meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_its_uploads_go_with_it_however_it_ends(micro_folder, tmp_path, number, code, busy):
    """Also while it draws: Python's own end around a thread that computes would abort."""
    with open(tmp_path / "stderr", "w+") as terminal:
        with served(SHIPPED if busy else micro_folder, stderr=terminal, TMPDIR=str(tmp_path)) as (line, server):
            [folder] = tmp_path.glob("open-unix-*")
            if busy:
                body = json.dumps({"data": ["Edema.", 0, 100, 2, 256, 4, "", 0]}).encode()
                headers = {"Content-Type": "application/json"}
                urllib.request.urlopen(urllib.request.Request(f"{line}gradio_api/call/draw", body, headers)).read()
                time.sleep(2)
            server.send_signal(number)
            assert server.wait(20) == code
        assert not folder.exists() and not list(tmp_path.glob("open-unix-*"))
        assert terminal.read() == ""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="where threads are no files")
def test_a_signal_that_another_thread_gets_ends_it_too(micro_folder):
    """The kernel may choose any thread; the main one then sleeps on. Seen twice in sixty ends of a page that drew."""
    with served(micro_folder) as (_, server):
        other = max(int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir())
        assert ctypes.CDLL(None).tgkill(server.pid, other, signal.SIGTERM) == 0
        assert server.wait(20) == 143


def test_who_ignores_a_closed_terminal_keeps_the_page(micro_folder):
    """As `nohup python demo.py` does."""
    with served(micro_folder, before=["nohup"]) as (line, server):
        server.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert urllib.request.urlopen(line).status == 200


def test_a_port_that_is_taken_is_one_line(micro_folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = [sys.executable, ROOT / "demo.py", "--weights", micro_folder, "--port", str(port)]
        result = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stdout == ""
    assert re.fullmatch(rf"error: --port {port}: .*\n", result.stderr)


def test_others_settings_of_gradio_and_a_proxy_change_nothing(micro_folder, tmp_path):
    others = {
        "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "1", "GRADIO_ROOT_PATH": "/elsewhere",
        "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "True", "GRADIO_SSR_MODE": "True", "GRADIO_NUM_WORKERS": "2",
        "GRADIO_MCP_SERVER": "True", "GRADIO_TEMP_DIR": str(tmp_path / "theirs"), "GRADIO_DEBUG": "1",
        "GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_LOCAL_DEV_MODE": "1", "GRADIO_DEFAULT_CONCURRENCY_LIMIT": "x",
    }  # fmt: skip
    others |= {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY")}
    with served(micro_folder, **others) as (line, _):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = opener.open(line).read().decode()
        assert "elsewhere" not in page and call(line, "draw", ["Edema.", 5, 4, 2, 64, 1, "", 0])[0] == "complete"
        with pytest.raises(urllib.error.HTTPError):
            opener.open(f"{line}gradio_api/file=/etc/passwd")
    assert not (tmp_path / "theirs").exists()


DRAW, READ = ["Edema.", 5, 4, 2, 64, 1, "", 0], [None, "", 0, 0, "1"]


def bad_calls():
    """(name, data): each value in turn, of another kind or out of range; too few, too many, none."""
    for name, good in (("draw", DRAW), ("read", READ), ("edit", [None, "Edema.", 0.5, 0, 0, 0, 0, 0, "1"])):
        yield name, []
        yield name, good[:-1]
        yield name, [*good, 1, 2]
        for place, value in enumerate(good):
            strange = [[], {}, [value], {"value": value}, True, 1e400, -(10**30), "x" * 3000]
            strange += [float("nan"), "nan", "é\ud800"] if isinstance(value, (int, float)) else [7.5]
            for other in strange:
                yield name, [*good[:place], other, *good[place + 1 :]]


def test_a_bad_call_is_one_line_for_who_calls_and_in_the_terminal(talking):
    address, said = talking
    said()
    refused = 0
    for name, data in bad_calls():
        try:
            kind, answer = call(address, name, data)
        except urllib.error.HTTPError as error:  # not even a call
            kind, answer = "error", json.dumps({"error": error.read().decode()})
        terminal = said()
        assert kind in ("complete", "error"), (name, data, answer)
        assert "Traceback" not in terminal and "unforeseen" not in terminal, (name, data, terminal)
        if kind == "error":
            refused += 1
            line = json.loads(answer)["error"]
            assert line and "\n" not in line.strip() and len(line) < 1000, (name, data, answer)
            assert terminal.count("\n") <= 1, (name, data, terminal)
    assert refused > 60


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("call/nothing", {"data": []}),
        ("call/draw", {}),
        ("call/draw", []),
        ("call/draw", "x"),
        ("call/v2/draw", {"prompt": 7}),
        ("run/draw", {"data": [1]}),
        ("run/draw", {"data": DRAW, "fn_index": 99}),
        ("queue/join", {"data": DRAW, "fn_index": 99, "session_hash": "x"}),
        ("queue/join", {"data": DRAW, "fn_index": 0, "session_hash": "x", "trigger_id": "y"}),
        ("component_server", {"component_id": 10**6, "fn_name": "x", "session_hash": "x", "data": 1}),
        ("cancel", {"session_hash": "x", "fn_index": 9, "event_id": "y"}),
        ("stream/none", {"data": []}),
        ("reset", {"event_id": "y"}),
    ],
)
def test_no_other_request_leaves_a_traceback(talking, path, body):
    address, said = talking
    request = urllib.request.Request(
        f"{address}gradio_api/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    said()
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        assert "Traceback" not in error.read().decode()
    terminal = said()
    assert "Traceback" not in terminal and terminal.count("\n") <= 1, terminal


def test_a_dicom_film_is_read_as_by_the_command(talking, micro, tmp_path):
    film = tmp_path / "film.dcm"
    film.write_bytes(dicom_bytes(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)))
    address, _ = talking
    kind, answer = call(address, "read", [{"path": upload(address, film.read_bytes(), film.name)}, *READ[1:-1], ""])
    assert kind == "complete" and json.loads(answer)[0] == sample.read(micro, [load_image(film)])[0]


SPY = """
import socket
def noted(function):
    def call(*values, **named):
        try:
            result = function(*values, **named)
        except PermissionError:
            raise
        except BaseException:
            note("tried", function, values)
            raise
        note("reached", function, values)
        return result
    return call
def note(what, function, values):
    with open(%r, "a") as file:
        print(what, function.__name__, values[-1] if function.__name__ == "connect" else values[0], file=file)
socket.getaddrinfo = noted(socket.getaddrinfo)
socket.socket.connect = noted(socket.socket.connect)
"""


def test_it_fetches_no_address(micro_folder, tmp_path):
    """Whatever stands where a file should: nobody is looked up, nobody is reached. A spy in the server notes both."""
    (tmp_path / "sitecustomize.py").write_text(SPY % str(tmp_path / "noted"))
    knocked = []
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def answer():
            while True:
                knocked.append(door.accept())

        threading.Thread(target=answer, daemon=True).start()
        near = f"http://127.0.0.1:{door.getsockname()[1]}/x.png"
        with served(micro_folder, PYTHONPATH=str(tmp_path)) as (line, _):
            started = (tmp_path / "noted").read_text()
            hosts = (near, near.replace("127.0.0.1", "localhost"), "http://8.8.8.8/x.png", "https://example.com/x.png")
            for url in hosts:
                for file in ({"path": url}, {"path": url, **META}, {"path": url, **META, "url": url}):
                    assert call(line, "read", [file, *READ[1:]])[0] == "error", file
                    call(line, "draw", [file, *DRAW[1:]])
                for route in ("file=", "file/", "proxy=", "stream/"):
                    with pytest.raises(urllib.error.HTTPError):
                        urllib.request.urlopen(f"{line}gradio_api/{route}{url}", timeout=60)
            noted = (tmp_path / "noted").read_text().removeprefix(started)
        port = line.rstrip("/").rpartition(":")[2]
        assert not [each for each in noted.splitlines() if port not in each], noted
    assert started and not knocked
