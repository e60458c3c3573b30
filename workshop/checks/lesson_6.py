"""The checks of lesson 6."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from checks import NotYet, call, solved
from evaluation import metrics
from phantoms.dataset import Phantoms
from phantoms.truth import labels_of, truth
from reports.labeler import label_reports

LEAST_BLEU, MOST_F1 = 0.7, 0.15  # of a lie


def macro_f1(answer: Callable) -> str:
    """answer(truth, seen) -> the mean F1 of the observations that occur; see Exercise 1."""
    rng = np.random.default_rng(4)
    asked, seen = rng.random((40, 6)) < 0.2, rng.random((40, 6)) < 0.3
    seen |= asked & (rng.random((40, 6)) < 0.7)
    asked[:, 5] = seen[:, 5] = False  # never asked for, never seen
    given = np.asarray(call(answer, asked, seen, number=1, task="return the mean F1"), dtype=float)
    if given.size != 1:
        raise NotYet(f"Exercise 1: one number is wanted, the mean over the observations; yours has {given.shape}")
    hits, alone, told = (asked & seen).sum(axis=0), asked.sum(axis=0), seen.sum(axis=0)
    scores = metrics.f1_scores(asked, seen)
    if np.isclose(given, scores.macro):
        return "Exercise 1: right. `metrics.f1_scores` does this, and the micro F1 beside it."
    if np.isnan(given):
        raise NotYet("Exercise 1: nan: one observation is neither asked for nor seen; leave it out before the mean")
    mistakes = {
        "an observation that never occurs counts as 0 in your mean; leave it out": scores.per_class[:5].sum() / 6,
        "this is the accuracy, which silence wins": (asked == seen).mean(),
        "this is the micro F1, of all counts together; the macro F1 is the mean of each observation's": scores.micro,
        "this is the recall: pictures that show too much must lose, too": (hits[:5] / alone[:5]).mean(),
        "this is the precision: pictures that show too little must lose, too": (hits[:5] / told[:5]).mean(),
        "2 TP above, TP + FP + FN below": (2 * hits[:5] / (asked | seen).sum(axis=0)[:5]).mean(),
    }
    for words, wrong in mistakes.items():
        if np.isclose(given, wrong):
            raise NotYet(f"Exercise 1: {words}")
    raise NotYet(f"Exercise 1: here the macro F1 is {scores.macro:.4f}, yours is {given.item():.4f}")


def interval(answer: Callable) -> str:
    """answer(score, truth, seen, rng) -> the middle 95 % of resampled scores; see Exercise 2."""
    N, scores, faults = 60, [], []
    ids = np.arange(N)[:, None]

    def score(asked: np.ndarray, seen: np.ndarray) -> float:
        asked, seen = np.asarray(asked), np.asarray(seen)
        if asked.shape != seen.shape or (seen - asked != 1000).any():
            faults.append("draw the rows once and take both arrays at them; yours pair a prompt with another's picture")
        elif len(asked) != N:
            faults.append(f"draw as many rows as there are, {N}; yours are {len(asked)}")
        elif len(np.unique(asked)) == N:
            faults.append("draw with replacement; your rows are all there once, so every score is the same")
        scores.append(float(asked.mean()))
        return scores[-1]

    task = "return the two percentiles"
    given = call(answer, score, ids, ids + 1000, np.random.default_rng(1), number=2, task=task)
    if faults:
        raise NotYet(f"Exercise 2: {faults[-1]}")
    if len(scores) < 200:
        raise NotYet(f"Exercise 2: {len(scores)} resampled scores are too few for a percentile; take `repeats`")
    given = np.asarray(given, dtype=float)
    if given.shape != (2,):
        raise NotYet(f"Exercise 2: two numbers are wanted, low and high; yours has the shape {given.shape}")
    if np.allclose(given, np.percentile(scores, [2.5, 97.5]), rtol=0, atol=0.1):
        return "Exercise 2: right. `metrics.bootstrap_sums` does this with one product of matrices."
    mistakes = {
        "low first, then high": np.percentile(scores, [97.5, 2.5]),
        "the lowest and the highest grow with the repeats; take percentiles": [min(scores), max(scores)],
        "5 and 95 leave out ten in a hundred; 95 % is from 2.5 to 97.5": np.percentile(scores, [5, 95]),
        "percentiles run from 0 to 100: 2.5 and 97.5, not 0.025 and 0.975": np.percentile(scores, [0.025, 0.975]),
    }
    for words, wrong in mistakes.items():
        if np.allclose(given, wrong, rtol=0, atol=1e-9):
            raise NotYet(f"Exercise 2: {words}")
    low, high = np.percentile(scores, [2.5, 97.5])
    raise NotYet(f"Exercise 2: the percentiles of your scores are {low:.2f} and {high:.2f}, you give {given.tolist()}")


def lie(answer: Callable) -> str:
    """answer(report) -> a report of almost the same words that denies what is there; see Exercise 3."""
    source, count = Phantoms(100, seed=1), 40
    reports = [source.text(index)[0] for index in range(count)]
    drawn = np.array([list(labels_of(truth(1, index).findings).values()) for index in range(count)], dtype=bool)
    lies = [call(answer, report, number=3, task="return the changed report") for report in reports]
    if any(not isinstance(text, str) for text in lies):
        raise NotYet(f"Exercise 3: return a text, not {type(lies[0]).__name__}")
    solved(None if lies == reports else True, 3, "the report is still the true one")
    bleu = metrics.bleu_from_counts(metrics.bleu_counts(reports, lies))[:, 3].mean()
    claimed = np.isin(label_reports(lies), (1, -1))
    f1 = metrics.f1_scores(drawn[:, :13], claimed[:, :13]).micro  # the findings; not "No Finding"
    if bleu < LEAST_BLEU:
        raise NotYet(f"Exercise 3: BLEU-4 is {bleu:.2f} and should stay above {LEAST_BLEU}; change fewer words")
    if f1 > MOST_F1:
        index = int(np.argmax((drawn & claimed)[:, :13].any(axis=1)))
        raise NotYet(
            f"Exercise 3: BLEU-4 is {bleu:.2f}, but findings are still told (micro F1 {f1:.2f}, at most {MOST_F1}),"
            f" for example in: {lies[index]}"
        )
    return f"Exercise 3: right. BLEU-4 is {bleu:.2f}, and the micro F1 of the findings {f1:.2f}."
