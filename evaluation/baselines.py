"""What scores of reports must be read beside: answers that cost nothing, and published numbers.

Most films show nothing, and most reports say so in the same words. So a table of BLEU alone flatters: one sentence for
every film scores well, and nobody prints it. Here it stands in the same table as the model, with four more rows:

    one text for every film     the training split's sentences that together reach the highest BLEU-4 there
    nearest training film       the report of the training film that looks most alike to the model's own ViT
    true labels, usual words    of the film's true labels, the training report that agrees best with all that have them:
                                what the words would score if a model saw every label and knew no more
    shuffled                    the model's answers, each for another film: what is left when nothing is seen
    published                   R2Gen on the Indiana University set, where the words are counted in its way
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from archives.opening import open_source
from archives.records import Records
from archives.sections import split_report
from common.errors import UserError
from evaluation import metrics
from evaluation.metrics import Scored, derangement
from evaluation.tables import Table
from judges.features import features, load_feature_extractor
from phantoms.dataset import Phantoms

LabelReports = Callable[[Sequence[str]], np.ndarray]  # N texts -> (N, 14): 1, 0, -1 and nan
LEAST_POSITIVES = 10  # of an observation, to count in the macro F1: with fewer it is chance
WORDS = {"bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"}
SCORES = {"f1": "F1 macro", "f1_below": "below this run", **WORDS}  # of a row, and what stands above its column
PUBLISHED = {  # BLEU-1, -2, -3, -4, ROUGE-L on the Indiana University set
    "R2Gen (Chen et al. 2020)": (0.470, 0.304, 0.219, 0.165, 0.371),
    "R2Gen, five runs by others (github.com/uzh-dqbm-cmi/ARGON issue 9)": (0.402, 0.246, 0.166, 0.118, 0.334),
}
MOST_EXAMPLES = 5000  # of the training split, spread evenly: enough to choose from
LONGEST_COUNTED = 60  # words of a report that R2Gen keeps on this set; the rest of a reference is not asked for


def literature_words(text: str) -> list[str]:
    """Words as R2Gen counts them on the Indiana University set: lower case, no punctuation but a "." after each
    sentence, which counts as a word; no numbers of a list; the first 60."""
    text = re.sub(r"(^|\s)[1-5]\. ", " ", text.lower())
    sentences = (re.sub(r"[^\w\s<=>@|~#$-]|_", "", sentence).split() for sentence in text.split(". "))
    return [word for sentence in sentences if sentence for word in (*sentence, ".")][:LONGEST_COUNTED]


def word_scores(truths: Sequence[str], written: Sequence[str], literature: bool) -> list[Scored]:
    """BLEU-1 to -4 and ROUGE-L with 95 % intervals.

    literature: corpus BLEU and ROUGE-L with recall weighted by 1.2 (both as pycocoevalcap) of `literature_words`. Else
    as everywhere in evaluate.py: the mean over reports, smoothed, of plain words.
    """
    words = literature_words if literature else metrics.tokenize
    references, hypotheses = list(map(words, truths)), list(map(words, written))
    counts, rouge = metrics.bleu_counts(references, hypotheses), metrics.rouge_l(references, hypotheses)
    if not literature:
        return metrics.mean_scores(np.column_stack([metrics.bleu_from_counts(counts), rouge]))
    weighted = weighted_rouge(rouge, counts[:, 9], counts[:, 8])
    return [*metrics.with_intervals(metrics.bleu_from_counts, counts), *metrics.mean_scores(weighted)]


def weighted_rouge(rouge: np.ndarray, references: np.ndarray, hypotheses: np.ndarray, beta: float = 1.2) -> np.ndarray:
    """ROUGE-L's harmonic mean (N,) and both lengths (N,) -> its F with recall weighted by `beta` (Lin 2004, eq. 4)."""
    common = rouge * (references + hypotheses) / 2
    recall, precision = common / np.maximum(references, 1), common / np.maximum(hypotheses, 1)
    below = recall + beta**2 * precision
    return np.divide((1 + beta**2) * recall * precision, below, out=np.zeros(len(rouge)), where=below > 0)


def macro_f1(truth: np.ndarray, claims: np.ndarray, less: np.ndarray | None = None) -> Scored | None:
    """Macro F1 over the observations that at least LEAST_POSITIVES reports have; None if there is none.

    truth, claims: (N, 14) bool. less: other claims of the same films: then it is the difference of both F1s, whose
    interval comes from the same draws of films, so that the luck of the draw, which both share, cancels.
    """
    counted = truth.sum(axis=0) >= LEAST_POSITIVES
    if not counted.any():
        return None
    both = [claims] if less is None else [claims, less]
    counts = np.stack([metrics.f1_counts(truth[:, counted], each[:, counted]) for each in both], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:  # (..., 1 or 2, 2, C) -> (...)
        return metrics.f1_from_counts(sums, 0.0).macro @ np.array([1.0, -1.0])[: len(both)]

    return metrics.with_intervals(statistic, counts)[0]


def constant_text(reports: Sequence[str], words: Callable[[str], Sequence[str]]) -> str:
    """Sentences of `reports`, one after the other, each the one that raises corpus BLEU-4 against all of them most."""
    agrees = metrics.agreement(list(map(words, reports)))
    bare = (re.sub(r"\b(FINDINGS|IMPRESSION):\s*", "", report) for report in reports)
    said = Counter(s.strip() for report in bare for s in re.split(r"(?<=[.])\s+", report) if s.strip())
    frequent = [sentence for sentence, _ in said.most_common(500)]
    text, best = "", 0.0
    while True:
        longer = [f"{text} {sentence}".strip() for sentence in frequent]
        score, longer = max((agrees(words(each)), each) for each in longer)
        if score <= best:
            return text or frequent[0]
        text, best = longer, score


def usual_texts(reports: Sequence[str], claims: np.ndarray, words: Callable[[str], Sequence[str]]) -> dict[bytes, str]:
    """Of every row of labels in `claims` (N, 14) bool the report that reaches the highest BLEU-4 against all that have
    the same. The keys are the bytes of the rows."""
    alike: dict[bytes, list[str]] = {}
    for report, claim in zip(reports, claims, strict=True):
        alike.setdefault(claim.tobytes(), []).append(report)
    usual = {}
    for claim, texts in alike.items():
        agrees = metrics.agreement(list(map(words, texts)))
        usual[claim] = max(dict.fromkeys(texts), key=lambda text, agrees=agrees: agrees(words(text)))
    return usual


def shuffled(answers: Sequence[str], seed: int = 0) -> list[str]:
    """Each answer for another example: one cycle through all of them in random order."""
    return [answers[i] for i in derangement(len(answers), seed)]


def training_films(args: argparse.Namespace, source: Records | Phantoms | None) -> Records | Phantoms | None:
    """What the model may have been trained on: --train, else the training split of --data; None if there is none."""
    if isinstance(source, Phantoms):
        return Phantoms(500)
    path = args.train or (args.data if source is not None and source.counts.get("train") else None)
    if path is None:
        return None
    train = open_source(path, split="train", need_images=source is not None, require=args.require)
    train.records = train.records[:: -(-len(train) // MOST_EXAMPLES)]
    return train


def compare(
    args: argparse.Namespace, rows: Sequence[dict], source: Records | Phantoms | None, label: LabelReports
) -> dict:
    """The model's answers beside those that cost nothing: their findings alone, or all where hardly any text has some.

    rows: `truth`, `generated` and `index`, the example of `source`, of each answer. label: the judge.
    -> {"of": what is compared, "literature": how words are counted, "rows": [{"name", and the keys of SCORES}],
    "constant": the one text}. "f1_below": how far a row's F1 lies below the model's.
    """
    train = training_films(args, source)
    examples = [] if train is None else [train.text(i)[0] for i in range(len(train))]
    truth, answers = [row["truth"] for row in rows], {"this run": [row["generated"] for row in rows]}
    if isinstance(source, Records) and isinstance(train, Records):
        eye, train.size = load_feature_extractor(None, args.device, args.weights), source.size  # the model's own ViT
        read = replace(source, records=[source.records[row["index"]] for row in rows])
        try:
            neighbours = metrics.nearest(*(features(films, eye, args.cache) for films in (read, train)))[1]
            answers["nearest training film"] = [examples[k] for k in neighbours]
        except UserError as error:  # a broken picture of the training split: the other scores must not be lost
            print(f"The nearest training film is left out: {error}", file=sys.stderr)
    told, of = [k for k, text in enumerate(truth) if findings_of(text)], "findings"
    if len(told) > 1:
        truth, *some = [[findings_of(each[k]) for k in told] for each in (truth, *answers.values())]
        answers, examples = dict(zip(answers, some, strict=True)), list(map(findings_of, examples))
    else:
        of = "impressions"
    examples = [text for text in examples if text]

    def claims(texts: Sequence[str]) -> np.ndarray:
        return metrics.positives(label(texts), "positive")

    words = literature_words if args.literature_bleu else metrics.tokenize
    labels, ours, constant = claims(truth), claims(answers["this run"]), None
    answers["this run, shuffled"] = shuffled(answers["this run"])
    if examples:
        constant = constant_text(examples, words)
        answers["one text for every film"] = [constant] * len(truth)
        usual = usual_texts(examples, claims(examples), words)
        answers["true labels, usual words"] = [usual.get(claim.tobytes(), constant) for claim in labels]
    scored = []
    for name, said in answers.items():
        claimed = claims(said)
        row = {"name": name, "f1": macro_f1(labels, claimed)}
        row["f1_below"] = macro_f1(labels, ours, less=claimed) if scored else None
        scored.append(row | dict(zip(WORDS, word_scores(truth, said, args.literature_bleu), strict=True)))
    if args.literature_bleu:
        scored += [{"name": name, **dict(zip(WORDS, values, strict=True))} for name, values in PUBLISHED.items()]
    of = f"{of} of {len(truth)} reports"
    return {"of": of, "literature": args.literature_bleu, "rows": scored, "constant": constant}


def findings_of(report: str) -> str:
    """ "FINDINGS: a IMPRESSION: b" -> "a"; a text without headings is all findings."""
    findings, impression = split_report(report, last_paragraph=False)
    return findings or ("" if impression else report)


def comparison(beside: dict) -> Table:
    """What `compare` found."""
    how = "corpus BLEU as in this set's literature" if beside["literature"] else "BLEU is the mean over reports"
    note = f"F1: macro, over the observations with {LEAST_POSITIVES} positives or more, uncertain as positive. Below"
    note += " this run: by how much, with the interval of the difference over the same draws of films."
    if beside["constant"]:
        note += " True labels, usual words: of the training reports with a film's true labels the one that agrees best"
        note += f" with all of them. The one text: {beside['constant']}"
    else:
        note += " No training split here, so no constant text: add --train SRC."
    rows = [[row["name"], *map(row.get, SCORES)] for row in beside["rows"]]
    return Table(["", *SCORES.values()], rows, f"Beside what costs nothing: {beside['of']} ({how})", note, ours=[0])
