"""The consensus of sampled reports: the names that enough of them have, and the best text of their own sentences."""

from itertools import permutations

from nltk.translate.bleu_score import corpus_bleu
from PIL import Image

import data
from evaluation import consensus as decoding
from evaluation.consensus import consensus, vote
from evaluation.metrics import tokenize

CLEAR, LARGE, FLUID = (
    "The lungs are clear of any disease.",
    "The heart is moderately large.",
    "There is some fluid left.",
)
REPORTS = [
    f"FINDINGS: {CLEAR} {LARGE} IMPRESSION: The heart is large.",
    f"FINDINGS: {CLEAR} {LARGE} IMPRESSION: The heart is large.",
    f"FINDINGS: {CLEAR} {FLUID} IMPRESSION: Some fluid is seen here.",
    f"FINDINGS: {LARGE}",
]


def test_no_text_of_the_samples_sentences_has_a_higher_bleu_than_their_consensus():
    """Worked through by nltk: every order of every choice of the sentences."""
    text = consensus(REPORTS, tokenize)
    findings, impression = text.removeprefix("FINDINGS: ").split(" IMPRESSION: ")
    assert impression == "The heart is large."
    samples = [[tokenize(report.removeprefix("FINDINGS: ").split(" IMPRESSION")[0])] for report in REPORTS]

    def bleu(sentences):
        return corpus_bleu(samples, [tokenize(" ".join(sentences))] * len(samples))

    choices = [order for n in (1, 2, 3) for order in permutations((CLEAR, LARGE, FLUID), n)]
    assert findings == " ".join(max(choices, key=bleu)) == f"{CLEAR} {LARGE}"


def test_a_section_that_most_samples_lack_is_left_out():
    rare = consensus([*REPORTS, *[f"FINDINGS: {LARGE}"] * 3], tokenize)  # an impression in three of seven
    assert rare.startswith("FINDINGS: ") and "IMPRESSION" not in rare
    assert consensus(["no sections at all", "none"], tokenize) == ""


def test_a_quarter_of_the_lists_is_enough_to_name_an_observation():
    lists = (
        ["OBSERVATIONS: Edema, Pleural Effusion."] * 2
        + ["OBSERVATIONS: Pneumonia."]
        + ["OBSERVATIONS: No Finding."] * 5
    )
    assert vote(lists) == "OBSERVATIONS: Edema, Pleural Effusion."
    assert vote(lists[2:]) == "OBSERVATIONS: No Finding."  # pneumonia: one of six
    devices = ["OBSERVATIONS: Support Devices, No Finding."]
    assert vote(devices) == "OBSERVATIONS: Support Devices, No Finding."


def test_reports_go_on_from_the_names_where_the_model_puts_names_first(micro, monkeypatch):
    names, asked = ["OBSERVATIONS: Edema."], []

    def read_often(checkpoint, images, seeds, temperature=0.7, top_p=0.9, question=None, begin=None, **_):
        asked.append((question, begin))
        return [["FINDINGS: Seen."] * 3 if begin else names * 3] * len(images)

    monkeypatch.setattr(decoding, "read_often", read_often)
    films, seeds = [Image.new("L", (64, 64))] * 2, [range(3), range(3, 6)]
    for history, expected in (([], [("Q", ["", ""])]), ([{"stage": "1", "observations": "first"}], None)):
        asked.clear()
        monkeypatch.setattr(micro, "history", history)
        assert decoding.read_consensus(micro, films, seeds, "Q", tokenize) == ["FINDINGS: Seen."] * 2
        assert asked == (expected or [(data.NAMES_QUESTION, None), ("Q", names * 2)])
