"""From pictures and reports to batches: image transforms, the tokenizer, training examples. And a command:

    python data.py stats DATA                       counts, labels, lengths of reports, a contact sheet
    python data.py check DATA                       open every image
    python data.py clean DATA --out cleaned.jsonl   reports without what no picture shows

Everything random about an example (crop, noise, time, whether its prompt is dropped) comes from a generator seeded by
(seed, position in the run), inside the loading workers. A run therefore does not depend on how many processes or
workers share it, and continues anywhere. Which micro-batch of its step an example goes into is a matter of padding
alone: `Examples.by_length` puts texts of like length together.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from archives.opening import open_source, recognise
from archives.records import Record, Records
from checkpoints.configs import read_tokenizer
from common import arguments
from common.errors import UserError, run
from common.images import to_square
from common.observations import OBSERVATIONS
from common.ownership import own_file
from common.pictures import grid, save_png
from losses import IGNORE, KINDS, Batch
from model import UniXConfig, pad
from phantoms.dataset import Phantoms
from reports import cleaning
from reports.labeler import POSITIVE, UNCERTAIN, label_report, label_reports

DEFAULT_QUESTION = "Write the FINDINGS and the IMPRESSION of this chest X-ray."
SHORT_QUESTION = "Write the IMPRESSION of this chest X-ray."
NAMES_QUESTION = "Name the OBSERVATIONS of this chest X-ray."
# The ten wordings of UniX's own test file; {} says which sections the report has.
QUESTIONS = (
    "Analyze this chest X-ray and give the {}.",
    "As a radiologist, analyze this X-ray and summarize the {}.",
    "As an imaging expert, review this X-ray and share the {}.",
    "Examine this X-ray image and describe the {}.",
    "Give a radiology report based on the chest x-ray image, including {}.",
    "Interpret this X-ray image and summarize the {}.",
    "Please interpret this X-ray and provide the {}.",
    "Provide the {} for this chest X-ray.",
    "Review this X-ray and provide a detailed {}.",
    "Review this chest X-ray and provide the {}.",
)


def question_for(report: str, number: int) -> str:
    """The wording `number` of QUESTIONS for the sections that `report` names: "the FINDINGS and IMPRESSION", or one."""
    sections = [name for name in ("FINDINGS", "IMPRESSION") if f"{name}:" in report] or ["FINDINGS"]
    wording = QUESTIONS[number]
    if sections == ["FINDINGS"]:
        wording = wording.replace(" a detailed ", " detailed ")  # as theirs has it
    return wording.format(" and ".join(sections))


@lru_cache(maxsize=1 << 16)
def observations_of(report: str) -> str:
    """What the report affirms or suspects, by the labeler, as `name_observations` has it."""
    return name_observations([n for n, label in label_report(report).items() if label.value in (POSITIVE, UNCERTAIN)])


def name_observations(names: Sequence[str]) -> str:
    """ "OBSERVATIONS: Cardiomegaly, Pleural Effusion." """
    return f"OBSERVATIONS: {', '.join(names) or 'Other Finding'}."


def split_observations(report: str) -> tuple[str, str]:
    """A written report as (the names of `name_observations`, the rest); ("", report) where nothing did."""
    found = re.match(r"(OBSERVATIONS:.*?)\s*(?=FINDINGS:|IMPRESSION:|$)", report, flags=re.DOTALL)
    return (found[1], report[found.end() :]) if found else ("", report)


def own_question(source: Phantoms | Records, index: int) -> str | None:
    """The question that a row brings, if it does (UniX's own files)."""
    records = getattr(source, "records", None)
    return records[index].extra.get("question") if records else None


def captions_of(source: Phantoms | Records, index: int) -> list[str]:
    """The prompts that a row brings in its column `captions`; [] where the report is what there is to draw from."""
    records = getattr(source, "records", None)
    return records[index].extra.get("captions", []) if records else []


def default_question(config: UniXConfig, impression: bool = False) -> str:
    """What a model of this size knows: one of the published wordings, or the tiny model's own question."""
    if config.wording == "plain":
        return SHORT_QUESTION if impression else DEFAULT_QUESTION
    return question_for("IMPRESSION:" if impression else "FINDINGS: IMPRESSION:", 2)


# ---- text --------------------------------------------------------------------------------------------------------


LEAST_PIECES = 4 + 256  # special tokens and bytes


def train_tokenizer(reports: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Radford et al. 2019): 4 special tokens, all 256 bytes, then merges; any text encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|bos|>", "<|eos|>", "<|boi|>", "<|eoi|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(reports, trainer)
    tokenizer.encode_special_tokens = True  # "<|eos|>" typed by a user is text
    return tokenizer


def phrases(text: str) -> set[str]:
    """Every run of one to three words inside a sentence: {"small", "left", "small left", "left pleural", ...}."""
    found = set()
    for sentence in text.lower().split("."):
        words = sentence.split()
        found |= {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}
    return found


FILLERS = re.compile("an?|and|are|as|at|be|been|by|for|from|has|have|in|is|it|may|of|on|or|th(at|e|ere|is)|to|was|with")
DENIAL = {"no", "not", "without", "negative", "free", "normal", "clear", "unremarkable"}


def visible(source: Phantoms | Records, index: int) -> dict[str, float]:
    """What stage vit asks the ViT to see: name -> 1, or nan where the report is uncertain; what is not named is 0.

    Of a phantom the phrases of its impression, all of which are true. A person says one thing in many words, denies
    most of what he names, and doubts: of a real film the labeler's observations with their sides, the MeSH codes of the
    set from the heading on ("opacity", "opacity/lung", ...), and the phrases of the sentences that deny nothing.
    """
    report, impression = source.text(index)
    if not isinstance(source, Records):
        return dict.fromkeys(phrases(impression), 1.0)
    sentences = re.sub(r"findings:|impression:|[^a-z.\s-]", " ", report.lower()).split(".")
    claims = ".".join(sentence for sentence in sentences if not DENIAL & set(sentence.split()))
    said = ((phrase, phrase.split()) for phrase in phrases(claims))
    found = {p: 1.0 for p, words in said if not any(map(FILLERS.fullmatch, (words[0], words[-1])))}
    for code in source.records[index].extra.get("mesh", ()):
        parts = code.lower().split("/")
        found |= {"mesh: " + "/".join(parts[: n + 1]): 1.0 for n in range(len(parts))}
    for name, label in label_report(report).items():
        sides = ("left", "right") if label.side == "bilateral" else (label.side,) if label.side else ()
        if label.value == POSITIVE:
            found |= dict.fromkeys([f"label: {name}", *(f"label: {name}, {side}" for side in sides)], 1.0)
        elif label.value == UNCERTAIN:
            found |= dict.fromkeys([f"label: {name}", f"label: {name}, left", f"label: {name}, right"], math.nan)
    return found


def common_targets(found: Sequence[dict[str, float]], least: int) -> list[str]:
    """The names that at least `least` examples share and at least so many lack, sorted."""
    counts = Counter(name for each in found for name, value in each.items() if value == 1)
    return sorted(name for name, count in counts.items() if least <= count <= len(found) - least)


def repeat_factors(source: Records, most: float) -> np.ndarray:
    """How many times each film comes up in an epoch so that rare observations come up as often as the commonest one,
    but none more than `most` times: (N,) >= 1.

    By the rarest observation that its report calls positive; "No Finding" is one. (Class-balanced sampling; phantoms
    have `phantoms.dataset.evened`.)
    """
    shown = label_reports([source.text(i)[0] for i in range(len(source))]) == POSITIVE
    frequency = shown.mean(axis=0).clip(min=1 / len(shown))
    return np.where(shown, frequency.max() / frequency, 1).max(axis=1).clip(max=most)


# ---- pictures ----------------------------------------------------------------------------------------------------


def augment(square: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same chest, filmed again: (S, S) uint8 -> the same shape. For reading only; a drawing would learn to tilt.

    Turned by up to 7 degrees, shifted by up to 5 % of the side, scaled by up to 10 %, exposed by another curve (gamma
    0.8 to 1.25, so black stays black). Never flipped: the heart lies on one side, and "left" in the report would be
    wrong.
    """
    side = square.shape[0]
    angle = np.deg2rad(rng.uniform(-7, 7))
    shift, scale = rng.uniform(-0.05, 0.05, 2) * side, rng.uniform(0.9, 1.1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    centre = np.full(2, (side - 1) / 2)
    origin = centre - turn @ (centre + shift)  # Pillow wants where each pixel of the result comes from
    affine = (*turn[0], origin[0], *turn[1], origin[1])
    gamma = np.exp(rng.uniform(-1, 1) * np.log(1.25))
    image = Image.fromarray(square).transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.array(image.point([round(255 * (grey / 255) ** gamma) for grey in range(256)]))


# ---- training examples -------------------------------------------------------------------------------------------


def position_rng(seed: int, stream: int, position: int) -> np.random.Generator:
    """The generator that belongs to the example at `position` of a run."""
    high, low = divmod(seed, 2**32)  # a seed has up to 63 bits; the key has room for 32 of them
    key = np.array([low * 2**32 + stream, position], dtype=np.uint64)  # of its own, numpy would round it in float64
    return np.random.Generator(np.random.Philox(counter=[0, 0, 0, high], key=key))


READING = ("vit", "1")


class Examples(Dataset):
    """The run as one long sequence: position p is example permutation(epoch)[p mod count] with its own randomness.
    With repeats, (N,) >= 1, an epoch is their sum long, and example i comes up repeats[i] times in it on average.

    stage "vae": image crop; "vit": image and what is `visible` in it; "1": image, question and answer;
    "2", "3": image, prompt, noise and time; "text": an impression alone, as a prompt. With mix (other, own), of each
    other + own positions the first `other` are examples of another stage: in stage 1 of "text", in stages 2 and 3 of
    stage 1 (the paper's ablation, section 5.2).
    """

    def __init__(
        self,
        source: Phantoms | Records,
        stage: str,
        size: int,
        seed: int,
        encode: Callable[[str], list[int]],
        config: UniXConfig,
        downsampling: int,
        batch: int,
        vocabulary: Sequence[str] = (),
        prompt_dropout: float = 0.1,
        mix: tuple[int, int] = (0, 1),
        augmented: bool = False,
        repeats: np.ndarray | None = None,
        observations: str | None = None,
    ) -> None:
        self.mix, self.augmented, self.observations = mix, augmented, observations
        self._bounds = np.cumsum(np.ones(len(source)) if repeats is None else repeats)  # example i ends at _bounds[i]
        self._epoch_length = math.ceil(self._bounds[-1])
        self.source, self.stage, self.size, self.seed, self.batch = source, stage, size, seed, batch
        self.encode, self.config, self.downsampling = encode, config, downsampling
        self.vocabulary, self.prompt_dropout = vocabulary, prompt_dropout
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._broken: set[int] = set()  # of this process
        self._lengths: dict[int, int] = {}  # hash of a text -> its tokens

    def index(self, position: int) -> int:
        epoch, offset = divmod(position, self._epoch_length)
        if epoch != self._epoch:
            rng = position_rng(self.seed, 1, epoch)
            order = rng.permutation(self._epoch_length)
            # Systematic sampling: marks at equal distances along the sum; without repeats one on each example.
            marks = (order + rng.random()) * (self._bounds[-1] / self._epoch_length)
            self._epoch, self._order = epoch, np.searchsorted(self._bounds[:-1], marks, side="right")
        return int(self._order[offset])

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

    def stage_at(self, position: int) -> str:
        if position % sum(self.mix) >= self.mix[0]:
            return self.stage
        return "text" if self.stage == "1" else "1"

    def turn(self, position: int) -> int:
        """Steps take turns, 0, 1, 2. A small model is asked for the report in 0; else for the impression, which is
        short, and nearly every word of it is seen in the image. With `observations` 1 asks for the names.
        """
        return position // self.batch % 3

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        return self.config.latent_channels, size // self.downsampling, size // self.downsampling

    def question_and_answer(self, index: int, position: int, rng: np.random.Generator) -> tuple[str, str]:
        report, impression = self.source.text(index)
        if (question := own_question(self.source, index)) is not None:
            return question, report
        if self.observations:
            named = observations_of(report)
            if self.observations == "only" or self.turn(position) == 1:
                return NAMES_QUESTION, named
            report = f"{named} {report}"
        if self.config.wording == "published":
            return question_for(report, int(rng.integers(len(QUESTIONS)))), report
        return (SHORT_QUESTION, impression) if self.turn(position) else (DEFAULT_QUESTION, report)

    def prompt(self, index: int, rng: np.random.Generator) -> str | None:
        """What the example is drawn from; None for no prompt (guidance)."""
        report, impression = self.source.text(index)
        text = report if rng.random() < 0.2 else impression
        if captions := captions_of(self.source, index):
            text = captions[int(rng.integers(len(captions)))]
        return None if rng.random() < self.prompt_dropout else text

    def fitting(self, ids: list[int], beside: int = 0) -> list[int]:
        """What of a text the context takes with its BOS and EOS, and `beside` other tokens."""
        return ids[: max(1, self.config.context_length - 2 - beside)]

    def length(self, position: int) -> int:
        """Tokens of the text of the example at `position`, without its picture; of a broken one, of the text it has."""
        stage = self.stage_at(position)
        if stage in ("vae", "vit"):
            return 0
        index, rng = self.index(position), position_rng(self.seed, 0, position)
        if stage in ("2", "3"):
            rng.standard_normal(self.latent_shape(self.size), dtype=np.float32)  # drawn before it in the example
            text = self.prompt(index, rng)
        elif stage == "1":
            text = self.question_and_answer(index, position, rng)[1]
        else:
            text = self.source.text(index)[1]
        if text is None:
            return 0
        key = hash(text)
        if key not in self._lengths:
            self._lengths[key] = len(self.encode(text))
        return self._lengths[key]

    def by_length(self, positions: range) -> list[int]:
        """The positions of one step, the short texts first, so that a micro-batch holds texts of like length.

        Real reports are uneven: most of a micro-batch of random ones is padding. The sum over the step stays the same.
        Each kind of a mix is sorted by itself and keeps its places, so every micro-batch keeps the mix's ratio.
        """
        ordered, together = list(positions), sum(self.mix)
        for kind in range(together):
            ordered[kind::together] = sorted(positions[kind::together], key=self.length)
        return ordered

    def __getitem__(self, position: int) -> dict:
        rng = position_rng(self.seed, 0, position)
        stage, size = self.stage_at(position), self.size
        if stage == "text":
            index = self.index(position)
            return {"kind": KINDS[stage], "index": index, "text": self.fitting(self.encode(self.source.text(index)[1]))}
        index, picture = self.picture(position)
        if stage == "1":
            size = self.config.vit.image_size
        if stage == "vae" and min(picture.size) > self.size and rng.random() < 0.8:
            # Mostly crops at full detail, some whole pictures made small: the autoencoder must serve both resolutions.
            # A corner may fall outside and is moved in, or the picture's border would hardly ever be seen.
            half = self.size // 2
            left, top = (
                int(np.clip(rng.integers(-half, side - half + 1), 0, side - self.size)) for side in picture.size
            )
            picture = picture.crop((left, top, left + self.size, top + self.size))
        if stage in READING:  # the ViT's padding is its weights' own; what is drawn has black beside it
            vit = self.config.vit
            image = to_square(picture, size, vit.padding, vit.scaling)
            image = augment(image, rng) if self.augmented else image
        else:
            image = to_square(picture, size)
        latent_shape = self.latent_shape(size)
        example = {"kind": KINDS[stage], "index": index, "image": image}
        if stage == "vit":
            seen = visible(self.source, index)
            example["phrases"] = np.array([seen.get(name, 0) for name in self.vocabulary], dtype=np.float32)
            return example
        if stage == "1":
            question, answer = self.question_and_answer(index, position, rng)
            example["question"] = self.encode(question)
            example["answer"] = self.fitting(self.encode(answer), len(example["question"]) + 2)
            return example
        example["posterior_noise"] = rng.standard_normal(latent_shape, dtype=np.float32)
        if stage != "vae":
            prompt = self.prompt(index, rng)
            example["prompt"] = None if prompt is None else self.fitting(self.encode(prompt))
            example["noise"] = rng.standard_normal(latent_shape, dtype=np.float32)
            example["t_normal"] = np.float32(rng.standard_normal())
        return example

    def __len__(self) -> int:
        return 2**62  # a run ends by its number of steps


def count_cut(source: Records, encode: Callable[[str], list[int]], room: int) -> int:
    """How many reports have more than `room` tokens. A token of a byte-level tokenizer is at least a byte."""
    reports = (source.text(i)[0] for i in range(len(source)))
    return sum(len(report.encode()) > room and len(encode(report)) > room for report in reports)


def pack_texts(texts: list[list[int]], config: UniXConfig, multiple: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of texts -> text_ids and targets of a Batch: [BOS text EOS], each token predicted from those before."""
    text_ids, lengths = pad([[config.bos, *text, config.eos] for text in texts], config.eos, multiple)
    targets = torch.cat([text_ids[:, 1:], torch.full((len(texts), 1), IGNORE)], dim=1)
    return text_ids, targets.masked_fill(torch.arange(text_ids.shape[1]) >= lengths[:, None] - 1, IGNORE)


def pack_answers(
    questions: list[list[int]], answers: list[list[int]], config: UniXConfig, multiple: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of questions and answers -> text_ids and targets of a Batch.

    T is padded to a multiple of `multiple`, so that a compiled step meets few shapes.
    """
    rows = [[config.bos, *q, config.eos, config.bos, *a, config.eos] for q, a in zip(questions, answers, strict=True)]
    T = -(-max(map(len, rows)) // multiple) * multiple
    text_ids = torch.full((len(rows), T), config.eos)
    targets = torch.full((len(rows), T), IGNORE)
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        text_ids[i, : len(row)] = torch.tensor(row)
        start = len(row) - len(answer) - 2  # the answer's BOS, from which its first token is predicted
        targets[i, start : len(row) - 1] = torch.tensor([*answer, config.eos])
    return text_ids, targets


class Collate:
    """The DataLoader's hook from examples to batches."""

    def __init__(self, config: UniXConfig) -> None:
        self.config = config

    def __call__(self, examples: list[dict]) -> dict[str, Batch]:
        """Examples -> a batch of each kind that occurs."""
        kinds = dict.fromkeys(example["kind"] for example in examples)
        return {kind: self.batch([example for example in examples if example["kind"] == kind]) for kind in kinds}

    def batch(self, examples: list[dict]) -> Batch:
        columns = {key: [example[key] for example in examples] for key in examples[0]}
        batch = Batch(torch.tensor(columns["index"]))
        if "text" in columns:
            batch.text_ids, batch.targets = pack_texts(columns["text"], self.config)
        if "answer" in columns:
            batch.text_ids, batch.targets = pack_answers(columns["question"], columns["answer"], self.config)
        batch.prompts = columns.get("prompt")
        for key in ("image", "phrases", "posterior_noise", "noise", "t_normal"):
            if key in columns:
                setattr(batch, key, torch.from_numpy(np.stack(columns[key])))
        return batch


class Share:
    """The positions that one of `processes` takes, micro-batch by micro-batch: an iterable for DataLoader.

    A step's `batch` positions are the same for any number of processes, and so is the sum of their losses. order: how
    they stand before they are cut (`Examples.by_length`); neighbours go to different processes, which so have like
    work. None: as they come.
    """

    def __init__(
        self,
        batch: int,
        micro: int,
        rank: int,
        processes: int,
        start: int,
        steps: int,
        order: Callable[[range], Sequence[int]] | None = None,
    ) -> None:
        self.batch, self.micro, self.rank, self.processes = batch, micro, rank, processes
        self.start, self.steps, self.order = start, steps, order

    def __iter__(self) -> Iterator[Sequence[int]]:
        for step in range(self.start, self.steps):
            positions = range(step * self.batch, (step + 1) * self.batch)
            ordered = self.order(positions) if self.order else positions
            for first in range(self.rank * self.micro, self.batch, self.processes * self.micro):
                yield ordered[first : first + self.micro]


def batches(
    examples: Examples, share: Share, workers: int, pin: bool = False
) -> Generator[dict[str, Batch], None, None]:
    """The micro-batches of a share of the run. Closing the generator ends its loading processes."""
    loader = DataLoader(
        examples,
        batch_sampler=share,
        num_workers=workers,
        collate_fn=Collate(examples.config),
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
        worker_init_fn=ignore_signals,
    )
    iterator = iter(loader)
    try:
        yield from unbroken(iterator)
    finally:
        stop_workers(iterator)


def stop_workers(iterator: Iterator) -> None:
    """End the loading processes of a DataLoader's iterator, also one that is stuck.

    They ignore SIGTERM, with which Python ends them at exit before it waits for them: an error would wait for ever.
    """
    if workers := getattr(iterator, "_workers", None):
        iterator._shutdown_workers()  # asks each to leave and waits 5 s for it
        for worker in workers:
            if worker.is_alive():
                worker.kill()


def unbroken(batches: Iterator) -> Iterator:
    """The batches, with what goes wrong in a loading process said in one line."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except UserError as error:  # of a worker: torch puts a traceback into the message
            raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "a data loading process died (out of memory?); go on with --resume, and fewer --workers"
            ) from error
        yield batch


def ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach every process; whether and when to stop is the training process's decision."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def default_workers() -> int:
    """One process a core, at most 8."""
    return min(8, os.cpu_count() or 1)


# ---- the command -------------------------------------------------------------------------------------------------


def stats(source: Records, out: Path, tokenizer_file: Path) -> None:
    """Print counts, the table of labels and the lengths of reports; write a contact sheet of 24 pictures."""

    print(f"{source.kind}: {len(source):,} examples")
    for what in ("split", "view"):
        counts = Counter(getattr(record, what) or "-" for record in source.records)
        print(f"{what:8}" + ", ".join(f"{name} {count:,}" for name, count in counts.most_common()))
    with_findings = Counter(record.split for record in source.records if record.findings)
    counts = (f"{name} {with_findings[name]:,}" for name in Counter(record.split for record in source.records))
    print(f"with findings: {sum(with_findings.values()):,} of {len(source):,} ({', '.join(counts)})")
    patients = {record.patient for record in source.records} - {""}
    print(f"{'patients':8} {len(patients):,}")
    print(f"\n{'label':28}{'positive':>10}{'uncertain':>10}{'negative':>10}")
    for name in OBSERVATIONS:
        values = Counter(record.labels.get(name) for record in source.records)
        print(f"{name:28}{values[1]:10,}{values[-1]:10,}{values[0]:10,}")
    tokenizer = read_tokenizer(tokenizer_file)
    reports = [source.text(i)[0] for i in range(len(source))]
    lengths = np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(reports)])
    edges = [0, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1 << 30]
    print(f"\ntokens of a report ({tokenizer_file}): median {np.median(lengths):.0f}, longest {lengths.max()}")
    for low, high, count in zip(edges, edges[1:], np.histogram(lengths, edges)[0], strict=False):
        label = f"{low}-{high - 1}" if high < 1 << 30 else f"{low}-"
        print(f"{label:>8} {count:8,} {'#' * round(50 * count / max(1, len(lengths)))}")
    print("\n" + source.problems.summary())
    shown = openable(source, 24)
    if not shown:
        print("no picture could be opened: no contact sheet")
        return
    pictures = [to_square(Image.fromarray(picture), 256) for picture in shown.values()]
    save_png(grid(pictures, [reports[i] for i in shown], columns=6), out)
    print(f"{out}: {len(shown)} of them")


def hold_out(records: list[Record], share: float) -> list[Record]:
    """`share` of the patients as a validation split, the same on every machine; a set that has one keeps it.

    Raises UserError if that leaves nothing to train on, or nothing to validate on.
    """
    if any(record.split == "validate" for record in records):
        print("--hold-out: the set has a validation split, which stays as it is")
        return records

    def held_out(record: Record) -> bool:
        digest = hashlib.sha256((record.patient or record.image or record.findings + record.impression).encode())
        return record.split == "train" and int(digest.hexdigest()[:8], 16) < share * 2**32

    split = [replace(record, split="validate") if held_out(record) else record for record in records]
    counts = Counter(record.split for record in split)
    if not counts["validate"] or not counts["train"]:
        raise UserError(
            f"--hold-out {share}: leaves {counts['train']} reports to train on and {counts['validate']} to validate on;"
            " give another share, or more reports"
        )
    print(f"--hold-out: {counts['validate']:,} reports to validate on, {counts['train']:,} to train on")
    return split


def has_films(root: Path) -> bool:
    return any(path.suffix.lower() in (".png", ".jpg", ".dcm") for path in root.rglob("*"))


def openable(source: Phantoms | Records, count: int) -> dict[int, np.ndarray]:
    """Index -> picture of up to `count` examples, spread over the set, leaving out what cannot be opened."""
    pictures = {}
    for index in np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist():
        with contextlib.suppress(UserError):
            pictures[index] = source.image(index)
    return pictures


def squares(source: Phantoms | Records, count: int, size: int) -> tuple[list[int], list[np.ndarray]]:
    """Indices and square pictures of up to `count` examples whose image can be opened."""
    pictures = openable(source, count)
    return [*pictures], [to_square(Image.fromarray(picture), size) for picture in pictures.values()]


def open_and_discard(source: Records, index: int) -> str | None:
    """What is wrong with an example's image, None if nothing."""
    try:
        source.image(index)
    except UserError as error:
        return str(error)
    return None


def check(source: Records, workers: int) -> int:
    """Open every image in parallel, print the bad ones and how many there are. Returns that number."""
    began, bad = time.time(), 0
    indices = [index for index, record in enumerate(source.records) if record.image]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(partial(open_and_discard, source), indices, chunksize=32)
        for problem in tqdm(found, total=len(indices), unit="image", desc="checking", dynamic_ncols=True):
            if problem:
                bad += 1
                tqdm.write(problem)
    print(source.problems.summary())
    print(f"{len(source):,} reports read, {len(indices):,} images opened in {time.time() - began:.0f} s, {bad} bad")
    return bad


def main() -> None:

    parser = arguments.Parser(
        description="Look at a data set of chest X-rays and reports, and clean its reports. A data set is whatever"
        " train.py --data takes: MIMIC-CXR-JPG, a CheXGenBench CSV, Open-i, a folder with metadata.csv or .jsonl.",
        epilog="examples: python data.py stats DATA; python data.py clean DATA --out cleaned.jsonl",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("stats", help="counts, labels, lengths of reports, and a contact sheet")
    sheet = "contact sheet (default stats.png)"
    command.add_argument("--out", type=arguments.output_file, default="stats.png", help=sheet)
    tokenizer = Path(__file__).parent / "assets" / "tiny" / "tokenizer.json"
    whose = "default: the shipped tiny model's"
    command.add_argument("--tokenizer", type=arguments.existing_file, default=tokenizer, help=whose)
    command = commands.add_parser("check", help="open every image and list the bad ones (exit code 2 if there are any)")
    workers = arguments.whole(1, arguments.MOST_WORKERS)
    command.add_argument("--workers", type=workers, default=default_workers(), help="processes; default: one a core")
    command = commands.add_parser("clean", help="rewrite the reports without what no image shows")
    cleaning.add_arguments(command)
    share = "make a validation split of this share of the patients, where the set has none"
    command.add_argument("--hold-out", type=arguments.number(0, 0.9, above=True), metavar="SHARE", help=share)
    for command in commands.choices.values():
        command.add_argument("source", type=arguments.existing, metavar="SRC", help="the data set")
        command.add_argument("--split", default="all", help="train, validate, test or all (default)")
        command.add_argument("--require", choices=["findings"], help="leave out reports without this section")
    args = parser.parse_args()

    if args.command == "clean":
        cleaning.check_target(args.out, [args.source, *recognise(args.source)[2]])
    # Reports can be counted and cleaned before their images are there; an archive holds reports alone.
    archive = args.source.name.endswith((".tgz", ".tar", ".tar.gz"))
    kind, root, _ = recognise(args.source)
    # Open-i's reports name films by number; to be trained on, the cleaned ones must name files.
    needed = args.command == "check" or (args.command == "clean" and kind == "open-i" and has_films(root))
    source = open_source(args.source, split=args.split, need_images=needed and not archive, require=args.require)
    if args.command == "stats":
        own_file(args.out)
        if args.out.resolve() in {(source.root / record.image).resolve() for record in source.records}:
            raise UserError(f"--out {args.out}: is a picture of the set; name another file")
        stats(source, args.out, args.tokenizer)
    elif args.command == "check":
        if check(source, args.workers):
            sys.exit(2)
    else:
        records = hold_out(source.records, args.hold_out) if args.hold_out else source.records
        cleaning.run(args, (asdict(record) for record in records))
        print(f"to train on it: --data {source.root / args.out.name}, where the paths of its images begin")


if __name__ == "__main__":
    run(main)
