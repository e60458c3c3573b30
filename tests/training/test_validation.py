"""`train.py --validate`: what it measures, what it keeps, and that a run that was stopped keeps the same."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from test_train import run

from evaluation.metrics import area_under_roc
from training.state import read_state
from weights import load_checkpoint

FLAGS = ["--batch", 4, "--size", 64, "--validate", "phantom:10", "--look-every", 2, "--decay", 0]


def validated(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = ("step", *(name for name in records[-1] if name.startswith("validate_")))
    return [[record[name] for name in names] for record in records if "validate_loss" in record]


def test_the_area_under_the_curve_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 5, 40).astype(float), rng.integers(0, 2, 40)
    assert area_under_roc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    unknown = np.where(np.arange(40) < 5, np.nan, truth)
    assert area_under_roc(scores, unknown) == pytest.approx(roc_auc_score(truth[5:], scores[5:]))
    assert np.isnan(area_under_roc(scores, np.ones(40)))


def test_the_best_weights_are_kept_and_the_numbers_logged(micro_folder, tmp_path):
    flags = ["--stage", "2", "--init", micro_folder, "--steps", 4, "--lr", 0.5, "--out", "run", *FLAGS]
    result = run(*flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = validated(tmp_path / "run")
    assert [row[0] for row in rows] == [2, 4]
    best = min(rows, key=lambda row: row[1])
    history = load_checkpoint(tmp_path / "run/checkpoint.best").history
    assert (history[-1]["steps"], history[-1]["validate_loss"]) == (best[0], best[1])
    assert read_state(tmp_path / "run").best == best[1]
    assert "validation: loss" in result.stderr + result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "vit", "1", "2", "3"])
def test_a_stopped_run_measures_and_keeps_the_same(micro_folder, tmp_path, stage):
    flags = ["--stage", stage, "--init", micro_folder, *FLAGS]
    again = ["--stage", stage, "--resume"]  # it keeps all that is not asked for again
    for out, steps, given in (("straight", 6, flags), ("twice", 3, flags), ("twice", 6, again)):
        result = run(*given, "--steps", steps, "--out", out, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    straight, twice = (tmp_path / name for name in ("straight", "twice"))
    kept = {row[0]: row for row in validated(twice)}
    assert [kept[row[0]] for row in validated(straight)] == validated(straight)
    for name in ("model.safetensors", "vae.safetensors"):
        assert (straight / "checkpoint" / name).read_bytes() == (twice / "checkpoint" / name).read_bytes()
    if validated(straight)[-1][1] == min(row[1] for row in validated(straight)):
        best = [load_checkpoint(each / "checkpoint.best").history[-1]["steps"] for each in (straight, twice)]
        assert best == [6, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--validate", "films"], ["--validate films", "no validation split", "--hold-out"]),
        (["--validate", "nowhere"], ["--validate nowhere"]),
    ],
)
def test_what_cannot_be_validated_on_is_one_line(micro_folder, tmp_path, flags, words):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/metadata.csv").write_text("image,report\na.png,Clear lungs.\n")
    Image.new("L", (8, 8)).save(tmp_path / "films/a.png")
    result = run("--stage", "1", "--init", micro_folder, *flags, cwd=tmp_path)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert all(word in lines[0] for word in words)
    assert not (tmp_path / "out/stage-1").exists()
