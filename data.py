"""From a source to batches. A source is a set of films with reports: phantoms/, or what archives/ reads from disk.

    Examples    the run as one long sequence: what stands at a position (picture, texts, noise), made at random
    share       which positions of each step belong to this process
    collate     examples -> tensors: texts packed and padded
    batches     the three behind torch's DataLoader

Everything random about an example (crop, noise, time, whether its prompt is dropped) comes from a generator seeded by
(seed, position in the run), inside the loading workers. A run therefore does not depend on how many processes or
workers share it, and continues anywhere. And a command, which archives/command.py holds:

    python data.py stats DATA                       counts, labels, lengths of reports, a contact sheet
    python data.py check DATA                       open every image
    python data.py clean DATA --out cleaned.jsonl   reports without what a picture cannot show
"""

from common.errors import UserError, run  # first: what follows takes seconds, and Ctrl-C may end it

# isort: split
import math
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from archives.command import main
from archives.records import Records, Source
from common.images import augment, to_square
from common.sampling import DOWNSAMPLING
from common.workers import ignore_signals, started, stop_workers, unbroken
from losses import IGNORE, KINDS, Batch
from model import UniXConfig, pad
from reports import questions
from reports.labeler import POSITIVE, label_reports
from reports.phrases import visible


def position_rng(seed: int, stream: int, position: int) -> np.random.Generator:
    """The generator that belongs to the example at `position` of a run."""
    high, low = divmod(seed, 2**32)  # a seed has up to 63 bits; the key has room for 32 of them
    key = np.array([low * 2**32 + stream, position], dtype=np.uint64)  # of its own, numpy would round it in float64
    return np.random.Generator(np.random.Philox(counter=[0, 0, 0, high], key=key))


# ---- examples ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Examples(Dataset):
    """The run as one long sequence: position p is example permutation(epoch)[p mod count] with its own randomness.

    stage "vae": image crop; "vit": image and what is `visible` in it; "1": image, question and answer;
    "2", "3": image, prompt, noise and time; "text": an impression alone, as a prompt.
    """

    source: Source
    stage: str
    size: int  # px of a picture; in stage 1 it is the ViT's own
    seed: int
    encode: Callable[[str], list[int]]
    config: UniXConfig
    batch: int  # positions of a step
    vocabulary: Sequence[str] = ()  # the names that stage vit learns to see
    prompt_dropout: float = 0.1
    # (other, own): `other` examples of another stage, then `own` of this one, and so on. The other stage: for stage 1
    # "text", for stages 2 and 3 stage 1 (the paper's ablation, section 5.2).
    mix: tuple[int, int] = (0, 1)
    augmented: bool = False
    # (N,) >= 1: an epoch is their sum long, and example i comes up repeats[i] times in it on average.
    repeats: np.ndarray | None = None
    observations: str | None = None  # names of observations "first", before the report, or "only"; None: no names

    def __post_init__(self) -> None:
        self._bounds = np.cumsum(np.ones(len(self.source)) if self.repeats is None else self.repeats)  # each one's end
        self._epoch_length = math.ceil(self._bounds[-1])
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._broken: set[int] = set()  # of this process
        self._lengths: dict[int, int] = {}  # hash of a text -> its tokens

    def __len__(self) -> int:
        return 2**62  # a run ends by its number of steps

    def __getitem__(self, position: int) -> dict:
        """What `collate` turns into a Batch: its kind, the index in the source, and what the stage asks for."""
        rng, stage = position_rng(self.seed, 0, position), self.stage_at(position)
        if stage == "text":
            index = self.index(position)
            text = self.fitting(self.encode(self.source.text(index)[1]))
            return {"kind": KINDS[stage], "index": index, "question": None, "answer": text}
        index, picture = self.picture(position)
        example = {"kind": KINDS[stage], "index": index, "image": self.square(picture, stage, rng)}
        if stage == "vit":
            seen = visible(self.source, index)
            example["phrases"] = np.array([seen.get(name, 0) for name in self.vocabulary], dtype=np.float32)
        elif stage == "1":
            question, answer = self.question_and_answer(index, position, rng)
            example["question"] = self.encode(question)
            if len(example["question"]) > self.config.context_length - 5:
                raise UserError(f"example {index}: its question leaves no room in the model's context; shorten it")
            example["answer"] = self.fitting(self.encode(answer), len(example["question"]) + 2)
        else:
            example["posterior_noise"] = rng.standard_normal(self.latent_shape, dtype=np.float32)
            if stage != "vae":
                prompt = self.prompt(index, rng)
                example["prompt"] = None if prompt is None else self.fitting(self.encode(prompt))
                example["noise"] = rng.standard_normal(self.latent_shape, dtype=np.float32)
                example["t_normal"] = np.float32(rng.standard_normal())
        return example

    # ---- which example stands at a position, and as what

    def index(self, position: int) -> int:
        """The example's index in the source."""
        epoch, offset = divmod(position, self._epoch_length)
        if epoch != self._epoch:
            rng = position_rng(self.seed, 1, epoch)
            order = rng.permutation(self._epoch_length)
            # Systematic sampling: marks at equal distances along the sum; without repeats one on each example.
            marks = (order + rng.random()) * (self._bounds[-1] / self._epoch_length)
            self._epoch, self._order = epoch, np.searchsorted(self._bounds[:-1], marks, side="right")
        return int(self._order[offset])

    def stage_at(self, position: int) -> str:
        if position % sum(self.mix) >= self.mix[0]:
            return self.stage
        return "text" if self.stage == "1" else "1"

    # ---- its picture

    def picture(self, position: int) -> tuple[int, Image.Image]:
        """The example at `position`; if its image is broken, that is said, and the next one's takes its place."""
        limit = min(len(self.source) - 1, max(10, len(self.source) // 100))
        while True:
            index = self.index(position)
            try:
                return index, Image.fromarray(self.source.image(index))
            except UserError as error:
                if index not in self._broken:
                    self._broken.add(index)
                    print(f"skipped: {error}", file=sys.stderr)
                if len(self._broken) > limit:
                    raise UserError(f"{len(self._broken)} broken images, the last: {error}") from error
                position += 1

    def square(self, picture: Image.Image, stage: str, rng: np.random.Generator) -> np.ndarray:
        """(S, S) uint8, as the stage sees it."""
        if stage in ("vit", "1"):  # the ViT's padding is its weights' own; what is drawn has black beside it
            vit = self.config.vit
            square = to_square(picture, vit.image_size if stage == "1" else self.size, vit.padding, vit.scaling)
            return augment(square, rng) if self.augmented else square
        if stage == "vae" and min(picture.size) > self.size and rng.random() < 0.8:
            # Mostly crops at full detail, some whole pictures made small: the autoencoder must serve both resolutions.
            # A corner may fall outside and is moved in, or the picture's border would hardly ever be seen.
            half = self.size // 2
            corner = (rng.integers(-half, side - half + 1) for side in picture.size)
            left, top = (int(np.clip(at, 0, side - self.size)) for at, side in zip(corner, picture.size, strict=True))
            picture = picture.crop((left, top, left + self.size, top + self.size))
        return to_square(picture, self.size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.config.latent_channels, self.size // DOWNSAMPLING, self.size // DOWNSAMPLING

    # ---- its texts

    def question_and_answer(self, index: int, position: int, rng: np.random.Generator) -> tuple[str, str]:
        """What stage 1 asks about a film, and what it wants to read: the row's own question, if it brings one.

        Else a small model is asked for the report in each third step, and in the two between for the impression: it is
        short, and nearly every word of it is seen in the image. With `observations` one of the two asks for the names.
        """
        turn = position // self.batch % 3
        report, impression = self.source.text(index)
        if (question := self.source.extra(index).get("question")) is not None:
            return question, report
        if self.observations:
            named = questions.observations_of(report)
            if self.observations == "only" or turn == 1:
                return questions.NAMES_QUESTION, named
            report = f"{named} {report}"
        if self.config.wording == "published":
            return questions.question_for(report, int(rng.integers(len(questions.QUESTIONS)))), report
        return (questions.SHORT_QUESTION, impression) if turn else (questions.DEFAULT_QUESTION, report)

    def prompt(self, index: int, rng: np.random.Generator) -> str | None:
        """What the film is drawn from: a caption if its row brings any, else the impression, or the report one time in
        five; None for no prompt (guidance)."""
        report, impression = self.source.text(index)
        text = report if rng.random() < 0.2 else impression
        if captions := self.source.extra(index).get("captions"):
            text = captions[int(rng.integers(len(captions)))]
        return None if rng.random() < self.prompt_dropout else text

    def fitting(self, ids: list[int], beside: int = 0) -> list[int]:
        """What of a text the context takes with its BOS and EOS, and `beside` other tokens."""
        return ids[: max(1, self.config.context_length - 2 - beside)]

    # ---- its length

    def by_length(self, positions: range) -> list[int]:
        """The positions of one step, the short texts first, so that a micro-batch holds texts of like length.

        Real reports are uneven: most of a micro-batch of random ones is padding. The sum over the step stays the same.
        Each place of a mix is sorted by itself, so every micro-batch keeps the mix's ratio.
        """
        ordered, together = list(positions), sum(self.mix)
        for place in range(together):
            ordered[place::together] = sorted(positions[place::together], key=self.length)
        return ordered

    def length(self, position: int) -> int:
        """Tokens of the text of the example at `position`, without its picture; of a broken one, of the text it has."""
        stage = self.stage_at(position)
        if stage in ("vae", "vit"):
            return 0
        index, rng = self.index(position), position_rng(self.seed, 0, position)
        if stage in ("2", "3"):
            rng.standard_normal(self.latent_shape, dtype=np.float32)  # comes before the prompt in the example too
            text = self.prompt(index, rng)
        else:
            text = self.question_and_answer(index, position, rng)[1] if stage == "1" else self.source.text(index)[1]
        if text is None:
            return 0
        key = hash(text)
        if key not in self._lengths:
            self._lengths[key] = len(self.encode(text))
        return self._lengths[key]


# ---- batches -----------------------------------------------------------------------------------------------------


def share(
    batch: int, micro: int, rank: int, processes: int, start: int, steps: int, order: Callable[[range], Sequence[int]]
) -> Iterator[Sequence[int]]:
    """The positions that one of `processes` takes from step `start` to `steps`, micro-batch by micro-batch.

    A step's `batch` positions are the same for any number of processes, and so is the sum of their losses. order: how
    they stand before they are cut (`Examples.by_length`); neighbours go to different processes, which so have like
    work.
    """
    for step in range(start, steps):
        ordered = order(range(step * batch, (step + 1) * batch))
        for first in range(rank * micro, batch, processes * micro):
            yield ordered[first : first + micro]


def collate(config: UniXConfig, examples: list[dict]) -> dict[str, Batch]:
    """The DataLoader's hook: examples -> a batch of each kind that occurs."""
    batches: dict[str, Batch] = {}
    for kind in dict.fromkeys(example["kind"] for example in examples):
        rows = [example for example in examples if example["kind"] == kind]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        batch = batches[kind] = Batch(torch.tensor(columns["index"]), prompts=columns.get("prompt"))
        if "answer" in columns:
            batch.text_ids, batch.targets = pack_answers(columns["question"], columns["answer"], config)
        for key in ("image", "phrases", "posterior_noise", "noise", "t_normal", "latents", "t"):
            if key in columns:
                setattr(batch, key, torch.from_numpy(np.stack(columns[key])))
    return batches


def pack_answers(
    asked: Sequence[list[int] | None], answers: Sequence[list[int]], config: UniXConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of questions and answers -> text_ids and targets of a Batch, (B, T) each.

    [BOS question EOS BOS answer EOS], or [BOS answer EOS] where the question is None. The target is the next token,
    from the answer's BOS on: m and n of Eq. 1.
    """
    before = [[] if ids is None else [config.bos, *ids, config.eos] for ids in asked]
    rows = [[*given, config.bos, *ids, config.eos] for given, ids in zip(before, answers, strict=True)]
    text_ids, lengths = pad(rows, config.eos)
    targets = torch.cat([text_ids[:, 1:], torch.full((len(rows), 1), IGNORE)], dim=1)
    place, start = torch.arange(text_ids.shape[1]), torch.tensor([len(given) for given in before])
    return text_ids, targets.masked_fill((place < start[:, None]) | (place >= lengths[:, None] - 1), IGNORE)


def batches(
    examples: Examples, positions: Iterator[Sequence[int]], workers: int, pin: bool = False
) -> Generator[dict[str, Batch], None, None]:
    """The micro-batches of a share of the run. Closing the generator ends its loading processes."""
    loader = DataLoader(
        examples,
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=partial(collate, examples.config),
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
        worker_init_fn=ignore_signals,
    )
    iterator = started(loader)
    try:
        yield from unbroken(iterator)
    finally:
        stop_workers(iterator)


# ---- what a run asks of its source before it starts --------------------------------------------------------------


def repeat_factors(source: Records, most: float) -> np.ndarray:
    """How many times each film comes up in an epoch so that rare observations come up as often as the commonest one,
    but none more than `most` times: (N,) >= 1.

    By the rarest observation that its report calls positive; "No Finding" is one. (Class-balanced sampling; phantoms
    have `phantoms.dataset.evened`.)
    """
    shown = label_reports([source.text(i)[0] for i in range(len(source))]) == POSITIVE
    frequency = shown.mean(axis=0).clip(min=1 / len(shown))
    return np.where(shown, frequency.max() / frequency, 1).max(axis=1).clip(max=most)


if __name__ == "__main__":
    run(main)
