"""Sides and controls, and `evaluate.py phantom` on a model that knows the truth."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import evaluate
import sample
from common.observations import OBSERVATIONS
from evaluation.metrics import derangement
from evaluation.phantom import side_accuracy
from judges import classifier
from judges.trained_classifier import SHIPPED_CLASSIFIER
from phantoms.dataset import TRAIN_SEED, phantom
from phantoms.truth import Finding
from reports.labeler import label_report


def test_sides_are_asked_only_of_rightly_affirmed_findings():
    findings = [
        Finding("Pneumothorax", "pneumothorax", "left"),
        Finding("Pleural Effusion", "effusion", "right"),
        Finding("Fracture", "rib fracture", "left"),
        Finding("Support Devices", "pacemaker", "left"),
        Finding("Support Devices", "catheter", "right"),  # two sides: no one answer
        Finding("Cardiomegaly", "cardiomegaly"),  # no side
    ]
    labels = label_report("Left pneumothorax. Left pleural effusion. No fracture. Pacemaker. Cardiomegaly.")
    assert side_accuracy([SimpleNamespace(findings=findings)], [labels]) == 0.5
    assert np.isnan(side_accuracy([SimpleNamespace(findings=findings)], [label_report("No edema.")]))


@pytest.mark.parametrize("n", [2, 3, 10, 501])
def test_the_control_leaves_nothing_in_its_place(n):
    partner = derangement(n, seed=1)
    assert sorted(partner) == list(range(n))
    assert (partner != np.arange(n)).all()


def test_no_data_is_shared_between_training_classifier_and_evaluation():
    assert len({TRAIN_SEED, classifier.ClassifierRecipe().seed, evaluate.parse_args(["phantom"]).seed}) == 3


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A model that knows the truth: reads every phantom rightly and draws the very picture."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    config = SimpleNamespace(image_size=256, guidance=2.0, max_latent_size=32)
    checkpoint = SimpleNamespace(model=SimpleNamespace(config=config))
    calls = []

    def read(checkpoint, images, **_):
        calls.append("read")
        return [phantom(1, index).report for index in range(len(images))]

    def draw(checkpoint, prompts, seeds, size, **_):
        calls.append("draw")
        assert [phantom(1, index).impression for index in seeds] == prompts
        return np.stack([phantom(1, index, size).image for index in seeds])

    monkeypatch.setattr(sample, "load_model", lambda *_, **__: checkpoint)
    monkeypatch.setattr(sample, "read", read)
    monkeypatch.setattr(sample, "draw", draw)

    def command(*extra):
        flags = ["--weights", str(folder), "--out", str(tmp_path / "out"), "--classifier", str(SHIPPED_CLASSIFIER)]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "phantom", "--n", "12", *flags, *extra])
        evaluate.main()
        return json.loads((tmp_path / "out" / "results.json").read_text())

    return SimpleNamespace(command=command, calls=calls, out=tmp_path / "out")


def test_a_perfect_model_reaches_the_ceiling_and_its_control_does_not(fake, capsys):
    results = fake.command()
    reading, drawing = results["reading"], results["drawing"]
    assert reading["generated"]["macro"] == reading["ceiling"]["macro"] == [1.0] * 3
    assert reading["generated"]["side_accuracy"] == 1.0
    assert reading["control"]["macro"][0] < 0.6
    assert drawing["generated"] == drawing["ceiling"]
    generated, other_real = drawing["table_3"]["generated"], drawing["table_3"]["other real"]
    assert generated["precision"][0] == generated["coverage"][0] == 1
    assert generated["fd"] == pytest.approx(0, abs=1e-6) and other_real["fd"] > 0
    assert results["settings"]["n"] == 12 and "evaluate.py phantom" in results["command"]

    text = capsys.readouterr().out
    assert text.count("not a medical device") == 1
    assert "rule-based labeler (reports/labeler.py)" in text and "classifier (judges/classifier.py)" in text
    assert all(text.count(f"\n{name} ") == 2 for name in OBSERVATIONS)
    page = (fake.out / "report.html").read_text()
    assert all(f">{name}<" in page for name in OBSERVATIONS)
    (shard,) = fake.out.glob("reports.*.0.jsonl")
    lines = [json.loads(line) for line in shard.read_text().splitlines() if line]
    assert len(lines) == 12 and lines[3]["truth"] == lines[3]["generated"] == phantom(1, 3).report
    assert sorted(f.name for f in fake.out.iterdir() if not f.name.startswith(".")) == [
        "generated",
        "report.html",
        shard.name,
        "results.json",
    ]


@pytest.mark.slow
def test_resume_generates_nothing_again_unless_a_setting_changed(fake):
    first = fake.command()
    again = fake.command("--resume")
    assert fake.calls == ["read", *["draw"] * 3]  # four pictures at a time
    assert again["reading"] == first["reading"]
    assert again["drawing"]["generated"] == first["drawing"]["generated"]
    fake.command("--resume", "--steps", "12")
    assert fake.calls == ["read", *["draw"] * 3] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--n", "1"], "--n 1"),
        (["--batch", "0"], "--batch 0"),
        (["--steps", "1"], "--steps 1"),
        (["--guidance", "0"], "--guidance 0"),
        (["--seed", "0"], "--seed 0"),
        (["--seed", "2"], "--seed 2"),
        (["--weights", "no/such/folder"], "--weights no/such/folder"),
        (["--out", "/dev/null/out"], "--out /dev/null/out"),
        (["--device", "abacus"], "--device abacus"),
        (["--size", "100"], "--size 100"),
    ],
)
def test_bad_input_is_refused_in_one_line(fake, flags, named, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        evaluate.run(lambda: fake.command(*flags))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
