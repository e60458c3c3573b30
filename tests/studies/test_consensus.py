"""The consensus of sampled reports: the names that enough of them have, and the one that all agree with best."""

from nltk.translate.bleu_score import corpus_bleu
from PIL import Image

from evaluation.metrics import tokenize
from reports.questions import NAMES_QUESTION
from sample import TEMPERATURE
from studies import consensus as decoding
from studies.consensus import consensus, vote

REPORTS = [
    "FINDINGS: The lungs are clear. The heart is moderately large. IMPRESSION: Large heart.",
    "FINDINGS: The heart is moderately large. There is a small effusion. IMPRESSION: Large heart.",
    "FINDINGS: The lungs are clear. The heart is moderately large. There is a pacemaker.",
    "FINDINGS: A pacemaker lies on the left. IMPRESSION: The lungs are clear. The heart is moderately large.",
]


def test_no_sample_has_a_higher_bleu_against_all_than_the_consensus():
    """By nltk: each as the answer to all of them."""
    findings = [tokenize(report.removeprefix("FINDINGS: ").split(" IMPRESSION")[0]) for report in REPORTS]
    bleu = [corpus_bleu([[each] for each in findings], [one] * len(REPORTS)) for one in findings]
    assert max(bleu) > sorted(bleu)[-2]
    assert consensus(REPORTS, tokenize) == REPORTS[bleu.index(max(bleu))]
    assert consensus(REPORTS[::-1], tokenize) == REPORTS[bleu.index(max(bleu))] != REPORTS[3]
    assert consensus(["no sections", "no sections at all", "none"], tokenize).startswith("no sections")


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

    def read_often(checkpoint, images, seeds, temperature, top_p, question, max_new_tokens, batch, begin=None):
        asked.append((question, begin, temperature, [list(row) for row in seeds]))
        return [["FINDINGS: Seen."] * len(seeds[0]) if question == "Q" else names * 3] * len(images)

    monkeypatch.setattr(decoding, "read_often", read_often)
    films, seeds = [Image.new("L", (64, 64))] * 2, [range(3), range(3, 6)]
    for history, begin in (([], None), ([{"stage": "1", "observations": "first"}], names * 2)):
        asked.clear()
        monkeypatch.setattr(micro, "history", history)
        assert decoding.read_consensus(micro, films, seeds, "Q", tokenize) == ["FINDINGS: Seen."] * 2
        # Each seed once: half of the reports sampled carefully, half as the model has them.
        reports = [("Q", begin, TEMPERATURE, [[0, 2], [3, 5]]), ("Q", begin, 1.0, [[1], [4]])]
        listed = [(NAMES_QUESTION, None, 1.0, [[0, 1, 2], [3, 4, 5]])] if history else []
        assert asked == listed + reports
