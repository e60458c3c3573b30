"""evaluate.py report --consensus N: of each film N sampled reports, and the one that agrees best with all of them.

The likeliest report is one that nearly every film could have. What a model sees besides shows in many samples, so the
decisions are made over samples:

names     a model that writes names before its reports (train.py --observations first) is asked for the names alone,
          N times; `vote` says with which of them the report begins
report    N reports are sampled that begin so; `consensus` takes one of them

The second is minimum Bayes risk decoding (Kumar and Byrne 2004): the text of the highest expected score, where the
model's own samples are the expectation and the score is BLEU-4. Half of them are sampled carefully (TEMPERATURE and
TOP_P of sample.py), which gives plain wordings but short reports; half as the model has them, which says how long
reports are, what else they mention, and how often.
"""

from collections.abc import Callable, Sequence

from PIL import Image

from common.observations import OBSERVATIONS
from evaluation import metrics
from evaluation.baselines import findings_of
from reports.questions import NAMES_QUESTION, name_observations
from sample import TEMPERATURE, TOP_P, read_often
from weights import Checkpoint

# Macro F1 is highest if one names what is likelier than half of the best F1 (Lipton et al. 2014), not what is likelier
# than not. On real films that F1 is about 0.3 (docs/real.md), so 0.15; but a model trained with --balance thinks rare
# findings likelier than they are.
NAMED_FROM = 0.25


def read_consensus(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    seeds: Sequence[Sequence[int]],
    question: str,
    words: Callable[[str], Sequence[str]],
    max_new_tokens: int = 256,
) -> list[str]:
    """The consensus of the reports of each image, one report for each of its seeds; all of them are read at a time.

    words: how BLEU splits a text.
    """
    begin, how = None, (max_new_tokens, sum(map(len, seeds)))
    taught = [stage.get("observations") for stage in checkpoint.history if stage["stage"] == "1"]
    if taught[-1:] == ["first"]:
        begin = list(map(vote, read_often(checkpoint, images, seeds, 1.0, 1.0, NAMES_QUESTION, *how)))
    halves = [row[::2] for row in seeds], [row[1::2] for row in seeds]
    careful = read_often(checkpoint, images, halves[0], TEMPERATURE, TOP_P, question, *how, begin=begin)
    free = read_often(checkpoint, images, halves[1], 1.0, 1.0, question, *how, begin=begin)
    return [consensus(some + others, words) for some, others in zip(careful, free, strict=True)]


def vote(lists: Sequence[str]) -> str:
    """The names that a share NAMED_FROM of several lists has, as one list; "No Finding" where none is a finding."""
    shares = {name: sum(name in each for each in lists) / len(lists) for name in OBSERVATIONS}
    names = [name for name in OBSERVATIONS if shares[name] >= NAMED_FROM and name != "No Finding"]
    return name_observations(names + ["No Finding"] * (set(names) <= {"Support Devices"}))


def consensus(reports: Sequence[str], words: Callable[[str], Sequence[str]]) -> str:
    """Of several reports of one film the one whose findings have the highest BLEU-4 against those of all of them."""
    findings = [words(findings_of(report) or report) for report in reports]
    agrees = list(map(metrics.agreement(findings), findings))
    return reports[agrees.index(max(agrees))]
