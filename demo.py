"""Draw, read, edit and doubt in a browser: what sample.py does, on a page of your own machine.

    pip install -e '.[demo]' && python demo.py [--weights DIR]

It answers to this machine alone (127.0.0.1), loads nothing from the net and sends nothing there. docs/demo.md describes
it. A research and teaching tool, not a medical device.
"""

from __future__ import annotations

import functools
import os
import queue
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch
from PIL import Image

import sample
from common import arguments
from common.devices import pick_device, pick_dtype
from common.errors import UserError, explain, run
from common.files import SHIPPED
from common.images import load_image, to_square
from common.pictures import difference
from evaluation import page
from evaluation.metrics import derangement
from phantoms.dataset import phantom
from reports.agreement import agreement
from reports.labeler import POSITIVE, label_report
from studies import attention
from weights import Checkpoint

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
try:
    import gradio as gr
except ModuleNotFoundError:
    gr = None  # `main` says what to install

MOST_PICTURES, MOST_REPORTS, MOST_STEPS = 4, 20, 100  # of one click: others wait
LONGEST_TEXT = 2000  # characters
UPLOAD = "16mb"
LARGEST_BODY = 20_000_000  # bytes of any request
KEPT = (600, 3600)  # seconds: how often uploads and pictures are looked through, and how old they may grow
EXAMPLES = 12  # phantoms to read
EXAMPLE_SEED = 1  # of the phantoms: the model was not trained on these
PROMPTS = (
    "Moderate cardiomegaly. Small left pleural effusion.",
    "Large right pneumothorax.",
    "Severe pulmonary edema.",
    "No acute cardiopulmonary process.",
)
BUTTONS = ["download", "fullscreen"]  # of a picture; gradio's third would hand it to a site
# The browser itself refuses whatever does not come from this page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
STYLE = """
:root { --ink: currentColor; --rule: #8886; --c0: #0072b2 }
.gradio-container { max-width: 75rem !important; margin: 0 auto !important }
.disclaimer { border-left: 4px solid #d55e00; padding: .3rem .8rem; font-weight: 600 }
.status progress { width: 100%; height: .8rem }
.link a { overflow-wrap: anywhere }
.results { overflow-x: auto }
.tab-wrapper { overflow-x: clip }
@media (max-width: 40rem) { .tab-container button { padding-left: .3rem !important; padding-right: .3rem !important } }
"""


class StoppedError(Exception):
    """Somebody pressed Cancel."""


class Stops:
    """Who has pressed Cancel: an event for each browser tab, new with each click on a button that starts something."""

    def __init__(self) -> None:
        self.events: dict[str, threading.Event] = {}

    def begin(self, session: str) -> threading.Event:
        self.events[session] = threading.Event()
        return self.events[session]

    def stop(self, session: str) -> None:
        self.events.setdefault(session, threading.Event()).set()  # it may still wait in the queue

    def stopped(self, session: str) -> bool:
        return session in self.events and self.events[session].is_set()


# ---- work that can be watched ------------------------------------------------------------------------------------


def follow(
    work: Callable[[sample.Watch], np.ndarray], checkpoint: Checkpoint, stop: threading.Event
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Run a drawing in a thread: yields (evaluations of the model, a preview or None) again and again, then (-1,
    pictures).

    work: takes the watcher to hand to `sample.draw` or `sample.edit`. A preview is the estimate of the clean latents,
    decoded; all previews together may take a quarter of the time. Raises StoppedError once `stop` is set.
    """
    news: queue.Queue = queue.Queue()
    done, decoding, last = 0, 0.0, 0.0
    left = threading.Event()  # the browser tab was closed

    def watch(clean: torch.Tensor, t: float) -> None:
        nonlocal done, decoding, last
        if stop.is_set() or left.is_set():
            raise StoppedError
        done, began, preview = done + 1, time.perf_counter(), None
        if began - last > 3 * decoding:
            preview = sample.decode(checkpoint.vae, clean, checkpoint.model.compute_dtype)
            last = time.perf_counter()
            decoding = last - began
        news.put((done, preview))

    def worker() -> None:
        try:
            news.put((-1, work(watch)))
        except Exception as error:
            news.put(error)

    threading.Thread(target=worker, daemon=True).start()
    try:
        while True:
            item = news.get()
            if stop.is_set():  # also of steps that wait here: the page takes them slower than the model makes them
                raise StoppedError
            if isinstance(item, Exception):
                raise item
            yield item
            if item[0] == -1:
                return
    finally:
        left.set()


def one_line(handler: Callable) -> Callable:
    """A generator of the page whose errors are the library's one-line messages."""

    @functools.wraps(handler)
    def guarded(*values: object) -> Iterator:
        try:
            yield from handler(*values)
        except StoppedError:
            return
        except UserError as error:
            raise gr.Error(escape(str(error)), duration=None, print_exception=False) from None
        except Exception as error:
            explain(error, "python demo.py", show=False)
            message = "Something unforeseen happened; the terminal that runs demo.py says more."
            raise gr.Error(message, duration=None, print_exception=False) from None

    return guarded


def status(done: int, total: int, began: float, what: str = "Drawing") -> str:
    """A progress bar with the time left, as HTML."""
    left = (time.perf_counter() - began) / max(done, 1) * (total - done)
    words = f"{what}: {done} of {total}" + (f", about {left:.0f} s left" if done else "")
    return f'<div class="status"><progress max="{total}" value="{done}">{done}</progress><br>{escape(words)}</div>'


def finished(began: float, checkpoint: Checkpoint, previewed: float | None = None) -> str:
    device = checkpoint.model.vae2llm.weight.device
    words = f"Done in {time.perf_counter() - began:.1f} s on {device}"
    words += "" if previewed is None else f", first preview after {previewed - began:.1f} s"
    return f'<div class="status">{words}.</div>'


def read_whole(value: object, least: int, most: int, name: str) -> int:
    """A whole number of a form; what the page does not let one type, an HTTP call can still send."""
    try:
        return arguments.whole(least, most)(str(int(value)) if isinstance(value, float) else str(value))
    except (UserError, ValueError, OverflowError) as error:
        raise UserError(f"{name} {error}") from None


def read_number(value: object, check: Callable[[str], float], name: str) -> float:
    try:
        return check(str(value))
    except UserError as error:
        raise UserError(f"{name} {error}") from None


def read_text(value: object, name: str) -> str:
    text = value if isinstance(value, str) else ""
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{name}: {len(text):,} characters; give at most {LONGEST_TEXT:,}")
    return arguments.text(text)


def open_upload(payload: object) -> Image.Image | None:
    """An uploaded film -> 8-bit grey. Raises gr.Error in one line, with the name that the user gave the file."""
    if payload is None:
        return None
    path, name = getattr(payload, "path", None), getattr(payload, "orig_name", None) or "the upload"
    try:
        if not path:
            raise UserError("upload a PNG, JPEG or TIFF")
        return load_image(path)
    except UserError as error:
        message = escape(str(error).replace(str(path), name))
        raise gr.Error(message, duration=None, print_exception=False) from None


def needs_film(film: Image.Image | None, example: object) -> Image.Image:
    film = example_film(example) if film is None else film
    if film is None:
        raise UserError("no film: upload one, or pick an example")
    return film


def command_line(*words: object, weights: Path) -> str:
    """The same thing in a terminal."""
    words = ["python", *words, *(["--weights", weights] if weights != SHIPPED else [])]
    return shlex.join(map(str, words))


def link(tab: str, **inputs: object) -> str:
    """A link to this page that fills in the inputs, as HTML."""
    address = "?" + urlencode({"tab": tab, **inputs})
    return f'<div class="link">Link to these inputs: <a href="{escape(address)}">{escape(address)}</a></div>'


def example_film(number: object) -> Image.Image | None:
    """Phantom 1..EXAMPLES; None for another number."""
    if str(number) not in map(str, range(1, EXAMPLES + 1)):
        return None
    return Image.fromarray(phantom(EXAMPLE_SEED, int(number) - 1, 256).image)


def example_command(number: object) -> tuple[str, str]:
    """What makes an example film in a terminal, and the file it then is; for an upload, ("", "FILE")."""
    if not number:
        return "", "FILE"
    make = f"python -m phantoms --n {EXAMPLES} --seed {EXAMPLE_SEED} --out out/phantoms && "
    return make, f"out/phantoms/{EXAMPLE_SEED:03d}_{int(number) - 1:06d}.png"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="results"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


# ---- what the buttons do -----------------------------------------------------------------------------------------


class Actions:
    """What each tab computes, all with the one model. Generators: they yield what the outputs show, again and again."""

    def __init__(self, checkpoint: Checkpoint, weights: Path) -> None:
        self.checkpoint, self.weights, self.stops = checkpoint, weights, Stops()
        self.size, self.guidance = checkpoint.model.config.image_size, checkpoint.model.config.guidance

    def draw(
        self, prompt: str, seed: int, steps: int, guidance: float, size: int, number: int, session: str
    ) -> Iterator:
        """-> pictures, status, command, link"""
        prompt, seed = read_text(prompt, "the prompt"), read_whole(seed, 0, arguments.MOST_SEED, "seed")
        steps, number = read_whole(steps, 2, MOST_STEPS, "steps"), read_whole(number, 1, MOST_PICTURES, "pictures")
        guidance = read_number(guidance, arguments.guidance, "guidance")
        size = read_whole(size, 16, 4096, "size")
        inputs = {"prompt": prompt, "seed": seed, "steps": steps, "guidance": guidance, "size": size, "number": number}
        words = ["sample.py", prompt, "--seed", seed, "--steps", steps, "--guidance", f"{guidance:g}", "--size", size]
        command = command_line(*words, "--n", number, weights=self.weights)
        seeds, began, previewed = range(seed, seed + number), time.perf_counter(), None

        def work(watch: sample.Watch) -> np.ndarray:
            how = {"batch": number, "watch": watch}
            return sample.draw(self.checkpoint, [prompt] * number, seeds, size, steps, guidance, **how)

        def captioned(pictures: np.ndarray) -> list:
            return [(picture, f"seed {each}") for picture, each in zip(pictures, seeds, strict=True)]

        for done, pictures in follow(work, self.checkpoint, self.stops.begin(session)):
            if done == -1:
                ended = finished(began, self.checkpoint, previewed)
                yield captioned(pictures), ended, command, link("draw", **inputs)
            else:
                previewed = previewed or time.perf_counter()
                shown = gr.skip() if pictures is None else captioned(pictures)
                yield shown, status(done, steps - 1, began), command, link("draw", **inputs)

    def read(
        self,
        film: Image.Image | None,
        question: str,
        reports: int,
        temperature: float,
        seed: int,
        example: str | None,
        session: str,
    ) -> Iterator:
        """-> report, bars of agreement, the sampled reports, status, command, link"""
        film, question = needs_film(film, example), read_text(question, "the question").strip() or None
        reports, seed = read_whole(reports, 0, MOST_REPORTS, "reports"), read_whole(seed, 0, 2**62, "seed")
        temperature = read_number(temperature, arguments.number(0, 100, above=True), "temperature")
        asked = ["--question", question] if question else []
        make, file = example_command(example)
        words = ["sample.py", "--image", file, *asked]
        command = make + command_line(*words, weights=self.weights)
        if reports > 1:
            sampling = ["--reports", reports, "--temperature", f"{temperature:g}", "--seed", seed]
            command += "\n" + command_line(*words, *sampling, weights=self.weights)
        inputs = {"question": question or "", "reports": reports, "temperature": temperature, "seed": seed}
        address = link("read", **inputs, **({"example": example} if example else {}))
        stop, began, text = self.stops.begin(session), time.perf_counter(), ""
        working = '<div class="status">Writing the report ...</div>'
        for text in sample.read_aloud(self.checkpoint, film, question):
            if stop.is_set():
                raise StoppedError
            yield text, "", "", working, command, address
        sampled: list[str] = []
        while len(sampled) < reports:
            doing = status(len(sampled), reports, began, "Sampling")
            yield text, bars(sampled), numbered(sampled, seed), doing, command, address
            seeds = range(seed + len(sampled), seed + min(len(sampled) + 5, reports))
            sampled += sample.read_often(self.checkpoint, [film], [seeds], temperature, question=question)[0]
            if stop.is_set():
                raise StoppedError
        ended = finished(began, self.checkpoint)
        yield text, bars(sampled), numbered(sampled, seed), ended, command, address

    def edit(
        self,
        film: Image.Image | None,
        prompt: str,
        strength: float,
        seed: int,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        example: str | None,
        session: str,
    ) -> Iterator:
        """-> (before, after), difference, status, command, link"""
        film, prompt = needs_film(film, example), read_text(prompt, "the prompt")
        strength = read_number(strength, arguments.strength, "strength")
        seed = read_whole(seed, 0, arguments.MOST_SEED, "seed")
        box = [read_whole(each or 0, 0, 100_000, "the box:") for each in (x0, y0, x1, y1)]
        inputs = {"prompt": prompt, "strength": strength, "seed": seed}
        make, file = example_command(example)
        words = ["sample.py", "--image", file, "--edit", prompt, "--strength", f"{strength:g}", "--seed", seed]
        masks = None
        if any(box):
            word = ",".join(map(str, box))
            try:
                masks = sample.mask_of(arguments.mask(word), film, self.size, "the film")[None]
            except UserError as error:
                raise UserError(str(error).replace("--mask", "the box:")) from None
            words += ["--mask", word]
            inputs |= dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
        command = make + command_line(*words, weights=self.weights)
        address = link("edit", **inputs, **({"example": example} if example else {}))
        before, began = to_square(film, self.size), time.perf_counter()
        total = len(sample.times_from(sample.schedule(sample.SOLVER, sample.STEPS), strength)) - 1

        def work(watch: sample.Watch) -> np.ndarray:
            return sample.edit(self.checkpoint, before[None], [prompt], [seed], strength, masks, watch=watch)

        for done, pictures in follow(work, self.checkpoint, self.stops.begin(session)):
            if done == -1:
                after, ended = pictures[0], finished(began, self.checkpoint)
                yield (before, after), difference(before, after), ended, command, address
            else:
                shown = gr.skip() if pictures is None else (before, pictures[0])
                yield shown, gr.skip(), status(done, total, began), command, address

    def closed_loop(self, prompts: str, seed: int, session: str) -> Iterator:
        """-> pictures, table, status, command, link"""
        lines = [line.strip() for line in read_text(prompts, "the prompts").splitlines() if line.strip()]
        if not 2 <= len(lines) <= MOST_PICTURES:
            raise UserError(f"give 2 to {MOST_PICTURES} prompts, one a line: the control exchanges their reports")
        seed, began = read_whole(seed, 0, arguments.MOST_SEED, "seed"), time.perf_counter()
        commands = [command_line("sample.py", *lines, "--seed", seed, weights=self.weights)]
        commands += [command_line("sample.py", "--image", "FILE", weights=self.weights) + "  # each picture"]
        command, address = "\n".join(commands), link("loop", prompts="\n".join(lines), seed=seed)
        stop = self.stops.begin(session)

        def work(watch: sample.Watch) -> np.ndarray:
            return sample.draw(self.checkpoint, lines, [seed] * len(lines), batch=len(lines), watch=watch)

        for done, pictures in follow(work, self.checkpoint, stop):
            shown = gr.skip() if pictures is None else list(zip(pictures, lines, strict=True))
            if done >= 0:
                yield shown, "", status(done, sample.STEPS - 1, began), command, address
        yield shown, "", '<div class="status">Reading them back ...</div>', command, address
        reports = sample.read(self.checkpoint, [Image.fromarray(picture) for picture in pictures])
        yield shown, loop_table(lines, reports, seed), finished(began, self.checkpoint), command, address

    def inside(self, film: Image.Image | None, layer: int, example: str | None, session: str) -> Iterator:
        """-> the film under each word of its report, report, status, command, link"""
        film, began, stop = needs_film(film, example), time.perf_counter(), self.stops.begin(session)
        layer = read_whole(layer, 0, self.checkpoint.model.config.num_layers, "layer")
        make, file = example_command(example)
        command = make + command_line(
            "-m", "studies.attention", "--image", file, "--out", "words.png", weights=self.weights
        )
        address = link("inside", layer=layer, **({"example": example} if example else {}))
        yield gr.skip(), "", '<div class="status">Reading ...</div>', command, address
        report = sample.read(self.checkpoint, [film])[0]
        if stop.is_set():
            raise StoppedError
        square = to_square(film, self.checkpoint.model.config.vit.image_size)
        words = attention.word_maps(self.checkpoint, film, report, layer - 1 if layer else None)
        shown = [(attention.over(square, word_map), word) for word, word_map in words]
        yield shown, report, finished(began, self.checkpoint), command, address


def affirmed(text: str) -> set[str]:
    """What a text says is there, with its side: {"Pleural Effusion left", ...}."""
    labels = label_report(text).items()
    return {f"{name} {label.side or ''}".strip() for name, label in labels if label.value == POSITIVE}


def loop_table(prompts: Sequence[str], reports: Sequence[str], seed: int) -> str:
    """Prompt, report and what both affirm; and how many of the prompts' labels come back, beside the control."""
    asked, found = [affirmed(prompt) for prompt in prompts], [affirmed(report) for report in reports]
    partner = derangement(len(prompts), seed % 2**32)
    back = sum(len(a & f) for a, f in zip(asked, found, strict=True))
    control = sum(len(a & found[other]) for a, other in zip(asked, partner, strict=True))
    rows = [
        (prompt, report, ", ".join(sorted(a)), ", ".join(sorted(f)), f"{len(a & f)} of {len(a)}")
        for prompt, report, a, f in zip(prompts, reports, asked, found, strict=True)
    ]
    total = sum(map(len, asked))
    summary = f"{back} of {total} labels came back; control, the reports exchanged: {control} of {total}."
    headers = ("prompt", "report of the drawing", "asked for", "read back", "came back")
    return f"<p><strong>{escape(summary)}</strong></p>{table(headers, rows)}"


def bars(reports: Sequence[str]) -> str:
    """How many of the reports affirm each observation, as bars."""
    if not reports:
        return ""
    said = sorted((each for each in agreement(reports) if each.affirmed), key=lambda each: -each.affirmed)
    items = [(str(each).split(":")[0], each.share, None, None, str(each).split(": ", 1)[1]) for each in said]
    return page.bars(items, caption=f"Of {len(reports)} sampled reports, how many affirm it?", decimals=1)


def numbered(reports: Sequence[str], seed: int) -> str:
    return "\n".join(f"[seed {seed + k}] {report}" for k, report in enumerate(reports))


# ---- the page ----------------------------------------------------------------------------------------------------


def build(checkpoint: Checkpoint, weights: Path) -> gr.Blocks:
    """The page of one model. Everything that computes waits in one queue, so two users share it one after the other."""
    actions = Actions(checkpoint, weights)
    model = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
    with gr.Blocks(title="UniX from scratch", analytics_enabled=False, delete_cache=KEPT) as blocks:
        session = gr.State("")
        gr.Markdown("# UniX from scratch\nOne model that draws chest X-rays and reads them.")
        gr.HTML(f'<p class="disclaimer" role="note">{escape(sample.DISCLAIMER)} {escape(KNOWS)}</p>', padding=False)
        with gr.Tabs() as tabs:
            fields = {
                "draw": draw_tab(actions, session, model),
                "read": read_tab(actions, session, model),
                "edit": edit_tab(actions, session, model),
                "loop": loop_tab(actions, session, model),
                "inside": inside_tab(actions, session, model),
            }
        every = {(tab, name): field for tab, named in fields.items() for name, field in named.items()}

        def opened(request: gr.Request) -> list:
            """A token for this browser tab, the tab that a link names, and its inputs."""
            given = dict(request.query_params)
            tab = given.pop("tab", None)
            values = [given_value(field, name, given if tab == of else {}) for (of, name), field in every.items()]
            return [os.urandom(8).hex(), gr.Tabs(selected=tab) if tab in fields else gr.skip(), *values]

        opened.__annotations__["request"] = gr.Request  # gradio looks for the class, not for its name
        blocks.load(
            opened,
            outputs=[session, tabs, *every.values()],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
    return blocks


KNOWS = "The shipped model knows drawings only: what it writes about a real X-ray means nothing."


def given_value(field: gr.components.Component, name: str, given: dict[str, str]) -> object:
    """What a link says of a field, if it may; else what the field shows anyway."""
    word = given.get(name)
    if word is None:
        return gr.skip()
    if isinstance(field, gr.Textbox):
        return word[:LONGEST_TEXT]
    if isinstance(field, gr.Dropdown):
        return word if word in map(str, range(1, EXAMPLES + 1)) else gr.skip()
    try:
        return arguments.number(field.minimum or 0, arguments.MOST_SEED if field.maximum is None else field.maximum)(
            word
        )
    except UserError:
        return gr.skip()


def ends(what: str) -> tuple[gr.Button, gr.Button, gr.HTML]:
    """The button that starts, the one that cancels, and where the progress stands."""
    with gr.Row():
        start, cancel = gr.Button(what, variant="primary"), gr.Button("Cancel")
    return start, cancel, gr.HTML(elem_classes="progress", padding=False)


def footer_of_tab() -> tuple[gr.Textbox, gr.HTML]:
    command = gr.Textbox(label="Command line: the same in a terminal", interactive=False, lines=2)
    return command, gr.HTML(padding=False)


def connect(
    actions: Actions,
    model: dict,
    action: Callable,
    start: gr.Button,
    cancel: gr.Button,
    progress: gr.HTML,
    inputs: list,
    outputs: list,
) -> None:
    """Start runs the action in the queue; Cancel stops it, at the latest after one step."""
    work = start.click(one_line(action), inputs, outputs, api_name=action.__name__, **model)

    def ended(token: str) -> object:
        return '<div class="status">Cancelled.</div>' if actions.stops.stopped(token) else gr.skip()

    cancel.click(actions.stops.stop, inputs[-1], cancels=[work], queue=False, api_visibility="private")
    # Written when the page has shown the last step that was on its way; an answer to the click would come before it.
    work.then(ended, inputs[-1], progress, queue=False, show_progress="hidden", api_visibility="private")


def draw_tab(actions: Actions, session: gr.State, model: dict) -> dict:
    with gr.Tab("Draw", id="draw"):
        with gr.Row():
            with gr.Column():
                prompt = gr.Textbox(
                    PROMPTS[0], label="Prompt: what the X-ray shall show", lines=2, max_length=LONGEST_TEXT
                )
                gr.Examples([[each] for each in PROMPTS], prompt, label="Examples")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                    number = gr.Slider(1, MOST_PICTURES, 1, step=1, label="Pictures")
                with gr.Accordion("Sampler", open=False):
                    steps = gr.Slider(2, MOST_STEPS, sample.STEPS, step=1, label="Steps")
                    words = "Guidance: how hard to follow the prompt"
                    guidance = gr.Slider(1, 8, actions.guidance, step=0.1, label=words)
                    largest = checkpoint_size(actions)
                    size = gr.Slider(64, largest, actions.size, step=sample.DOWNSAMPLING, label="Size, pixels a side")
                start, cancel, progress = ends("Draw")
            pictures = gr.Gallery(
                label="Drawings", columns=2, format="png", object_fit="contain", height="auto", buttons=BUTTONS
            )
        command, address = footer_of_tab()
        inputs = [prompt, seed, steps, guidance, size, number, session]
        outputs = [pictures, progress, command, address]
        connect(actions, model, actions.draw, start, cancel, progress, inputs, outputs)
    return {"prompt": prompt, "seed": seed, "steps": steps, "guidance": guidance, "size": size, "number": number}


def checkpoint_size(actions: Actions) -> int:
    return min(actions.checkpoint.model.config.max_latent_size * sample.DOWNSAMPLING, 512)


def film_input() -> tuple[gr.Image, gr.Dropdown]:
    """A film to upload, or an example to pick; a new upload is no example any more."""
    label = "Film: upload a PNG, JPEG or TIFF"  # format: an example film comes back as it was drawn
    film = gr.Image(label=label, type="filepath", format="png", sources=["upload"], height=320, buttons=["fullscreen"])
    film.preprocess = open_upload  # gradio's own raises what Pillow says, with the path of a temporary file
    examples = [(f"phantom {k}", str(k)) for k in range(1, EXAMPLES + 1)]
    example = gr.Dropdown([("none", ""), *examples], value="", label="Or an example film, drawn by a program")
    example.change(example_film, example, film, api_visibility="private", show_progress="hidden")
    film.upload(lambda: "", outputs=example, api_visibility="private", show_progress="hidden")
    return film, example


def read_tab(actions: Actions, session: gr.State, model: dict) -> dict:
    with gr.Tab("Read", id="read"):
        with gr.Row():
            with gr.Column():
                film, example = film_input()
                question = gr.Textbox(label="Question (empty: its findings and impression)", max_length=LONGEST_TEXT)
                reports = gr.Slider(0, MOST_REPORTS, 10, step=1, label="How sure? Reports to sample (0: none)")
                with gr.Row():
                    temperature = gr.Slider(0.1, 2, sample.TEMPERATURE, step=0.1, label="Temperature of the samples")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                start, cancel, progress = ends("Read")
            with gr.Column():
                report = gr.Textbox(label="Report", lines=6, interactive=False)
                gr.HTML(f'<p class="disclaimer" role="note">{escape(sample.DISCLAIMER)}</p>', padding=False)
                sure = gr.HTML(label="How sure", padding=False)
                with gr.Accordion("The sampled reports", open=False):
                    sampled = gr.Textbox(label="Sampled reports", lines=8, interactive=False)
        command, address = footer_of_tab()
        inputs = [film, question, reports, temperature, seed, example, session]
        outputs = [report, sure, sampled, progress, command, address]
        connect(actions, model, actions.read, start, cancel, progress, inputs, outputs)
    return {"question": question, "reports": reports, "temperature": temperature, "seed": seed, "example": example}


def edit_tab(actions: Actions, session: gr.State, model: dict) -> dict:
    with gr.Tab("Edit", id="edit"):
        with gr.Row():
            with gr.Column():
                film, example = film_input()
                prompt = gr.Textbox(
                    PROMPTS[-1], label="Prompt: what the X-ray shall show, in whole", max_length=LONGEST_TEXT
                )
                strength = gr.Slider(
                    0.05, 1, sample.STRENGTH, step=0.05, label="Strength: 0 changes nothing, 1 everything"
                )
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                gr.Markdown("Only here (all 0: everywhere), in the film's pixels. Or click two corners on the film.")
                with gr.Row():
                    box = [
                        gr.Number(0, label=label, precision=0, minimum=0, min_width=80)
                        for label in ("Left", "Top", "Right", "Bottom")
                    ]
                start, cancel, progress = ends("Edit")
            with gr.Column():
                slider = gr.ImageSlider(label="Before | after", format="png", interactive=False, buttons=BUTTONS)
                changed = gr.Image(
                    label="Difference: red brighter, blue darker", format="png", interactive=False, buttons=BUTTONS
                )
                gr.HTML(f'<p class="disclaimer" role="note">{escape(sample.DISCLAIMER)}</p>', padding=False)
        command, address = footer_of_tab()
        film.select(corner, box, box, api_visibility="private", show_progress="hidden")
        inputs = [film, prompt, strength, seed, *box, example, session]
        outputs = [slider, changed, progress, command, address]
        connect(actions, model, actions.edit, start, cancel, progress, inputs, outputs)
    fields = dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
    return {"prompt": prompt, "strength": strength, "seed": seed, **fields, "example": example}


def corner(x0: float, y0: float, x1: float, y1: float, at: gr.SelectData) -> tuple[int, int, int, int]:
    """The box after a click: the first click of a pair is one corner, the second the opposite one."""
    x, y = map(int, at.index)
    if (x1 or 0) - (x0 or 0) > 1 or not any((x0, y0, x1, y1)):
        return x, y, x + 1, y + 1
    return min(x0, x), min(y0, y), max(x0, x) + 1, max(y0, y) + 1


def loop_tab(actions: Actions, session: gr.State, model: dict) -> dict:
    with gr.Tab("Closed loop", id="loop"):
        gr.Markdown("The model draws each prompt, then reads its drawing without it. Do the findings come back?")
        prompts = gr.Textbox(
            "\n".join(PROMPTS), label=f"Prompts, one a line (2 to {MOST_PICTURES})", lines=4, max_length=LONGEST_TEXT
        )
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        start, cancel, progress = ends("Draw and read back")
        pictures = gr.Gallery(
            label="Drawings", columns=4, format="png", object_fit="contain", height="auto", buttons=BUTTONS
        )
        found = gr.HTML(padding=False)
        gr.HTML(f'<p class="disclaimer" role="note">{escape(sample.DISCLAIMER)}</p>', padding=False)
        command, address = footer_of_tab()
        outputs = [pictures, found, progress, command, address]
        connect(actions, model, actions.closed_loop, start, cancel, progress, [prompts, seed, session], outputs)
    return {"prompts": prompts, "seed": seed}


def inside_tab(actions: Actions, session: gr.State, model: dict) -> dict:
    with gr.Tab("Look inside", id="inside"):
        gr.Markdown(
            "Where does each word of the report look? Orange: more than evenly. Attention is no explanation: a map says"
            " what a layer weighed, not what the report would be without it."
        )
        with gr.Row():
            with gr.Column():
                film, example = film_input()
                layers = actions.checkpoint.model.config.num_layers
                layer = gr.Slider(0, layers, 0, step=1, label="Layer (0: the mean of all)")
                start, cancel, progress = ends("Look inside")
                report = gr.Textbox(label="Report", lines=4, interactive=False)
                gr.HTML(f'<p class="disclaimer" role="note">{escape(sample.DISCLAIMER)}</p>', padding=False)
            maps = gr.Gallery(
                label="Words of the report",
                columns=3,
                format="png",
                object_fit="contain",
                height="auto",
                buttons=BUTTONS,
            )
        command, address = footer_of_tab()
        outputs = [maps, report, progress, command, address]
        connect(actions, model, actions.inside, start, cancel, progress, [film, layer, example, session], outputs)
    return {"layer": layer, "example": example}


# ---- the server --------------------------------------------------------------------------------------------------


class Guard:
    """Around the server: what it sends carries POLICY, and a request with a large body is refused before it is read."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, length = 0, dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"too large"})
            return

        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        async def counted() -> dict:  # a body of no declared length
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= LARGEST_BODY else {"type": "http.disconnect"}

        await self.app(scope, counted, guarded)


async def fetch_nothing(url: str, *_: object, **__: object) -> str:
    """In the place of gradio's download of an address that stands where a file should."""
    raise gr.Error("give a file, not an address: this page fetches nothing", print_exception=False)


def serve(blocks: gr.Blocks, port: int, wait: bool = True) -> str:
    """Answer on 127.0.0.1 until Ctrl-C. port: 0 takes a free one. wait: False returns at once. -> the address."""
    from gradio import processing_utils
    from starlette.middleware import Middleware

    processing_utils.async_save_url_to_cache = fetch_nothing
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    blocks.queue(max_size=32, default_concurrency_limit=1)
    _, address, _ = blocks.launch(
        server_name="127.0.0.1",
        server_port=port or None,
        share=False,
        quiet=True,
        show_error=False,
        max_file_size=UPLOAD,
        allowed_paths=[],
        footer_links=["api"],
        ssr_mode=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
        theme=theme,
        css=STYLE + page.STYLE_OF_BARS,
        app_kwargs={"middleware": [Middleware(Guard)]},
    )
    print(f"{address}\n{sample.DISCLAIMER}", flush=True)
    if wait:
        blocks.block_thread()
    return address


def parse_args() -> object:
    parser = arguments.Parser(
        description="A page that draws, reads and edits chest X-rays, on this machine alone.", epilog=sample.DISCLAIMER
    )
    add = parser.add_argument
    weights = "weights folder (default: the shipped tiny model)"
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help=weights)
    add("--port", type=arguments.whole(0, 65535), default=7860, help="of 127.0.0.1; 0: any free one (default 7860)")
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    add("--dtype", choices=arguments.SAMPLING_DTYPES, help=arguments.SAMPLING_DTYPES_HELP)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if gr is None:
        raise UserError("the page needs gradio, which is not installed; pip install -e '.[demo]'")
    device = pick_device(args.device)
    checkpoint = sample.load_model(args.weights, device, pick_dtype(args.dtype, device))
    sample.drawing_device(checkpoint)
    with tempfile.TemporaryDirectory(prefix="open-unix-") as folder:  # uploads and pictures, gone with the server
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(build(checkpoint, args.weights), args.port)


if __name__ == "__main__":
    run(main)
