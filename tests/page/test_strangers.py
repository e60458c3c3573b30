"""What the page must not give away, and to whom it must not answer: over HTTP, from a server of its own."""

import io
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import asked, call, upload

from phantoms.dataset import phantom

pytestmark = pytest.mark.slow
if os.environ.get("CI") != "true":  # in CI, what is missing is a failure
    pytest.importorskip("gradio", reason="the page needs gradio: pip install -e '.[demo]'")
META = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def film():
    """A film as the bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(phantom(1, 0, 64).image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def mine(address, film):
    """The path of an upload of this test's own."""
    return upload(address, film)


# The two that take a film and answer at once; {} is where the payload goes.
READ, EDIT = ["read", [{}, "", 0, 0, ""]], ["edit", [{}, "Normal.", 0.05, 0, 0, 0, 0, 0, ""]]
INSIDE = ["inside", [{}, 0, ""]]


def sent(address, action, payload):
    name, data = action
    return call(address, name, [payload, *data[1:]])


@pytest.mark.parametrize("action", [READ, EDIT, INSIDE], ids=lambda action: action[0])
@pytest.mark.parametrize("more", [{}, META, {"url": "/x", "orig_name": "x.png", "size": 1, "is_stream": True}])
def test_only_what_was_uploaded_is_opened(address, mine, film, tmp_path, action, more):
    """And whether a file outside exists makes no difference to the answer."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(film)
    (Path(mine).parent / "out.png").unlink(missing_ok=True)
    (Path(mine).parent / "out.png").symlink_to(secret)
    (Path(mine).parent / "nowhere.png").unlink(missing_ok=True)
    (Path(mine).parent / "nowhere.png").symlink_to(tmp_path / "absent.png")
    (Path(mine).parent / "circle.png").unlink(missing_ok=True)
    (Path(mine).parent / "circle.png").symlink_to("circle.png")
    up = "/".join([".."] * 20)
    answers = {
        path: sent(address, action, {"path": path, **more})
        for path in (
            str(secret),
            str(tmp_path / "absent.png"),
            f"{Path(mine).parent}/{up}{secret}",
            f"{Path(mine).parent}/{up}{secret}.absent",
            os.path.relpath(secret),
            f"{Path(mine).parent}/out.png",
            f"{Path(mine).parent}/nowhere.png",
            f"{Path(mine).parent}/circle.png",
            f"file://{secret}",
            str(Path(mine).parents[1]),  # the upload folder itself
            f"{secret}\0",
            "x" * 5000,
            "/etc/passwd",
        )
    }
    assert {kind for kind, _ in answers.values()} == {"error"}, answers
    assert len(set(answers.values())) == 1 or more == META, answers  # with it, gradio's own check comes first
    assert not any("root:" in said or "no such" in said for _, said in answers.values()), answers


@pytest.mark.parametrize("more", [{}, META])
def test_an_upload_is_read_and_edited(address, mine, more):
    kind, data = sent(address, EDIT, {"path": mine, **more})
    assert kind == "complete"
    with urllib.request.urlopen(json.loads(data)[0][0]["url"]) as answer:
        before = np.asarray(Image.open(io.BytesIO(answer.read())).convert("L"))
    assert np.array_equal(before, phantom(1, 0, 64).image)


@pytest.mark.parametrize("action", [READ, EDIT, INSIDE], ids=lambda action: action[0])
def test_no_other_shape_of_a_payload_opens_a_file(address, film, tmp_path, action):
    secret = tmp_path / "secret.png"
    secret.write_bytes(film)
    file = {"path": str(secret)}
    for payload in (
        {"background": file, "layers": [file], "composite": file},
        {"background": {**file, **META}, "layers": [{**file, **META}], "composite": {**file, **META}},
        {"image": file},
        {"url": f"file://{secret}"},
        {"url": f"/gradio_api/file={secret}"},
        {"path": None, "url": str(secret)},
        [file],
        [str(secret), str(secret)],
        str(secret),
        {"value": file},
    ):
        kind, said = sent(address, action, payload)
        assert kind == "error", (payload, said)


@pytest.mark.parametrize("more", [{}, META])
def test_a_file_in_the_place_of_a_text_or_number_is_not_looked_at(address, film, tmp_path, more):
    file = {"path": str(tmp_path / "secret.png"), **more}
    calls = (
        ("draw", [file, 0, 2, 2, 64, 1]),
        ("closed_loop", [file, 0]),
        ("read", [None, file, 0, 1, 0, ""]),
        ("read", [None, "", 0, 1, 0, file]),
    )
    absent = [call(address, *each) for each in calls]
    (tmp_path / "secret.png").write_bytes(film)
    assert absent == [call(address, *each) for each in calls]


def test_no_file_is_served_but_uploads_and_results(address, mine, film, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(film)
    link = Path(mine).parent / "served.png"
    link.symlink_to(secret)
    for path in (secret, link, f"{Path(mine).parent}/../../../../../../..{secret}", "/etc/passwd", "demo.py"):
        for route in ("file=", "file/", "stream/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{address}gradio_api/{route}{urllib.parse.quote(str(path))}", timeout=20)
            assert refused.value.code in (400, 403, 404, 405)


def hosts(address):
    port = urllib.parse.urlsplit(address).port
    return [f"127.0.0.1:{port}", f"localhost:{port}"], [
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        f"localhost.evil.example:{port}",
        f"evil.example@127.0.0.1:{port}",
        "127.0.0.1",
        "localhost",
        f"127.0.0.1:{port + 1}",
        f"0.0.0.0:{port}",
        f"[::1]:{port}",
        "",
    ]


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("OPTIONS", "/gradio_api/call/draw"),
    ("POST", "/gradio_api/call/draw"),
    ("POST", "/gradio_api/upload"),
    ("GET", "/assets/x.js"),
])  # fmt: skip
def test_it_answers_to_its_own_names_alone(address, method, path):
    body = (
        json.dumps({"data": ["Edema.", 5, 4, 2, 64, 1]}).encode()
        if path.endswith("draw") and method == "POST"
        else None
    )
    headers = [("Content-Type", "application/json")] if body else []
    if method == "OPTIONS":
        headers = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type")]
    ours, theirs = hosts(address)
    for host in theirs:
        assert asked(address, method, path, [("Host", host), *headers], body)[0] in (400, 403), host
        origin = ("Origin", f"http://{host}")
        assert asked(address, method, path, [("Host", ours[0]), origin, *headers], body)[0] == 403, host
    for origin in ("null", f"https://{ours[0]}", f"http://{ours[0]}.evil.example", "file://"):
        assert asked(address, method, path, [("Host", ours[0]), ("Origin", origin), *headers], body)[0] == 403, origin
    assert asked(address, method, path, headers, body)[0] in (400, 403)  # no Host at all
    both = [("Host", ours[0]), ("Host", theirs[0])]
    assert asked(address, method, path, [*both, *headers], body)[0] in (400, 403)
    for host in ours:
        assert asked(address, method, path, [("Host", host), *headers], body)[0] != 403
        assert asked(address, method, path, [("Host", host), ("Origin", f"http://{host}"), *headers], body)[0] != 403
    assert asked(address, method, path, [("Host", ours[0].upper()), *headers], body)[0] != 403
