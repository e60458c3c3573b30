"""Sides and controls, and `evaluate.py phantom` on a model that knows the truth."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import evaluate
import sample
from common.observations import OBSERVATIONS
from evaluation.metrics import derangement
from evaluation.phantom import CLASSIFIER_SEED, TRAINING_SEED, side_accuracy, true_sides
from judges import classifier
from judges.trained_classifier import SHIPPED_CLASSIFIER
from phantoms.dataset import TRAIN_SEED, phantom
from phantoms.truth import KINDS, Finding
from reports.labeler import label_report
from studies import autoencoder, prompt_gain


def test_sides_are_asked_only_of_rightly_affirmed_findings():
    findings = [
        Finding("Pneumothorax", "pneumothorax", "left"),
        Finding("Pleural Effusion", "effusion", "right"),
        Finding("Fracture", "rib fracture", "left"),
        Finding("Support Devices", "pacemaker", "left"),
        Finding("Support Devices", "catheter", "right"),  # two sides: no one answer
        Finding("Cardiomegaly", "cardiomegaly"),  # no side
    ]
    sides = true_sides(findings)
    assert sides == {"Pneumothorax": "left", "Pleural Effusion": "right", "Fracture": "left"}
    labels = label_report("Left pneumothorax. Left pleural effusion. No fracture.")
    assert side_accuracy([sides], [labels]) == (0.5, 2)


@pytest.mark.parametrize("n", [2, 3, 10, 501])
def test_the_control_leaves_nothing_in_its_place(n):
    partner = derangement(n, seed=1)
    assert sorted(partner) == list(range(n))
    assert (partner != np.arange(n)).all()


def test_no_data_is_shared_between_training_classifier_and_evaluation():
    assert (TRAIN_SEED, classifier.ClassifierRecipe().seed) == (TRAINING_SEED, CLASSIFIER_SEED)
    assert evaluate.parse_args(["phantom"]).seed not in (TRAINING_SEED, CLASSIFIER_SEED)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A model that knows the truth: reads every phantom rightly and draws the very picture."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    config = SimpleNamespace(image_size=256, guidance=2.0, max_latent_size=32)
    vae = SimpleNamespace(psnr=40.0)
    model = SimpleNamespace(config=config, vae2llm=torch.nn.Linear(1, 1))
    checkpoint = SimpleNamespace(model=model, vae=vae, encode=lambda text: text)
    calls = []

    def read(checkpoint, images, **_):
        calls.append("read")
        return [phantom(1, index).report for index in range(len(images))]

    def draw(checkpoint, prompts, seeds, size, **_):
        calls.append("draw")
        assert [phantom(1, index).impression for index in seeds] == prompts
        return np.stack([phantom(1, index, size).image for index in seeds])

    def gain(model, vae, images, prompts):
        assert images.shape == (12, 256, 256) and prompts == [phantom(1, index).impression for index in range(12)]
        return {0.9: 0.125, 0.5: 0.25}

    monkeypatch.setattr(sample, "load_model", lambda *_: checkpoint)
    monkeypatch.setattr(sample, "read", read)
    monkeypatch.setattr(sample, "draw", draw)
    monkeypatch.setattr(autoencoder, "contrast_kept", lambda *_: dict.fromkeys(KINDS, 0.75))
    monkeypatch.setattr(autoencoder, "rounded", lambda vae, images: images)
    monkeypatch.setattr(autoencoder, "psnr", lambda rebuilt, images: vae.psnr)
    monkeypatch.setattr(prompt_gain, "exchanged_prompts", gain)

    def command(*extra):
        flags = ["--weights", str(folder), "--out", str(tmp_path / "out"), "--probe", str(SHIPPED_CLASSIFIER)]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "phantom", "--n", "12", *flags, *extra])
        evaluate.main()
        return json.loads((tmp_path / "out" / "results.json").read_text())

    return SimpleNamespace(command=command, calls=calls, out=tmp_path / "out")


def test_a_perfect_model_reaches_the_ceiling_and_its_control_does_not(fake, capsys):
    results = fake.command()
    reading, drawing = results["reading"], results["drawing"]
    assert reading["generated"]["macro"] == reading["ceiling"]["macro"] == 1.0
    assert reading["generated"]["side_accuracy"] == 1.0 and reading["generated"]["side_asked"] > 0
    assert reading["control"]["macro"] < 0.6
    assert drawing["generated"] == drawing["ceiling"]
    assert drawing["prdc_generated"]["precision"][0] == drawing["prdc_generated"]["coverage"][0] == 1
    assert drawing["frechet_generated"] == pytest.approx(0, abs=1e-6) and drawing["frechet_real"] > 0
    assert results["autoencoder"] == {"contrast_kept": dict.fromkeys(KINDS, 0.75), "psnr": 40.0, "of_each_kind": 4}
    assert results["prompt_gain"] == {"n": 12, "0.9": 0.125, "0.5": 0.25}
    assert results["settings"]["n"] == 12 and "evaluate.py phantom" in results["command"]

    text = capsys.readouterr().out
    assert text.count("not a medical device") == 1
    assert "rule-based labeler (reports/labeler.py)" in text and "classifier (judges/classifier.py)" in text
    assert all(text.count(f"\n{name} ") == 2 for name in OBSERVATIONS)
    assert text.count(" 75.0%") == len(KINDS) and "40.0 dB" in text and "12.5%" in text
    page = (fake.out / "report.html").read_text()
    assert all(f">{kind}<" in page for kind in KINDS) and "40.0 dB" in page and "12.5%" in page
    _, *lines = [json.loads(line) for line in (fake.out / "reports.0.jsonl").read_text().splitlines() if line]
    assert len(lines) == 12 and lines[3]["truth"] == lines[3]["generated"] == phantom(1, 3).report
    assert sorted(f.name for f in fake.out.iterdir() if not f.name.startswith(".")) == [
        "generated",
        "report.html",
        "reports.0.jsonl",
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
        (["--strength", "0.5"], "--strength: is for edits"),
        (["--top-p", "0.9"], "--top-p: is for sampled reports"),
    ],
)
def test_bad_input_is_refused_in_one_line(fake, flags, named, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        evaluate.run(lambda: fake.command(*flags))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ") and named in error and error.count("\n") == 1


@pytest.mark.slow
def test_confidence_and_editing_stand_in_the_results_and_on_the_page(micro_folder, tmp_path, monkeypatch, capsys):
    flags = ["--n", "2", "--steps", "2", "--reports", "3", "--temperature", "1.5", "--edit", "1", "--strength", "0.5"]
    flags += ["--weights", str(micro_folder), "--out", str(tmp_path), "--probe", str(SHIPPED_CLASSIFIER)]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "phantom", *flags])
    evaluate.main()
    results = json.loads((tmp_path / "results.json").read_text())
    confidence, kinds = results["confidence"], results["editing"]["kinds"]
    assert (confidence["reports"], confidence["temperature"]) == (3, 1.5)
    assert sum(number for _, _, number in confidence["sampled"]["dots"]) == 2 * len(OBSERVATIONS)
    assert list(kinds) == list(KINDS) and kinds["mass"]["n"] == 1 and results["editing"]["strength"] == 0.5
    report, printed = (tmp_path / "report.html").read_text(), capsys.readouterr().out
    assert "Confidence: 3 sampled reports" in report and "Editing: one finding removed or added" in report
    assert "expected calibration error" in printed and "strength 0.5" in printed
