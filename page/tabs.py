"""How the page looks: five tabs, each with its inputs, a button that starts, Cancel, and what comes of it."""

from functools import partial
from html import escape
from pathlib import Path

import gradio as gr

from common.sampling import DISCLAIMER, DOWNSAMPLING, STEPS, STRENGTH
from model import UniXConfig
from page.actions import LONGEST_TEXT, MOST_PICTURES, Actions
from page.uploads import EXAMPLES, example_film, open_upload
from page.work import Page, said
from weights import Checkpoint

KEPT = (600, 3600)  # seconds: how often uploads and pictures are looked through, and how old they may grow
PROMPTS = (
    "Moderate cardiomegaly. Small left pleural effusion.",
    "Large right pneumothorax.",
    "Severe pulmonary edema.",
    "No acute cardiopulmonary process.",
)
KNOWS = "The shipped model knows phantoms only: what it writes about a real X-ray means nothing."
ATTENTION = (
    "Where does each word of the report look? Orange: more than evenly. Attention is no explanation: a map says what a"
    " layer weighed, not what the report would be without it."
)
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}  # of what is no call of the API
PICTURE = {"format": "png", "buttons": ["download", "fullscreen"]}  # gradio's third button would hand it to a site
gallery = partial(gr.Gallery, object_fit="contain", height="auto", **PICTURE)
html = partial(gr.HTML, padding=False)
text = partial(gr.Textbox, max_length=LONGEST_TEXT)
whole = partial(gr.Number, precision=0, minimum=0, min_width=80)
written = partial(gr.Textbox, interactive=False)


def build(checkpoint: Checkpoint, weights: Path, quick: Checkpoint | None = None) -> Page:
    """The page of one model. Everything that computes waits in one queue, so two users share it one after the other.

    Each tab: inputs beside outputs, and below them the same in a terminal. Cancel takes at most one step. quick: the
    model with the adapter of `sample.py --fast`, by which the first tab draws while one types.
    """
    actions = Actions(checkpoint, weights, quick)
    model = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
    with Page(title="UniX from scratch", analytics_enabled=False, delete_cache=KEPT) as blocks:
        gr.Markdown("# UniX from scratch\nOne model that draws chest X-rays and reads them.")
        disclaimer(KNOWS)
        with gr.Tabs():
            for title, action, inputs in (
                ("Draw", actions.draw, draw_tab),
                ("Read", actions.read, read_tab),
                ("Edit", actions.edit, edit_tab),
                ("Closed loop", actions.closed_loop, loop_tab),
                ("Look inside", actions.inside, inside_tab),
            ):
                with gr.Tab(title):
                    with gr.Row():
                        with gr.Column():
                            fields, outputs = inputs(actions.config)
                            with gr.Row():
                                start, cancel = gr.Button(title, variant="primary"), gr.Button("Cancel")
                            progress = html(elem_classes="progress")
                        with gr.Column():
                            disclaimer()
                            if title == "Draw" and quick:
                                picture = gr.Image(label="While you type: four passes", interactive=False, **PICTURE)
                                asked = {name: fields[name] for name in ("prompt", "seed", "second", "share")}
                                changed = [field.change for field in asked.values()]
                                more = {"trigger_mode": "always_last", "api_visibility": "private", **model}
                                gr.on([blocks.load, *changed], actions.live(asked), [*asked.values()], picture, **more)
                            shown = outputs()
                    shown += [html()] if title == "Closed loop" else []  # its table needs the width of the page
                    shown += [progress, written(label="Command line: the same in a terminal", lines=2)]
                click, given = actions.clicked(fields, action), [*fields.values()]
                work = start.click(click, given, shown, api_name=action.__name__, **model)
                stopped = cancel.click(None, cancels=[work], api_visibility="private")
                stopped.then(lambda: said("Cancelled."), outputs=progress, queue=False, **HIDDEN)
    return blocks


def disclaimer(more: str = "") -> None:
    html(f'<p class="disclaimer" role="note">{escape(f"{DISCLAIMER} {more}".strip())}</p>')


# ---- the tabs: each returns its inputs by their names in calls, and what makes its outputs -----------------------


def draw_tab(config: UniXConfig) -> tuple:
    prompt = text(PROMPTS[0], label="Prompt: what the X-ray shall show", lines=2)
    gr.Examples([[each] for each in PROMPTS], prompt, label="Examples")
    with gr.Row():
        seed, number = whole(0, label="Seed"), gr.Slider(1, MOST_PICTURES, 1, step=1, label="Pictures")
    second = text(PROMPTS[1], label="Towards: what a second X-ray shall show")
    share = gr.Slider(0, 1, 0, step=0.1, label="From the first (0) to the second (1): one picture")
    with gr.Accordion("Sampler", open=False):
        steps = gr.Slider(2, 100, STEPS, step=1, label="Steps")
        guidance = gr.Slider(1, 8, config.guidance, step=0.1, label="Guidance: how hard to follow the prompt")
        largest = min(config.max_latent_size * DOWNSAMPLING, 512)
        size = gr.Slider(64, largest, config.image_size, step=DOWNSAMPLING, label="Size, pixels a side")
    fields = {"prompt": prompt, "seed": seed, "steps": steps, "guidance": guidance, "size": size, "number": number}
    fields |= {"second": second, "share": share}
    return fields, lambda: [gallery(label="Drawings", columns=2)]


def read_tab(config: UniXConfig) -> tuple:
    film, example = film_and_example()
    question = text(label="Question (empty: its findings and impression)")
    reports = gr.Slider(0, 20, 10, step=1, label="How sure? Reports to sample (0: none)")
    sampling = {"reports": reports, "seed": whole(0, label="Seed")}
    labels = ("Report", "What the samples agree on", "Sampled reports")
    fields = {"film": film, "question": question, **sampling, "example": example}
    return fields, lambda: [written(label=label, lines=6) for label in labels]


def edit_tab(config: UniXConfig) -> tuple:
    film, example = film_and_example()
    prompt = text(PROMPTS[-1], label="Prompt: what the X-ray shall show, in whole")
    strength = gr.Slider(0.05, 1, STRENGTH, step=0.05, label="Strength: 0 changes nothing, 1 everything")
    seed = whole(0, label="Seed")
    gr.Markdown("Only here (all 0: everywhere), in the film's pixels.")
    with gr.Row():
        box = [whole(0, label=label) for label in ("Left", "Top", "Right", "Bottom")]
    fields = {"film": film, "prompt": prompt, "strength": strength, "seed": seed}
    fields |= {**dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)), "example": example}
    labels = {gr.ImageSlider: "Before | after", gr.Image: "Difference: red brighter, blue darker"}
    return fields, lambda: [kind(label=label, interactive=False, **PICTURE) for kind, label in labels.items()]


def loop_tab(config: UniXConfig) -> tuple:
    gr.Markdown("The model draws each prompt, then reads its drawing without it. Do the findings come back?")
    prompts = text("\n".join(PROMPTS), label=f"Prompts, one a line (2 to {MOST_PICTURES})", lines=4)
    return {"prompts": prompts, "seed": whole(0, label="Seed")}, lambda: [gallery(label="Drawings", columns=2)]


def inside_tab(config: UniXConfig) -> tuple:
    gr.Markdown(ATTENTION)
    film, example = film_and_example()
    layer = gr.Slider(0, config.num_layers, 0, step=1, label="Layer (0: the mean of all)")
    fields = {"film": film, "layer": layer, "example": example}
    return fields, lambda: [gallery(label="Words of the report", columns=3), written(label="Report", lines=4)]


def film_and_example() -> tuple[gr.Image, gr.Dropdown]:
    """A film to upload, or an example to pick; a new upload is no example any more."""
    label = "Film: upload a PNG, JPEG or TIFF"  # format: an example film comes back as it was rendered
    film = gr.Image(label=label, type="filepath", format="png", sources=["upload"], height=320, buttons=["fullscreen"])
    film.preprocess = open_upload  # gradio's own raises what Pillow says, with the path of a temporary file
    examples = [(f"phantom {k}", str(k)) for k in range(1, EXAMPLES + 1)]
    example = gr.Dropdown([("none", ""), *examples], value="", label="Or an example film, rendered by a program")
    example.change(example_film, example, film, **HIDDEN)
    film.upload(lambda: "", outputs=example, **HIDDEN)
    return film, example
