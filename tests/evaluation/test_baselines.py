"""What stands beside the model: one text, the nearest film, shuffled answers, and the literature's way to count."""

import json
import sys

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu
from PIL import Image
from sklearn.metrics import f1_score

import evaluate
from evaluation import baselines, metrics
from phantoms.dataset import phantom

NORMAL = "The lungs are clear. Heart size is normal."
REPORTS = [NORMAL] * 6 + ["The lungs are clear. No pneumothorax.", "Large left effusion.", "Heart size is normal."]


def test_words_are_counted_as_in_the_literature_of_the_set():
    """Worked by hand from R2Gen's cleaning of IU X-Ray reports."""
    words = baselines.literature_words('1. Lungs "clear", well-expanded. 2. No effusion/edema.. 3. Heart: XXXX normal.')
    assert " ".join(words) == "lungs clear well-expanded . no effusionedema . heart xxxx normal ."
    assert len(baselines.literature_words("word " * 100)) == 60


def test_literature_bleu_is_that_of_the_corpus():
    truths, written = REPORTS, REPORTS[3:] + REPORTS[:3]
    scores = baselines.word_scores(truths, written, literature=True)
    tokens = [[baselines.literature_words(text) for text in texts] for texts in (truths, written)]
    for n in range(1, 5):
        expected = corpus_bleu([[t] for t in tokens[0]], tokens[1], weights=[1 / n] * n)
        assert scores[n - 1][0] == pytest.approx(expected)
        assert scores[n - 1][1] <= scores[n - 1][0] <= scores[n - 1][2]
    assert scores[0][0] != baselines.word_scores(truths, written, literature=False)[0][0]


def test_rouge_weighs_recall_by_1_2():
    """R = 2 / 4, P = 2 / 2: F = (1 + 1.44) P R / (R + 1.44 P)."""
    rouge = metrics.rouge_l(["a b c d"], ["a c"])
    weighted = baselines.weighted_rouge(rouge, np.array([4]), np.array([2]))
    assert weighted[0] == pytest.approx(2.44 * 0.5 / (0.5 + 1.44))
    assert baselines.weighted_rouge(np.zeros(1), np.array([0]), np.array([0])).tolist() == [0]


def test_the_one_text_is_what_reaches_most_on_the_training_reports():
    text = baselines.constant_text(REPORTS, metrics.tokenize)
    counts = metrics.bleu_counts(REPORTS, [text] * len(REPORTS)).sum(axis=0)
    best = metrics.bleu_from_counts(counts)[3]
    for other in set(REPORTS):
        counts = metrics.bleu_counts(REPORTS, [other] * len(REPORTS)).sum(axis=0)
        assert best >= metrics.bleu_from_counts(counts)[3]
    assert text == NORMAL


def test_of_reports_with_equal_labels_the_usual_one_answers_all_of_them_best():
    """By nltk: each as the answer to all that have its labels."""
    claims = np.zeros((len(REPORTS), 14), dtype=bool)
    claims[[5, 6, 7], 9] = True  # one of the normal reports, the one without pneumothorax, the effusion
    usual = baselines.usual_texts(REPORTS, claims, metrics.tokenize)
    tokens = [metrics.tokenize(report) for report in REPORTS]
    for claim, alike in ((claims[0], [0, 1, 2, 3, 4, 8]), (claims[5], [5, 6, 7])):
        scores = [corpus_bleu([[tokens[j]] for j in alike], [tokens[i]] * len(alike)) for i in alike]
        assert usual[claim.tobytes()] == REPORTS[alike[int(np.argmax(scores))]]
    assert len(usual) == 2 and usual[claims[0].tobytes()] == NORMAL


def test_no_shuffled_answer_stays_where_it_was():
    for n in (2, 3, 50):
        answers = [str(i) for i in range(n)]
        moved = baselines.shuffled(answers)
        assert sorted(moved) == sorted(answers) and all(a != b for a, b in zip(moved, answers, strict=True))


def test_macro_f1_counts_what_ten_reports_have():
    truth = np.zeros((20, 14), dtype=bool)
    truth[:10, 2] = truth[:9, 3] = True
    claims = truth.copy()
    claims[:, 3] = False  # nine positives: does not count
    claims[:5, 2] = False
    assert baselines.macro_f1(truth, claims)[0] == pytest.approx(2 * 5 / 15)
    assert baselines.macro_f1(truth[:, :2].repeat(7, axis=1), truth) is None


def test_the_difference_of_two_f1_is_over_the_same_films():
    """Draw by draw, with scikit-learn's F1 of what each of them says of the films drawn."""
    rng = np.random.default_rng(1)
    truth = rng.random((60, 14)) < 0.4
    ours, theirs = truth ^ (rng.random((60, 14)) < 0.2), truth ^ (rng.random((60, 14)) < 0.3)

    def difference(films):
        one, other = (f1_score(truth[films], each[films], average="macro", zero_division=0) for each in (ours, theirs))
        return one - other

    value, low, high = baselines.macro_f1(truth, ours, less=theirs)
    rng = np.random.default_rng(0)
    draws = [difference(rng.integers(60, size=60)) for _ in range(1000)]
    assert value == pytest.approx(difference(np.arange(60)))
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


@pytest.fixture
def films(tmp_path):
    """Phantoms as somebody's films: 8 to train on, 6 to validate, which are the same pictures as six of those."""
    rows = []
    for number in range(14):
        shown = phantom(1, number % 8)
        Image.fromarray(shown.image).save(tmp_path / f"{number}.png")
        findings, impression = shown.report.removeprefix("FINDINGS: ").split(" IMPRESSION: ")
        row = {"image": f"{number}.png", "findings": findings, "impression": impression, "mesh": "Pleural Effusion"}
        rows.append(row | {"split": "train" if number < 8 else "validate"})
    rows[8]["findings"] = ""
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def run(monkeypatch, out, *flags):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "report", "--out", str(out), *map(str, flags)])
    evaluate.main()
    return json.loads((out / "results.json").read_text())["beside"]


def test_a_broken_training_film_costs_its_row_alone(films, tmp_path, monkeypatch, capsys):
    (films / "3.png").write_bytes(b"no picture")
    flags = ["--data", films, "--split", "validate", "--cache", tmp_path / "cache"]
    names = [row["name"] for row in run(monkeypatch, tmp_path / "out", *flags)["rows"]]
    assert "nearest training film" not in names and "one text for every film" in names
    assert "3.png" in capsys.readouterr().err


def test_the_table_of_a_data_set(films, tmp_path, monkeypatch, capsys):
    flags = ["--data", films, "--split", "validate", "--literature-bleu", "--cache", tmp_path / "cache"]
    beside = run(monkeypatch, tmp_path / "out", *flags)
    rows = {row["name"]: row for row in beside["rows"]}
    assert list(rows) == [
        "this run",
        "nearest training film",
        "this run, shuffled",
        "one text for every film",
        "true labels, usual words",
        *baselines.PUBLISHED,
    ]
    assert rows["true labels, usual words"]["bleu_4"][0] > rows["one text for every film"]["bleu_4"][0]
    # Film 8 shows training film 0, and so on: the nearest film's report is the true one, word by word.
    assert rows["nearest training film"]["bleu_1"][0] == pytest.approx(1)
    assert rows["R2Gen (Chen et al. 2020)"]["bleu_4"] == 0.165
    assert beside["of"] == "findings of 5 reports"  # one of six has none
    text, page = capsys.readouterr().out, (tmp_path / "out/report.html").read_text()
    for said in (text, page):
        assert "corpus BLEU as in this set" in said and "R2Gen (Chen et al. 2020)" in said
        assert "below this run" in said


def test_impressions_alone_are_compared_as_they_are(tmp_path, monkeypatch):
    lines = [json.dumps({"truth": f"IMPRESSION: {text}", "generated": text}) for text in REPORTS]
    (tmp_path / "theirs.jsonl").write_text("\n".join(lines))
    beside = run(monkeypatch, tmp_path / "out", "--predictions", tmp_path / "theirs.jsonl")
    assert beside["of"] == f"impressions of {len(REPORTS)} reports"


def test_predictions_without_their_data_stand_beside_themselves_shuffled(tmp_path, monkeypatch, capsys):
    lines = [json.dumps({"truth": text, "generated": text}) for text in REPORTS]
    (tmp_path / "theirs.jsonl").write_text("\n".join(lines))
    beside = run(monkeypatch, tmp_path / "out", "--predictions", tmp_path / "theirs.jsonl")
    assert [row["name"] for row in beside["rows"]] == ["this run", "this run, shuffled"]
    assert "add --train SRC" in capsys.readouterr().out
