"""demo.py as a user meets it: a server, a headless Chromium, and what they make of good and bad input."""

import contextlib
import copy
import http.client
import io
import json
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from served import call, served

import edit
import lora
import sample
from common.files import SHIPPED
from common.sampling import FAST
from phantoms.dataset import phantom
from weights import save_checkpoint

ROOT = Path(__file__).parent.parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IN_CI = os.environ.get("CI") == "true"
SECONDS = 120_000  # ms that a click may take on a busy machine
HTML = "<img src=x onerror='window.broken=1'><b>Edema.</b>"
pytestmark = pytest.mark.slow

if not IN_CI:  # in CI, what is missing is a failure
    pytest.importorskip("gradio", reason="the page needs gradio: pip install -e '.[demo]'")
    pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, address):
    """open_page(width, at) -> a page; page.asked_elsewhere is what it asked of anybody but the server."""
    pages = []

    def opened(width=1400, at=address):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(SECONDS)
        pages.append(page)
        page.asked_elsewhere = []
        page.on("request", lambda request: elsewhere(page, at, request.url))
        page.goto(at)
        page.get_by_role("tab", name="Draw").wait_for()
        page.wait_for_timeout(300)
        return page

    def elsewhere(page, at, url):
        if not url.startswith((at, "data:", "blob:")):
            page.asked_elsewhere.append(url)

    yield opened
    for page in pages:
        page.close()


@pytest.fixture
def film(tmp_path):
    """A phantom as a file, and as a picture."""
    picture = Image.fromarray(phantom(1, 0, 256).image)
    picture.save(tmp_path / "film.png")
    return tmp_path / "film.png", picture


def shown(page):
    """The tab panel that is open."""
    return page.locator('[role="tabpanel"]:visible')


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    return shown(page)


def click(panel, name):
    panel.get_by_role("button", name=name, exact=True).click()


def done(panel):
    panel.get_by_text("Done in").wait_for()


def pictures(page, panel):
    """The pictures that a panel shows, as arrays."""
    sources = panel.locator("img:visible").evaluate_all("images => images.map(image => image.src)")
    sources = [source for source in dict.fromkeys(sources) if "/file=" in source]
    return [np.asarray(Image.open(io.BytesIO(page.request.get(source).body()))) for source in sources]


def set_number(panel, label, value):
    """A slider's or a number's field."""
    field = panel.get_by_label(re.compile(f"^(number input for )?{re.escape(label)}")).locator("visible=true").first
    field.fill(str(value))
    field.press("Tab")


def test_draws_the_very_picture_of_the_command_and_asks_nobody_else(open_page, micro):
    page = open_page()
    panel = shown(page)
    panel.get_by_label("Prompt").fill("Small left pleural effusion.")
    set_number(panel, "Seed", 3)
    click(panel, "Draw")
    done(panel)
    [drawn] = pictures(page, panel)
    expected = sample.draw(micro, ["Small left pleural effusion."], [3])[0]
    assert np.abs(np.asarray(Image.fromarray(drawn).convert("L")).astype(int) - expected).max() <= 1
    command = panel.get_by_label("Command line").input_value()
    assert command.startswith("python sample.py 'Small left pleural effusion.' --seed 3 ")
    assert re.search(r"Done in [\d.]+ s on cpu", panel.inner_text())
    assert page.asked_elsewhere == []


def test_it_draws_while_one_types_and_only_what_was_typed_last(open_page, micro, tmp_path):
    quick = copy.deepcopy(micro)
    save_checkpoint(tmp_path / "weights", quick)
    torch.manual_seed(0)
    for parameter in lora.put_on(quick.model, "gen", 2).values():
        torch.nn.init.normal_(parameter, std=0.1)
    lora.save_adapter(quick.model, tmp_path / "weights" / "fast.safetensors")
    with served(tmp_path / "weights") as (line, _):
        page, asked = open_page(at=line), []
        page.on("request", lambda request: asked.append(request) if "queue/join" in request.url else None)
        panel = shown(page)
        prompt = "Severe pulmonary edema."
        panel.get_by_label("Prompt").fill("")
        panel.get_by_label("Prompt").press_sequentially(prompt, delay=20)

        def settled(expected):
            """Whether the picture comes to be the expected one; it is asked for again and again for ten seconds."""
            for _ in range(100):
                page.wait_for_timeout(100)
                drawn = pictures(page, panel)
                if drawn and abs(np.asarray(Image.fromarray(drawn[0]).convert("L")).astype(int) - expected).max() <= 1:
                    return True
            return False

        expected = [sample.draw(quick, [prompt], [seed], **FAST)[0] for seed in (0, 7)]
        assert abs(expected[0].astype(int) - expected[1]).max() > 1
        assert settled(expected[0])
        assert 1 <= len(asked) < len(prompt)
        set_number(panel, "Seed", 7)
        assert settled(expected[1])
        panel.get_by_label("Towards").fill("Large right pneumothorax.")
        set_number(panel, "From the first", 0.4)
        halfway = (prompt, "Large right pneumothorax."), 7, [0.4]
        mixed = edit.between(quick, *halfway, **FAST)[0]
        assert abs(expected[1].astype(int) - mixed).max() > 1 and settled(mixed)
        panel.get_by_label("Prompt").fill(" ")  # no prompt, no picture, and no error
        page.wait_for_function("() => !document.querySelector('[role=tabpanel] img[src*=\"/file=\"]')")
        assert page.get_by_role("alert").count() == 0
        panel.get_by_label("Prompt").fill(prompt)
        click(panel, "Draw")  # and the button draws it with the full sampler
        done(panel)
        whole = edit.between(micro, *halfway)[0].astype(int)
        assert min(abs(np.asarray(Image.fromarray(p).convert("L")) - whole).max() for p in pictures(page, panel)) <= 1
        assert "edit.py --between 11" in panel.get_by_label("Command line").input_value()


def test_reads_an_upload_and_says_how_sure_it_is(open_page, micro, film):
    page = open_page()
    panel = tab(page, "Read")
    panel.locator("input[type=file]").set_input_files(film[0])
    panel.locator("img[src*='/file=']").first.wait_for()
    set_number(panel, "How sure?", 2)
    click(panel, "Read")
    done(panel)
    report = panel.get_by_label("Report", exact=True).input_value()
    assert report == sample.read(micro, [film[1]])[0]
    sampled = panel.get_by_label("Sampled reports").input_value()
    assert "[seed 0] " in sampled and "[seed 1] " in sampled
    assert panel.get_by_text(sample.DISCLAIMER).is_visible()


def test_edits_in_a_box_and_keeps_the_rest(open_page, film):
    page = open_page()
    panel = tab(page, "Edit")
    panel.locator("input[type=file]").first.set_input_files(film[0])
    panel.locator("img[src*='/file=']").first.wait_for()
    panel.get_by_label("Prompt").fill("Large left pleural effusion.")
    for label, value in (("Left", 0), ("Top", 0), ("Right", 128), ("Bottom", 128)):
        set_number(panel, label, value)
    click(panel, "Edit")
    done(panel)
    panel.get_by_text("Difference").first.wait_for()
    page.wait_for_timeout(500)
    difference = next(p for p in pictures(page, panel) if p.ndim == 3 and (p[40:, 40:] == 255).all())
    assert (difference[:32, :32] != 255).any()
    assert "--mask 0,0,128,128" in panel.get_by_label("Command line").input_value()


def test_the_closed_loop_reads_back_what_was_drawn(open_page):
    page = open_page()
    panel = tab(page, "Closed loop")
    panel.get_by_label("Prompts").fill("Small left pleural effusion.\nSevere cardiomegaly.")
    click(panel, "Closed loop")
    done(panel)
    text = panel.locator(".scroll").inner_text()
    assert "Pleural Effusion left" in text and "Cardiomegaly" in text
    assert "control, the reports exchanged" in panel.inner_text()


def test_looks_inside_word_by_word(open_page, micro):
    page = open_page()
    panel = tab(page, "Look inside")
    panel.get_by_label("Or an example film").click()
    page.get_by_role("option", name="phantom 1", exact=True).click()
    panel.locator("img[src*='/file=']").first.wait_for()
    click(panel, "Look inside")
    done(panel)
    film = Image.fromarray(phantom(1, 0, 256).image)
    report = panel.get_by_label("Report", exact=True).input_value()
    assert report == sample.read(micro, [film])[0]
    panel.get_by_text(report.split()[0], exact=True).first.wait_for()


@pytest.fixture
def slow_address():
    """Of the shipped weights: 99 steps of four pictures take a minute, those of the micro model are over before a busy
    browser has found Cancel."""
    with served(SHIPPED) as (line, _):
        yield line


def test_cancel_stops_a_drawing_and_the_next_one_is_drawn(open_page, slow_address):
    page = open_page(at=slow_address)
    panel = shown(page)
    panel.get_by_text("Sampler").click()
    set_number(panel, "Steps", 100)
    set_number(panel, "Pictures", 4)
    click(panel, "Draw")
    panel.get_by_text(re.compile(r"Drawing: \d+ of 99")).wait_for()
    click(panel, "Cancel")
    panel.get_by_text("Cancelled.").wait_for()
    page.wait_for_timeout(1500)
    assert panel.get_by_text("Cancelled.").is_visible()  # and no later step has written over it
    set_number(panel, "Steps", 3)
    click(panel, "Draw")
    done(panel)


def test_a_drawing_that_nobody_waits_for_ends_at_its_next_step(micro):
    from page import work  # needs gradio

    ended, go_on = threading.Event(), threading.Event()

    def drawing(watch):
        try:
            for _ in range(3):
                watch(torch.zeros(1, 16, 16, 16), 0.5)
                go_on.wait(60)
        except work.StoppedError:
            ended.set()

    news = work.follow(drawing, micro, 3)
    assert "Drawing: 1 of 3" in next(news)[1]
    news.close()
    go_on.set()
    assert ended.wait(60)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.png", b"not a picture", "text.png: not an image"),
        ("huge.png", None, "huge.png: 20000 x 6000 pixels is too large"),
    ],
)
def test_a_bad_upload_is_refused_in_one_line(open_page, tmp_path, name, content, words):
    file = tmp_path / name
    if content is None:
        Image.new("1", (20_000, 6_000)).save(file)
    else:
        file.write_bytes(content)
    page = open_page()
    panel = tab(page, "Read")
    panel.locator("input[type=file]").set_input_files(file)
    panel.locator("img[src*='/file=']").first.wait_for(state="attached")  # the browser may not be able to show it
    click(panel, "Read")
    page.get_by_text(words).wait_for()
    said = page.locator("body").inner_text()
    assert "Traceback" not in said and "/tmp" not in said


def test_an_empty_prompt_is_refused_in_one_line(open_page):
    page = open_page()
    panel = shown(page)
    panel.get_by_label("Prompt").fill("  ")
    click(panel, "Draw")
    page.get_by_text("the prompt is empty; say what to draw").wait_for()


def test_html_stays_text_in_prompts_reports_and_errors(open_page):
    page = open_page()
    panel = shown(page)
    panel.get_by_label("Prompt").fill(HTML)
    click(panel, "Draw")
    done(panel)
    assert HTML.split("'")[0] in panel.get_by_label("Command line").input_value()
    panel = tab(page, "Closed loop")
    panel.get_by_label("Prompts").fill(f"{HTML}\n{HTML}")
    click(panel, "Closed loop")
    done(panel)
    assert HTML in panel.locator(".scroll").inner_text()
    panel.get_by_label("Prompts").fill(HTML * 20)
    click(panel, "Closed loop")
    page.get_by_text("give 2 to 4 prompts").wait_for()
    assert page.evaluate("window.broken") is None


def test_two_users_each_get_their_own_picture(open_page, micro):
    prompts = ["Edema.", "Large right pneumothorax."]
    pages = [open_page() for _ in prompts]
    for page, prompt in zip(pages, prompts, strict=True):
        shown(page).get_by_label("Prompt").fill(prompt)
        click(shown(page), "Draw")
    for page, prompt in zip(pages, prompts, strict=True):
        done(shown(page))
        [drawn] = pictures(page, shown(page))
        expected = sample.draw(micro, [prompt], [0])[0]
        assert np.abs(np.asarray(Image.fromarray(drawn).convert("L")).astype(int) - expected).max() <= 1


def test_the_keyboard_alone_draws(open_page):
    page = open_page()
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("[document.activeElement.innerText, document.activeElement.getAttribute('role')]")
        if focused == ["Draw", None]:
            break
    page.keyboard.press("Enter")
    done(shown(page))


@pytest.mark.parametrize("width", [390, 1400])
def test_every_tab_fits_and_names_its_fields(open_page, width, tmp_path):
    """SCREENSHOTS=DIR keeps the pictures."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    page = open_page(width=width)
    for name in ("Draw", "Read", "Edit", "Closed loop", "Look inside"):
        if width < 600 and not page.get_by_role("tab", name=name, exact=True).is_visible():
            page.locator(".overflow-menu button").first.click()
            page.locator(".overflow-dropdown button", has_text=name).click()
            panel = shown(page)
        else:
            panel = tab(page, name)
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"{name.lower().replace(' ', '_')}_{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        nameless = panel.locator("input:visible, textarea:visible, button:visible").evaluate_all(
            """fields => fields.filter(field => !(field.labels?.length || field.innerText?.trim() || field.title
                || field.ariaLabel || field.getAttribute("aria-labelledby") || field.type == "file"))
                .map(field => field.outerHTML.slice(0, 200))"""
        )
        assert nameless == [], name


# ---- the HTTP API, and what it must not do -----------------------------------------------------------------------


def test_the_api_draws_and_reads(address, micro):
    kind, data = call(address, "draw", ["Edema.", 5, 4, 2, 64, 1, "", 0])
    assert kind == "complete"
    url = json.loads(data)[0][0]["image"]["url"]
    with urllib.request.urlopen(url) as answer:
        drawn = np.asarray(Image.open(io.BytesIO(answer.read())).convert("L"))
    assert np.abs(drawn.astype(int) - sample.draw(micro, ["Edema."], [5], 64, steps=4)[0]).max() <= 1
    kind, data = call(address, "read", [None, "", 0, 0, "1"])
    assert kind == "complete"
    assert json.loads(data)[0] == sample.read(micro, [Image.fromarray(phantom(1, 0, 256).image)])[0]


@pytest.mark.parametrize(
    "data",
    [
        ["Edema.", 5, 10**9, 2, 64, 1, "", 0],
        ["Edema.", 5, 4, 2, 64, 10**6, "", 0],
        ["Edema.", -5, 4, 2, 64, 1, "", 0],
        ["Edema.", 5, 4, "nan", 64, 1, "", 0],
        ["Edema.", 5, 4, 2, 100_000, 1, "", 0],
        ["Edema. " * 10_000, 5, 4, 2, 64, 1, "", 0],
    ],
)
def test_the_api_refuses_what_the_page_would_not_let_one_type(address, data):
    kind, message = call(address, "draw", data)
    assert kind == "error" and "Traceback" not in message


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "assets" / "drawn.png"), "http://127.0.0.1:1/x.png"])
def test_no_file_of_the_machine_and_no_address_can_be_read(address, path):
    kind, message = call(address, "read", [{"path": path, "meta": {"_type": "gradio.FileData"}}, "", 0, 0, ""])
    assert kind == "error" and "root:" not in message
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}gradio_api/file={path}", timeout=20)
    assert refused.value.code in (400, 403, 404)


def test_a_large_body_is_refused_and_every_answer_carries_the_policy(address):
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    request = urllib.request.Request(f"{address}gradio_api/upload", b"0" * 20_000_001)
    with contextlib.suppress(urllib.error.URLError, ConnectionError):  # it may hang up before all is sent
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 413


def test_a_body_of_no_declared_length_ends_where_it_grows_too_large(address):
    def endless():
        for _ in range(30):
            yield b"0" * 1_000_000

    connection = http.client.HTTPConnection(address.removeprefix("http://").strip("/"), timeout=60)
    try:
        connection.request("POST", "/gradio_api/call/draw", endless(), {"Content-Type": "application/json"})
        assert connection.getresponse().status >= 400
    except (ConnectionError, http.client.HTTPException):
        pass  # it hung up
    with urllib.request.urlopen(address, timeout=60) as answer:  # and still serves the others
        assert answer.status == 200
