"""evaluate.py report: other people's predictions, the model's own, and what happens to a run that is cut off."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

import evaluate
import sample
from common.errors import UserError
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from evaluation import metrics, report
from judges import chexbert
from phantoms.dataset import phantom
from reports.labeler import Label, label_reports
from studies import consensus

TRUTHS = [
    "Moderate cardiomegaly. Small left pleural effusion.",
    "No acute cardiopulmonary abnormality.",
    "Possible right lower lobe pneumonia. No pneumothorax.",
    "Pulmonary edema. Cardiomegaly.",
]
WRITTEN = [
    "Moderate cardiomegaly. No pleural effusion.",
    "No acute cardiopulmonary abnormality.",
    "Right lower lobe pneumonia.",
    "Left pneumothorax.",
]


def command(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "report", *map(str, flags)])
    evaluate.main()


def write_csv(path, columns=("Ground Truth", "Report Impression")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(TRUTHS, WRITTEN, strict=True)])


def test_predictions_are_scored_as_the_measures_say(tmp_path, monkeypatch, capsys):
    write_csv(tmp_path / "theirs.csv")
    command(monkeypatch, "--predictions", tmp_path / "theirs.csv", "--out", tmp_path / "out")
    results = json.loads((tmp_path / "out/results.json").read_text())
    for mode in ("negative", "positive"):
        expected, _, _ = metrics.chexbert_scores(label_reports(TRUTHS), label_reports(WRITTEN), mode)
        assert results["table_2"][mode] == {name: list(score) for name, score in expected.items()}
        assert all(low <= value <= high for value, low, high in results["table_2"][mode].values())
    assert results["table_2"]["negative"]["micro14"][0] != results["table_2"]["positive"]["micro14"][0]
    assert [results["text"][f"bleu_{n}"][0] for n in (1, 2, 3, 4)] == pytest.approx(
        metrics.bleu_from_counts(metrics.bleu_counts(TRUTHS, WRITTEN)).mean(axis=0)
    )
    assert results["text"]["rouge_l"][0] == pytest.approx(metrics.rouge_l(TRUTHS, WRITTEN).mean())

    text, page = capsys.readouterr().out, (tmp_path / "out/report.html").read_text()
    for said in (text, page):
        assert "not CheXbert" in said and "not a medical device" in said and "LLaVA-Rad" in said
    # As JSON lines they have the same scores; where a model has left them in --out they stay whole.
    lines = [json.dumps({"truth": truth, "generated": said}) for truth, said in zip(TRUTHS, WRITTEN, strict=True)]
    (tmp_path / "out/predictions.jsonl").write_text("\n".join(lines))
    for more, reports in (((), len(TRUTHS)), (("--n", 3), 3)):
        command(monkeypatch, "--predictions", tmp_path / "out/predictions.jsonl", "--out", tmp_path / "out", *more)
        again = json.loads((tmp_path / "out/results.json").read_text())
        assert again["reports"] == reports and (again["table_2"] == results["table_2"]) == (not more)
        assert (tmp_path / "out/predictions.jsonl").read_text() == "\n".join(lines)


def test_with_its_weights_chexbert_judges(tmp_path, monkeypatch, capsys):
    seen = []

    def all_edema(texts):
        seen.extend(texts)
        return [{name: Label(1 if name == "Edema" else None) for name in OBSERVATIONS} for _ in texts]

    monkeypatch.setattr(chexbert, "load_chexbert", lambda folder, device: all_edema)
    TRUTHS_LONG = [TRUTHS[0] + " x" * 300, *TRUTHS[1:]]
    lines = [json.dumps({"truth": t, "generated": w}) for t, w in zip(TRUTHS_LONG, WRITTEN, strict=True)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    command(monkeypatch, "--predictions", tmp_path / "p.jsonl", "--out", tmp_path / "out", "--chexbert", tmp_path)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["judge"] == "CheXbert" and results["per_class"]["Edema"]["positive"][0] == 1
    assert results["table_2"]["positive"]["macro14"][0] == pytest.approx(1 / 14)
    assert max(map(len, seen)) == 512 and "rule-based" not in capsys.readouterr().out


def test_radgraph_scores_where_it_is_installed_and_loses_nothing_where_it_fails(tmp_path, monkeypatch, capsys):
    """As radgraph 0.1.18 answers: mean, each report, and the annotations of both."""
    write_csv(tmp_path / "theirs.csv")

    class F1RadGraph:
        def __init__(self, reward_level, model_type):
            assert (reward_level, model_type) == ("partial", "radgraph-xl")

        def __call__(self, refs, hyps):
            assert (refs, hyps) == (TRUTHS, WRITTEN)
            return 0.5, [0.25, 1.0, 0.75, 0.0], [], []

    monkeypatch.setitem(sys.modules, "radgraph", types.SimpleNamespace(F1RadGraph=F1RadGraph))
    flags = ("--predictions", tmp_path / "theirs.csv", "--out", tmp_path / "out")
    command(monkeypatch, *flags)
    value, low, high = json.loads((tmp_path / "out/results.json").read_text())["radgraph_f1"]
    assert value == 0.5 and low < 0.5 < high and re.search(r"RadGraph F1 +0\.500", capsys.readouterr().out)

    monkeypatch.setattr(F1RadGraph, "__call__", lambda self, **_: 1 / 0)
    command(monkeypatch, *flags)
    assert json.loads((tmp_path / "out/results.json").read_text())["radgraph_f1"] is None
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_radgraph_that_lacks_a_package_says_which(tmp_path, monkeypatch, capsys):
    """radgraph 0.1.18 imports requests and does not ask for it."""
    (tmp_path / "radgraph.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "radgraph", raising=False)
    assert report.radgraph_f1([{"truth": "No edema.", "generated": "Edema."}]) is None
    assert "No module named 'no_such_package_at_all'" in capsys.readouterr().err


def test_a_run_that_was_cut_off_goes_on(micro_folder, tmp_path, monkeypatch):
    flags = ("--data", "phantom:5", "--weights", micro_folder, "--batch", 2, "--cache", tmp_path / "cache")
    command(monkeypatch, *flags, "--out", tmp_path / "whole")
    whole = (tmp_path / "whole/predictions.jsonl").read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["truth"] for row in rows] == [phantom(1, index).report for index in range(5)]

    (shard,) = (tmp_path / "whole").glob("reports.*.0.jsonl")
    lines = shard.read_text().splitlines()
    own_folder(tmp_path / "cut")
    kept = "\n".join(lines[:3]) + "\n" + lines[3][:20]  # an empty line, two reports and the torn beginning of a third
    (tmp_path / "cut" / shard.name).write_text(kept)
    command(monkeypatch, *flags, "--out", tmp_path / "cut", "--resume")
    assert (tmp_path / "cut/predictions.jsonl").read_text() == whole
    added = (tmp_path / "cut" / shard.name).read_text()[len(kept) :]
    assert sorted(json.loads(line)["index"] for line in added.split("\n") if line) == [2, 3, 4]


def test_every_image_is_asked_the_question_of_its_row(micro_folder, tmp_path, monkeypatch):
    questions = ["What is seen?", "Is there an effusion?", "What is seen?"]
    rows = []
    for index, question in enumerate(questions):
        Image.fromarray(phantom(1, index).image).save(tmp_path / f"{index}.png")
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": f"Answer {index}."}]
        rows.append({"messages": said, "images": [f"{index}.png"]})
    (tmp_path / "test.json").write_text(json.dumps(rows))
    asked = []

    def read(checkpoint, images, question, max_new_tokens, batch):
        asked.append((question, len(images)))
        return [f"{question} {number}" for number in range(len(images))]

    monkeypatch.setattr(sample, "read", read)
    flags = ("--data", tmp_path / "test.json", "--split", "all", "--weights", micro_folder, "--out", tmp_path / "out")
    command(monkeypatch, *flags, "--cache", tmp_path / "cache")
    assert asked == [("What is seen?", 2), ("Is there an effusion?", 1)]
    written = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["generated"] for row in written] == ["What is seen? 0", "Is there an effusion? 0", "What is seen? 1"]


def test_greedily_only_prose_is_scored(micro_folder, tmp_path, monkeypatch):
    prose = "FINDINGS: The heart looks normal."
    monkeypatch.setattr(sample, "read", lambda *_, **__: [f"OBSERVATIONS: Edema. {prose}", prose])
    flags = ("--data", "phantom:2", "--weights", micro_folder, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    command(monkeypatch, *flags)
    written = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["generated"] for row in written] == [prose] * 2


def test_names_alone_are_scored_where_nothing_else_was_asked_for(micro_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "read", lambda *_, **__: ["OBSERVATIONS: Edema."] * 2)
    flags = ("--data", "phantom:2", "--weights", micro_folder, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    command(monkeypatch, *flags)
    written = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["generated"] for row in written] == ["OBSERVATIONS: Edema."] * 2


def test_a_consensus_belongs_to_its_film_and_is_not_taken_for_a_greedy_report(micro_folder, tmp_path, monkeypatch):
    seen = []

    def read_consensus(checkpoint, images, seeds, question, words, max_new_tokens):
        seen.append([list(row) for row in seeds])
        return [f"FINDINGS: Report {row[0]}." for row in seeds]

    monkeypatch.setattr(consensus, "read_consensus", read_consensus)
    monkeypatch.setattr(sample, "read", lambda *_, **__: ["FINDINGS: Greedy."] * 2)
    flags = ("--data", "phantom:2", "--weights", micro_folder, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    sampled = (["--consensus", "3", "--batch", "6"], ["Report 0.", "Report 3."])
    for more, expected in (sampled, ([], ["Greedy."] * 2)):
        command(monkeypatch, *flags, *more, "--resume")
        written = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
        assert [row["generated"] for row in written] == [f"FINDINGS: {text}" for text in expected]
    assert seen == [[[0, 1, 2], [3, 4, 5]]]
    predictions = ("--predictions", tmp_path / "out/predictions.jsonl", "--out", tmp_path / "scored")
    with pytest.raises(UserError, match=r"^--consensus: is for a model"):
        command(monkeypatch, *predictions, "--consensus", "3")
    assert not (tmp_path / "scored").exists()


def test_reports_of_other_settings_are_not_mixed_in(micro_folder, tmp_path, monkeypatch):
    flags = ("--weights", micro_folder, "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--resume")
    monkeypatch.setattr(sample, "read", lambda *_, **__: ["stale"] * 3)
    command(monkeypatch, "--data", "phantom:3", *flags)
    monkeypatch.setattr(sample, "read", lambda *_, **__: ["new"] * 3)
    command(monkeypatch, "--data", "phantom:3", *flags, "--batch", 3)
    assert "stale" not in (tmp_path / "out/predictions.jsonl").read_text()
    command(monkeypatch, "--data", "phantom:3", *flags)  # what was written with the first settings is still there
    assert "new" not in (tmp_path / "out/predictions.jsonl").read_text()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(micro_folder, tmp_path, monkeypatch):
    flags = ["--data", "phantom:5", "--weights", micro_folder, "--batch", 2, "--cache", tmp_path / "cache"]
    command(monkeypatch, *flags, "--out", tmp_path / "one")
    root = os.path.dirname(evaluate.__file__)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "evaluate.py"]
    arguments = [*torchrun, "report", *map(str, flags), "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two/predictions.jsonl").read_text() == (tmp_path / "one/predictions.jsonl").read_text()
    assert {f.suffixes[-2] for f in (tmp_path / "two").glob("reports.*")} == {".0", ".1"}


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("Ground Truth,Report\na,b\n", "p.csv", "no column Report Impression"),
        ("not json\n", "p.jsonl", "cannot be read"),
        ('{"truth": "a"}\n', "p.jsonl", "row 1 has no texts"),
        ('{"truth": "a", "generated": "b"}\n', "p.jsonl", "1 report"),
        (None, "absent.csv", "absent.csv"),
    ],
)
def test_bad_predictions_are_refused_in_one_line(tmp_path, monkeypatch, capsys, content, name, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as stopped:
        evaluate.run(lambda: command(monkeypatch, "--predictions", tmp_path / name, "--out", tmp_path / "out"))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and words in error and error.count("\n") == 1


def test_predictions_are_read_as_data_sets_are(tmp_path):
    """Windows-1252, gzip, and what pandas left empty."""
    text = "Report Impression,Ground Truth\r\nThe heart isn’t enlarged.,Clear lungs.\r\nnan,Clear.\r\n"
    (tmp_path / "p.csv").write_bytes(text.encode("cp1252"))
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(text.encode()))
    lines = '{"truth": "Clear lungs.", "generated": "The heart isn’t enlarged."}\n{"truth": "Clear.", "generated": NaN}'
    (tmp_path / "p.jsonl").write_text(lines, encoding="utf-8")
    for name in ("p.csv", "p.csv.gz", "p.jsonl"):
        rows = report.read_predictions(tmp_path / name)
        assert [(row["truth"], row["generated"]) for row in rows] == [
            ("Clear lungs.", "The heart isn’t enlarged."),
            ("Clear.", ""),
        ]


def test_a_long_question_is_blamed_on_its_row(tmp_path, micro_folder, monkeypatch):
    for name in "ab":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    rows = [{"image": "a.png", "report": "Clear."}, {"image": "b.png", "report": "Clear.", "question": "Why? " * 999}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ("--data", tmp_path, "--split", "all", "--weights", micro_folder, "--out", tmp_path / "out")
    with pytest.raises(UserError, match=r"b\.png: its question has \d+ tokens"):
        command(monkeypatch, *flags)


def test_intervals_hold_most_of_what_other_samples_score(monkeypatch):
    """The 95 % interval of one half of the reports should nearly always hold the score of the whole."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (2000, 14)).astype(float)
    claims = np.where(rng.random(truth.shape) < 0.7, truth, 1 - truth)
    whole = metrics.chexbert_scores(truth, claims, "positive")[0]["micro14"][0]
    held = 0
    for repeat in range(20):
        rows = np.random.default_rng(repeat).integers(2000, size=100)
        answers = iter((truth[rows], claims[rows]))
        scores = report.score_reports(["a"] * 100, ["a"] * 100, lambda texts, answers=answers: next(answers))
        _, low, high = scores["table_2"]["positive"]["micro14"]
        held += low <= whole <= high
    assert held >= 15


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--predictions", "FILE", "--weights", "."], "--weights: is for a model"),
        (["--predictions", "FILE", "--data", "phantom:200"], "--data: is for a model"),
        (["--predictions", "FILE", "--split", "test"], "--split: is for a model"),
        (["--predictions", "FILE", "--consensus", "4"], "--consensus: is for a model"),
        (["--predictions", "FILE", "--resume"], "--resume: is for a model"),
        (["--predictions", "FILE", "--device", "cpu"], "--device: is for a model"),
        (["--predictions", "FILE", "--require", "findings"], "--require: is for a data set"),
        (["--data", "phantom:20", "--split", "test"], "--split: is for a data set of files"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(flags, said, tmp_path):
    write_csv(tmp_path / "theirs.csv")
    flags = [str(tmp_path / "theirs.csv") if flag == "FILE" else flag for flag in flags]
    with pytest.raises(UserError, match=said):
        evaluate.parse_args(["report", *flags])
