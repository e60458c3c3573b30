"""evaluate.py report --consensus N: of each film N sampled reports, and the text that agrees best with all of them.

The likeliest report is one that nearly every film could have. What a model sees besides shows in many samples, so the
decisions are made over samples:

names       a model that writes names before its reports (train.py --observations first) is asked for the names alone,
            N times; `vote` says with which of them the report begins
sentences   N reports are sampled that begin so; of their sentences `consensus` makes one

The second is minimum Bayes risk decoding (Kumar and Byrne 2004): the text of the highest expected score, where the
model's own samples are the expectation. Here the score is corpus BLEU-4, and the sentences are chosen one by one, as
`baselines.constant_text` chooses from all reports of the training split. What this text has above that one, the film
has told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from archives.sections import split_report
from common.observations import OBSERVATIONS
from data import NAMES_QUESTION, name_observations
from evaluation.baselines import constant_text
from sample import read_often
from weights import Checkpoint

# Macro F1 is highest if one names what is likelier than half of the best F1 (Lipton et al. 2014), not what is likelier
# than not. On real films that F1 is 0.3 to 0.4, and a model trained with --balance thinks rare findings likelier.
NAMED_FROM = 0.25


def read_consensus(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    seeds: Sequence[Sequence[int]],
    question: str,
    words: Callable[[str], Sequence[str]],
    batch: int = 32,
) -> list[str]:
    """The consensus of the reports of each image, one report for each of its seeds. words: how BLEU splits a text.
    batch: reports at a time."""
    begin = [""] * len(images)
    if any(stage.get("observations") == "first" for stage in checkpoint.history):
        begin = list(map(vote, read_often(checkpoint, images, seeds, 1.0, 1.0, NAMES_QUESTION, batch=batch)))
    reports = read_often(checkpoint, images, seeds, question=question, batch=batch, begin=begin)
    return [consensus(each, words) for each in reports]


def vote(lists: Sequence[str]) -> str:
    """The names that a share NAMED_FROM of several lists has, as one list; "No Finding" where none is a finding."""
    shares = {name: sum(name in each for each in lists) / len(lists) for name in OBSERVATIONS}
    names = [name for name in OBSERVATIONS if shares[name] >= NAMED_FROM and name != "No Finding"]
    return name_observations(names + ["No Finding"] * (set(names) <= {"Support Devices"}))


def consensus(reports: Sequence[str], words: Callable[[str], Sequence[str]]) -> str:
    """Reports of one film -> one report, section by section; one that fewer than half of them have is left out."""
    sections = zip(*(split_report(report, last_paragraph=False) for report in reports), strict=True)
    texts = [[text for text in section if text] for section in sections]
    chosen = [
        constant_text(section, words, repeats=False) if 2 * len(section) >= len(reports) else "" for section in texts
    ]
    named = zip(("FINDINGS", "IMPRESSION"), chosen, strict=True)
    return " ".join(f"{name}: {text}" for name, text in named if text)
