"""What the buttons do, with one model. Each says how to do the same in a terminal."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
from PIL import Image

import edit
import sample
from common import arguments
from common.errors import UserError
from common.files import SHIPPED
from common.images import to_square
from common.pictures import difference
from common.sampling import FAST
from evaluation.metrics import derangement
from evaluation.page import html_of
from evaluation.tables import Table
from page.uploads import example_film
from page.work import finished, follow, said, status
from reports.agreement import agreement_lines
from reports.labeler import POSITIVE, label_report
from studies import attention
from weights import Checkpoint

MOST_PICTURES = 4  # of one click: others wait
LONGEST_TEXT = 2000  # characters
AT_A_TIME = 5  # sampled reports; Cancel waits for them


class Actions:
    """draw ... inside are generators of what a tab shows, again and again, and of how far it is. They are given its
    inputs by their names, and add the commands that do the same. Cancel closes them where they yield."""

    def __init__(self, checkpoint: Checkpoint, weights: Path, quick: Checkpoint | None) -> None:
        self.checkpoint, self.weights, self.config = checkpoint, weights, checkpoint.model.config
        self.quick = quick  # the same model with the adapter of `sample.py --fast`

    def clicked(self, fields: dict[str, gr.components.Component], action: Callable) -> Callable:
        """What a click on the tab's button calls with the values of its fields."""
        weights = ["--weights", self.weights] if self.weights != SHIPPED else []

        def click(*values: object) -> Iterator:
            given = given_by(fields, values)
            if "film" in fields:
                given.film = example_film(given.example) if given.film is None else given.film
                if given.film is None:
                    raise UserError("no film: upload one, or pick an example")
            given.began = time.perf_counter()
            for shown in action(given):
                commands = [shlex.join(map(str, ["python", *words, *weights])) for words in given.commands]
                yield *shown, "\n".join(commands)

        return click

    def draw(self, given: SimpleNamespace) -> Iterator:
        """-> pictures"""
        sampler = ["--steps", given.steps, "--guidance", f"{given.guidance:g}", "--size", given.size]
        given.commands = [["sample.py", given.prompt, "--seed", given.seed, *sampler, "--n", given.number]]
        seeds = range(given.seed, given.seed + given.number)
        if between := given.second.strip() and given.share:
            strip = ["edit.py", "--between", 11, given.prompt, given.second, "--seed", given.seed, *sampler]
            given.commands, seeds = [strip], [given.seed]

        def work(watch: sample.Watch) -> np.ndarray:
            how = {"steps": given.steps, "guidance": given.guidance, "batch": len(seeds), "watch": watch}
            return self.drawn(self.checkpoint, given, seeds, size=given.size, **how)

        for pictures, doing in follow(work, self.checkpoint, given.steps - 1):
            named = [f"seed {each}" + f", {given.share:.0%} towards the second" * bool(between) for each in seeds]
            yield gr.skip() if pictures is None else [*zip(pictures, named, strict=True)], doing

    def drawn(self, checkpoint: Checkpoint, given: SimpleNamespace, seeds: Sequence[int], **how: object) -> np.ndarray:
        """Pictures of the prompt; or one at the slider's place on the way to the second prompt."""
        if given.second.strip() and given.share:
            return edit.between(checkpoint, (given.prompt, given.second), seeds[0], [given.share], **how)
        return sample.draw(checkpoint, [given.prompt] * len(seeds), seeds, **how)

    def live(self, fields: dict[str, gr.components.Component]) -> Callable:
        """What is called while somebody types: a picture in four passes, or None of what is no prompt yet."""

        def follow_typing(*values: object) -> object:
            time.sleep(0.15)  # of the values that come meanwhile the browser sends the last, when this one is drawn
            try:
                given = given_by(fields, values)
                return self.drawn(self.quick, given, [given.seed], **FAST)[0]
            except UserError:
                return None

        return follow_typing

    def read(self, given: SimpleNamespace) -> Iterator:
        """-> report, what the sampled ones agree on, those"""
        question = given.question.strip() or None
        words = ["sample.py", "--image", "FILE", *(["--question", question] if question else [])]
        sampling = ["--n", given.reports, "--seed", given.seed]
        given.commands = [words, [*words, *sampling]] if given.reports > 1 else [words]
        text, sampled, shown = "", [], ("", "")
        for piece in sample.read_aloud(self.checkpoint, given.film, question):
            text += piece
            yield text, *shown, said("Writing the report ...")
        seeds = range(given.seed, given.seed + given.reports)
        for first in range(0, given.reports, AT_A_TIME):
            yield text, *shown, status(first, given.reports, "Sampling")
            some = seeds[first : first + AT_A_TIME]
            sampled += sample.read_often(self.checkpoint, [given.film], [some], question=question)[0]
            shown = "\n".join(agreement_lines(sampled)), "\n".join(map("[seed {}] {}".format, seeds, sampled))
        yield text, *shown, finished(given.began, self.checkpoint)

    def edit(self, given: SimpleNamespace) -> Iterator:
        """-> (before, after), difference"""
        words = ["edit.py", "FILE", given.prompt, "--strength", f"{given.strength:g}", "--seed", given.seed]
        before, masks = to_square(given.film, self.config.image_size), None
        if any(box := (given.x0, given.y0, given.x1, given.y1)):
            words += ["--mask", ",".join(map(str, box))]
            masks = edit.mask_of(arguments.mask(words[-1]), given.film, self.config.image_size)[None]
        given.commands = [words]
        steps = int((sample.schedule(sample.SOLVER, sample.STEPS) < given.strength).sum())

        def work(watch: sample.Watch) -> np.ndarray:
            how = {"masks": masks, "watch": watch}
            return edit.edit(self.checkpoint, before[None], [given.prompt], [given.seed], given.strength, **how)

        for pictures, doing in follow(work, self.checkpoint, steps):
            if pictures is None:
                yield gr.skip(), gr.skip(), doing
            else:
                yield (before, pictures[0]), difference(before, pictures[0]), doing

    def closed_loop(self, given: SimpleNamespace) -> Iterator:
        """-> pictures, table"""
        lines = [line.strip() for line in given.prompts.splitlines() if line.strip()]
        if not 2 <= len(lines) <= MOST_PICTURES:
            raise UserError(f"give 2 to {MOST_PICTURES} prompts, one a line: the control exchanges their reports")
        given.commands = [["sample.py", *lines, "--seed", given.seed], ["sample.py", "--image", "FILE"]]

        def work(watch: sample.Watch) -> np.ndarray:
            return sample.draw(self.checkpoint, lines, [given.seed] * len(lines), batch=len(lines), watch=watch)

        then = said("Reading them back ...")
        for pictures, doing in follow(work, self.checkpoint, sample.STEPS - 1, then):
            shown = gr.skip() if pictures is None else [*zip(pictures, lines, strict=True)]
            yield shown, "", doing
        reports = sample.read(self.checkpoint, [Image.fromarray(picture) for picture in pictures])
        yield shown, loop_table(lines, reports, given.seed), finished(given.began, self.checkpoint)

    def inside(self, given: SimpleNamespace) -> Iterator:
        """-> the film under each word of its report, report"""
        given.commands = [["sample.py", "--image", "FILE"]]  # the report without the maps
        yield gr.skip(), "", said("Reading ...")
        report = sample.read(self.checkpoint, [given.film])[0]
        yield gr.skip(), report, said("Looking inside ...")
        square = to_square(given.film, self.config.vit.image_size, self.config.vit.padding, self.config.vit.scaling)
        words = attention.report_maps(self.checkpoint, given.film, report)
        looks = [(word, maps[given.layer - 1] if given.layer else maps.mean(axis=0)) for word, maps in words]
        shown = [(attention.over(square, word_map), word) for word, word_map in looks]
        yield shown, report, finished(given.began, self.checkpoint)


def given_by(fields: dict[str, gr.components.Component], values: Sequence[object]) -> SimpleNamespace:
    """The values of fields by their names, each `checked`."""
    return SimpleNamespace(**{n: checked(n, f, v) for (n, f), v in zip(fields.items(), values, strict=True)})


def checked(name: str, field: gr.components.Component, value: object) -> object:
    """What a field holds. What it does not let one type can still come in a call. Raises UserError."""
    if isinstance(field, gr.Textbox):
        if len(value or "") > LONGEST_TEXT:
            raise UserError(f"the {name}: {len(value):,} characters; give at most {LONGEST_TEXT:,}")
        return arguments.text(value or "")
    if isinstance(field, gr.Dropdown):
        return field.preprocess(value)  # raises gr.Error for another than its choices
    if not isinstance(field, (gr.Number, gr.Slider)):
        return value
    value = int(value) if isinstance(value, float) and value.is_integer() else value or 0
    kind = arguments.whole if isinstance(field.step, int) else arguments.number
    try:
        return kind(field.minimum, arguments.MOST_SEED if field.maximum is None else field.maximum)(str(value))
    except UserError as error:
        raise UserError(f"{name} {error}") from None


def loop_table(prompts: Sequence[str], reports: Sequence[str], seed: int) -> str:
    """Prompt, report and what both affirm; and how many of the prompts' labels come back, beside the control."""

    def affirmed(text: str) -> set[str]:  # {"Pleural Effusion left", ...}
        labels = label_report(text).items()
        return {f"{name} {label.side or ''}".strip() for name, label in labels if label.value == POSITIVE}

    asked, found = list(map(affirmed, prompts)), list(map(affirmed, reports))
    others = [found[k] for k in derangement(len(prompts), seed)]
    back, control = (sum(len(a & f) for a, f in zip(asked, each, strict=True)) for each in (found, others))
    rows = [*zip(prompts, reports, *(map(", ".join, map(sorted, each)) for each in (asked, found)), strict=True)]
    summary = f"{back} of {sum(map(len, asked))} labels came back; control, the reports exchanged: {control}."
    return html_of(Table(["prompt", "report of the drawing", "asked for", "read back"], rows, note=summary))
